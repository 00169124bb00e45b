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
from serve_app.core.observability.log_redaction import keep_texts_out
from serve_app.core.observability.timings import Timed, gather
from serve_app.core.observability.tracing import Attributes, Tracer, Untraced, handed_on
from serve_app.core.settings import Settings
from serve_app.metrics.readability import Readability, readability
from serve_app.metrics.results import AlignScoreResult, BertScoreResult
from serve_app.serving.ray_metrics import ServeTelemetry
from serve_app.serving.scheduling.compute_thread import set_threads
from serve_app.serving.scheduling.fair_batcher import FairBatcher
from serve_app.serving.tracers import load_tracer

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


class _Batched:
    """A replica that batches over requests.

    Args:
        metric: its name, for stages and spans.
        model, device: what computes it, and where.
        settings: say whether its work is traced; None: it is not.
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
        keep_texts_out()
        self._metric, self._model, self._device, self._weigh = metric, model, device, weigh
        self._telemetry = ServeTelemetry()
        self._telemetry.record("plainmed_model", model=model, device=device)
        self._tracer: Tracer = (
            Untraced() if settings is None else load_tracer(settings, metric.capitalize())
        )
        self._batcher: FairBatcher[Any, Any] = FairBatcher(
            work,
            weigh,
            most=BATCH_CHARS,
            wait_s=wait_s,
            telemetry=self._telemetry,
            tracer=self._tracer,
            name=metric,
        )

    async def _computed(self, items: Sequence[Any], context: RequestContext | None) -> Timed[Any]:
        """A result for each item, how long it took and what computed it.

        The caller can not ask afterwards: during an update another replica may run another model.
        """
        seconds, context = gather(), context or RequestContext()
        about: Attributes = {
            "plainmed.request_id": context.request_id,
            "plainmed.model": self._model,
            "plainmed.items": len(items),
            "plainmed.characters": sum(self._weigh(item) for item in items),
        }
        with self._tracer.span(self._metric, context.traceparent, about) as span:
            results = await self._batcher.submit(items, handed_on(context, span))
        return Timed(results, seconds, self._model, self._device)

    async def describe(self) -> Description:
        """The model, its device and this replica's process."""
        return Description(self._model, self._device, os.getpid())

    def reconfigure(self, config: dict[str, Any]) -> None:
        """Takes a `BatchConfig`, at start and whenever Serve is given another, without restart."""
        batching = BatchConfig.model_validate(config)
        self._batcher.most = batching.batch_chars
        self._batcher.wait_s = batching.batch_wait_s

    def __del__(self) -> None:
        # Serve calls it when it stops a replica in peace; after a failed start there is no tracer.
        if tracer := getattr(self, "_tracer", None):
            tracer.close()


class _PairMetric(_Batched):
    """A metric of (original, generated) pairs as a replica: subclasses say which."""

    def __init__(self, scorer: Any, settings: Settings | None = None) -> None:
        self._scorer = scorer
        self._recorded: Counter[str] = Counter()
        metric = type(self).__name__.lower()
        super().__init__(metric, scorer.name, scorer.device, settings, self._score, _weigh_pair)
        # Ready means a model that has scored: a broken one must fail here, not on a request. Not by
        # `_score`: metrics are of what was asked for.
        scorer.score(_WARM_UP[:1], _WARM_UP[1:])

    def _score(self, pairs: Sequence[Pair]) -> list[Any]:
        before, recorded = self._counters(), self._recorded.copy()
        try:
            scores: list[Any] = self._scorer.score(
                [original for original, _ in pairs], [generated for _, generated in pairs]
            )
        finally:  # what was computed before an error or a stop was computed all the same
            self._record(before, recorded)
        return scores

    def _record(self, before: dict[str, int], recorded: Counter[str]) -> None:
        """Tells what the scorer has counted since `before`, when `recorded` had been told."""
        for name, value in self._counters().items():
            # Less what batches in the pauses of this one have counted meanwhile.
            own = value - before[name] - (self._recorded[name] - recorded[name])
            self._recorded[name] += own
            self._telemetry.record(name, own)
            if name == TOKENS:
                self._telemetry.record("plainmed_batch_tokens", own)

    def _counters(self) -> dict[str, int]:
        """What the scorer has counted so far, by metric."""
        return {TOKENS: self._scorer.tokens}

    async def _results(
        self, originals: Sequence[str], generated: Sequence[str], context: RequestContext | None
    ) -> list[Any]:
        return await self._computed(list(zip(originals, generated, strict=True)), context)


@serve.deployment
class Relevance(_PairMetric):
    """BERTScore."""

    def __init__(self, settings: Settings) -> None:
        # Imported here: readability and the loss, which load this module too, need no torch.
        from serve_app.metrics.suite import load_relevance

        set_threads(settings)
        super().__init__(load_relevance(settings), settings)

    def _counters(self) -> dict[str, int]:
        cache = self._scorer.cache
        kept = {"plainmed_cache_hits": cache.hits, "plainmed_cache_misses": cache.misses}
        return {**super()._counters(), **kept}

    async def score(
        self,
        originals: Sequence[str],
        generated: Sequence[str],
        context: RequestContext | None = None,
    ) -> list[BertScoreResult]:
        """BERTScore of each pair."""
        return await self._results(originals, generated, context)


@serve.deployment
class Factuality(_PairMetric):
    """AlignScore."""

    def __init__(self, settings: Settings) -> None:
        # Imported here: readability and the loss, which load this module too, need no torch.
        from serve_app.metrics.suite import load_factuality

        set_threads(settings)
        super().__init__(load_factuality(settings), settings)

    async def score(
        self,
        originals: Sequence[str],
        generated: Sequence[str],
        context: RequestContext | None = None,
    ) -> list[AlignScoreResult]:
        """AlignScore of each pair."""
        return await self._results(originals, generated, context)


def _measure_all(texts: Sequence[str]) -> list[Readability]:
    return [readability(text) for text in texts]


@serve.deployment
class ReadabilityDeployment(_Batched):
    """FKGL, SMOG and Dale-Chall: no model, but its requests share one core as fairly."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(
            "readability", READABILITY_MODEL, "cpu", settings, _measure_all, len, wait_s=0.0
        )
        _measure_all([_WARM_UP[1]])

    async def score(
        self, texts: Sequence[str], context: RequestContext | None = None
    ) -> list[Readability]:
        """Readability of each text."""
        return await self._computed(texts, context)
