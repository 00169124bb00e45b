"""Rule `pointers`: a sentence that points to another one says so, or does without.

Connectors that need nothing before them ("However,") are taken off. Whether a sentence still points
to the one before it ("These trials", "The other study") is asked by the engine, which keeps both
together or leaves it out.
"""

from __future__ import annotations

import re

from serve_app.generation.plain.facts import Facts
from serve_app.generation.plain.grammar import AUXILIARY, NUMERAL, PAST, capitalised, is_clause

_CONNECTOR = re.compile(
    r"(?:However|Moreover|Furthermore|In addition|Additionally|Also|Therefore|Thus|Hence|"
    r"Consequently|Nevertheless|"
    r"Nonetheless|Similarly|Likewise|In contrast|By contrast|Conversely|Finally|In summary|In "
    r"conclusion|To conclude|"
    r"In general|Importantly|Notably|Of note|As a result|As such|Accordingly|Firstly|Secondly|"
    r"Thirdly|Lastly|"
    r"Interestingly|Unfortunately|On the other hand|In particular|Overall|In total|On average|"
    r"Currently|At present|Again|Yet)"
)
_KEPT = re.compile(r"(?:On average|In total|Overall)\b")
_ITSELF = re.compile(
    r"th(?:is|e present|e current) (?:[\w-]+ ){0,3}?(?:review|overview|update|meta-analysis|"
    r"summary|version)\b",
    re.I,
)
_EXPLETIVE = re.compile(
    r"It (?:is|was|remains|may be|might be|would be|seems|appears|could be|has been|can be|cannot "
    r"be) (?:not |therefore |also |\w+ly )?(?:(?:un)?(?:clear|certain|known|likely)|possible|"
    r"impossible|important|essential|necessary|difficult|probable|plausible|too|hard|feasible|"
    r"(?:recommended|shown|suggested|found|established|estimated|concluded|thought|believed|"
    r"likely) that|that)\b|It (?:seems|appears|is|was) (?:\w+ )?that\b|It may be that\b"
)
_POINTING = re.compile(
    r"(?:this|these|those(?! (?:who|with|in|of|\w+ed|\w+ing|given|taking)\b)|they|it|its|their|"
    r"such|he|she|both|neither|either|another|others?|each|the (?:other|former|latter|"
    r"same|remaining|second|third|fourth|fifth|above|aforementioned|latest|two|three|four|five|"
    r"six|seven|eight|nine|ten|"
    r"first (?:trial|study|comparison|group)|"
    r"(?:largest|smallest|larger|smaller|single) (?:trial|study))|(?:one|two|three|four|five|six|"
    r"seven|eight|most|none|all|some|many|only one|"
    r"half|several|few|\d+) of (?:these|those|them|which|the (?:two|three|four|five|six|seven|"
    r"eight|nine|ten|remaining|other|latter))|"
    r"of (?:these|those|the (?:two|three|four|five|six|seven|eight|nine|ten|remaining|other))|"
    r"among (?:these|those)|in (?:these|those|such|both|all (?:three|four|five)|the (?:other|"
    r"latter|former|second|third|fourth|remaining|same|two|three))|"
    r"for (?:these|those|both|the (?:other|second|third))|all (?:three|four|five|six|seven|eight|"
    r"nine|ten)\b|"
    r"only (?:these|this)|comparison \w+ (?:showed|found)|here\b|as (?:above|mentioned)|other "
    r"(?:individual )?(?:trials|studies)|"
    r"(?:a|one) (?:further|other|additional) (?:trial|study)|the (?:opposite|reverse|rest|"
    r"others?))\b",
    re.I,
)
_RESULT = re.compile(
    r"the (?:\w+ )?(?:differences?|effects?|reductions?|increases?|improvements?|changes?|results?|"
    rf"benefits?|trend|finding)(?: \([^()]*\))? (?:\w+ly )?{AUXILIARY}\b",
    re.I,
)
_NOUNLESS = re.compile(
    rf"(?:only )?(?:{NUMERAL}|most|all|none|some|many|several|few) (?:(?:also|only|other|others|"
    rf"further) )?"
    rf"(?:{AUXILIARY}|{PAST})\b(?! \w+ (?:was|were)\b)",
    re.I,
)
_ELSEWHERE = re.compile(
    r"\b(?:outlined|described|mentioned|listed|stated|noted|discussed) "
    r"(?:above|below|earlier|previously)\b|"
    r"\balso (?:\w+ly )?(?:higher|lower|better|worse|more|less|similar|reduced|increased)(?=[.,;])",
    re.I,
)
_THE_STUDY = re.compile(
    r"(?:In |For |From )?the (?:\w+ )?(?:trial|study|RCT)\b(?! (?:reports|authors|results|quality|"
    r"designs?))",
    re.I,
)
_DEMONSTRATIVE = re.compile(
    r"\b(?:this|these|such(?! as\b)|those(?! (?:who|with|in|of|receiving|treated|given|taking|"
    r"that|not|without|on|from|at|\w+ed|\w+ing)\b)"
    r"|the (?:former|latter)|(?:outlined|described|mentioned|listed|stated|noted|reported|"
    r"discussed) (?:above|below|earlier|previously)|above-mentioned|aforementioned|the same "
    r"(?:comparison|trial|study))\b",
    re.I,
)
_CLAUSE_END = re.compile(
    r"[,;:.]|\b(?:but|and|because|which|when|while|whereas|although|if|who)\b", re.I
)


def without_connector(sentence: str, facts: Facts) -> str:
    """The sentence without a connector at its beginning.

    >>> without_connector("However, pain was less.", Facts(""))
    'Pain was less.'
    """
    while (found := _CONNECTOR.match(sentence)) and not _KEPT.match(sentence):
        rest = sentence[found.end() :]
        if not rest.startswith(", ") and not is_clause(rest.strip()):
            break
        sentence = capitalised(rest.lstrip(", "))
    return sentence


def points_back(sentence: str, facts: Facts) -> bool:
    """Whether a sentence needs the one before it to be understood.

    >>> points_back("These trials were small.", Facts(""))
    True
    >>> points_back("This review found two.", Facts(""))
    False
    """
    if _ITSELF.match(sentence) or _EXPLETIVE.match(sentence):
        return False
    if (
        _POINTING.match(sentence)
        or _RESULT.match(sentence)
        or _NOUNLESS.match(sentence)
        or _ELSEWHERE.search(sentence)
    ):
        return True
    if _THE_STUDY.match(sentence) and not facts.one_study:
        return True
    end = _CLAUSE_END.search(sentence, 1)
    first = sentence[: end.start() if end else len(sentence)]
    rest = re.sub(_ITSELF, "", first)
    return _DEMONSTRATIVE.search(rest) is not None
