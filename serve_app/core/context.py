"""The context of a request, which travels with it to whatever computes: its tenant, its deadline,
its id and its span. Knows no HTTP and no Ray."""

from __future__ import annotations

import math
import time
import uuid
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
