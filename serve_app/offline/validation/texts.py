"""Reads the texts to validate with: random rows of a table, read as `plainmed score` reads it.

Knows columns and rows; nothing of what is measured.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np

from serve_app.core.errors import InvalidInput
from serve_app.offline.corpus.job import language_notes
from serve_app.offline.corpus.reader import (
    GENERATED_COLUMNS,
    ORIGINAL_COLUMNS,
    Corpus,
    read_all,
    read_rows,
    scan,
)
from serve_app.offline.corpus.text_rows import Row
from serve_app.text.validation import require_text

SPLIT = "split"
RATED_COLUMNS = (*GENERATED_COLUMNS, "text")
RATING_COLUMNS = ("rating", "score", "human_rating", "human_score", "easiness")
_ROWS_AT_ONCE = 256


@dataclass(frozen=True)
class Texts:
    """Rows of a file, in its order.

    Attributes:
        name, sha256: of the file.
        columns: its columns of originals (if it has them), summaries and ratings.
        rows: how many the file has; `left_out` of those asked for hold no text or no number.
        numbers: the rows chosen, from 1.
        originals: one a row, or none at all.
        summaries: one a row.
        ratings: one a row, or none at all.
    """

    name: str
    sha256: str
    columns: Mapping[str, str]
    rows: int
    left_out: int
    numbers: Sequence[int]
    originals: Sequence[str]
    summaries: Sequence[str]
    ratings: Sequence[float] = ()
    notes: tuple[str, ...] = ()


def read_summaries(
    path: str | Path,
    *,
    original: str | None = None,
    generated: str | None = None,
    split: str | None = None,
    limit: int | None = None,
    seed: int = 0,
    language_check: bool = True,
) -> Texts:
    """Originals and summaries of `limit` random rows (None: of all), the same for the same seed.

    Raises:
        InvalidInput: the file cannot be read, a column is missing or several could be meant, no
            row has both texts, or, with `language_check`, most are not English.
    """
    corpus = scan(path)
    columns = {
        "original": corpus.column(original, ORIGINAL_COLUMNS, "--original-column"),
        "generated": corpus.column(generated, GENERATED_COLUMNS, "--generated-column"),
    }
    return _read(corpus, columns, split, limit, seed, language_check)


def read_rated(
    path: str | Path,
    *,
    original: str | None = None,
    generated: str | None = None,
    rating: str | None = None,
    split: str | None = None,
    limit: int | None = None,
    seed: int = 0,
    language_check: bool = True,
) -> Texts:
    """Texts with a human rating each, and their originals where the file has them.

    `limit` is of files with originals: without them no model is needed.

    Raises:
        InvalidInput: as `read_summaries`; or fewer than three rows have a text and a number.
    """
    corpus = scan(path)
    columns = {
        "generated": corpus.column(generated, RATED_COLUMNS, "--generated-column"),
        "rating": corpus.column(rating, RATING_COLUMNS, "--rating-column"),
    }
    if original is not None or corpus.candidates(ORIGINAL_COLUMNS):
        columns["original"] = corpus.column(original, ORIGINAL_COLUMNS, "--original-column")
    most = limit if "original" in columns else None
    found = _read(corpus, columns, split, most, seed, language_check)
    if len(found.numbers) < 3:
        raise InvalidInput(
            f"{found.name}: a correlation needs at least 3 rows with a text and a number in "
            f"{columns['rating']!r}; there are {len(found.numbers)}"
        )
    return found


def _read(
    corpus: Corpus,
    columns: Mapping[str, str],
    split: str | None,
    limit: int | None,
    seed: int,
    language_check: bool,
) -> Texts:
    name = corpus.source.name
    if split is not None and SPLIT not in corpus.source.columns:
        raise InvalidInput(f"{name} has no column {SPLIT}; leave --split out")
    read = [column for what, column in columns.items() if what != "rating"]
    notes = language_notes(corpus, read) if language_check else ()
    usable: list[int] = []
    asked = number = 0
    for rows in read_all(corpus, corpus.blocks(_ROWS_AT_ONCE)):
        for row in rows:
            if split is None or str(row.get(SPLIT, "")).strip() == split:
                asked += 1
                if _usable(row, columns):
                    usable.append(number)
            number += 1
    if not usable:
        where = f" where {SPLIT} is {split!r}" if split is not None else ""
        raise InvalidInput(
            f"{name}: no row{where} has what is needed in {', '.join(map(repr, columns.values()))}"
        )
    chosen = usable
    if limit is not None and limit < len(usable):
        picks = np.random.default_rng(seed).choice(len(usable), limit, replace=False)
        chosen = [usable[at] for at in sorted(picks.tolist())]
    kept = [
        row
        for block in corpus.blocks(_ROWS_AT_ONCE, chosen)
        for row in read_rows(corpus.source, block)
    ]

    def cells(what: str) -> list[Any]:
        return [row[columns[what]] for row in kept] if what in columns else []

    return Texts(
        name=name,
        sha256=corpus.sha256,
        columns=columns,
        rows=corpus.rows,
        left_out=asked - len(usable),
        numbers=[at + 1 for at in chosen],
        originals=cells("original"),
        summaries=cells("generated"),
        ratings=[_number(cell) for cell in cells("rating")],
        notes=(*corpus.notes, *notes),
    )


def _usable(row: Row, columns: Mapping[str, str]) -> bool:
    for what, column in columns.items():
        value = row.get(column)
        if what == "rating":
            if not math.isfinite(_number(value)):
                return False
        elif not isinstance(value, str):
            return False
        else:
            try:
                require_text(value, column)
            except InvalidInput:
                return False
    return True


def _number(value: Any) -> float:
    """The cell as a number; NaN where it is none."""
    if isinstance(value, bool) or not isinstance(value, int | float | Decimal | str):
        return math.nan
    try:
        return float(value)
    except ValueError:
        return math.nan
