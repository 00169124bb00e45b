"""Names of drugs, conditions and groups of people in a text, by the glossary and by their form.

Knows word endings of drug classes (WHO's stems for international names) and of conditions, and who
takes part in studies. Knows nothing of the other text.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Literal

from serve_app.evidence.words import listed, stem, words_of

_DRUG = re.compile(
    r"(?:mab|nib|pril|sartan|statin|cillin|mycin|micin|floxacin|azole|vir|olol|dipine|prazole|tidine|"
    r"gliptin|gliflozin|glitazone|parin|xaban|setron|triptan|oxetine|azepam|azolam|barbital|caine|"
    r"curium|fibrate|glutide|lukast|profen|coxib|sone|solone|terol|tropium|thiazide|zosin|cycline|"
    r"platin|rubicin|taxel|tinib|zumab|ximab|umab|afil|dronate|phylline|formin|amide|idone|apine|"
    r"pramine|triptyline|bactam|penem|quine|quin|fungin|kinra|cept|stim|poetin|relin|gestrel)$"
)
_NOT_DRUGS = frozenset(
    listed("""
person reason season comparison poison prison amide survir except accept concept intercept precept
mannequin harlequin
""")
)
_CONDITION = re.compile(
    r"(?:itis|osis|oma|aemia|emia|pathy|plegia|algia|penia|uria|ectasis|trophy)$"
)
_NOT_CONDITIONS = frozenset(
    listed("""
diagnosis prognosis trophy sympathy empathy apathy telepathy homeopathy diploma nostalgia academia
""")
)
_GROUPS = {
    stem(name): name
    for name in listed("women men children babies adolescents boys girls pregnancy elderly")
}


NameKind = Literal["drug", "condition", "group"]


def named(text: str, start: int, end: int) -> Iterator[tuple[int, int, frozenset[str]]]:
    """The place of each name in `text[start:end]`, and stems of which the other text needs one."""
    for word in words_of(text, start, end):
        if kind_of(word.text) is not None:
            yield word.start, word.end, frozenset({word.stem})


def kind_of(word: str) -> NameKind | None:
    """What a word names, by its form; None: neither a drug, a condition nor a group of people.

    >>> kind_of("Aspirin"), kind_of("metformin"), kind_of("arthritis"), kind_of("women")
    (None, 'drug', 'condition', 'group')
    """
    lower = word.lower()
    if stem(word) in _GROUPS:
        return "group"
    forms = {lower, lower.removesuffix("s")}
    if len(lower.removesuffix("s")) < 6 or forms & (_NOT_DRUGS | _NOT_CONDITIONS):
        return None
    if any(map(_DRUG.search, forms)):
        return "drug"
    return "condition" if any(map(_CONDITION.search, forms)) else None
