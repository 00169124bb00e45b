"""The generator deployment: any engine; requests take turns text by text.

Engines are called from several threads at once and merge the work as suits them. A request whose
caller is gone or whose time is over stops computing: the engine stops between two steps, and texts
that wait are never begun. A summary cut short like this is never an answer.
"""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections import OrderedDict, deque
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from typing import Any, TypeVar

from opentelemetry.trace import Span
from ray import serve

from serve_app.core.context import RequestContext
from serve_app.core.errors import out_of_time
from serve_app.core.observability.tracing import Timed
from serve_app.core.settings import Settings
from serve_app.generation import best_of
from serve_app.generation.loading import load_generator
from serve_app.generation.protocol import GenerationParams, Summary
from serve_app.serving.deployments.metrics import Description
from serve_app.serving.observability import Observed
from serve_app.serving.scheduling.compute_thread import lower_priority, set_threads

MODEL_SERVER_WAIT_S = 1800.0
"""Longest wait for the openai engine's server at the start: it may download its weights first."""

Result = TypeVar("Result")

_WARM_UP = "Aspirin lowers the risk of stroke in adults. It was well tolerated in both trials."


@dataclass(frozen=True, slots=True)
class _Written:
    """Summaries of one turn, when the engine began them, and how many seconds it took."""

    summaries: list[Summary]
    begun: float
    seconds: float


@serve.deployment
class Generator(Observed):
    """One engine a replica."""

    def __init__(self, settings: Settings) -> None:
        self._observe(settings, "Generator")
        set_threads(settings)
        self._engine = load_generator(settings, wait_s=MODEL_SERVER_WAIT_S)
        self._engine.generate([_WARM_UP], [GenerationParams(max_new_tokens=16, seed=0)])
        self._telemetry.record(
            "plainmed_model", model=self._engine.name, device=self._engine.device
        )
        # Twice what the engine computes at once, so that the next texts are ready when some end.
        threads = ThreadPoolExecutor(
            2 * self._engine.batch_size, "generate", initializer=lower_priority
        )
        self._turns = FairExecutor(threads)

    async def generate(
        self,
        texts: Sequence[str],
        params: Sequence[GenerationParams],
        context: RequestContext | None = None,
    ) -> list[Summary]:
        """A summary of each text.

        Raises:
            PlainMedError: of the first text that failed; the others stop.
            Unavailable: `timeout`, the context's deadline passed before all were written.
        """
        context, asked = context or RequestContext(), time.perf_counter()
        with self._request("generate", texts, context) as (span, gone, jobs):
            parts = best_of.parts(texts, params, together=self._engine.candidates_together)
            if len(parts) > 1:  # writes none in vain where another is refused
                firsts = [(texts[part.start], params[part.start]) for part in parts]
                await asyncio.to_thread(self._check, firsts, gone)
            for part in parts:
                work = partial(self._write, texts[part], params[part], context, gone)
                jobs.append(self._turns.submit(work, context))
            written: list[_Written] = await asyncio.gather(*map(asyncio.wrap_future, jobs))
            summaries = list(chain.from_iterable(one.summaries for one in written))
            span.set_attribute("plainmed.tokens", sum(one.completion_tokens for one in summaries))
        began = min((one.begun for one in written), default=asked)
        seconds = sum(one.seconds for one in written)
        return Timed(summaries, {"generator_queue": began - asked, "generator_compute": seconds})

    @contextmanager
    def _request(
        self, name: str, texts: Sequence[str], context: RequestContext
    ) -> Iterator[tuple[Span, threading.Event, list[Future[Any]]]]:
        """A request's span, the event that stops its engine, and its jobs, which end with it."""
        gone, jobs = threading.Event(), list[Future[Any]]()
        sizes = [len(text) for text in texts]
        with self._working(name, context, sizes, self._engine.name) as span:
            try:
                yield span, gone, jobs
            finally:
                gone.set()  # failed or cancelled: nobody waits for the rest
                for job in jobs:
                    job.cancel()

    def _check(self, wanted: Sequence[tuple[str, GenerationParams]], gone: threading.Event) -> None:
        """In a thread: raises what the engine raises of a text it refuses, before it writes any."""
        lower_priority()
        for text, params in wanted:
            if gone.is_set():
                return
            self._engine.validate(text, params)

    def _write(
        self,
        texts: Sequence[str],
        params: Sequence[GenerationParams],
        context: RequestContext,
        gone: threading.Event,
    ) -> _Written:
        """In a thread: writes the summaries of one turn, and records them."""
        unwanted = _unwanted(context, gone)
        if unwanted():  # it has begun while its request was being ended
            raise out_of_time()
        begun = time.perf_counter()
        summaries = self._engine.generate(
            texts, params, cancelled=lambda _: unwanted(), tenant=context.tenant
        )
        seconds = time.perf_counter() - begun
        self._record(summaries, seconds)
        for one in summaries:
            _require_whole(one)
        return _Written(summaries, begun, seconds)

    async def stream(
        self, text: str, params: GenerationParams, context: RequestContext | None = None
    ) -> AsyncIterator[str | Summary]:
        """Pieces of one summary as they are written, then the summary; raises as `generate`."""
        context, loop = context or RequestContext(), asyncio.get_running_loop()
        pieces: asyncio.Queue[str | Summary | None] = asyncio.Queue()

        def give(piece: str | Summary | None) -> None:
            loop.call_soon_threadsafe(pieces.put_nowait, piece)

        with self._request("stream", [text], context) as (span, gone, jobs):
            work = partial(self._write_pieces, text, params, context, gone, give)
            job = self._turns.submit(work, context)
            jobs.append(job)
            job.add_done_callback(lambda _: give(None))
            while (piece := await pieces.get()) is not None:
                if isinstance(piece, Summary):
                    span.set_attribute("plainmed.tokens", piece.completion_tokens)
                yield piece
            job.result()  # has ended; raises its error

    def _write_pieces(
        self,
        text: str,
        params: GenerationParams,
        context: RequestContext,
        gone: threading.Event,
        give: Callable[[str | Summary], None],
    ) -> None:
        """In a thread of its own until the summary ends, so a slow reader delays nobody."""
        begun = time.perf_counter()
        pieces = self._engine.stream(
            text, params, cancelled=_unwanted(context, gone), tenant=context.tenant
        )
        with closing(pieces):
            for piece in pieces:
                if isinstance(piece, Summary):
                    self._record([piece], time.perf_counter() - begun)
                    _require_whole(piece)
                if gone.is_set():
                    return
                give(piece)

    def _record(self, summaries: Sequence[Summary], seconds: float) -> None:
        """Records what a call of the engine wrote, also for a caller who is gone."""
        record, model = self._telemetry.record, self._engine.name
        record("plainmed_generation_seconds", seconds, model=model)
        if tokens := sum(one.completion_tokens for one in summaries):
            record("plainmed_generation_rate", tokens / seconds, model=model)
        for one in summaries:
            record("plainmed_summaries", model=model, finish_reason=one.finish_reason)
            record("plainmed_prompt_tokens", one.prompt_tokens, model=model)
            record("plainmed_completion_tokens", one.completion_tokens, model=model)

    async def describe(self) -> Description:
        """The model, its device and this replica's process."""
        return Description(self._engine.name, self._engine.device, os.getpid())


def _unwanted(context: RequestContext, gone: threading.Event) -> Callable[[], bool]:
    """Whether an engine should stop."""
    return lambda: gone.is_set() or context.left() == 0


def _require_whole(summary: Summary) -> None:
    """Raises `Unavailable` where the engine was stopped: half a summary is no answer."""
    if summary.finish_reason == "cancelled":
        raise out_of_time()


@dataclass(eq=False)
class _Job:
    work: Callable[[], Any]
    context: RequestContext
    done: Future[Any] = field(default_factory=Future)

    def begins(self) -> bool:
        """Marks the job as begun; False where nobody waits for it any longer."""
        if not self.done.set_running_or_notify_cancel():
            return False
        if self.context.left() == 0:
            self.done.set_exception(out_of_time())
            return False
        return True

    def run(self) -> None:
        try:
            self.done.set_result(self.work())
        except BaseException as error:  # any kind: whoever waits must learn of it
            self.done.set_exception(error)


class FairExecutor:
    """Runs the jobs of several tenants in `threads`, any pool that starts work in order of arrival.

    Waiting jobs start in turn, one of each tenant, so a request of a thousand jobs delays one of a
    single job by no more than one job per thread. Jobs nobody waits for any longer are not started.

    May be used from any thread.
    """

    def __init__(self, threads: Executor) -> None:
        self._threads = threads
        self._lock = threading.Lock()
        self._tenants: OrderedDict[str, deque[_Job]] = OrderedDict()

    def submit(self, work: Callable[[], Result], context: RequestContext) -> Future[Result]:
        """Runs `work` when its tenant has its turn, unless the future is cancelled before.

        Returns:
            The result, what `work` raised, or `Unavailable` (`timeout`) where the context's
            deadline passed before its turn.
        """
        job = _Job(work, context)
        with self._lock:
            self._tenants.setdefault(context.tenant, deque()).append(job)
        # Only adds one more call: a free thread takes the job whose turn it is.
        self._threads.submit(self._run_next)
        return job.done

    def _run_next(self) -> None:
        if job := self._take():
            job.run()

    def _take(self) -> _Job | None:
        """The next job, begun; None where nobody waits for those that are left."""
        with self._lock:
            while self._tenants:
                tenant, jobs = next(iter(self._tenants.items()))
                job = jobs.popleft()
                begins = job.begins()
                if not jobs:
                    del self._tenants[tenant]
                elif begins:  # a job that was not begun takes no turn
                    self._tenants.move_to_end(tenant)
                if begins:
                    return job
        return None
