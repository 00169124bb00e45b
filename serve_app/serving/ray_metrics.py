"""Records the application's metrics through Ray, which exports them on every node.

Ray forgets a gauge some ten seconds after it was set, so the last values are set again and again.
"""

from __future__ import annotations

import threading
import time
from typing import Any

from ray.serve import metrics

from serve_app.core.observability.instruments import Spec, check

AGAIN_S = 5.0
"""Time between two settings of a gauge."""


class ServeTelemetry:
    """Made in a replica; Serve adds its application, deployment and replica to every series."""

    def __init__(self) -> None:
        self._made: dict[tuple[str, ...], Any] = {}
        self._gauges: dict[tuple[metrics.Gauge, tuple[tuple[str, str], ...]], float] = {}
        self._lock = threading.Lock()  # a batch is recorded in its thread
        threading.Thread(target=self._again, name="gauges", daemon=True).start()

    def _again(self) -> None:
        while True:
            time.sleep(AGAIN_S)
            with self._lock:
                for (metric, labels), value in self._gauges.items():
                    metric.set(value, tags=dict(labels))

    def record(self, name: str, value: float = 1.0, **labels: str) -> None:
        """See `serve_app.core.observability.instruments.Telemetry`."""
        key = (name, *labels)
        with self._lock:
            if key not in self._made:  # its name and labels are checked this once
                self._made[key] = _make(name, check(name, labels))
            metric = self._made[key]
            if isinstance(metric, metrics.Gauge):
                self._gauges[metric, tuple(labels.items())] = value
                metric.set(value, tags=labels)
        if isinstance(metric, metrics.Histogram):
            metric.observe(value, tags=labels)
        elif isinstance(metric, metrics.Counter) and value > 0:  # Ray refuses to add nothing
            metric.inc(value, tags=labels)


def _make(name: str, spec: Spec) -> Any:
    if spec.kind == "counter":
        return metrics.Counter(name, description=spec.help, tag_keys=spec.labels)
    if spec.kind == "gauge":
        return metrics.Gauge(name, description=spec.help, tag_keys=spec.labels)
    return metrics.Histogram(
        name, description=spec.help, boundaries=list(spec.buckets), tag_keys=spec.labels
    )
