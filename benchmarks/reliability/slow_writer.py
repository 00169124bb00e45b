"""A language model that writes a word every 0.2 s, behind the chat completions protocol.

The extractive engine gives a summary away all at once, so no deadline can end a stream of it that
has begun. What is asked without a stream, as at a server's start, is answered at once.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

MODEL, PAUSE_S, WORDS = "slow", 0.2, 150


class _Handler(BaseHTTPRequestHandler):
    """Answers what the openai engine asks."""

    def do_GET(self) -> None:
        """The models."""
        model = {"id": MODEL, "object": "model", "created": 0, "owned_by": "none"}
        self._answer({"object": "list", "data": [model]})

    def do_POST(self) -> None:
        """A completion."""
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if not asked.get("stream"):
            message = {"role": "assistant", "content": "It was slow."}
            self._answer(_chunk("chat.completion", "stop", message=message))
            return
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        with suppress(OSError):  # nobody waits any longer
            for _ in range(WORDS):
                piece = _chunk("chat.completion.chunk", None, delta={"content": "slow "})
                self._send(json.dumps(piece))
                time.sleep(PAUSE_S)
            self._send(json.dumps(_chunk("chat.completion.chunk", "stop", delta={})))
            self._send("[DONE]")

    def _send(self, data: str) -> None:
        self.wfile.write(f"data: {data}\n\n".encode())
        self.wfile.flush()

    def _answer(self, body: Any) -> None:
        content = json.dumps(body).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: Any) -> None:
        """Says nothing."""


def _chunk(kind: str, finish_reason: str | None, **said: Any) -> dict[str, Any]:
    choice = {"index": 0, "finish_reason": finish_reason, **said}
    return {"id": "1", "object": kind, "created": 0, "model": MODEL, "choices": [choice]}


@contextmanager
def slow_writer() -> Iterator[str]:
    """The root URL of its API, on a free port of this machine."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1"
    finally:
        server.shutdown()
        server.server_close()
