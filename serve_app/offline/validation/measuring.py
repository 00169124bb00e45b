"""Measures summaries and their perturbed forms: the metrics, the loss, findings, difficulty.

Each source is read once for all forms of its summary, and each distinct sentence scored once
against it, however many forms have it. Knows texts and models; no statistics.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from serve_app.core.errors import InvalidInput
from serve_app.evidence import Source, check
from serve_app.metrics.difficulty import Difficulty
from serve_app.metrics.evaluation import Measured
from serve_app.metrics.loss import METRIC_NAMES, METRICS, LossFunction
from serve_app.metrics.readability import ReadabilityCounts
from serve_app.metrics.suite import MetricSuite
from serve_app.offline.bootstrap import Floats
from serve_app.offline.validation.perturbations import (
    PERTURBATIONS,
    Material,
    Perturbation,
    names_in,
)
from serve_app.offline.validation.texts import Texts

MEASURES = {
    **METRIC_NAMES,
    "loss": "Loss",
    "severe": "Severe findings",
    "omissions": "Left out",
    "difficulty": "Difficulty",
}
"""Name of each measure, in the order of the tables' columns."""
READABILITY = (*METRICS[2:], "difficulty")
"""Those that need no source and no model."""
BETTER_UP = frozenset(METRICS[:2])
"""Measures of which more is better; of the others less is."""

_STRANGERS = 8  # other summaries that lend sentences to one
OnText = Callable[[], None]


@dataclass(frozen=True)
class Suite:
    """What measures a text: the models, the loss, and the estimate of difficulty.

    Attributes:
        metrics: the five metrics.
        loss: of them.
        weights: of the loss; None: 0.2 each.
        difficulty: the estimate beside them.
    """

    metrics: MetricSuite
    loss: LossFunction
    weights: Sequence[float] | None
    difficulty: Difficulty

    def measure(self, source: str, summaries: Sequence[str]) -> Floats:
        """(summaries, MEASURES) of summaries of one source.

        Raises:
            InvalidInput, MetricFailed: as `MetricSuite.measure`.
        """
        measured = self.metrics.measure([source] * len(summaries), summaries)
        read = Source(source)
        return np.array([self._row(read, *pair) for pair in zip(measured, summaries, strict=True)])

    def _row(self, read: Source, measured: Measured, summary: str) -> list[float]:
        found = check(read, summary)
        loss = float(self.loss([measured.values], self.weights)[0])
        counts = (float(found.severe), float(len(found.omissions)))
        return [*measured.values, loss, *counts, self.difficulty(summary)]


@dataclass(frozen=True)
class Measurements:
    """What was measured of a corpus.

    Attributes:
        base: (texts, MEASURES) of the summaries as they are.
        perturbed: of each kind, (texts, MEASURES); a row of NaN where it does not apply.
    """

    base: Floats
    perturbed: dict[Perturbation, Floats]


def measure_perturbed(
    texts: Texts,
    suite: Suite,
    *,
    share: float = 0.5,
    seed: int = 0,
    kinds: Sequence[Perturbation] = PERTURBATIONS,
    on_text: OnText = lambda: None,
) -> Measurements:
    """Measures each summary as it is and in each perturbed form that applies.

    Args:
        texts: with originals.
        suite: what measures.
        share: of the sentences to which an edit applies, how many it changes.
        seed: of the edits: the same seed, row and kind give the same text.
        kinds: of edits.
        on_text: called after each summary.

    Raises:
        InvalidInput: `share` is out of (0, 1], or a text cannot be scored; its row is named.
        MetricFailed: a model gave no number.
    """
    if not 0 < share <= 1:
        raise InvalidInput(f"the share of sentences must be above 0 and at most 1, not {share}")
    count = len(texts.summaries)
    shape = (count, len(MEASURES))
    base = np.empty(shape)
    perturbed = {kind: np.full(shape, np.nan) for kind in kinds}
    for at, material in enumerate(materials(texts, share)):
        row = texts.numbers[at]
        forms = {kind: kind(material, f"{seed}/{row}") for kind in kinds}
        made = {kind: form for kind, form in forms.items() if form is not None}
        try:
            found = suite.measure(material.source, [material.summary, *made.values()])
        except InvalidInput as error:
            raise InvalidInput(f"{texts.name}: row {row}: {error.message}") from error
        base[at] = found[0]
        for kind, values in zip(made, found[1:], strict=True):
            perturbed[kind][at] = values
        on_text()
    return Measurements(base, perturbed)


def materials(texts: Texts, share: float) -> list[Material]:
    """Each summary with its source and what the rest of the texts lend it."""
    pairs = list(zip(texts.originals, texts.summaries, strict=True))
    named = [names_in(f"{original}\n{summary}") for original, summary in pairs]
    every = {name: kind for names in named for name, kind in names.items()}
    found = []
    for at, (original, summary) in enumerate(pairs):
        others = [
            (at + step) % len(pairs) for step in range(1, min(_STRANGERS, len(pairs) - 1) + 1)
        ]
        strangers = [
            sentence
            for other in others
            if pairs[other][1] != summary
            for sentence in Material("", pairs[other][1]).sentences
        ]
        names = {name: kind for name, kind in every.items() if name not in named[at]}
        found.append(Material(original, summary, strangers, names, share))
    return found


def measure_rated(texts: Texts, suite: Suite, on_text: OnText = lambda: None) -> dict[str, Floats]:
    """Each measure of rated texts that have originals.

    Raises:
        InvalidInput, MetricFailed: as `measure_perturbed`.
    """
    rows = []
    for row, source, summary in zip(texts.numbers, texts.originals, texts.summaries, strict=True):
        try:
            rows.append(suite.measure(source, [summary])[0])
        except InvalidInput as error:
            raise InvalidInput(f"{texts.name}: row {row}: {error.message}") from error
        on_text()
    return dict(zip(MEASURES, np.array(rows).T, strict=True))


def measure_readability(texts: Texts, difficulty: Difficulty) -> dict[str, Floats]:
    """The measures of `READABILITY`, of rated texts without originals."""
    rows = [[*ReadabilityCounts.of(text).scores(), difficulty(text)] for text in texts.summaries]
    return dict(zip(READABILITY, np.array(rows).T, strict=True))
