"""Middleware in front of Ray Serve's HTTP proxy.

It caches refusals for a moment, so that under overload most of them cost no hop to the application:
with a refusal the gateway says which requests of the same caller it would refuse as well
(`REFUSAL_TTL_HEADER`), and for that long they are refused here. It removes headers that would give
Serve orders and ids that would forge its log, and adds `nosniff` to Serve's own answers.

Knows no settings, and of Ray only these headers; Serve finds `middlewares` by the environment
variable `CALLBACK`.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass

from starlette.datastructures import Headers, MutableHeaders
from starlette.middleware import Middleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serve_app.core.headers import AGE_HEADER, REFUSAL_TTL_HEADER, good_request_id
from serve_app.serving.proxy.retry import RetryUnanswered

CALLBACK = (
    "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH",
    "serve_app.serving.proxy.middleware.middlewares",
)
"""The variable of Serve's proxies, and what it has to be."""


MAX_CACHED_REFUSALS = 1024
"""Callers and paths; what is sent by strangers must not fill memory."""

ORDERS = frozenset(
    {b"x-request-timeout-seconds", b"x-request-disconnect-disabled", AGE_HEADER.encode()}
)
"""By the first two a client would switch off Serve's time limit and its notice that a client is
gone; they are meant for a proxy of Serve's own. The third is said here (`retry`)."""

_ID = "x-request-id"
_RAW_ID = _ID.encode()

_Key = tuple[str, str, str]


@dataclass(frozen=True, slots=True)
class _Held:
    """A refusal: until when, for which sizes, and its two messages."""

    until: float
    smallest: float
    largest: float
    start: Message
    body: Message


class ProxyMiddleware:
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
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        scope, identity = _cleaned(scope)
        if scope["type"] != "http" or scope["method"] != "POST":
            await self._app(scope, receive, _nosniff(send))
            return
        headers = Headers(scope=scope)
        # Who calls decides too: a caller waits for its own requests, others do not.
        key = (scope["path"], headers.get("authorization", ""), headers.get("x-api-key", ""))
        declared = headers.get("content-length", "")
        held = self._held.get(key)
        if held is not None and declared.isdecimal() and self._fits(key, held, int(declared)):
            own = [*held.start["headers"], (_RAW_ID, identity.encode())]
            await send({**held.start, "headers": own})
            await send(held.body)
            return
        await self._app(scope, receive, _nosniff(self._watched(key, send)))

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
                found = Headers(raw=message["headers"]).get(REFUSAL_TTL_HEADER)
                if found is not None:
                    del MutableHeaders(scope=message)[REFUSAL_TTL_HEADER]
                    refusal = ([float(part) for part in found.split()], _for_others(message))
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
        if len(self._held) >= MAX_CACHED_REFUSALS:
            self._held.clear()
        self._held[key] = held


def _cleaned(scope: Scope) -> tuple[Scope, str]:
    """The request without `ORDERS` and with exactly one id, which is given too.

    It is the client's where it gave one that may stand in a log, else a new one: Serve's log has it
    as it comes, and of several Serve and the gateway would take different ones.
    """
    given = Headers(scope=scope).get(_ID, "")
    identity = given if good_request_id(given) else str(uuid.uuid4())
    headers = [one for one in scope["headers"] if one[0] not in ORDERS and one[0] != _RAW_ID]
    return {**scope, "headers": [*headers, (_RAW_ID, identity.encode())]}, identity


def _nosniff(send: Send) -> Send:
    """Sends on; what Serve answers by itself is not to be taken for a page either."""

    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            MutableHeaders(scope=message).setdefault("x-content-type-options", "nosniff")
        await send(message)

    return sending


def _for_others(start: Message) -> Message:
    """The first message of a refusal, without what is of the one request that it answered."""
    return {**start, "headers": [one for one in start["headers"] if one[0].lower() != _RAW_ID]}


def middlewares() -> list[Middleware]:
    """What Serve puts around its proxy, the innermost first."""
    return [Middleware(RetryUnanswered), Middleware(ProxyMiddleware)]
