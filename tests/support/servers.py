"""Real HTTP servers on 127.0.0.1 for the tests of the clients and the command line.

`ScriptedServer` answers what a test tells it to, however wrong, and records what it was sent.
`api_server` is the application's own gateway, over a backend that is light but computes: word
overlap for the model metrics, and the real readability, targets and loss.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from typing import Any

import httpx
import uvicorn

from serve_app.api.app import create_app
from serve_app.api.backend import Component, Health, MetricScores
from serve_app.api.middleware.request_guard import Traffic
from serve_app.api.request_stats import StatsWindow
from serve_app.core.resources import RESOURCES
from serve_app.core.schemas import ProfileName
from serve_app.core.settings import load_settings
from serve_app.generation.protocol import GenerationParams, Summary, SummarySentence
from serve_app.metrics.evaluation import (
    AlignScoreResult,
    BertScoreResult,
    ClaimSentence,
    Evaluation,
    Measured,
)
from serve_app.metrics.loss import LossFunction, Targets
from serve_app.metrics.profiles import DEFAULT, Profile, load_profile
from serve_app.metrics.readability import Readability, readability

WAIT_S = 60.0
"""How long a test waits for what must come: the machine may be busy."""


@dataclass
class Received:
    """One request as it arrived."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes
    at: float


@dataclass
class Answer:
    """One scripted answer; `chunks` are sent apart, `hang_up` closes without an answer."""

    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    delay: float = 0.0
    hang_up: bool = False
    chunks: tuple[bytes, ...] = ()


class ScriptedServer:
    """Gives the scripted answers in order, the last one again and again."""

    def __init__(self, answers: Sequence[Answer], port: int = 0) -> None:
        self.answers = list(answers)
        self.received: list[Received] = []
        self._lock = threading.Lock()
        self._closing = threading.Event()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True  # else 40 ms between head and body

            def handle_one(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                headers = {name.lower(): value for name, value in self.headers.items()}
                answer = outer.take(
                    Received(self.command, self.path, headers, body, time.monotonic())
                )
                outer._closing.wait(answer.delay)
                if answer.hang_up:
                    self.close_connection = True
                    return
                self.send_response(answer.status)
                for name, value in answer.headers.items():
                    self.send_header(name, value)
                if answer.chunks:
                    self.send_header("Connection", "close")
                    self.end_headers()
                    for chunk in answer.chunks:
                        self.wfile.write(chunk)
                        self.wfile.flush()
                        time.sleep(0.01)
                    self.close_connection = True
                else:
                    self.send_header("Content-Length", str(len(answer.body)))
                    self.end_headers()
                    self.wfile.write(answer.body)

            do_GET = do_POST = handle_one

            def log_message(self, *_: Any) -> None:
                """Keeps the test output clean."""

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *_: Any) -> None:
                """A client that gave up waiting is what some tests are about."""

        self._server = Server(("127.0.0.1", port), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def take(self, request: Received) -> Answer:
        """Records the request and gives its answer."""
        with self._lock:
            self.received.append(request)
            return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]

    @property
    def gaps(self) -> list[float]:
        """Seconds between one request and the next."""
        times = [request.at for request in self.received]
        return [after - before for before, after in pairwise(times)]

    def __enter__(self) -> ScriptedServer:
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.set()
        self._server.shutdown()
        self._server.server_close()


class ScriptedProxy(ScriptedServer):
    """Passes requests on to `upstream`, after the scripted answers of their path are used up."""

    def __init__(self, upstream: str, scripted: dict[str, list[Answer]]) -> None:
        super().__init__([Answer()])
        self.upstream = upstream
        self.scripted = scripted

    def take(self, request: Received) -> Answer:
        with self._lock:
            self.received.append(request)
            waiting = self.scripted.get(request.path, [])
            if waiting:
                return waiting.pop(0)
        kept = {name: request.headers[name] for name in _PASSED_ON if name in request.headers}
        answer = httpx.request(
            request.method,
            self.upstream + request.path,
            content=request.body,
            headers=kept,
            timeout=120,
        )
        headers = {
            name: value for name, value in answer.headers.items() if name not in _NOT_PASSED_BACK
        }
        return Answer(answer.status_code, answer.content, headers)


_PASSED_ON = ("content-type", "authorization", "if-none-match")
_NOT_PASSED_BACK = ("content-length", "content-encoding", "transfer-encoding", "connection", "date")

TARGETS = Targets.load(RESOURCES / "targets-earlier-system.json")
MODELS = {"relevance": "overlap", "factuality": "overlap"}


def overlap(original: str, generated: str) -> float:
    """Share of the generated words that the original has too."""
    words, known = (set(re.findall(r"\w+", text.lower())) for text in (generated, original))
    return len(words & known) / len(words)


def measure(original: str, generated: str) -> Measured:
    """The light backend's measurement of one pair."""
    value = overlap(original, generated)
    sentence = ClaimSentence(generated, value, 0, original)
    return Measured(
        BertScoreResult(value, value, value, False, False),
        AlignScoreResult(value, (sentence,), False),
        readability(generated),
    )


def lead(text: str, sentences: int = 2) -> str:
    """The first sentences of a text."""
    return " ".join(re.split(r"(?<=[.!?])\s+", text.strip())[:sentences])


class LightBackend:
    """A `Backend` that computes in microseconds."""

    def __init__(
        self, *, per_sample: bool = False, services: Sequence[str] = ("metrics", "generator")
    ) -> None:
        self.services = frozenset(services)
        self.loss = LossFunction(TARGETS)
        self.per_sample = per_sample
        self.generated = 0
        self.scored: list[list[str]] = []
        """The summaries of each call of `evaluate`."""

    async def relevance(self, originals: Sequence[str], generated: Sequence[str]) -> MetricScores:
        return MetricScores(
            [overlap(*pair) for pair in zip(originals, generated, strict=True)], "o", "c"
        )

    async def factuality(self, originals: Sequence[str], generated: Sequence[str]) -> MetricScores:
        return await self.relevance(originals, generated)

    async def readability(self, texts: Sequence[str]) -> list[Readability]:
        return [readability(text) for text in texts]

    async def evaluate(
        self,
        originals: Sequence[str],
        generated: Sequence[str],
        human: Sequence[str] | None,
        weights: Sequence[float] | None,
        profile: ProfileName,
    ) -> list[Evaluation]:
        self.scored.append(list(generated))
        measured = [measure(*pair) for pair in zip(originals, generated, strict=True)]
        humans = None
        if human is not None and self.per_sample:
            humans = [measure(*pair) for pair in zip(originals, human, strict=True)]
        chosen = Profile(DEFAULT, self.loss, (0.2,) * 5)
        if profile != DEFAULT:
            chosen = load_profile(profile, load_settings(), TARGETS)
        return chosen.evaluate(measured, originals, generated, weights=weights, human=humans)

    async def generate(
        self, texts: Sequence[str], params: Sequence[GenerationParams]
    ) -> list[Summary]:
        """The first two sentences; of variant 1 the first, of 2 the first two again, and so on."""
        self.generated += len(texts)
        return [
            Summary(
                lead(text, one.variant or 2),
                "lead-2",
                sentences=(SummarySentence(lead(text, 1), text, 0),),
            )
            for text, one in zip(texts, params, strict=True)
        ]

    async def stream(self, text: str, params: GenerationParams) -> AsyncIterator[str | Summary]:
        (summary,) = await self.generate([text], [params])
        for piece in re.findall(r"\S+\s*", summary.text):
            yield piece
        yield summary

    async def health(self) -> Health:
        return Health({"Relevance": Component(True, "overlap", "cpu")}, TARGETS.to_dict())

    async def windows(self, own: StatsWindow) -> list[StatsWindow]:
        return [own]

    async def models(self) -> dict[str, str]:
        return MODELS

    async def writer(self) -> str:
        return "lead-2"


@contextmanager
def api_server(
    backend: LightBackend | None = None,
    settings: dict[str, Any] | None = None,
    traffic: Traffic | None = None,
    **options: Any,
) -> Iterator[str]:
    """The URL of the real gateway over `backend`, else over a `LightBackend` of these options."""
    loaded = load_settings(**(settings or {}))
    app = create_app(backend or LightBackend(**options), loaded, traffic or Traffic())
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="warning"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    wait_for(lambda: server.started)
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join(10)


def wait_for(condition: Callable[[], bool], timeout_s: float = WAIT_S) -> None:
    """Returns once the condition holds; fails the test if it never does."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.01)
