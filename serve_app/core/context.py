"""The context of a request, and the HTTP headers by which gateway and proxy agree on it.

The context travels with the request to whatever computes, which gives way at its yield points.
Knows no HTTP framework and no Ray.
"""

from __future__ import annotations

import math
import re
import time
import uuid
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass, field

REQUEST_ID_HEADER = "x-request-id"

TRACE_HEADER = "traceparent"
"""The client's span (W3C Trace Context)."""

TIMEOUT_HEADER = "x-request-timeout"
"""Seconds after which the client no longer waits."""

AGE_HEADER = "x-request-age"
"""Seconds since a request that the proxy repeats first arrived; they count towards its time."""

REFUSAL_TTL_HEADER = "x-refusal-holds"
"""On a refusal: for how many seconds, and for which smallest and largest body, it holds."""

REFUSAL_TTL_S = 0.2
"""Short beside the queue: room that is made is given away five times a second."""

_REQUEST_ID = re.compile(r"[A-Za-z0-9._:/+=@-]{1,128}")


@dataclass(frozen=True, slots=True)
class RequestContext:
    """What each process that works for a request knows of it.

    Attributes:
        tenant: requests of one tenant wait for each other; tenants take turns.
        deadline: Unix time after which nobody waits for the answer; the clocks of a cluster's nodes
            agree well enough for that.
        request_id: its X-Request-ID.
        traceparent: the span that caused the work, where requests are traced.
    """

    tenant: str = field(default_factory=lambda: uuid.uuid4().hex)
    deadline: float = math.inf
    request_id: str = "-"
    traceparent: str | None = None

    def left(self) -> float:
        """Seconds until the deadline, at least 0; infinity where there is none."""
        return max(0.0, self.deadline - time.time())


CURRENT_CONTEXT: ContextVar[RequestContext | None] = ContextVar("plainmed_context", default=None)
"""The context of the request that the running task serves."""


def current_context() -> RequestContext:
    """That context; a new one without a deadline where no request is served."""
    return CURRENT_CONTEXT.get() or RequestContext()


def good_request_id(given: str) -> bool:
    """Whether a client's request id may stand in a log, where it must forge no field.

    >>> [good_request_id(one) for one in ("my-request-1", "1 caller=me", "", "a" * 129)]
    [True, False, False, False]
    """
    return _REQUEST_ID.fullmatch(given) is not None


def holds(smallest: int, largest: float) -> str:
    """The value of `REFUSAL_TTL_HEADER`; sizes in bytes.

    >>> holds(1400, 20_000.7), holds(1, float("inf"))
    ('0.2 1400 20000', '0.2 1 inf')
    """
    return f"{REFUSAL_TTL_S} {smallest} {largest if math.isinf(largest) else int(largest)}"


class Stopped(Exception):
    """Nobody wants the result any longer. No error of a text, so nothing is tried again."""


PAUSE: ContextVar[Callable[[], None]] = ContextVar("plainmed_pause", default=lambda: None)
"""Called between two passes of a model, in the thread that computes: it may take its time, or raise
`Stopped`. Set by whoever starts a computation; `asyncio.to_thread` passes it on."""


def pause() -> None:
    """Calls `PAUSE`; whoever runs a model calls it between two passes.

    Raises:
        Stopped: the computation shall end.
    """
    PAUSE.get()()
