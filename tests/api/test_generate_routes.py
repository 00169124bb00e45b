"""`/generate`: whom it refuses, and how a stream ends that fails or runs out of time."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from serve_app.api.app import create_app
from serve_app.api.auth.api_keys import dump_keys, new_key
from serve_app.api.middleware.request_guard import Traffic
from serve_app.core.errors import InvalidInput, MetricFailed, PlainMedError
from serve_app.core.settings import load_settings
from serve_app.generation.protocol import GenerationParams, Summary
from tests.support.recording import Kept
from tests.support.servers import LightBackend

STREAM = {"text": "A cat sat.", "stream": True}


def client(backend: LightBackend, telemetry: Kept | None = None, **settings: Any) -> Any:
    app = create_app(backend, load_settings(**settings), Traffic(), telemetry)
    transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
    return httpx.AsyncClient(transport=transport, base_url="http://test")


def last_event(answer: httpx.Response) -> tuple[str, Any]:
    name, data = answer.text.strip().split("\n\n")[-1].split("\n")
    return name.removeprefix("event: "), json.loads(data.removeprefix("data: "))


class Endless(LightBackend):
    """Writes one piece and then nothing; notes whether it was stopped."""

    stopped = False

    async def stream(self, text: str, params: GenerationParams) -> AsyncIterator[str | Summary]:
        yield "The first piece"
        try:
            await asyncio.Event().wait()
        finally:
            self.stopped = True


async def test_the_deadline_is_that_of_the_whole_stream() -> None:
    backend = Endless()
    async with client(backend) as http:
        headers = {"x-request-timeout": "0.2"}
        answer = await asyncio.wait_for(http.post("/generate", json=STREAM, headers=headers), 20)
    assert answer.status_code == 200
    name, body = last_event(answer)
    assert (name, body["error"]["code"]) == ("error", "timeout")
    assert backend.stopped


class Failing(LightBackend):
    """Fails after the first piece."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error = error

    async def stream(self, text: str, params: GenerationParams) -> AsyncIterator[str | Summary]:
        yield "The first piece"
        raise self.error


@pytest.mark.parametrize(
    ("error", "code", "logged"),
    [
        (MetricFailed("no"), "metric_failed", "metric_failed: MetricFailed"),
        (PlainMedError("no", code="generation_failed"), "generation_failed", "generation_failed"),
        (InvalidInput("bad", field="text", code="input_too_long"), "input_too_long", ""),
        (OSError("Jane Roe has lupus"), "internal_error", "a stream failed: OSError"),
    ],
)
async def test_a_stream_that_fails_is_counted_and_logged_by_its_code(
    error: Exception, code: str, logged: str, caplog: pytest.LogCaptureFixture
) -> None:
    kept = Kept()
    with caplog.at_level(logging.INFO, logger="ray.serve"):
        async with client(Failing(error), kept) as http:
            answer = await http.post("/generate", json=STREAM)
    assert last_event(answer)[1]["error"]["code"] == code
    assert kept.of("plainmed_errors") == [(1.0, {"code": code})]
    *errors, line = caplog.records
    assert vars(line)["code"] == code
    assert [one.getMessage().startswith(logged) for one in errors] == [True] * bool(logged)
    assert "Jane" not in caplog.text


async def test_a_stream_that_ends_well_has_no_code() -> None:
    kept = Kept()
    async with client(LightBackend(), kept) as http:
        answer = await http.post("/generate", json=STREAM)
    assert last_event(answer)[0] == "done"
    assert kept.of("plainmed_errors") == []


async def test_a_key_for_the_generator_alone_does_not_select_by_the_metrics() -> None:
    writer, both = new_key(services=("generator",)), new_key()
    backend = LightBackend()
    selecting = {"text": "A cat sat.", "n": 2, "select": "loss"}
    async with client(backend, api_keys=dump_keys([writer.entry, both.entry])) as http:

        async def ask(key: str, body: dict[str, Any]) -> httpx.Response:
            return await http.post("/generate", json=body, headers={"x-api-key": key})

        refused = await ask(writer.key, selecting)
        assert refused.status_code == 403
        error = refused.json()["error"]
        assert (error["code"], error["field"]) == ("service_not_allowed", "select")
        assert (backend.generated, backend.scored) == (0, [])
        assert (await ask(writer.key, {"text": "A cat sat.", "n": 2})).status_code == 200
        assert (await ask(both.key, selecting)).status_code == 200
