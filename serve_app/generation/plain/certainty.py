"""Rule `certainty`: how sure the evidence is, said in GRADE's plain wording as a sentence after the
finding.

Wording as in Santesso et al., "GRADE guidelines 26", J Clin Epidemiol 119, 2020: high says it
plainly, moderate "probably", low "may", very low "we are not sure". Knows nothing of numbers.
"""

from __future__ import annotations

import re

from serve_app.evidence.claims import clauses
from serve_app.generation.plain.facts import Facts
from serve_app.generation.plain.grammar import capitalised, tidied

_LEVEL = r"(very[\s-]low|low|moderate|high)"
_GRADED = (
    rf"{_LEVEL}[\s-](?:to[\s-](?:very[\s-]low|low|moderate|high)[\s-])?(?:GRADE )?(?:certainty|"
    rf"quality|confidence)"
)
_BRACKET = re.compile(
    rf"\s?[(\[](?:GRADE:?\s|both\s|all\s)?(?:the )?{_GRADED}(?: of)?(?: the)?(?: GRADE)?(?: "
    rf"evidence)?[)\]]"
    rf"|\s?[(\[](?:certainty|quality) of (?:the )?evidence:?(?: was| is)? {_LEVEL}[)\]]",
    re.I,
)
_MIXED = re.compile(r"low[\s-]to[\s-]|moderate[\s-]to[\s-]|high[\s-]to[\s-]", re.I)
_OPENING = re.compile(
    rf"(?:There (?:is|was) |We found )?{_GRADED} (?:of )?evidence (?:from [^,.;:]{{1,60}} "
    rf")?(?:\([^()]*\) )?"
    r"(?:suggests?|suggested|shows?|showed|indicates?|indicated|demonstrates?|demonstrated|"
    r"found)(?: that)? (?=(?:there|the|an?|no|[a-z-]+) )",
    re.I,
)
_THAT = re.compile(r"that $")

SURE = {
    "high": ("We are confident in this result.", "We are confident in these results."),
    "moderate": ("This result is probably right.", "These results are probably right."),
    "low": (
        "This result may be right, but we are not sure.",
        "These results may be right, but we are not sure.",
    ),
    "very low": ("We are not sure about this result.", "We are not sure about these results."),
}
"""Level -> what is said after one result, and after several in a row."""

_SAID = {
    "high": re.compile(r"\b(?:high[\s-](?:certainty|quality)|confident)\b", re.I),
    "moderate": re.compile(r"\b(?:probabl[ey]|likely|moderate[\s-](?:certainty|quality))\b", re.I),
    "low": re.compile(
        r"\b(?:may|might|could|(?:un|not )(?:certain|sure|clear)|low[\s-](?:certainty|quality))\b",
        re.I,
    ),
    "very low": re.compile(
        r"\b(?:(?:un|not )(?:certain|sure|clear)|(?:un|in)sufficient|very low)\b", re.I
    ),
}
"""Words with which a sentence says its level itself."""

_SAID_ONCE = {said: level for level, both in SURE.items() for said in both}


def plain_certainty(sentence: str, facts: Facts) -> str | list[str]:
    """Bracketed certainty as a sentence of its own.

    Where a sentence has brackets of several levels they stay where they are: each belongs to its
    words.

    >>> plain_certainty("Pain was less (low-certainty evidence).", Facts(""))
    ['Pain was less.', 'This result may be right, but we are not sure.']
    >>> plain_certainty("Moderate-quality evidence suggests that pain is less.", Facts(""))
    'It is likely that pain is less.'
    """
    found = list(_BRACKET.finditer(sentence))
    levels = {_level(match) for match in found if not _MIXED.search(match[0])}
    if len(levels) == 1 and len(found) == len([m for m in found if not _MIXED.search(m[0])]):
        (level,) = levels
        bracketed, sentence = sentence, tidied(_BRACKET.sub("", sentence))
        if not _is_result(sentence):
            return [bracketed]
        if _SAID[level].search(sentence):
            return [sentence]
        several = ";" in sentence or len(found) > 1
        return [sentence, SURE[level][several]]
    opening = _OPENING.match(sentence)
    if opening is not None and _THAT.search(opening[0]) and not _MIXED.search(opening[0]):
        level = _level(opening)
        rest = sentence[opening.end() :]
        if level == "very low":
            return (
                f"We are not sure whether {rest}"
                if not re.search(r"\b(?:may|might|could)\b", rest)
                else f"We are not sure, but {rest}"
            )
        if level == "low":
            return (
                capitalised(rest)
                if re.search(r"\b(?:may|might|could)\b", rest)
                else f"It may be that {rest}"
            )
        if level == "moderate":
            return (
                capitalised(rest)
                if re.search(r"\b(?:probably|likely|may|might)\b", rest)
                else f"It is likely that {rest}"
            )
    return sentence


def _is_result(sentence: str) -> bool:
    """Whether a sentence says what was found, and not only what was compared."""
    said = clauses(sentence, 0, len(sentence))
    return any(one.cues or one.no_difference or one.unknown for one in said)


def _level(match: re.Match[str]) -> str:
    said = next(group for group in match.groups() if group)
    return " ".join(said.lower().replace("-", " ").split())


def said_together(texts: list[str]) -> list[str]:
    """The certainty of results in a row that share it, said once after the last of them.

    >>> said_together(["A was less.", "We are not sure about this result.",
    ...                "B was less.", "We are not sure about this result."])
    ['A was less.', '', 'B was less.', 'We are not sure about these results.']

    Args:
        texts: sentences in their order; what is left out becomes empty.
    """
    out = list(texts)
    last: tuple[int, str] | None = None  # where a level was said, with one sentence since at most
    for at, text in enumerate(texts):
        level = _SAID_ONCE.get(text)
        if level is None:
            if last is not None and at - last[0] > 1:
                last = None
            continue
        if last is not None and last[1] == level:
            out[last[0]], out[at] = "", SURE[level][1]
        last = (at, level)
    return out
