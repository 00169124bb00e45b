"""Rule `splitting`: a long sentence of two clauses becomes two sentences.

Only where both halves are surely sentences (`grammar.is_clause`) and neither loses what governs it:
no split under "that", "whether" or "if", after an introduction ("In one trial, …"), or in a list.
"""

from __future__ import annotations

import re

from serve_app.generation.plain.facts import Facts
from serve_app.generation.plain.grammar import FINITE, NUMERAL, capitalised, is_clause

LONG = 12
"""Words from which a sentence is split."""

_JOINT = re.compile(r",? (?P<word>and|but|so|whereas|while|although|though|however) ", re.I)
_SEMICOLON = re.compile(r"; (?:and |but |however,? |therefore,? )?")
_WHICH = re.compile(
    r", which (?P<verb>was|were|is|are|has|have|included|compared|had|showed|found|reported|"
    r"enrolled|involved|lasted|"
    r"recruited|assessed|used|may|might|could|can|did|took) "
)
_NUMBERED_VERBS = ("was", "were", "is", "are", "has", "have")
_ANTECEDENT = re.compile(
    r"trials?|stud(?:y|ies)|reviews?|RCTs|groups|programmes|interventions|treatments|drugs"
)
_REASON = re.compile(
    r"(?:,? (?P<word>because(?! of\b))|,?(?: and)? (?P<so>therefore|so(?= (?:we|there|it|the)\b))|"
    r", (?P<means>suggesting|indicating|showing|meaning)),? ",
    re.I,
)
_MEANING = {
    "suggesting": "suggests",
    "indicating": "indicates",
    "showing": "shows",
    "meaning": "means",
}
# "Not because" may deny the reason.
_NEGATED = re.compile(r"\b(?:not|no|none|never|neither|cannot)\b|n['’]t\b", re.I)
_LISTED = re.compile(r"(?P<first>[^,;:()]*\b[a-z]{3,}s), including (?P<rest>[^;:]*\.)")
_FRONTED = re.compile(
    r"(?:In|For|At|After|Among|Compared|With|When|If|While|Whilst|Although|Though|Because|As|"
    r"Since|Based|From|On|By|During|Of|"
    r"Between|Unless|Until|Before|Despite|Due|Under|Using|Given|Without|Within|Whereas|Following|"
    r"Considering|Where|Given)\b"
)
_SUBORDINATE = re.compile(
    r"(?:When|If|While|Whilst|Although|Though|Because|As|Since|Unless|Until|Before|After|Whereas|"
    r"Where|Given|Despite|Even)\b"
)
_MAY_HOLD_BOTH = re.compile(
    r"\b(?:which|who|whose|when|while|where|as|since|after|before|than|once|how|why|what|for|"
    r"between|both|with|to|and|or)\b.*",
    re.I,
)
_CONCESSION = re.compile(
    r"(?:Although|Though|While|Whilst|Whereas|Even though) (?P<first>[^,;:()]+), "
    r"(?P<second>[^,;:]+\.)"
)
_GOVERNS = re.compile(
    r"\b(?:that|whether|if|unless|because|respectively|either|neither|both|between|until|unlike|"
    r"so)\b",
    re.I,
)
_NUMBERED = re.compile(rf"(?:of which )?{NUMERAL}\b(?! (?:to|and|or)\b)", re.I)
_SAID_AS = {
    "but": "But ",
    "whereas": "But ",
    "although": "However, ",
    "though": "However, ",
    "however": "However, ",
}


def split(sentence: str, facts: Facts) -> list[str]:
    """The sentence as one or more sentences.

    >>> split("Pain was lower in most of the women, but the risk of harm was higher.", Facts(""))
    ['Pain was lower in most of the women.', 'But the risk of harm was higher.']
    """
    return _parts(sentence, 3)


def _parts(sentence: str, depth: int) -> list[str]:
    if depth == 0 or len(sentence.split()) < LONG:
        return [sentence]
    for attempt in (
        _at_semicolons,
        _at_colon,
        _at_concession,
        _at_joint,
        _at_reason,
        _at_which,
        _at_list,
    ):
        parts = attempt(sentence)
        if parts and not any(map(_spliced, parts)):
            return [piece for part in parts for piece in _parts(part, depth - 1)]
    return [sentence]


def _outside_brackets(sentence: str, at: int) -> bool:
    before = sentence[:at]
    return before.count("(") == before.count(")") and before.count("[") == before.count("]")


def _at_semicolons(sentence: str) -> list[str] | None:
    if ":" in sentence or _SUBORDINATE.match(sentence) or re.search(r"\brespectively\b", sentence):
        return None
    cuts = [
        found
        for found in _SEMICOLON.finditer(sentence)
        if _outside_brackets(sentence, found.start())
    ]
    if not cuts:
        return None
    starts = [0, *(found.end() for found in cuts)]
    ends = [*(found.start() for found in cuts), len(sentence)]
    parts = [sentence[start:end] for start, end in zip(starts, ends, strict=True)]
    if not all(is_clause(part) for part in (_without_front(parts[0]), *parts[1:])):
        return None
    return [f"{capitalised(part).rstrip('.')}." for part in parts]


def _at_colon(sentence: str) -> list[str] | None:
    first, colon, second = sentence.partition(": ")
    if not colon or ":" in second or ";" in second or not _outside_brackets(sentence, len(first)):
        return None
    if (
        not _is_main(first)
        or not is_clause(second)
        or re.search(r"\b(?:following|these|are|were)$", first)
    ):
        return None
    return [f"{first}.", capitalised(second)]


def _at_concession(sentence: str) -> list[str] | None:
    found = _CONCESSION.fullmatch(sentence)
    if found is None or not is_clause(found["first"]) or not is_clause(found["second"]):
        return None
    if _GOVERNS.search(found["first"]) or len(_finite(found["first"])) != 1:
        return None
    return [f"{capitalised(found['first'])}.", f"But {found['second']}"]


def _at_joint(sentence: str) -> list[str] | None:
    if _SUBORDINATE.match(sentence) or ";" in sentence or ":" in sentence:
        return None
    fronted = _FRONTED.match(sentence) is not None
    for found in _JOINT.finditer(sentence):
        if not _outside_brackets(sentence, found.start()):
            continue
        first, second = sentence[: found.start()], sentence[found.end() :].removeprefix(", ")
        word = found["word"].lower()
        comma = found[0].startswith(",")
        # What an introduction says holds for an "and" as well; "but" sets its clause apart.
        if fronted and word not in ("but", "whereas", "although", "however"):
            continue
        sure = re.match(r"(?:there (?:was|were|is|are)|we|no [a-z]+ (?:was|were))\b", second)
        if word == "and" and not comma and not sure and _MAY_HOLD_BOTH.search(first) is not None:
            continue
        if not comma and word in ("so", "however", "though"):
            continue
        if not _is_main(_without_front(first)) or not is_clause(second) or len(second.split()) < 4:
            continue
        # Before "and", a comma within the first half may begin a list.
        if word == "and" and re.search(r", ", re.sub(r"\([^()]*\)", "", _without_front(first))):
            continue
        # "While" may mean a time, and a list of clauses is no pair.
        if word in ("so", "while") or re.search(
            r", [^,()]+ (?:was|were|is|are|had|has) [^,()]*$", first
        ):
            continue
        if (
            word == "and"
            and re.search(rf",? and (?=[^,;]+ {FINITE.pattern})", second)
            and _JOINT.search(second) is None
        ):
            continue
        return [
            f"{first}.",
            _SAID_AS.get(word, "") + (second if word in _SAID_AS else capitalised(second)),
        ]
    return None


def _at_reason(sentence: str) -> list[str] | None:
    """ "…, because …" and "…, suggesting that …": the second half says what the first means."""
    if _FRONTED.match(sentence) or ";" in sentence or ":" in sentence:
        return None
    for found in _REASON.finditer(sentence):
        first, rest = sentence[: found.start()], sentence[found.end() :]
        if not _outside_brackets(sentence, found.start()) or not _is_main(first) or ", " in first:
            continue
        word = next(filter(None, found.groups())).lower()
        if word == "because" and is_clause(rest) and _NEGATED.search(first) is None:
            return [f"{first}.", f"This is because {rest}"]
        if word in ("therefore", "so") and is_clause(rest):
            return [f"{first}.", f"So {rest}"]
        if word in _MEANING and len(rest.split()) >= 4:
            return [f"{first}.", f"This {_MEANING[word]} {rest}"]
    return None


def _at_list(sentence: str) -> list[str] | None:
    """ "We found harms, including a, b and c." becomes two sentences, where what is listed is
    plural.
    """
    found = _LISTED.fullmatch(sentence)
    if found is None or _FRONTED.match(sentence) or not _is_main(found["first"]):
        return None
    if not _outside_brackets(sentence, found.end("first")) or len(found["rest"].split()) < 3:
        return None
    now = re.search(r"\b(?:is|are|has|have|may|can)\b", found["first"]) is not None
    return [f"{found['first']}.", f"These {'include' if now else 'included'} {found['rest']}"]


def _at_which(sentence: str) -> list[str] | None:
    if _FRONTED.match(sentence) or ";" in sentence or ":" in sentence:
        return None
    for found in _WHICH.finditer(sentence):
        first, rest = sentence[: found.start()], sentence[found.end() :]
        if not _outside_brackets(sentence, found.start()) or not _is_main(first):
            continue
        if (
            re.search(r", (?:and|but|or|with) |,\s\w+ing\b", rest)
            or len(rest.split()) < 3
            or "," in first
        ):
            continue
        last = first.split()[-1]
        plural = found["verb"] in ("were", "are", "have")
        if found["verb"] not in _NUMBERED_VERBS:
            if _ANTECEDENT.fullmatch(last) is None:
                continue
            plural = last not in ("trial", "study", "review")
        subject = "These" if plural else "This"
        return [f"{first}.", f"{subject} {found['verb']} {rest}"]
    return None


def _spliced(part: str) -> bool:
    """Whether a half still holds clauses joined by commas: it was cut from a list of clauses."""
    return any(
        _outside_brackets(part, found.start())
        and (is_clause(part[found.end() :]) or _NUMBERED.match(part, found.end()) is not None)
        for found in re.finditer(r", ", part)
        if not _FRONTED.match(part)
    )


def _without_front(sentence: str) -> str:
    """A sentence without its introduction ("In one trial, …")."""
    if _FRONTED.match(sentence) is None:
        return sentence
    return sentence.partition(", ")[2]


def _finite(text: str) -> list[str]:
    return [found[0] for found in FINITE.finditer(text)]


def _is_main(first: str) -> bool:
    """Whether the first half is a main clause of its own, with nothing that governs what
    follows.
    """
    if _GOVERNS.search(first) or len(first.split()) < 4:
        return False
    return is_clause(first)
