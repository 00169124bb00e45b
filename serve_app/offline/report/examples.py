"""What a report says of texts: the worst examples, sentence by sentence, lengths and truncation.

What a scored file does not carry, the models of the settings read, for the few texts shown. Knows
texts and offsets; knows no HTML, and loads no model.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, pairwise
from typing import TYPE_CHECKING, get_args

import numpy as np

from serve_app.core.errors import InvalidInput, MetricFailed
from serve_app.evidence.findings import Finding, Severity, TextSpan
from serve_app.metrics.loss import METRICS
from serve_app.metrics.readability import readability
from serve_app.offline.report.findings import checked
from serve_app.offline.report.statistics import Floats, MetricSummary, summaries
from serve_app.offline.report.systems import TRUNCATIONS, ScoredSentence, System
from serve_app.text.sentences import sentence_spans
from serve_app.text.validation import has_word

if TYPE_CHECKING:
    from serve_app.metrics.suite import MetricSuite

SAMPLE = 500
"""Rows tokenised for the truncation of a file that does not report it."""

LENGTHS = ("original", "generated", "ratio")

SEVERITIES = get_args(Severity)

UNSUPPORTED = 1 / 3
"""A sentence with a factuality below this is called unsupported, here and on the served page."""

LONGEST = 5000  # characters of a summary shown; whole sentences, at least one
LONGEST_SUPPORT = 600  # of a passage


# --- one summary, marked ----------------------------------------------------------------


@dataclass(frozen=True)
class Piece:
    """A run of text.

    Attributes:
        text: as written.
        difficult: whether it is a difficult word.
        severity: of the gravest finding at these words; "" where there is none.
        ends: numbers of the findings whose words end here.
    """

    text: str
    difficult: bool
    severity: str = ""
    ends: tuple[int, ...] = ()


@dataclass(frozen=True)
class Said:
    """A finding or an omission, in words.

    Attributes:
        what: its severity and kind, or the topic.
        message: what differs or is missing.
        source: the sentences of the original that it is about, "" without one.
    """

    what: str
    message: str
    source: str


@dataclass(frozen=True)
class MarkedSentence:
    """One sentence of a summary with the white space after it.

    Attributes:
        pieces: its text in order.
        score: its factuality, None where unknown.
        support: the passage nearest to it, "" where unknown.
    """

    pieces: tuple[Piece, ...]
    score: float | None
    support: str

    @property
    def unsupported(self) -> bool:
        """Whether its factuality is below `UNSUPPORTED`."""
        return self.score is not None and self.score < UNSUPPORTED


@dataclass(frozen=True)
class MarkedSummary:
    """A summary: its sentences, how many characters at its end are not shown, how many difficult
    words it has, what it says otherwise than its original (in the order of the numbers in its
    pieces), and what it leaves out."""

    sentences: tuple[MarkedSentence, ...]
    left_out: int
    difficult: int
    findings: tuple[Said, ...] = ()
    omissions: tuple[Said, ...] = ()

    @property
    def unsupported(self) -> int:
        """How many sentences are unsupported."""
        return sum(one.unsupported for one in self.sentences)


def mark(
    text: str, scores: Sequence[ScoredSentence] | None, original: str | None = None
) -> MarkedSummary:
    """Marks difficult words, the factuality of sentences, and findings.

    Args:
        text: the summary.
        scores: factuality of its sentences, in order; a sentence that the text does not have is
            left out. None: unknown.
        original: what the summary is of; None: no findings.
    """
    found = checked(original, text)
    told = () if found is None else found.findings
    spans = _spans(text, scores)
    difficult = readability(text).difficult_words if has_word(text) else ()
    words = [(one.start, one.end) for one in difficult]
    sentences: list[MarkedSentence] = []
    shown = 0
    for (start, scored), (end, _) in zip(spans, [*spans, (len(text), None)][1:], strict=True):
        if sentences and end > LONGEST:
            break
        shown = min(end, start + LONGEST)
        score, support = (None, "") if scored is None else (scored.score, scored.support)
        if len(support) > LONGEST_SUPPORT:
            support = f"{support[:LONGEST_SUPPORT].rsplit(None, 1)[0]} ..."
        sentences.append(MarkedSentence(_pieces(text, start, shown, words, told), score, support))
    return MarkedSummary(
        tuple(sentences),
        len(text) - shown,
        len(words),
        tuple(
            Said(
                f"{one.severity}, {one.kind}",
                one.message,
                _around(original or "", one.source_spans),
            )
            for one in told
        ),
        tuple(
            Said(one.topic, one.message, _around(original or "", [one.source_span]))
            for one in (found.omissions if found is not None else ())
        ),
    )


def _around(original: str, spans: Sequence[TextSpan]) -> str:
    """The sentences of the original that spans begin in."""
    starts = [start for start, end in spans if end > start]
    around = [
        original[start:end]
        for start, end in (sentence_spans(original) if starts else ())
        if any(start <= one < end for one in starts)
    ]
    return " ".join(around)


def _spans(
    text: str, scores: Sequence[ScoredSentence] | None
) -> list[tuple[int, ScoredSentence | None]]:
    """Where each sentence begins; the first begins at 0, and each ends where the next begins."""
    starts: list[tuple[int, ScoredSentence | None]] = []
    cursor = 0
    for scored in scores or ():
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


def _pieces(
    text: str, start: int, end: int, words: Sequence[TextSpan], found: Sequence[Finding]
) -> tuple[Piece, ...]:
    # The words of this sentence alone: a summary may have many thousand.
    near = words[bisect_left(words, (start, 0)) : bisect_left(words, (end, 0))]
    own = [(first, last) for first, last in near if last <= end]
    told = [
        (max(first, start), min(last, end), number, one.severity)
        for number, one in enumerate(found, 1)
        # Where the summary lacks words, its sentence.
        for first, last in [s for s in one.summary_spans if s[1] > s[0]] or [one.sentence_span]
        if first < end and last > start
    ]
    cuts = sorted({start, end, *chain(*own), *chain(*((one[0], one[1]) for one in told))})
    pieces = []
    for first, last in pairwise(cuts):
        over = [one for one in told if one[0] <= first and one[1] >= last]
        pieces.append(
            Piece(
                text[first:last],
                any(one <= first and last <= other for one, other in own),
                min((one[3] for one in over), key=SEVERITIES.index, default=""),
                tuple(number for _, ends, number, _ in over if ends == last),
            )
        )
    return tuple(pieces)


# --- the models -------------------------------------------------------------------------


class SuiteReader:
    """Reads the texts of a report with a suite of metrics."""

    def __init__(self, suite: MetricSuite) -> None:
        self._suite = suite
        self.names = suite.models

    def sentences(self, original: str, generated: str) -> tuple[ScoredSentence, ...] | None:
        """Factuality of each sentence and its nearest passage; None: these texts have no score."""
        from serve_app.metrics.explanation import explain

        try:
            (measured,) = self._suite.measure([original], [generated])
        except (InvalidInput, MetricFailed):
            return None
        sentences = []
        found = explain(original, generated, measured).sentences
        for scored, evidence in zip(measured.factuality.sentences, found, strict=True):
            span = evidence.closest
            support = "" if span is None else original[span[0] : span[1]]
            sentences.append(ScoredSentence(scored.text, scored.score, support))
        return tuple(sentences)

    def truncations(
        self, originals: Sequence[str], generated: Sequence[str]
    ) -> dict[str, list[bool]]:
        """By `TRUNCATIONS`, whether a part of each text would not be read."""
        relevance = self._suite.relevance
        found = (
            relevance.truncates(originals),
            relevance.truncates(generated),
            self._suite.factuality.truncates(originals, generated),
        )
        return dict(zip(TRUNCATIONS, found, strict=True))


# --- the rows of a system ---------------------------------------------------------------


@dataclass(frozen=True)
class Example:
    """One row with a high loss.

    Attributes:
        row: its number in the file, from 1.
        key: its value in the pairing column, "" without one.
        loss: of the row.
        values: its metrics.
        parts: weight times error of each metric, and of each term beside them.
        summary: marked; None where the file has no summary of it.
        source: where the factuality of its sentences comes from: `file`, `models`, or `none`.
    """

    row: int
    key: str
    loss: float
    values: dict[str, float]
    parts: dict[str, float]
    summary: MarkedSummary | None
    source: str


@dataclass(frozen=True)
class Truncated:
    """How many of the rows looked at were not read to their end.

    Attributes:
        rows: looked at.
        counts: by `TRUNCATIONS`.
        source: `file` or `models`.
    """

    rows: int
    counts: dict[str, int]
    source: str


def examples(
    system: System,
    losses: Floats,
    parts: Floats,
    names: Sequence[str],
    count: int,
    column: str | None,
    reader: SuiteReader | None,
) -> list[Example]:
    """The rows with the highest loss, highest first; among equals the first of the file.

    Args:
        system: whose rows.
        losses: (rows,), NaN without numbers.
        parts: (rows, len(names)) weight times error.
        names: of the parts: the metrics, and the terms beside them.
        count: how many.
        column: whose values name them.
        reader: computes sentence factuality the file does not carry; None: it stays unknown.
    """
    order = np.argsort(-np.where(system.scored, losses, -np.inf), kind="stable")[:count]
    chosen = [int(at) for at in order if system.scored[at]]
    keys = system.keys.get(column, ()) if column is not None else ()
    found = []
    for at, texts in zip(chosen, system.texts(chosen), strict=True):
        sentences, source = texts.sentences, "file"
        if sentences is None:
            if reader is not None and texts.original is not None and texts.generated is not None:
                sentences = reader.sentences(texts.original, texts.generated)
            source = "none" if sentences is None else "models"
        found.append(
            Example(
                int(system.numbers[at]) + 1,
                keys[at] if keys else "",
                float(losses[at]),
                dict(zip(METRICS, system.values[at].tolist(), strict=True)),
                dict(zip(names, parts[at].tolist(), strict=True)),
                None
                if texts.generated is None
                else mark(texts.generated, sentences, texts.original),
                source,
            )
        )
    return found


def lengths(system: System) -> dict[str, MetricSummary]:
    """Words of originals and summaries and the summary's share, of the rows that have texts."""
    original, generated = system.words.T
    with np.errstate(divide="ignore", invalid="ignore"):
        columns = (original, generated, generated / original)
    known = {name: one[np.isfinite(one)] for name, one in zip(LENGTHS, columns, strict=True)}
    return {name: summaries(one[:, None])[0] for name, one in known.items() if len(one)}


def truncation(system: System, reader: SuiteReader | None, seed: int = 0) -> Truncated | None:
    """The texts not read to their end: as the file says, else of a random sample; None: unknown."""
    said = np.column_stack([system.truncated[name] for name in TRUNCATIONS])
    known = np.isfinite(said).all(axis=1)
    if known.any():
        counts = said[known].sum(axis=0).astype(int).tolist()
        return Truncated(int(known.sum()), dict(zip(TRUNCATIONS, counts, strict=True)), "file")
    if reader is None:
        return None
    places = np.flatnonzero(np.isfinite(system.words).all(axis=1))
    if len(places) > SAMPLE:
        places = np.sort(np.random.default_rng(seed).choice(places, SAMPLE, replace=False))
    pairs = [
        (texts.original, texts.generated)
        for texts in system.texts(places.tolist())
        if texts.original and texts.generated and has_word(texts.original + texts.generated)
    ]
    if not pairs:
        return None
    found = reader.truncations([one for one, _ in pairs], [other for _, other in pairs])
    return Truncated(len(pairs), {name: sum(found[name]) for name in TRUNCATIONS}, "models")
