"""Readability of one text: FKGL, SMOG and Dale-Chall, equal to textstat 0.7.4 to the last digit.
Also the Coleman-Liau index, which is no part of the loss but which shared tasks report.

Knows English words only: syllables are the American English hyphenation points of pyphen,
easy words are the packaged Dale-Chall list. Knows no model, no other metric, and keeps no
state but a cache of syllable counts, so any number of threads may call it. Where textstat
has a quirk (rounded averages inside the formulas, difficult words counted once however
often they occur, sentences of two words or fewer not counted), so has this: the numbers
people publish are textstat's. docs/readability.md lists the quirks.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import pyphen

from serve_app.core.errors import InvalidInput
from serve_app.core.resources import RESOURCES
from serve_app.text.validation import require_text

_STOPS = re.compile(r"[.!?]+")
_WORD = re.compile(r"\w\S*")  # one match for each whitespace-separated token that has a \w
_THREE_WORDS = re.compile(r"\W*+\w\S*+\s\W*+\w\S*+\s\W*+\w")
_NOT_WORD = re.compile(r"\W+")
_PUNCTUATION = re.compile(r"\W")  # what no letter of a word is, spaces included
_TOKEN = re.compile(r"[\w='‘’]+")  # what textstat looks up in the list of easy words
_DOTTED_I = "\u0130"  # the one character that grows when lower-cased

_MIN_SENTENCE_WORDS = 3  # as in _THREE_WORDS
_MIN_SMOG_SENTENCES = 3
_LONGEST_CACHED = 64  # characters; longer tokens are not words, and would fill memory

_EASY_WORDS = frozenset(
    (RESOURCES / "readability" / "easy_words.txt").read_text(encoding="utf-8").split("\n")
)
_HYPHENATION = pyphen.Pyphen(lang="en_US")


class DifficultWord(NamedTuple):
    """One occurrence of a word that is not on the Dale-Chall list.

    Attributes:
        word: the word as it was looked up, in lower case. Numbers are words here.
        start: offset of its first character in the text.
        end: offset after its last; `text[start:end]` is the word as written.
    """

    word: str
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Readability:
    """The readability of one text.

    Attributes:
        fkgl: Flesch-Kincaid grade level, one decimal; may be negative for very easy text.
        smog: SMOG index, one decimal; 0.0 where the text has fewer than three sentences.
        dale_chall: Dale-Chall score, two decimals; about [0, 20].
        sentences: sentences of three words or more, at least 1.
        words: whitespace-separated words that have a letter or digit, at least 1.
        syllables: over all words.
        difficult_words: every occurrence, in order of the text. Dale-Chall counts each
            distinct `word` once: see `distinct_difficult`.
    """

    fkgl: float
    smog: float
    dale_chall: float
    sentences: int
    words: int
    syllables: int
    difficult_words: tuple[DifficultWord, ...]

    @property
    def distinct_difficult(self) -> int:
        """The number of difficult words as Dale-Chall counts them."""
        return len({found.word for found in self.difficult_words})


class ReadabilityScores(NamedTuple):
    """The three scores alone; see `Readability`."""

    fkgl: float
    smog: float
    dale_chall: float


@dataclass(frozen=True, slots=True)
class ReadabilityCounts:
    """What the scores are made of, such that `a + b` is exactly the counts of `a + " " + b`.

    Counting a text's sentences once and adding lets a summariser score many subsets of
    them without reading them again. The default value is the counts of the empty text.

    Attributes:
        words: words with a letter or digit.
        syllables: over all words.
        polysyllables: words of three syllables or more.
        difficult: distinct words, in lower case, that are not on the Dale-Chall list.
        head: words before the first `.`, `!` or `?` (all words, where there is none).
        closed: sentences of three words or more between the first and the last of those.
        tail: words after the last of those, or None where the text has none.
    """

    words: int = 0
    syllables: int = 0
    polysyllables: int = 0
    difficult: frozenset[str] = frozenset()
    head: int = 0
    closed: int = 0
    tail: int | None = None

    @classmethod
    def of(cls, text: str) -> ReadabilityCounts:
        """Counts `text`; linear in its length. Raises nothing, not even for an empty text."""
        return _count(text, frozenset(_TOKEN.findall(text.lower())) - _EASY_WORDS)

    @classmethod
    def total(cls, parts: Iterable[ReadabilityCounts]) -> ReadabilityCounts:
        """The counts of the parts joined by spaces, in the order given."""
        total = cls()
        for part in parts:
            total = total + part
        return total

    def __add__(self, other: ReadabilityCounts) -> ReadabilityCounts:
        head, closed, tail = self.head, self.closed, other.tail
        if self.tail is None:
            head, closed = head + other.head, other.closed
        elif other.tail is None:
            tail = self.tail + other.head
        else:
            # What ends the left text and what starts the right one are one sentence.
            closed += other.closed + _is_sentence(self.tail + other.head)
        return ReadabilityCounts(
            words=self.words + other.words,
            syllables=self.syllables + other.syllables,
            polysyllables=self.polysyllables + other.polysyllables,
            difficult=self.difficult | other.difficult,
            head=head,
            closed=closed,
            tail=tail,
        )

    @property
    def sentences(self) -> int:
        """Sentences of three words or more, at least 1."""
        return max(1, _is_sentence(self.head) + self.closed + _is_sentence(self.tail or 0))

    def scores(self) -> ReadabilityScores:
        """FKGL, SMOG and Dale-Chall.

        Raises:
            InvalidInput: there is no word to score.
        """
        if self.words == 0:
            raise InvalidInput("the text has no word", field="texts", code="no_words")
        sentences = self.sentences
        words_per_sentence = _round(self.words / sentences, 10)
        syllables_per_word = _round(self.syllables / self.words, 10)
        fkgl = _round(0.39 * words_per_sentence + 11.8 * syllables_per_word - 15.59, 10)
        smog = 0.0
        if sentences >= _MIN_SMOG_SENTENCES:
            smog = _round(1.043 * (30 * (self.polysyllables / sentences)) ** 0.5 + 3.1291, 10)
        # By way of the easy words, as textstat does: the order of operations fixes the last bit.
        percent_difficult = 100 - (self.words - len(self.difficult)) / self.words * 100
        dale_chall = 0.1579 * percent_difficult + 0.0496 * words_per_sentence
        if percent_difficult > 5:
            dale_chall += 3.6365
        return ReadabilityScores(fkgl, smog, _round(dale_chall, 100))


def readability(text: str, field: str = "texts") -> Readability:
    """ReadabilityScores one text; linear in its length.

    Equal to textstat 0.7.4's `flesch_kincaid_grade`, `smog_index` and
    `dale_chall_readability_score` for every text.

    Args:
        text: English text with at least one letter or digit.
        field: the request field an error names.

    Raises:
        InvalidInput: the text is empty, has no word, or is not valid Unicode.

    >>> result = readability("The cat sat on the mat. Hypertension persisted for years.")
    >>> result.fkgl, result.smog, result.dale_chall, result.sentences, result.words
    (4.1, 0.0, 8.62, 2, 10)
    >>> [found.word for found in result.difficult_words]
    ['hypertension', 'persisted', 'years']
    """
    require_text(text, field)
    difficult = _find_difficult(text)
    counts = _count(text, frozenset(found.word for found in difficult))
    fkgl, smog, dale_chall = counts.scores()
    return Readability(
        fkgl=fkgl,
        smog=smog,
        dale_chall=dale_chall,
        sentences=counts.sentences,
        words=counts.words,
        syllables=counts.syllables,
        difficult_words=difficult,
    )


def readability_batch(texts: Sequence[str], field: str = "texts") -> list[Readability]:
    """ReadabilityScores each text, in order.

    Raises:
        InvalidInput: a text cannot be scored; the error names it, as `texts[3]`.
    """
    return [readability(text, f"{field}[{index}]") for index, text in enumerate(texts)]


def coleman_liau(text: str, field: str = "texts") -> float:
    """The Coleman-Liau index, equal to textstat 0.7.4's `coleman_liau_index`; linear in the length.

    Coleman and Liau, "A computer readability formula designed for machine scoring", Journal of
    Applied Psychology 60, 1975: 5.88 letters a word, 29.6 sentences a word, less 15.8.

    Raises:
        InvalidInput: as `readability`.

    >>> coleman_liau("The cat sat on the mat. Hypertension persisted for years.")
    4.96
    """
    require_text(text, field)
    counts = _count(text, frozenset())
    letters = len(_PUNCTUATION.sub("", text))
    per_hundred_words = [
        _round(_round(count / counts.words, 100) * 100, 100)
        for count in (letters, counts.sentences)
    ]
    return _round(0.058 * per_hundred_words[0] - 0.296 * per_hundred_words[1] - 15.8, 100)


def _count(text: str, difficult: frozenset[str]) -> ReadabilityCounts:
    tokens = text.split()
    counts = [
        _syllables(token) if len(token) <= _LONGEST_CACHED else _hyphenate(token)
        for token in tokens
    ]
    words = len(counts) - counts.count(0)
    head, *middle = _STOPS.split(text)
    tail = middle.pop() if middle else None
    return ReadabilityCounts(
        words=words,
        syllables=sum(counts),
        polysyllables=words - counts.count(1) - counts.count(2),
        difficult=difficult,
        head=len(_WORD.findall(head)),
        closed=sum(_THREE_WORDS.match(chunk) is not None for chunk in middle),
        tail=None if tail is None else len(_WORD.findall(tail)),
    )


def _is_sentence(words: int) -> bool:
    return words >= _MIN_SENTENCE_WORDS


def _hyphenate(token: str) -> int:
    """Syllables of one whitespace-free token; 0 if it is punctuation alone."""
    word = _NOT_WORD.sub("", token.lower())
    if not word:
        return 0
    count = len(_HYPHENATION.positions(word)) + 1
    # pyphen remembers every word it ever saw; our own cache is bounded and enough.
    _HYPHENATION.hd.cache.clear()
    return count


_syllables = lru_cache(maxsize=65536)(_hyphenate)


def _find_difficult(text: str) -> tuple[DifficultWord, ...]:
    easy = _EASY_WORDS
    found = [
        DifficultWord(word, *match.span())
        for match in _TOKEN.finditer(text.lower())
        if (word := match[0]) not in easy
    ]
    if _DOTTED_I in text:
        # Lower-casing moved what follows: `origin` leads back to the text as written.
        origin = [i for i, char in enumerate(text) for _ in range(1 + (char == _DOTTED_I))]
        found = [
            DifficultWord(word, origin[start], origin[end - 1] + 1) for word, start, end in found
        ]
    return tuple(found)


def _round(number: float, scale: int) -> float:
    """Half away from zero for positives; one step further down for negatives, as textstat."""
    return float(math.floor(number * scale + math.copysign(0.5, number))) / scale
