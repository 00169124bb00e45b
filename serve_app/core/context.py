"""The context of a request, which travels with it to whatever computes: its tenant, its deadline,
its id and its span. Knows no HTTP and no Ray."""

from __future__ import annotations

import math
import re
import time
import uuid
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class RequestContext:
    """One request's, in whichever process works for it.

    Attributes:
        tenant: requests of one tenant wait for each other; tenants take turns.
        deadline: Unix time after which nobody waits for the answer; the clocks of a cluster's nodes
            agree well enough for that.
        request_id: the X-Request-ID of the request.
        traceparent: the span that asked for the work, where requests are traced.
    """

    tenant: str = field(default_factory=lambda: uuid.uuid4().hex)
    deadline: float = math.inf
    request_id: str = "-"
    traceparent: str | None = None

    def left(self) -> float:
        """Seconds until the deadline, at least 0; infinity where there is none."""
        return max(0.0, self.deadline - time.time())


CURRENT_CONTEXT: ContextVar[RequestContext | None] = ContextVar("plainmed_ticket", default=None)
"""The context of the request that the running task serves."""


def current_context() -> RequestContext:
    """That context; a new one without a deadline where no request is served."""
    return CURRENT_CONTEXT.get() or RequestContext()


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


_REQUEST_ID = re.compile(r"[A-Za-z0-9._:/+=@-]{1,128}")


def good_request_id(given: str) -> bool:
    """Whether what a client calls its request may stand in a log, where it must forge no field.

    >>> [good_request_id(one) for one in ("my-request-1", "1 caller=me", "", "a" * 129)]
    [True, False, False, False]
    """
    return _REQUEST_ID.fullmatch(given) is not None
