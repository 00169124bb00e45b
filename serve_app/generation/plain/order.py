"""What part of the story a sentence tells, and the order in which a reader needs the parts.

By the heading that a sentence stands under, where there is one, else by its words and its place.
Knows no rule of rewriting.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from enum import IntEnum

from serve_app.generation.extractive.passages import Passage


class Part(IntEnum):
    """The parts of a summary, in the order of reading."""

    QUESTION = 0
    WHO = 1
    FINDING = 2
    HARM = 3
    CERTAINTY = 4
    MEANING = 5
    METHOD = 6
    """How it was done: for researchers, and told only where a text has nothing else."""


HEADINGS = {
    Part.QUESTION: "What did we want to find out?",
    Part.WHO: "What did we do?",
    Part.FINDING: "What did we find?",
    Part.HARM: "What did we find?",
    Part.CERTAINTY: "What are the limitations of the evidence?",
    Part.MEANING: "What does this mean?",
    Part.METHOD: "How was it done?",
}
"""Headings as in Cochrane's guidance for plain-language summaries (Handbook, chapter III, 2022)."""

PARTS_WANTED = {
    Part.QUESTION: 0.04, Part.WHO: 0.05, Part.FINDING: 0.08, Part.HARM: 0.05, Part.CERTAINTY: 0.03,
    Part.MEANING: 0.06, Part.METHOD: 0.0,
}  # fmt: skip
"""What it costs, in units of the loss, to leave a part out that the source has."""

_SECTIONS = (
    (re.compile(r"conclusion|implication|interpretation|discussion", re.I), "conclusions"),
    (re.compile(r"search|selection|data (?:collection|extraction|sources|analysis)|\bmethods?\b|"
                r"design|setting", re.I), "methods"),
    (re.compile(r"result|finding", re.I), "results"),
    (re.compile(r"objective|\baims?\b|purpose|question", re.I), "question"),
    (re.compile(r"background|introduction|context|rationale|importance", re.I), "question"),
)  # fmt: skip
_ASKED = re.compile(r"We wanted to\b")
_WHO = re.compile(
    r"\b(?:we|review|update|analysis|which|that) (?:\w+ ){0,2}?(?:included|includes|identified|"
    r"found|analy[sz]ed) (?:(?:a total of|only|just|data from|in total) )*"
    r"(?:\d|one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|thirteen|fourteen|"
    r"fifteen|sixteen|seventeen|eighteen|nineteen|twenty|"
    r"thirty|forty|fifty|no (?:trials|studies|RCTs)|a single)|"
    r"\b(?:were (?:recruited|enrolled|randomi[sz]ed|conducted)|mean age|aged|participants (?:were|"
    r"had|ranged|included|came)|(?:trials|studies) (?:were conducted|took place|recruited|"
    r"enrolled|lasted|compared|assessed|evaluated|examined|investigated)|"
    r"(?:duration of|length of) (?:follow|treatment|the))\b|^(?:The )?(?:participants|patients|"
    r"studies|trials) (?:were|included|came|had)\b",
    re.I,
)
_INCLUDED = re.compile(
    r"\b(?:we|review|update) (?:\w+ ){0,2}?(?:included|includes|found|identified)\b", re.I
)
# "10% of children who were randomised to the drug": a result, whatever it says of people.
_RESULT = re.compile(r"\d\s?%|\b(?:higher|lower|more|fewer|less|better|worse|differen\w+)\b", re.I)
_HARM = re.compile(
    r"\b(?:adverse|side[- ]effects?|harms?|harmful|safety|unsafe|tolerab\w+|tolerated|toxicity|"
    r"complications?|withdr[ae]w\w*|"
    r"discontinu\w+ due|unwanted)\b",
    re.I,
)
_SURE = re.compile(
    r"\b(?:quality|certainty|strength|body) of (?:the )?(?:\w+ )?evidence|\brisk of bias|"
    r"\bmethodological|\b(?:low|poor|moderate)[- ](?:methodological )?quality\b|\bgraded?\b|"
    r"\b(?:very )?low[- ](?:quality|certainty)|"
    r"\bimprecis|\bheterogene|\bsmall (?:number|sample|studies|trials)|\bwere small\b|"
    r"\blimitations?\b|\bblind(?:ed|ing)\b|\bunder-?powered\b|"
    r"\bpublication bias|\bpoorly reported|\bcaution\b|\bconfidence in\b|\brandomisation "
    r"methods?\b",
    re.I,
)  # fmt: skip
_MEANS = re.compile(
    r"\b(?:(?:further|future|more|larger|additional|better|new) (?:\w+[- ]){0,4}(?:research|"
    r"studies|trials|evidence|RCTs|data) (?:is|are|may|should|would|could|needs?|on|to|into)|"
    r"should\b|(?:is|are) (?:needed|required|warranted)|clinicians|policy|in practice|clinical "
    r"practice|guidelines?|recommend\w*|"
    r"(?:evidence|data) (?:\w+ ){0,4}(?:suggests?|indicates?|supports?|is insufficient|to support|"
    r"does not)|insufficient evidence|"
    r"(?:no|not enough|little|limited) evidence (?:to|that|from|for)|conclusions?|this (?:\w+ "
    r")?review (?:suggests|found|shows|provides|indicates|supports|does))\b",
    re.I,
)  # fmt: skip
_METHOD = re.compile(
    r"\b(?:two (?:review )?authors|independently|extracted|data extraction|we (?:assessed|used|"
    r"calculated|analy[sz]ed|planned|pooled|performed|"
    r"conducted|expressed|downgraded|rated|judged|considered|defined|contacted|presented|combined|"
    r"summari[sz]ed|undertook|classified|excluded|sought|selected|searched|screened)|"
    r"meta-analys[ei]s (?:was|were) (?:not )?(?:possible|performed|conducted|undertaken|carried)|"
    r"random-effects|fixed-effect|subgroup analys|sensitivity analys|"
    r"intention[- ]to[- ]treat|(?:were|was) (?:not )?(?:pooled|combined)|allocation concealment|"
    r"sequence generation|summary of findings|(?-i:GRADE)|eligible for inclusion|inclusion "
    r"criteria (?:were|was)|"
    r"primary outcomes? (?:was|were|of interest)|outcome measures|narrative(?:ly)? (?:synthesis|"
    r"summary)|heterogeneity|meta-regression|last search|study selection|requested|this is an "
    r"update|funnel plot|downgrad\w+|indirectness)\b",
    re.I,
)  # fmt: skip
_LATE = 0.72  # share of a text without headings after which conclusions may stand


def sections(original: str, passages: Sequence[Passage]) -> list[str]:
    """The section of each passage, by the last heading before it; empty without headings."""
    found: list[str] = []
    current = ""
    end = 0
    for passage in passages:
        gap = original[end : passage.start]
        end = passage.end
        # What is between two sentences is a heading, or white space.
        if re.search(r"[A-Za-z]{3}", gap) and len(gap) < 200:
            current = next((name for pattern, name in _SECTIONS if pattern.search(gap)), current)
        found.append(current)
    return found


def part_of(source: str, text: str, section: str, place: float) -> Part:
    """The part that a sentence tells.

    Args:
        source: as in the original.
        text: as rewritten.
        section: see `sections`.
        place: where it stands in the original, in [0, 1].
    """
    if section == "methods":
        return Part.METHOD
    if _ASKED.match(text) or section == "question":
        return Part.QUESTION
    late = section == "conclusions" or (not section and place >= _LATE)
    if late and (section or _MEANS.search(source)):
        return Part.MEANING
    who = _INCLUDED.search(text) or (_WHO.search(source) and not _RESULT.search(source))
    if who and not _HARM.search(source) and place < _LATE:
        return Part.WHO
    if _METHOD.search(source) and not re.match(
        r"(?:Overall,? )?(?:the )?(?:overall )?(?:\w+ )?(?:quality|certainty) of", text, re.I
    ):
        return Part.METHOD
    if _SURE.search(source) and not re.search(r"\d\.\d", source):
        return Part.CERTAINTY
    if _HARM.search(source):
        return Part.HARM
    return Part.MEANING if not section and place >= 0.9 else Part.FINDING
