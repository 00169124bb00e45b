"""What the rules know of a whole source text, read once: its abbreviations and what kind of text it
is.

Long forms are found as in Schwartz and Hearst, "A simple algorithm for identifying abbreviation
definitions in biomedical text", PSB 2003. Knows no rule.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

MOST_ABBREVIATIONS = 200
"""Of a source; further ones are unexplained."""
_BRACKETED = re.compile(r"\(([^()]{2,80})\)")
_SHORT = re.compile(r"[A-Za-zα-ωΑ-Ω][\w/+&.'’-]{0,9}(?:\s\d)?")
_REVIEW = re.compile(
    r"\b(?:this|our|the) (?:\w+ ){0,3}(?:review|overview|meta-analysis)\b|\breview authors\b|"
    r"\bwe (?:included|identified|searched|found)\b|\b(?:trials|studies|RCTs)\b.{0,60}\b(?:were|"
    r"was) included\b"
    r"|\b(?:met|fulfilled) (?:the|our) (?:\w+ )?(?:inclusion|eligibility|selection) criteria\b",
    re.I,
)
_ONE_STUDY = re.compile(
    r"\b(?:one|a single|only one) (?:\w+[\s-]){0,4}(?:trial|study|RCT)\b(?: \([^()]*\))? "
    r"(?:was|met|fulfilled|that met)|\b(?:included|identified|found) (?:only )?(?:one|a single) "
    r"(?:\w+[\s-]){0,4}"
    r"(?:trial|study|RCT)\b",
    re.I,
)


@dataclass(frozen=True)
class Facts:
    """A source, for the rules.

    Attributes:
        text: the whole source on one line.
        passages: its sentences in order, headings left out.
    """

    text: str
    passages: Sequence[str] = field(default=())

    @cached_property
    def abbreviations(self) -> Mapping[str, str]:
        """Short form -> long form, as the source itself explains it; singular, plural as
        written.
        """
        return dict(definitions(self.text)[:MOST_ABBREVIATIONS])

    @cached_property
    def is_review(self) -> bool:
        """Whether its authors looked for studies of others and chose among them."""
        return _REVIEW.search(self.text) is not None

    @cached_property
    def one_study(self) -> bool:
        """Whether it speaks of one study only, so that "the trial" is clear."""
        return not self.is_review or _ONE_STUDY.search(self.text) is not None


def definitions(text: str) -> list[tuple[str, str]]:
    """The abbreviations that a text explains: (short, long), the first explanation of each.

    >>> definitions("post-thrombotic syndrome (PTS), and BMI (body mass index)")
    [('PTS', 'post-thrombotic syndrome'), ('BMI', 'body mass index')]
    """
    found: dict[str, str] = {}
    for match in _BRACKETED.finditer(text):
        inside = re.split(r"[;,]\s", match[1])[0].strip().removeprefix("or ").strip("'\"“”‘’")
        before = text[max(0, match.start() - 160) : match.start()]
        # Of the words of its own sentence and phrase only.
        before = re.split(r"[.;:!?()]\s|\s[–—-]\s", before)[-1].rstrip()
        if _SHORT.fullmatch(inside) and sum(letter.isupper() for letter in inside) >= 2:
            long = _long_form(inside, before)
            if long is not None:
                found.setdefault(inside, long)
        else:
            last = before.split()[-1:] or [""]
            short = last[0].strip("'\"“”‘’")
            if _SHORT.fullmatch(short) and short.isupper() and len(short) > 1:
                long = _long_form(short, inside)
                if long is not None and long == inside:
                    found.setdefault(short, long)
    return list(found.items())


def _long_form(short: str, before: str) -> str | None:
    """The words at the end of `before` whose letters the abbreviation has, in their order."""
    plural = short.endswith("s") and short[:-1].isupper()
    letters = [letter.lower() for letter in (short[:-1] if plural else short) if letter.isalnum()]
    at = len(before) - 1
    for number in range(len(letters) - 1, -1, -1):
        letter = letters[number]
        while at >= 0 and (
            before[at].lower() != letter or (number == 0 and at > 0 and before[at - 1].isalnum())
        ):
            at -= 1
        if at < 0:
            return None
        at -= 1
    long = before[at + 1 :].strip()
    longest = min(len(letters) + 5, 2 * len(letters))
    if not long or len(long.split()) > longest or len(long) <= len(short) or short in long.split():
        return None
    # A long form that begins in the middle of a phrase ("of life") is none.
    if re.match(r"(?:and|or|of|the|a|an|in|with|to|for|by)\b", long, re.I):
        return None
    if plural and not long.endswith("s"):
        return None
    return long
