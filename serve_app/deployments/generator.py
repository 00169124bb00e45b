"""The generator deployment: any engine, batched across requests, streamed alone."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Sequence

from ray import serve

from serve_app.deployments.metrics import Description
from serve_app.deployments.worker import run_batch, set_threads, unwrap
from serve_app.errors import PlainMedError
from serve_app.generation.loading import load_generator
from serve_app.generation.protocol import GenerationParams, Summary
from serve_app.settings import Settings

_WARM_UP = "Aspirin lowers the risk of stroke in adults. It was well tolerated in both trials."
BATCH_WAIT_S = 0.01

Job = tuple[str, GenerationParams]


@serve.deployment
class Generator:
    """One engine a replica."""

    def __init__(self, settings: Settings) -> None:
        set_threads(settings)
        self._engine = load_generator(settings)
        self._batched.set_max_batch_size(self._engine.batch_size)
        self._engine.generate([_WARM_UP], [GenerationParams(max_new_tokens=16, seed=0)])

    def _generate(self, jobs: Sequence[Job]) -> list[Summary]:
        return self._engine.generate([job[0] for job in jobs], [job[1] for job in jobs])

    @serve.batch(max_batch_size=8, batch_wait_timeout_s=BATCH_WAIT_S)
    async def _batched(self, jobs: list[Job]) -> list[Summary | PlainMedError]:
        return await run_batch(self._generate, jobs)

    async def generate(
        self, texts: Sequence[str], params: Sequence[GenerationParams]
    ) -> list[Summary]:
        """A summary of each text."""
        jobs = zip(texts, params, strict=True)
        outcomes = await asyncio.gather(*(self._batched(job) for job in jobs))
        return [unwrap(outcome) for outcome in outcomes]

    async def stream(self, text: str, params: GenerationParams) -> AsyncIterator[str | Summary]:
        """Pieces of one summary as they are written, then the summary."""
        pieces = self._engine.stream(text, params)
        step = None
        try:
            while True:
                step = asyncio.ensure_future(asyncio.to_thread(next, pieces, None))
                # Shielded: a thread cannot be cancelled, and the engine must be left between
                # two tokens for its iterator to be closed.
                piece = await asyncio.shield(step)
                if piece is None:
                    return
                yield piece
        finally:
            if step is not None:
                await asyncio.wait([step])
            pieces.close()

    async def describe(self) -> Description:
        """The model, its device and this replica's process."""
        return Description(self._engine.name, self._engine.device, os.getpid())
