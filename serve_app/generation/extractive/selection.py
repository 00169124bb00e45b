"""The search for the set of sentences that makes the best summary, and the cost it minimises.

Knows sentences, their counts and a loss; loads no model and reads no text. A set costs its loss,
and a little for content it leaves out and for sentences that refer back to one it leaves out
(docs/extractive.md says why and how much).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from serve_app.generation.extractive.passages import Passage
from serve_app.metrics.loss import LossFunction
from serve_app.metrics.readability import ReadabilityCounts

Floats = NDArray[np.float64]

_LOST_REFERENCE = 0.01  # cost of a sentence that refers back to one left out

# BERTScore F1 of a set, from the share of the original its sentences match one by one: a
# straight line fitted on the training part of the Cochrane pairs (benchmarks/extractive.py).
_F1_AT_NONE, _F1_PER_SHARE = 0.251, 0.700


@dataclass(frozen=True, slots=True)
class Sentence:
    """A usable passage in plain words, with what the search needs to know about it."""

    passage: Passage
    text: str
    replacements: tuple[tuple[str, str], ...]
    words: int
    counts: ReadabilityCounts
    refers_back: bool


@dataclass(frozen=True, slots=True)
class Choice:
    """A set of sentences: `chosen` are positions among the sentences, ascending.

    `matched` is, for each passage of the original, the share of it that the set matches.
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
    """The search space: the sentences, and the cost of a set of them.

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
        """The set and one more sentence, without its cost."""
        sentence = self.sentences[at]
        return Choice(
            tuple(sorted((*choice.chosen, at))),
            choice.words + sentence.words,
            choice.counts + sentence.counts,
            choice.factuality_sum + self.factuality[at],
            np.maximum(choice.matched, self.matches[:, at]),
        )

    def without(self, choice: Choice, left_out: int) -> Choice:
        """The set less one of its sentences, without its cost."""
        smaller = self.empty()
        for at in choice.chosen:
            if at != left_out:
                smaller = self.plus(smaller, at)
        return smaller

    def grown(self, choice: Choice) -> list[Choice]:
        """The sets with one more sentence that are within the limit, with their costs."""
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
        """The cost of a set beside its loss: content left out, and lost references."""
        indexes = {self.sentences[at].passage.index for at in choice.chosen}
        lost = sum(
            self.sentences[at].refers_back and self.sentences[at].passage.index - 1 not in indexes
            for at in choice.chosen
        )
        left_out = 1.0 - float(choice.matched @ self.importance)
        return self.coverage * left_out + _LOST_REFERENCE * lost


def search(space: Space, beam_width: int, wanted: int) -> list[Choice]:
    """The best sets found, at most `wanted`, cheapest first.

    A beam search adds sentences one at a time; exchanging single sentences of the best set then
    corrects the beam's early steps, which could not know the grade level of the whole.
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
    """The sets in random order, cheap ones likely first.

    Drawn without replacement, with a probability that falls by a factor of e for each `temperature`
    of cost (the Gumbel-max trick), so that no set comes twice and the first few are good.

    Args:
        found: sets with their costs.
        temperature: in units of the loss, > 0.
        rng: random generator.
    """
    noise = rng.gumbel(size=len(found))
    costs = np.array([one.cost for one in found])
    return [found[at] for at in np.argsort(costs / temperature - noise, kind="stable")]


def _best(choices: dict[tuple[int, ...], Choice], count: int) -> list[Choice]:
    # By position among equals, so that the same text always has the same summary.
    return sorted(choices.values(), key=lambda one: (one.cost, one.chosen))[:count]
