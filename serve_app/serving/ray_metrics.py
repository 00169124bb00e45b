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
        self._made: dict[str, Any] = {}
        self._gauges: dict[tuple[str, tuple[tuple[str, str], ...]], float] = {}
        self._lock = threading.Lock()  # a batch is recorded in its thread
        threading.Thread(target=self._again, name="gauges", daemon=True).start()

    def _again(self) -> None:
        while True:
            time.sleep(AGAIN_S)
            with self._lock:
                for (name, labels), value in self._gauges.items():
                    self._made[name].set(value, tags=dict(labels))

    def record(self, name: str, value: float = 1.0, **labels: str) -> None:
        """See `serve_app.core.observability.instruments.Telemetry`."""
        spec = check(name, labels)
        with self._lock:
            if name not in self._made:
                self._made[name] = _make(name, spec)
            metric = self._made[name]
            if spec.kind == "gauge":
                self._gauges[name, tuple(labels.items())] = value
                metric.set(value, tags=labels)
        if spec.kind == "counter" and value > 0:  # Ray refuses to add nothing
            metric.inc(value, tags=labels)
        if spec.kind == "histogram":
            metric.observe(value, tags=labels)


def _make(name: str, spec: Spec) -> Any:
    if spec.kind == "counter":
        return metrics.Counter(name, description=spec.help, tag_keys=spec.labels)
    if spec.kind == "gauge":
        return metrics.Gauge(name, description=spec.help, tag_keys=spec.labels)
    return metrics.Histogram(
        name, description=spec.help, boundaries=list(spec.buckets), tag_keys=spec.labels
    )
