"""Reads systems from files: what `plainmed score` writes, results of `/evaluate`, bare metrics.

Keeps the numbers of all rows; the texts of a few rows are read again on demand, from the column
that was scored and no other. Knows columns; knows no statistics.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from array import array
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from serve_app.core.errors import InvalidInput
from serve_app.metrics.loss import METRICS
from serve_app.offline.corpus.reader import (
    GENERATED_COLUMNS,
    ORIGINAL_COLUMNS,
    Corpus,
    read_all,
    read_rows,
    scan,
)
from serve_app.offline.corpus.scoring import FINDINGS
from serve_app.offline.corpus.text_rows import Row, shown
from serve_app.offline.report.findings import known_columns
from serve_app.offline.report.systems import (
    ID_COLUMNS,
    SAME_ORIGINAL,
    TRUNCATIONS,
    ScoredSentence,
    System,
    Texts,
)
from serve_app.text.language import language_of

MODEL_COLUMNS = ("model", "system")

MOST_SYSTEMS = 20  # in one file; more distinct values mean that the column names something else

_LANGUAGE_ROWS = 200  # looked at where the file does not say the language

_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
# What pandas writes or reads for a number that is not there, and spreadsheets for one that failed.
_MISSING = {"", "nan", "na", "n/a", "<na>", "#n/a", "null", "none", "-"}


@dataclass(frozen=True)
class Columns:
    """The columns of a row's id, its system, its original and its summary (None: the one that was
    scored, where the file says it, else the one with a known name), and the prefix of the score
    columns ("": also found by itself, several of them as one system each)."""

    id: str | None = None
    model: str | None = None
    original: str | None = None
    generated: str | None = None
    prefix: str = ""


def read_systems(
    files: Sequence[str | Path],
    names: Sequence[str] = (),
    columns: Columns | Sequence[Columns] = Columns(),
    *,
    texts: bool = True,
) -> list[System]:
    """The systems of the files, in order.

    Args:
        files: what `plainmed score` takes and writes.
        names: one per file, which is then one system; none: the values of a column `model`, else
            the file's name.
        columns: their names, alike in all files or for each.
        texts: whether the texts are to be shown: where several columns could hold them, a file is
            then refused, and read without texts otherwise.

    Raises:
        InvalidInput: a file cannot be read, lacks a metric, has a cell that is no number, or no
            row; or names do not fit.
    """
    if names and len(names) != len(files):
        raise InvalidInput(f"{len(names)} names for {len(files)} files; give one --name per file")
    each = [columns] * len(files) if isinstance(columns, Columns) else columns
    read = [
        _File(str(file), wanted, names[at] if names else None, texts)
        for at, (file, wanted) in enumerate(zip(files, each, strict=True))
    ]
    found = [(name, file, rows) for file in read for name, rows in file.systems.items()]
    # A name that several files have is told apart by the files' names.
    counts = Counter(name for name, _, _ in found)
    distinct = [name if counts[name] == 1 else f"{name} ({file.stem})" for name, file, _ in found]
    require_distinct(distinct, "file")
    return [file.system(name, rows) for name, (_, file, rows) in zip(distinct, found, strict=True)]


def require_distinct(names: Sequence[str], what: str) -> None:
    """Raises `InvalidInput` where two systems have one name."""
    for name, count in Counter(names).items():
        if count > 1:
            raise InvalidInput(
                f"{count} systems would be called {name!r}; give --name for each {what}"
            )


@dataclass
class _Rows:
    """The numbers of one system while its rows are read; `prefix` is that of its columns."""

    prefix: str
    numbers: array[int] = field(default_factory=lambda: array("q"))
    values: array[float] = field(default_factory=lambda: array("d"))
    loss: array[float] = field(default_factory=lambda: array("d"))
    words: array[float] = field(default_factory=lambda: array("d"))
    truncated: array[float] = field(default_factory=lambda: array("d"))
    found: array[float] = field(default_factory=lambda: array("d"))
    keys: dict[str, list[str]] = field(default_factory=dict)
    failures: Counter[str] = field(default_factory=Counter)
    summaries: dict[str, None] = field(default_factory=dict)  # columns they were read from
    languages: Counter[str | None] = field(default_factory=Counter)

    def key(self, column: str, text: str) -> None:
        """Notes the key of the last row; rows before it may have none in this column."""
        keys = self.keys.setdefault(column, [])
        keys += [""] * (len(self.numbers) - 1 - len(keys))
        keys.append(text)


class _File:
    """A file that was read: once for its columns, once for its numbers."""

    def __init__(self, name: str, columns: Columns, system: str | None, texts: bool) -> None:
        self._columns = columns
        self._system = system
        self._seen: set[str] = set()
        self.systems: dict[str, _Rows] = {}
        self._corpus: Corpus = scan(name)
        self._name = self._corpus.source.name
        self._there = self._corpus.source.columns
        if not self._corpus.rows:
            raise InvalidInput(f"{self._name}: there are no rows")
        for wanted, option in (
            (columns.id, "--id"),
            (columns.original, "--original-column"),
            (columns.generated, "--generated-column"),
            (None if system else columns.model, "--model-column"),
        ):
            if wanted is not None and wanted not in self._there:
                raise InvalidInput(
                    f"{self._name}: {option} {wanted}: there is no such column; there are: "
                    f"{shown(self._there)}"
                )
        self._prefixes = self._find_prefixes()
        known = (("original", ORIGINAL_COLUMNS), ("generated", GENERATED_COLUMNS))
        self._texts_in = {kind: self._text_column(kind, names, texts) for kind, names in known}
        number = 0
        for rows in read_all(self._corpus, self._corpus.blocks(256)):
            for row in rows:
                for prefix in self._prefixes:
                    self._take(number, row, prefix)
                number += 1
        missing = [one for p in self._prefixes for m in METRICS if (one := p + m) not in self._seen]
        if missing:
            raise InvalidInput(
                f"{self._name}: there is no {', '.join(missing)}; there are: "
                f"{shown(self._there)}; score it first (plainmed score), or name the columns' "
                "--prefix"
            )

    @property
    def stem(self) -> str:
        """The file's name without folders and ending."""
        return PurePosixPath(self._name.removesuffix(".gz")).stem

    def _find_prefixes(self) -> list[str]:
        """The prefixes of score columns: of each system that one run has scored."""
        first = METRICS[0]
        found = [
            prefix
            for prefix in (one.removesuffix(first) for one in self._there if one.endswith(first))
            if all(prefix + metric in self._there for metric in METRICS)
        ]
        plain = self._columns.prefix or "" in found or "metrics" in self._there or not found
        return [self._columns.prefix] if plain else found

    def _text_column(self, kind: str, known: Sequence[str], texts: bool) -> str | None:
        """The column of texts where no row says it."""
        wanted: str | None = getattr(self._columns, kind)
        says = all(f"{prefix}{kind}_column" in self._there for prefix in self._prefixes)
        if wanted is not None or says:
            return wanted
        found = self._corpus.candidates(known)
        if texts and len(found) > 1:
            raise InvalidInput(
                f"{self._name} does not say which column was scored, and several could be: "
                f"{shown(found)}; name it with --{kind}-column"
            )
        return found[0] if len(found) == 1 else None

    def _take(self, number: int, row: Row, prefix: str) -> None:
        rows = self._rows_of(row, prefix)
        rows.numbers.append(number)
        nested = _json(row.get("metrics"))
        metrics = nested if isinstance(nested, dict) else row
        self._seen.update(metrics)
        values = [self._number(number, metrics, prefix + name) for name in METRICS]
        if any(math.isnan(value) for value in values):
            rows.failures[_reason(row, prefix, values)] += 1
            values = [math.nan] * len(METRICS)
        rows.values.extend(values)
        rows.loss.append(self._number(number, row, f"{prefix}loss"))
        texts = self._texts(number, row, prefix)
        if texts.generated is not None:
            rows.summaries[self._column(number, row, prefix, "generated") or ""] = None
        if f"{prefix}language" in row:
            rows.languages[row[f"{prefix}language"] or None] += 1
        elif texts.generated is not None and len(rows.numbers) <= _LANGUAGE_ROWS:
            rows.languages[language_of(texts.generated)] += 1
        rows.words.extend((_words(texts.original), _words(texts.generated)))
        flags = _json(row.get("truncated"))
        said = flags if isinstance(flags, dict) else {}
        rows.truncated.extend(_flag(said.get(name)) for name in TRUNCATIONS)
        # Where nobody counted, a column called `omissions` is about something else.
        counted = f"{prefix}{FINDINGS[0]}" in self._there
        rows.found.extend(
            self._count(number, row, prefix + name) if counted else math.nan for name in FINDINGS
        )
        for column in ID_COLUMNS if self._columns.id is None else (self._columns.id,):
            if column in row:
                rows.key(column, _key(row[column]))
        if self._columns.id is None and texts.original is not None:
            digest = hashlib.sha256(texts.original.encode("utf-8", "surrogatepass"))
            rows.key(SAME_ORIGINAL, digest.hexdigest()[:24])

    def _rows_of(self, row: Row, prefix: str) -> _Rows:
        label = row.get(f"{prefix}generated_column") or prefix.rstrip("_")
        name = self._system or (self.stem if len(self._prefixes) == 1 else "")
        if self._system is None:
            known = (self._columns.model,) if self._columns.model else MODEL_COLUMNS
            column = next((one for one in known if one in row), None)
            if column is not None:
                name = str(row[column]) if row[column] not in (None, "") else f"no {column}"
        if len(self._prefixes) > 1:
            name = f"{name} {label}".strip()
        if name not in self.systems and len(self.systems) == MOST_SYSTEMS:
            raise InvalidInput(
                f"{self._name}: over {MOST_SYSTEMS} systems in one file; name the column that "
                "tells them apart with --model-column, or give --name for one system a file"
            )
        return self.systems.setdefault(name, _Rows(prefix))

    def _number(self, number: int, row: Mapping[str, Any], column: str) -> float:
        """The cell as a number; NaN where there is nothing."""
        value = row.get(column)
        text = str(value).strip()
        if isinstance(value, int | float | Decimal) and not isinstance(value, bool):
            found = float(value)
        elif value is None or text.lower() in _MISSING:
            found = math.nan
        else:
            found = float(text) if _NUMBER.fullmatch(text) else math.inf
        if math.isinf(found):
            hint = ""
            if re.fullmatch(r"[+-]?[0-9][0-9.,' \u00a0\u202f]*", text):
                hint = "; write numbers with a decimal point, and nothing between thousands"
            raise InvalidInput(
                f"{self._name}: row {number + 1}, column {column}: {text[:40]!r} is no number{hint}"
            )
        return found

    def _count(self, number: int, row: Row, column: str) -> float:
        """A count of findings; NaN where there is none."""
        found = self._number(number, row, column)
        if not math.isnan(found) and (found < 0 or found % 1):
            raise InvalidInput(
                f"{self._name}: row {number + 1}, column {column}: {row[column]!s} is no count"
            )
        return found

    def _column(self, number: int, row: Row, prefix: str, kind: str) -> str | None:
        """The column of a row's text: the one that was scored, where the row says it."""
        said = row.get(f"{prefix}{kind}_column")
        wanted = self._texts_in[kind]
        if not isinstance(said, str) or not said:
            return wanted
        if wanted not in (None, said):
            raise InvalidInput(
                f"{self._name}: row {number + 1} was scored on the column {said!r}, not on "
                f"{wanted!r}; leave --{kind}-column out"
            )
        return said

    def _texts(self, number: int, row: Row, prefix: str) -> Texts:
        def text(kind: str) -> str | None:
            column = self._column(number, row, prefix, kind)
            value = None if column is None else row.get(column)
            return value if isinstance(value, str) and value.strip() else None

        return Texts(text("original"), text("generated"), _sentences(row.get("sentences")))

    def system(self, name: str, rows: _Rows) -> System:
        """The finished system."""
        count = len(rows.numbers)
        numbers = np.frombuffer(rows.numbers, dtype=np.int64)
        flags = np.frombuffer(rows.truncated).reshape(count, len(TRUNCATIONS))
        found = np.frombuffer(rows.found).reshape(count, len(FINDINGS))

        def texts(places: Sequence[int]) -> list[Texts]:
            ordered = sorted({int(numbers[place]) for place in places})
            read: dict[int, Texts] = {}
            for block in self._corpus.blocks(64, ordered):
                found = read_rows(self._corpus.source, block)
                for at, row in zip(block.rows, found, strict=True):
                    read[at] = self._texts(at, row, rows.prefix)
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
            column=", ".join(rows.summaries),
            found=known_columns(FINDINGS, found),
            by_plainmed=f"{rows.prefix}generated_column" in self._there,
            languages=rows.languages,
        )


def _reason(row: Row, prefix: str, values: Sequence[float]) -> str:
    code = row.get(f"{prefix}error_code")
    if isinstance(code, str) and code:
        return code
    lacking = [name for name, value in zip(METRICS, values, strict=True) if math.isnan(value)]
    return "no metrics" if len(lacking) == len(METRICS) else f"no {', '.join(lacking)}"


def _flag(value: Any) -> float:
    return float(value) if isinstance(value, bool) else math.nan


def _words(text: str | None) -> float:
    return math.nan if text is None else float(len(text.split()))


def _key(value: Any) -> str:
    """The cell as an id, alike whoever wrote it: 7 and 7.0, a day and its midnight."""
    if value is None or value != value:
        return ""
    text = str(value).strip()
    # A column of integers with a gap becomes one of floats in some writers, and one of days times.
    text = re.sub(r"^([+-]?\d+)\.0*$", r"\1", text)
    return re.sub(r"^(\d{4}-\d\d-\d\d)[T ]00:00:00(\.0+)?$", r"\1", text)


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
        score = item.get("score")
        if (
            isinstance(score, bool)
            or not isinstance(score, int | float)
            or not math.isfinite(score)
        ):
            return None
        found.append(ScoredSentence(item["text"], float(score), str(item.get("support") or "")))
    return tuple(found)
