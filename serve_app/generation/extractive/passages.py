"""Cuts an original into sentences that can be copied on their own; knows no metric.

Sentence ends are `metrics.sentences`'s. On top of them, pieces that a reader would not take
for sentences are put back together ("(i.e." with what follows it), headings are left
out, and what makes no sense alone ("95% CI 0.7 to 1.2).", a registration number) is marked.
Nothing is rewritten: every passage is a slice of the original.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from serve_app.text.sentences import sentence_spans
from serve_app.text.validation import has_word

_NAMES = (
    r"abstract|background(?: and aims?)?|introduction|context|rationale|importance|"
    r"objectives?|aims?|purpose|hypothesis|(?:study )?design|setting|participants|patients|"
    r"subjects|interventions?|exposures?|(?:main |primary )?outcomes?(?: measures?)?|"
    r"(?:search |(?:materials?|patients|participants) and )?methods?|search strategy|"
    r"data sources|(?:study )?selection(?: criteria)?|"
    r"data (?:collection|extraction)(?: and (?:analysis|synthesis))?|"
    r"(?:evidence|data) synthesis|measurements(?: and main results)?|"
    r"(?:main |key )?(?:results|findings)|discussion|"
    r"(?:(?:authors?|reviewers?)['’]?s? )?conclusions?(?: and relevance)?|interpretation|"
    r"implications|limitations|significance|funding|(?:trial )?registration"
)
_CAPITALS = r"[A-Z]{3,}(?: (?:[A-Z]{2,}|&|/))+"
_HEADING = re.compile(rf"\s*(?:(?i:{_NAMES})|{_CAPITALS})\s*(?::|\s[–—-])\s+")
# Possessive: else the two runs of blanks divide one between them in every way there is.
_HEADING_LINE = re.compile(rf"[ \t]*(?:(?i:{_NAMES})|{_CAPITALS})[ \t]*+:?[ \t]*+")
_BULLET = re.compile(r"[ \t]*(?:[-*•·–—]|\d{1,2}[.)])[ \t]+")

_OPENS = re.compile(r"[\"'“‘(\[]*[^\W_]")
_ENDS = re.compile(r"[.!?]['\")\]’”]*$")
_PLAIN_WORD = re.compile(r"\b[^\W\d_A-Z][^\W\d_]+\b")
_BRACKET = re.compile(r"[()\[\]]")
_LIST_NUMBER = re.compile(r"(?:^|[\s(])(?:\d{1,2}|[a-z]|[ivx]{1,4})\)$")
_NO_CONTENT = re.compile(r"https?://|\bdoi\b|\bISRCTN|\bNCT\d{4}|\bCRD ?\d{4}", re.IGNORECASE)

_MOST_JOINED = 3  # sentence ends that one pair of brackets may hide
_FEWEST_WORDS = 3


@dataclass(frozen=True, slots=True)
class Passage:
    """A sentence of the original: `original[start:end]`, with any heading left out.

    Attributes:
        index: its position among the original's passages.
        text: the slice with each run of white space as one space.
        start, end: offsets in the original.
        usable: True if it can stand in a summary on its own.
    """

    index: int
    text: str
    start: int
    end: int
    usable: bool


def split_passages(original: str) -> list[Passage]:
    """The passages of the original in order; empty only where there is no word.

    At least one is usable: where none looks like a sentence, all are.

    >>> [passage.text for passage in split_passages("METHODS: We searched. RESULTS: None.")]
    ['We searched.', 'None.']
    """
    found = []
    for first, last in _blocks(original):
        for start, end in _joined(original, _spans(original, first, last)):
            heading = _HEADING.match(original, start, end)
            begin = heading.end() if heading else start
            begin += len(original[begin:end]) - len(original[begin:end].lstrip())
            if has_word(original[begin:end]):
                found.append((" ".join(original[begin:end].split()), begin, end))
    if not found and has_word(original):
        # Headings alone; still a text that was asked about.
        begin = len(original) - len(original.lstrip())
        found = [(" ".join(original.split()), begin, len(original.rstrip()))]
    verdicts = [stands_alone(text) for text, _, _ in found]
    if not any(verdicts):
        verdicts = [True] * len(found)
    return [
        Passage(index, text, start, end, usable)
        for index, ((text, start, end), usable) in enumerate(zip(found, verdicts, strict=True))
    ]


def stands_alone(sentence: str) -> bool:
    """True if it begins and ends as a sentence, closes its brackets and is mostly words.

    >>> stands_alone("Pain was less with the drug (2 trials; 95% CI 1 to 3).")
    True
    >>> stands_alone("95% CI 0.7 to 1.2).")
    False
    """
    letters = sum(char.isalpha() for char in sentence)
    return (
        _OPENS.match(sentence) is not None
        and _ENDS.search(sentence) is not None
        and _brackets(sentence) == (0, 0)
        and len(_PLAIN_WORD.findall(sentence)) >= _FEWEST_WORDS
        and 2 * letters >= len(sentence) - sentence.count(" ")
        and _NO_CONTENT.search(sentence) is None
    )


def _blocks(original: str) -> Iterator[tuple[int, int]]:
    """Runs of lines that belong together: paragraphs and list items, without heading lines."""
    begin = at = 0
    for line in original.splitlines(keepends=True):
        bare = line.strip()
        if not bare or _HEADING_LINE.fullmatch(line.rstrip()):
            yield begin, at
            begin = at + len(line)
        elif bullet := _BULLET.match(line):
            yield begin, at
            begin = at + bullet.end()
        at += len(line)
    yield begin, at


def _spans(original: str, first: int, last: int) -> list[tuple[int, int]]:
    return [(first + a, first + b) for a, b in sentence_spans(original[first:last])]


def _joined(original: str, spans: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Spans with those put together whose border lies in brackets or before a small letter."""
    joined: list[tuple[int, int]] = []
    at = 0
    while at < len(spans):
        start, end = spans[at]
        taken = 1
        for extra in range(1, _MOST_JOINED + 1):
            if _brackets(original[start:end])[0] > 0 and at + extra < len(spans):
                further = spans[at + extra][1]
                if _brackets(original[start:further])[0] == 0:
                    end, taken = further, extra + 1
                    break
        joined.append((start, end))
        at += taken
    continues = [original[start : start + 1].islower() for start, _ in joined]
    kept: list[tuple[int, int]] = []
    for (start, end), goes_on in zip(joined, continues, strict=True):
        if goes_on and kept:
            kept[-1] = (kept[-1][0], end)
        else:
            kept.append((start, end))
    return kept


def _brackets(text: str) -> tuple[int, int]:
    """How many brackets are left open, and how many close nothing.

    The "1)" and "b)" of a list close nothing and are not counted.
    """
    depth = stray = 0
    for match in _BRACKET.finditer(text):
        if match[0] in "([":
            depth += 1
        elif depth:
            depth -= 1
        elif _LIST_NUMBER.search(text, max(0, match.start() - 5), match.end()) is None:
            stray += 1
    return depth, stray
