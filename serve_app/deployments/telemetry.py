"""Records the application's metrics through Ray, which exports them on every node."""

from __future__ import annotations

from typing import Any

from ray.serve import metrics

from serve_app.telemetry import Spec, check


class ServeTelemetry:
    """Made in a replica; Serve adds its application, deployment and replica to every series."""

    def __init__(self) -> None:
        self._made: dict[str, Any] = {}

    def record(self, name: str, value: float = 1.0, **labels: str) -> None:
        """See `serve_app.telemetry.Telemetry`."""
        spec = check(name, labels)
        if name not in self._made:
            self._made[name] = _make(name, spec)
        metric = self._made[name]
        if spec.kind == "counter":
            if value > 0:  # Ray refuses to add nothing
                metric.inc(value, tags=labels)
        elif spec.kind == "gauge":
            metric.set(value, tags=labels)
        else:
            metric.observe(value, tags=labels)


def _make(name: str, spec: Spec) -> Any:
    if spec.kind == "counter":
        return metrics.Counter(name, description=spec.help, tag_keys=spec.labels)
    if spec.kind == "gauge":
        return metrics.Gauge(name, description=spec.help, tag_keys=spec.labels)
    return metrics.Histogram(
        name, description=spec.help, boundaries=list(spec.buckets), tag_keys=spec.labels
    )
