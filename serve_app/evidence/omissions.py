"""Key statements of a source that its summary leaves out: results, harms, certainty, population,
funding. Knows the phrases in which abstracts say these; judges by words and numbers alone."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from serve_app.evidence.alignment import Sentence, Source
from serve_app.evidence.findings import TextSpan

Topic = Literal["result", "harms", "certainty", "population", "funding"]

MOST_RESULTS = 5
"""Results asked of a summary: the first that the source states with statistics."""
SAID_FROM = 0.34
"""Share of a result's words, by weight, that one sentence of the summary must have to say it."""

_HARMS = re.compile(
    r"\b(?:adverse|side[\s-]effects?|harm(?:s|ful)?|complications?|toxicity|tolerab|tolerated|safety|"
    r"serious\sevents?|withdrawals?|dropped?\sout|dropouts?|unwanted\s(?:effects?|events?))\b",
    re.I,
)
_GRADED = re.compile(
    r"\b(?:(?:quality|certainty|strength)\sof\s(?:the\s)?(?:\w+\s)?evidence|"
    r"(?:very\s)?(?:low|moderate|high)[\s-](?:quality|certainty)\s(?:of\s)?evidence|GRADE|"
    r"risks?\sof\sbias|insufficient\sevidence)\b",
    re.I,
)
_CERTAINTY = re.compile(
    _GRADED.pattern + r"|\b(?:quality|confiden(?:t|ce)|reliab\w+|uncertain(?:ty)?|trust|weak|"
    r"(?:not|un)\s?(?:sure|certain|clear|reliable)|limited|not\senough|further\sresearch|"
    r"more\s(?:research|studies|trials))\b",
    re.I,
)
_FUNDED = re.compile(
    r"\b(?:fund(?:ed|ing)\b|sponsor(?:ed|s|ship)?\b|conflicts?\sof\sinterest|"
    r"(?:financial|industry)\s(?:support|involvement)|manufacturers?\b)",
    re.I,
)
_FUNDING = re.compile(
    _FUNDED.pattern + r"|\b(?:paid|industry|compan(?:y|ies)|supported\sby)\b", re.I
)
_STATISTICS = re.compile(
    r"\b(?:\d+\s?%\s?CI|confidence\sinterval|CI\b|RR\b|OR\b|HR\b|S?MD\b|WMD\b|risk\sratio|odds\sratio|"
    r"hazard\sratio|mean\sdifference|[Pp]\s?[=<>]\s?0?[.·]\d)"
)
_AIM = re.compile(r"^\W*(?:to\s(?:assess|evaluate|determine|compare|examine|review|investigate)|"
                  r"(?:we\s)?search|selection|data\scollection)", re.I)  # fmt: skip
_ABSENT = re.compile(
    r"\bno\s(?:\w+\s){0,3}(?:studies|trials|data)\b|\bnot\s(?:report|measure|assess)", re.I
)


@dataclass(frozen=True, slots=True)
class Omission:
    """A key statement of the source that the summary does not make.

    Attributes:
        topic: what it is about.
        message: what is missing, in one sentence for a writer.
        source_span: where the source says it.
    """

    topic: Topic
    message: str
    source_span: TextSpan


_MESSAGES: dict[Topic, str] = {
    "result": "The summary leaves out this result.",
    "harms": "The summary does not mention harms; the source does.",
    "certainty": "The summary does not say how sure the evidence is; the source does.",
    "population": "The summary does not say how many studies or people there were.",
    "funding": "The summary does not mention who paid or conflicts of interest; the source does.",
}


def omitted(source: Source, summary: Sequence[Sentence]) -> list[Omission]:
    """What the summary leaves out, in the order of the source; each topic but results once."""
    found = [*_topics(source, summary), *_results(source, summary)]
    return sorted(found, key=lambda one: one.source_span)


def _topics(source: Source, summary: Sequence[Sentence]) -> Iterator[Omission]:
    text = " ".join(sentence.said for sentence in summary)
    patterns: tuple[tuple[Topic, re.Pattern[str], re.Pattern[str]], ...] = (
        ("harms", _HARMS, _HARMS),
        ("certainty", _GRADED, _CERTAINTY),
        ("funding", _FUNDED, _FUNDING),
    )
    for topic, states, mentions in patterns:
        if mentions.search(text):
            continue
        for sentence in source.sentences:
            if states.search(sentence.said) and not _AIM.search(sentence.said):
                yield Omission(topic, _MESSAGES[topic], (sentence.start, sentence.end))
                break
    yield from _population(source, summary)


def _population(source: Source, summary: Sequence[Sentence]) -> Iterator[Omission]:
    """The first sentence that counts studies or people, where the summary counts neither."""
    if any(one.counted for sentence in summary for one in sentence.quantities):
        return
    for sentence in source.sentences:
        if any(one.counted and one.value > 1 for one in sentence.quantities):
            span = (sentence.start, sentence.end)
            yield Omission("population", _MESSAGES["population"], span)
            return


def _results(source: Source, summary: Sequence[Sentence]) -> Iterator[Omission]:
    plain = [sentence.plain_stems for sentence in summary]
    taken = 0
    for sentence in source.sentences:
        claims = [one for one in sentence.clauses if one.cues or one.no_difference]
        if not claims or _AIM.search(sentence.said) or _ABSENT.search(sentence.said):
            continue
        if not _STATISTICS.search(sentence.said):
            continue
        taken += 1
        if taken > MOST_RESULTS:
            return
        about = frozenset().union(*(one.stems for one in claims))
        said = max((source.weight(about & stems) for stems in plain), default=0.0)
        if said < SAID_FROM * source.weight(about):
            yield Omission("result", _MESSAGES["result"], (sentence.start, sentence.end))
