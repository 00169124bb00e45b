"""Sends spans to an OpenTelemetry collector by OTLP over HTTP, from a thread of its own.

The only module that knows OpenTelemetry. It keeps its provider to itself, so nothing else in the
process is traced, and never records an exception: its message may quote a text.
"""

from __future__ import annotations

import os
import random
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import (
    ALWAYS_ON,
    ParentBased,
    SamplingResult,
    TraceIdRatioBased,
)
from opentelemetry.trace import Span, SpanContext, SpanKind, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from serve_app import __version__
from serve_app.core.observability.tracing import Attributes

PATH = "/v1/traces"
"""Below the endpoint; OTLP's own."""

CLOSE_S = 5.0
"""Longest time for the last spans of a process."""

_GATEWAY = "Gateway"
_PROPAGATOR = TraceContextTextMapPropagator()


@dataclass(frozen=True, slots=True)
class _OtlpSpan:
    span: Span
    traceparent: str

    def set(self, attributes: Attributes) -> None:
        self.span.set_attributes(dict(attributes))
        # As OpenTelemetry has it for servers: a 4xx is the client's error, and none of ours.
        status = attributes.get("http.response.status_code")
        if isinstance(status, int) and status >= 500:
            self.span.set_status(StatusCode.ERROR, str(attributes.get("plainmed.error_code", "")))


class _Chance(TraceIdRatioBased):
    """Sends that share, whatever the trace's id: a client chooses that itself."""

    def should_sample(
        self, parent_context: Context | None, trace_id: int, *args: Any, **more: Any
    ) -> SamplingResult:
        """See `Sampler`."""
        return super().should_sample(parent_context, random.getrandbits(64), *args, **more)


class OtlpTracer:
    """A `serve_app.core.observability.tracing.Tracer`.

    OpenTelemetry's own variables hold for the rest: OTEL_EXPORTER_OTLP_HEADERS for a collector
    that wants a key, OTEL_SERVICE_NAME, OTEL_RESOURCE_ATTRIBUTES, OTEL_BSP_SCHEDULE_DELAY.

    Args:
        endpoint: root of the collector, such as http://127.0.0.1:4318.
        ratio: share of the traces which are sent, in [0, 1]. In the gateway of those, too, that a
            client wants sent: who may call is decided after the span has begun, and a stranger
            must not fill the collector. What a client does not want sent is not.
        part: the deployment of this process; elsewhere than in the gateway, the gateway's decision
            holds.
    """

    def __init__(self, endpoint: str, ratio: float, part: str) -> None:
        self._part = part
        resource = Resource.create(
            {
                "service.name": os.environ.get("OTEL_SERVICE_NAME", "plainmed"),
                "service.version": __version__,
                "service.instance.id": uuid.uuid4().hex,
            }
        )
        wanted = _Chance(ratio) if part == _GATEWAY else ALWAYS_ON
        sampler = ParentBased(TraceIdRatioBased(ratio), remote_parent_sampled=wanted)
        self._provider = TracerProvider(resource=resource, sampler=sampler)
        exporter = OTLPSpanExporter(endpoint=endpoint.rstrip("/") + PATH)
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("plainmed", __version__)

    @contextmanager
    def span(self, name: str, parent: str | None, attributes: Attributes) -> Iterator[_OtlpSpan]:
        """See `Tracer`."""
        span = self._start(name, parent, attributes, None)
        try:
            yield _OtlpSpan(span, _header(span.get_span_context()))
        except BaseException as error:  # a cancelled request is told as well; all is raised again
            span.set_status(StatusCode.ERROR, type(error).__name__)
            raise
        finally:
            span.end()

    def past(
        self, name: str, parent: str | None, began: float, ended: float, attributes: Attributes
    ) -> None:
        """See `Tracer`."""
        self._start(name, parent, attributes, began).end(int(ended * 1e9))

    def close(self) -> None:
        """See `Tracer`. A collector that is away keeps nobody longer than CLOSE_S."""
        # It would wait for 30 s, in the event loop of a replica that is to end.
        sending = threading.Thread(target=self._provider.shutdown, daemon=True)
        sending.start()
        sending.join(CLOSE_S)

    def _start(
        self, name: str, parent: str | None, attributes: Attributes, began: float | None
    ) -> Span:
        # An empty context: spans of a library in this process must not become parents.
        context = Context()
        if parent is not None:
            context = _PROPAGATOR.extract({"traceparent": parent}, context)
        return self._tracer.start_span(
            name,
            context=context,
            kind=SpanKind.SERVER if self._part == _GATEWAY else SpanKind.INTERNAL,
            attributes={"plainmed.deployment": self._part, **attributes},
            start_time=None if began is None else int(began * 1e9),
        )


def _header(context: SpanContext) -> str:
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"
