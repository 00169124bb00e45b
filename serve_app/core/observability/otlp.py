"""Sends spans to an OpenTelemetry collector by OTLP over HTTP, from a thread of its own.

The provider is not made global, so nothing else in the process is traced. Exceptions are never
recorded: their messages may quote a text.
"""

from __future__ import annotations

import os
import random
import threading
import uuid
from typing import Any

from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Span, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import (
    ALWAYS_ON,
    ParentBased,
    SamplingResult,
    TraceIdRatioBased,
)

from serve_app import __version__
from serve_app.core.observability.tracing import RequestTracer

PATH = "/v1/traces"
"""OTLP's own, below the endpoint."""

CLOSE_S = 5.0
"""Longest time to send a process's last spans."""

_GATEWAY = "Gateway"


class _RandomShare(TraceIdRatioBased):
    """Samples a share of the traces, whatever their ids, which clients choose."""

    def should_sample(
        self, parent_context: Context | None, trace_id: int, *args: Any, **more: Any
    ) -> SamplingResult:
        """See `Sampler`."""
        return super().should_sample(parent_context, random.getrandbits(64), *args, **more)


class _NameDeployment(SpanProcessor):
    """Writes the deployment on every span."""

    def __init__(self, deployment: str) -> None:
        self._deployment = deployment

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        """See `SpanProcessor`."""
        span.set_attribute("plainmed.deployment", self._deployment)


def otlp_tracer(endpoint: str, ratio: float, deployment: str) -> RequestTracer:
    """A tracer that sends its spans to `endpoint`.

    OpenTelemetry's own variables hold for the rest: OTEL_EXPORTER_OTLP_HEADERS for a collector
    that wants a key, OTEL_SERVICE_NAME, OTEL_RESOURCE_ATTRIBUTES, OTEL_BSP_SCHEDULE_DELAY.

    Args:
        endpoint: root of the collector, such as http://127.0.0.1:4318.
        ratio: share of the traces to send, in [0, 1]. The gateway also applies it to traces that a
            client wants sent, as it decides before it knows who calls, and a stranger must not fill
            the collector. Traces that a client does not want sent are not.
        deployment: of this process; all but the gateway follow the gateway's decision.
    """
    name = os.environ.get("OTEL_SERVICE_NAME", "plainmed")
    resource = {
        "service.name": name,
        "service.version": __version__,
        "service.instance.id": uuid.uuid4().hex,
    }
    wanted = _RandomShare(ratio) if deployment == _GATEWAY else ALWAYS_ON
    provider = TracerProvider(
        resource=Resource.create(resource),
        sampler=ParentBased(TraceIdRatioBased(ratio), remote_parent_sampled=wanted),
    )
    provider.add_span_processor(_NameDeployment(deployment))
    exporter = OTLPSpanExporter(endpoint=endpoint.rstrip("/") + PATH)
    provider.add_span_processor(BatchSpanProcessor(exporter))

    def close() -> None:
        # Shutting down would wait for 30 s in the event loop of a replica that stops.
        sending = threading.Thread(target=provider.shutdown, daemon=True)
        sending.start()
        sending.join(CLOSE_S)

    return RequestTracer(provider.get_tracer("plainmed", __version__), close)
