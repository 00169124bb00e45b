"""Which sets of sentences make a good summary: what a set costs, and the search for cheap ones.

Knows sentences, their counts and a loss; loads no model and reads no text. A set costs its
loss, and a little for what it leaves out and for sentences that point back at one it leaves
out (docs/extractive.md says why and how much).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from serve_app.generation.extractive.passages import Passage
from serve_app.metrics.loss import LossFunction
from serve_app.metrics.readability import ReadabilityCounts

Floats = NDArray[np.float64]

_ABSENT_SOURCE = 0.01  # what a sentence costs that points back at one left out

# BERTScore F1 of a set, from the share of the original its sentences match one by one: a
# straight line fitted on the training part of the Cochrane pairs (benchmarks/extractive.py).
_F1_AT_NONE, _F1_PER_SHARE = 0.251, 0.700


@dataclass(frozen=True, slots=True)
class Sentence:
    """A usable passage in its plain words, and what the search needs to know of it."""

    passage: Passage
    text: str
    replacements: tuple[tuple[str, str], ...]
    words: int
    counts: ReadabilityCounts
    points_back: bool


@dataclass(frozen=True, slots=True)
class Choice:
    """A set of sentences: `chosen` are positions among the sentences, ascending.

    `matched` has, for each passage of the original, the share of it that the set matches.
    """

    chosen: tuple[int, ...]
    words: int
    counts: ReadabilityCounts
    factuality_sum: float
    matched: Floats
    cost: float = np.inf

    @property
    def mean_factuality(self) -> float:
        """As AlignScore averages over sentences."""
        return self.factuality_sum / len(self.chosen)


@dataclass(frozen=True, slots=True)
class Space:
    """What is searched: the sentences, and what a set of them costs.

    `matches[p, s]` is the share of passage p that sentence s matches (BERTScore recall), and
    `importance[p]` the passage's share of the original's words.
    """

    sentences: list[Sentence]
    factuality: list[float]
    matches: Floats
    importance: Floats
    limit: int
    loss: LossFunction
    weights: list[float]
    coverage: float

    def empty(self) -> Choice:
        """The set of no sentence."""
        return Choice((), 0, ReadabilityCounts(), 0.0, np.zeros(len(self.importance)))

    def plus(self, choice: Choice, at: int) -> Choice:
        """The set and one more sentence, with no cost worked out."""
        sentence = self.sentences[at]
        return Choice(
            tuple(sorted((*choice.chosen, at))),
            choice.words + sentence.words,
            choice.counts + sentence.counts,
            choice.factuality_sum + self.factuality[at],
            np.maximum(choice.matched, self.matches[:, at]),
        )

    def without(self, choice: Choice, left_out: int) -> Choice:
        """The set less one of its sentences, with no cost worked out."""
        smaller = self.empty()
        for at in choice.chosen:
            if at != left_out:
                smaller = self.plus(smaller, at)
        return smaller

    def grown(self, choice: Choice) -> list[Choice]:
        """The sets of one more sentence that are within the limit, with their costs."""
        grown = [
            self.plus(choice, at)
            for at, sentence in enumerate(self.sentences)
            if at not in choice.chosen and choice.words + sentence.words <= self.limit
        ]
        if not grown:
            return []
        shares = np.array([one.matched for one in grown]) @ self.importance
        values = [
            (_F1_AT_NONE + _F1_PER_SHARE * share, one.mean_factuality, *one.counts.scores())
            for one, share in zip(grown, shares, strict=True)
        ]
        losses = self.loss(values, self.weights)
        return [
            replace(one, cost=float(loss) + self.extra_cost(one))
            for one, loss in zip(grown, losses, strict=True)
        ]

    def extra_cost(self, choice: Choice) -> float:
        """What a set pays beside its loss: for content left out, and for lost references."""
        indexes = {self.sentences[at].passage.index for at in choice.chosen}
        lost = sum(
            self.sentences[at].points_back and self.sentences[at].passage.index - 1 not in indexes
            for at in choice.chosen
        )
        left_out = 1.0 - float(choice.matched @ self.importance)
        return self.coverage * left_out + _ABSENT_SOURCE * lost


def search(space: Space, beam_width: int, wanted: int) -> list[Choice]:
    """The best sets found, at most `wanted`, the one of least cost first.

    A beam adds sentences one at a time; exchanging single sentences of the best set then
    mends what the beam's early steps, blind to the grade level of the whole, got wrong.
    """
    found: dict[tuple[int, ...], Choice] = {}
    beam = [space.empty()]
    while beam:
        grown = {one.chosen: one for choice in beam for one in space.grown(choice)}
        beam = _best(grown, beam_width)
        found.update((one.chosen, one) for one in beam)
    (best,) = _best(found, 1)
    while True:
        exchanged = {
            one.chosen: one
            for left_out in best.chosen
            for one in space.grown(space.without(best, left_out))
        }
        found.update((one.chosen, one) for one in _best(exchanged, wanted))
        (better,) = _best(found, 1)
        if better.cost >= best.cost:
            return _best(found, wanted)
        best = better


def in_drawn_order(
    found: list[Choice], temperature: float, rng: np.random.Generator
) -> list[Choice]:
    """The sets in random order, the cheap ones likely to come first.

    Drawn without replacement with a probability that falls by e for each `temperature` of cost
    (Gumbel's noise on the costs), so that no set comes twice and the first few are good ones.

    Args:
        found: sets with their costs.
        temperature: in units of the loss, > 0.
        rng: the source of chance.
    """
    noise = rng.gumbel(size=len(found))
    costs = np.array([one.cost for one in found])
    return [found[at] for at in np.argsort(costs / temperature - noise, kind="stable")]


def _best(choices: dict[tuple[int, ...], Choice], count: int) -> list[Choice]:
    # By position among equals, so that the same text always has the same summary.
    return sorted(choices.values(), key=lambda one: (one.cost, one.chosen))[:count]
