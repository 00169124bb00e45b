"""The generator deployment without Ray: merging, cancelling, and what failures become."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from serve_app.deployments.generator import Generator
from serve_app.errors import InvalidInput, MetricFailed
from serve_app.generation.protocol import GenerationParams, Summary
from serve_app.settings import load_settings
from tests.tiny_models import save_model

TEXT = "The trial included 120 adults."
LONG = GenerationParams(max_new_tokens=3000, temperature=0.0, repeat_penalty=1.1)


@pytest.fixture(scope="module")
def deployment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    model = save_model(tmp_path_factory.mktemp("models") / "tiny", context=4096)
    threads = torch.get_num_threads()
    settings = load_settings(
        model_path=str(model), device="cpu", torch_num_threads=1, generator_batch=4
    )
    yield Generator.func_or_class(settings)
    torch.set_num_threads(threads)


def passes(deployment: Any) -> int:
    found: int = deployment._engine.passes
    return found


async def until_writing(deployment: Any, since: int) -> None:
    deadline = time.monotonic() + 20
    while passes(deployment) < since + 5:
        assert time.monotonic() < deadline, "nothing is computed"
        await asyncio.sleep(0.01)


async def assert_it_stops(deployment: Any, since: int) -> None:
    await asyncio.sleep(0.1)
    seen = passes(deployment)
    await asyncio.sleep(0.3)
    assert passes(deployment) == seen
    assert seen - since < 2000, "it ran to its end"


def test_a_cancelled_request_stops_computing(deployment: Any) -> None:
    async def scene() -> None:
        before = passes(deployment)
        task = asyncio.create_task(deployment.generate([TEXT] * 2, [LONG] * 2))
        await until_writing(deployment, before)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await assert_it_stops(deployment, before)

    asyncio.run(scene())


def test_a_closed_stream_stops_computing(deployment: Any) -> None:
    async def scene() -> None:
        before = passes(deployment)
        pieces = deployment.stream(TEXT, LONG)
        assert isinstance(await anext(pieces), str)
        await pieces.aclose()
        await assert_it_stops(deployment, before)

    asyncio.run(scene())


def test_a_request_that_waits_for_its_turn_can_be_cancelled(deployment: Any) -> None:
    """More requests than rows and threads: the last ones have not begun when they are cancelled."""

    async def scene() -> None:
        before = passes(deployment)
        tasks = [asyncio.create_task(deployment.generate([TEXT], [LONG])) for _ in range(20)]
        await until_writing(deployment, before)
        for task in tasks:
            task.cancel()
        ended = await asyncio.gather(*tasks, return_exceptions=True)
        assert all(isinstance(one, asyncio.CancelledError) for one in ended)
        await assert_it_stops(deployment, before)

    asyncio.run(scene())


def test_requests_at_once_share_passes_and_answer_as_alone(deployment: Any) -> None:
    params = [GenerationParams(max_new_tokens=40, temperature=0.9, seed=seed) for seed in range(4)]

    async def scene() -> None:
        start = passes(deployment)
        alone = [(await deployment.generate([TEXT], [one]))[0] for one in params]
        middle = passes(deployment)
        together = await asyncio.gather(*(deployment.generate([TEXT], [one]) for one in params))
        assert [found[0] for found in together] == alone
        assert passes(deployment) - middle < (middle - start) * 0.7
        streamed = [piece async for piece in deployment.stream(TEXT, params[0])]
        assert streamed[-1] == alone[0]
        assert "".join(streamed[:-1]) == alone[0].text

    asyncio.run(scene())


def test_bad_input_is_told_and_a_failure_is_told_by_its_kind(
    deployment: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scene() -> None:
        with pytest.raises(InvalidInput):
            await deployment.generate([TEXT, "  "], [LONG, LONG])
        with pytest.raises(InvalidInput):
            await anext(deployment.stream("  ", LONG))

        def fail(*_: object, **__: object) -> list[Summary]:
            raise LookupError("a library quotes the patient")

        monkeypatch.setattr(deployment._engine, "generate", fail)
        with pytest.raises(MetricFailed) as caught:
            await deployment.generate([TEXT], [LONG])
        assert caught.value.message == "could not be computed: LookupError"

    asyncio.run(scene())
