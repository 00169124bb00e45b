"""Batches the work of several requests, taking tenants in turn.

Knows neither Ray nor models. A batch takes one item of each waiting tenant in turn, so a request
of ten thousand texts delays one of three by no more than three texts and a moment. A batch with
several items of one tenant yields after half a second: between two passes of the model, one item
of each tenant that has none in the batch runs first, and then the batch works for as long as those
took. An item too large for a batch yields at once. A batch of one item a tenant never yields, since
later requests would only delay earlier ones. Work nobody waits for any longer is not computed, and
a batch under way ends at its next pass.

A batch runs in a thread, so that the replica's event loop stays free for health checks. A failed
batch is run again item by item, so that one bad text fails only its own request.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import Context, copy_context
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from serve_app.core.context import PAUSE, RequestContext, Stopped
from serve_app.core.errors import FAILURES, PlainMedError, moved, out_of_time
from serve_app.core.observability.instruments import Telemetry, Unrecorded
from serve_app.core.observability.tracing import QUEUE, RequestTracer, note
from serve_app.serving.scheduling.compute_thread import failure, log_fields, lower_priority

YIELD_AFTER_S = 0.5
"""A shorter batch is not worth interrupting; a longer one works for this long at a time, or for as
long as the others took, before it yields again."""

# Three threads at most are busy for one batcher: a batch, one that preempts it, one that preempts
# that. The others wait for them, so the model has one user at a time.
_THREADS = ThreadPoolExecutor(32, "compute", initializer=lower_priority)

Item = TypeVar("Item")
Result = TypeVar("Result")

logger = logging.getLogger("ray.serve")


@dataclass(eq=False)
class _Job(Generic[Item, Result]):
    """A request's items; the first `taken` of them are in a batch or done.

    `begun` is when the first was, 0 where none is; `computed` the seconds of their batches.
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

    def has_next(self) -> bool:
        """Whether an item is left to begin for somebody who waits; one out of time is told so."""
        if self.done.done() or self.taken == len(self.items):
            return False
        if self.context.left() == 0:
            self.done.set_exception(out_of_time())
            return False
        return True

    def deliver(self, index: int, outcome: Result | PlainMedError) -> None:
        self.results[index] = outcome
        if self.done.done():
            return
        if isinstance(outcome, PlainMedError):
            self.done.set_exception(moved(outcome, index))
        elif len(self.results) == len(self.items):
            ordered = [self.results[at] for at in range(len(self.items))]
            self.done.set_result([one for one in ordered if not isinstance(one, PlainMedError)])


@dataclass(slots=True)
class _Preemption:
    """Who may preempt a batch once it has worked for `after_s`: tenants that are not `own`, each
    with one item or, unless `once`, as often as fits.

    `lent` is how many seconds they have had so far.
    """

    own: frozenset[str]
    once: bool = False
    after_s: float = 0.0
    lent: float = 0.0


class FairBatcher(Generic[Item, Result]):
    """Runs `work` on one batch after another, in a thread beside the event loop.

    Args:
        work: gives one result for each item; what it raises is about the whole batch.
        weigh: how much of a batch an item takes, >= 0.
        most: a batch closes at this weight; an item that is heavier is a batch of its own. Between
            two passes (`core.context.pause`) of such an item, or of a batch with several items of
            one tenant, other tenants may preempt it.
        wait_s: how long a first request waits for others.
        telemetry: records batches and waits.
        tracer: makes a span of each batch for each request in it.
        name: prefix of the stages and spans.
    """

    def __init__(
        self,
        work: Callable[[Sequence[Item]], Sequence[Result]],
        weigh: Callable[[Item], int],
        *,
        most: int,
        wait_s: float,
        telemetry: Telemetry | None = None,
        tracer: RequestTracer | None = None,
        name: str = "batch",
    ) -> None:
        self._tracer, self._name = tracer or RequestTracer(), name
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
            # In a context of its own: it works for later requests too, and its log lines must not
            # carry the id of the first.
            self._running = asyncio.create_task(self._run(), context=Context())
        try:
            return await job.done
        finally:
            if not job.begun:  # out of time or cancelled: the longest waits end like this
                self._begin(job)
            note(f"{self._name}{QUEUE}", job.begun - job.came)
            note(f"{self._name}_compute", job.computed)
            self._count(job.taken - len(items))  # the rest never will be begun
            job.taken = len(items)

    async def _run(self) -> None:
        await asyncio.sleep(self.wait_s)
        while batch := self._take():
            await self._compute(batch)

    async def _compute(self, batch: Sequence[tuple[_Job[Item, Result], int]]) -> None:
        """Runs `work` on a batch and delivers the results."""
        jobs, items = [job for job, _ in batch], [job.items[index] for job, index in batch]
        ids, preemption = [job.context.request_id for job in jobs], self._preemption(jobs, items)
        PAUSE.set(self._pause(jobs, preemption))
        started, began = time.perf_counter(), time.time()
        outcomes: Sequence[Result | PlainMedError]
        try:
            outcomes = await run_batch(self._work, items, ids)
        except Stopped:
            outcomes = [out_of_time()] * len(batch)
        except Exception as error:  # unforeseen, but nobody may wait for ever
            outcomes = [failure(error, ids)] * len(batch)
        self._telemetry.record("plainmed_batch_items", len(batch))
        seconds, lent = time.perf_counter() - started, preemption.lent if preemption else 0.0
        self._telemetry.record("plainmed_batch_seconds", seconds - lent)
        self._note_batch(jobs, began, seconds, lent)
        for (job, index), outcome in zip(batch, outcomes, strict=True):
            job.deliver(index, outcome)

    def _preemption(
        self, jobs: Sequence[_Job[Item, Result]], items: Sequence[Item]
    ) -> _Preemption | None:
        """Who may preempt a batch; None: nobody."""
        if self._weigh(items[0]) > self.most:
            return _Preemption(frozenset())
        turns = Counter(job.context.tenant for job in jobs)
        if max(turns.values()) == 1:
            return None
        return _Preemption(frozenset(turns), once=True, after_s=YIELD_AFTER_S)

    def _pause(
        self, jobs: Sequence[_Job[Item, Result]], preemption: _Preemption | None
    ) -> Callable[[], None]:
        """What the batch's thread calls between two passes: stops it where nobody waits for any of
        it, else lets others run first, after which the batch works for as long as they took."""
        loop, resumed, others_took = asyncio.get_running_loop(), time.perf_counter(), 0.0

        def pause() -> None:
            nonlocal resumed, others_took
            if not any(job.awaited() for job in jobs):
                raise Stopped
            started = time.perf_counter()
            if preemption is None or started - resumed < max(others_took, preemption.after_s):
                return
            # Counted, not iterated over: the loop changes them meanwhile.
            if len(self._tenants) > sum(tenant in self._tenants for tenant in preemption.own):
                # The thread waits meanwhile, so the model still has one user at a time.
                asyncio.run_coroutine_threadsafe(self._run_others(preemption), loop).result()
                resumed = time.perf_counter()
                others_took = resumed - started
                preemption.lent += others_took

        return pause

    async def _run_others(self, preemption: _Preemption) -> None:
        """Runs one batch of other tenants."""
        if batch := self._take(preemption):
            await self._compute(batch)

    def _note_batch(
        self, jobs: Sequence[_Job[Item, Result]], began: float, seconds: float, lent: float
    ) -> None:
        """Adds the batch to the time and the trace of each of its requests, less the `lent` seconds
        in which other batches ran."""
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

    def _take(self, preemption: _Preemption | None = None) -> list[tuple[_Job[Item, Result], int]]:
        """The items of the next batch: one of each tenant in turn, until it is full.

        Args:
            preemption: in a pause: only of other tenants, and no item larger than a batch.
        """
        batch: list[tuple[_Job[Item, Result], int]] = []
        passed = set(preemption.own) if preemption else set()
        weight = 0
        while tenant := next((one for one in self._tenants if one not in passed), None):
            jobs = self._tenants[tenant]
            while jobs and not jobs[0].has_next():
                jobs.popleft()
            if not jobs:
                del self._tenants[tenant]
                continue
            job = jobs[0]
            added = self._weigh(job.items[job.taken])
            if preemption and (preemption.once or added > self.most):
                passed.add(tenant)
            if preemption and added > self.most:
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


async def run_batch(
    work: Callable[[Sequence[Item]], Sequence[Result]],
    items: Sequence[Item],
    request_ids: Sequence[str] = (),
) -> list[Result | PlainMedError]:
    """`work(items)` in a thread of low priority; where it raises, each item alone, with its error
    in its place.

    Args:
        request_ids: of each item's request, for the log; none: that of the running request.
    """

    async def run(some: Sequence[Item]) -> Sequence[Result]:
        # The context of the caller, as with asyncio.to_thread: PAUSE is in it.
        loop, context = asyncio.get_running_loop(), copy_context()
        return await loop.run_in_executor(_THREADS, context.run, work, some)

    if len(items) > 1:
        try:
            return [*await run(items)]
        except (PlainMedError, *FAILURES) as error:
            message = "a batch of %d failed (%s); one by one"
            about = log_fields(request_ids)
            logger.warning(message, len(items), type(error).__name__, extra=about)
    outcomes: list[Result | PlainMedError] = []
    for index, item in enumerate(items):
        try:
            outcomes.append((await run([item]))[0])
        except PlainMedError as error:
            outcomes.append(error)
        except FAILURES as error:
            outcomes.append(failure(error, request_ids[index : index + 1]))
    return outcomes
