"""What travels with a request from the gateway to whatever computes: whose share of the machine it
uses, until when anybody waits for it, and what it is called in logs. Knows no HTTP and no Ray."""

from __future__ import annotations

import math
import time
import uuid
from contextvars import ContextVar
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Ticket:
    """Of one request, in whichever process works for it.

    Attributes:
        share: requests of one share wait for each other; shares take turns.
        deadline: Unix time after which nobody waits for the answer. Clocks of a cluster's nodes
            differ by less than what matters here.
        request_id: the X-Request-ID of the request.
        traceparent: the span that asked for the work, where requests are traced.
    """

    share: str = field(default_factory=lambda: uuid.uuid4().hex)
    deadline: float = math.inf
    request_id: str = "-"
    traceparent: str | None = None

    def left(self) -> float:
        """Seconds until the deadline, at least 0; infinity where there is none."""
        return max(0.0, self.deadline - time.time())


CURRENT: ContextVar[Ticket | None] = ContextVar("plainmed_ticket", default=None)
"""The ticket of the request that the running task serves."""


def current() -> Ticket:
    """That ticket; a new one without a deadline where no request is served."""
    return CURRENT.get() or Ticket()
