"""The little grammar that the rules need: finite verbs, clauses, capitals, doubled words.

By closed lists of words, no parser: a rule that needs certainty asks here and does nothing where
the answer is no. Knows no medicine.
"""

from __future__ import annotations

import re

AUXILIARY = (
    r"(?:was|were|is|are|has|have|had|did|does|do|may|might|can|could|will|would|should|must|"
    r"cannot|"
    r"remains?|remained|seems?|seemed|appears?|appeared)"
)
"""Verbs that are always finite: no participle looks like them."""

_PRESENT = (
    r"(?:suggests?|shows|indicates?|includes|provides?|reduces|increases|improves|leads|lacks|"
    r"needs|"
    r"depends|supports|relates|consists|differs|prevents|causes|makes|gives|lowers|favours|favors)"
)
PAST = (
    r"(?:found|showed|gave|made|led|took|began|came|rose|fell|met|ran|became|reported|compared|"
    r"included|"
    r"evaluated|assessed|examined|investigated|favoured|favored|demonstrated|used|observed|"
    r"measured|"
    r"provided|suggested|identified|reduced|increased|improved|had|received|contributed|involved|"
    r"enrolled|recruited|studied|looked|tested|experienced|developed|died|occurred|differed|ranged|"
    r"lowered|decreased|prevented|caused|affected|achieved|produced|failed|helped|worked|survived|"
    r"resulted|lasted|"
    r"required|needed|changed|relieved|worsened|declined|supported|benefited|suffered|tended|"
    r"consisted)"
)
FINITE = re.compile(rf"\b(?:{AUXILIARY}|{_PRESENT}|{PAST})\b", re.I)
"""A word that may be a finite verb; a past form may be a participle too."""

NUMERAL = (
    r"(?:\d[\d,]*|one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|thirteen|fourteen|"
    r"fifteen|sixteen|seventeen|eighteen|nineteen|twenty)"
)
_OPENER = (
    rf"(?:there|it|we|they|no one|none|nobody|(?:the|a|an|no|most|some|all|many|few|several|only|"
    rf"both|other|"
    rf"further|more|fewer|our|their|its|{NUMERAL})\s(?:[^\s,;:()]+\s){{1,7}}?"
    r"|(?!(?:that|which|who|whose|whether|if|because|since|when|while|as|of|in|for|with|by|to|at|"
    r"on|than)\b)"
    r"[a-z-]+\s(?:[^\s,;:()]+\s){0,2}?)"
)
_CLAUSE = re.compile(rf"({_OPENER})\s?(?:(?:\w+ly|also|still|only|even)\s)?{AUXILIARY}\b", re.I)
_STUDIES = re.compile(
    rf"(?:we|they|(?:the |another |a |only |all |most |some )?(?:second |third |fourth |further "
    rf")?(?:other |remaining )?(?:{NUMERAL}|(?:{NUMERAL} |\w+ )?(?:trials?|"
    r"studies|study|authors|reviews?)))\s(?:also\s|only\s)?"
    rf"{PAST}\s(?!by\b)\S",
    re.I,
)
_RELATIVE = re.compile(r"\b(?:that|which|who|whose|whom|whether|if|because|unless|until)\b", re.I)
_WORD = re.compile(r"[^\W_]+(?:[-'’][^\W_]+)*")

# Words that a sentence may begin with and that are never names.
_COMMON = frozenset(
    [
        "a",
        "an",
        "the",
        "this",
        "these",
        "those",
        "that",
        "there",
        "it",
        "we",
        "they",
        "all",
        "both",
        "each",
        "no",
        "none",
        "some",
        "most",
        "many",
        "several",
        "few",
        "one",
        "two",
        "three",
        "four",
        "five",
        "six",
        "seven",
        "eight",
        "nine",
        "ten",
        "eleven",
        "twelve",
        "thirteen",
        "fourteen",
        "fifteen",
        "sixteen",
        "seventeen",
        "eighteen",
        "nineteen",
        "twenty",
        "thirty",
        "forty",
        "fifty",
        "sixty",
        "seventy",
        "eighty",
        "ninety",
        "only",
        "more",
        "less",
        "fewer",
        "other",
        "another",
        "any",
        "either",
        "neither",
        "high",
        "low",
        "moderate",
        "very",
        "small",
        "large",
        "few",
        "further",
        "future",
        "current",
        "available",
        "included",
        "randomised",
        "randomized",
        "controlled",
        "clinical",
        "trials",
        "trial",
        "studies",
        "study",
        "participants",
        "patients",
        "people",
        "women",
        "men",
        "children",
        "infants",
        "adults",
        "evidence",
        "data",
        "results",
        "overall",
        "in",
        "for",
        "at",
        "on",
        "with",
        "of",
        "from",
        "to",
        "by",
        "among",
        "between",
        "during",
        "after",
        "before",
        "when",
        "while",
        "although",
        "compared",
        "relevant",
        "eligible",
        "published",
        "new",
        "additional",
        "different",
        "similar",
        "our",
        "its",
        "their",
    ]
)


def is_clause(text: str) -> bool:
    """Whether a text surely begins with a subject and its finite verb, so that it can stand alone.

    >>> is_clause("the risk of stroke was lower"), is_clause("and was lower")
    (True, False)
    """
    if len(text.split()) < 4 and not _STUDIES.match(text):
        return False
    found = _CLAUSE.match(text)
    if found is not None and _RELATIVE.search(found[1]) is None:
        return True
    return _STUDIES.match(text) is not None


def has_verb(text: str) -> bool:
    """Whether a finite verb may be in it.

    >>> has_verb("Early versus late feeding"), has_verb("Pain was lower")
    (False, True)
    """
    return FINITE.search(text) is not None


def lowered(text: str, source: str) -> str | None:
    """A sentence with a small first letter, to stand after other words; None if it may be a name.

    >>> lowered("Two trials were small.", ""), lowered("Turkey was hot.", "")
    ('two trials were small.', None)
    """
    first = _WORD.match(text)
    if first is None or not text[0].isupper():
        return text if text[:1].isdigit() or text[:1].islower() else None
    word = first[0]
    parts = word.lower().split("-")
    known = parts[0] in _COMMON or re.search(rf"\b{re.escape(word.lower())}\b", source) is not None
    if not known or (
        not word[1:].islower() and len(word) > 1 and not word[1:].replace("-", "").isalpha()
    ):
        return None
    if sum(letter.isupper() for letter in word) > 1:
        return None
    return text[0].lower() + text[1:]


def capitalised(text: str) -> str:
    """A text with a capital first letter; a name such as mRNA stays as it is.

    >>> capitalised("pain was less."), capitalised("mRNA vaccines")
    ('Pain was less.', 'mRNA vaccines')
    """
    first = _WORD.match(text)
    if first is None or not first[0].replace("-", "").replace("'", "").islower():
        return text
    return text[0].upper() + text[1:]


_DOUBLED = re.compile(r"\b([^\W\d_]+)\s+\1\b", re.I)


def doubled(text: str) -> list[str]:
    """Words that stand twice in a row, "had had" and "that that" apart.

    >>> doubled("The the pain had had no effect.")
    ['the']
    """
    return [
        found[1].lower()
        for found in _DOUBLED.finditer(text)
        if found[1].lower() not in ("had", "that")
    ]


def tidied(text: str) -> str:
    """A sentence after words were taken out: spaces, commas and empty brackets put right.

    >>> tidied("Pain ( ) was less , (; ) .")
    'Pain was less.'
    """
    before = None
    while before != text:
        before = text
        text = re.sub(r"[(\[][\s,;:]*[)\]]", "", text)
        text = re.sub(r"([(\[])[\s,;:]+", r"\1", text)
        text = re.sub(r"[\s,;:]+([)\]])", r"\1", text)
        text = re.sub(r"\s+([,;:.!?])", r"\1", text)
        text = re.sub(r"[,;:]+(?=[,;:.!?])", "", text)
        text = re.sub(r"\s{2,}", " ", text)
        text = re.sub(r"(?<=[a-z)])\.(?=[A-Z][a-z]+ [a-z])", ". ", text)
    return re.sub(r"(?<!\.)\.\.(?!\.)", ".", text.strip())
