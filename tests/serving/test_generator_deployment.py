"""The generator deployment without Ray: merging, turns, cancelling, deadlines, what is counted, and
what failures become."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from serve_app.core import context as core_context
from serve_app.core.context import RequestContext
from serve_app.core.errors import InvalidInput, MetricFailed, Unavailable
from serve_app.core.settings import load_settings
from serve_app.generation import best_of
from serve_app.generation.protocol import GenerationParams, Summary
from serve_app.serving.deployments import generator as generator_module
from serve_app.serving.deployments.generator import FairExecutor, Generator
from tests.support.backends import Clock
from tests.support.recording import Kept
from tests.support.servers import wait_for
from tests.support.tiny_models import save_model

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
    deadline = time.monotonic() + 60
    while passes(deployment) < since + 5:
        assert time.monotonic() < deadline, "nothing is computed"
        await asyncio.sleep(0.01)


async def assert_it_stops(deployment: Any, since: int) -> None:
    seen = -1
    while passes(deployment) != seen:
        seen = passes(deployment)
        await asyncio.sleep(0.3)
    assert seen - since < 2900, "it ran to its end"


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


def test_a_large_request_still_fills_the_engine(deployment: Any) -> None:
    """Its texts come one by one, and are decoded as many at once as the engine takes."""
    params = [GenerationParams(max_new_tokens=30, temperature=0.9, seed=seed) for seed in range(16)]

    async def scene() -> None:
        start = passes(deployment)
        await deployment.generate([TEXT] * 16, params)
        # Four at once; one after the other they would take 16 times 30.
        assert passes(deployment) - start < 16 * 30 / 2

    asyncio.run(scene())


# --- turns, deadlines and counts, with an engine made by hand -------------------------------

PLAIN = GenerationParams()
DONE = Summary("It helps.", "fake", prompt_tokens=5, completion_tokens=7)


class Engine:
    """Calls `during` for each text; writes `DONE`, or what it has where it is told to stop."""

    name, device, batch_size = "fake", "cpu", 1

    def __init__(self, *, together: bool = True) -> None:
        self.candidates_together = together
        self.calls: list[list[str]] = []
        self.tenants: list[str | None] = []
        self.during: Callable[[Callable[[], bool]], None] = lambda cancelled: None
        self.exhausted = threading.Event()

    def validate(self, text: str, params: GenerationParams) -> None:
        if text == "refused":
            raise InvalidInput("over the context", field="text", code="input_too_long")

    def generate(
        self,
        texts: Sequence[str],
        params: Sequence[GenerationParams],
        *,
        cancelled: Callable[[int], bool],
        tenant: str | None,
    ) -> list[Summary]:
        self.calls.append(list(texts))
        self.tenants.append(tenant)
        self.during(lambda: cancelled(0))
        ended = replace(DONE, finish_reason="cancelled") if cancelled(0) else DONE
        return [ended] * len(texts)

    def stream(
        self,
        text: str,
        params: GenerationParams,
        *,
        cancelled: Callable[[], bool],
        tenant: str | None,
    ) -> Iterator[str | Summary]:
        self.validate(text, params)
        yield "It "
        self.during(cancelled)
        yield "helps."
        yield replace(DONE, finish_reason="cancelled") if cancelled() else DONE
        self.exhausted.set()


class Spans:
    """A tracer that keeps what its spans are told."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, dict[str, Any], str | None]] = []

    @contextmanager
    def span(self, name: str, parent: str | None, attributes: Any) -> Iterator[Any]:
        said, error = dict(attributes), None
        try:
            yield SimpleNamespace(set_attribute=said.__setitem__)
        except BaseException as raised:
            error = type(raised).__name__
            raise
        finally:
            self.seen.append((name, said, error))

    def close(self) -> None:
        """Nothing."""


def made(engine: Engine, threads: int = 1) -> Any:
    """The deployment around it."""
    found = Generator.func_or_class.__new__(Generator.func_or_class)
    found._engine, found._tracer, found._telemetry = engine, Spans(), Kept()
    found._turns = FairExecutor(ThreadPoolExecutor(threads))
    return found


async def until(holds: Callable[[], bool]) -> None:
    await asyncio.to_thread(wait_for, holds)


def until_told(cancelled: Callable[[], bool]) -> None:
    """As an engine that is slow and asks."""
    wait_for(cancelled)


async def test_one_text_waits_for_one_text_of_a_large_request() -> None:
    engine, go = Engine(), threading.Event()
    subject = made(engine)
    engine.during = lambda _: go.wait(60)  # type: ignore[assignment]
    texts = [f"text {number}" for number in range(100)]
    large = asyncio.create_task(subject.generate(texts, [PLAIN] * 100, RequestContext("large")))
    await until(lambda: len(engine.calls) == 1)
    one = asyncio.create_task(subject.generate(["one"], [PLAIN], RequestContext("one")))
    await asyncio.sleep(0)
    go.set()
    assert await one == [DONE]
    assert ["one"] in engine.calls[:3]
    assert await large == [DONE] * 100
    assert engine.calls[0] == ["text 0"]
    assert engine.tenants.count("large") == 100


@pytest.mark.parametrize(("together", "calls"), [(True, 2), (False, 6)])
async def test_candidates_of_a_text_are_written_in_one_call_where_the_engine_gains_by_it(
    together: bool, calls: int
) -> None:
    engine = Engine(together=together)
    assert len(await made(engine).generate(*best_of.jobs(["a", "b"], PLAIN, 3))) == 6
    assert len(engine.calls) == calls


async def test_where_a_text_is_refused_none_is_written() -> None:
    engine = Engine()
    with pytest.raises(InvalidInput) as caught:
        await made(engine).generate(["good"] * 9 + ["refused"], [PLAIN] * 10)
    assert caught.value.code == "input_too_long"
    assert engine.calls == []


async def test_a_text_that_fails_ends_the_others_of_its_request() -> None:
    engine = Engine()

    def fail(cancelled: Callable[[], bool]) -> None:
        if len(engine.calls) == 1:
            raise LookupError("a library quotes the patient")
        until_told(cancelled)

    engine.during = fail
    subject = made(engine)
    with pytest.raises(MetricFailed):
        await subject.generate([f"text {number}" for number in range(50)], [PLAIN] * 50)
    engine.during = lambda _: None
    assert await subject.generate(["after"], [PLAIN]) == [DONE]
    assert len(engine.calls) <= 3  # one more may have begun before the failure was known


async def test_a_client_that_leaves_stops_what_is_under_way_and_what_has_not_begun() -> None:
    engine = Engine()
    engine.during = until_told
    subject = made(engine)
    task = asyncio.create_task(subject.generate(["a", "b", "c"], [PLAIN] * 3))
    await until(lambda: len(engine.calls) == 1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    engine.during = lambda _: None
    assert await subject.generate(["after"], [PLAIN]) == [DONE]
    assert engine.calls == [["a"], ["after"]]


async def test_past_the_deadline_there_is_an_error_and_no_cut_summary(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock, engine = Clock(), Engine()
    monkeypatch.setattr(core_context, "time", SimpleNamespace(time=clock))

    def late(cancelled: Callable[[], bool]) -> None:
        clock.move(2.0)
        until_told(cancelled)

    engine.during = late
    subject = made(engine)
    with pytest.raises(Unavailable) as caught:
        await subject.generate(["a"], [PLAIN], RequestContext(deadline=clock() + 1.0))
    assert caught.value.code == "timeout"
    pieces = subject.stream("a", PLAIN, RequestContext(deadline=clock() + 1.0))
    assert [await anext(pieces), await anext(pieces)] == ["It ", "helps."]
    with pytest.raises(Unavailable) as caught:
        await anext(pieces)
    assert caught.value.code == "timeout"


async def test_a_stream_that_has_begun_waits_for_nobodys_turn() -> None:
    engine, go = Engine(), threading.Event()
    subject = made(engine, threads=2)
    engine.during = lambda _: go.wait(60)  # type: ignore[assignment]
    pieces = subject.stream("a", PLAIN)
    assert await anext(pieces) == "It "
    large = asyncio.create_task(subject.generate([str(n) for n in range(50)], [PLAIN] * 50))
    await until(lambda: len(engine.calls) == 1)
    engine.during = lambda _: None
    go.set()
    assert [piece async for piece in pieces] == ["helps.", DONE]
    await large


async def test_the_time_of_a_summary_is_that_in_the_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, engine, go = Clock(), Engine(), threading.Event()
    monkeypatch.setattr(generator_module, "time", clock)
    subject = made(engine)

    def work(_: Callable[[], bool]) -> None:
        go.wait(60)
        clock.move(2.0)

    engine.during = work
    tasks = [asyncio.create_task(subject.generate(["a"], [PLAIN])) for _ in range(3)]
    await until(lambda: len(engine.calls) == 1)
    go.set()
    answers = await asyncio.gather(*tasks)
    kept = subject._telemetry
    assert [value for value, _ in kept.of("plainmed_generation_seconds")] == [2.0] * 3
    assert [value for value, _ in kept.of("plainmed_generation_rate")] == [3.5] * 3
    assert [one.seconds["generator_queue"] for one in answers] == [0.0, 2.0, 4.0]
    assert [one.seconds["generator_compute"] for one in answers] == [2.0] * 3


async def test_a_slow_reader_is_no_time_of_the_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, engine = Clock(), Engine()
    monkeypatch.setattr(generator_module, "time", clock)
    engine.during = lambda _: clock.move(2.0)
    subject = made(engine)
    pieces = subject.stream("a", PLAIN)
    assert await anext(pieces) == "It "
    await until(engine.exhausted.is_set)
    clock.move(1000.0)
    assert [piece async for piece in pieces] == ["helps.", DONE]
    assert subject._telemetry.of("plainmed_generation_seconds") == [(2.0, {"model": "fake"})]


async def test_what_was_written_for_a_caller_who_is_gone_is_counted() -> None:
    engine = Engine()
    engine.during = until_told
    subject = made(engine)
    task = asyncio.create_task(subject.generate(["a"], [PLAIN]))
    await until(lambda: len(engine.calls) == 1)
    task.cancel()
    kept = subject._telemetry
    await until(lambda: bool(kept.of("plainmed_completion_tokens")))
    assert kept.of("plainmed_completion_tokens") == [(7, {"model": "fake"})]
    assert kept.of("plainmed_prompt_tokens") == [(5, {"model": "fake"})]
    assert kept.of("plainmed_summaries") == [
        (1.0, {"model": "fake", "finish_reason": "cancelled"}),
    ]


async def test_a_streams_span_has_its_tokens_or_the_kind_of_its_error() -> None:
    engine = Engine()
    subject = made(engine)
    assert [piece async for piece in subject.stream("a", PLAIN)][-1] == DONE

    def fail(_: Callable[[], bool]) -> None:
        raise LookupError("a library quotes the patient")

    engine.during = fail
    with pytest.raises(MetricFailed):
        _ = [piece async for piece in subject.stream("a", PLAIN)]
    with pytest.raises(InvalidInput):
        await anext(subject.stream("refused", PLAIN))
    good, bad, refused = subject._tracer.seen
    assert (good[0], good[1]["plainmed.tokens"], good[2]) == ("stream", 7, None)
    assert good[1]["plainmed.model"] == "fake"
    assert (bad[0], bad[2]) == ("stream", "LookupError")
    assert refused[2] == "InvalidInput"
