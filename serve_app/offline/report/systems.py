"""The systems of a report, and which rows of two of them are about the same text.

A system holds the numbers of all its rows (some hundred bytes a row) and can fetch the texts of a
few. Knows no file format and no statistics.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from serve_app.core.errors import InvalidInput
from serve_app.offline.report.statistics import Floats

Integers = NDArray[np.int64]

ID_COLUMNS = ("id", "doc_id", "document_id", "pair_id", "example_id")
SAME_ORIGINAL = "the same original text"
"""Stands for a column where no column identifies rows."""

TRUNCATIONS = ("relevance_original", "relevance_generated", "factuality")
"""Which part of a text a model did not read, as `/evaluate` names it."""


@dataclass(frozen=True)
class ScoredSentence:
    """A sentence of a summary, its factuality, and the passage that supports it best."""

    text: str
    score: float
    support: str = ""


@dataclass(frozen=True)
class Texts:
    """The original and the summary of one row, and sentence-level factuality where the file has
    it."""

    original: str | None = None
    generated: str | None = None
    sentences: tuple[ScoredSentence, ...] | None = None


@dataclass(frozen=True)
class System:
    """The rows of one system, in the order of its file.

    Attributes:
        name: of the system, for people.
        file: the name of its file, without folders.
        sha256: of that file's bytes.
        numbers: which row of the file (from 0) each row is.
        values: (rows, 5) metrics in the order of `serve_app.metrics.loss.METRICS`; a row that
            could not be scored is all NaN.
        file_loss: (rows,) the loss the file says; NaN where it says none.
        keys: by column, what identifies each row; "" where a row has nothing there.
        failures: how many rows have no numbers, by reason.
        words: (rows, 2) words of the original and of the summary; NaN without a text.
        truncated: by `TRUNCATIONS`, (rows,) 1 or 0 as the file says, NaN where it does not.
        texts: the texts of rows, given by their position here.
        column: the column of its summaries, "" where there are no texts.
        by_plainmed: whether the file says that PlainMed scored it.
        found: by the names of `findings.COUNTED`, (rows,) counts of findings and omissions, NaN
            where a row has none; empty where nothing is known.
        found_by_rules: whether the rules counted them for the report; else the file says them.
        languages: summaries by language (ISO 639), as the file says, else of its first rows; None
            counts those that are undetermined.
    """

    name: str
    file: str
    sha256: str
    numbers: Integers
    values: Floats
    file_loss: Floats
    keys: Mapping[str, Sequence[str]]
    failures: Mapping[str, int]
    words: Floats
    truncated: Mapping[str, Floats]
    texts: Callable[[Sequence[int]], list[Texts]]
    column: str = ""
    by_plainmed: bool = False
    found: Mapping[str, Floats] = field(default_factory=dict)
    found_by_rules: bool = False
    languages: Mapping[str | None, int] = field(default_factory=dict)
    scored: NDArray[np.bool_] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "scored", np.isfinite(self.values).all(axis=1))

    @property
    def rows(self) -> int:
        """All rows, also those without numbers."""
        return len(self.values)

    @property
    def has_texts(self) -> bool:
        """Whether any row has both texts."""
        return bool(np.isfinite(self.words).all(axis=1).any())


@dataclass(frozen=True)
class Pairing:
    """The rows of two systems that are about the same thing.

    Attributes:
        column: what matches them.
        first: positions of the matched rows in the one system, all scored.
        second: positions of their partners in the other.
        unpaired: rows without a partner, in either system; every row of both systems is in a pair,
            or counted here or in one of the next two.
        failed: matches in which a row has no numbers.
        repeated: rows, in either system, whose key is there more than once: which of them to match
            would be a guess.
    """

    column: str
    first: Integers
    second: Integers
    unpaired: tuple[int, int]
    failed: int
    repeated: tuple[int, int]

    @property
    def count(self) -> int:
        """Pairs compared."""
        return len(self.first)


def choose_column(systems: Sequence[System], wanted: str | None = None) -> str | None:
    """The column that every system has, known names first; None where there is none.

    Raises:
        InvalidInput: `wanted` is in no row of a system.
    """
    if wanted is not None:
        for system in systems:
            if not any(system.keys.get(wanted, ())):
                raise InvalidInput(
                    f"{system.file}: no row of {system.name} has a value in {wanted}; name "
                    "another column with --id"
                )
        return wanted
    for column in (*ID_COLUMNS, SAME_ORIGINAL, *systems[0].keys):
        if all(any(system.keys.get(column, ())) for system in systems):
            return column
    return None


def pair(one: System, other: System, column: str) -> Pairing:
    """Matches the rows of two systems by their values in `column`."""
    (left, left_repeated), (right, right_repeated) = _unique(one, column), _unique(other, column)
    matched = [(at, right[key]) for key, at in left.items() if key in right]
    scored = [(a, b) for a, b in matched if one.scored[a] and other.scored[b]]
    return Pairing(
        column,
        np.array([a for a, _ in scored], dtype=np.int64),
        np.array([b for _, b in scored], dtype=np.int64),
        (
            one.rows - left_repeated - len(matched),
            other.rows - right_repeated - len(matched),
        ),
        len(matched) - len(scored),
        (left_repeated, right_repeated),
    )


def _unique(system: System, column: str) -> tuple[dict[str, int], int]:
    """The row of each key that is there once, and how many rows have other keys."""
    keys = system.keys[column]
    counts = Counter(key for key in keys if key)
    unique = {key: at for at, key in enumerate(keys) if counts[key] == 1}
    return unique, counts.total() - len(unique)
