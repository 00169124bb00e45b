"""Reads the pairs of a calibration corpus: originals and human summaries. Measures nothing."""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from serve_app.core.errors import ConfigError, InvalidInput
from serve_app.offline.corpus.reader import Corpus, Row, scan
from serve_app.text.validation import require_text

SOURCE, TARGET, SPLIT = "source_text", "target_text", "split"

Item = TypeVar("Item")
Rows = NDArray[np.int64]

_ALL_ROWS = "use split=None (--all-rows) for all rows"
_DIGEST = 8  # bytes kept of each pair's hash; a changed pair is missed once in 2**64


@dataclass(frozen=True, slots=True)
class Pair:
    """A medical original and its human summary; `row` counts data rows from 1."""

    row: int
    source: str
    target: str


@dataclass(frozen=True)
class Selection:
    """The pairs to measure.

    Attributes:
        corpus: the file, read once.
        rows: which of its rows (from 0), ascending.
        fingerprint: of the texts in them. Two files with the same pairs have the same, whatever
            their format, other columns or the order of their rows.
    """

    corpus: Corpus
    rows: Rows
    fingerprint: str


def select(path: str | Path, split: str | None, subset: float, seed: int) -> Selection:
    """Reads the file once and chooses its pairs.

    Raises:
        ConfigError: see `read_pairs`; or there are fewer than two pairs.
    """
    used, digests = array("q"), array("Q")  # 16 bytes a row, until the end of this function

    def note(row: int, source: str, target: str) -> None:
        used.append(row)
        digests.append(_digest(source, target))

    corpus = _scan(path, split, note)
    chosen = chosen_indexes(len(used), subset, seed)
    kept = np.sort(np.frombuffer(digests, dtype=np.uint64)[chosen])
    fingerprint = hashlib.sha256(kept.astype("<u8").tobytes()).hexdigest()
    return Selection(corpus, np.frombuffer(used, dtype=np.int64)[chosen], f"sha256:{fingerprint}")


def _digest(source: str, target: str) -> int:
    found = hashlib.blake2b(digest_size=_DIGEST)
    for text in (source, target):
        content = text.encode("utf-8")
        # The length first, or words could move from one text to the other unnoticed.
        found.update(len(content).to_bytes(8, "little"))
        found.update(content)
    return int.from_bytes(found.digest(), "little")


def read_pairs(path: str | Path, split: str | None = "train") -> list[Pair]:
    """The pairs of a corpus whose `split` is as asked (None: all), held in memory.

    Raises:
        ConfigError: the file cannot be read, is malformed, or a used cell holds no text.
    """
    pairs: list[Pair] = []
    _scan(path, split, lambda row, source, target: pairs.append(Pair(row + 1, source, target)))
    return pairs


def choose(pairs: Sequence[Item], subset: float, seed: int) -> list[Item]:
    """A random share of the pairs, in their order; the same for the same seed.

    Raises:
        ConfigError: there are fewer than two, so there is no deviation.
    """
    return [pairs[index] for index in chosen_indexes(len(pairs), subset, seed).tolist()]


def chosen_indexes(count: int, subset: float, seed: int) -> Rows:
    """Which of `count` pairs `choose` takes, ascending; at least two.

    Raises:
        ConfigError: there are fewer than two.
    """
    if count < 2:
        raise ConfigError(f"a standard deviation needs at least 2 pairs; there is {count}")
    wanted = max(2, round(subset * count))
    drawn = np.random.default_rng(seed).choice(count, wanted, replace=False, shuffle=False)
    return np.sort(drawn).astype(np.int64)


def _scan(path: str | Path, split: str | None, on_pair: Callable[[int, str, str], None]) -> Corpus:
    """Reads the file once; `on_pair` gets the number (from 0) and texts of each row to use.

    Raises:
        ConfigError: see `read_pairs`.
    """
    columns = (SOURCE, TARGET) if split is None else (SOURCE, TARGET, SPLIT)
    used = 0
    incomplete: dict[str, int] = {}  # the first row without the column

    def check(number: int, row: Row) -> None:
        nonlocal used
        if split is not None and str(row.get(SPLIT, "")).strip() != split:
            return
        for column in (SOURCE, TARGET):
            if column not in row:
                # Whether any row has it is known at the end.
                incomplete.setdefault(column, number + 1)
                return
            value = row[column]
            try:
                if not isinstance(value, str):
                    raise InvalidInput(f"it holds no text but {type(value).__name__}")
                require_text(value, column)
            except InvalidInput as error:
                raise ConfigError(
                    f"{path}: column {column}, row {number + 1}: {error.message}"
                ) from None
        used += 1
        on_pair(number, row[SOURCE], row[TARGET])

    try:
        corpus = scan(path, check, default="csv")
    except InvalidInput as error:
        raise ConfigError(error.message) from error
    for column in columns:
        if column not in corpus.source.columns:
            hint = f"; {_ALL_ROWS}" if column == SPLIT else ""
            there = corpus.source.columns
            found = ", ".join(ascii(name)[1:-1][:60] for name in there[:20]) or "none: it is empty"
            raise ConfigError(f"{path} has no column {column} (its columns: {found}){hint}")
    for column, number in incomplete.items():
        raise ConfigError(f"{path}: column {column}, row {number}: the row does not have it")
    if not corpus.rows:
        raise ConfigError(f"{path} has a header but no rows")
    if not used:
        raise ConfigError(
            f"{path}: column {SPLIT} is {split!r} in none of its {corpus.rows} rows; {_ALL_ROWS}"
        )
    return corpus
