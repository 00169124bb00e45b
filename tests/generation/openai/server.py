"""A real server of the chat completions protocol on 127.0.0.1, and a proxy that breaks it.

The server is transformers' own `transformers serve`, on a tiny model. `FaultyProxy` stands in
front of it and does to each request what a test asks for: refuses it, holds it up, cuts its
answer off; then passes the others on.
"""

from __future__ import annotations

import http.client
import json
import select
import socket
import struct
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from tests.support.servers import wait_for


@contextmanager
def transformers_serve(model: Path) -> Iterator[str]:
    """The root URL of the API of `transformers serve MODEL`, in a thread of this process."""
    from transformers.cli.serve import Serve

    server = Serve(force_model=str(model), device="cpu", dtype="float32", port=0, non_blocking=True)
    # `localhost` may be ::1 too; the first socket is as good as any.
    wait_for(lambda: server.server.started, 60)
    host, port = server.server.servers[0].sockets[0].getsockname()[:2]
    try:
        yield f"http://{f'[{host}]' if ':' in host else host}:{port}/v1"
    finally:
        server.server.should_exit = True
        server._thread.join(20)
        server.reset_loaded_models()


@dataclass(frozen=True)
class Fault:
    """What happens to one request.

    Attributes:
        status: answered in the server's place; None passes the request on.
        body: of that answer, as JSON.
        headers: of that answer.
        delay_s: before anything else.
        pause_s: before each line of a streamed answer.
        cut_after: lines of the answer after which the connection is reset; None for never.
    """

    status: int | None = None
    body: Any = None
    headers: dict[str, str] = field(default_factory=dict)
    delay_s: float = 0.0
    pause_s: float = 0.0
    cut_after: int | None = None


class FaultyProxy:
    """Passes requests on to `upstream`, each with the next fault, those after the last unharmed.

    Attributes:
        url: root of the API here.
        bodies: what was posted, in order of arrival.
        times: when.
        headers: of the last request, names in lower case.
        hung_up: how many clients left before they had their answer.
        most: most requests that were under way at once.
    """

    def __init__(self, upstream: str, faults: Sequence[Fault] = ()) -> None:
        self.faults = list(faults)
        self.bodies: list[dict[str, Any]] = []
        self.times: list[float] = []
        self.headers: dict[str, str] = {}
        self.hung_up = 0
        self.most = 0
        self._running: set[int] = set()
        self._lock = threading.Lock()
        self._upstream = upstream.removeprefix("http://").partition("/")[0]
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer._pass_on(self, None, Fault())

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                headers = {name.lower(): value for name, value in self.headers.items()}
                fault = outer._take(self, body, headers)
                try:
                    outer._pass_on(self, body, fault)
                except OSError:
                    with outer._lock:
                        outer.hung_up += 1
                finally:
                    outer._ended(self)

            def log_message(self, *_: Any) -> None:
                """Keeps the test output clean."""

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 64

        self._server = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1"
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def _take(self, near: BaseHTTPRequestHandler, body: bytes, headers: dict[str, str]) -> Fault:
        with self._lock:
            self.bodies.append(json.loads(body))
            self.times.append(time.monotonic())
            self.headers = headers
            self._running.add(id(near))
            self.most = max(self.most, len(self._running))
            return self.faults.pop(0) if self.faults else Fault()

    def _ended(self, near: BaseHTTPRequestHandler) -> None:
        with self._lock:
            self._running.discard(id(near))

    def _pass_on(self, near: BaseHTTPRequestHandler, body: bytes | None, fault: Fault) -> None:
        self._hold(near.connection, fault.delay_s)
        if fault.status is not None:
            self._answer(near, fault.status, json.dumps(fault.body).encode(), fault.headers)
            return
        far = http.client.HTTPConnection(self._upstream, timeout=60)
        try:
            far.request(near.command, near.path, body, {"Content-Type": "application/json"})
            response = far.getresponse()
            kind = response.headers["Content-Type"]
            if "event-stream" in kind:
                near.send_response(response.status)
                near.send_header("Content-Type", kind)
                near.end_headers()
                self._stream(near, response, fault)
            else:
                self._answer(near, response.status, response.read(), {"Content-Type": kind})
        finally:
            far.close()

    def _stream(
        self, near: BaseHTTPRequestHandler, response: http.client.HTTPResponse, fault: Fault
    ) -> None:
        for number, line in enumerate(response):
            if number == fault.cut_after:
                # Without lingering, closing sends a reset.
                near.connection.setsockopt(
                    socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
                )
                near.connection.close()
                return
            self._hold(near.connection, fault.pause_s)
            near.wfile.write(line)
            near.wfile.flush()

    def _hold(self, connection: socket.socket, seconds: float) -> None:
        """Waits so long; raises `ConnectionError` as soon as the client has gone."""
        if seconds and select.select([connection], [], [], seconds)[0]:
            raise ConnectionError("the client hung up")

    def _answer(
        self, near: BaseHTTPRequestHandler, status: int, body: bytes, headers: dict[str, str]
    ) -> None:
        self._ended(near)  # before the client knows: it may send its next request at once
        near.send_response(status)
        for name, value in {"Content-Type": "application/json", **headers}.items():
            near.send_header(name, value)
        near.send_header("Content-Length", str(len(body)))
        near.end_headers()
        near.wfile.write(body)

    @property
    def gaps(self) -> list[float]:
        """Seconds between one request and the next."""
        return [after - before for before, after in zip(self.times, self.times[1:], strict=False)]

    def __enter__(self) -> FaultyProxy:
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
