"""A summary in sentences and pieces: what is unsupported, which words are difficult.

Knows texts and offsets; knows no model and no HTML.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass

from serve_app.metrics.readability import readability
from serve_app.offline.report.systems import ScoredSentence
from serve_app.text.sentences import sentence_spans
from serve_app.text.validation import has_word

UNSUPPORTED = 1 / 3
"""A sentence whose factuality is below this is called unsupported; the served page has it too."""

LONGEST = 5000  # characters of a summary shown; whole sentences, at least one
LONGEST_SUPPORT = 600  # of a passage


@dataclass(frozen=True)
class Piece:
    """A run of text, a difficult word or not."""

    text: str
    difficult: bool


@dataclass(frozen=True)
class MarkedSentence:
    """One sentence of a summary with the white space after it.

    Attributes:
        pieces: its text in order.
        score: its factuality, None where nobody computed it.
        support: the passage nearest to it, "" where none is known.
    """

    pieces: tuple[Piece, ...]
    score: float | None
    support: str

    @property
    def unsupported(self) -> bool:
        """Whether its factuality is below `UNSUPPORTED`."""
        return self.score is not None and self.score < UNSUPPORTED


@dataclass(frozen=True)
class Marked:
    """A summary, and how many characters at its end are not shown."""

    sentences: tuple[MarkedSentence, ...]
    left_out: int
    difficult: int

    @property
    def unsupported(self) -> int:
        """How many sentences are unsupported."""
        return sum(one.unsupported for one in self.sentences)


def mark(text: str, scores: Sequence[ScoredSentence] | None) -> Marked:
    """Marks a summary.

    Args:
        text: the summary.
        scores: factuality of its sentences, in order; one that does not stand in the text is
            left out. None: unknown.
    """
    spans = _spans(text, scores)
    words = (
        [(one.start, one.end) for one in readability(text).difficult_words]
        if has_word(text)
        else []
    )
    sentences: list[MarkedSentence] = []
    shown = 0
    for at, (start, scored) in enumerate(spans):
        end = spans[at + 1][0] if at + 1 < len(spans) else len(text)
        if sentences and end > LONGEST:
            break
        end = min(end, start + LONGEST)
        sentences.append(
            MarkedSentence(
                _pieces(text, start, end, words),
                None if scored is None else scored.score,
                "" if scored is None else _shortened(scored.support),
            )
        )
        shown = end
    return Marked(tuple(sentences), len(text) - shown, len(words))


def _spans(
    text: str, scores: Sequence[ScoredSentence] | None
) -> list[tuple[int, ScoredSentence | None]]:
    """Where each sentence begins; the first begins at 0, and each ends where the next begins."""
    starts: list[tuple[int, ScoredSentence | None]] = []
    if scores is not None:
        cursor = 0
        for scored in scores:
            at = text.find(scored.text, cursor)
            if at >= 0 and scored.text:
                starts.append((at, scored))
                cursor = at + len(scored.text)
    if not starts:
        starts = [(start, None) for start, _ in sentence_spans(text)]
    if starts and starts[0][0] > 0:
        # White space alone belongs to the first sentence, words before it to none that was scored.
        if text[: starts[0][0]].strip():
            return [(0, None), *starts]
        starts[0] = (0, starts[0][1])
    return starts


def _pieces(text: str, start: int, end: int, words: Sequence[tuple[int, int]]) -> tuple[Piece, ...]:
    pieces = []
    at = start
    # Those of this sentence alone: a summary may have many thousand.
    for first, last in words[bisect_left(words, (start, 0)) : bisect_left(words, (end, 0))]:
        if first < at or last > end:
            continue
        if first > at:
            pieces.append(Piece(text[at:first], False))
        pieces.append(Piece(text[first:last], True))
        at = last
    if at < end:
        pieces.append(Piece(text[at:end], False))
    return tuple(pieces)


def _shortened(text: str) -> str:
    if len(text) <= LONGEST_SUPPORT:
        return text
    return f"{text[:LONGEST_SUPPORT].rsplit(None, 1)[0]} ..."
