"""Repeats a refusal for a moment where requests come in, so that under overload most of them cost
no hop to the application.

An ASGI middleware for Ray Serve's HTTP proxy. The gateway says with a refusal for which requests of
the same caller it would say the same now (`HOLD_HEADER`); for as long as that holds the proxy says
it. Knows no settings and no Ray; Serve finds `middlewares` by the environment variable `CALLBACK`.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

from starlette.datastructures import Headers
from starlette.middleware import Middleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

CALLBACK = ("RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH", "serve_app.refusals.middlewares")
"""The variable of Serve's proxies, and what it has to be."""

HOLD_HEADER = "x-refusal-holds"
"""Of a refusal: seconds, and the smallest and the largest body in bytes, for which it holds."""

HOLD_S = 0.2
"""Short beside the queue: room that is made is given away five times a second."""

MOST_HELD = 1024
"""Callers and paths; what is sent by strangers must not fill memory."""

_Key = tuple[str, str, str]


def holds(smallest: int, largest: float) -> str:
    """The value of `HOLD_HEADER`.

    >>> holds(1400, 20_000.7), holds(1, float("inf"))
    ('0.2 1400 20000', '0.2 1 inf')
    """
    return f"{HOLD_S} {smallest} {largest if math.isinf(largest) else int(largest)}"


@dataclass(frozen=True, slots=True)
class _Held:
    """A refusal: until when, for which sizes, and its two messages."""

    until: float
    smallest: float
    largest: float
    start: Message
    body: Message


class RepeatRefusals:
    """The middleware.

    Args:
        app: Serve's proxy.
        clock: seconds, monotonic.
    """

    def __init__(self, app: ASGIApp, clock: Callable[[], float] = time.monotonic) -> None:
        self._app, self._clock = app, clock
        self._held: dict[_Key, _Held] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers by itself, or passes the request on and looks at its answer."""
        if scope["type"] != "http" or scope["method"] != "POST":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        # Who calls decides too: a caller waits for its own requests, others do not.
        key = (scope["path"], headers.get("authorization", ""), headers.get("x-api-key", ""))
        declared = headers.get("content-length", "")
        held = self._held.get(key)
        if held is not None and declared.isdecimal() and self._fits(key, held, int(declared)):
            await send({**held.start, "headers": list(held.start["headers"])})
            await send(held.body)
            return
        await self._app(scope, receive, self._watched(key, send))

    def _fits(self, key: _Key, held: _Held, size: int) -> bool:
        if self._clock() >= held.until:
            self._held.pop(key, None)
            return False
        return held.smallest <= size <= held.largest

    def _watched(self, key: _Key, send: Send) -> Send:
        """Sends on, and keeps a refusal that holds."""
        refusal: tuple[list[float], Message] | None = None

        async def watched(message: Message) -> None:
            nonlocal refusal
            if message["type"] == "http.response.start" and message["status"] == 503:
                found = Headers(raw=message["headers"]).get(HOLD_HEADER)
                if found is not None:
                    own = HOLD_HEADER.encode()
                    kept = [one for one in message["headers"] if one[0].lower() != own]
                    message = {**message, "headers": kept}
                    refusal = ([float(part) for part in found.split()], {**message})
            elif message["type"] == "http.response.body" and refusal is not None:
                (seconds, smallest, largest), start = refusal
                refusal = None
                if not message.get("more_body", False):
                    self._keep(
                        key, _Held(self._clock() + seconds, smallest, largest, start, message)
                    )
            await send(message)

        return watched

    def _keep(self, key: _Key, held: _Held) -> None:
        if len(self._held) >= MOST_HELD:
            self._held.clear()
        self._held[key] = held


def middlewares() -> list[Middleware]:
    """What Serve puts around its proxy."""
    return [Middleware(RepeatRefusals)]
