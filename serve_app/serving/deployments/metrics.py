"""The three metric deployments: batches formed across requests, one model a replica."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict, Field
from ray import serve

from serve_app.core.context import RequestContext
from serve_app.core.observability.tracing import Timed, gather, handed_on
from serve_app.core.settings import Settings
from serve_app.metrics.readability import Readability, readability
from serve_app.serving.observability import Observed
from serve_app.serving.scheduling.compute_thread import set_threads
from serve_app.serving.scheduling.fair_batcher import FairBatcher

# Defaults of `BatchConfig`, where serve_config.yaml gives no user_config.
BATCH_CHARS = 32_000
BATCH_WAIT_S = 0.005
_WARM_UP = ("Aspirin lowers the risk of stroke.", "Aspirin makes a stroke less likely.")

READABILITY_MODEL = "textstat-0.7.4-compatible"

TOKENS = "plainmed_tokens"

Pair = tuple[str, str]


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


def _weigh_pair(pair: Pair) -> int:
    return len(pair[0]) + len(pair[1])


class _Batched(Observed):
    """A replica that batches over requests.

    Args:
        metric: its name, for stages and spans.
        model, device: what computes it, and where.
        settings: whether its work is traced; None: it is not.
        work, weigh, wait_s: of its `FairBatcher`.
    """

    def __init__(
        self,
        metric: str,
        model: str,
        device: str,
        settings: Settings | None,
        work: Callable[[Sequence[Any]], Sequence[Any]],
        weigh: Callable[[Any], int],
        wait_s: float = BATCH_WAIT_S,
    ) -> None:
        self._observe(settings, metric.capitalize())
        self._metric, self._model, self._device, self._weigh = metric, model, device, weigh
        self._telemetry.record("plainmed_model", model=model, device=device)
        self._batcher: FairBatcher[Any, Any] = FairBatcher(
            work,
            weigh,
            most=BATCH_CHARS,
            wait_s=wait_s,
            telemetry=self._telemetry,
            tracer=self._tracer,
            name=metric,
        )

    async def _compute(self, items: Sequence[Any], context: RequestContext | None) -> Timed[Any]:
        """A result for each item, how long it took and what computed it.

        The caller cannot ask afterwards: during an update another replica may run another model.
        """
        seconds, context = gather(), context or RequestContext()
        sizes = [self._weigh(item) for item in items]
        with self._working(self._metric, context, sizes, self._model) as span:
            results = await self._batcher.submit(items, handed_on(context, span))
        return Timed(results, seconds, self._model, self._device)

    async def describe(self) -> Description:
        """The model, its device and this replica's process."""
        return Description(self._model, self._device, os.getpid())

    def reconfigure(self, config: dict[str, Any]) -> None:
        """Applies a `BatchConfig`, at start and whenever the Serve config changes it."""
        batching = BatchConfig.model_validate(config)
        self._batcher.most = batching.batch_chars
        self._batcher.wait_s = batching.batch_wait_s


class _PairMetric(_Batched):
    """A metric of (original, generated) pairs as a replica."""

    def __init__(self, scorer: Any, settings: Settings | None = None) -> None:
        self._scorer = scorer
        self._recorded: Counter[str] = Counter()
        metric = type(self).__name__.lower()
        super().__init__(metric, scorer.name, scorer.device, settings, self._score, _weigh_pair)
        # Ready means a model that has scored: a broken one must fail here, not on a request. Not by
        # `_score`, which would count it.
        scorer.score(_WARM_UP[:1], _WARM_UP[1:])

    def _score(self, pairs: Sequence[Pair]) -> list[Any]:
        before, recorded = self._counters(), self._recorded.copy()
        try:
            scores: list[Any] = self._scorer.score(
                [original for original, _ in pairs], [generated for _, generated in pairs]
            )
        finally:  # also what was computed before an error or a stop
            self._record(before, recorded)
        return scores

    def _record(self, before: dict[str, int], recorded: Counter[str]) -> None:
        """Records what the scorer has counted since `before`, when `recorded` stood recorded."""
        for name, value in self._counters().items():
            # Less what batches that preempted this one have counted meanwhile.
            own = value - before[name] - (self._recorded[name] - recorded[name])
            self._recorded[name] += own
            self._telemetry.record(name, own)
            if name == TOKENS:
                self._telemetry.record("plainmed_batch_tokens", own)

    def _counters(self) -> dict[str, int]:
        """The scorer's counters so far, by metric name."""
        return {TOKENS: self._scorer.tokens}

    async def score(
        self,
        originals: Sequence[str],
        generated: Sequence[str],
        context: RequestContext | None = None,
    ) -> Timed[Any]:
        """The result of each pair."""
        return await self._compute(list(zip(originals, generated, strict=True)), context)


@serve.deployment
class Relevance(_PairMetric):
    """BERTScore; `score` gives `BertScoreResult`s."""

    def __init__(self, settings: Settings) -> None:
        from serve_app.metrics.suite import load_relevance  # readability and loss need no torch

        set_threads(settings)
        super().__init__(load_relevance(settings), settings)

    def _counters(self) -> dict[str, int]:
        cache = self._scorer.cache
        kept = {"plainmed_cache_hits": cache.hits, "plainmed_cache_misses": cache.misses}
        return {**super()._counters(), **kept}


@serve.deployment
class Factuality(_PairMetric):
    """AlignScore or another checker; `score` gives `AlignScoreResult`s."""

    def __init__(self, settings: Settings) -> None:
        from serve_app.metrics.suite import load_factuality  # as above

        set_threads(settings)
        super().__init__(load_factuality(settings), settings)


def _measure_all(texts: Sequence[str]) -> list[Readability]:
    return [readability(text) for text in texts]


@serve.deployment
class ReadabilityDeployment(_Batched):
    """FKGL, SMOG and Dale-Chall: no model, but requests share its core as fairly."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(
            "readability", READABILITY_MODEL, "cpu", settings, _measure_all, len, wait_s=0.0
        )
        _measure_all([_WARM_UP[1]])

    async def score(
        self, texts: Sequence[str], context: RequestContext | None = None
    ) -> list[Readability]:
        """Readability of each text."""
        return await self._compute(texts, context)
