"""Spans of an evaluation's evidence in both texts, and plain words for difficult ones.

Uses what the metrics have computed (sentences with the chunk that supports each, difficult words)
and asks no model. Takes time linear in the texts' lengths. Knows sentence ends and the glossary;
knows no HTTP and no loss. All offsets count characters (Unicode code points).
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

from serve_app.core.errors import Unavailable
from serve_app.metrics.evaluation import Measured
from serve_app.text.glossary import Glossary
from serve_app.text.sentences import sentence_spans

_WORD = re.compile(r"\w+")
_ASK_EVERY = 64  # sentences
_MOST_TRIES = 1000  # places where a chunk's text stands, but no sentence begins
_MOST_COMPARED = 64  # sentences of a chunk with a claim: more than the chunks of models have

Span = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Evidence:
    """One sentence of a summary and its support, as spans; None where a text is not found again.

    Attributes:
        sentence: its span in the summary.
        passage: span in the original of the chunk that supports it best.
        closest: span in the original of that chunk's sentence that shares the most and the rarest
            words with it, or None where no word is shared. Words alone decide, no model.
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
    """One evidence for each factuality sentence, and the plain words."""

    sentences: tuple[Evidence, ...]
    plain_words: tuple[PlainWord, ...]


def explain(
    original: str,
    generated: str,
    measured: Measured,
    unwanted: Callable[[], bool] = lambda: False,
) -> Explanation:
    """Explains what was measured of one pair.

    Args:
        original, generated: the texts of the pair.
        measured: their metrics.
        unwanted: asked again and again whether nobody waits for the explanation any more.

    Raises:
        Unavailable: `unwanted` said so.
    """
    source = _Source(original)
    evidence = []
    cursor = 0
    for at, sentence in enumerate(measured.factuality.sentences):
        if at % _ASK_EVERY == 0 and unwanted():
            raise Unavailable("the explanation is no longer wanted")
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
        # A chunk is whole sentences; checkers differ in the white space between them.
        bare = [" ".join(sentence.split()) for sentence in self._sentences]
        self._joined = " ".join(bare)
        self._numbers: dict[int, int] = {}  # of the sentences, by their offset
        at = 0
        for number, sentence in enumerate(bare):
            self._numbers[at] = number
            at += len(sentence) + 1
        self._chunks: dict[str, tuple[range, _Sentences]] = {}
        self._cursor = 0

    def support(self, claim: str, chunk: str) -> tuple[Span | None, Span | None]:
        """The spans of a chunk and of its sentence closest to the claim."""
        if chunk not in self._chunks:
            found = self._find(chunk, self._cursor) or self._find(chunk, 0) or range(0)
            self._chunks[chunk] = found, _Sentences(self._sentences[found.start : found.stop])
        numbers, sentences = self._chunks[chunk]
        if not numbers:
            return None, None
        passage = (self._spans[numbers[0]][0], self._spans[numbers[-1]][1])
        closest = sentences.closest(claim)
        return passage, None if closest is None else self._spans[numbers[closest]]

    def _find(self, chunk: str, start: int) -> range | None:
        """The sentences of a chunk, from an offset on: chunks mostly come in their order."""
        count = len(self._spans)
        if chunk == self._text:
            return range(count)
        chunk = " ".join(chunk.split())
        at = start - 1
        for _ in range(_MOST_TRIES):
            at = self._joined.find(chunk, at + 1)
            if at < 0:
                break
            end = at + len(chunk)
            stop = count if end == len(self._joined) else self._numbers.get(end + 1)
            if at in self._numbers and stop is not None:
                self._cursor = end
                return range(self._numbers[at], stop)
        return None


class _Sentences:
    """A chunk's sentences by their words, so that a claim is compared with a few of them only."""

    def __init__(self, sentences: Sequence[str]) -> None:
        self._bags = [_words(sentence) for sentence in sentences]
        self._having: dict[str, list[int]] = {}  # the sentences with a word, in order
        for number, bag in enumerate(self._bags):
            for word in bag:
                self._having.setdefault(word, []).append(number)
        self._rarity = {
            word: math.log((1 + len(self._bags)) / len(having))
            for word, having in self._having.items()
        }
        self._weights = [math.sqrt(self._weight(bag)) for bag in self._bags]
        self._closest: dict[frozenset[str], int | None] = {}

    def closest(self, claim: str) -> int | None:
        """The first of the sentences that share the most with the claim, rare words weighing more.

        >>> _Sentences(["Aspirin was safe.", "Pain fell 20%."]).closest("It lowered pain by 20%.")
        1
        """
        asked = frozenset(_words(claim) & self._having.keys())
        if asked not in self._closest:
            # Divided by its own weight, so that a long sentence does not win by length.
            scores = {
                number: self._weight(self._bags[number] & asked) / self._weights[number]
                for number in self._candidates(asked)
            }
            best = max(scores.values(), default=0.0)
            self._closest[asked] = min(
                (number for number, score in scores.items() if score == best > 0), default=None
            )
        return self._closest[asked]

    def _candidates(self, asked: frozenset[str]) -> set[int]:
        """Sentences that share a word; where there are many, those that share a rare one."""
        found: set[int] = set()
        for word in sorted(asked, key=lambda word: (len(self._having[word]), word)):
            found.update(self._having[word][:_MOST_COMPARED])
            if len(found) >= _MOST_COMPARED:
                break
        return found

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
