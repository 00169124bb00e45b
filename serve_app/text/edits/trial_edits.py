"""Edits of one sentence about a trial: arms, numbers, certainty and strength of a cause.

Beside `corruptions`, and with its signature: a claim, its passage's sentences and a random
generator give the edited claim, or None where the edit does not apply. Knows words and
punctuation; not labels or models.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from random import Random

from serve_app.text.edits import corruptions
from serve_app.text.edits.lexicon import PRONOUNS

_NUMBER = re.compile(r"(?<![\w.,/-])\d+(?:[.,]\d+)*\s?%?(?![\w-])")
# A noun phrase as far as a pattern can tell: up to six words without a stop or a verb's sign.
_PHRASE = r"(?:[\w'’()/%+-]+ ){0,5}[\w'’()/%+-]+"
_STOP = (
    r"(?:was|were|is|are|had|has|have|did|does|do|may|might|can|could|will|would|in|on|at|for|from|"
    r"of|with|by|to|and|or|that|which|who|when|after|before|during|but|although|however|there|we|"
    r"not|no|than|compared|versus|as|between|among|it|this|these|those|they)"
)
_NOUNS = rf"(?<![\w'’()/%+-])(?:(?!{_STOP}\b)[\w'’()/%+-]+ ){{0,4}}(?!{_STOP}\b)[\w'’()/%+-]+"
_LINKS = (
    r"compared (?:with|to)|in comparison (?:with|to)|versus|vs\.?|rather than|instead of|"
    r"relative to|as opposed to|over|superior to|inferior to"
)
_ARMS = [
    re.compile(rf"(?P<a>{_NOUNS}) (?P<mid>{_LINKS}) (?P<b>{_NOUNS})"),
    re.compile(
        rf"(?P<a>(?:with|in|for|by|given|receiving|taking) {_NOUNS}) "
        rf"(?P<mid>(?:\([^()]*\) )?(?:than|and not|but not|or)) "
        rf"(?P<b>(?:with|in|for|by|given|receiving|taking) {_NOUNS})"
    ),
    re.compile(
        rf"^(?P<a>[^,.;]{{4,60}}?) (?P<mid>(?:was|were|is|are|had|has|have|led to|resulted in|"
        rf"showed|reduced|increased|improved|produced)\b[^,;]*? (?:than|compared (?:with|to)|"
        rf"versus|relative to)) (?P<b>{_NOUNS})"
    ),
    re.compile(
        rf"(?P<lead>(?:[Cc]ompared (?:with|to)|[Rr]elative to|[Ii]n comparison (?:with|to)) )"
        rf"(?P<a>{_NOUNS})(?P<mid>,) (?P<b>{_NOUNS})(?= (?:was|were|is|are|had|has|may|might|"
        rf"probably|did|does|led|resulted|reduced|increased|improved|lowered|raised|significantly)\b)"
    ),
    re.compile(
        rf"(?P<a>(?:before|after|first|then) {_NOUNS}) (?P<mid>and|or|than) "
        rf"(?P<b>(?:before|after|first|then) {_NOUNS})"
    ),
]
_CAUSE = re.compile(
    rf"^(?P<a>{_PHRASE}) (?P<mid>(?:(?:may|can|could|might|will|was|were|is|are|has|have|"
    r"significantly|probably|likely) )*(?:reduces?|reduced|increases?|increased|improves?|improved|"
    r"causes?|caused|prevents?|prevented|leads? to|led to|results? in|resulted in|affects?|"
    r"affected|predicts?|predicted|followed|follows|precedes?|preceded|treats?|worsens?|lowers?|lowered|"
    r"raises?|raised|replaces?|replaced|contains?|produces?|produced|outperforms?|outperformed|"
    r"reduced by|caused by|followed by|replaced by|preceded by|treated with|due to))"
    rf" (?P<b>{_NOUNS})(?=[.,;]|$| (?:in|at|on|for|after|before|during|by|among|compared|and)\b)"
)

_TURNS = {
    "higher": "lower", "more": "less", "better": "worse", "longer": "shorter",
    "larger": "smaller", "greater": "smaller", "older": "younger", "faster": "slower",
    "earlier": "later", "stronger": "weaker", "superior": "inferior", "safer": "riskier",
}  # fmt: skip
_TURN = {**_TURNS, **{down: up for up, down in _TURNS.items()}, "fewer": "more", "lower": "higher"}
_COMPARISON = re.compile(
    rf"^(?P<a>[^,.;]{{3,70}}?) (?P<mid>(?:was|were|is|are|had|has|have)\b[^,;]*? (?:than|to)) "
    rf"(?P<b>{_NOUNS})[.]?$"
)

# (what the source says, what is stronger). Each is used both ways round, so that neither wording
# is a sign of a lie.
_CERTAINTY = [
    (r"\bmay\b", "will"), (r"\bmight\b", "does"), (r"\bcould\b", "will"),
    (r"\bprobably\b", "definitely"), (r"\blikely to\b", "certain to"),
    (r"\bis associated with\b", "causes"), (r"\bare associated with\b", "cause"),
    (r"\bwas associated with\b", "caused"), (r"\bwere associated with\b", "caused"),
    (r"\bassociation between\b", "causal effect between"), (r"\bis linked to\b", "leads to"),
    (r"\bwas linked to\b", "led to"), (r"\bwas related to\b", "resulted in"),
    (r"\bcorrelated with\b", "caused"), (r"\brisk factor for\b", "cause of"),
    (r"\bsuggests?\b", "proves"), (r"\bsuggested\b", "proved"),
    (r"\bappears? to\b", "clearly does"),
    (r"\bseems? to\b", "definitely does"), (r"\bindicates?\b", "proves"),
    (r"\b[Vv]ery low[- ](certainty|quality)\b", r"high-\1"),
    (r"\b[Ll]ow[- ](certainty|quality)\b", r"high-\1"),
    (r"\b[Mm]oderate[- ](certainty|quality)\b", r"high-\1"),
    (r"\binsufficient evidence\b", "strong evidence"), (r"\blimited evidence\b", "strong evidence"),
    (r"\bweak evidence\b", "strong evidence"), (r"\bsome evidence\b", "conclusive evidence"),
    (r"\blittle evidence\b", "clear evidence"), (r"\buncertain\b", "certain"),
    (r"\bunclear\b", "clear"), (r"\bsome\b", "all"), (r"\bsometimes\b", "always"),
    (r"\boften\b", "always"), (r"\busually\b", "always"), (r"\bin mice\b", "in people"),
    (r"\bin rats\b", "in patients"), (r"\bone\b", "many"), (r"\bsmall\b", "large"),
]  # fmt: skip
_STRENGTH = [(re.compile(weak), strong) for weak, strong in _CERTAINTY]
_SURE = [
    (re.compile(hedge), sure)
    for hedge, sure in (
        (r"\b(?:may|might|could)\b", "will"), (r"\b(?:probably|possibly)\b", "definitely"),
        (r"\b(?:suggests|indicates)\b", "proves"), (r"\b(?:suggest|indicate)\b", "prove"),
        (r"\b(?:suggested|indicated)\b", "proved"), (r"\bis associated with\b", "causes"),
        (r"\bare associated with\b", "cause"), (r"\bw(?:as|ere) associated with\b", "caused"),
    )
]  # fmt: skip
_HEDGES = {
    "may": ("might", "could", "may possibly"), "might": ("may", "could"),
    "is associated with": ("is linked to", "goes together with"),
    "was associated with": ("was linked to", "went together with"),
    "were associated with": ("were linked to",), "suggests": ("indicates", "points to"),
    "suggested": ("indicated",), "probably": ("likely", "most likely"),
    "unclear": ("not clear", "not known"), "uncertain": ("not certain", "unsure"),
    "insufficient evidence": ("not enough evidence", "too little evidence"),
    "low-certainty evidence": ("evidence of low certainty", "evidence we trust little"),
    "no difference": ("no clear difference", "about the same result"),
    "did not differ": ("were about the same", "were similar"),
    "no evidence of a difference": ("no proof of a difference",),
    "compared with": ("compared to", "relative to", "in comparison with"),
    "compared to": ("compared with", "relative to"), "versus": ("compared with",),
}  # fmt: skip


def _exchange(text: str, match: re.Match[str]) -> str:
    (a, b), (c, d) = match.span("a"), match.span("b")
    return text[:a] + text[c:d] + text[b:c] + text[a:b] + text[d:]


def _recased(edited: str, original: str) -> str:
    """The edited sentence with a capital where the original has one, and none on a moved word."""
    first = original.split(" ", 1)[0]
    if first[1:].islower() and first[:1].isupper() and not edited.startswith(first):
        edited = re.sub(rf"\b{re.escape(first)}\b", first.lower(), edited, count=1)
    return edited[0].upper() + edited[1:] if original[:1].isupper() else edited


def exchange_arms(claim: str, passage: Sequence[str], rng: Random) -> str | None:
    """The two sides of a comparison in each other's place."""
    options = [match for pattern in _ARMS for match in pattern.finditer(claim)]
    options = [m for m in options if m["a"].lower().strip() != m["b"].lower().strip()]
    if not options:
        return None
    return _recased(_exchange(claim, rng.choice(options)), claim)


def exchange_cause(claim: str, passage: Sequence[str], rng: Random) -> str | None:
    """What acts and what it acts on in each other's place (`A reduces B`, `B reduces A`)."""
    match = _CAUSE.match(claim)
    if match is None or match["a"].split()[0].lower() in ("there", "it", "we", "this", "they"):
        return None
    return _recased(_exchange(claim, match), claim)


def exchange_numbers(claim: str, passage: Sequence[str], rng: Random) -> str | None:
    """Two numbers of one kind (both percentages, both decimal, or neither) exchanged."""
    found = list(_NUMBER.finditer(claim))

    def kind(text: str) -> tuple[bool, bool]:
        return "%" in text, "." in text

    pairs = [
        (first, second)
        for index, first in enumerate(found)
        for second in found[index + 1 :]
        if first.group() != second.group() and kind(first.group()) == kind(second.group())
    ]
    if not pairs:
        return None
    first, second = rng.choice(pairs)
    (a, b), (c, d) = first.span(), second.span()
    left, right = claim[a:b], claim[c:d]
    # A trailing space belongs to the sentence, not to the number.
    tail = left[len(left.rstrip()) :]
    return (
        claim[:a]
        + right.rstrip()
        + tail
        + claim[b:c]
        + left.rstrip()
        + claim[c + len(right.rstrip()) :]
    )


def rescale_number(claim: str, passage: Sequence[str], rng: Random) -> str | None:
    """A number ten times too large or too small, or another by its digits' order."""
    found = list(_NUMBER.finditer(claim))
    if not found:
        return None
    match = rng.choice(found)
    text = match.group().rstrip(" %")
    rest = match.group()[len(text) :]
    digits = [char for char in text if char.isdigit()]
    how = rng.randrange(4)
    if how == 0 and "." not in text and "," not in text:
        new = text + "0"
    elif how == 1 and len(digits) > 1 and text[-1].isdigit() and "." not in text:
        new = text[:-1].rstrip(",")
    elif how == 2 and "." in text:
        whole, part = text.rsplit(".", 1)
        new = whole.lstrip("0") + part[:1] + ("." + part[1:] if part[1:] else "")
    else:
        order = list(digits)
        rng.shuffle(order)
        left = iter(order)
        new = "".join(next(left) if char.isdigit() else char for char in text)
    if new == text or not new or (new.startswith("0") and not text.startswith("0")):
        return None
    return claim[: match.start()] + new + rest + claim[match.end() :]


def overstate(claim: str, passage: Sequence[str], rng: Random) -> str | None:
    """A hedge, an association or a degree of certainty made stronger."""
    options = [(pattern, strong) for pattern, strong in _STRENGTH if pattern.search(claim)]
    if not options:
        return None
    pattern, strong = rng.choice(options)
    edited = pattern.sub(strong, claim, count=1)
    return edited[0].upper() + edited[1:] if claim[:1].isupper() else edited


def make_certain(claim: str, passage: Sequence[str], rng: Random) -> str | None:
    """Certainty in place of one hedge, and nothing else made stronger."""
    for hedge, sure in _SURE:
        changed = hedge.sub(sure, claim, count=1)
        if changed != claim:
            return changed
    return None


def turn_comparison(claim: str, passage: Sequence[str], rng: Random) -> str | None:
    """The same comparison from the other side: `A was higher than B`, `B was lower than A`."""
    match = _COMPARISON.match(claim)
    if match is None or match["a"].split()[0].lower() in PRONOUNS | {"there"}:
        return None
    found = [word for word in re.findall(r"[a-z]+", match["mid"]) if word in _TURN]
    if len(found) != 1:
        return None
    middle = re.sub(rf"\b{found[0]}\b", _TURN[found[0]], match["mid"])
    return _recased(f"{match['b']} {middle} {match['a']}.", claim)


def rehedge(claim: str, passage: Sequence[str], rng: Random) -> str | None:
    """A hedge or a comparison's link in equal words."""
    names = [old for old in _HEDGES if re.search(rf"\b{old}\b", claim)]
    if not names:
        return None
    old = rng.choice(names)
    return re.sub(rf"\b{old}\b", rng.choice(_HEDGES[old]), claim, count=1)


def move_lead(claim: str, passage: Sequence[str], rng: Random) -> str | None:
    """`In adults, X` as `X in adults` and back: another order of words, the same roles."""
    lead = re.match(
        r"(?P<lead>(?:In|Among|After|During|For|At|Compared with|Compared to) [^,]{4,60}), "
        r"(?P<rest>[^,;]{10,})\.$",
        claim,
    )
    if lead:
        rest, front = lead["rest"], lead["lead"]
        return f"{rest[0].upper()}{rest[1:]} {front[0].lower()}{front[1:]}."
    tail = re.match(
        r"(?P<rest>[^,;]{10,}) (?P<tail>(?:compared with|compared to|among|after|during) "
        rf"{_NOUNS})\.$",
        claim,
    )
    if tail is None:
        return None
    rest = tail["rest"]
    body = rest[0].lower() + rest[1:] if rest.split(" ", 1)[0][1:].islower() else rest
    return f"{tail['tail'][0].upper()}{tail['tail'][1:]}, {body}."


FALSE_EDITS: dict[str, tuple[corruptions.Edit, float]] = {
    "arms": (exchange_arms, 2.5),
    "cause": (exchange_cause, 1.5),
    "numbers exchanged": (exchange_numbers, 1.6),
    "number rescaled": (rescale_number, 1.2),
    "number": (corruptions.change_number, 1.0),
    "certainty": (overstate, 2.0),
    "direction": (corruptions.flip_direction, 3.0),
    "negation": (corruptions.flip_negation, 1.6),
    "roles": (corruptions.swap_roles, 1.0),
    "word": (corruptions.exchange_word, 0.8),
}
"""Edits that change what is said, with how often each is tried."""
TRUE_EDITS: dict[str, tuple[corruptions.Edit, float]] = {
    "plain": (corruptions.plain, 3.0),
    "shorten": (corruptions.shorten, 2.5),
    "reword": (corruptions.reword, 2.0),
    "turn": (turn_comparison, 1.5),
    "rehedge": (rehedge, 1.5),
    "lead": (move_lead, 1.0),
}
"""Edits that leave it true."""
