"""Rule `statistics`: bracketed statistics are left out, or said plainly where the sentence has
counts.

Shares are computed from the counts of events and people of both arms, or copied; never from a
ratio. A sentence that says nothing without its statistics is dropped. Rule `significance` beside it
says what "statistically significant" means. Knows how abstracts write numbers; knows nothing of
certainty.
"""

from __future__ import annotations

import re

from serve_app.generation.plain.facts import Facts
from serve_app.generation.plain.grammar import has_verb, tidied
from serve_app.text.jargon import LONG_NAMES, SHORT_NAMES, STATISTIC

_NUMBER = r"[-−–+]?\s?\d[\d,]*(?:[.·]\d+)?\s?%?"
_BRACKET = re.compile(r"\(((?:[^()\[\]]|\([^()]*\))*)\)|\[((?:[^()\[\]]|\([^()]*\))*)\]")
_ITEM = re.compile(
    r";\s*|,\s+(?=\D|\d[\d,]*\s?[A-Za-z]|\d+\s?/|\d+(?:[.]\d+)?%? (?:vs|versus))|,(?=[A-Za-z])"
)
_COUNTED = (
    r"(?:RCTs?|CCTs?|trials?|stud(?:y|ies)|participants?|patients?|people|persons?|individuals?|"
    r"subjects?|women|men|"
    r"children|infants?|babies|neonates|newborns|adults|mothers|pregnancies|births|eyes|limbs|"
    r"comparisons?|cohorts?|"
    r"reports?|arms?|groups?|adolescents|students|pairs|volunteers|workers|nurses|users|"
    r"procedures|cycles|girls|boys)"
)
_NUMERAL = (
    r"(?:\d[\d,\s]*|one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|single|a|both|"
    r"all|total)"
)
_SIZE = re.compile(
    rf"(?:in |from |of |with |involving |data from |based on |N ?=? ?|n ?=? "
    rf"?)?{_NUMERAL}\s(?:[\w-]+\s){{0,3}}?{_COUNTED}"
    rf"(?: (?:each|only|in total|analy[sz]ed))?|[nN]\s?=\s?\d[\d,\s]*(?:\s\w+)?|{_COUNTED} ?= "
    rf"?\w[\d,]*(?:\s\w+)?"
    rf"|(?:{_NUMERAL}\s)?(?:\w+\s)?{_COUNTED}[,:]? ?\d*|"
    rf"{_NUMERAL}\s(?:[\w-]+\s){{0,2}}?{_COUNTED}\b(?:[^;]{{0,40}})",
    re.I,
)
_AFTER_COUNTED = re.compile(rf"\b{_COUNTED}\s?$", re.I)
_INTERVAL = re.compile(
    rf"(?:from )?{_NUMBER}\s(?:fewer|more|less|lower|higher) to {_NUMBER}\s(?:fewer|more|less|"
    rf"lower|higher)|"
    rf"(?:from )?{_NUMBER}\s?(?:to|-|–|,|;|and)\s?{_NUMBER}|"
    rf"[-−–+±]?\s?\d[\d.,·]*(?:\s?±\s?\d[\d.,·]*)?"
    rf"|[\d\s.,;:%=<>≤≥±+/−–-]*"
)
_COUNT = r"(\d[\d,]*)\s?(?:/|of|out of)\s?(\d[\d,]*)(?:\s?\(?[=:]?\s?\d[\d.]*\s?%\)?)?"
_BOTH_COUNTS = re.compile(
    rf"{_COUNT}(?: [\w-]+(?: [\w-]+)?)?\s?(?:,\s)?(?:versus|vs\.?|compared (?:with|to)|against|"
    rf"and)\s{_COUNT}(?: [\w-]+){{0,4}}",
    re.I,
)
_ONE_COUNT = re.compile(rf"{_COUNT}(?: [\w-]+){{0,4}}", re.I)
_OF = re.compile(
    r"(?<![\d/])(\d+)\s?/\s?(\d+)(?=(?: \(\d| (?:women|men|people|patients|participants|children|"
    r"infants|babies|of the|in the)\b))"
)
_PER = re.compile(r"(\d[\d,]*)\s?/\s?(1,?000|100)\b")
_INTRODUCED = re.compile(
    rf"(?:[,;:]\s*(?:with\s|giving\s|yielding\s|and\s)?|\s(?:with|giving|yielding)\s)(?:an?\s|"
    rf"the\s)?"
    rf"(?:(?:pooled|typical|adjusted|unadjusted|average|summary|overall|Peto|crude|estimated|mean|"
    rf"corresponding)\s)*"
    rf"(?:95\s?%\s?)?(?:{SHORT_NAMES}|{LONG_NAMES}|[Pp])(?:\s\(\w+\))?"
    rf"\s?(?:=|<|>|≤|≥|:|of|was|were|is)?\s?(?:-|–|−)?\s?{_NUMBER}(?:\s?(?:to|-|–|,)\s?{_NUMBER})?"
    rf"(?:[,;]?\s(?:and\s)?(?:a\s)?(?:95\s?%\s?)?(?:{SHORT_NAMES}|{LONG_NAMES})\s?(?:=|<|>|:|"
    rf"of)?\s?(?:from\s)?{_NUMBER}"
    rf"(?:\s?(?:to|-|–|,|and)\s?{_NUMBER})?)*(?=\s?(?:[.,;)](?!\d)|$))"
)


# "Remission: 0.84 (95% CI 0.75 to 0.95)": without its name and unit the number says nothing.
_BARE_ESTIMATE = re.compile(
    r"(?<![\w.])[-−–]?\d+\.\d+\s?[,;(\[]\s?(?:\(?9\d\s?%\s?)?(?:CI|CrI|confidence interval)"
)
_SIGNS = (
    (re.compile(r"(?<=[a-z] )(?:≥|>=|=>) ?(?=\d)"), "at least "),
    (re.compile(r"(?<=[a-z] )(?:≤|<=|=<) ?(?=\d)"), "at most "),
    (re.compile(r"(?<=[a-z] )> ?(?=\d)"), "more than "),
    (re.compile(r"(?<=[a-z] )< ?(?=\d)"), "less than "),
)


def plain_statistics(sentence: str, facts: Facts) -> str | None:
    """The sentence without statistics, or None where nothing would be left to say.

    >>> facts = Facts("")
    >>> plain_statistics("Pain was less (RR 0.71, 95% CI 0.60 to 0.85; 3 trials).", facts)
    'Pain was less.'
    >>> plain_statistics("Fewer died (12/200 versus 24/198; RR 0.49).", facts)
    'Fewer died (about 6 in every 100 versus about 12 in every 100).'
    >>> plain_statistics("The pooled OR was 2.3 (95% CI 1.2 to 4.4).", facts) is None
    True
    """
    if any(
        sentence.count("(", 0, found.start()) == sentence.count(")", 0, found.start())
        for found in _BARE_ESTIMATE.finditer(sentence)
    ):
        return None
    text = _without_brackets(sentence)
    for sign, words in _SIGNS:
        text = sign.sub(words, text)
    text = _PER.sub(r"\1 in every \2", text)
    if STATISTIC.search(text) is not None:
        text = tidied(_INTRODUCED.sub("", text))
    text = _OF.sub(r"\1 of \2", text)
    if text != sentence and not _still_says(sentence, text):
        return None
    return None if STATISTIC.search(text) is not None else text


def _still_says(before: str, after: str) -> bool:
    """Whether a sentence kept its verb and most of its words."""
    kept, all_words = (
        len(re.findall(r"[^\W\d_]{3,}", after)),
        len(re.findall(r"[^\W\d_]{3,}", before)),
    )
    return kept >= 3 and (has_verb(after) or not has_verb(before)) and 3 * kept >= all_words


def _without_brackets(sentence: str) -> str:
    out, last = [], 0
    for match in _BRACKET.finditer(sentence):
        inside = match[1] if match[1] is not None else match[2]
        counted = _AFTER_COUNTED.search(sentence[: match.start()]) is not None
        said = _said(inside, match[0][0], counted)
        if said != match[0]:
            out += [sentence[last : match.start()], said]
            last = match.end()
    if not out:
        return sentence
    return tidied("".join([*out, sentence[last:]]))


def _said(inside: str, opening: str, counted: bool) -> str:
    """What stays of a bracket, with its brackets; empty where nothing does.

    How many studies and people stay behind a word for studies or people (`counted`).
    """
    closing = ")" if opening == "(" else "]"
    whole = f"{opening}{inside}{closing}"
    if counts := _counts(inside):
        sure = re.search(
            r"\b(?:very )?(?:low|moderate|high)[\s-](?:certainty|quality)(?: of)?(?: evidence)?",
            inside,
        )
        return f"({counts})" + (f" ({sure[0]})" if sure else "")
    items = [item.strip() for item in _ITEM.split(inside) if item and item.strip()]
    if not items:
        return ""
    if all(_SIZE.fullmatch(item) for item in items):
        return "" if not counted or re.search(r"=|\bn\b", inside) else whole
    kept = [item for item in items if not _is_statistic(item)]
    if len(kept) == len(items):
        return whole
    said = "; ".join(kept)
    words = re.findall(r"[^\W\d_]{3,}", said)
    return f"({said})" if words or re.fullmatch(r"\d[\d.]*\s?%", said) else ""


def _is_statistic(item: str) -> bool:
    bare = item.strip(" .")
    return (
        STATISTIC.search(bare) is not None
        or _SIZE.fullmatch(bare) is not None
        or (_INTERVAL.fullmatch(bare) is not None and re.fullmatch(r"\d[\d.]*\s?%", bare) is None)
        or re.fullmatch(r"(?:Z|z|t|r|d|g|F|Q|B|β|kappa)\s?=\s?.*", bare) is not None
        or re.search(r"[=<>≤≥]", bare) is not None
        or re.fullmatch(r"[\d,./\s]*/[\d\s]*(?:versus|vs\.?|and|compared with)[\d,./\s]*", bare)
        is not None
    )


def _counts(inside: str) -> str | None:
    """Counts of both arms as "about … in every 100", from the numbers that stand here."""
    both = _BOTH_COUNTS.search(inside)
    if both is None:
        return None
    values = [int(both[group].replace(",", "")) for group in range(1, 5)]
    (events, people), (other_events, other_people) = values[:2], values[2:]
    if (
        not (0 <= events <= people and 0 <= other_events <= other_people)
        or min(people, other_people) == 0
    ):
        return None
    if min(people, other_people) < 100:
        return f"{events:,} of {people:,} versus {other_events:,} of {other_people:,}"
    # As many hundreds, or thousands where one in a hundred is not reached.
    base = 100 if all(100 * a >= b or a == 0 for a, b in (values[:2], values[2:])) else 1000
    shares = [round(base * a / b) for a, b in (values[:2], values[2:])]
    if shares[0] == shares[1] and events * other_people != other_events * people:
        return f"{events:,} of {people:,} versus {other_events:,} of {other_people:,}"
    first, second = (
        f"about {share} in every {base:,}" if count else f"none of {whole:,}"
        for share, count, whole in (
            (shares[0], events, people),
            (shares[1], other_events, other_people),
        )
    )
    return f"{first} versus {second}"


_NO = r"(no|any|nor|without(?: any)?|not (?:find|show|report|reveal|detect|demonstrate)(?: an?y?)?)"
_PLAINER: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(pattern, re.I), said)
    for pattern, said in (
        # Not significant: chance can explain it.
        (r"\b(?:did|does|do) not (?:quite )?(?:reach|achieve|attain) (?:statistical "
         r")?significance", "could be due to chance"),
        (r"\b(?:was|were|is|are) not (?:statistically )?significant\b(?=[,.;):]| (?:for|in|at|and|"
         r"but))",
         "could be due to chance"),
        (r"\bno significantly (?=\w)", "no clearly "),
        (rf"\b{_NO} (?:statistically )?significant (?=\w)", r"\1 clear "),
        (r"\b(not|nor) (?:statistically )?significantly (?=\w)", r"\1 clearly "),
        (r"\b(?:not|non-?) ?(?:reach )?(?:statistically )?significan(?:t|ce)\b(?! (?:differen|"
         r"effect|\w+ion))(?=[,.;)]| (?:for|in|at|and|but))",
         "not clear enough to rule out chance"),
        (r"\bnon-?significant (?=\w)", "unclear "),
        # Significant: chance hardly explains it.
        (r"\b(was|were|is|are) (?:statistically "
         r")?significant\b(?=[.;)])", r"\1 unlikely to be due to chance"),
        (r"\bstatistically significantly ", "clearly "),
        (r"\bstatistically significant\b(?=[,.;)]| (?:but|and|in|for|at|when|after|with|only|or|"
         r"on|by|as)\b)",
         "unlikely to be due to chance"),
        (r"\b(a|an) statistically significant (?=[a-z])", "a clear "),
        (r"\bstatistically significant (?=[a-z])", "clear "),
        (r"\b(?:clearly|significantly) (?=(?:more|less|fewer|higher|lower|greater|better|worse|"
         r"longer|shorter|larger|"
         r"smaller|reduced?s?|increased?s?|improved?s?|decreased?s?|lowered|prolonged|"
         r"shortened)\b)", ""),
    )
)  # fmt: skip


def plain_significance(sentence: str, facts: Facts) -> str:
    """ "Significant" in the statistician's sense, in words that say what it means.

    >>> plain_significance("There was no statistically significant difference in pain.", Facts(""))
    'There was no clear difference in pain.'
    >>> plain_significance("Deaths were significantly lower with the drug.", Facts(""))
    'Deaths were lower with the drug.'
    """
    for pattern, said in _PLAINER:
        sentence = pattern.sub(said, sentence)
    return tidied(re.sub(r"\ba (unclear)\b", r"an \1", sentence))
