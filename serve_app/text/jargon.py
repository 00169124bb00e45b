"""What a reader without training cannot read: names of statistics, and abbreviations that the text
does not explain. Knows patterns of English; knows no glossary, and no sentence to put in place.
"""

from __future__ import annotations

import re

SHORT_NAMES = (
    r"(?:S?MDs?|WMDs?|RRR?s?|a?ORs?|a?HRs?|IRRs?|RDs?|ARRs?|ARDs?|NNTB?H?p?s?|NNHs?|CIs?|CrIs?|"
    r"PIs?|SDs?|SEs?|SEM|"
    r"IQRs?|RoMs?|ROMs?|ES|AUC|AOR|POR|I2|I²|Tau2|Tau²|Chi2|Chi²|ICC|df|DOR|PLR|NLR|PPV|NPV)"
)
LONG_NAMES = (
    r"(?:(?:odds|risk|rate|hazards?|relative|likelihood|incidence|"
    r"prevalence)[\s-](?:rate\s)?(?:ratio|risk|difference)s?|"
    r"relative risks?|absolute risk (?:reduction|difference|increase)s?|risk differences?|"
    r"(?:standardi[sz]ed |weigh(?:t)?ed )?mean differences?|standard deviations?|standard errors?|"
    r"(?:confidence|credible|prediction) intervals?|interquartile ranges?|effect sizes?|"
    r"numbers? needed to (?:treat|harm)|[Pp][\s-]?values?|ratio of means|"
    r"I[\s-]?squared|hazards? ratios?|heterogeneity|regression coefficients?|correlation "
    r"coefficients?|"
    r"random[\s-]effects?(?: model)?|fixed[\s-]effects?(?: model)?|Hedges['’]? g|Cohen['’]?s d)"
)
STATISTIC = re.compile(
    rf"\b(?:{SHORT_NAMES}(?![\w-])|{LONG_NAMES}\b)|\b[Pp]\s?[=<>≤≥]|\bI\s?[=<>]\s?\d|"
    rf"[χτ]²?\s?[=<>]|"
    rf"\b95\s?%\s?(?:CI|C\.I|confidence)"
)
"""What no reader should meet: names of statistics, P values and intervals."""

EVERYDAY = frozenset(
    [
        "HIV",
        "AIDS",
        "DNA",
        "RNA",
        "UK",
        "US",
        "USA",
        "EU",
        "UN",
        "TV",
        "DVD",
        "CD",
        "PC",
        "IQ",
        "UV",
        "COVID",
        "SARS",
        "NASA",
        "BBC",
        "PhD",
        "AM",
        "PM",
        "SMS",
        "GPS",
        "UNICEF",
        "Covid",
        "USD",
        "EUR",
        "GBP",
    ]
)
"""Abbreviations that a newspaper does not explain."""

# Atomic: whatever the text, it is read in time linear in its length.
_NAME = r"(?>[A-Za-z]*[A-Z][A-Za-z0-9]*[A-Z][A-Za-z0-9]*)"
_TOKEN = re.compile(
    rf"(?<![\w-]){_NAME}(?:[-/+](?:{_NAME}|\d+)(?!\w))*\+?(?![A-Za-z0-9])|(?<=-){_NAME}(?![\w])"
)
_SURNAME = re.compile(r"(?:Mc|Mac|De|Di|Van|Le|La|O')[A-Z][a-z]+|[A-Z][a-z]{2,}(?:[A-Z][a-z]{2,})+")
_ROMAN = re.compile(r"[IVX]{2,4}[a-cA-C]?")
_ORDINAL = re.compile(
    r"\b(?:phase|stage|type|class|grade|level|category|factor|part|group|world war|and|or|to|"
    r",)s?\s?$",
    re.I,
)


_ORDINAL_CHARS = 20
"""Longest text before a Roman numeral that says what it counts."""

# What explains one: "deep vein thrombosis (DVT)", "DVT (deep vein …", "(DVT means …".
_WORD_CHARS = 40
_BEHIND = re.compile(r"(?<=[a-z]{2}) \(([^()\s]{1,40})\)")
_BEFORE = re.compile(r"(?<=\S) \([a-z][^()]*[a-z]{3}")
_MEANS = re.compile(r"\((\S{1,40}) means ")
_START = re.compile(r"\b\w")


def abbreviations(text: str) -> list[re.Match[str]]:
    """The abbreviations of a text that not everybody knows, in order, each as often as it is used.

    >>> found = abbreviations("In the UK, 12 SSRIs (drugs) of phase II were used for HIV.")
    >>> [match[0] for match in found]
    ['SSRIs']
    """
    return [
        match
        for match in _TOKEN.finditer(text)
        if match[0] not in EVERYDAY
        and match[0].rstrip("s") not in EVERYDAY
        and _SURNAME.fullmatch(match[0]) is None
        and not (
            _ROMAN.fullmatch(match[0])
            and _ORDINAL.search(text[max(0, match.start() - _ORDINAL_CHARS) : match.start()])
        )
        and not re.fullmatch(r"(?:SARS|COVID)-.*", match[0])
    ]


def unexplained_uses(text: str) -> list[re.Match[str]]:
    """Every use of an abbreviation that the text nowhere explains, in order."""
    explained = {
        match[1].rstrip("s") for match in (*_BEHIND.finditer(text), *_MEANS.finditer(text))
    }
    for match in _BEFORE.finditer(text):
        word = text[max(0, match.start() - _WORD_CHARS) : match.start()].split()[-1]
        # Also the end of a longer word: "anti-TNF (tumour necrosis factor)".
        explained |= {word[one.start() :].rstrip("s") for one in _START.finditer(word)}
    return [match for match in abbreviations(text) if match[0].rstrip("s") not in explained]


def unexplained(text: str) -> list[str]:
    """The abbreviations of a summary that it does not explain, each once.

    >>> unexplained("Deep vein thrombosis (DVT) was rare. DVT and PE differed.")
    ['PE']
    """
    return list(dict.fromkeys(match[0] for match in unexplained_uses(text)))
