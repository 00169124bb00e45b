"""How much of a summary pleases the metrics without telling a reader anything in plain words.

A loss is a distance to the mean of human writing, so a policy finds other ways to it: it copies the
source or parts of its sentences, says one thing again and again, or hedges about nothing. Knows
sentences and words; knows no metric and no trainer.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import chain

from serve_app.evidence import Source
from serve_app.evidence.alignment import Sentence, sentences_of

ALLOWED = 0.5
"""The share of a summary's words that may be copied, repeated or about nothing: human summaries
have some of it too."""
_COPIED_FROM = 0.85  # of a sentence's words, in the order of the source
_REPEATED_FROM = 0.9
_HOLLOW_BELOW = 0.34  # of a sentence's words, by weight, that the source has
_LEAST_PREFIX = 3
_LONG = 12  # words: so many are in the order of the source by copying only, however far apart
_NEAR = 3
_WORD = re.compile(r"[^\W_]+")


def gamed_share(source: Source, summary: str) -> float:
    """The share of the summary's words in sentences that are copied, repeated or about nothing.

    A sentence is copied if six in seven of its words, or their beginnings, stand in the source in
    the same order: so a source cut into pieces, or without its long words, is copied too.

    Returns:
        In [0, 1]; 0 for a summary without a word.
    """
    places = [_words(sentence.said) for sentence in source.sentences]
    near = [[*chain(*places[index : index + _NEAR])] for index in range(len(places))]
    whole = [[*chain(*places)]]
    gamed = total = 0
    earlier: list[frozenset[str]] = []
    for sentence in sentences_of(summary):
        words = _words(sentence.said)
        if not words:
            continue
        total += len(words)
        known = frozenset(words)
        repeated = any(len(known & one) >= _REPEATED_FROM * len(known) for one in earlier)
        earlier.append(known)
        if (
            repeated
            or _hollow(sentence, source)
            or _copied(words, whole if len(words) >= _LONG else near)
        ):
            gamed += len(words)
    return gamed / total if total else 0.0


def honest_share(source: Source, summary: str) -> float:
    """What a reward is multiplied by: 1 while at most `ALLOWED` of a summary is gamed, then falling
    to 0 for one that is gamed as a whole."""
    return min(1.0, (1.0 - gamed_share(source, summary)) / (1.0 - ALLOWED))


def _words(text: str) -> list[str]:
    return _WORD.findall(text.lower())


def _hollow(sentence: Sentence, source: Source) -> bool:
    return source.align(sentence).coverage < _HOLLOW_BELOW


def _copied(words: Sequence[str], near: Sequence[Sequence[str]]) -> bool:
    return any(_in_order(words, there) >= _COPIED_FROM * len(words) for there in near)


def _in_order(words: Sequence[str], there: Sequence[str]) -> int:
    """The length of the longest common subsequence, where the beginning of a word is the word.

    Bits of one integer are the columns of its table: Hyyrö, "Bit-parallel LCS-length computation
    revisited" (2004).
    """
    at: dict[str, int] = {}
    for place, word in enumerate(words):
        at[word] = at.get(word, 0) | 1 << place
    every = (1 << len(words)) - 1
    row = every
    for word in there:
        found = at.get(word, 0)
        for length in range(_LEAST_PREFIX, len(word)):
            found |= at.get(word[:length], 0)
        kept = row & found
        row = ((row + kept) | (row - kept)) & every
    return len(words) - row.bit_count()
