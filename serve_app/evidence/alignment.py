"""The evidence of a sentence: which sentences of the source speak of the same thing.

By words alone: stems, rare ones weighing more, with the glossary's plain words counted as the terms
they stand for. Knows nothing of what is claimed.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from functools import cached_property

from serve_app.evidence.claims import Clause, clauses
from serve_app.evidence.quantities import Quantity, quantities
from serve_app.evidence.words import content_stems, expansions, said_plainly
from serve_app.text.sentences import sentence_spans

MOST_EVIDENCE = 3
"""Sentences of the source that together are the evidence of one of the summary's."""
_LEAST_GAIN = 0.12  # of the summary sentence's words, for a further sentence of evidence


class Sentence:
    """The sentence `text[start:end]` and what it says; read when it is asked for."""

    def __init__(self, text: str, start: int, end: int) -> None:
        self.text, self.start, self.end = text, start, end

    @cached_property
    def said(self) -> str:
        """As written."""
        return self.text[self.start : self.end]

    @cached_property
    def stems(self) -> frozenset[str]:
        """The stems of its content words, as written."""
        return content_stems(self.text, self.start, self.end)

    @cached_property
    def plain_stems(self) -> frozenset[str]:
        """The same with those of the glossary's plain words."""
        return said_plainly(self.said)

    @cached_property
    def clauses(self) -> list[Clause]:
        """Its clauses."""
        return clauses(self.text, self.start, self.end)

    @cached_property
    def quantities(self) -> list[Quantity]:
        """Its quantities."""
        return quantities(self.text, self.start, self.end)


@dataclass(frozen=True, slots=True)
class Alignment:
    """Sentences of the source that speak of what one of the summary's does.

    Attributes:
        sentences: nearest first; empty where no word is shared.
        coverage: the share of the summary sentence's words, by weight, that they have, in [0, 1].
    """

    sentences: tuple[Sentence, ...]
    coverage: float


class Source:
    """A source text, read once for all sentences of a summary."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.sentences = [Sentence(text, start, end) for start, end in sentence_spans(text)]
        short = expansions(text)
        self._stems = []
        for one in self.sentences:
            stems = set(one.plain_stems)
            for name, meant in short.items():
                if name in one.said:
                    stems |= meant
                if meant <= stems:
                    stems.add(name.lower())
            self._stems.append(frozenset(stems))
        self.stems = frozenset().union(*self._stems)
        """Everything the source speaks of."""
        counts = Counter(stem for stems in self._stems for stem in stems)
        self._most = math.log(1 + len(self.sentences))
        self._rarity = {
            stem: math.log((1 + len(self.sentences)) / count) for stem, count in counts.items()
        }

    def weight(self, stems: frozenset[str]) -> float:
        """How much a set of words says: rare words say more."""
        return math.fsum(self._rarity.get(stem, self._most) for stem in stems)

    def align(self, sentence: Sentence) -> Alignment:
        """The evidence of a sentence of the summary."""
        asked = sentence.stems
        whole = self.weight(asked)
        if not asked or whole == 0:
            return Alignment((), 0.0)
        plain = sentence.plain_stems
        chosen: list[int] = []
        had: frozenset[str] = frozenset()
        while len(chosen) < MOST_EVIDENCE:
            gains = [
                # Of two that say as much, the one that says little else.
                (self._gain(asked, plain, had | stems) - 0.02 * self.weight(stems - plain) / whole
                 if index not in chosen else -math.inf, -index)
                for index, stems in enumerate(self._stems)
            ]  # fmt: skip
            _, place = max(gains, default=(0.0, 0))
            covered = self._gain(asked, plain, had | self._stems[-place])
            if covered - self._gain(asked, plain, had) < (_LEAST_GAIN if chosen else 1e-9) * whole:
                break
            chosen.append(-place)
            had |= self._stems[-place]
        coverage = self._gain(asked, plain, had) / whole
        return Alignment(tuple(self.sentences[index] for index in chosen), min(1.0, coverage))

    def _gain(self, asked: frozenset[str], plain: frozenset[str], had: frozenset[str]) -> float:
        """The weight of the words that the evidence has, as they are or as the glossary says."""
        exact = self.weight(asked & had)
        replaced = self.weight((plain - asked) & had)
        return min(exact + replaced, self.weight(asked))
