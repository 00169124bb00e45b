"""Differences of two sentences that share most of their words: what was exchanged.

Where a sentence repeats the source but for a few words, those words decide: a negation, an
opposite, a hedge, two sides that changed places. Knows words, not what they are about.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import Literal

from serve_app.evidence.claims import BETTER, DOWN, UP, WORSE
from serve_app.evidence.words import Word, listed, stem

Change = Literal["number", "opposite", "negation", "surer", "less sure", "exchanged"]

ALIKE_FROM = 0.72
"""Share of a sentence's words that must stand in the same order in the other one."""

_OPPOSITES = """
high low|highest lowest|large small|long short|severe mild|acute chronic|with without|before after
similar different|safe unsafe|early late|earlier later|first last|many few|always never|above below
positive negative|significant insignificant|significant nonsignificant|likely unlikely
possible impossible|adequate inadequate|sufficient insufficient|clear unclear|certain uncertain
consistent inconsistent|able unable|common rare|frequent rare|strong weak|strong limited|fast slow
major minor|most least|all none|presence absence|included excluded|same different|old young
older younger|adults children|men women|male female|short-term long-term|within beyond
better poorer|effective ineffective|benefits harms|benefit harm|beneficial harmful|prevents causes
prevented caused|started stopped|starting stopping|upper lower|inside outside|major small
favourable unfavourable|
superior inferior|gain loss|gained lost|support oppose|agree disagree|known unknown|more fewer
majority minority|minimum maximum|at-least at-most|well badly|well poorly|good poor|good bad
""".replace("\n", "|")

_NEGATIONS = frozenset(listed("not no never none nor neither cannot hardly n't"))
_PHRASE_OPENERS = frozenset(
    listed("compared versus than relative in with for among after at by during over from when if")
)
_HEDGES = frozenset(
    listed("""
may might could possibly perhaps probably likely suggest suggests suggested appear appears appeared
seem seems seemed indicate indicates indicated potentially tends tended some sometimes often usually
limited can
""")
)
_CLAIMS = frozenset(
    listed("""
will definitely certainly clearly always proves proven proved prove must undoubtedly cures cure
guarantees causes caused shows demonstrates demonstrated confirms confirmed all every
""")
)
_ASSOCIATED = frozenset(listed("associated association linked related correlated"))
_WORD = re.compile(r"\d[\d.,]*|[^\W\d_]+(?:['’][^\W\d_]+)?")


def _pairs() -> Iterator[tuple[str, str]]:
    for pair in _OPPOSITES.split("|"):
        both = pair.split()
        if len(both) == 2:
            yield stem(both[0]), stem(both[1])
            yield stem(both[1]), stem(both[0])


_OPPOSITE = frozenset(_pairs())


def opposite(one: str, other: str) -> bool:
    """Whether two words say the opposite of each other.

    >>> opposite("increased", "reduction"), opposite("higher", "lower"), opposite("pain", "ache")
    (True, True, False)
    """
    first, second = stem(one), stem(other)
    if (first, second) in _OPPOSITE:
        return True
    return any(
        (first in rising and second in falling) or (second in rising and first in falling)
        for rising, falling in ((UP, DOWN), (BETTER, WORSE), (BETTER, DOWN & WORSE))
    )


@dataclass(frozen=True, slots=True)
class Difference:
    """Words that differ: in the summary and in the source; either may be empty."""

    change: Change
    here: tuple[Word, ...]
    there: tuple[Word, ...]


def _words(text: str, start: int, end: int) -> list[Word]:
    return [Word(found[0], *found.span()) for found in _WORD.finditer(text, start, end)]


def differences(
    text: str, span: tuple[int, int], source: str, source_span: tuple[int, int]
) -> list[Difference] | None:
    """What two sentences say otherwise; None where they are not nearly the same sentence."""
    here, there = _words(text, *span), _words(source, *source_span)
    if len(here) < 5:
        return None
    matcher = SequenceMatcher(
        None,
        [stem(word.text) for word in here],
        [stem(word.text) for word in there],
        autojunk=False,
    )
    matched = sum(block.size for block in matcher.get_matching_blocks())
    if matched < ALIKE_FROM * len(here) or matched < 5:
        return None
    found: list[Difference] = []
    gone: list[Word] = []
    new: list[Word] = []
    codes = [code for code in matcher.get_opcodes() if code[0] != "equal"]
    for tag, first, last, there_first, there_last in codes:
        ours, theirs = tuple(here[first:last]), tuple(there[there_first:there_last])
        new += ours
        gone += theirs
        # A part of the source that was left out whole, before or after, is no exchange.
        if tag == "delete" and (len(theirs) > 3 or first in (0, len(here))):
            continue
        if len(ours) > 6 or (tag == "replace" and len(theirs) > 12):
            continue
        one = _classified(ours, theirs)
        if one is not None:
            found.append(Difference(one, ours, theirs))
    for numbers in (True, False):
        moved = [one for one in new if one.text[0].isdigit() is numbers]
        left = [one for one in gone if one.text[0].isdigit() is numbers]
        if _phrase_moved(moved, left, len(codes)):
            continue
        if (numbers or not found) and len(codes) > 1 and _permuted(moved, left):
            found = [one for one in found if one.change != "number"]
            found.append(Difference("exchanged", tuple(moved), tuple(left)))
    return found


def _phrase_moved(here: Sequence[Word], there: Sequence[Word], places: int) -> bool:
    """Whether one whole phrase stands elsewhere in the sentence: "compared with usual care"."""
    said, meant = [one.lower for one in here], [one.lower for one in there]
    return places == 2 and said == meant and len(said) > 1 and said[0] in _PHRASE_OPENERS


def _classified(ours: tuple[Word, ...], theirs: tuple[Word, ...]) -> Change | None:
    said, meant = {word.lower for word in ours}, {word.lower for word in theirs}
    if _other_numbers(ours, theirs):
        return "number"
    if bool(said & _NEGATIONS) != bool(meant & _NEGATIONS):
        # "No evidence" said as "insufficient evidence" is the same.
        return (
            None if (said | meant) & {"insufficient", "little", "unclear", "lack"} else "negation"
        )
    for one in ours:
        for other in theirs:
            if opposite(one.text, other.text):
                return "opposite"
    if said & _CLAIMS and (meant & (_HEDGES | _ASSOCIATED) or not meant):
        return "surer"
    if meant & _CLAIMS and said & _HEDGES:
        return "less sure"
    if meant & _ASSOCIATED and not said & _ASSOCIATED and said & _CLAIMS:
        return "surer"
    return None


def _other_numbers(ours: tuple[Word, ...], theirs: tuple[Word, ...]) -> bool:
    """Whether one number stands in place of another that does not round to it."""
    here, there = (
        [word.text.rstrip(".,").replace(",", "") for word in side if word.text[0].isdigit()]
        for side in (ours, theirs)
    )
    if not here or len(here) != len(there):
        return False
    try:
        return any(
            round(float(other), len(one.partition(".")[2])) != float(one)
            for one, other in zip(here, there, strict=True)
        )
    except ValueError:  # a version, a date: no number to compare
        return False


def _permuted(new: list[Word], gone: list[Word]) -> bool:
    """Whether the changed words are the same on both sides, in other places."""
    ours = Counter(word.stem for word in new if word.is_content or word.text[0].isdigit())
    theirs = Counter(word.stem for word in gone if word.is_content or word.text[0].isdigit())
    return 2 <= sum(ours.values()) <= 12 and not ours - theirs
