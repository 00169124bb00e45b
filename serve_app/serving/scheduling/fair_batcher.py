"""Batches the work of several requests, taking tenants in turn.

Knows neither Ray nor models. A batch takes one item of each waiting tenant in turn, so a request
of ten thousand texts delays one of three by no more than three texts and a moment. A batch with
several items of one tenant yields after half a second: between two passes of the model, one item
of each tenant that has none in the batch goes first, and then the batch works for as long as those
took. An item too large for a batch yields at once. A batch of one item a tenant never yields, since
later requests would only delay earlier ones. Work nobody waits for any longer is not computed, and
a batch under way ends at its next pass.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Sequence
from contextvars import Context
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from serve_app.core.context import RequestContext
from serve_app.core.errors import PlainMedError, moved, out_of_time
from serve_app.core.observability.instruments import Telemetry, Unrecorded
from serve_app.core.observability.timings import QUEUE, note
from serve_app.core.observability.tracing import Tracer, Untraced
from serve_app.models.yield_points import PAUSE, Stopped
from serve_app.serving.scheduling.compute_thread import failure, run_batch

YIELD_AFTER_S = 0.5
"""A batch that is shorter is not worth interrupting; one that is longer works for so long at a
time, or for as long as others took, before it lets others go first again."""

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(eq=False)
class _Job(Generic[Item, Result]):
    """A request's items; `taken` of them are in a batch or done.

    `begun` is when the first was, 0 where none is; `computed` the seconds of the batches they were
    in.
    """

    items: Sequence[Item]
    context: RequestContext
    done: asyncio.Future[list[Result]]
    results: dict[int, Result | PlainMedError] = field(default_factory=dict)
    taken: int = 0
    came: float = field(default_factory=time.perf_counter)
    begun: float = 0.0
    computed: float = 0.0

    def awaited(self) -> bool:
        """Whether somebody still waits for it."""
        return not self.done.done() and self.context.left() > 0

    def deliver(self, index: int, outcome: Result | PlainMedError) -> None:
        self.results[index] = outcome
        if self.done.done():
            return
        if isinstance(outcome, PlainMedError):
            self.done.set_exception(moved(outcome, index))
        elif len(self.results) == len(self.items):
            ordered = [self.results[at] for at in range(len(self.items))]
            self.done.set_result([one for one in ordered if not isinstance(one, PlainMedError)])


@dataclass(frozen=True, slots=True)
class _Others:
    """Which tenants may preempt a batch once it has worked for `after_s`: all `but` these, each
    `once` or as often as fits."""

    but: frozenset[str]
    once: bool = False
    after_s: float = 0.0


@dataclass(slots=True)
class _Lent:
    """Seconds in which others were computed in a batch's pauses."""

    seconds: float = 0.0


class FairBatcher(Generic[Item, Result]):
    """Runs `work` on one batch after another, in a thread beside the event loop.

    Args:
        work: gives one result for each item; raises for the whole batch, which is then redone item
            by item, so that nobody's text fails another's.
        weigh: how much of a batch an item takes, >= 0.
        most: a batch closes at this weight; an item that is heavier is a batch of its own. Between
            two passes (`metrics.pauses`) of such a one, or of a batch with several items of a
            tenant, others are computed.
        wait_s: how long a first request waits for others.
        telemetry: is told of batches and waits.
        tracer: makes a span of each batch for each request in it.
        name: of what is computed, for stages and spans.
    """

    def __init__(
        self,
        work: Callable[[Sequence[Item]], Sequence[Result]],
        weigh: Callable[[Item], int],
        *,
        most: int,
        wait_s: float,
        telemetry: Telemetry | None = None,
        tracer: Tracer | None = None,
        name: str = "batch",
    ) -> None:
        self._tracer, self._name = tracer or Untraced(), name
        self._telemetry = telemetry or Unrecorded()
        self._waiting = 0
        self._work, self._weigh = work, weigh
        self.most, self.wait_s = most, wait_s
        self._tenants: OrderedDict[str, deque[_Job[Item, Result]]] = OrderedDict()
        self._running: asyncio.Task[None] | None = None

    async def submit(self, items: Sequence[Item], context: RequestContext) -> list[Result]:
        """A result for each item, in order; cancelled, what was not begun is not computed.

        Raises:
            PlainMedError: what `work` raised of the first item that failed.
            Unavailable: the context's deadline passed before all of it was begun.
        """
        if not items:
            return []
        job: _Job[Item, Result] = _Job(items, context, asyncio.get_running_loop().create_future())
        self._tenants.setdefault(context.tenant, deque()).append(job)
        self._count(len(items))
        if self._running is None or self._running.done():
            # In a context of its own: it works for those who come later as well, and what it logs
            # would have the first one's request id.
            self._running = asyncio.create_task(self._run(), context=Context())
        try:
            return await job.done
        finally:
            if not job.begun:  # out of time or cancelled: it is the longest waits that end so
                self._begin(job)
            note(f"{self._name}{QUEUE}", job.begun - job.came)
            note(f"{self._name}_compute", job.computed)
            self._count(job.taken - len(items))  # what was not begun never will be
            job.taken = len(items)

    async def _run(self) -> None:
        await asyncio.sleep(self.wait_s)
        while batch := self._take():
            await self._compute(batch)

    async def _compute(self, batch: Sequence[tuple[_Job[Item, Result], int]]) -> None:
        """Runs `work` on a batch and gives everyone theirs."""
        jobs, items = [job for job, _ in batch], [job.items[index] for job, index in batch]
        ids, lent = [job.context.request_id for job in jobs], _Lent()
        PAUSE.set(self._pause(jobs, self._let_before(jobs, items), lent))
        started, began = time.perf_counter(), time.time()
        outcomes: Sequence[Result | PlainMedError]
        try:
            outcomes = await run_batch(self._work, items, ids)
        except Stopped:
            outcomes = [out_of_time()] * len(batch)
        except Exception as error:  # of no kind we know, but nobody may wait for ever
            outcomes = [failure(error, ids)] * len(batch)
        self._telemetry.record("plainmed_batch_items", len(batch))
        seconds = time.perf_counter() - started
        self._telemetry.record("plainmed_batch_seconds", seconds - lent.seconds)
        self._share_out(jobs, began, seconds, lent.seconds)
        for (job, index), outcome in zip(batch, outcomes, strict=True):
            job.deliver(index, outcome)

    def _let_before(
        self, jobs: Sequence[_Job[Item, Result]], items: Sequence[Item]
    ) -> _Others | None:
        """Whom a batch lets go first between two passes; None: nobody."""
        if self._weigh(items[0]) > self.most:
            return _Others(frozenset())
        turns = Counter(job.context.tenant for job in jobs)
        if max(turns.values()) == 1:
            return None
        return _Others(frozenset(turns), once=True, after_s=YIELD_AFTER_S)

    def _pause(
        self, jobs: Sequence[_Job[Item, Result]], others: _Others | None, lent: _Lent
    ) -> Callable[[], None]:
        """What a batch's thread does between two passes: ends where nobody waits for any of it;
        lets others go first, for how long `lent` says, and then works for as long as they took."""
        loop, resumed, others_took = asyncio.get_running_loop(), time.perf_counter(), 0.0

        def pause() -> None:
            nonlocal resumed, others_took
            if not any(job.awaited() for job in jobs):
                raise Stopped
            started = time.perf_counter()
            if others is None or started - resumed < max(others_took, others.after_s):
                return
            # Counted, not looked through: the loop changes them meanwhile.
            if len(self._tenants) > sum(tenant in self._tenants for tenant in others.but):
                # The thread waits meanwhile, so the model still has one user at a time.
                asyncio.run_coroutine_threadsafe(self._between(others), loop).result()
                resumed = time.perf_counter()
                others_took = resumed - started
                lent.seconds += others_took

        return pause

    async def _between(self, others: _Others) -> None:
        """One batch of others."""
        if batch := self._take(others):
            await self._compute(batch)

    def _share_out(
        self, jobs: Sequence[_Job[Item, Result]], began: float, seconds: float, lent: float
    ) -> None:
        """Tells each request of the batch that some of its items were in; others had `lent` of the
        seconds, and are told themselves."""
        for job, own in Counter(jobs).items():
            job.computed += seconds - lent
            about = {
                "plainmed.batch.items": len(jobs),
                "plainmed.items": own,
                "plainmed.batch.lent_s": round(lent, 4),
            }
            parent = job.context.traceparent
            self._tracer.past(f"{self._name} batch", parent, began, began + seconds, about)

    def _begin(self, job: _Job[Item, Result]) -> None:
        job.begun = time.perf_counter()
        self._telemetry.record("plainmed_queue_seconds", job.begun - job.came)

    def _count(self, more: int) -> None:
        self._waiting += more
        self._telemetry.record("plainmed_queued_items", self._waiting)

    def _take(self, others: _Others | None = None) -> list[tuple[_Job[Item, Result], int]]:
        """The items of the next batch: one of each tenant in turn, until it is full.

        Args:
            others: in a pause: only of these, and no item larger than a batch.
        """
        batch: list[tuple[_Job[Item, Result], int]] = []
        passed = set(others.but) if others else set()
        weight = 0
        while tenant := next((one for one in self._tenants if one not in passed), None):
            jobs = self._tenants[tenant]
            while jobs and not _wanted(jobs[0]):
                jobs.popleft()
            if not jobs:
                del self._tenants[tenant]
                continue
            job = jobs[0]
            added = self._weigh(job.items[job.taken])
            if others and (others.once or added > self.most):
                passed.add(tenant)
            if others and added > self.most:
                continue
            if batch and weight + added > self.most:
                break
            if not job.taken:
                self._begin(job)
            batch.append((job, job.taken))
            weight += added
            job.taken += 1
            self._count(-1)
            self._tenants.move_to_end(tenant)
        return batch


def _wanted(job: _Job[Item, Result]) -> bool:
    """Whether there is something left to begin, and somebody who waits for it."""
    if job.done.done() or job.taken == len(job.items):
        return False
    if job.context.left() == 0:
        job.done.set_exception(out_of_time())
        return False
    return True
