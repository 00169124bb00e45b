"""Names of drugs, conditions and groups of people in a text, by the glossary and by their form.

Knows word endings of drug classes (WHO's stems for international names) and of conditions, and who
takes part in studies. Knows nothing of the other text.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from serve_app.evidence.words import Word, listed, stem, words_of

_DRUG = re.compile(
    r"(?:mab|nib|pril|sartan|statin|cillin|mycin|micin|floxacin|azole|vir|olol|dipine|prazole|tidine|"
    r"gliptin|gliflozin|glitazone|parin|xaban|setron|triptan|oxetine|azepam|azolam|barbital|caine|"
    r"curium|fibrate|glutide|lukast|profen|coxib|sone|solone|terol|tropium|thiazide|zosin|cycline|"
    r"platin|rubicin|taxel|tinib|zumab|ximab|umab|afil|dronate|phylline|formin|amide|idone|apine|"
    r"pramine|triptyline|bactam|penem|quine|quin|fungin|kinra|cept|stim|poetin|relin|gestrel)$"
)
_NOT_DRUGS = frozenset(listed("person reason season comparison poison prison amide survir"))
_CONDITION = re.compile(
    r"(?:itis|osis|oma|aemia|emia|pathy|plegia|algia|penia|uria|ectasis|trophy)$"
)
_NOT_CONDITIONS = frozenset(listed("diagnosis prognosis"))
_GROUPS = {
    stem(name): name
    for name in listed("women men children babies adolescents boys girls pregnancy elderly")
}


def named(text: str, start: int, end: int) -> Iterator[tuple[int, int, frozenset[str]]]:
    """The place of each name in `text[start:end]`, and stems of which the other text needs one."""
    for word in words_of(text, start, end):
        if _is_name(word):
            yield word.start, word.end, frozenset({word.stem})


def _is_name(word: Word) -> bool:
    lower = word.lower.removesuffix("s") if len(word.text) > 5 else word.lower
    if word.stem in _GROUPS:
        return True
    if len(lower) < 6 or lower in _NOT_DRUGS or word.lower in _NOT_CONDITIONS:
        return False
    return _DRUG.search(lower) is not None or _CONDITION.search(lower) is not None
