"""Backends that are slow, held back or failing on purpose, a clock, and clients of the API in this
process."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any

import httpx

from serve_app.api.app import create_app
from serve_app.api.middleware.request_guard import Traffic
from serve_app.core.settings import load_settings
from serve_app.generation.protocol import GenerationParams, Summary
from serve_app.metrics.readability import Readability
from tests.support.servers import LightBackend


class Held(LightBackend):
    """Answers readability once `go` is set; `waiting` requests have arrived and wait for it."""

    def __init__(self) -> None:
        super().__init__()
        self.arrived, self.go = asyncio.Event(), asyncio.Event()
        self.waiting = 0

    async def readability(self, texts: Sequence[str]) -> list[Readability]:
        self.arrived.set()
        self.waiting += 1
        try:
            await self.go.wait()
        finally:
            self.waiting -= 1
        return await super().readability(texts)


class Failing(LightBackend):
    """Raises `error` from readability, and in the middle of a stream."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error = error

    async def readability(self, texts: Sequence[str]) -> list[Readability]:
        raise self.error

    async def stream(self, text: str, params: GenerationParams) -> AsyncIterator[str | Summary]:
        yield "The first piece"
        raise self.error


class Clock:
    """Seconds as the test says; a function like `time.monotonic`, or the module `time`."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now

    perf_counter = __call__

    def move(self, seconds: float) -> None:
        self.now += seconds


def client_of(app: Any, root_path: str = "") -> httpx.AsyncClient:
    """A client of an ASGI application; errors that leave it are answers, as with a server."""
    transport = httpx.ASGITransport(app=app, raise_app_exceptions=False, root_path=root_path)
    return httpx.AsyncClient(transport=transport, base_url="http://test")


def api_client(
    backend: LightBackend | None = None,
    traffic: Traffic | None = None,
    telemetry: Any = None,
    **settings: Any,
) -> httpx.AsyncClient:
    """A client of the API over `backend`, by default a `LightBackend`."""
    loaded = load_settings(**settings)
    return client_of(create_app(backend or LightBackend(), loaded, traffic or Traffic(), telemetry))
