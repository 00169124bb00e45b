"""The HTTP headers that the gateway and the middleware around Serve's proxy agree on."""

from __future__ import annotations

import math
import re

REQUEST_ID_HEADER = "x-request-id"

TRACE_HEADER = "traceparent"
"""The client's span, as W3C Trace Context has it."""


TIMEOUT_HEADER = "x-request-timeout"
"""Seconds after which the client no longer waits."""


REFUSAL_TTL_HEADER = "x-refusal-holds"
"""Of a refusal: seconds, and the smallest and the largest body in bytes, for which it holds."""


REFUSAL_TTL_S = 0.2
"""Short beside the queue: room that is made is given away five times a second."""


def holds(smallest: int, largest: float) -> str:
    """The value of `REFUSAL_TTL_HEADER`.

    >>> holds(1400, 20_000.7), holds(1, float("inf"))
    ('0.2 1400 20000', '0.2 1 inf')
    """
    return f"{REFUSAL_TTL_S} {smallest} {largest if math.isinf(largest) else int(largest)}"


_REQUEST_ID = re.compile(r"[A-Za-z0-9._:/+=@-]{1,128}")


def good_request_id(given: str) -> bool:
    """Whether what a client calls its request may stand in a log, where it must forge no field.

    >>> [good_request_id(one) for one in ("my-request-1", "1 caller=me", "", "a" * 129)]
    [True, False, False, False]
    """
    return _REQUEST_ID.fullmatch(given) is not None


AGE_HEADER = "x-request-age"
"""Of a request that is repeated: seconds since it came, which count to its time."""
