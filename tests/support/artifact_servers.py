"""Servers on loopback that weights are fetched from in tests, and ways to break the line."""

from __future__ import annotations

import contextlib
import hashlib
import http.server
import json
import logging
import os
import random
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest

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
    """A TCP proxy that cuts (or stalls) an answer after `limit` bytes of it, `faults` times.

    Only answers to requests that contain `match` are touched. `instead` is answered in place of
    the server, and the request does not get there. `rate` slows every answer down
    to so many bytes a second in all. Where the server behind is gone, connections are closed.
    Its own buffers are small, so that `passed` is about what the client has.
    """

    def __init__(
        self,
        upstream: str,
        *,
        faults: int = 0,
        limit: int = 0,
        stall: bool = False,
        match: bytes = b"",
        instead: bytes = b"",
        rate: float | None = None,
    ) -> None:
        host, port = upstream.removeprefix("http://").split(":")
        self.upstream = (host, int(port))  # may be changed at any time
        self.faults, self.limit, self.stall, self.match = faults, limit, stall, match
        self.instead = instead
        self.rate, self.passed = rate, 0
        self.stalled = threading.Event()
        self._pace, self._counting = threading.Lock(), threading.Lock()
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self.listener.accept()
                near.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65536)
                far = socket.socket()
                far.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
                try:
                    far.connect(self.upstream)
                except OSError:
                    near.close()
                    continue
                exchange = {"request": b"", "passed": 0}
                threading.Thread(target=self._ask, args=(near, far, exchange), daemon=True).start()
                threading.Thread(
                    target=self._answer, args=(far, near, exchange), daemon=True
                ).start()

    def _ask(self, near: socket.socket, far: socket.socket, exchange: dict[str, Any]) -> None:
        with contextlib.suppress(OSError):
            while data := near.recv(65536):
                if self.instead and self.faults > 0 and self.match in data:
                    self.faults -= 1
                    near.sendall(self.instead)
                    break
                exchange.update(request=data, passed=0)
                far.sendall(data)
        with contextlib.suppress(OSError):
            far.shutdown(socket.SHUT_RDWR)

    def _answer(self, far: socket.socket, near: socket.socket, exchange: dict[str, Any]) -> None:
        with contextlib.suppress(OSError):
            while data := far.recv(16384):
                exchange["passed"] += len(data)
                chosen = self.match in exchange["request"]
                if chosen and exchange["passed"] > self.limit and self.faults > 0:
                    self.faults -= 1
                    self.stalled.set()
                    if self.stall:
                        return
                    break
                if rate := self.rate:
                    with self._pace:
                        time.sleep(len(data) / rate)
                near.sendall(data)
                with self._counting:
                    self.passed += len(data)
        with contextlib.suppress(OSError):
            near.shutdown(socket.SHUT_RDWR)
        near.close()
        far.close()


class MotoProcess:
    """moto's server as a process of its own, which can be killed; on `port`, or on a free one."""

    def __init__(self, port: int = 0) -> None:
        with socket.create_server(("127.0.0.1", port)) as free:
            self.port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(self.port)]
        self._process = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        deadline = time.monotonic() + 240
        while True:
            with contextlib.suppress(OSError):
                socket.create_connection(("127.0.0.1", self.port)).close()
                return
            assert time.monotonic() < deadline, "moto does not start"
            time.sleep(0.1)

    def kill(self) -> None:
        self._process.kill()
        self._process.wait(30)


def use_server(monkeypatch: pytest.MonkeyPatch, url: str, home: Path) -> None:
    """Points the usual AWS chain at `url`, by environment alone."""
    for name in list(os.environ):
        if name.startswith("AWS_"):
            monkeypatch.delenv(name)
    for name, value in {
        "AWS_ENDPOINT_URL": url,
        "AWS_ACCESS_KEY_ID": "test-key-id",
        "AWS_SECRET_ACCESS_KEY": "test-secret-key",
        "AWS_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": str(home / "no-config"),
        "AWS_SHARED_CREDENTIALS_FILE": str(home / "no-credentials"),
    }.items():
        monkeypatch.setenv(name, value)


def numbered(size: int, seed: int = 0) -> bytes:
    """`size` bytes cheaply made, no two blocks of 64 KiB of which are the same."""
    block = random.Random(seed).randbytes(65536 - 8)
    blocks = (block + number.to_bytes(8, "big") for number in range(size // 65536 + 1))
    return b"".join(blocks)[:size]


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
    """The three hub endpoints a snapshot takes: revision, tree, resolve.

    `cut` large answers break off after half of what was asked for; `ranges` says where each
    began.
    """

    commit = "0123456789abcdef0123456789abcdef01234567"
    downloads: list[str]
    tokens: list[str]
    cut = 0
    files: ClassVar[dict[str, bytes]] = FILES
    ranges: ClassVar[list[tuple[str, int]]] = []

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
                for n, c in self.files.items()
            ]
            self._send(200, json.dumps(tree).encode())
        elif path.startswith("/api/models/org/tiny/revision/"):
            self._send(404, b"{}", {"X-Error-Code": "RevisionNotFound"})
        elif path.startswith("/api/models/org/gated"):
            self._send(403, b"{}", {"X-Error-Code": "GatedRepo"})
        elif found := re.fullmatch(r"/org/tiny/resolve/\w+/(.+)", path):
            if self.command == "GET":
                self.downloads.append(found[1])
            content = self.files[found[1]]
            etag = f'"{hashlib.sha1(content).hexdigest()}"'
            headers = {"ETag": etag, "X-Repo-Commit": self.commit}
            start = int(self.headers.get("Range", "bytes=0-")[6:].partition("-")[0])
            if self.command == "GET":
                self.ranges.append((found[1], start))
            if start:
                total = len(content)
                headers["Content-Range"] = f"bytes {start}-{total - 1}/{total}"
            self._send(206 if start else 200, content[start:], headers)
        else:
            self._send(404, b"{}", {"X-Error-Code": "RepoNotFound"})

    def _send(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET" and len(body) > 50_000 and type(self).cut:
            type(self).cut -= 1
            self.wfile.write(body[: len(body) // 2])
            self.close_connection = True
        elif self.command == "GET":
            self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass
