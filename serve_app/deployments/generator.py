"""The generator deployment: any engine, each request in a thread of its own.

Engines take several threads at once and merge their work as suits them. A request whose caller
is gone, streamed or not, stops computing: Serve cancels its coroutine, and that tells the engine.
"""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from ray import serve

from serve_app.deployments.metrics import Description
from serve_app.deployments.telemetry import ServeTelemetry
from serve_app.deployments.tracing import load_tracer
from serve_app.deployments.worker import failure, go_after_others, set_threads
from serve_app.errors import PlainMedError
from serve_app.generation.loading import load_generator
from serve_app.generation.protocol import GenerationParams, Summary
from serve_app.safe_log import keep_texts_out
from serve_app.settings import Settings
from serve_app.stages import Timed
from serve_app.ticket import Ticket
from serve_app.traces import Attributes

_WARM_UP = "Aspirin lowers the risk of stroke in adults. It was well tolerated in both trials."


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
        self._threads = ThreadPoolExecutor(
            2 * self._engine.batch_size, "generate", initializer=go_after_others
        )

    async def generate(
        self,
        texts: Sequence[str],
        params: Sequence[GenerationParams],
        ticket: Ticket | None = None,
    ) -> list[Summary]:
        """A summary of each text."""
        gone = threading.Event()

        def unwanted(_: int) -> bool:
            return gone.is_set() or (ticket is not None and ticket.left() == 0)

        begun = asked = time.perf_counter()

        def write() -> list[Summary]:
            nonlocal begun
            begun = time.perf_counter()
            return self._engine.generate(texts, params, cancelled=unwanted)

        ticket = ticket or Ticket()
        work = self._threads.submit(write)
        try:
            with self._tracer.span(
                "generate", ticket.traceparent, self._about(texts, ticket)
            ) as span:
                summaries = self._recorded(asked, await asyncio.wrap_future(work))
                span.set({"plainmed.tokens": sum(one.completion_tokens for one in summaries)})
        except PlainMedError:
            raise
        except Exception as error:  # of whatever kind: Ray logs what leaves a replica
            raise failure(error) from None
        finally:
            gone.set()  # cancelled: nobody waits for what is still to come
        seconds = time.perf_counter() - begun
        return Timed(summaries, {"generator_queue": begun - asked, "generator_compute": seconds})

    def _about(self, texts: Sequence[str], ticket: Ticket) -> Attributes:
        """What a span says of a request."""
        return {
            "plainmed.request_id": ticket.request_id,
            "plainmed.model": self._engine.name,
            "plainmed.items": len(texts),
            "plainmed.characters": sum(len(text) for text in texts),
        }

    async def stream(
        self, text: str, params: GenerationParams, ticket: Ticket | None = None
    ) -> AsyncIterator[str | Summary]:
        """Pieces of one summary as they are written, then the summary."""
        gone = threading.Event()
        started, began = time.perf_counter(), time.time()
        ticket = ticket or Ticket()
        pieces = self._engine.stream(text, params, cancelled=gone.is_set)
        step: Future[str | Summary | None] | None = None
        try:
            while True:
                step = self._threads.submit(next, pieces, None)
                # Shielded: a thread cannot be cancelled, and the engine must be left between
                # two pieces for its iterator to be closed.
                piece = await asyncio.shield(asyncio.wrap_future(step))
                if piece is None:
                    return
                if isinstance(piece, Summary):
                    self._recorded(started, [piece])
                yield piece
        except PlainMedError:
            raise
        except Exception as error:  # as above
            raise failure(error) from None
        finally:
            gone.set()
            about = self._about([text], ticket)
            self._tracer.past("stream", ticket.traceparent, began, time.time(), about)
            if step is not None and not step.cancel():
                ended, _ = await asyncio.wait([asyncio.wrap_future(step)])
                for one in ended:
                    one.exception()  # known by now; asyncio would tell it as one nobody asked for
            pieces.close()

    def _recorded(self, started: float, summaries: list[Summary]) -> list[Summary]:
        """The same, counted."""
        record, model = self._telemetry.record, self._engine.name
        seconds = time.perf_counter() - started
        record("plainmed_generation_seconds", seconds, model=model)
        if tokens := sum(one.completion_tokens for one in summaries):
            record("plainmed_generation_rate", tokens / seconds, model=model)
        for one in summaries:
            record("plainmed_summaries", model=model, finish_reason=one.finish_reason)
            record("plainmed_prompt_tokens", one.prompt_tokens, model=model)
            record("plainmed_completion_tokens", one.completion_tokens, model=model)
        return summaries

    async def describe(self) -> Description:
        """The model, its device and this replica's process."""
        return Description(self._engine.name, self._engine.device, os.getpid())
