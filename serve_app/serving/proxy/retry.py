"""Repeats or answers requests that Ray Serve's HTTP proxy leaves unanswered: an ASGI middleware.

Serve's proxy hands a request to one gateway. If that dies with it, the proxy sends nothing at all,
and its server turns that into a plain-text `500 Internal Server Error`. This middleware gives the
request to the proxy again, which asks another gateway or waits for a new one: until the first byte
of an answer a request may run twice, since each is a function of its own texts. A request that
cannot be repeated is answered 503, a broken event stream ends with an error event, and Serve's own
refusals get the API's error shape; where no application runs, that is said instead of its 404.

Knows no settings and no routes.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serve_app.core.context import AGE_HEADER
from serve_app.core.errors import error_body
from serve_app.serving.scheduling.single_flight import SingleFlight

ATTEMPTS = 3
"""In all. A request that kills its gateway must not go round all of them."""

PAUSE_S = 0.1
"""Before the second attempt, and twice as long before the third."""

MAX_BUFFERED_BYTES = 64 << 20
"""Of all requests together; bodies that do not fit are not buffered, and so not repeated."""

STATUS_TIMEOUT_S = 4.0
STATUS_FRESH_S = 1.0
"""Serve's controller is asked at most this often."""

RETRY_AFTER_S = 1
"""Another gateway may be there at once."""

_UNANSWERED = ("unavailable", "the process computing this request died; try again")
_SERVES_OWN = {  # by status, what Serve answers in plain text
    408: ("timeout", "the request's time is over; try again"),
    503: ("unavailable", "the application cannot take requests now; try again"),
}
_EVENTS = "text/event-stream"
_ID = "x-request-id"

logger = logging.getLogger("ray.serve")


async def why_nothing_runs() -> str:
    """Why there is no application to ask; empty where one runs, or nobody knows."""
    # Ray reads its environment when it is imported, and `plainmed serve` imports this module first.
    from ray import serve

    from serve_app.serving.remote_calls import cannot_start

    try:
        async with asyncio.timeout(STATUS_TIMEOUT_S):
            applications = (await asyncio.to_thread(serve.status)).applications.values()
    except Exception as error:  # any kind: what Serve's proxy said stands
        logger.warning("the Serve controller did not answer: %s", type(error).__name__)
        return ""
    if any(one.status in ("RUNNING", "UNHEALTHY") for one in applications):
        return ""
    failed = next((one.message for one in applications if one.status == "DEPLOY_FAILED"), None)
    if failed is not None:
        return cannot_start("the application", failed)
    return "the application is still starting; try again"


class RetryUnanswered:
    """The middleware.

    Args:
        app: Serve's proxy.
        max_buffered: see `MAX_BUFFERED_BYTES`.
        clock: seconds, monotonic.
        why_nothing_runs: asked about a path that Serve's proxy does not know.
    """

    def __init__(
        self,
        app: ASGIApp,
        max_buffered: int = MAX_BUFFERED_BYTES,
        clock: Callable[[], float] = time.monotonic,
        why_nothing_runs: Callable[[], Awaitable[str]] = why_nothing_runs,
    ) -> None:
        self._app, self._clock = app, clock
        # Any path may be asked for by anybody, and there is one controller.
        self._why_nothing_runs = SingleFlight(why_nothing_runs, STATUS_FRESH_S)
        self._budget = _ByteBudget(max_buffered)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one request; anything but HTTP passes through."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        body = _Body(receive, self._budget)
        answer = _Answer(scope, send, body, self._why_nothing_runs)
        came = self._clock()
        try:
            await self._app(scope, body.reader(), answer.take)
            for attempt in range(1, ATTEMPTS):
                if answer.started or not body.buffered or _cancelled():
                    break
                await asyncio.sleep(attempt * PAUSE_S)
                logger.warning("%s was not answered; asking again", _name(scope))
                age = (AGE_HEADER.encode(), b"%.3f" % (self._clock() - came))
                aged = {**scope, "headers": [*scope["headers"], age]}
                await self._app(aged, body.reader(), answer.take)
            if not body.gone and not _cancelled():
                await answer.finish()
        finally:
            body.forget()


@dataclass(slots=True)
class _ByteBudget:
    """Of buffered bodies."""

    limit: int
    used: int = 0


class _Body:
    """A request's body, buffered so that it can be read again.

    Args:
        receive: of the connection.
        budget: shared by all bodies.

    Attributes:
        buffered: whether all that was received is still there; False once the client is gone.
        gone: whether the client is.
    """

    def __init__(self, receive: Receive, budget: _ByteBudget) -> None:
        self._receive, self._budget = receive, budget
        self._content, self._more = bytearray(), True
        self.buffered, self.gone = True, False

    def reader(self) -> Receive:
        """A `receive` that begins with what is buffered and goes on with what arrives."""
        again = bool(self._content) or not self._more

        async def read() -> Message:
            nonlocal again
            if again:
                again = False
                return {
                    "type": "http.request",
                    "body": bytes(self._content),
                    "more_body": self._more,
                }
            message = await self._receive()
            if message["type"] == "http.disconnect":
                self.gone = True
                self.forget()
            elif self.buffered:
                self._buffer(message)
            return message

        return read

    def _buffer(self, message: Message) -> None:
        part = message.get("body", b"")
        if self._budget.used + len(part) > self._budget.limit:
            self.forget()
            return
        self._budget.used += len(part)
        self._content += part
        self._more = message.get("more_body", False)

    def forget(self) -> None:
        """Frees the buffer for good."""
        self._budget.used -= len(self._content)
        self._content = bytearray()
        self.buffered = False


class _Answer:
    """What is sent to a client, and how far.

    Args:
        scope: of the request.
        send: of the connection.
        body: of the request; not needed any more once an answer has begun.
        why_nothing_runs: see `RetryUnanswered`.

    Attributes:
        started: whether an answer has begun.
    """

    def __init__(
        self, scope: Scope, send: Send, body: _Body, why_nothing_runs: SingleFlight[str]
    ) -> None:
        self._scope, self._send, self._body = scope, send, body
        self._why_nothing_runs = why_nothing_runs
        self._events = self._ended = False
        self._instead: tuple[str, str] | None = None
        self.started = False

    async def take(self, message: Message) -> None:
        """Sends on what the proxy sends; Serve's own refusals in the API's shape."""
        if message["type"] == "http.response.start":
            self._body.forget()
            self.started = True
            headers = Headers(raw=message["headers"])
            kind = headers.get("content-type", "")
            self._events = kind.startswith(_EVENTS)
            # Routes of the proxy itself, such as `/-/healthz`, keep its words.
            own = not (kind.startswith("application/json") or self._scope["path"].startswith("/-/"))
            if own:
                self._instead = _SERVES_OWN.get(message["status"])
            if own and message["status"] == 404 and (why := await self._why_nothing_runs.get()):
                self._instead = "not_ready", why
            if self._instead is not None:
                await self._refuse(self._instead, headers.get("retry-after"))
        elif message["type"] == "http.response.body":
            self._ended = not message.get("more_body", False)
        if self._instead is None:
            await self._send(message)

    async def finish(self) -> None:
        """Answers 503 where nothing was sent, and ends a broken event stream with an error. Any
        other answer that broke off can only be noticed by its length."""
        if not self.started:
            logger.error("%s was not answered", _name(self._scope))
            await self._refuse(_UNANSWERED, None)
        elif self._events and not self._ended:
            logger.error("%s: its stream broke off", _name(self._scope))
            event = f"event: error\ndata: {json.dumps(error_body(*_UNANSWERED))}\n\n"
            await self._send({"type": "http.response.body", "body": event.encode()})

    async def _refuse(self, why: tuple[str, str], retry_after: str | None) -> None:
        content = json.dumps(error_body(*why)).encode()
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(content)).encode()),
            (b"retry-after", (retry_after or str(RETRY_AFTER_S)).encode()),
            (_ID.encode(), _identity(self._scope).encode()),
        ]
        await self._send({"type": "http.response.start", "status": 503, "headers": headers})
        await self._send({"type": "http.response.body", "body": content})


def _cancelled() -> bool:
    """Whether this task was told to end. Serve's proxy takes that for a client that is gone, and
    sends nothing either."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def _identity(scope: Scope) -> str:
    return Headers(scope=scope).get(_ID, "-")


def _name(scope: Scope) -> str:
    """Names a request in the log: never by its path, which may hold anything."""
    return f"{scope['method']} id={_identity(scope)}"
