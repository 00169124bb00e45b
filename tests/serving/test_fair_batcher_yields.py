"""Between two passes of a model a batch that nobody waits for ends, and what is long gives way."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Sequence

import pytest
import torch

from serve_app.core.context import PAUSE, RequestContext, Stopped, pause
from serve_app.core.errors import Unavailable
from serve_app.core.observability.tracing import Attributes, RequestTracer, gather
from serve_app.models.encoder_runtime import Batch, EncoderRuntime, TokenSequence
from serve_app.serving.scheduling import fair_batcher as batcher_module
from serve_app.serving.scheduling.fair_batcher import FairBatcher
from tests.support.recording import Kept

PASS_S = 0.01


class Passes:
    """Work of as many passes as the item says; notes whose pass each was, and that none overlap.

    A pass goes on while `go` is set; all together they took `took_s`.
    """

    def __init__(self) -> None:
        self.seen: list[int] = []
        self.overlaps = 0
        self.took_s = 0.0
        self.go = threading.Event()
        self.go.set()
        self._busy = threading.Lock()
        self.started = threading.Event()

    def __call__(self, items: Sequence[int]) -> list[int]:
        for item in items:
            for _ in range(item):
                pause()
                free = self._busy.acquire(blocking=False)
                self.overlaps += not free
                self.seen.append(item)
                self.started.set()
                began = time.perf_counter()
                assert self.go.wait(60)
                time.sleep(PASS_S)
                self.took_s += time.perf_counter() - began
                if free:
                    self._busy.release()
        return list(items)


def batcher(work: Passes) -> FairBatcher[int, int]:
    """An item over 20 passes is a large one."""
    return FairBatcher(work, lambda passes: passes, most=20, wait_s=0.0)


async def started(work: Passes) -> None:
    assert await asyncio.to_thread(work.started.wait, 60)


async def ended(batches: FairBatcher[int, int]) -> None:
    assert batches._running is not None
    await asyncio.wait_for(batches._running, 60)


@pytest.mark.parametrize("passes", [15, 1000])
async def test_a_batch_whose_only_client_goes_ends_at_its_next_pass(passes: int) -> None:
    work = Passes()
    work.go.clear()
    fair = batcher(work)
    gone = asyncio.create_task(fair.submit([passes], RequestContext()))
    await started(work)
    gone.cancel()
    await asyncio.wait([gone])
    work.go.set()
    await ended(fair)
    assert len(work.seen) == 1


async def test_a_batch_goes_on_while_one_of_its_clients_waits() -> None:
    work = Passes()
    fair = FairBatcher(work, lambda passes: passes, most=40, wait_s=0.01)
    gone = asyncio.create_task(fair.submit([7], RequestContext()))
    stays = asyncio.create_task(fair.submit([8], RequestContext()))
    await started(work)
    gone.cancel()
    assert await asyncio.wait_for(stays, 60) == [8]


async def test_past_its_deadline_a_batch_under_way_ends_and_says_so() -> None:
    work = Passes()
    fair = batcher(work)
    late = fair.submit([1000], RequestContext(deadline=time.time() + 5 * PASS_S))
    with pytest.raises(Unavailable) as caught:
        await asyncio.wait_for(late, 60)
    assert caught.value.code == "timeout"
    await ended(fair)
    assert len(work.seen) < 1000


async def test_small_items_are_computed_in_the_pauses_of_a_large_one() -> None:
    work = Passes()
    fair = batcher(work)
    large = asyncio.create_task(fair.submit([100], RequestContext("large")))
    await started(work)
    for _ in range(3):
        assert await asyncio.wait_for(fair.submit([3], RequestContext()), 60) == [3]
        assert not large.done()
    assert await asyncio.wait_for(large, 60) == [100]
    assert work.seen.count(100) == 100
    assert work.overlaps == 0


async def test_a_large_item_has_half_of_the_time_beside_endless_small_ones() -> None:
    work = Passes()
    fair = batcher(work)
    large = asyncio.create_task(fair.submit([60], RequestContext("large")))
    await started(work)

    async def endless() -> None:
        while not large.done():
            await fair.submit([5], RequestContext())

    others = [asyncio.create_task(endless()) for _ in range(4)]
    assert await asyncio.wait_for(large, 60) == [60]
    until = work.seen[: len(work.seen) - work.seen[::-1].index(60)]
    assert 0.25 < until.count(60) / len(until) < 0.75
    await asyncio.gather(*others)


async def test_a_second_large_item_waits_for_the_first_one() -> None:
    work = Passes()
    fair = batcher(work)
    first = asyncio.create_task(fair.submit([30], RequestContext()))
    await started(work)
    second = asyncio.create_task(fair.submit([40], RequestContext()))
    small = asyncio.create_task(fair.submit([2], RequestContext()))
    assert [*await asyncio.gather(first, second, small)] == [[30], [40], [2]]
    assert work.seen.index(40) > len(work.seen) - 41
    assert work.seen.index(2) < 30 + 2
    assert work.overlaps == 0


class Longs(Passes):
    """The same, of items that are all ten passes long."""

    def __call__(self, items: Sequence[int]) -> list[int]:
        for item in items:
            for _ in range(10):
                super().__call__([1])
                self.seen[-1] = item
        return list(items)


def of_ten(work: Longs) -> FairBatcher[int, int]:
    """Five items a batch."""
    return FairBatcher(work, lambda _: 1, most=5, wait_s=0.0)


async def test_a_batch_of_many_of_one_share_gives_way_to_others_between_two_passes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(batcher_module, "YIELD_AFTER_S", 3 * PASS_S)
    work = Longs()
    fair = of_ten(work)
    large = asyncio.create_task(fair.submit([1] * 10, RequestContext("large")))
    await started(work)
    small = [asyncio.create_task(fair.submit([n], RequestContext())) for n in (2, 3)]
    assert await asyncio.gather(*small) == [[2], [3]]
    assert work.seen.count(1) < 50, "the batch under way had not ended"
    assert not large.done()
    assert await asyncio.wait_for(large, 60) == [1] * 10
    assert work.seen.count(1) == 100
    assert work.overlaps == 0


async def test_one_item_of_each_share_goes_first_and_then_the_batch_has_its_turn(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(batcher_module, "YIELD_AFTER_S", 3 * PASS_S)
    work = Longs()
    fair = of_ten(work)
    large = asyncio.create_task(fair.submit([1] * 5, RequestContext("large")))
    await started(work)
    several = asyncio.create_task(fair.submit([2, 2], RequestContext("several")))
    assert await asyncio.gather(large, several) == [[1] * 5, [2, 2]]
    first = work.seen.index(2)
    assert 0 < first < 50
    assert work.seen[first : first + 10] == [2] * 10
    # Its second waits until the batch has had as much.
    assert work.seen[first + 10 : first + 15] == [1] * 5
    assert work.overlaps == 0


@pytest.mark.parametrize(
    ("first", "give_way_s"),
    [
        ([RequestContext("a")] * 3, 60.0),
        ([RequestContext("a"), RequestContext("b"), RequestContext("c")], 0.0),
    ],
    ids=["a short batch", "a batch of one item of each tenant"],
)
async def test_not_every_batch_gives_way(
    first: list[RequestContext], give_way_s: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batcher_module, "YIELD_AFTER_S", give_way_s)
    work = Longs()
    fair = FairBatcher(work, lambda _: 1, most=5, wait_s=0.01)
    early = [asyncio.create_task(fair.submit([1], context)) for context in first]
    await started(work)
    late = asyncio.create_task(fair.submit([2], RequestContext("late")))
    await asyncio.gather(*early, late)
    assert work.seen == [1] * 30 + [2] * 10


async def test_a_share_of_the_batch_does_not_go_before_itself(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(batcher_module, "YIELD_AFTER_S", 0.0)
    work = Longs()
    fair = of_ten(work)
    one = asyncio.create_task(fair.submit([1] * 3, RequestContext("caller")))
    await started(work)
    other = asyncio.create_task(fair.submit([2], RequestContext("caller")))
    await asyncio.gather(one, other)
    assert work.seen == [1] * 30 + [2] * 10


class Spans(RequestTracer):
    """Keeps what is told of past work."""

    def __init__(self) -> None:
        self.seen: list[tuple[float, Attributes]] = []

    def past(
        self, name: str, parent: str | None, began: float, ended: float, attributes: Attributes
    ) -> None:
        self.seen.append((ended - began, attributes))


async def test_the_time_of_a_batch_is_without_that_of_others_in_its_pauses() -> None:
    kept, spans, work = Kept(), Spans(), Passes()
    fair = FairBatcher(
        work, lambda n: n, most=20, wait_s=0.0, telemetry=kept, tracer=spans, name="relevance"
    )
    noted: dict[str, float] = {}

    async def request(passes: int) -> None:
        mine = gather()
        await fair.submit([passes], RequestContext())
        noted[str(passes)] = mine["relevance_compute"]

    large = asyncio.create_task(request(30))
    await started(work)
    await asyncio.gather(*(request(n) for n in (18, 19)))
    await large
    seconds = [value for value, _ in kept.of("plainmed_batch_seconds")]
    # Once each, however they lay within each other.
    assert sum(seconds) < 1.5 * work.took_s
    assert noted["30"] == pytest.approx(seconds[-1])
    took, about = spans.seen[-1]
    assert took - float(about["plainmed.batch.lent_s"]) == pytest.approx(seconds[-1], abs=1e-3)
    assert float(about["plainmed.batch.lent_s"]) > 18 * PASS_S


def stop_after(passes: int) -> Callable[[], None]:
    left = iter(range(passes))

    def stop() -> None:
        if next(left, None) is None:
            raise Stopped

    return stop


def test_the_encoder_pauses_before_every_pass() -> None:
    class Counting(torch.nn.Module):
        passes = 0

        def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
            self.passes += 1
            return input_ids

    def rows(output: torch.Tensor, _: Batch) -> list[int]:
        return [0] * len(output)

    model = Counting()
    runtime = EncoderRuntime(model, pad_token_id=0, device="cpu", max_rows=1)
    token = PAUSE.set(stop_after(3))
    try:
        with pytest.raises(Stopped):
            runtime.run([TokenSequence([1, 2])] * 10, rows)
    finally:
        PAUSE.reset(token)
    assert model.passes == 3
    runtime.run([TokenSequence([1, 2])] * 4, rows)
    assert model.passes == 7
