"""Serve's HTTP server, bounded: heads have a limit, and nobody who stalls is waited for."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest
import uvicorn
from starlette.types import Receive, Scope, Send
from uvicorn.server import ServerState

from serve_app.serving.proxy import protocol
from serve_app.serving.proxy.middleware import middlewares
from serve_app.serving.proxy.protocol import (
    MAX_HEAD_BYTES,
    MAX_HEADERS,
    MIN_BYTES_PER_TICK,
    BoundedProtocol,
)
from tests.support.servers import wait_for

ANSWER = b"x" * (8 << 20)
"""More than the sockets of both sides hold."""


class Application:
    """Answers `/large` with `ANSWER`, everything else with its number of headers."""

    def __init__(self) -> None:
        self.seen: list[str] = []
        self.ended = threading.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.seen.append(scope["path"])
        while (await receive()).get("more_body", False):
            pass
        body = ANSWER if scope["path"] == "/large" else str(len(scope["headers"])).encode()
        headers = [(b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        for start in range(0, len(body), 65536):
            part = body[start : start + 65536]
            more = start + 65536 < len(body)
            await send({"type": "http.response.body", "body": part, "more_body": more})
        self.ended.set()


@contextmanager
def serving() -> Iterator[tuple[Application, int]]:
    """The application under uvicorn as Serve's proxy starts it."""
    middlewares()
    app = Application()
    config = uvicorn.Config(app, port=0, log_config=None, access_log=False, lifespan="off")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    wait_for(lambda: server.started)
    try:
        yield app, server.servers[0].sockets[0].getsockname()[1]
    finally:
        server.should_exit = server.force_exit = True
        thread.join(10)


def connected(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=20)


def rest_of(client: socket.socket) -> bytes:
    """What comes until the other side ends the connection."""
    answer = b""
    while piece := client.recv(65536):
        answer += piece
    return answer


def exchange(port: int, *parts: bytes, most: int = 16 << 20) -> tuple[int, Any, int]:
    """Status, JSON and the bytes taken of what is sent over one connection until it is closed."""
    taken, answer = 0, b""
    with connected(port) as client:
        try:
            for part in parts:
                for start in range(0, len(part), 65536):
                    client.sendall(part[start : start + 65536])
                    taken += 65536
                    assert taken < most, "all of it was taken"
            client.shutdown(socket.SHUT_WR)
        except (BrokenPipeError, ConnectionResetError):
            pass
        with suppress(ConnectionResetError):
            answer = rest_of(client)
    head, _, body = answer.partition(b"\r\n\r\n")
    return (int(head.split()[1]) if head else 0), (json.loads(body) if body else None), taken


LINE = b"GET / HTTP/1.1\r\n"
HUGE = b"a" * (8 << 20)


@pytest.mark.parametrize(
    "parts",
    [
        (LINE, b"x: " + HUGE),
        (LINE, HUGE),
        (LINE, b"a:\r\n" * (3 << 20)),
        (LINE, b"x: " + b"a" * 4000 + b"\r\n", b"y: 1\r\n" * (1 << 20)),
        (b"GET /" + HUGE,),
        (b"GET /?" + b"a" * MAX_HEAD_BYTES + b" HTTP/1.1\r\n\r\n",),
        (LINE, b"x: y\r\n" * (MAX_HEADERS + 1), b"\r\n"),
        (LINE, b"x: " + b"a" * MAX_HEAD_BYTES + b"\r\n\r\n"),
    ],
    ids=["a value", "a name", "empty headers", "many", "a URL", "a query", "129 headers", "64 KiB"],
)  # fmt: skip
def test_a_head_over_the_limit_is_refused_before_much_of_it_is_read(
    parts: tuple[bytes, ...],
) -> None:
    with serving() as (app, port):
        status, body, _ = exchange(port, *parts, most=6 << 20)
        # A peer that goes on sending may be reset before it has read the answer.
        assert status in (431, 0)
        if body is not None:
            assert body["error"]["code"] == "head_too_large"
            assert set(body["error"]) == {"code", "message", "field"}
        assert app.seen == []
        assert exchange(port, LINE + b"\r\n")[0] == 200


def test_the_refusal_says_the_limit() -> None:
    with serving() as (_, port):
        status, body, _ = exchange(port, LINE + b"x: y\r\n" * (MAX_HEADERS + 1) + b"\r\n")
    assert status == 431
    assert f"{MAX_HEAD_BYTES} bytes and {MAX_HEADERS} headers" in body["error"]["message"]


def test_a_head_within_the_limit_is_served_in_pieces_too_and_again_on_one_connection() -> None:
    head = LINE + b"x: " + b"a" * 500 + b"\r\n" + b"y: z\r\n" * (MAX_HEADERS - 2) + b"connection: "
    whole = head + b"keep-alive\r\n\r\n"
    with serving() as (app, port), connected(port) as client:
        for _ in range(3):  # each may be as large as the first
            for start in range(0, len(whole), 100):
                client.sendall(whole[start : start + 100])
            answer = b""
            while not answer.endswith(b"\r\n\r\n" + str(MAX_HEADERS).encode()):
                piece = client.recv(65536)
                assert piece, answer
                answer += piece
        assert app.seen == ["/"] * 3


def test_trailers_and_the_framing_of_chunks_have_the_limit_too() -> None:
    post = b"POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n"
    for more in (
        b"1\r\na\r\n0\r\n" + b"t: " + HUGE,
        b"1;" + HUGE,
        b"0\r\n" + b"t:\r\n" * (2 << 20),
    ):
        with serving() as (_, port):
            assert exchange(port, post, more, most=6 << 20)[0] in (0, 431)


def test_a_body_may_be_much_larger_than_a_head() -> None:
    size = 4 << 20
    with serving() as (_, port):
        head = b"POST / HTTP/1.1\r\nconnection: close\r\ncontent-length: %d\r\n\r\n" % size
        assert exchange(port, head, b"a" * size)[:2] == (200, 2)


def test_what_is_no_http_is_refused_in_the_shape_of_all_errors() -> None:
    with serving() as (_, port):
        status, body, _ = exchange(port, b"\x16\x03\x01 not HTTP\r\n\r\n")
    assert status == 400
    assert body["error"]["code"] == "bad_request"


def test_what_is_no_http_is_told_so_after_an_answered_request_of_its_connection_too() -> None:
    with serving() as (app, port), connected(port) as client:
        client.sendall(LINE + b"\r\n")
        answer = b""
        while not answer.endswith(b"\r\n\r\n0"):
            answer += client.recv(65536)
        client.sendall(b"BREW / HTTP/1.1\r\n\r\n")
        assert rest_of(client).startswith(b"HTTP/1.1 400 ")
        assert app.seen == ["/"]


@pytest.mark.parametrize(
    "sent", [b"", b"GET / HT", LINE + b"x: y\r\n"], ids=["none", "part", "most"]
)
def test_a_head_that_does_not_come_is_not_waited_for(
    sent: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(protocol, "TICK_S", 0.2)
    with (
        serving() as (_, port),
        socket.create_connection(("127.0.0.1", port), timeout=20) as client,
    ):
        client.sendall(sent)
        answer = rest_of(client)
    assert answer.startswith(b"HTTP/1.1 408 ")


def test_a_reader_that_has_stopped_is_cut_off_and_its_application_ends(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(protocol, "TICK_S", 0.2)
    with serving() as (app, port), socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.settimeout(20)
        client.connect(("127.0.0.1", port))
        client.sendall(b"GET /large HTTP/1.1\r\n\r\n")
        assert app.ended.wait(20)
        with suppress(ConnectionResetError):
            assert len(rest_of(client)) < len(ANSWER)


class Transport:
    """Of a client that takes what it is told to take."""

    def __init__(self) -> None:
        self.waiting, self.aborted = 0, False
        self.protocol: BoundedProtocol | None = None

    def write(self, data: bytes) -> None:
        self.waiting += len(data)

    def get_write_buffer_size(self) -> int:
        return self.waiting

    def get_protocol(self) -> BoundedProtocol | None:
        return self.protocol

    def get_extra_info(self, *_: Any) -> None:
        return None

    def abort(self) -> None:
        self.aborted = True


async def test_a_slow_reader_is_waited_for_while_it_reads() -> None:
    client = Transport()
    config = uvicorn.Config(Application(), log_config=None)
    client.protocol = BoundedProtocol(config, ServerState(), {})
    client.protocol.connection_made(client)  # type: ignore[arg-type]
    client.protocol.on_message_begin()
    client.protocol._in_head = False
    client.protocol.transport.write(ANSWER)
    for _ in range(20):
        client.waiting -= MIN_BYTES_PER_TICK
        client.protocol._tick()
        assert not client.aborted
    for _ in range(20):  # little, but all there is
        client.waiting = 0
        client.protocol.transport.write(b"an event")
        client.protocol._tick()
        assert not client.aborted
    client.waiting -= 1  # one that has stopped in the middle of the last
    client.protocol._tick()
    client.protocol._timer.cancel()
    assert client.aborted
