"""What a replica tells about its work: metrics through Ray, traces, and logs without texts.

Ray exports the metrics on every node. It drops a gauge some ten seconds after it was set, so the
last values are set again and again. OpenTelemetry's SDK is imported only where traces are sent.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

from opentelemetry.trace import Span
from ray.serve import metrics

from serve_app.core.context import RequestContext
from serve_app.core.errors import ConfigError, PlainMedError
from serve_app.core.observability.instruments import Spec, Telemetry, check
from serve_app.core.observability.log_redaction import keep_texts_out
from serve_app.core.observability.tracing import RequestTracer
from serve_app.core.settings import Settings
from serve_app.serving.scheduling.compute_thread import failure

REFRESH_S = 5.0
"""Seconds between two settings of a gauge."""


class ServeTelemetry:
    """A replica's `Telemetry`; Serve labels each series with application, deployment, replica."""

    def __init__(self) -> None:
        self._made: dict[tuple[str, ...], Any] = {}
        self._gauges: dict[tuple[metrics.Gauge, tuple[tuple[str, str], ...]], float] = {}
        self._lock = threading.Lock()  # batches are recorded in their threads
        threading.Thread(target=self._refresh, name="gauges", daemon=True).start()

    def _refresh(self) -> None:
        while True:
            time.sleep(REFRESH_S)
            with self._lock:
                for (metric, labels), value in self._gauges.items():
                    metric.set(value, tags=dict(labels))

    def record(self, name: str, value: float = 1.0, **labels: str) -> None:
        """See `serve_app.core.observability.instruments.Telemetry`."""
        key = (name, *labels)
        with self._lock:
            if key not in self._made:  # name and labels are checked only once
                self._made[key] = _make(name, check(name, labels))
            metric = self._made[key]
            if isinstance(metric, metrics.Gauge):
                self._gauges[metric, tuple(labels.items())] = value
                metric.set(value, tags=labels)
        if isinstance(metric, metrics.Histogram):
            metric.observe(value, tags=labels)
        elif isinstance(metric, metrics.Counter) and value > 0:  # Ray refuses to add 0
            metric.inc(value, tags=labels)


def _make(name: str, spec: Spec) -> Any:
    options: dict[str, Any] = {"description": spec.help, "tag_keys": spec.labels}
    if spec.kind == "histogram":
        return metrics.Histogram(name, boundaries=list(spec.buckets), **options)
    return (metrics.Counter if spec.kind == "counter" else metrics.Gauge)(name, **options)


def check_traces(settings: Settings) -> None:
    """Raises `ConfigError` where the settings ask for traces and the SDK is not installed."""
    if settings.traces_endpoint is not None and find_spec("opentelemetry.exporter.otlp") is None:
        raise ConfigError(
            "TRACES_ENDPOINT needs the extra `traces`: pip install 'plainmed[traces]', or unset it"
        )


def load_tracer(settings: Settings, part: str) -> RequestTracer:
    """The tracer of one process; `part` names its deployment.

    Raises:
        ConfigError: as `check_traces`.
    """
    if settings.traces_endpoint is None:
        return RequestTracer()
    check_traces(settings)
    from serve_app.core.observability.otlp import otlp_tracer

    return otlp_tracer(settings.traces_endpoint, settings.traces_ratio, part)


class Observed:
    """Base of the deployments: metrics, traces, and no text in the log."""

    _telemetry: Telemetry
    _tracer: RequestTracer

    def _observe(self, settings: Settings | None, part: str) -> None:
        """To be called first when a replica starts; without settings nothing is traced."""
        keep_texts_out()
        self._telemetry = ServeTelemetry()
        self._tracer = RequestTracer() if settings is None else load_tracer(settings, part)

    @contextmanager
    def _working(
        self, name: str, context: RequestContext, sizes: Sequence[int], model: str | None = None
    ) -> Iterator[Span]:
        """The span of a request's work on texts of these sizes, in characters.

        Raises:
            MetricFailed: for any error that is not ours: Ray logs what leaves a replica.
        """
        about: dict[str, str | bool | int | float] = {
            "plainmed.request_id": context.request_id,
            "plainmed.items": len(sizes),
            "plainmed.characters": sum(sizes),
        }
        if model is not None:
            about["plainmed.model"] = model
        try:
            with self._tracer.span(name, context.traceparent, about) as span:
                yield span
        except PlainMedError:
            raise
        except Exception as error:
            raise failure(error) from None

    def __del__(self) -> None:
        # Serve calls it when it stops a replica in peace; after a failed start there is no tracer.
        if tracer := getattr(self, "_tracer", None):
            tracer.close()
