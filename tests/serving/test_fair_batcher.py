"""Batches over requests: every tenant has its turn, nobody's text fails another's, and what nobody
waits for is not computed."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Sequence
from contextvars import ContextVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serve_app.core.context import RequestContext
from serve_app.core.errors import InvalidInput, MetricFailed, PlainMedError, Unavailable
from serve_app.serving.remote_calls import in_pieces, pieces
from serve_app.serving.scheduling.fair_batcher import FairBatcher


class Recorder:
    """Doubles numbers; remembers its batches, and holds each one until it is let go."""

    def __init__(self, held: bool = False) -> None:
        self.batches: list[list[int]] = []
        self.started = threading.Semaphore(0)
        self.go = threading.Semaphore(0)
        self.held = held

    def __call__(self, items: Sequence[int]) -> list[int]:
        self.batches.append(list(items))
        self.started.release()
        if self.held:
            assert self.go.acquire(timeout=60)
        if any(item < 0 for item in items):
            raise ValueError("a secret of the patient")
        return [2 * item for item in items]

    async def wait_started(self) -> None:
        assert await asyncio.to_thread(self.started.acquire, timeout=60)


def batcher(work: Recorder, most: int = 4, wait_s: float = 0.0) -> FairBatcher[int, int]:
    return FairBatcher(work, lambda _: 1, most=most, wait_s=wait_s)


async def test_requests_that_wait_share_a_batch() -> None:
    work = Recorder()
    fair = batcher(work, most=10, wait_s=0.01)
    answers = await asyncio.gather(*(fair.submit([n, n + 1], RequestContext()) for n in (1, 5)))
    assert answers == [[2, 4], [10, 12]]
    assert len(work.batches) == 1


async def test_a_large_request_does_not_keep_a_small_one_waiting() -> None:
    work = Recorder(held=True)
    fair = batcher(work, most=4)
    large = asyncio.create_task(fair.submit(list(range(100)), RequestContext("large")))
    await work.wait_started()
    small = asyncio.create_task(fair.submit([1000, 1001], RequestContext("small")))
    await asyncio.sleep(0)
    work.go.release(2)
    assert await asyncio.wait_for(small, 60) == [2000, 2002]
    # The batch under way, and one that both have half of.
    assert work.batches[1] == [4, 1000, 5, 1001] or work.batches[1] == [1000, 4, 1001, 5]
    work.go.release(100)
    assert await large == [2 * n for n in range(100)]


async def test_many_requests_of_one_share_have_one_turn_together() -> None:
    work = Recorder(held=True)
    fair = batcher(work, most=4)
    first = asyncio.create_task(fair.submit([0], RequestContext("a")))
    await work.wait_started()
    greedy = [asyncio.create_task(fair.submit([n], RequestContext("a"))) for n in range(1, 20)]
    await asyncio.sleep(0)
    other = asyncio.create_task(fair.submit([100, 101], RequestContext("b")))
    await asyncio.sleep(0)
    work.go.release(2)
    assert await asyncio.wait_for(other, 60) == [200, 202]
    work.go.release(100)
    assert await asyncio.gather(first, *greedy) == [[2 * n] for n in range(20)]


async def test_one_bad_text_fails_its_request_only_and_names_its_place() -> None:
    def work(items: Sequence[int]) -> list[int]:
        if any(item < 0 for item in items):
            raise MetricFailed("no number", field="texts_generated[0]")
        return list(items)

    fair = FairBatcher(work, lambda _: 1, most=10, wait_s=0.01)
    good, bad = await asyncio.gather(
        fair.submit([1, 2], RequestContext()),
        fair.submit([3, 4, -1], RequestContext()),
        return_exceptions=True,
    )
    assert good == [1, 2]
    assert isinstance(bad, MetricFailed)
    assert bad.field == "texts_generated[2]"


async def test_an_error_nobody_foresaw_is_an_answer_too() -> None:
    def work(items: Sequence[int]) -> list[int]:
        raise KeyboardInterrupt if not items else NotADirectoryError("/home/jane")

    fair = FairBatcher(work, lambda _: 1, most=10, wait_s=0.0)
    with pytest.raises(MetricFailed) as caught:
        await asyncio.wait_for(fair.submit([1], RequestContext()), 60)
    assert "jane" not in caught.value.message


REQUEST: ContextVar[str] = ContextVar("request", default="none")
"""As Serve's own, by which it names the request of a line."""


async def test_a_failure_is_logged_with_the_ids_of_its_requests_and_of_no_other(
    caplog: pytest.LogCaptureFixture,
) -> None:
    seen: list[str] = []

    def work(items: Sequence[int]) -> list[int]:
        seen.append(REQUEST.get())
        if any(item < 0 for item in items):
            raise ValueError("a secret of the patient")
        return list(items)

    fair = FairBatcher(work, lambda _: 1, most=10, wait_s=0.02)

    async def request(name: str, items: list[int]) -> list[int]:
        REQUEST.set(name)
        return await fair.submit(items, RequestContext(request_id=name))

    with caplog.at_level(logging.WARNING, logger="ray.serve"):
        await asyncio.gather(request("first", [1, 2]), request("bad", [-1]), return_exceptions=True)
    batch, failed = caplog.records
    assert batch.getMessage() == "a batch of 3 failed (ValueError); one by one"
    assert batch.request_id == "first,bad"  # type: ignore[attr-defined]
    assert failed.request_id == "bad"  # type: ignore[attr-defined]
    assert set(seen) == {"none"}  # Serve would put the first one's id on every line


async def test_an_error_nobody_foresaw_is_logged_with_all_ids_of_its_batch(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def work(items: Sequence[int]) -> list[int]:
        raise NotADirectoryError

    fair = FairBatcher(work, lambda _: 1, most=10, wait_s=0.01)
    await asyncio.gather(
        *(fair.submit([1], RequestContext(request_id=name)) for name in ("a", "b")),
        return_exceptions=True,
    )
    assert [record.request_id for record in caplog.records] == ["a,b"]  # type: ignore[attr-defined]


async def test_what_is_cancelled_is_not_computed() -> None:
    work = Recorder(held=True)
    fair = batcher(work, most=1)
    gone = asyncio.create_task(fair.submit(list(range(50)), RequestContext()))
    await work.wait_started()
    stays = asyncio.create_task(fair.submit([100], RequestContext()))
    await asyncio.sleep(0)
    gone.cancel()
    work.go.release(100)
    assert await asyncio.wait_for(stays, 60) == [200]
    assert len(work.batches) <= 3


async def test_past_its_deadline_a_request_ends_and_is_not_computed() -> None:
    work = Recorder(held=True)
    fair = batcher(work, most=1)
    first = asyncio.create_task(fair.submit([1], RequestContext()))
    await work.wait_started()
    late = asyncio.create_task(fair.submit([2, 3], RequestContext(deadline=time.time() + 0.05)))
    await asyncio.sleep(0.1)
    work.go.release(10)
    with pytest.raises(Unavailable) as caught:
        await asyncio.wait_for(late, 60)
    assert caught.value.code == "timeout"
    assert await first == [2]
    assert work.batches == [[1]]


@settings(max_examples=30, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from("abc"), st.lists(st.integers(-5, 50), max_size=12)), max_size=8
    ),
    st.integers(1, 7),
)
def test_every_item_is_answered_in_its_place_whatever_the_batches(
    requests: list[tuple[str, list[int]]], most: int
) -> None:
    async def run() -> None:
        fair = batcher(Recorder(), most=most)
        answers = await asyncio.gather(
            *(fair.submit(items, RequestContext(tenant)) for tenant, items in requests),
            return_exceptions=True,
        )
        for (_, items), answer in zip(requests, answers, strict=True):
            if any(item < 0 for item in items):
                assert isinstance(answer, PlainMedError)
                assert "secret" not in answer.message
            else:
                assert answer == [2 * item for item in items]

    asyncio.run(run())


@given(st.lists(st.integers(0, 30)), st.integers(1, 40))
def test_pieces_are_consecutive_whole_and_small(sizes: list[int], most: int) -> None:
    parts = list(pieces(sizes, most))
    assert [size for part in parts for size in sizes[part]] == sizes
    for part in parts:
        assert part.stop - part.start == 1 or sum(sizes[part]) <= most


async def test_pieces_keep_order_and_few_are_under_way() -> None:
    under_way = most = 0

    def send(part: slice):  # type: ignore[no-untyped-def]
        async def work() -> list[int]:
            nonlocal under_way, most
            under_way += 1
            most = max(most, under_way)
            await asyncio.sleep(0.001 * (part.start % 3))
            under_way -= 1
            return list(range(part.start, part.stop))

        return work

    assert await in_pieces(send, [16_000] * 40) == list(range(40))
    assert most == 8


async def test_the_first_piece_that_fails_ends_the_request_and_names_its_place() -> None:
    finished: list[int] = []

    def send(part: slice):  # type: ignore[no-untyped-def]
        async def work() -> list[int]:
            if part.start == 2:
                raise InvalidInput("no word", field="texts[0]")
            await asyncio.sleep(0.2)
            finished.append(part.start)
            return [part.start]

        return work

    with pytest.raises(InvalidInput) as caught:
        await in_pieces(send, [16_000] * 4)
    assert caught.value.field == "texts[2]"
    await asyncio.sleep(0.3)
    assert finished == []
