"""Rule `headings`: a heading that was fused into the sentence after it is left out.

Where a capital stands in the middle of a sentence before a word that is no name ("Early versus late
feeding Six trials assessed …"), what is before it is a heading if it has no verb.
"""

from __future__ import annotations

import re

from serve_app.generation.plain.facts import Facts
from serve_app.generation.plain.grammar import capitalised, has_verb

# Words that are written with a capital only where a sentence begins.
_BEGINS = (
    r"(?:The|There|We|Overall|In|No|None|Two|Three|Four|Five|Six|Seven|Eight|Nine|Ten|Eleven|"
    r"Twelve|Thirteen|Fourteen|"
    r"Fifteen|Sixteen|Seventeen|Eighteen|Nineteen|Twenty|One|It|This|These|At|All|Most|Compared|"
    r"When|Among|Data|Low|Moderate|"
    r"Very|Results|Evidence|Only|For|Based|Both|Participants|Patients|People|Women|Children|"
    r"Trials|Studies|Some|Many|More|"
    r"Fewer|With|From|Although|Due|Pooled|Few|Neither|Our|Using|Treatment|Adverse|"
    r"Meta-analys[ie]s|High|Low-quality|"
    r"Moderate-quality|High-quality|Low-certainty|Moderate-certainty|High-certainty|Limited|They|"
    r"Of|On|A|An|\d{1,3} (?=trials|studies|RCTs))"
)
_FUSED = re.compile(
    rf"(?P<head>[A-Z\d][^.:;!?]{{2,110}}?)(?<![,’'\"“-]) (?={_BEGINS}(?:,| |-quality))"
)
_LABEL = re.compile(
    r"(?P<head>[A-Z\d][^.:;!?()]{1,120}|[A-Z][^.:;!?]{1,60}\([^()]{1,30}\)[^.:;!?()]{0,40}): "
    r"(?=[A-Z“\"]?\w)"
)
_DASHED = re.compile(r"(?P<head>[A-Z][^.:;!?,()–—]{2,60}?) [–—-] (?=[A-Z])")


_ONE_WORD = ("background", "objectives", "conclusions", "results", "harms", "efficacy", "safety")
_OPEN = re.compile(
    r"\b(?:vitamin|hepatitis|type|group|influenza|phase|the|of|in|and|or|versus|vs|with)$"
)
_OUTCOMES = re.compile(
    r"(?:Primary|Secondary|Main|Other|Implications for) (?:outcomes?|results?|research|practice|"
    r"comparisons?) (?=\w)",
    re.I,
)


def without_heading(sentence: str, facts: Facts) -> str:
    """The sentence without headings at its beginning.

    >>> without_heading("Early versus delayed feeding Six trials assessed feeding.", Facts(""))
    'Six trials assessed feeding.'
    >>> without_heading("Primary outcomes: There was no difference.", Facts(""))
    'There was no difference.'
    """
    for _ in range(3):
        found = _OUTCOMES.match(sentence)
        if found is not None and sentence[found.end()].isupper():
            sentence = sentence[found.end() :]
        found = _LABEL.match(sentence) or _DASHED.match(sentence) or _fused(sentence)
        found = found or _compared(sentence, facts)
        if found is None or has_verb(found["head"]):
            break
        rest = sentence[found.end() :]
        # A list after a colon is no sentence.
        if (
            not has_verb(rest)
            or len(rest.split()) < 4
            or (": " in found[0] and not rest[0].isupper() and " versus " not in found["head"])
        ):
            break
        sentence = rest
    return capitalised(sentence)


def _fused(sentence: str) -> re.Match[str] | None:
    found = _FUSED.match(sentence)
    if found is None:
        return None
    head = found["head"].lower()
    # "Vitamin A Was", "versus The": a letter of a name, or half a phrase, is no heading.
    one_word = len(head.split()) < 2 and head not in _ONE_WORD
    return None if one_word or _OPEN.search(head) else found


_CAPITAL = re.compile(
    r"(?P<head>[A-Z][^.:;!?,]*?\b(?:versus|vs|[Cc]ompared with)\b[^.:;!?,]*?) "
    r"(?=(?P<word>[A-Z][a-z]+)\b)"
)


def _compared(sentence: str, facts: Facts) -> re.Match[str] | None:
    """A heading that names two treatments, before a word that is no name: the source has it with a
    small letter.
    """
    found = _CAPITAL.match(sentence)
    if found is None or found["head"].split()[-1] in (
        "versus",
        "vs",
        "with",
        "and",
        "or",
        "no",
        "the",
        "of",
    ):
        return None
    known = re.search(rf"\b{found['word'].lower()}\b", facts.text) is not None
    return found if known else None
