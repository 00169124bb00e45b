"""Typed findings: what a summary says otherwise than its source, with the words on both sides.

Each sentence of the summary is compared with its evidence by rules; no model is asked. A finding is
`severe` where a reader would be misled, `minor` where a writer should look.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from serve_app.core.errors import out_of_time
from serve_app.core.schemas import FindingKind
from serve_app.evidence.alignment import Alignment, Sentence, Source
from serve_app.evidence.claims import Certainty, Clause, Cue
from serve_app.evidence.entities import named
from serve_app.evidence.quantities import Quantity
from serve_app.evidence.wording import Difference, differences
from serve_app.evidence.words import words_of

Severity = Literal["severe", "minor", "note"]
Verdict = Literal["supported", "check", "contradicted"]
TextSpan = tuple[int, int]

SUPPORTED_FROM = 0.5
"""Coverage from which a sentence counts as spoken of in the source."""
UNSUPPORTED_BELOW = 0.25
SURELY_ON = 0.65
"""Coverage from which a name that the source does not have stands in place of another."""
CHECK_BELOW = 0.05
"""AlignScore of a sentence that nothing supports; alignscore-mini gives less to one human sentence
in thirty (training split of the Cochrane pairs)."""
MOST_NUMBERS = 60
"""Numbers of a sentence, or of its evidence, that are compared with each other."""
SAME_THING = 0.45
"""Share of a clause's words, by weight, that a clause of the source must have to be compared."""

_DEFINES = re.compile(
    r"\b(?:is|are|was|were)\s(?:a|an|the|when|where|one|any|type|kind|caused|used\sto|also|often|usually|"
    r"common|serious)\b|\b(?:called|known\sas|means|refers?\sto|occurs?\swhen|happens?\swhen|such\sas|"
    r"can\s(?:be|cause|lead|affect|happen)|may\sbe\scaused|often|usually)\b|\([a-z]",
    re.I,
)
_STATISTICS = re.compile(
    r"\b(?:CI|RR|OR|HR|MD|SMD|NNT|I2|I²|P|p)\b\s*[=<>]?\s*$|confidence interval\W*$"
)


@dataclass(frozen=True, slots=True)
class Finding:
    """One difference.

    Attributes:
        kind: of what kind; `unsupported`: nothing in the source speaks of it; `explanation`: a
            definition or background, which plain language needs and no source has.
        severity: `severe`: it misleads a reader; `minor`: look at it; `note`: to know.
        message: the difference in one sentence, for a writer.
        summary_spans: the words concerned, as offsets into the summary.
        source_spans: the words that they differ from, as offsets into the source; may be empty.
        sentence: which sentence of the summary, from 0.
        sentence_span: where it stands in the summary.
    """

    kind: FindingKind
    severity: Severity
    message: str
    summary_spans: tuple[TextSpan, ...]
    source_spans: tuple[TextSpan, ...]
    sentence: int = 0
    sentence_span: TextSpan = (0, 0)


def find(
    source: Source, sentences: Sequence[Sentence], unwanted: Callable[[], bool] = lambda: False
) -> list[Finding]:
    """The findings of a summary's sentences, in their order.

    Raises:
        Unavailable: `unwanted`, asked before each sentence, said that nobody waits any more.
    """
    found: list[Finding] = []
    for index, sentence in enumerate(sentences):
        if unwanted():
            raise out_of_time()
        span = (sentence.start, sentence.end)
        taken: list[TextSpan] = []
        for one in _of_sentence(sentence, source.align(sentence), source):
            # What is said of a number once is not said again by its wording.
            again = any(
                first < last_taken and first_taken < last
                for first, last in one.summary_spans
                for first_taken, last_taken in taken
            )
            if one.kind != "number" or not again:
                found.append(replace(one, sentence=index, sentence_span=span))
            taken += one.summary_spans
    return found


def verdict(findings: Iterable[Finding], score: float) -> Verdict:
    """What findings and factuality model together say of a sentence.

    >>> verdict([], 0.9), verdict([], 0.01)
    ('supported', 'check')

    Args:
        findings: those of the sentence.
        score: its AlignScore, in [0, 1].

    Returns:
        `contradicted` with a severe finding; `check` with a minor one, or where nothing supports it
        by the score, unless it explains (then no source has it); else `supported`.
    """
    severities = {one.severity for one in findings}
    if "severe" in severities:
        return "contradicted"
    explains = "note" in severities
    return (
        "check" if "minor" in severities or (score < CHECK_BELOW and not explains) else "supported"
    )


def _of_sentence(sentence: Sentence, evidence: Alignment, source: Source) -> Iterator[Finding]:
    background = evidence.coverage < SUPPORTED_FROM and _DEFINES.search(sentence.said) is not None
    yield from _numbers(sentence, evidence, source, background)
    if evidence.coverage < UNSUPPORTED_BELOW and len(sentence.stems) >= 3:
        yield _unsupported(sentence, background)
        return
    yield from _claims(sentence, evidence, source)
    if not background:
        yield from _entities(sentence, evidence, source)


def _unsupported(sentence: Sentence, background: bool) -> Finding:
    span = ((sentence.start, sentence.end),)
    if background:
        message = "This explains something in words that the source does not have."
        return Finding("explanation", "note", message, span, ())
    message = "Nothing in the source speaks of this."
    return Finding("unsupported", "minor", message, span, ())


# --- numbers ---------------------------------------------------------------------------------


def _numbers(
    sentence: Sentence, evidence: Alignment, source: Source, background: bool
) -> Iterator[Finding]:
    near = [one for found in evidence.sentences for one in found.quantities][:MOST_NUMBERS]
    kept: list[tuple[Quantity, Quantity]] = []
    for one in sentence.quantities:
        if _counts_nothing(one, sentence):
            continue
        equal = [other for other in near if one.equals(other)]
        equal = equal or source.equal_to(one)
        said = sentence.text[one.start : one.end]
        if not equal and not _follows(one, near):
            # A sentence on something else has its numbers from elsewhere.
            elsewhere = background or one.kind == "year" or evidence.coverage < SUPPORTED_FROM
            severity: Severity = "minor" if elsewhere else "severe"
            others = [other for other in near if other.kind == one.kind][:3]
            message = f"The source does not have the number “{said}”."
            if others:
                listed = ", ".join(f"“{source.text[o.start : o.end]}”" for o in others)
                message = f"The source does not have the number “{said}”; it says {listed}."
            spans = tuple((other.start, other.end) for other in others)
            yield Finding("number", severity, message, ((one.start, one.end),), spans)
        elif equal:
            same = [other for other in equal if _counts_the_same(one, other)]
            if not same:
                other = equal[0]
                message = f"“{said}” counts {one.counted} here and {other.counted} in the source."
                yield Finding(
                    "number", "severe", message, ((one.start, one.end),),
                    ((other.start, other.end),),
                )  # fmt: skip
            else:
                kept.append((one, _counterpart(one, sentence, same, source, kept)))
    yield from _exchanged(sentence, kept[:MOST_NUMBERS], evidence, source)


def _counts_nothing(one: Quantity, sentence: Sentence) -> bool:
    """ "One of the …", "two groups", a number of a list: nothing to compare."""
    if one.named and one.kind == "count" and one.value <= 3 and one.noun != "study":
        return True
    if one.named and one.value == 0:
        return True
    start = sentence.text[sentence.start : one.start].strip()
    return one.kind == "count" and not start and sentence.text[one.end : one.end + 1] in ".)"


def _counterpart(
    one: Quantity, sentence: Sentence, equal: Sequence[Quantity],
    source: Source, kept: Sequence[tuple[Quantity, Quantity]],
) -> Quantity:  # fmt: skip
    """Which of the source's equal quantities is meant: written alike, beside the same words, and
    not the counterpart of another."""
    if len(equal) == 1:
        return equal[0]
    said = sentence.text[one.start : one.end]
    taken = {other.start for _, other in kept}
    beside = _beside(sentence, one, (one,))

    def likeness(other: Quantity) -> tuple[bool, float, bool]:
        there = source.sentence_at(other.start)
        words = frozenset[str]() if there is None else _beside(there, other, (other,))
        written = source.text[other.start : other.end]
        return written == said, _alike(beside, words), other.start not in taken

    return max(equal[:MOST_NUMBERS], key=likeness)


def _counts_the_same(one: Quantity, other: Quantity) -> bool:
    return not one.counted or not other.counted or one.counted == other.counted


def _follows(one: Quantity, near: Sequence[Quantity]) -> bool:
    """Whether a number follows from others: a share from two counts, a sum or a difference of two,
    what is left of a whole."""
    if one.kind == "share":
        shares = [other.value for other in near if other.kind == "share"]
        counts = [other for other in near if other.kind == "count" and other.value > 0]
        room = max(one.step, 1.0) / 2 + (0.1 * abs(one.value) if one.about or one.named else 0.0)
        if any(abs(100 - value - one.value) <= room for value in shares):
            return True
        for part in counts:
            for whole in counts:
                inside = part.value <= whole.value and whole.value > 1
                if inside and abs(100 * part.value / whole.value - one.value) <= room:
                    return True
            # "RR 0.75" is a quarter less.
            ratio = 0 < part.value < 3 and part.step < 1
            if ratio and abs(abs(100 - 100 * part.value) - one.value) <= room:
                return True
        return any(
            abs(abs(first - second) - one.value) <= room
            for place, first in enumerate(shares)
            for second in shares[place + 1 :]
        )
    if one.kind != "count":
        alike = [other.value for other in near if other.kind == one.kind]
        return any(abs(value - one.value) <= 0.03 * abs(value) for value in alike)
    if one.named or not one.counted or one.value < 4:
        return False
    pool = [other.value for other in near if other.counted == one.counted][:30]
    return any(
        one.value in (first + second, abs(first - second))
        for place, first in enumerate(pool)
        for second in pool[place + 1 :]
    )


def _exchanged(
    sentence: Sentence, kept: Sequence[tuple[Quantity, Quantity]],
    evidence: Alignment, source: Source,
) -> Iterator[Finding]:  # fmt: skip
    """Two numbers of one kind that stand beside each other's words."""
    for place, (one, one_there) in enumerate(kept):
        for other, other_there in kept[place + 1 :]:
            if one.kind != other.kind or one.equals(other):
                continue
            there = source.sentence_at(one_there.start)
            if there is None or there is not source.sentence_at(other_there.start):
                continue
            here = [_beside(sentence, quantity, (one, other)) for quantity in (one, other)]
            back = [_beside(there, quantity, (one_there, other_there))
                    for quantity in (one_there, other_there)]  # fmt: skip
            straight = _alike(here[0], back[0]) + _alike(here[1], back[1])
            crossed = _alike(here[0], back[1]) + _alike(here[1], back[0])
            if crossed > straight + 0.5:
                said = [sentence.text[q.start : q.end] for q in (one, other)]
                yield Finding(
                    "number", "severe",
                    f"“{said[0]}” and “{said[1]}” seem to have changed places.",
                    ((one.start, one.end), (other.start, other.end)),
                    ((one_there.start, one_there.end), (other_there.start, other_there.end)),
                )  # fmt: skip
                return


def _beside(sentence: Sentence, one: Quantity, both: Sequence[Quantity]) -> frozenset[str]:
    """Stems of the words next to a number, as far as the other number."""
    ends = [other.end for other in both if other is not one and other.end <= one.start]
    starts = [other.start for other in both if other is not one and other.start >= one.end]
    first = max([sentence.start, *ends])
    last = min([sentence.end, *starts])
    before = words_of(sentence.text, first, one.start)[-4:]
    # Behind a comma or bracket another phrase begins.
    follows = sentence.text[one.end : one.end + 2].strip()[:1].isalpha()
    after = words_of(sentence.text, one.end, last)[:4] if follows else []
    return frozenset(word.stem for word in (*before, *after) if word.is_content)


def _alike(one: frozenset[str], other: frozenset[str]) -> float:
    return len(one & other) / max(2, min(len(one), len(other)))


# --- entities --------------------------------------------------------------------------------


def _entities(sentence: Sentence, evidence: Alignment, source: Source) -> Iterator[Finding]:
    """Drugs, conditions and groups of people that the source does not have."""
    for start, end, stems in named(sentence.text, sentence.start, sentence.end):
        if stems & source.stems:
            continue
        others = [
            (first, last)
            for there in evidence.sentences[:1]
            for first, last, found in named(source.text, there.start, there.end)
            if not found & sentence.plain_stems
        ]
        said = sentence.text[start:end]
        severity: Severity = "severe" if evidence.coverage >= SURELY_ON else "minor"
        message = f"The source does not speak of “{said}”."
        yield Finding("entity", severity, message, ((start, end),), tuple(others[:2]))


# --- what is claimed -------------------------------------------------------------------------


def _claims(sentence: Sentence, evidence: Alignment, source: Source) -> Iterator[Finding]:
    for there in evidence.sentences[:2]:
        changed = differences(
            sentence.text, (sentence.start, sentence.end), source.text, (there.start, there.end)
        )
        if changed is not None:
            yield from (_reworded(one, there) for one in changed)
            return
    claims = _Claims(evidence, source)
    for clause in sentence.clauses:
        finding = claims.compared(clause)
        if finding is not None:
            yield finding


_REWORDED: dict[str, tuple[FindingKind, Severity, str]] = {
    "number": ("number", "severe", "“{here}” here, “{there}” in the source."),
    "negation": (
        "negation",
        "severe",
        "The source says the opposite: one of the two negates this.",
    ),
    "opposite": ("direction", "severe", "“{here}” here, “{there}” in the source."),
    "surer": ("certainty", "severe", "“{here}” claims more than the source does."),
    "less sure": ("certainty", "minor", "The source says this more surely: “{there}”."),
    "exchanged": ("roles", "severe", "Words have changed places: “{here}”."),
}


def _reworded(one: Difference, there: Sentence) -> Finding:
    kind, severity, message = _REWORDED[one.change]
    here = tuple((word.start, word.end) for word in one.here)
    back = tuple((word.start, word.end) for word in one.there)
    said = [" ".join(word.text for word in side) for side in (one.here, one.there)]
    return Finding(
        kind, severity, message.format(here=said[0], there=said[1]),
        here or ((0, 0),), back or ((there.start, there.end),),
    )  # fmt: skip


class _Claims:
    """The directions, differences and doubts of some evidence, to compare clauses with."""

    def __init__(self, evidence: Alignment, source: Source) -> None:
        self._source = source
        self._clauses = [one for sentence in evidence.sentences for one in sentence.clauses]
        self._cues = [
            (clause, cue, clause.scope(cue))
            for clause in self._clauses
            if not clause.no_difference and not clause.unknown
            for cue in clause.cues
        ]

    def _shared(self, asked: frozenset[str], other: frozenset[str]) -> float:
        """The share of what is asked that the other has, by weight, in [0, 1]."""
        return self._source.weight(asked & other) / max(self._source.weight(asked), 1e-9)

    def _best(
        self, asked: frozenset[str], clauses: Sequence[Clause]
    ) -> tuple[float, Clause | None]:
        return max(
            ((self._shared(asked, clause.stems), clause) for clause in clauses),
            key=lambda one: one[0],
            default=(0.0, None),
        )

    def compared(self, clause: Clause) -> Finding | None:
        """The gravest difference of a clause to the evidence."""
        if clause.unknown:
            return None
        nothing = [one for one in self._clauses if one.no_difference and not one.unknown]
        doubtful = [one for one in self._clauses if one.unknown]
        if clause.no_difference:
            return self._no_difference(clause, nothing, doubtful)
        for cue in clause.cues:
            asked = clause.scope(cue)
            if not asked:
                continue
            finding = self._direction(clause, cue, asked, nothing, doubtful)
            if finding is not None:
                return finding
        return self._certainty(clause)

    def _direction(
        self, clause: Clause, cue: Cue, asked: frozenset[str],
        nothing: Sequence[Clause], doubtful: Sequence[Clause],
    ) -> Finding | None:  # fmt: skip
        same = against = 0.0
        worst: tuple[Clause, Cue] | None = None
        for other, there, about in self._cues:
            if cue.valued != there.valued or not about:
                continue
            near = min(self._shared(asked, about), 1.0) * 0.7 + 0.3 * self._shared(about, asked)
            swapped = _swapped(clause, other)
            sign = -there.sign if swapped else there.sign
            if sign == cue.sign:
                same = max(same, near)
            elif near > against:
                against, worst = near, (other, there)
        none, none_clause = self._best(asked, nothing)
        doubt, doubt_clause = self._best(asked, doubtful)
        here = ((cue.word.start, cue.word.end),)
        if worst is not None and against >= 0.55 and same < against - 0.25 and none < against:
            other, there = worst
            if cue.sign == there.sign:
                return Finding(
                    "roles", "severe",
                    "The two sides of the comparison seem to have changed places.",
                    ((clause.start, clause.end),), ((other.start, other.end),),
                )  # fmt: skip
            return Finding(
                "direction", "severe",
                f"“{cue.word.text}” here, “{there.word.text}” in the source.",
                here, ((there.word.start, there.word.end),),
            )  # fmt: skip
        strong = len(asked) >= 2 and same < 0.3 and against < 0.3
        if strong and none_clause is not None and none >= 0.75 and none >= doubt:
            return Finding(
                "negation", "severe", "The source found no clear difference here.",
                here, (_span(none_clause, none_clause.no_difference),),
            )  # fmt: skip
        surely = clause.certainty >= Certainty.PLAIN
        if strong and surely and doubt_clause is not None and doubt >= 0.75:
            return Finding(
                "certainty", "severe" if clause.proven else "minor",
                "The source says that this is not known.",
                here, (_span(doubt_clause, doubt_clause.unknown),),
            )  # fmt: skip
        return None

    def _no_difference(
        self, clause: Clause, nothing: Sequence[Clause], doubtful: Sequence[Clause]
    ) -> Finding | None:
        asked = clause.stems
        if len(asked) < 2:
            return None
        none, _ = self._best(asked, [*nothing, *doubtful])
        found = [(self._shared(asked, other.stems), other, cue) for other, cue, _ in self._cues]
        most, other, cue = max(found, key=lambda one: one[0], default=(0.0, None, None))
        if other is None or cue is None or most < 0.75 or none > 0.4:
            return None
        return Finding(
            "negation", "severe", "The source found a difference here.",
            (_span(clause, clause.no_difference),), ((cue.word.start, cue.word.end),),
        )  # fmt: skip

    def _certainty(self, clause: Clause) -> Finding | None:
        if len(clause.stems) < 2:
            return None
        near, other = self._best(clause.stems, self._clauses)
        if other is None or near < SAME_THING:
            return None
        back = ((other.start, other.end),)
        if clause.proven and other.certainty < Certainty.PLAIN and not clause.negations:
            return Finding(
                "certainty", "severe",
                f"“{clause.proven[0]}” claims more than the source does.",
                (_span(clause, clause.proven),), back,
            )  # fmt: skip
        if clause.proven and other.certainty is Certainty.PLAIN and not clause.negations:
            return Finding(
                "certainty", "minor",
                f"“{clause.proven[0]}” says more than the source does.",
                (_span(clause, clause.proven),), back,
            )  # fmt: skip
        if other.associated and not clause.associated and clause.causal and not other.causal:
            return Finding(
                "certainty", "severe",
                f"“{clause.causal[0]}” says what causes what; the source only says that they go "
                "together.",
                (_span(clause, clause.causal),), back,
            )  # fmt: skip
        if (
            clause.certainty is Certainty.PLAIN
            and other.certainty < Certainty.PLAIN
            and clause.cues
        ):
            return Finding(
                "certainty", "minor", "The source says this less surely.",
                ((clause.start, clause.end),), back,
            )  # fmt: skip
        return None


def _span(clause: Clause, found: re.Match[str] | None) -> TextSpan:
    if found is None:
        return (clause.start, clause.end)
    return (clause.start + found.start(), clause.start + found.end())


def _swapped(one: Clause, other: Clause) -> bool:
    """Whether two comparisons name their sides in the opposite order."""
    if one.arms is None or other.arms is None:
        return False
    (first, second), (there_first, there_second) = one.arms, other.arms
    straight = len(first & there_first) + len(second & there_second)
    return len(first & there_second) + len(second & there_first) > straight
