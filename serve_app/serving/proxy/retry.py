"""Answers what Ray Serve's HTTP proxy leaves unanswered: an ASGI middleware around it.

Serve's proxy hands a request to one gateway. Where that dies with the request in it, the proxy says
nothing at all, and its server makes `500 Internal Server Error` in plain text of it. Here the
request is given to the proxy again, which then asks another gateway, or waits for a new one: until
the first byte of an answer a request may be done twice, as each is a function of its own texts.
What cannot be repeated is answered 503, an event stream that breaks off is ended as one of ours
is, and refusals of Serve's own get the one shape of errors.

Knows no settings and no routes. Where it stands: `serve_app.serving.proxy.middleware.middlewares`.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serve_app.core.errors import error_body
from serve_app.core.headers import AGE_HEADER

ATTEMPTS = 3
"""In all. A request that kills whatever computes it must not go round all gateways."""

PAUSE_S = 0.1
"""Before the second attempt, and twice as long before the third."""

MAX_BUFFERED_BYTES = 64 << 20
"""Bytes of bodies kept for a repetition, of all requests together; what comes then is not kept, and
so not repeated."""

RETRY_AFTER_S = 1
"""What Retry-After says: another gateway may be there at once."""


_SILENCE = ("unavailable", "what worked for this request is gone; try again")
_SERVES_OWN = {  # by status, what Serve says in plain text
    408: ("timeout", "the request's time is over; try again"),
    503: ("unavailable", "the application cannot take requests now; try again"),
}
_EVENTS = "text/event-stream"
_ID = "x-request-id"

logger = logging.getLogger("ray.serve")


class RetryUnanswered:
    """The middleware.

    Args:
        app: Serve's proxy.
        most_kept: see `MAX_BUFFERED_BYTES`.
        clock: seconds, monotonic.
    """

    def __init__(
        self,
        app: ASGIApp,
        most_kept: int = MAX_BUFFERED_BYTES,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._app, self._clock = app, clock
        self._room = _Room(most_kept)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one request; anything but HTTP passes through."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        body = _Body(receive, self._room)
        answer = _Answer(scope, send, body)
        came = self._clock()
        try:
            await self._app(scope, body.reader(), answer.take)
            for attempt in range(1, ATTEMPTS):
                if answer.started or not body.kept or _ends():
                    break
                await asyncio.sleep(attempt * PAUSE_S)
                logger.warning("%s was not answered; it is asked again", _name(scope))
                aged = _aged(scope, self._clock() - came)
                await self._app(aged, body.reader(), answer.take)
            if not body.gone and not _ends():
                await answer.finish()
        finally:
            body.forget()


@dataclass(slots=True)
class _Room:
    """For bodies that are kept."""

    most: int
    taken: int = 0


class _Body:
    """What a client sends, kept so that it can be read again.

    Args:
        receive: of the connection.
        room: for this body and others.

    Attributes:
        kept: whether all that has been received is there still; False too once the client is gone.
        gone: whether it is.
    """

    def __init__(self, receive: Receive, room: _Room) -> None:
        self._receive, self._room = receive, room
        self._content, self._more = bytearray(), True
        self.kept, self.gone = True, False

    def reader(self) -> Receive:
        """A `receive` that begins with what has been received, and goes on with what comes."""
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
            elif self.kept:
                self._keep(message)
            return message

        return read

    def _keep(self, message: Message) -> None:
        part = message.get("body", b"")
        if self._room.taken + len(part) > self._room.most:
            self.forget()
            return
        self._room.taken += len(part)
        self._content += part
        self._more = message.get("more_body", False)

    def forget(self) -> None:
        """Nothing is kept from now on."""
        self._room.taken -= len(self._content)
        self._content = bytearray()
        self.kept = False


class _Answer:
    """What is sent to a client, and how far it has come.

    Args:
        scope: of the request.
        send: of the connection.
        body: of the request, of which nothing is needed once an answer has begun.

    Attributes:
        started: whether an answer has begun.
    """

    def __init__(self, scope: Scope, send: Send, body: _Body) -> None:
        self._scope, self._send, self._body = scope, send, body
        self._events = self._ended = False
        self._instead: tuple[str, str] | None = None
        self.started = False

    async def take(self, message: Message) -> None:
        """Sends on what the proxy sends; a refusal of its own in our words."""
        if message["type"] == "http.response.start":
            self._body.forget()
            self.started = True
            headers = Headers(raw=message["headers"])
            kind = headers.get("content-type", "")
            self._events = kind.startswith(_EVENTS)
            # Whoever asks after the proxy itself is told in its words.
            own = not kind.startswith("application/json") and not _of_proxy(self._scope)
            if own and message["status"] in _SERVES_OWN:
                self._instead = _SERVES_OWN[message["status"]]
                await self._refuse(self._instead, headers.get("retry-after"))
        elif message["type"] == "http.response.body":
            self._ended = not message.get("more_body", False)
        if self._instead is None:
            await self._send(message)

    async def finish(self) -> None:
        """Ends what the proxy has left: says 503 where nothing was said, and ends a broken event
        stream with an error. Any other answer that broke off can only be seen to be too short."""
        if not self.started:
            logger.error("%s was not answered", _name(self._scope))
            await self._refuse(_SILENCE, None)
        elif self._events and not self._ended:
            logger.error("%s: its stream broke off", _name(self._scope))
            event = f"event: error\ndata: {json.dumps(error_body(*_SILENCE))}\n\n"
            await self._send({"type": "http.response.body", "body": event.encode()})

    async def _refuse(self, why: tuple[str, str], retry_after: str | None) -> None:
        content = json.dumps(error_body(*why)).encode()
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(content)).encode()),
            (b"retry-after", (retry_after or str(RETRY_AFTER_S)).encode()),
            (_ID.encode(), _identity(self._scope).encode()),  # as Serve's proxy says it
        ]
        await self._send({"type": "http.response.start", "status": 503, "headers": headers})
        await self._send({"type": "http.response.body", "body": content})


def _ends() -> bool:
    """Whether this task was told to end. Serve's proxy takes that for a client that is gone, and
    says nothing either."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def _aged(scope: Scope, seconds: float) -> Scope:
    """The request, which says how old it is."""
    return {**scope, "headers": [*scope["headers"], (AGE_HEADER.encode(), b"%.3f" % seconds)]}


def _of_proxy(scope: Scope) -> bool:
    """Whether it is a route of Serve's own, such as `/-/healthz`."""
    return str(scope["path"]).startswith("/-/")


def _identity(scope: Scope) -> str:
    return Headers(scope=scope).get(_ID, "-")


def _name(scope: Scope) -> str:
    """Of a request, for the log: never its path, which may hold anything."""
    return f"{scope['method']} id={_identity(scope)}"
