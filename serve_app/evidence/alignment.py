"""The evidence of a sentence: which sentences of the source speak of the same thing.

By words alone: stems, rare ones weighing more, with the glossary's plain words counted as the terms
they stand for. Knows nothing of what is claimed.
"""

from __future__ import annotations

import math
import re
from bisect import bisect_left, bisect_right
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from heapq import nsmallest
from itertools import islice
from operator import attrgetter

from serve_app.core.errors import out_of_time
from serve_app.evidence.claims import Clause, clauses
from serve_app.evidence.quantities import Quantity, quantities
from serve_app.evidence.words import content_stems, expansions, said_plainly
from serve_app.text.sentences import sentence_spans

MOST_EVIDENCE = 3
"""Sentences of the source that together are the evidence of one of the summary's."""
MOST_SENTENCE_CHARS = 2000
"""No sentence is as long: lists without a full stop, and hostile texts, are read in parts."""
MOST_COMPARED = 64
"""Sentences of the source that are compared closely: those with most of the words, by weight."""
MOST_EQUAL = 200
"""Quantities of a source, of lower value and of higher, that one of a summary is compared with."""
MOST_PLACES = 500
"""A word that more sentences have tells none of them apart."""
MOST_ABBREVIATIONS = 200
"""Of a source; further ones are read as words."""
_FIGURE = re.compile(r"\d+(?:[.,]\d+)*")
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
    def figures(self) -> frozenset[str]:
        """Its numbers in digits, as written."""
        return frozenset(_FIGURE.findall(self.said))

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


def sentences_of(text: str) -> list[Sentence]:
    """The sentences of a text; what is too long for one is cut between two words."""
    found = []
    for start, end in sentence_spans(text):
        while end - start > MOST_SENTENCE_CHARS:
            limit = start + MOST_SENTENCE_CHARS
            cut = max(text.rfind(" ", start + 1, limit), text.rfind("\n", start + 1, limit))
            cut = cut if cut > 0 else limit
            found.append(Sentence(text, start, cut))
            start = cut
        found.append(Sentence(text, start, end))
    return found


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
    """A source text, read once for all sentences of a summary; in time linear in its length.

    Args:
        text: the source.
        unwanted: asked again and again whether nobody waits any more.

    Raises:
        Unavailable: `unwanted` said so.
    """

    def __init__(self, text: str, unwanted: Callable[[], bool] = lambda: False) -> None:
        self.text = text
        self.sentences = sentences_of(text)
        short = dict(islice(expansions(text).items(), MOST_ABBREVIATIONS))
        self._stems = []
        for one in self.sentences:
            if unwanted():
                raise out_of_time()
            stems = set(one.plain_stems)
            for name, meant in short.items():
                if name in one.said:
                    stems |= meant
                if meant <= stems:
                    stems.add(name.lower())
            self._stems.append(frozenset(stems))
        self.stems = frozenset().union(*self._stems)
        """Everything the source speaks of."""
        self._places: dict[str, list[int]] = {}
        for index, there in enumerate(self._stems):
            for stem in there:
                self._places.setdefault(stem, []).append(index)
        self._most = math.log(1 + len(self.sentences))
        self._rarity = {
            stem: math.log((1 + len(self.sentences)) / len(places))
            for stem, places in self._places.items()
        }

    @cached_property
    def _quantities(self) -> dict[str, list[Quantity]]:
        """Those of all sentences by kind, in the order of their values."""
        found: dict[str, list[Quantity]] = {}
        for sentence in self.sentences:
            for one in sentence.quantities:
                found.setdefault(one.kind, []).append(one)
        return {kind: sorted(all_, key=lambda one: one.value) for kind, all_ in found.items()}

    @cached_property
    def _widest(self) -> dict[str, float]:
        """The largest step of each kind."""
        return {kind: max(one.step for one in alike) for kind, alike in self._quantities.items()}

    def equal_to(self, quantity: Quantity) -> list[Quantity]:
        """Quantities anywhere in the source that equal one, in order of their places; of very many
        those nearest in value."""
        alike = self._quantities.get(quantity.kind, [])
        # What `equals` may allow: half of a step, or a tenth of a value that is said roughly.
        room = max(quantity.step, self._widest.get(quantity.kind, 0.0), 0.12 * abs(quantity.value))
        key = attrgetter("value")
        middle = bisect_left(alike, quantity.value, key=key)
        first = bisect_left(
            alike, quantity.value - room, max(0, middle - MOST_EQUAL), middle, key=key
        )
        last = bisect_right(
            alike, quantity.value + room, middle, min(len(alike), middle + MOST_EQUAL), key=key
        )
        return sorted(filter(quantity.equals, alike[first:last]), key=attrgetter("start"))

    def sentence_at(self, place: int) -> Sentence | None:
        """The sentence around an offset; None between two."""
        index = bisect_right(self.sentences, place, key=lambda one: one.start) - 1
        found = self.sentences[index] if index >= 0 else None
        return found if found is not None and place < found.end else None

    def _near(self, stems: frozenset[str]) -> list[int]:
        """The sentences that share most with these stems, by weight, in the order of the text."""
        shared: dict[int, float] = {}
        for stem in stems & self._places.keys():
            if len(self._places[stem]) <= MOST_PLACES:
                for index in self._places[stem]:
                    shared[index] = shared.get(index, 0.0) + self._rarity[stem]
        return sorted(nsmallest(MOST_COMPARED, shared, key=lambda index: (-shared[index], index)))

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
        near = self._near(asked | plain)
        chosen: list[int] = []
        had: frozenset[str] = frozenset()
        other = {index: 0.02 * self.weight(self._stems[index] - plain) / whole for index in near}
        while len(chosen) < min(MOST_EVIDENCE, len(near)):
            gains = [
                # Of two that say as much, the one that says little else, and has the numbers.
                (
                    self._gain(asked, plain, had | self._stems[index]) - other[index],
                    len(sentence.figures & self.sentences[index].figures),
                    -index,
                )
                for index in near
                if index not in chosen
            ]
            place = -max(gains)[-1]
            covered = self._gain(asked, plain, had | self._stems[place])
            if covered - self._gain(asked, plain, had) < (_LEAST_GAIN if chosen else 1e-9) * whole:
                break
            chosen.append(place)
            had |= self._stems[place]
        coverage = self._gain(asked, plain, had) / whole
        return Alignment(tuple(self.sentences[index] for index in chosen), min(1.0, coverage))

    def _gain(self, asked: frozenset[str], plain: frozenset[str], had: frozenset[str]) -> float:
        """The weight of the words that the evidence has, as they are or as the glossary says."""
        exact = self.weight(asked & had)
        replaced = self.weight((plain - asked) & had)
        return min(exact + replaced, self.weight(asked))
