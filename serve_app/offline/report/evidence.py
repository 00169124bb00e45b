"""The models of the settings, for what a scored file does not carry: evidence and truncation.

Loaded once and only where something is missing; nothing is scored again but the few texts shown.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from serve_app.core.errors import InvalidInput, MetricFailed
from serve_app.metrics.explanation import explain
from serve_app.metrics.suite import MetricSuite
from serve_app.offline.report.systems import TRUNCATIONS, ScoredSentence


class Reader(Protocol):
    """Reads texts for a report."""

    @property
    def names(self) -> dict[str, str]:
        """The models, by metric."""
        ...

    def sentences(self, original: str, generated: str) -> tuple[ScoredSentence, ...] | None:
        """Factuality of each sentence with its nearest passage; None: the texts have nothing."""
        ...

    def truncations(
        self, originals: Sequence[str], generated: Sequence[str]
    ) -> dict[str, list[bool]]:
        """By `TRUNCATIONS`, whether a part of each text would not be read."""
        ...


class SuiteReader:
    """A `Reader` over a suite of metrics."""

    def __init__(self, suite: MetricSuite) -> None:
        self._suite = suite

    @property
    def names(self) -> dict[str, str]:
        """The models, by metric."""
        return self._suite.models

    def sentences(self, original: str, generated: str) -> tuple[ScoredSentence, ...] | None:
        """See `Reader`."""
        try:
            (measured,) = self._suite.measure([original], [generated])
        except (InvalidInput, MetricFailed):
            return None
        found = explain(original, generated, measured)
        sentences = []
        for scored, evidence in zip(measured.factuality.sentences, found.sentences, strict=True):
            span = evidence.closest
            support = "" if span is None else original[span[0] : span[1]]
            sentences.append(ScoredSentence(scored.text, scored.score, support))
        return tuple(sentences)

    def truncations(
        self, originals: Sequence[str], generated: Sequence[str]
    ) -> dict[str, list[bool]]:
        """See `Reader`."""
        relevance = self._suite.relevance
        found = (
            relevance.truncates(originals),
            relevance.truncates(generated),
            self._suite.factuality.truncates(originals, generated),
        )
        return dict(zip(TRUNCATIONS, found, strict=True))
