"""Reads CSV, JSON lines and Parquet: once from start to end, then any block of rows again.

The first reading checks every row and says which one is wrong, and notes where each begins
(eight bytes a row); after it any worker can read a block without what comes before. Knows no
metric, and holds no more of a file than a block.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Literal

from serve_app.core.documents import is_whole, unique
from serve_app.core.errors import InvalidInput
from serve_app.offline.corpus.parquet import LONGEST_VALUE, Parquet, opened, parquet_batches
from serve_app.storage.base import File
from serve_app.storage.locate import locate

Format = Literal["csv", "jsonl", "parquet"]
FORMATS: dict[str, Format] = {".csv": "csv", ".jsonl": "jsonl", ".parquet": "parquet"}

Row = dict[str, Any]
OnRow = Callable[[int, Row], None]

LONGEST_ROW = LONGEST_VALUE
"""Most bytes of one row of CSV or JSON lines, all its lines together."""

_CHUNK = 1 << 20  # bytes hashed at a time


@dataclass(frozen=True)
class Source:
    """A file that was read once: what a worker needs to read a part of it."""

    name: str
    format: Format
    columns: tuple[str, ...]
    stamp: str

    @property
    def place(self) -> File:
        """Where the file is."""
        return locate(self.name)

    def check_unchanged(self) -> None:
        """Raises `InvalidInput` where the file is no longer the one that was read."""
        if self.place.stamp() != self.stamp:
            raise InvalidInput(f"{self.name} changed while it was worked on; start again")


@dataclass(frozen=True)
class ByteRange:
    """Rows that follow each other: `count` from row `first` (the first of the file is 0).

    `start` and `end` are where in a text file they are, in bytes.
    """

    first: int
    count: int
    start: int = 0
    end: int = 0


@dataclass(frozen=True)
class Block:
    """The rows that are scored, and kept as finished, together."""

    number: int
    spans: tuple[ByteRange, ...]

    @property
    def count(self) -> int:
        """How many rows it has."""
        return sum(span.count for span in self.spans)

    @property
    def rows(self) -> list[int]:
        """Which rows of the file, from 0."""
        return [span.first + at for span in self.spans for at in range(span.count)]


@dataclass(frozen=True)
class Corpus:
    """What the first reading found.

    Attributes:
        source: where the rows are.
        rows: how many.
        sha256: of the file's bytes.
        kinds: for CSV and JSON lines, the Arrow type that holds every value of a column:
            string, int64, double, bool, or json (a mixture: text stays, the rest is JSON text).
    """

    source: Source
    rows: int
    sha256: str
    kinds: dict[str, str] = field(default_factory=dict)
    _starts: Sequence[int] = ()

    def column(self, wanted: str | None, known: Sequence[str], option: str) -> str:
        """The column `wanted`, else the first of `known` that is there.

        Raises:
            InvalidInput: there is no such column; `option` is named as the way out.
        """
        name, there = self.source.name, ", ".join(self.source.columns)
        if wanted is not None:
            if wanted in self.source.columns:
                return wanted
            raise InvalidInput(f"{name}: there is no column {wanted!r}; there are: {there}")
        for column in known:
            if column in self.source.columns:
                return column
        raise InvalidInput(
            f"{name}: none of the columns {', '.join(known)} is there; there are: {there}; "
            f"name one with {option}"
        )

    def blocks(self, size: int, chosen: Sequence[int] | None = None) -> list[Block]:
        """All rows (or the `chosen`, ascending) in blocks of `size`; the last has the rest."""
        rows = range(self.rows) if chosen is None else chosen
        return [
            Block(number, tuple(self._spans(rows[start : start + size])))
            for number, start in enumerate(range(0, len(rows), size))
        ]

    def _spans(self, rows: Sequence[int]) -> Iterator[ByteRange]:
        start = 0
        for at in range(1, len(rows) + 1):
            if at == len(rows) or rows[at] != rows[at - 1] + 1:
                first, last = rows[start], rows[at - 1]
                if self._starts:
                    yield ByteRange(first, at - start, self._starts[first], self._starts[last + 1])
                else:
                    yield ByteRange(first, at - start)
                start = at


def file_format(where: File, default: Format | None = None) -> Format:
    """The format the end of a name says, else the default.

    Raises:
        InvalidInput: it says none, and there is no default.
    """
    if where.suffix not in FORMATS:
        if default is not None:
            return default
        raise InvalidInput(f"{where.name}: the name must end in .parquet, .csv or .jsonl")
    return FORMATS[where.suffix]


def scan(name: str | Path, on_row: OnRow | None = None, default: Format | None = None) -> Corpus:
    """Reads a file once, from start to end.

    Args:
        name: a path or `s3://BUCKET/KEY`; the suffix says the format. CSV has a header; JSON
            lines are objects; both are UTF-8.
        on_row: called with the number (from 0) and the cells of each row.
        default: the format where the suffix is none of these.

    Raises:
        InvalidInput: the file cannot be read or is malformed; file and row are named.
    """
    where = locate(name)
    kind = file_format(where, default)
    stamp = where.stamp()
    with where.open() as file:
        found = {"csv": _scan_csv, "jsonl": _scan_jsonl, "parquet": _scan_parquet}[kind](
            where.name, file, on_row
        )
    source = Source(where.name, kind, found.columns, stamp)
    source.check_unchanged()
    return Corpus(source, found.rows, found.sha256, found.kinds, found.starts)


def read_rows(source: Source, block: Block, columns: Sequence[str] | None = None) -> list[Row]:
    """The rows of a block, in order; with `columns`, those cells at least.

    Raises:
        InvalidInput: the file cannot be read, or is no longer the one that was scanned.
    """
    source.check_unchanged()
    if source.format == "parquet":
        rows = _parquet_rows(source, block, columns)
    else:
        rows = []
        for span in block.spans:
            lines = _Lines(source.name, io.BytesIO(source.place.span(span.start, span.end)))
            if source.format == "csv":
                rows += [row for row, _ in _csv_rows(source.name, lines, source.columns)]
            else:
                rows += [row for row, _ in _json_rows(source.name, lines)]
    if len(rows) != block.count:
        raise InvalidInput(f"{source.name} changed while it was worked on; start again")
    return rows


@dataclass
class _Found:
    columns: tuple[str, ...] = ()
    rows: int = 0
    sha256: str = ""
    kinds: dict[str, str] = field(default_factory=dict)
    starts: Sequence[int] = ()


class _Lines:
    """Lines of UTF-8 text one at a time, counting and hashing their bytes."""

    def __init__(self, name: str, file: BinaryIO | io.BytesIO, start: bool = False) -> None:
        self._name = name
        self._file = file
        self._first = start
        self.position = 0
        self.begins = 0  # where the row does of which the line is part
        self.count = 0
        self.row = 0  # of which the line is part, for messages
        self.hash = hashlib.sha256()

    def __iter__(self) -> _Lines:
        return self

    def __next__(self) -> str:
        line = self._file.readline(LONGEST_ROW + 1)
        if not line:
            raise StopIteration
        if len(line) > LONGEST_ROW:
            where = f"row {self.row}" if self.row else "the header"
            raise InvalidInput(
                f"{self._name}: {where} has a line of more than {LONGEST_ROW >> 20} MiB; is a line "
                "end or a closing quote missing?"
            )
        begins = self.position
        self.position += len(line)
        if self.position - self.begins > LONGEST_ROW:
            where = f"row {self.row}" if self.row else "the header"
            raise InvalidInput(
                f"{self._name}: {where} has more than {LONGEST_ROW >> 20} MiB in its lines; is a "
                "closing quote missing?"
            )
        self.count += 1
        self.hash.update(line)
        # Spreadsheets write a byte order mark, which would join the first name.
        encoding, self._first = ("utf-8-sig" if self._first else "utf-8"), False
        try:
            return line.decode(encoding)
        except UnicodeDecodeError as error:
            where = f"row {self.row}" if self.row else "the header"
            raise InvalidInput(
                f"{self._name}: {where} is not UTF-8 text (byte {begins + error.start}); "
                "save it as UTF-8"
            ) from None


# --- CSV --------------------------------------------------------------------------------


def _scan_csv(name: str, file: BinaryIO, on_row: OnRow | None) -> _Found:
    lines = _Lines(name, file, start=True)
    columns = _csv_header(name, lines)
    starts = array("q")
    number = 0
    for row, start in _csv_rows(name, lines, columns):
        starts.append(start)
        if on_row is not None:
            on_row(number, row)
        number += 1
    starts.append(lines.position)
    return _Found(columns, number, lines.hash.hexdigest(), dict.fromkeys(columns, "string"), starts)


def _csv_header(name: str, lines: _Lines) -> tuple[str, ...]:
    try:
        columns = tuple(next((cells for cells in csv.reader(lines, strict=True) if cells), []))
    except csv.Error as error:
        raise InvalidInput(f"{name}: the header is not CSV: {error}") from error
    if len(set(columns)) != len(columns):
        raise InvalidInput(f"{name}: the header names a column twice")
    return columns


def _csv_rows(name: str, lines: _Lines, columns: Sequence[str]) -> Iterator[tuple[Row, int]]:
    """Each row and the byte it starts at."""
    before = csv.field_size_limit(LONGEST_ROW)  # of its own it takes 128 KiB
    try:
        reader = csv.reader(lines, strict=True)
        number = 1
        while True:
            start = lines.begins = lines.position
            lines.row = number
            cells = next(reader, None)
            if cells is None:
                return
            if not cells:
                continue
            if len(cells) != len(columns):
                raise InvalidInput(
                    f"{name}: row {number} (up to line {lines.count}) does not have "
                    f"the {len(columns)} fields of the header, but {len(cells)}; put quotes "
                    "around texts with commas"
                )
            yield dict(zip(columns, cells, strict=True)), start
            number += 1
    except csv.Error as error:
        raise InvalidInput(f"{name}: row {lines.row} is not CSV: {error}") from error
    finally:
        csv.field_size_limit(before)


# --- JSON lines -------------------------------------------------------------------------


def _scan_jsonl(name: str, file: BinaryIO, on_row: OnRow | None) -> _Found:
    lines = _Lines(name, file, start=True)
    kinds: dict[str, str] = {}
    starts = array("q")
    for number, (row, start) in enumerate(_json_rows(name, lines)):
        starts.append(start)
        for column, value in row.items():
            kinds[column] = _widened(kinds.get(column, "null"), _kind(value))
        if on_row is not None:
            on_row(number, row)
    starts.append(lines.position)
    kinds = {column: "string" if kind == "null" else kind for column, kind in kinds.items()}
    return _Found(tuple(kinds), len(starts) - 1, lines.hash.hexdigest(), kinds, starts)


def _json_rows(name: str, lines: _Lines) -> Iterator[tuple[Row, int]]:
    """Each row and the byte it starts at."""
    start, lines.row = 0, 1
    for number, line in enumerate(lines, start=1):
        if line.strip():
            try:
                row = json.loads(line, object_pairs_hook=unique)
            except (ValueError, RecursionError) as error:
                raise InvalidInput(f"{name}: line {number} is not JSON: {error}") from error
            if not isinstance(row, dict):
                raise InvalidInput(f"{name}: line {number} is not a JSON object")
            # A cell may have half of a character: its row is refused, or keeps it escaped. A column
            # would be found to have no name that can be written once all is scored.
            odd = next((column for column in row if not is_whole(column)), None)
            if odd is not None:
                raise InvalidInput(
                    f"{name}: line {number}: the column {odd!r:.80} has half of a character in its "
                    "name"
                )
            yield row, start
        start = lines.begins = lines.position
        lines.row = number + 1


def _kind(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, int):
        return "int64" if -(2**63) <= value < 2**63 else "json"
    if isinstance(value, float):
        return "double"
    return "string" if isinstance(value, str) else "json"


def _widened(one: str, other: str) -> str:
    if one == other or other == "null":
        return one
    if one == "null":
        return other
    return "double" if {one, other} == {"int64", "double"} else "json"


# --- Parquet ----------------------------------------------------------------------------


def _scan_parquet(name: str, file: BinaryIO, on_row: OnRow | None) -> _Found:
    digest = hashlib.sha256()
    while chunk := file.read(_CHUNK):
        digest.update(chunk)
    file.seek(0)
    parquet = opened(name, file)
    columns = tuple(parquet.schema_arrow.names)
    if len(set(columns)) != len(columns):
        raise InvalidInput(f"{name}: the schema names a column twice")
    if on_row is not None:
        number = 0
        for batch in parquet_batches(parquet):
            for row in batch.to_pylist():
                on_row(number, row)
                number += 1
    return _Found(columns, parquet.metadata.num_rows, digest.hexdigest())


def open_parquet(source: Source) -> Parquet:
    """The file, for a reading in order.

    Raises:
        InvalidInput: it cannot be read, or is no longer the one that was scanned.
    """
    source.check_unchanged()
    return opened(source.name, source.place.open())


def _parquet_rows(source: Source, block: Block, columns: Sequence[str] | None) -> list[Row]:
    wanted = None if columns is None else list(dict.fromkeys(columns))
    rows: list[Row] = []
    parquet = open_parquet(source)
    try:
        # Each group is decoded once for all spans: a random subset has one for nearly every row.
        start = 0
        for group in range(parquet.metadata.num_row_groups):
            end = start + parquet.metadata.row_group(group).num_rows
            spans = [s for s in block.spans if s.first < end and s.first + s.count > start]
            at, start = start, end
            if not spans:
                continue
            last = spans[-1].first + spans[-1].count
            for batch in parquet_batches(parquet, [group], wanted):
                for span in spans:
                    low = max(span.first - at, 0)
                    high = min(span.first + span.count - at, batch.num_rows)
                    if low < high:
                        rows += batch.slice(low, high - low).to_pylist()
                at += batch.num_rows
                if at >= last:
                    break
    finally:
        parquet.close()
    return rows
