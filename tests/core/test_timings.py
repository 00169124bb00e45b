"""Where a request's time went: noted where it happens, told in its one log line."""

from __future__ import annotations

import asyncio
import json
import logging
import pickle
import time

import httpx
import pytest
from ray._common.formatters import JSONFormatter

from serve_app.api.app import create_app
from serve_app.api.middleware.request_guard import Traffic
from serve_app.core.context import RequestContext
from serve_app.core.observability import tracing
from serve_app.core.observability.tracing import Timed, gather, note, stage, timed
from serve_app.core.settings import load_settings
from serve_app.metrics.readability import Readability
from serve_app.serving.remote_calls import call
from serve_app.serving.scheduling.fair_batcher import FairBatcher
from tests.support.backends import Clock
from tests.support.recording import Kept
from tests.support.servers import LightBackend

TEXTS = {"texts": ["Aspirin makes a stroke less likely."]}


async def test_tasks_of_a_request_note_into_it_and_others_do_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = Clock()
    monkeypatch.setattr(tracing, "time", clock)

    async def work(seconds: float) -> None:
        clock.move(seconds)

    async def request(name: str, *seconds: float) -> dict[str, float]:
        noted = gather()
        await asyncio.gather(*(timed(name, work(one)) for one in seconds))
        return noted

    requests = request("a", 1.0, 2.0), request("b", 3.0, 4.0)
    assert await asyncio.gather(*requests) == [{"a": 3.0}, {"b": 7.0}]


def test_of_waiting_times_the_longest_counts_and_other_stages_add_up() -> None:
    noted = gather()
    for seconds in (1.0, 3.0, 2.0):
        note("relevance_queue", seconds)
        note("relevance_compute", seconds)
    assert noted == {"relevance_queue": 3.0, "relevance_compute": 6.0}


def test_a_stage_that_fails_is_noted() -> None:
    noted = gather()
    with pytest.raises(ValueError, match="no"), stage("loss"):
        raise ValueError("no")
    assert "loss" in noted


async def test_results_bring_their_stages_from_another_process() -> None:
    sent = pickle.loads(pickle.dumps(Timed([1, 2], {"factuality_queue": 0.5})))
    assert sent == [1, 2]

    async def answer() -> Timed[int]:
        return sent

    noted = gather()
    assert await call(answer) == [1, 2]
    assert noted == {"factuality_queue": 0.5}


async def test_a_batch_tells_each_request_how_long_it_waited_and_was_computed() -> None:
    def work(items: object) -> list[int]:
        time.sleep(0.05)
        return list(items)  # type: ignore[call-overload]

    fair: FairBatcher[int, int] = FairBatcher(
        work, lambda _: 1, most=1, wait_s=0.0, name="relevance"
    )

    async def request(items: list[int]) -> dict[str, float]:
        noted = gather()
        await fair.submit(items, RequestContext())
        return noted

    first, second = await asyncio.gather(request([1, 2]), request([3]))
    assert first["relevance_compute"] >= 0.1  # in two batches
    assert second["relevance_queue"] >= 0.05  # behind the first of them
    assert second["relevance_queue"] > first["relevance_queue"]


class Slow(LightBackend):
    """Notes its work as the handles' backend does."""

    async def readability(self, texts: object) -> list[Readability]:
        with stage("readability"):
            await asyncio.sleep(0.05)
        return await super().readability(texts)  # type: ignore[arg-type]


async def test_the_log_line_of_a_request_has_its_stages_sizes_and_id_and_no_text(
    caplog: pytest.LogCaptureFixture,
) -> None:
    kept = Kept()
    app = create_app(Slow(), load_settings(), Traffic(), kept)
    transport = httpx.ASGITransport(app=app)
    with caplog.at_level(logging.INFO, logger="ray.serve"):
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as http:
            answer = await http.post(
                "/metrics/readability", json=TEXTS, headers={"x-request-id": "mine"}
            )
            await http.get("/Jane-Roe-has-lupus")
    line, unknown = (
        json.loads(JSONFormatter().format(record))
        for record in caplog.records
        if record.name == "ray.serve"
    )
    assert set(line["stages"]) == {"admission", "body", "readability"}
    assert 0.05 <= line["stages"]["readability"] <= line["seconds"]
    assert line["bytes"] == len(answer.request.content)
    assert line["bytes_sent"] == len(answer.content)
    assert line["path"] == "/metrics/readability"
    assert "id=mine" in line["message"]
    assert "Aspirin" not in caplog.text
    assert unknown["path"] == "other"
    assert "Jane" not in str(unknown)
    seconds = {labels["stage"]: value for value, labels in kept.of("plainmed_stage_seconds")}
    assert seconds["readability"] == pytest.approx(line["stages"]["readability"], abs=1e-4)
