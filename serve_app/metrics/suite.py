"""The five metrics of (original, generated) pairs in this process; loads each model once.

For calibration, offline scoring and the extractive generator; the served graph runs the same three
parts as separate deployments.
"""

from __future__ import annotations

from collections.abc import Sequence

from serve_app.core.errors import ConfigError
from serve_app.core.settings import LanguageCheck, Settings
from serve_app.metrics.alignscore import AlignScorer, ClaimScorer
from serve_app.metrics.bertscore import BertScorer
from serve_app.metrics.evaluation import Measured
from serve_app.metrics.readability import readability
from serve_app.storage.artifacts import Downloads
from serve_app.text.language import check_languages


def load_relevance(settings: Settings) -> BertScorer:
    """The relevance metric the settings name."""
    return BertScorer.from_reference(
        settings.bertscore_model,
        layer=settings.bertscore_layer,
        long_text=settings.bertscore_long_text,
        device=settings.device,
        dtype=settings.metrics_dtype,
        cache_bytes=settings.bertscore_cache_mb * 2**20,
        downloads=Downloads.of(settings),
    )


def load_factuality(settings: Settings) -> ClaimScorer:
    """The factuality metric the settings name."""
    if settings.factuality_checker != "alignscore":
        from serve_app.metrics.checkers.load import load_checker  # the default needs none of them

        return load_checker(settings)
    if settings.factuality_model is not None or settings.factuality_weights is not None:
        raise ConfigError(
            "FACTUALITY_MODEL and FACTUALITY_WEIGHTS are for the other checkers: set "
            "FACTUALITY_CHECKER too, or ALIGNSCORE_MODEL in their place"
        )
    return AlignScorer.from_reference(
        settings.alignscore_model,
        ckpt=settings.alignscore_ckpt,
        eval_mode=settings.alignscore_eval_mode,
        chunk_words=settings.alignscore_chunk_words,
        device=settings.device,
        dtype=settings.metrics_dtype,
        max_rows=settings.alignscore_batch,
        max_pairs=settings.alignscore_max_pairs,
        downloads=Downloads.of(settings),
    )


class MetricSuite:
    """Relevance, factuality, readability and language together."""

    def __init__(
        self,
        relevance: BertScorer,
        factuality: ClaimScorer,
        language_check: LanguageCheck = "warn",
    ) -> None:
        self.relevance = relevance
        self.factuality = factuality
        self.language_check = language_check

    @classmethod
    def from_settings(cls, settings: Settings) -> MetricSuite:
        """Loads both models."""
        return cls(load_relevance(settings), load_factuality(settings), settings.language_check)

    @property
    def models(self) -> dict[str, str]:
        """The model of each metric that has one."""
        return {"relevance": self.relevance.name, "factuality": self.factuality.name}

    def measure(self, originals: Sequence[str], generated: Sequence[str]) -> list[Measured]:
        """Measures every pair.

        Raises:
            InvalidInput: lists of different lengths, a text that cannot be scored, or, where the
                language check is `refuse`, one that is not English.
            MetricFailed: a model gave a value that is not a number.
        """
        languages = [
            check_languages(texts, field, self.language_check)
            for texts, field in ((generated, "texts_generated"), (originals, "texts_original"))
        ]
        relevance = self.relevance.score(originals, generated)
        factuality = self.factuality.score(originals, generated)
        return list(map(Measured, relevance, factuality, map(readability, generated), *languages))
