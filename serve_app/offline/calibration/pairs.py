"""Reads the pairs of a calibration corpus: originals and human summaries. Measures nothing."""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from serve_app.core.errors import ConfigError, InvalidInput
from serve_app.core.printable import printable
from serve_app.offline.corpus.reader import ORIGINAL_COLUMNS, Corpus, read_all, scan
from serve_app.offline.corpus.text_rows import shown
from serve_app.text.validation import require_text

SOURCE, TARGET, SPLIT = "source_text", "target_text", "split"
HUMAN_COLUMNS = (TARGET, "summary", "lay_summary", "plain_summary", "texts_human", "human")

Columns = tuple[str | None, str | None]
"""Of originals and of human summaries; None: the one with a usual name."""

_ROWS_AT_ONCE = 256
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
        corpus: their file, after its first reading.
        source, target: its columns of originals and of human summaries.
        rows: its rows (from 0) to measure, ascending.
        fingerprint: hash of the texts in them, independent of the file's format, of its other
            columns and of the order of its rows.
    """

    corpus: Corpus
    source: str
    target: str
    rows: Sequence[int]
    fingerprint: str


def select(
    path: str | Path,
    split: str | None,
    subset: float,
    seed: int,
    columns: Columns = (None, None),
) -> Selection:
    """Reads the corpus and draws the random `subset` of its pairs, the same for the same seed.

    Raises:
        ConfigError: see `read_pairs`; or there are fewer than two pairs.
    """
    used, digests = array("q"), array("Q")  # 16 bytes a row

    def note(row: int, source: str, target: str) -> None:
        used.append(row)
        digests.append(_digest(source, target))

    corpus, source, target = _scan(path, split, note, columns)
    count = len(used)
    if count < 2:
        raise ConfigError(f"a standard deviation needs at least 2 pairs; there is {count}")
    wanted = max(2, round(subset * count))
    drawn = np.random.default_rng(seed).choice(count, wanted, replace=False, shuffle=False)
    chosen = np.sort(drawn)
    kept = np.sort(np.frombuffer(digests, dtype=np.uint64)[chosen])
    fingerprint = hashlib.sha256(kept.astype("<u8").tobytes()).hexdigest()
    rows = array("q", np.frombuffer(used, dtype=np.int64)[chosen].tobytes())
    return Selection(corpus, source, target, rows, f"sha256:{fingerprint}")


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


def _scan(
    path: str | Path,
    split: str | None,
    on_pair: Callable[[int, str, str], None],
    columns: Columns = (None, None),
) -> tuple[Corpus, str, str]:
    """Reads the corpus; `on_pair` gets the number (from 0) and texts of each row to use.

    Returns:
        The corpus and its columns of originals and of human summaries.
    """
    try:
        corpus = scan(path, default="csv")
        source, target = _columns(corpus, columns, split)
        used = 0
        blocks = corpus.blocks(_ROWS_AT_ONCE)
        for number, row in enumerate(row for rows in read_all(corpus, blocks) for row in rows):
            if split is not None and str(row.get(SPLIT, "")).strip() != split:
                continue
            for column in (source, target):
                value = row.get(column)
                where = f"{path}: column {printable(column)}, row {number + 1}"
                if value is None:
                    raise ConfigError(f"{where}: the row does not have it")
                if not isinstance(value, str):
                    raise ConfigError(f"{where}: it holds no text but {type(value).__name__}")
                try:
                    require_text(value, column)
                except InvalidInput as error:
                    raise ConfigError(f"{where}: {error.message}") from None
            used += 1
            on_pair(number, row[source], row[target])
    except InvalidInput as error:
        raise ConfigError(error.message) from error
    if not corpus.rows:
        raise ConfigError(f"{path} has a header but no rows")
    if not used:
        raise ConfigError(
            f"{path}: column {SPLIT} is {split!r} in none of its {corpus.rows} rows; {_ALL_ROWS}"
        )
    return corpus, source, target


def _columns(corpus: Corpus, wanted: Columns, split: str | None) -> tuple[str, str]:
    """The columns of originals and of human summaries.

    Raises:
        ConfigError, InvalidInput: one is missing, or several could be meant.
    """
    there = corpus.source.columns

    def choose(name: str | None, usual: str, known: Sequence[str], option: str) -> str:
        name = usual if name is None and usual in there else name
        if name not in there and (name is not None or not corpus.candidates(known)):
            raise missing(name or usual, f"name another with {option}")
        return corpus.column(name, known, option)

    def missing(name: str, remedy: str) -> ConfigError:
        found = shown(there) or "none: it is empty"
        return ConfigError(
            f"{corpus.source.name} has no column {printable(name)} (its columns: {found}); {remedy}"
        )

    source = choose(wanted[0], SOURCE, ORIGINAL_COLUMNS, "--original-column")
    target = choose(wanted[1], TARGET, HUMAN_COLUMNS, "--human-column")
    if split is not None and SPLIT not in there:
        raise missing(SPLIT, _ALL_ROWS)
    return source, target
