"""Middleware in front of Ray Serve's HTTP proxy.

It caches refusals for a moment, so that under overload most of them cost no hop to the application:
with a refusal the gateway says which requests of the same caller it would refuse as well
(`REFUSAL_TTL_HEADER`), and for that long they are refused here. It removes headers that would
control Serve and ids that would forge its log, and adds `nosniff` to Serve's own answers.

Knows no settings, and of Ray only these headers. Serve finds `middlewares` by the environment
variable in `CALLBACK`.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass

from starlette.datastructures import Headers, MutableHeaders
from starlette.middleware import Middleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serve_app.core.context import AGE_HEADER, REFUSAL_TTL_HEADER, good_request_id
from serve_app.serving.proxy.protocol import install
from serve_app.serving.proxy.retry import RetryUnanswered

CALLBACK = (
    "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH",
    "serve_app.serving.proxy.middleware.middlewares",
)
"""The variable of Serve's proxies, and what it has to be."""

MAX_CACHED_REFUSALS = 1024
"""Callers and paths; strangers must not fill memory."""

CONTROL_HEADERS = frozenset(
    {b"x-request-timeout-seconds", b"x-request-disconnect-disabled", AGE_HEADER.encode()}
)
"""Removed from requests. With the first two, meant for a proxy of Serve's own, a client would
switch off Serve's time limit and its notice of a closed connection. The third is set by `retry`."""

_ID = "x-request-id"
_RAW_ID = _ID.encode()

_Key = tuple[str, str, str]


@dataclass(frozen=True, slots=True)
class _Refusal:
    """Two messages that answer bodies of these sizes until this time."""

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
        self._refusals: dict[_Key, _Refusal] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers from the cache, or passes the request on and caches its refusal."""
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        scope, identity = _cleaned(scope)
        if scope["type"] != "http" or scope["method"] != "POST":
            await self._app(scope, receive, _nosniff(send))
            return
        headers = Headers(scope=scope)
        # Per caller: a caller waits for its own requests, others do not.
        key = (scope["path"], headers.get("authorization", ""), headers.get("x-api-key", ""))
        if refusal := self._find(key, headers.get("content-length", "")):
            own = [*refusal.start["headers"], (_RAW_ID, identity.encode())]
            await send({**refusal.start, "headers": own})
            await send(refusal.body)
            return
        await self._app(scope, receive, _nosniff(self._caching(key, send)))

    def _find(self, key: _Key, content_length: str) -> _Refusal | None:
        """The cached refusal of a request of that caller, path and size."""
        refusal = self._refusals.get(key)
        if refusal is None or not content_length.isdecimal():
            return None
        if self._clock() >= refusal.until:
            del self._refusals[key]
            return None
        return refusal if refusal.smallest <= int(content_length) <= refusal.largest else None

    def _caching(self, key: _Key, send: Send) -> Send:
        """Sends on, and caches a refusal that says how long it holds."""
        pending: tuple[list[float], Message] | None = None

        async def caching(message: Message) -> None:
            nonlocal pending
            if message["type"] == "http.response.start" and message["status"] == 503:
                found = Headers(raw=message["headers"]).get(REFUSAL_TTL_HEADER)
                if found is not None:
                    del MutableHeaders(scope=message)[REFUSAL_TTL_HEADER]
                    pending = ([float(part) for part in found.split()], _without_id(message))
            elif message["type"] == "http.response.body" and pending is not None:
                (seconds, smallest, largest), start = pending
                pending = None
                if not message.get("more_body", False):
                    if len(self._refusals) >= MAX_CACHED_REFUSALS:
                        self._refusals.clear()
                    until = self._clock() + seconds
                    self._refusals[key] = _Refusal(until, smallest, largest, start, message)
            await send(message)

        return caching


def _cleaned(scope: Scope) -> tuple[Scope, str]:
    """The request without `CONTROL_HEADERS` and with exactly one id; and that id.

    The client's, where it is fit for a log, else a new one: Serve logs it as it comes, and of
    several Serve and the gateway would take different ones.
    """
    given = Headers(scope=scope).get(_ID, "")
    identity = given if good_request_id(given) else str(uuid.uuid4())
    headers = [
        one for one in scope["headers"] if one[0] not in CONTROL_HEADERS and one[0] != _RAW_ID
    ]
    return {**scope, "headers": [*headers, (_RAW_ID, identity.encode())]}, identity


def _nosniff(send: Send) -> Send:
    """Sends on with `nosniff`, which Serve's own answers lack."""

    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            MutableHeaders(scope=message).setdefault("x-content-type-options", "nosniff")
        await send(message)

    return sending


def _without_id(start: Message) -> Message:
    return {**start, "headers": [one for one in start["headers"] if one[0].lower() != _RAW_ID]}


def middlewares() -> list[Middleware]:
    """What Serve wraps its proxy in, innermost first; bounds what its server reads before them."""
    install()
    return [Middleware(RetryUnanswered), Middleware(ProxyMiddleware)]
