"""Makes systems of files: what `plainmed score` writes, results of `/evaluate`, bare metrics.

Reads a file once from start to end and keeps numbers only; the texts of a few rows are read again
when they are asked for. Knows columns; knows no statistics.
"""

from __future__ import annotations

import hashlib
import json
import math
from array import array
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from serve_app.core.errors import InvalidInput
from serve_app.metrics.loss import METRICS
from serve_app.offline.corpus.job import GENERATED_COLUMNS, ORIGINAL_COLUMNS
from serve_app.offline.corpus.reader import Corpus, Row, read_rows, scan
from serve_app.offline.report.systems import TRUNCATIONS, ScoredSentence, System, Texts

ID_COLUMNS = ("id", "doc_id", "document_id", "pair_id", "example_id")
MODEL_COLUMNS = ("model", "system")
SAME_ORIGINAL = "the same original text"
"""The key of rows that no column identifies."""

MOST_SYSTEMS = 20  # in one file; more distinct values mean that the column names something else


@dataclass(frozen=True)
class Columns:
    """What the columns are called; None: the first known name that is there.

    Attributes:
        id: identifies a row in every file.
        model: names the system of a row.
        original: the text summarised.
        generated: its summary.
        prefix: stands before the names of the scores.
    """

    id: str | None = None
    model: str | None = None
    original: str | None = None
    generated: str | None = None
    prefix: str = ""


def read_systems(
    files: Sequence[str | Path],
    names: Sequence[str] = (),
    columns: Columns | None = None,
) -> list[System]:
    """The systems of the files, in order.

    Args:
        files: paths or `s3://BUCKET/KEY` of .csv, .jsonl or .parquet files.
        names: one for each file, which is then one system; none: the values of a column `model`,
            else the file's name.
        columns: their names.

    Raises:
        InvalidInput: a file cannot be read, lacks a metric, or has no row; or names do not fit.
    """
    if names and len(names) != len(files):
        raise InvalidInput(f"{len(names)} names for {len(files)} files; give --name once a file")
    wanted = columns or Columns()
    found: list[tuple[str, _File, _Rows]] = []
    for at, file in enumerate(files):
        read = _File(str(file), wanted, names[at] if names else None)
        found += [(name, read, rows) for name, rows in read.systems.items()]
    return [
        file.system(name, rows)
        for name, (_, file, rows) in zip(_distinct(found), found, strict=True)
    ]


def _distinct(found: Sequence[tuple[str, _File, Any]]) -> list[str]:
    """The systems' names; one that several files have is told apart by the files' names."""
    counts = Counter(name for name, _, _ in found)
    names = [name if counts[name] == 1 else f"{name} ({file.stem})" for name, file, _ in found]
    for name, count in Counter(names).items():
        if count > 1:
            raise InvalidInput(
                f"{count} systems would be called {name!r}; give --name for each file"
            )
    return names


@dataclass
class _Rows:
    """Numbers of the rows of one system, while they are read."""

    numbers: array[int] = field(default_factory=lambda: array("q"))
    values: array[float] = field(default_factory=lambda: array("d"))
    loss: array[float] = field(default_factory=lambda: array("d"))
    words: array[float] = field(default_factory=lambda: array("d"))
    truncated: array[float] = field(default_factory=lambda: array("d"))
    keys: dict[str, list[str]] = field(default_factory=dict)
    failures: Counter[str] = field(default_factory=Counter)

    def key(self, column: str, text: str) -> None:
        """Notes what identifies the last row; rows before it may have had nothing there."""
        keys = self.keys.setdefault(column, [])
        keys += [""] * (len(self.numbers) - 1 - len(keys))
        keys.append(text)


class _File:
    """A file that was read once."""

    def __init__(self, name: str, columns: Columns, system: str | None) -> None:
        self._name = name
        self._columns = columns
        self._system = system
        self._seen: set[str] = set()
        self.systems: dict[str, _Rows] = {}
        self._corpus: Corpus = scan(name, self._take)
        self._check()

    @property
    def stem(self) -> str:
        """The file's name without folders and ending."""
        return PurePosixPath(self._name).stem

    def _check(self) -> None:
        there = ", ".join(self._corpus.source.columns)
        if not self.systems:
            raise InvalidInput(f"{self._name}: there are no rows")
        names = [self._columns.prefix + metric for metric in METRICS]
        missing = [name for name in names if name not in self._seen]
        if missing:
            raise InvalidInput(
                f"{self._name}: there is no {', '.join(missing)}; there are: {there}; "
                "score it first (plainmed score), or name the columns' --prefix"
            )
        for wanted, option in (
            (self._columns.id, "--id"),
            (self._columns.original, "--original-column"),
            (self._columns.generated, "--generated-column"),
            (None if self._system else self._columns.model, "--model-column"),
        ):
            if wanted is not None and wanted not in self._corpus.source.columns:
                raise InvalidInput(
                    f"{self._name}: {option} {wanted}: there is no such column; there are: {there}"
                )

    def _take(self, number: int, row: Row) -> None:
        rows = self._rows_of(row)
        rows.numbers.append(number)
        metrics = self._metrics(row)
        values = [_number(metrics.get(self._columns.prefix + name)) for name in METRICS]
        if any(math.isnan(value) for value in values):
            rows.failures[self._reason(row, values)] += 1
            values = [math.nan] * len(METRICS)
        rows.values.extend(values)
        rows.loss.append(_number(row.get(self._columns.prefix + "loss")))
        texts = self._texts(row)
        rows.words.append(_words(texts.original))
        rows.words.append(_words(texts.generated))
        flags = _json(row.get("truncated"))
        known = flags if isinstance(flags, dict) else {}
        rows.truncated.extend(_flag(known.get(name)) for name in TRUNCATIONS)
        for column in ID_COLUMNS if self._columns.id is None else (self._columns.id,):
            if column in row:
                rows.key(column, _key(row[column]))
        if self._columns.id is None and texts.original is not None:
            digest = hashlib.sha256(texts.original.encode("utf-8", "surrogatepass"))
            rows.key(SAME_ORIGINAL, digest.hexdigest()[:24])

    def _rows_of(self, row: Row) -> _Rows:
        name = self._system or self.stem
        if self._system is None:
            known = (self._columns.model,) if self._columns.model else MODEL_COLUMNS
            column = next((one for one in known if one in row), None)
            if column is not None:
                name = str(row[column]) if row[column] not in (None, "") else f"no {column}"
        if name not in self.systems and len(self.systems) == MOST_SYSTEMS:
            raise InvalidInput(
                f"{self._name}: over {MOST_SYSTEMS} systems in one file; name the column that "
                "tells them apart with --model-column, or give --name for one system a file"
            )
        return self.systems.setdefault(name, _Rows())

    def _metrics(self, row: Row) -> Mapping[str, Any]:
        nested = _json(row.get("metrics"))
        metrics = nested if isinstance(nested, dict) else row
        self._seen.update(metrics)
        return metrics

    def _reason(self, row: Row, values: Sequence[float]) -> str:
        code = row.get(self._columns.prefix + "error_code")
        if isinstance(code, str) and code:
            return code
        lacking = [name for name, value in zip(METRICS, values, strict=True) if math.isnan(value)]
        return "no metrics" if len(lacking) == len(METRICS) else f"no {', '.join(lacking)}"

    def _texts(self, row: Row) -> Texts:
        return Texts(
            _text(row, self._columns.original, ORIGINAL_COLUMNS),
            _text(row, self._columns.generated, GENERATED_COLUMNS),
            _sentences(row.get("sentences")),
        )

    def system(self, name: str, rows: _Rows) -> System:
        """The finished system."""
        count = len(rows.numbers)
        numbers = np.frombuffer(rows.numbers, dtype=np.int64)
        flags = np.frombuffer(rows.truncated).reshape(count, len(TRUNCATIONS))

        def texts(places: Sequence[int]) -> list[Texts]:
            ordered = sorted({int(numbers[place]) for place in places})
            read: dict[int, Texts] = {}
            for block in self._corpus.blocks(64, ordered):
                found = read_rows(self._corpus.source, block)
                read |= {at: self._texts(row) for at, row in zip(block.rows, found, strict=True)}
            return [read[int(numbers[place])] for place in places]

        return System(
            name=name,
            file=PurePosixPath(self._name).name,
            sha256=self._corpus.sha256,
            numbers=numbers,
            values=np.frombuffer(rows.values).reshape(count, len(METRICS)),
            file_loss=np.frombuffer(rows.loss),
            keys={
                column: [*keys, *[""] * (count - len(keys))] for column, keys in rows.keys.items()
            },
            failures=dict(rows.failures),
            words=np.frombuffer(rows.words).reshape(count, 2),
            truncated={one: flags[:, at] for at, one in enumerate(TRUNCATIONS)},
            texts=texts,
        )


def _number(value: Any) -> float:
    """The cell as a finite number, else NaN."""
    if isinstance(value, bool) or value is None:
        return math.nan
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return math.nan
    return number if math.isfinite(number) else math.nan


def _flag(value: Any) -> float:
    return float(value) if isinstance(value, bool) else math.nan


def _words(text: str | None) -> float:
    return math.nan if text is None else float(len(text.split()))


def _key(value: Any) -> str:
    # A column of integers with a gap becomes one of floats in some writers: 7.0 is 7.
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return "" if value is None else str(value).strip()


def _text(row: Row, wanted: str | None, known: Sequence[str]) -> str | None:
    for column in (wanted,) if wanted is not None else known:
        value = row.get(column)
        if isinstance(value, str) and value.strip():
            return value
    return None


def _json(value: Any) -> Any:
    """A cell that is JSON in a CSV and a value elsewhere."""
    if isinstance(value, str) and value[:1] in ("{", "["):
        try:
            return json.loads(value)
        except (ValueError, RecursionError):
            return None
    return value


def _sentences(value: Any) -> tuple[ScoredSentence, ...] | None:
    """Sentence-level factuality as `/evaluate` answers it; None where the cell holds none."""
    items = _json(value)
    if not isinstance(items, list) or not items:
        return None
    found = []
    for item in items:
        if not isinstance(item, dict) or not isinstance(item.get("text"), str):
            return None
        score = _number(item.get("score"))
        if math.isnan(score):
            return None
        found.append(ScoredSentence(item["text"], score, str(item.get("support") or "")))
    return tuple(found)
