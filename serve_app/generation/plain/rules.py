"""The rules in their order, each by its name, and how a sentence goes through them.

A rule takes a sentence and what is known of its source, and gives the sentence rewritten, several,
or None where it says nothing a reader needs. The rules `abbreviations` and `terms` take a whole
summary's sentences, since what comes first decides there; the engine runs them.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from difflib import SequenceMatcher
from types import MappingProxyType

from serve_app.core.errors import ConfigError
from serve_app.generation.plain import (
    abbreviations,
    certainty,
    clutter,
    headings,
    pointers,
    splitting,
    statistics,
    voice,
    wording,
)
from serve_app.generation.plain.facts import Facts

Rule = Callable[[str, Facts], "str | list[str] | None"]

RULES: Mapping[str, Rule] = MappingProxyType(
    {
        "headings": headings.without_heading,
        "clutter": clutter.without_clutter,
        "pointers": pointers.without_connector,
        "question": voice.asked,
        "statistics": statistics.plain_statistics,
        "significance": statistics.plain_significance,
        "asides": wording.without_asides,
        "wording": wording.shorter,
        "splitting": splitting.split,
        "certainty": certainty.plain_certainty,
        "voice": voice.active,
        "abbreviations": abbreviations.without_needless,
    }
)
"""Rules that work on one sentence, in the order in which they run."""

LONGEST = 1_000
"""Characters: no sentence for a layperson is longer, and hostile ones cost no time."""

NAMES = (*RULES, "terms", "order")


@dataclass(frozen=True, slots=True)
class Step:
    """What one rule did: the sentences before and after, joined by spaces."""

    rule: str
    before: str
    after: str


def check_names(names: Collection[str]) -> frozenset[str]:
    """The names of rules, each known.

    Raises:
        ConfigError: one is not; lists those that are.
    """
    for name in names:
        if name not in NAMES:
            raise ConfigError(
                f"PLAIN_RULES_OFF: there is no rule {name!r}; the rules are {', '.join(NAMES)}"
            )
    return frozenset(names)


def rewritten(
    sentence: str, facts: Facts, off: Collection[str] = ()
) -> tuple[list[str], list[Step]] | None:
    """A sentence after all rules but those that are off, and what each did; None where one dropped
    it.

    >>> rewritten("However, pain was less (RR 0.71).", Facts(""))[0]
    ['Pain was less.']
    """
    if len(sentence) > LONGEST:
        return None
    pieces, steps = [sentence], list[Step]()
    for name, rule in RULES.items():
        if name in off:
            continue
        after: list[str] = []
        for piece in pieces:
            said = rule(piece, facts)
            if said is None:
                return None
            after += [said] if isinstance(said, str) else said
        if after != pieces:
            steps.append(Step(name, " ".join(pieces), " ".join(after)))
        pieces = after
    return pieces, steps


def parted(sentence: str, facts: Facts) -> str:
    """A sentence cut into parts and without its heading, every other word as it was: what the
    findings compare a rewriting with, since they read a half sentence as if the other half were
    denied."""
    if len(sentence) > LONGEST:
        return sentence
    return " ".join(splitting.split(headings.without_heading(sentence, facts), facts))


def changes(source: str, text: str) -> tuple[tuple[str, str], ...]:
    """What differs between a source sentence and its plain text: (words there, words here), in
    order.

    Each has as many words around it as make its place plain, so that taking the changes back from
    left to right gives the source.

    >>> changes("Pain was less (RR 0.71).", "Pain was less.")
    (('less (RR 0.71).', 'less.'),)
    """
    there, here = source.split(), text.split()
    codes = SequenceMatcher(None, there, here, autojunk=False).get_opcodes()
    found: list[tuple[str, str]] = []
    floor = floor_there = 0  # words that earlier changes have used
    done = 0  # characters of the text read by then
    starts = [0]
    for word in here:
        starts.append(starts[-1] + len(word) + 1)
    for tag, first, last, start, end in codes:
        if tag == "equal":
            continue
        back = 0
        while True:
            words, plain = there[first - back : last], here[start - back : end]
            place = starts[start - back]
            fits = plain and text_at(here, " ".join(plain), done) == place
            if (fits and words) or not (start - back > floor and first - back > floor_there):
                break
            back += 1
        ahead = 0
        if not plain or not words:
            # Nothing before it: the word behind stands for the place.
            ahead = 1
            words, plain = there[first - back : last + 1], here[start - back : end + 1]
        found.append((" ".join(words), " ".join(plain)))
        floor, floor_there = end + ahead, last + ahead
        done = starts[min(floor, len(here))]
    return tuple(found)


def text_at(words: list[str], asked: str, done: int) -> int:
    """Where a text is found first among words joined by spaces, after `done` characters."""
    return " ".join(words).find(asked, done)
