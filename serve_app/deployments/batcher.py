"""Batches of what several requests want computed, in which every share has its turn.

Knows neither Ray nor models. The items of waiting requests are taken in turns, one of each share,
so a request of ten thousand texts delays one of three by no more than three texts and the batch
under way. What nobody waits for any longer is not computed: batches are short, so a machine is free
soon after its client has gone.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from serve_app.deployments.worker import failure, run_batch
from serve_app.errors import PlainMedError, Unavailable, moved
from serve_app.telemetry import Telemetry, Unrecorded
from serve_app.ticket import Ticket

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(eq=False)
class _Job(Generic[Item, Result]):
    """A request's items; `taken` of them are in a batch or done."""

    items: Sequence[Item]
    ticket: Ticket
    done: asyncio.Future[list[Result]]
    results: dict[int, Result | PlainMedError] = field(default_factory=dict)
    taken: int = 0
    came: float = field(default_factory=time.perf_counter)

    def deliver(self, index: int, outcome: Result | PlainMedError) -> None:
        self.results[index] = outcome
        if self.done.done():
            return
        if isinstance(outcome, PlainMedError):
            self.done.set_exception(moved(outcome, index))
        elif len(self.results) == len(self.items):
            ordered = [self.results[at] for at in range(len(self.items))]
            self.done.set_result([one for one in ordered if not isinstance(one, PlainMedError)])


class FairBatcher(Generic[Item, Result]):
    """Runs `work` on one batch after another, in a thread beside the event loop.

    Args:
        work: gives one result for each item; raises for the whole batch, which is then redone item
            by item, so that nobody's text fails another's.
        weigh: how much of a batch an item takes, >= 0.
        most: a batch closes at this weight; an item that is heavier is a batch of its own.
        wait_s: how long a first request waits for others.
        telemetry: is told of batches and waits.
    """

    def __init__(
        self,
        work: Callable[[Sequence[Item]], Sequence[Result]],
        weigh: Callable[[Item], int],
        *,
        most: int,
        wait_s: float,
        telemetry: Telemetry | None = None,
    ) -> None:
        self._telemetry = telemetry or Unrecorded()
        self._waiting = 0
        self._work, self._weigh = work, weigh
        self.most, self.wait_s = most, wait_s
        self._shares: OrderedDict[str, deque[_Job[Item, Result]]] = OrderedDict()
        self._running: asyncio.Task[None] | None = None

    async def submit(self, items: Sequence[Item], ticket: Ticket) -> list[Result]:
        """A result for each item, in order; cancelled, what was not begun is not computed.

        Raises:
            PlainMedError: what `work` raised of the first item that failed.
            Unavailable: the ticket's deadline passed before all of it was begun.
        """
        if not items:
            return []
        job: _Job[Item, Result] = _Job(items, ticket, asyncio.get_running_loop().create_future())
        self._shares.setdefault(ticket.share, deque()).append(job)
        self._count(len(items))
        if self._running is None or self._running.done():
            self._running = asyncio.create_task(self._run())
        try:
            return await job.done
        finally:
            self._count(job.taken - len(items))  # what was not begun never will be
            job.taken = len(items)

    async def _run(self) -> None:
        await asyncio.sleep(self.wait_s)
        while batch := self._take():
            started = time.perf_counter()
            outcomes: Sequence[Result | PlainMedError]
            try:
                outcomes = await run_batch(self._work, [job.items[index] for job, index in batch])
            except Exception as error:  # of no kind we know, but nobody may wait for ever
                outcomes = [failure(error)] * len(batch)
            self._telemetry.record("plainmed_batch_items", len(batch))
            self._telemetry.record("plainmed_batch_seconds", time.perf_counter() - started)
            for (job, index), outcome in zip(batch, outcomes, strict=True):
                job.deliver(index, outcome)

    def _count(self, more: int) -> None:
        self._waiting += more
        self._telemetry.record("plainmed_queued_items", self._waiting)

    def _take(self) -> list[tuple[_Job[Item, Result], int]]:
        """The items of the next batch: one of each share in turn, until it is full."""
        batch: list[tuple[_Job[Item, Result], int]] = []
        weight = 0
        while self._shares:
            share, jobs = next(iter(self._shares.items()))
            while jobs and not _wanted(jobs[0]):
                jobs.popleft()
            if not jobs:
                del self._shares[share]
                continue
            job = jobs[0]
            added = self._weigh(job.items[job.taken])
            if batch and weight + added > self.most:
                break
            if not job.taken:
                self._telemetry.record("plainmed_queue_seconds", time.perf_counter() - job.came)
            batch.append((job, job.taken))
            weight += added
            job.taken += 1
            self._count(-1)
            self._shares.move_to_end(share)
        return batch


def _wanted(job: _Job[Item, Result]) -> bool:
    """Whether there is something left to begin, and somebody who waits for it."""
    if job.done.done() or job.taken == len(job.items):
        return False
    if job.ticket.left() == 0:
        job.done.set_exception(Unavailable("the request's time is over; try again", code="timeout"))
        return False
    return True
