"""The generator deployment: any engine; requests take turns text by text.

Engines take several threads at once and merge their work as suits them. A request whose caller
is gone, streamed or not, or whose time is over, stops computing: the engine is told so between two
steps, and what has not begun never does. A summary that was cut so is never an answer.
"""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from itertools import chain

from ray import serve

from serve_app.core.context import RequestContext
from serve_app.core.errors import PlainMedError, out_of_time
from serve_app.core.observability.log_redaction import keep_texts_out
from serve_app.core.observability.timings import Timed
from serve_app.core.observability.tracing import Attributes
from serve_app.core.settings import Settings
from serve_app.generation import best_of
from serve_app.generation.loading import load_generator
from serve_app.generation.protocol import GenerationParams, Summary
from serve_app.serving.deployments.metrics import Description
from serve_app.serving.ray_metrics import ServeTelemetry
from serve_app.serving.scheduling.compute_thread import failure, lower_priority, set_threads
from serve_app.serving.scheduling.fair_executor import FairExecutor
from serve_app.serving.tracers import load_tracer

_WARM_UP = "Aspirin lowers the risk of stroke in adults. It was well tolerated in both trials."


@dataclass(frozen=True, slots=True)
class _Written:
    """Summaries of one turn: when the engine began them, and how long it took."""

    summaries: list[Summary]
    begun: float
    seconds: float


@serve.deployment
class Generator:
    """One engine a replica."""

    def __init__(self, settings: Settings) -> None:
        keep_texts_out()
        set_threads(settings)
        self._tracer = load_tracer(settings, "Generator")
        self._engine = load_generator(settings)
        self._engine.generate([_WARM_UP], [GenerationParams(max_new_tokens=16, seed=0)])
        self._telemetry = ServeTelemetry()
        self._telemetry.record(
            "plainmed_model", model=self._engine.name, device=self._engine.device
        )
        # Twice what the engine has under way, so that its next texts are at hand when some end.
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
            PlainMedError: what the engine raised of the first text that failed; the others stop.
            Unavailable: `timeout`, where the context's deadline passed before all were written.
        """
        context, gone = context or RequestContext(), threading.Event()
        asked = time.perf_counter()
        jobs: list[Future[_Written]] = []
        try:
            with self._tracer.span(
                "generate", context.traceparent, self._about(texts, context)
            ) as span:
                parts = best_of.parts(texts, params, together=self._engine.candidates_together)
                if len(parts) > 1:  # none is written for nothing where another is refused
                    firsts = [(texts[part.start], params[part.start]) for part in parts]
                    await asyncio.to_thread(self._check, firsts, gone)
                for part in parts:
                    work = partial(self._write, texts[part], params[part], context, gone)
                    jobs.append(self._turns.submit(work, context))
                written = await asyncio.gather(*map(asyncio.wrap_future, jobs))
                summaries = list(chain.from_iterable(one.summaries for one in written))
                span.set({"plainmed.tokens": sum(one.completion_tokens for one in summaries)})
        except PlainMedError:
            raise
        except Exception as error:  # of whatever kind: Ray logs what leaves a replica
            raise failure(error) from None
        finally:
            gone.set()  # failed or cancelled: nobody waits for what is still to come
            for job in jobs:
                job.cancel()
        began = min((one.begun for one in written), default=asked)
        seconds = sum(one.seconds for one in written)
        return Timed(summaries, {"generator_queue": began - asked, "generator_compute": seconds})

    def _check(self, wanted: Sequence[tuple[str, GenerationParams]], gone: threading.Event) -> None:
        """In a thread: raises what the engine would raise of any of the texts before it writes."""
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
        """In a thread: the summaries of one turn, counted."""
        unwanted = _unwanted(context, gone)
        begun = time.perf_counter()
        summaries = self._engine.generate(
            texts, params, cancelled=lambda _: unwanted(), tenant=context.tenant
        )
        seconds = time.perf_counter() - begun
        self._record(summaries, seconds)
        for one in summaries:
            _require_whole(one)
        return _Written(summaries, begun, seconds)

    def _about(self, texts: Sequence[str], context: RequestContext) -> Attributes:
        """What a span says of a request."""
        return {
            "plainmed.request_id": context.request_id,
            "plainmed.model": self._engine.name,
            "plainmed.items": len(texts),
            "plainmed.characters": sum(len(text) for text in texts),
        }

    async def stream(
        self, text: str, params: GenerationParams, context: RequestContext | None = None
    ) -> AsyncIterator[str | Summary]:
        """Pieces of one summary as they are written, then the summary; raises as `generate`."""
        context, gone = context or RequestContext(), threading.Event()
        loop = asyncio.get_running_loop()
        pieces: asyncio.Queue[str | Summary | None] = asyncio.Queue()

        def give(piece: str | Summary | None) -> None:
            loop.call_soon_threadsafe(pieces.put_nowait, piece)

        job: Future[None] | None = None
        try:
            with self._tracer.span(
                "stream", context.traceparent, self._about([text], context)
            ) as span:
                work = partial(self._write_pieces, text, params, context, gone, give)
                job = self._turns.submit(work, context)
                job.add_done_callback(lambda _: give(None))
                while (piece := await pieces.get()) is not None:
                    if isinstance(piece, Summary):
                        span.set({"plainmed.tokens": piece.completion_tokens})
                    yield piece
                job.result()  # it has ended: raises what it ended with
        except PlainMedError:
            raise
        except Exception as error:  # as above
            raise failure(error) from None
        finally:
            gone.set()
            if job is not None:
                job.cancel()

    def _write_pieces(
        self,
        text: str,
        params: GenerationParams,
        context: RequestContext,
        gone: threading.Event,
        give: Callable[[str | Summary], None],
    ) -> None:
        """In a thread, which it has until the summary ends: a slow reader delays nobody."""
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
        """Counts what a call of the engine wrote, also for a caller who is gone."""
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

    def __del__(self) -> None:
        # Serve calls it when it stops a replica in peace; after a failed start there is no tracer.
        if tracer := getattr(self, "_tracer", None):
            tracer.close()


def _unwanted(context: RequestContext, gone: threading.Event) -> Callable[[], bool]:
    """Tells an engine whether to stop."""
    return lambda: gone.is_set() or context.left() == 0


def _require_whole(summary: Summary) -> None:
    """Raises `Unavailable` where the engine was told to stop: what it has then is no summary."""
    if summary.finish_reason == "cancelled":
        raise out_of_time()
