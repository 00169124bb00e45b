"""Rules `question` and `voice`: what the review wanted to know, and who did it, said with "we".

Only where the agent is sure: authors of a review include, find and exclude studies; they do not
treat.
"""

from __future__ import annotations

import re

from serve_app.generation.plain.facts import Facts
from serve_app.generation.plain.grammar import AUXILIARY, lowered

_AIM_VERB = (
    r"(?:assess|evaluate|determine|compare|examine|review|investigate|describe|identify|establish|"
    r"estimate|"
    r"summari[sz]e|explore|find|quantify|test|study|update|analy[sz]e|look|clarify|measure|"
    r"ascertain)"
)
_AIMS = (
    re.compile(rf"(?:\(\d\) )?To (?=(?:systematically |critically )?{_AIM_VERB}\b)"),
    re.compile(
        r"(?:The|Our) (?:primary |main |overall |general )?(?:aim|objective|purpose|goal)s? (?:of "
        r"(?:this|the|our) "
        r"(?:[\w-]+ ){0,3}(?:review|study|update|trial|overview|meta-analysis|paper|analysis) "
        r")?(?:was|were|is|are) to "
    ),
    re.compile(
        r"(?:This|The) (?:[\w-]+ ){0,2}(?:review|study|overview|update) (?:aims|aimed|sought|set "
        r"out) to "
    ),
    re.compile(r"We (?:aimed|sought|set out) to "),
)
_STUDIES = (
    r"(?:trials?|studies|study|RCTs?|reviews?|reports?|papers?|articles|publications|participants|"
    r"patients|women|children)"
)
_INCLUDED = re.compile(
    rf"(?P<what>[^,;:]*?\b{_STUDIES}\b[^,;:]*?) (?:(?:was|were) (?P<verb>included|identified|"
    rf"excluded)"
    r"(?: in (?:this|the|our) (?:[\w-]+ ){0,2}(?:review|analysis|meta-analysis|update))?"
    r"|(?P<met>(?:met|meet|fulfilled) (?:the|our) (?:\w+ )?(?:inclusion|eligibility|selection) "
    r"criteria(?: for (?:this|the) review)?))\."
)
_MET = re.compile(
    r"(?:, which| that|, that) (?:met|fulfilled|satisfied) (?:the|our|these|all) (?:\w+ "
    r")?(?:inclusion|eligibility|selection) criteria(?: (?:for|of) (?:this|the|our) "
    r"review)?(?=[.,;]| and\b)"
)
_NOTHING = re.compile(
    r"No (?P<what>[^,;:]*?) (?:was|were) (?:found|identified)\b(?P<rest>[^;:]*\.)"
)
_AUTHORS = re.compile(
    r"\b(?:The|the) (?:review authors|authors of this review)(?= (?:judged|rated|concluded|found|"
    r"considered|assessed|identified|included|did|were|are|could|agreed|decided)\b)"
)
_VERBAL = re.compile(rf"\b{AUXILIARY}\b", re.I)


def asked(sentence: str, facts: Facts) -> str:
    """The aim of the text as a sentence with "we wanted to".

    >>> asked("To assess the effects of salt on blood pressure.", Facts(""))
    'We wanted to assess the effects of salt on blood pressure.'
    """
    for pattern in _AIMS:
        found = pattern.match(sentence)
        if found is not None:
            return f"We wanted to {sentence[found.end() :]}"
    return sentence


def active(sentence: str, facts: Facts) -> str:
    """A passive whose agent is known, made active; of a review only.

    >>> facts = Facts("This review looked at trials.")
    >>> active("Twelve trials with 869 patients were included.", facts)
    'We included twelve trials with 869 patients.'
    >>> active("No differences in pain were found between the groups.", facts)
    'We found no differences in pain between the groups.'
    """
    if not facts.is_review:
        return sentence
    sentence = (
        _MET.sub("", sentence)
        if re.match(r"We (?:identified|found|included)", sentence)
        else sentence
    )
    found = _INCLUDED.fullmatch(sentence)
    if (
        found is not None
        and not re.match(r"We\b|.*\b(?:that|which|who)$", found["what"])
        and not _VERBAL.search(found["what"])
    ):
        what = lowered(found["what"], facts.text)
        # "None of the trials", "No study": "we included no study" says it too.
        if what is not None and not what.startswith(("none", "neither")):
            verb = (
                "included"
                if found["met"]
                else {"identified": "found"}.get(found["verb"], found["verb"])
            )
            return f"We {verb} {what}."
    found = _NOTHING.fullmatch(sentence)
    if found is not None and not _VERBAL.search(found["what"]):
        return f"We found no {found['what']}{found['rest']}"
    return _AUTHORS.sub(lambda match: "We" if match.start() == 0 else "we", sentence)
