"""Difficulty of a text to a reader: one estimate from words, sentences and medical terms.

A weighted sum of seven features. The packaged one weighs them alike, since a sum of standardised
predictors of known sign is hard to beat (Dawes, "The robust beauty of improper linear models in
decision making", American Psychologist 34, 1979); its scale is that of Cochrane's abstracts and
plain-language summaries. `scripts/fit_difficulty.py` makes that one, and fits others on ratings. It
stands beside the five metrics: no loss or target knows it.

A distinct word counts once in every hundred, so that a longer text is not harder for its length.
How rare a word is, is its place in the embedded encoder's vocabulary, which is in the order of
frequency in books and Wikipedia (Devlin et al., 2019; Apache-2.0). Reads files; runs no model.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from serve_app.core.documents import read_text
from serve_app.core.errors import ConfigError, InvalidInput
from serve_app.core.resources import RESOURCES
from serve_app.metrics.readability import ReadabilityCounts
from serve_app.storage.artifacts import embedded_path
from serve_app.text.edits.lexicon import PREPOSITIONS, STOPWORDS
from serve_app.text.glossary import Glossary
from serve_app.text.sentences import sentence_spans
from serve_app.text.validation import require_text

FEATURES = (
    "rarity",
    "unlisted",
    "syllables",
    "nominals",
    "prepositions",
    "sentence_length",
    "jargon",
)
"""Mean log rank of the content words; share of them that the vocabulary lacks; syllables a word;
share of nouns made of verbs and adjectives, by their ending; share of prepositions; half the log of
the mean squared words of a sentence; share of words in terms of the glossary. The first four are of
distinct words."""

MODEL = RESOURCES / "readability" / "difficulty.json"
WINDOW = 100  # running words, of which each distinct one counts once

_WORD = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)?")
_NOMINAL = re.compile(r"(?:[ts]ion|ment|ness|ity|itie|ance|ence|ancy|ency|ism)s?$")
_PREPOSITIONS = {*PREPOSITIONS, "of", "to", "as", "upon", "toward", "towards"}


class _Word(NamedTuple):
    log_rank: float
    listed: bool
    content: bool
    syllables: int
    nominal: bool


@dataclass(frozen=True)
class Difficulty:
    """A linear estimate.

    Attributes:
        intercept: its value where all features are zero.
        weights: of each of `FEATURES`, in its own units.
    """

    intercept: float
    weights: Mapping[str, float]

    @classmethod
    def load(cls, path: Path | None = None) -> Difficulty:
        """Reads a file of `scripts/fit_difficulty.py`; the packaged one by default.

        Raises:
            ConfigError: the file cannot be read, or lacks a number.
        """
        source = MODEL if path is None else path
        try:
            found = json.loads(read_text(source))
            numbers = [float(found["intercept"]), *(float(found[name]) for name in FEATURES)]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ConfigError(f"{source} is no difficulty model: {error!r}") from error
        if not all(map(math.isfinite, numbers)):
            raise ConfigError(f"{source} is no difficulty model: a number is not finite")
        return cls(numbers[0], dict(zip(FEATURES, numbers[1:], strict=True)))

    def __call__(self, text: str) -> float:
        """The difficulty of one text; higher is harder, without bounds.

        Of the packaged estimate, 0 is the mean of Cochrane's plain-language summaries and 1 that of
        its abstracts.

        Raises:
            InvalidInput: the text is empty or has no word.
        """
        values = features(text)
        return self.intercept + math.fsum(
            self.weights[name] * value for name, value in zip(FEATURES, values, strict=True)
        )


def features(text: str) -> NDArray[np.float64]:
    """The `FEATURES` of one English text.

    Raises:
        InvalidInput: the text is empty or has no word.
    """
    require_text(text, "texts")
    words = [found[0].lower().replace("’", "'").partition("'")[0] for found in _WORD.finditer(text)]
    if not words:
        raise InvalidInput("the text has no word", field="texts", code="no_words")
    last = max(0, len(words) - WINDOW)
    parts = [words[at : at + WINDOW] for at in (*range(0, last, WINDOW), last)]
    lengths = [len(_WORD.findall(text, *span)) for span in sentence_spans(text)]
    squares = [length**2 for length in lengths if length]
    terms = sum(len(_WORD.findall(one.term)) for one in _glossary().find(text))
    return np.array(
        [
            *np.mean([_of_words(part) for part in parts], axis=0),
            math.log(math.fsum(squares) / len(squares)) / 2,
            terms / len(words),
        ]
    )


def _of_words(words: Sequence[str]) -> list[float]:
    """The features of running words: all but the last two."""
    known = [_known(word) for word in dict.fromkeys(words)]
    content = [word for word in known if word.content] or known
    return [
        math.fsum(word.log_rank for word in content) / len(content),
        sum(not word.listed for word in content) / len(content),
        sum(word.syllables for word in known) / len(known),
        sum(word.nominal for word in known) / len(known),
        sum(word in _PREPOSITIONS for word in words) / len(words),
    ]


@lru_cache(maxsize=65536)
def _known(word: str) -> _Word:
    ranks = _ranks()
    rank = ranks.get(word)
    return _Word(
        log_rank=math.log(rank or len(ranks)),
        listed=rank is not None,
        content=word not in STOPWORDS,
        syllables=ReadabilityCounts.of(word).syllables,
        nominal=len(word) > 5 and _NOMINAL.search(word) is not None,
    )


@cache
def _ranks() -> dict[str, int]:
    """The rank, from 1, of each whole English word of the vocabulary."""
    path = embedded_path("all-MiniLM-L6-v2") / "tokenizer.json"
    vocabulary = json.loads(read_text(path))["model"]["vocab"]
    words = sorted(
        (word for word in vocabulary if word.isascii() and word.isalpha()), key=vocabulary.get
    )
    words = [word for word in words if len(word) > 1 or word in ("a", "i")]
    return {word: rank for rank, word in enumerate(words, start=1)}


@cache
def _glossary() -> Glossary:
    return Glossary.load()
