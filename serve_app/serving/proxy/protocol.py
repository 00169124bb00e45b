"""uvicorn's HTTP protocol with limits: on the head of a request, and on clients that stall.

Serve's proxy reads a request's head before any middleware runs, and uvicorn sets no limit to it
where httptools parses. It also waits for ever for a head, and for the reader of an answer. Knows no
routes; uvicorn takes the class by `install`.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any, cast

import uvicorn.config
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from serve_app.core.errors import error_body

MAX_HEAD_BYTES = 64 << 10
"""Of the request line and all headers; also of trailers, and of one chunk's framing."""

MAX_HEADERS = 128

TICK_S = 30.0
"""A connection is checked this often: a head has to be complete by the second check."""

MIN_BYTES_PER_TICK = 16 << 10
"""Of an answer, where so much is waiting: a client that takes less has stopped reading."""


class _CountingTransport:
    """A transport that counts the bytes written to it."""

    def __init__(self, transport: Any) -> None:
        self._transport = transport
        self.written = 0

    def write(self, data: bytes) -> None:
        self.written += len(data)
        self._transport.write(data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


class BoundedProtocol(HttpToolsProtocol):
    """One connection. Too large a head is 431, too slow a one 408; a stalled reader is cut off."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See `asyncio.Protocol`."""
        self._counting = _CountingTransport(transport)
        super().connection_made(cast(asyncio.Transport, self._counting))
        self._head_bytes = self._unparsed = self._head_ticks = 0
        self._in_head, self._parsed, self._refusal = True, False, 400
        self._pending = self._flushed = 0
        self._timer = self.loop.call_later(TICK_S, self._tick)

    def connection_lost(self, exc: Exception | None) -> None:
        """See `asyncio.Protocol`."""
        self._timer.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """See `asyncio.Protocol`."""
        self._parsed = False
        super().data_received(data)
        # The parser keeps a header that has not ended, and says nothing of it.
        self._unparsed = 0 if self._parsed else self._unparsed + len(data)
        if self._unparsed > MAX_HEAD_BYTES and not self.transport.is_closing():
            self._refuse(431)

    def on_message_begin(self) -> None:
        """See `httptools.HttpRequestParser`."""
        self._head_bytes = self._head_ticks = 0
        self._in_head = self._parsed = True
        super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        """See `httptools.HttpRequestParser`."""
        self._count(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """See `httptools.HttpRequestParser`."""
        self._count(len(name) + len(value))
        if len(self.headers) >= MAX_HEADERS:
            self._count(MAX_HEAD_BYTES + 1)
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """See `httptools.HttpRequestParser`."""
        self._in_head, self._parsed = False, True
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """See `httptools.HttpRequestParser`."""
        self._parsed = True
        super().on_body(body)

    def on_message_complete(self) -> None:
        """See `httptools.HttpRequestParser`."""
        self._parsed = True
        super().on_message_complete()

    def _count(self, more: int) -> None:
        self._parsed = True
        self._head_bytes += more
        if self._head_bytes > MAX_HEAD_BYTES:
            self._refusal = 431
            raise ValueError("the head is too large")  # which httptools hands to send_400_response

    def _tick(self) -> None:
        if self.transport.get_protocol() is not self:  # a WebSocket
            return
        self._timer = self.loop.call_later(TICK_S, self._tick)
        self._head_ticks += 1
        if self._in_head and self._head_ticks > 1:
            self._refuse(408)
        pending = self.transport.get_write_buffer_size()
        flushed = self._counting.written - pending
        if flushed < self._flushed + min(self._pending, MIN_BYTES_PER_TICK):
            self.transport.abort()
        self._pending, self._flushed = pending, flushed

    def _refuse(self, status: int) -> None:
        self._refusal = status
        self.send_400_response("")

    def send_400_response(self, msg: str) -> None:
        """Refuses what is no request to answer, in the API's shape, and closes the connection."""
        cycle = self.cycle  # the connection's last request, which may have its answer
        if cycle is not None and cycle.response_started and not cycle.response_complete:
            self.transport.abort()  # an answer is under way; another cannot begin in it
            return
        code, message = {
            408: ("timeout", "the head of the request did not arrive in time"),
            431: (
                "head_too_large",
                f"the head of a request may have {MAX_HEAD_BYTES} bytes and {MAX_HEADERS} headers",
            ),
        }.get(self._refusal, ("bad_request", msg or "this is no HTTP request"))
        content = json.dumps(error_body(code, message)).encode()
        head = (
            b"content-type: application/json\r\ncontent-length: %d\r\n"
            b"x-content-type-options: nosniff\r\nconnection: close\r\n\r\n" % len(content)
        )
        self.transport.write(STATUS_LINE[self._refusal] + head + content)
        self.transport.close()


def install() -> None:
    """Makes uvicorn use the class in this process, where it chooses the protocol itself."""
    uvicorn.config.HTTP_PROTOCOLS["auto"] = f"{__name__}:{BoundedProtocol.__name__}"
