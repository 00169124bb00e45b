"""Spans of a request across processes, where a setting asks for them.

Knows what a span is told: a name, its parent, numbers and short names, never a text. `otlp`
sends them; without TRACES_ENDPOINT nobody does, and a span costs one call.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Protocol

from serve_app.core.context import RequestContext

Attributes = Mapping[str, str | bool | int | float]


class Span(Protocol):
    """One piece of work under way."""

    @property
    def traceparent(self) -> str | None:
        """What names it to the work it starts, as the W3C header; None where nothing is traced."""
        ...

    def set(self, attributes: Attributes) -> None:
        """Adds what has become known; an `http.response.status_code` of 5xx marks an error."""
        ...


class Tracer(Protocol):
    """Where spans go."""

    def span(
        self, name: str, parent: str | None, attributes: Attributes
    ) -> AbstractContextManager[Span]:
        """The block as a span; of an error that leaves it, the kind is told, not the message.

        Args:
            name: of the work, from the code.
            parent: the traceparent of what asked for it; None, or a malformed one: a new trace.
            attributes: numbers and short names.
        """
        ...

    def past(
        self, name: str, parent: str | None, began: float, ended: float, attributes: Attributes
    ) -> None:
        """A span of work that is over; times in seconds since 1970."""
        ...

    def close(self) -> None:
        """Sends what is left; spans that end later are not sent. Calling it again is free."""
        ...


@dataclass(frozen=True, slots=True)
class _NoSpan:
    traceparent: str | None = None

    def set(self, attributes: Attributes) -> None:
        """Nothing."""


_NO_SPAN = nullcontext(_NoSpan())


class Untraced:
    """Without the setting."""

    def span(
        self, name: str, parent: str | None, attributes: Attributes
    ) -> AbstractContextManager[Span]:
        """See `Tracer`."""
        return _NO_SPAN

    def past(
        self, name: str, parent: str | None, began: float, ended: float, attributes: Attributes
    ) -> None:
        """See `Tracer`."""

    def close(self) -> None:
        """See `Tracer`."""


def handed_on(context: RequestContext, span: Span) -> RequestContext:
    """The context for work that `span` starts."""
    return context if span.traceparent is None else replace(context, traceparent=span.traceparent)
