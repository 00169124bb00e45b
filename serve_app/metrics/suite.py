"""The five metrics of (original, generated) pairs in this process, models loaded once.

For calibration, offline scoring and the extractive generator; the served graph runs the
same three parts as separate deployments instead.
"""

from __future__ import annotations

from collections.abc import Sequence

from serve_app.core.settings import Settings
from serve_app.metrics.alignscore import AlignScorer
from serve_app.metrics.bertscore import BertScorer
from serve_app.metrics.readability import readability
from serve_app.metrics.results import Measured
from serve_app.storage.artifacts import Downloads


def load_relevance(settings: Settings) -> BertScorer:
    """The relevance metric the settings name."""
    return BertScorer.from_reference(
        settings.bertscore_model,
        layer=settings.bertscore_layer,
        long_text=settings.bertscore_long_text,
        device=settings.device,
        dtype=settings.metrics_dtype,
        token_budget=settings.token_budget,
        cache_bytes=settings.bertscore_cache_mb * 2**20,
        downloads=Downloads.of(settings),
    )


def load_factuality(settings: Settings) -> AlignScorer:
    """The factuality metric the settings name."""
    return AlignScorer.from_reference(
        settings.alignscore_model,
        ckpt=settings.alignscore_ckpt,
        eval_mode=settings.alignscore_eval_mode,
        chunk_words=settings.alignscore_chunk_words,
        device=settings.device,
        dtype=settings.metrics_dtype,
        token_budget=settings.token_budget,
        max_rows=settings.alignscore_batch,
        max_pairs=settings.alignscore_max_pairs,
        downloads=Downloads.of(settings),
    )


class MetricSuite:
    """Relevance, factuality and readability together."""

    def __init__(self, relevance: BertScorer, factuality: AlignScorer) -> None:
        self.relevance = relevance
        self.factuality = factuality

    @classmethod
    def from_settings(cls, settings: Settings) -> MetricSuite:
        """Loads both models."""
        return cls(load_relevance(settings), load_factuality(settings))

    @property
    def models(self) -> dict[str, str]:
        """Which model computes each model metric."""
        return {"relevance": self.relevance.name, "factuality": self.factuality.name}

    def measure(self, originals: Sequence[str], generated: Sequence[str]) -> list[Measured]:
        """Measures every pair.

        Raises:
            InvalidInput: lists of different lengths, or a text that cannot be scored.
            MetricFailed: a model gave a value that is not a number.
        """
        relevance = self.relevance.score(originals, generated)
        factuality = self.factuality.score(originals, generated)
        return [
            Measured(pair_relevance, pair_factuality, readability(text))
            for pair_relevance, pair_factuality, text in zip(
                relevance, factuality, generated, strict=True
            )
        ]
