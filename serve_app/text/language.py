"""The language of a text, and the check that it is English: the five metrics are for English only.

A small offline model (py3langid: Naive Bayes over byte n-grams, 97 languages) decides. It does not
guess: a short or mixed text, a heading, a list of names or a table has no language. Knows no
metric; deterministic, and a long text costs no more than a page of it.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from functools import cache
from typing import Any

from serve_app.core.errors import InvalidInput
from serve_app.core.settings import LanguageCheck

_SAMPLES, _SAMPLE_CHARS = 12, 250  # read at most, evenly spread over the text
_CONFIDENCE = 0.5  # of the samples on average; docs/metrics.md has what it finds
_MIXED = 0.25  # least share of samples in English, and in others, that makes a text mixed
_MIN_WORDS = 6  # different ones, in Latin script
_MIN_LETTERS = 10  # in other scripts, of which some have no spaces
_FUNCTION_WORDS = 0.1  # least share of short words, which sentences have and lists do not
_UNLIKELY = ("la", "pcm")  # said of lists of Latin names, and of fragments of English

_SYMBOL = re.compile(r"[\d/@_=<>]")  # in numbers, units, addresses and markup
_EDGES = re.compile(r"^\W+|\W+$")
_SHORT_WORD = re.compile(r"(?=.{0,3}[aeiouyàáâãäåæèéêëěęìíîïıòóôõöøùúûüý])[^\W\d_A-Z]{1,4}")
_LATIN_END = "\u024f"


def language_of(text: str) -> str | None:
    """ISO 639 code of the text's language; None where it is short, mixed or uncertain.

    >>> language_of("Aspirin makes a heart attack less likely, but bleeding more likely.")
    'en'
    >>> language_of("La aspirina redujo el riesgo de infarto, pero aumentó las hemorragias.")
    'es'
    >>> language_of("Aspirin, metformin, simvastatin, ramipril, bisoprolol, furosemide")
    """
    samples = _samples(text)
    if not _is_prose([word for words in samples for word in words]):
        return None
    found = [_model().classify(" ".join(words)) for words in samples]
    english = sum(code == "en" for code, _ in found) / len(found)
    if _MIXED <= english <= 1 - _MIXED:
        return None
    codes = Counter(code for code, _ in found if (code == "en") == (english > _MIXED))
    code, count = codes.most_common(1)[0]
    sure = sum(confidence for one, confidence in found if one == code) / count
    return code if sure >= _CONFIDENCE and code not in _UNLIKELY else None


def other_language(text: str) -> str | None:
    """The text's language where it certainly is not English; else None."""
    found = language_of(text)
    return None if found == "en" else found


def check_languages(
    texts: Sequence[str], field: str, check: LanguageCheck = "warn"
) -> list[str | None]:
    """The language of each text; all None where `check` is `off`.

    Raises:
        InvalidInput: `check` is `refuse` and a text certainly is not English; the error names it,
            as `FIELD[2]`, with code `not_english`.
    """
    if check == "off":
        return [None] * len(texts)
    found = [language_of(text) for text in texts]
    for index, language in enumerate(found):
        if check == "refuse" and language not in (None, "en"):
            raise InvalidInput(
                f"the text is not English (ISO 639 code of its language: {language}), and the "
                "metrics are for English only; translate it, or set LANGUAGE_CHECK=warn to score "
                "it anyway",
                field=f"{field}[{index}]",
                code="not_english",
            )
    return found


@cache
def _model() -> Any:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier  # takes a moment to load

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)


def _samples(text: str) -> list[list[str]]:
    """The words of each sample, without numbers, units, addresses and markup."""
    count = min(_SAMPLES, -(-len(text) // _SAMPLE_CHARS))
    starts = [at * len(text) // count for at in range(count)]
    size = min(_SAMPLE_CHARS, -(-len(text) // max(count, 1)))
    samples = [text[start : start + size].split() for start in starts]
    if count > 1:  # without the words that are cut, unless there are no spaces at all
        samples = [tokens[1:-1] or tokens for tokens in samples]
    return [words for tokens in samples if (words := list(filter(None, map(_word, tokens))))]


def _word(token: str) -> str:
    return "" if token.isascii() and _SYMBOL.search(token) else _EDGES.sub("", token)


def _is_prose(words: list[str]) -> bool:
    """Whether there are enough words, and enough of the short ones that sentences need."""
    letters = [letter for word in words for letter in word if letter.isalpha()]
    if sum(letter <= _LATIN_END for letter in letters) < len(letters) / 2:
        return len(letters) >= _MIN_LETTERS
    short = sum(_SHORT_WORD.fullmatch(word) is not None for word in words)
    return len(set(words)) >= _MIN_WORDS and short >= _FUNCTION_WORDS * len(words)
