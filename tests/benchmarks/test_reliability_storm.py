"""Ten times the load against the real gateway over a backend of five requests a second."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence

import pytest

from benchmarks.overload import gust_rows
from benchmarks.reliability import storm
from benchmarks.reliability.sending import known
from benchmarks.texts import Texts, _shipped
from serve_app.api.middleware import admission
from serve_app.core.schemas import ProfileName
from serve_app.metrics.evaluation import Evaluation
from tests.support.servers import LightBackend, api_server
from tests.support.slow import slow


class OneByOne(LightBackend):
    """Answers one request after the other."""

    def __init__(self) -> None:
        super().__init__()
        self.turn = asyncio.Semaphore(1)

    async def evaluate(
        self,
        originals: Sequence[str],
        generated: Sequence[str],
        human: Sequence[str] | None,
        weights: Sequence[float] | None,
        profile: ProfileName,
    ) -> list[Evaluation]:
        async with self.turn:
            await asyncio.sleep(0.2)
            return await super().evaluate(originals, generated, human, weights, profile)


@slow(16)
async def test_a_storm_refuses_quickly_loses_nothing_and_is_over_soon(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in {
        "SUSTAINED_S": 2.0, "NORMAL_S": 2.0, "WARM_S": 0.5, "AFTER_S": 2.0, "SAMPLE_S": 1.0,
        "CASES": 4, "CLIENTS": (2, 4), "WINDOW_S": 2.0, "BATCH_S": 0.5,
    }.items():  # fmt: skip
        monkeypatch.setattr(storm, name, value)
    monkeypatch.setenv("MAX_WAIT_S", "2")
    monkeypatch.setattr(admission, "CROWDED_WAIT_S", 1.0)
    with api_server(OneByOne()) as url:
        texts = Texts("shipped", list(_shipped()))
        found = await storm.storm(url, os.getpid(), texts, 4.0)
    assert list(found.sustained) == [2, 4]
    sustained = max(found.sustained.values())
    assert 2.5 < sustained <= 5.5
    assert found.offered == pytest.approx(10 * sustained, rel=0.1)
    assert found.counts["refused"] > 0
    assert {found.counts[name] for name in ("wrong", "failed", "lost")} == {0}
    assert found.accepted > 0.6 * sustained
    assert found.slowest <= found.best
    assert found.answered.most < 10
    assert found.before.p50 < 0.5
    assert found.memory[0][1] > 0
    assert found.details == []


@slow(9)
async def test_a_gust_is_refused_as_quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "WARM_S": 0.5, "GUST_SUSTAINED_S": 2.0, "GUST_CLIENTS": 2, "BATCH_S": 0.5, "SETTLED_S": 1.0,
    }.items():  # fmt: skip
        monkeypatch.setattr(storm, name, value)
    monkeypatch.setenv("MAX_WAIT_S", "2")
    monkeypatch.setattr(admission, "CROWDED_WAIT_S", 1.0)
    pairs = list(_shipped())[:2]
    with api_server(OneByOne()) as url:
        cases = await known(url, storm.mixed(pairs))
        found = await storm.gust(url, [one for one in cases if one.path == "/loss"], 4.0)
    assert found.offered == pytest.approx(10 * found.sustained, rel=0.1)
    assert found.counts["refused"] > 0
    assert found.details == []
    assert [good for *_, good in gust_rows("x", found)][2] is True
