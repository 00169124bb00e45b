"""Where the evidence of an evaluation stands in the two texts, and plain words for hard ones.

Works on what the metrics have computed already (sentences with the chunk that supported each,
difficult words): it asks no model, so explaining costs no pass of an encoder. Knows sentence ends
and the glossary; knows no HTTP and no loss. All offsets count characters (Unicode code points).
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from serve_app.metrics.results import Measured
from serve_app.text.glossary import Glossary
from serve_app.text.sentences import sentence_spans

_WORD = re.compile(r"\w+")

Span = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Evidence:
    """Where one sentence of a summary and what supports it stand.

    Attributes:
        sentence: its span in the summary.
        passage: span in the original of the chunk that supports it best.
        closest: span in the original of that chunk's sentence that shares the most and the
            rarest words with it, or None where no word is shared. Words alone decide, no model.

    A span is None where the text it stands for cannot be found again.
    """

    sentence: Span | None
    passage: Span | None
    closest: Span | None


@dataclass(frozen=True, slots=True)
class PlainWord:
    """A term at `summary[start:end]` and the glossary's plain form of it."""

    term: str
    plain: str
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Explanation:
    """What `explain` found: one evidence for each factuality sentence, and the plain words."""

    sentences: tuple[Evidence, ...]
    plain_words: tuple[PlainWord, ...]


def explain(original: str, generated: str, measured: Measured) -> Explanation:
    """Explains what was measured of one pair.

    Linear in the texts' lengths, but that each claim is compared with each sentence of its chunk.
    """
    source = _Source(original)
    evidence = []
    cursor = 0
    for sentence in measured.factuality.sentences:
        start = generated.find(sentence.text, cursor)
        span = None if start < 0 else (start, start + len(sentence.text))
        cursor = cursor if span is None else span[1]
        evidence.append(Evidence(span, *source.support(sentence.text, sentence.chunk)))
    difficult = [(found.start, found.end) for found in measured.readability.difficult_words]
    return Explanation(tuple(evidence), tuple(_plain_words(generated, difficult)))


class _Source:
    """An original, its sentences, and its chunks once they have been found again."""

    def __init__(self, original: str) -> None:
        self._text = original
        self._spans = sentence_spans(original)
        self._sentences = [original[start:end] for start, end in self._spans]
        # Chunks are whole sentences joined by one space, whatever stood between them.
        self._joined = " ".join(self._sentences)
        self._places: dict[int, int] = {}
        at = 0
        for index, sentence in enumerate(self._sentences):
            self._places[at] = index
            at += len(sentence) + 1
        self._chunks: dict[str, tuple[range, _Bags]] = {}

    def support(self, claim: str, chunk: str) -> tuple[Span | None, Span | None]:
        """The spans of a chunk and of its sentence closest to the claim."""
        if chunk not in self._chunks:
            place = self._find(chunk) or range(0)
            self._chunks[chunk] = place, _Bags(self._sentences[place.start : place.stop])
        found, bags = self._chunks[chunk]
        if not found:
            return None, None
        passage = (self._spans[found[0]][0], self._spans[found[-1]][1])
        index = bags.closest(claim)
        return passage, None if index is None else self._spans[found[index]]

    def _find(self, chunk: str) -> range | None:
        """The sentences a chunk is made of."""
        if chunk == self._text:
            return range(len(self._spans))
        at = self._joined.find(chunk)
        while at >= 0:
            stop = self._places.get(at + len(chunk) + 1, len(self._spans))
            ends = stop < len(self._spans) or at + len(chunk) == len(self._joined)
            if at in self._places and ends:
                return range(self._places[at], stop)
            at = self._joined.find(chunk, at + 1)
        return None


class _Bags:
    """The words of a chunk's sentences, read once however many claims are compared with them."""

    def __init__(self, sentences: Sequence[str]) -> None:
        self._bags = [_words(sentence) for sentence in sentences]
        counts = Counter(word for bag in self._bags for word in bag)
        self._rarity = {
            word: math.log((1 + len(self._bags)) / count) for word, count in counts.items()
        }
        self._weights = [math.sqrt(self._weight(bag)) for bag in self._bags]

    def closest(self, claim: str) -> int | None:
        """Which sentence is nearest by the words it shares, rare ones weighing more; the first.

        >>> _Bags(["Aspirin was safe.", "Pain fell by 20%."]).closest("It lowered pain by 20%.")
        1
        """
        asked = _words(claim)
        best, place = 0.0, None
        for index, (bag, weight) in enumerate(zip(self._bags, self._weights, strict=True)):
            shared = self._weight(bag & asked)
            if shared > 0:
                # Divided by its own weight, so that a long sentence does not win by length.
                shared /= weight
            if shared > best:
                best, place = shared, index
        return place

    def _weight(self, words: frozenset[str]) -> float:
        return math.fsum(self._rarity[word] for word in words)  # exact, in whatever order


def _words(text: str) -> frozenset[str]:
    return frozenset(_WORD.findall(text.lower()))


@cache
def _glossary() -> Glossary:
    return Glossary.load()


def _plain_words(text: str, difficult: Sequence[Span]) -> list[PlainWord]:
    """Terms the glossary would replace, and difficult words outside them that it knows."""
    glossary = _glossary()
    words = [
        PlainWord(found.term, found.plain, found.start, found.end) for found in glossary.find(text)
    ]
    covered = {at for word in words for at in range(word.start, word.end)}
    for start, end in difficult:
        plain = None if start in covered or end - 1 in covered else glossary.lookup(text[start:end])
        if plain is not None:
            words.append(PlainWord(text[start:end], plain, start, end))
    return sorted(words, key=lambda word: word.start)
