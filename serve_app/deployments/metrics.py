"""The three metric deployments: batches formed across requests, one model a replica."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict, Field
from ray import serve

from serve_app.deployments.worker import regroup, run_batch, set_threads, unwrap
from serve_app.metrics.alignscore import AlignScoreResult
from serve_app.metrics.bertscore import BertScoreResult
from serve_app.metrics.readability import Readability, readability
from serve_app.metrics.suite import load_factuality, load_relevance
from serve_app.settings import Settings

# Defaults of `BatchConfig`, where serve_config.yaml gives no user_config.
BATCH_CHARS = 200_000
BATCH_WAIT_S = 0.005
_WARM_UP = ("Aspirin lowers the risk of stroke.", "Aspirin makes a stroke less likely.")

Pairs = tuple[list[str], list[str]]


@dataclass(frozen=True, slots=True)
class Description:
    """What a replica runs."""

    model: str
    device: str
    pid: int


class BatchConfig(BaseModel):
    """`user_config` of a metric deployment: how requests that arrive together are batched."""

    model_config = ConfigDict(extra="forbid")

    batch_chars: int = Field(
        BATCH_CHARS, ge=1, description="A batch closes at this many characters."
    )
    batch_wait_s: float = Field(
        BATCH_WAIT_S, ge=0, description="How long a first request waits for others."
    )


def _weigh_pairs(requests: list[Pairs]) -> int:
    # Serve refuses a lone item over the limit, and a long request must still be served.
    if len(requests) == 1:
        return 1
    return sum(len(text) for pairs in requests for side in pairs for text in side)


class _PairMetric:
    """A metric of (original, generated) pairs as a replica: subclasses say which."""

    def __init__(self, scorer: Any) -> None:
        self._scorer = scorer
        # Ready means a model that has scored: a broken one must fail here, not on a request.
        self._score([([_WARM_UP[0]], [_WARM_UP[1]])])

    def _score(self, requests: Sequence[Pairs]) -> list[list[Any]]:
        originals = [text for pairs in requests for text in pairs[0]]
        generated = [text for pairs in requests for text in pairs[1]]
        flat = self._scorer.score(originals, generated)
        return regroup(flat, [len(pairs[0]) for pairs in requests])

    @serve.batch(
        max_batch_size=BATCH_CHARS,
        batch_wait_timeout_s=BATCH_WAIT_S,
        batch_size_fn=_weigh_pairs,
    )
    async def _batched(self, requests: list[Pairs]) -> list[Any]:
        return await run_batch(self._score, requests)

    async def _results(self, originals: Sequence[str], generated: Sequence[str]) -> list[Any]:
        return unwrap(await self._batched((list(originals), list(generated))))

    def reconfigure(self, config: dict[str, Any]) -> None:
        """Takes a `BatchConfig`, at start and whenever Serve is given another, without restart."""
        batching = BatchConfig.model_validate(config)
        self._batched.set_max_batch_size(batching.batch_chars)
        self._batched.set_batch_wait_timeout_s(batching.batch_wait_s)

    async def describe(self) -> Description:
        """The model, its device and this replica's process."""
        return Description(self._scorer.name, self._scorer.device, os.getpid())


@serve.deployment
class Relevance(_PairMetric):
    """BERTScore."""

    def __init__(self, settings: Settings) -> None:
        set_threads(settings)
        super().__init__(load_relevance(settings))

    async def score(
        self, originals: Sequence[str], generated: Sequence[str]
    ) -> list[BertScoreResult]:
        """BERTScore of each pair."""
        return await self._results(originals, generated)


@serve.deployment
class Factuality(_PairMetric):
    """AlignScore."""

    def __init__(self, settings: Settings) -> None:
        set_threads(settings)
        super().__init__(load_factuality(settings))

    async def score(
        self, originals: Sequence[str], generated: Sequence[str]
    ) -> list[AlignScoreResult]:
        """AlignScore of each pair."""
        return await self._results(originals, generated)


def _measure_all(texts: Sequence[str]) -> list[Readability]:
    return [readability(text) for text in texts]


@serve.deployment
class ReadabilityDeployment:
    """FKGL, SMOG and Dale-Chall: no model, so no batching; one thread's work a request."""

    def __init__(self, settings: Settings) -> None:
        _measure_all([_WARM_UP[1]])

    async def score(self, texts: Sequence[str]) -> list[Readability]:
        """Readability of each text."""
        return unwrap((await run_batch(_measure_request, [list(texts)]))[0])

    async def describe(self) -> Description:
        """This replica's process; the formulas run on the CPU."""
        return Description("textstat-0.7.4-compatible", "cpu", os.getpid())


def _measure_request(requests: Sequence[list[str]]) -> list[list[Readability]]:
    return [_measure_all(texts) for texts in requests]
