"""Where the time of a request goes: its stages, told in its log line, and its spans, sent to a
collector where TRACES_ENDPOINT asks for them (`otlp`).

Both are noted where the work is done and joined where the request is answered. Names come from the
code, values are numbers and short names: never a text. Knows no HTTP and no Ray.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from typing import TypeVar

from opentelemetry.context import Context
from opentelemetry.trace import (
    NoOpTracer,
    Span,
    SpanKind,
    StatusCode,
    Tracer,
    set_span_in_context,
)
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from serve_app.core.context import RequestContext

T = TypeVar("T")
Attributes = Mapping[str, str | bool | int | float]

QUEUE = "_queue"
"""Suffix of waiting times. Of several the longest counts; other stages add up."""

_STAGES: ContextVar[dict[str, float] | None] = ContextVar("plainmed_stages", default=None)
_PROPAGATOR = TraceContextTextMapPropagator()


class Timed(list[T]):
    """Results, the seconds of the stages they went through, and what computed them.

    Attributes:
        seconds: by stage.
        model, device: of the replica that computed them; None where it does not say.
    """

    def __init__(
        self,
        results: Iterable[T] = (),
        seconds: Mapping[str, float] | None = None,
        model: str | None = None,
        device: str | None = None,
    ) -> None:
        super().__init__(results)
        self.seconds = dict(seconds or {})
        self.model, self.device = model, device


def gather() -> dict[str, float]:
    """Seconds by stage that the running request notes from here on, in tasks it starts too."""
    noted: dict[str, float] = {}
    _STAGES.set(noted)
    return noted


def note(name: str, seconds: float) -> None:
    """Adds to a stage of the running request; does nothing outside of one."""
    noted = _STAGES.get()
    if noted is not None:
        before = noted.get(name, 0.0)
        noted[name] = max(before, seconds) if name.endswith(QUEUE) else before + seconds


def note_all(answer: object) -> None:
    """Notes the stages of an answer from another process, where it has any."""
    if isinstance(answer, Timed):
        for name, seconds in answer.seconds.items():
            note(name, seconds)


@contextmanager
def stage(name: str) -> Iterator[None]:
    """Notes how long the block takes, also when it raises."""
    started = time.perf_counter()
    try:
        yield
    finally:
        note(name, time.perf_counter() - started)


async def timed(name: str, work: Awaitable[T]) -> T:
    """Awaits `work` as a stage."""
    with stage(name):
        return await work


@dataclass(frozen=True)
class RequestTracer:
    """Makes the spans of one process; without arguments none is recorded.

    Attributes:
        tracer: OpenTelemetry's.
        close: sends what is left; later spans are lost. May be called again.
    """

    tracer: Tracer = field(default_factory=NoOpTracer)
    close: Callable[[], None] = lambda: None

    @contextmanager
    def span(
        self,
        name: str,
        parent: str | None,
        attributes: Attributes,
        kind: SpanKind = SpanKind.INTERNAL,
    ) -> Iterator[Span]:
        """The block as a span. Of an error that leaves it only the kind is recorded.

        Args:
            name: of the work, from the code.
            parent: traceparent of its cause; None or malformed: it begins a trace.
            attributes: numbers and short names.
            kind: SERVER for what answers a client.
        """
        span = self.tracer.start_span(name, _context(parent), kind, dict(attributes))
        try:
            yield span
        except BaseException as error:  # cancellation too; raised again
            span.set_status(StatusCode.ERROR, type(error).__name__)
            raise
        finally:
            span.end()

    def past(
        self, name: str, parent: str | None, began: float, ended: float, attributes: Attributes
    ) -> None:
        """Records a span of work that is over; times in seconds since 1970."""
        context, start = _context(parent), int(began * 1e9)
        span = self.tracer.start_span(name, context, attributes=dict(attributes), start_time=start)
        span.end(int(ended * 1e9))


def _context(parent: str | None) -> Context:
    # Begun empty: spans that a library opens in this process must not become parents.
    return _PROPAGATOR.extract({"traceparent": parent or ""}, Context())


def traceparent(span: Span) -> str | None:
    """The W3C header that names `span` as a parent; None where nothing is traced."""
    header: dict[str, str] = {}
    _PROPAGATOR.inject(header, set_span_in_context(span, Context()))
    return header.get("traceparent")


def handed_on(context: RequestContext, span: Span) -> RequestContext:
    """The context for work that `span` starts."""
    return replace(context, traceparent=traceparent(span))
