"""Servers on loopback that weights are fetched from in tests, and ways to break the line."""

from __future__ import annotations

import contextlib
import hashlib
import http.server
import json
import logging
import re
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

FILES = {
    "config.json": b'{"model_type": "llama"}',
    "model.safetensors": bytes(range(256)) * 1200,
    "sub/notes.txt": b"nested",
}


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


class RequestLog(logging.Handler):
    """Every request the S3 server answered; `on_request` runs before its body is sent."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []
        self.on_request: Callable[[str], None] | None = None

    def createLock(self) -> None:
        self.lock = None  # `on_request` may cause requests, logged by other threads

    def emit(self, record: logging.LogRecord) -> None:
        line = record.getMessage()
        self.lines.append(line)
        if self.on_request is not None:
            self.on_request(line)

    def downloads(self, name: str) -> int:
        return sum(f"/{name} HTTP" in line and "GET" in line for line in self.lines)


class FlakyProxy:
    """A TCP proxy that cuts (or stalls) answers over `limit` bytes, `faults` times."""

    def __init__(self, upstream: str, *, faults: int, limit: int, stall: bool = False) -> None:
        host, port = upstream.removeprefix("http://").split(":")
        self.upstream = (host, int(port))
        self.faults, self.limit, self.stall = faults, limit, stall
        self.stalled = threading.Event()
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self.listener.accept()
                far = socket.create_connection(self.upstream)
                threading.Thread(target=self._pump, args=(near, far), daemon=True).start()
                threading.Thread(target=self._answer, args=(far, near), daemon=True).start()

    @staticmethod
    def _pump(source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                sink.sendall(data)

    def _answer(self, far: socket.socket, near: socket.socket) -> None:
        passed = 0
        with contextlib.suppress(OSError):
            while data := far.recv(16384):
                passed += len(data)
                if passed > self.limit and self.faults > 0:
                    self.faults -= 1
                    self.stalled.set()
                    if self.stall:
                        return
                    near.shutdown(socket.SHUT_RDWR)
                    break
                near.sendall(data)
            near.close()


@contextlib.contextmanager
def serving(handler: type[http.server.BaseHTTPRequestHandler]) -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


class Denying(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        body = b"<Error><Code>AccessDenied</Code><Message>no</Message></Error>"
        self.send_response(403)
        self.send_header("Content-Type", "application/xml")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


class Hub(http.server.BaseHTTPRequestHandler):
    """The three hub endpoints a snapshot takes: revision, tree, resolve."""

    commit = "0123456789abcdef0123456789abcdef01234567"
    downloads: list[str]
    tokens: list[str]

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        self.tokens.append(self.headers.get("Authorization", ""))
        path = self.path.partition("?")[0]
        if path in ("/api/models/org/tiny/revision/main", "/api/models/org/tiny/revision/v1"):
            self._send(200, json.dumps({"id": "org/tiny", "sha": self.commit}).encode())
        elif path.startswith("/api/models/org/tiny/tree/"):
            tree = [
                {"type": "file", "path": n, "size": len(c), "oid": hashlib.sha1(c).hexdigest()}
                for n, c in FILES.items()
            ]
            self._send(200, json.dumps(tree).encode())
        elif path.startswith("/api/models/org/tiny/revision/"):
            self._send(404, b"{}", {"X-Error-Code": "RevisionNotFound"})
        elif path.startswith("/api/models/org/gated"):
            self._send(403, b"{}", {"X-Error-Code": "GatedRepo"})
        elif found := re.fullmatch(r"/org/tiny/resolve/\w+/(.+)", path):
            if self.command == "GET":
                self.downloads.append(found[1])
            content = FILES[found[1]]
            etag = f'"{hashlib.sha1(content).hexdigest()}"'
            self._send(200, content, {"ETag": etag, "X-Repo-Commit": self.commit})
        else:
            self._send(404, b"{}", {"X-Error-Code": "RepoNotFound"})

    def _send(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass
