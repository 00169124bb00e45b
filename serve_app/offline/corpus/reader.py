"""Reads CSV, JSON lines and Parquet: once from start to end, then any block of rows again.

The first reading checks every row, names the one that is wrong, and notes where each begins
(eight bytes a row), so that any worker can read a block without what comes before it. Knows no
metric, and holds no more of a file than a block.
"""

from __future__ import annotations

import contextlib
import csv
import hashlib
import io
import json
from array import array
from collections.abc import Callable, Container, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, BinaryIO, Literal

from serve_app.core.documents import has_surrogate, unique
from serve_app.core.errors import InvalidInput
from serve_app.offline.corpus.parquet import (
    LONGEST_VALUE,
    Parquet,
    open_parquet_file,
    parquet_batches,
)
from serve_app.storage.base import File
from serve_app.storage.locate import locate

Format = Literal["csv", "jsonl", "parquet"]
FORMATS: dict[str, Format] = {".csv": "csv", ".jsonl": "jsonl", ".parquet": "parquet"}

ORIGINAL_COLUMNS = ("original", "source_text", "texts_original")
GENERATED_COLUMNS = ("generated", "target_text", "summary", "texts_generated")

Row = dict[str, Any]
OnRow = Callable[[int, Row], None]

LONGEST_ROW = LONGEST_VALUE
"""Most bytes of one row of CSV or JSON lines, all its lines together."""

_CHUNK = 1 << 20  # bytes hashed at a time

# Columns, rows, sha256, kinds and starts of a Corpus.
_Scanned = tuple[tuple[str, ...], int, str, dict[str, str], Sequence[int]]


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
            raise self.changed()

    def changed(self) -> InvalidInput:
        """The error for a file that is no longer the one that was read."""
        return InvalidInput(f"{self.name} changed while it was worked on; start again")


@dataclass(frozen=True)
class ByteRange:
    """Consecutive rows: `count` from row `first` (from 0), in a text file the bytes from `start`
    to before `end`."""

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
    """A file after its first reading.

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
        for column in known if wanted is None else (wanted,):
            if column in self.source.columns:
                return column
        if wanted is not None:
            raise InvalidInput(f"{name}: there is no column {wanted!r}; there are: {there}")
        raise InvalidInput(
            f"{name}: none of the columns {', '.join(known)} is there; there are: {there}; "
            f"name one with {option}"
        )

    def blocks(self, size: int, chosen: Sequence[int] | None = None) -> Blocks:
        """All rows (or the `chosen`, ascending) in blocks of `size`; the last has the rest."""
        rows = range(self.rows) if chosen is None else chosen
        return Blocks(self, rows, size, range(-(-len(rows) // size)))

    def spans(self, rows: Sequence[int]) -> Iterator[ByteRange]:
        """The ascending `rows` as ranges of consecutive ones."""
        start = 0
        for at in range(1, len(rows) + 1):
            if at == len(rows) or rows[at] != rows[at - 1] + 1:
                first, last = rows[start], rows[at - 1]
                ends = (self._starts[first], self._starts[last + 1]) if self._starts else ()
                yield ByteRange(first, at - start, *ends)
                start = at


@dataclass(frozen=True)
class Blocks(Sequence[Block]):
    """Blocks of `size` chosen rows, made on access: a random subset has a range for nearly every
    row. `numbers` are those of the blocks that are left."""

    corpus: Corpus
    rows: Sequence[int]
    size: int
    numbers: Sequence[int]

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, at: Any) -> Any:
        if isinstance(at, slice):
            return replace(self, numbers=self.numbers[at])
        number = self.numbers[at]
        rows = self.rows[number * self.size : (number + 1) * self.size]
        return Block(number, tuple(self.corpus.spans(rows)))

    def without(self, finished: Container[int]) -> Blocks:
        """The blocks whose number is not among the finished ones."""
        return replace(self, numbers=[one for one in self.numbers if one not in finished])

    @property
    def row_count(self) -> int:
        """Rows in all blocks together."""
        return sum(min(self.size, len(self.rows) - one * self.size) for one in self.numbers)


def file_format(where: File, default: Format | None = None) -> Format:
    """The format that the end of a name says, else the default.

    Raises:
        InvalidInput: it says none, and there is no default.
    """
    found = FORMATS.get(where.suffix, default)
    if found is None:
        raise InvalidInput(f"{where.name}: the name must end in .parquet, .csv or .jsonl")
    return found


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
        read = _scan_parquet if kind == "parquet" else _scan_text
        columns, rows, digest, kinds, starts = read(where.name, file, kind, on_row)
    source = Source(where.name, kind, columns, stamp)
    source.check_unchanged()
    return Corpus(source, rows, digest, kinds, starts)


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
            rows += [row for row, _ in _text_rows(source.format, lines, source.columns)]
    if len(rows) != block.count:
        raise source.changed()
    return rows


def read_all(corpus: Corpus, blocks: Sequence[Block]) -> Iterator[list[Row]]:
    """All rows in order, some at a time: Parquet as it is decoded, text block by block.

    Raises:
        InvalidInput: the file cannot be read, or is no longer the one that was scanned.
    """
    if corpus.source.format != "parquet":
        yield from (read_rows(corpus.source, block) for block in blocks)
        return
    with contextlib.closing(open_parquet(corpus.source)) as parquet:
        for batch in parquet_batches(parquet):
            yield batch.to_pylist()


# --- CSV and JSON lines -----------------------------------------------------------------


class _Lines:
    """Lines of UTF-8 text one at a time, counting and hashing their bytes."""

    def __init__(self, name: str, file: BinaryIO | io.BytesIO, start: bool = False) -> None:
        self.name = name
        self._file = file
        # Spreadsheets write a byte order mark, which would join the first name.
        self._encoding = "utf-8-sig" if start else "utf-8"
        self.position = 0
        self.begins = 0  # of the row that the line is part of
        self.count = 0
        self.row = 0  # that the line is part of, for messages
        self.hash = hashlib.sha256()

    def __iter__(self) -> _Lines:
        return self

    def __next__(self) -> str:
        line = self._file.readline(LONGEST_ROW + 1)
        if not line:
            raise StopIteration
        where = f"{self.name}: {f'row {self.row}' if self.row else 'the header'}"
        most = f"more than {LONGEST_ROW >> 20} MiB"
        if len(line) > LONGEST_ROW:
            raise InvalidInput(
                f"{where} has a line of {most}; is a line end or a closing quote missing?"
            )
        begins = self.position
        self.position += len(line)
        if self.position - self.begins > LONGEST_ROW:
            raise InvalidInput(f"{where} has {most} in its lines; is a closing quote missing?")
        self.count += 1
        self.hash.update(line)
        try:
            text = line.decode(self._encoding)
        except UnicodeDecodeError as error:
            raise InvalidInput(
                f"{where} is not UTF-8 text (byte {begins + error.start}); save it as UTF-8"
            ) from None
        self._encoding = "utf-8"
        return text


def _scan_text(name: str, file: BinaryIO, kind: Format, on_row: OnRow | None) -> _Scanned:
    lines = _Lines(name, file, start=True)
    columns = _csv_header(lines) if kind == "csv" else ()
    kinds = dict.fromkeys(columns, "string")
    starts = array("q")
    for number, (row, start) in enumerate(_text_rows(kind, lines, columns)):
        starts.append(start)
        if kind == "jsonl":
            for column, value in row.items():
                kinds[column] = _widened(kinds.get(column, "null"), _kind(value))
        if on_row is not None:
            on_row(number, row)
    starts.append(lines.position)
    kinds = {column: "string" if kind == "null" else kind for column, kind in kinds.items()}
    return tuple(kinds), len(starts) - 1, lines.hash.hexdigest(), kinds, starts


def _text_rows(kind: Format, lines: _Lines, columns: Sequence[str]) -> Iterator[tuple[Row, int]]:
    """Each row and the byte it starts at."""
    return _csv_rows(lines, columns) if kind == "csv" else _json_rows(lines)


def _csv_header(lines: _Lines) -> tuple[str, ...]:
    try:
        columns = tuple(next((cells for cells in csv.reader(lines, strict=True) if cells), []))
    except csv.Error as error:
        raise InvalidInput(f"{lines.name}: the header is not CSV: {error}") from error
    if len(set(columns)) != len(columns):
        raise InvalidInput(f"{lines.name}: the header names a column twice")
    return columns


def _csv_rows(lines: _Lines, columns: Sequence[str]) -> Iterator[tuple[Row, int]]:
    before = csv.field_size_limit(LONGEST_ROW)  # of its own it takes 128 KiB
    try:
        reader = csv.reader(lines, strict=True)
        lines.row = 1
        while True:
            start = lines.begins = lines.position
            cells = next(reader, None)
            if cells is None:
                return
            if not cells:
                continue
            if len(cells) != len(columns):
                raise InvalidInput(
                    f"{lines.name}: row {lines.row} (up to line {lines.count}) does not have "
                    f"the {len(columns)} fields of the header, but {len(cells)}; put quotes "
                    "around texts with commas"
                )
            yield dict(zip(columns, cells, strict=True)), start
            lines.row += 1
    except csv.Error as error:
        raise InvalidInput(f"{lines.name}: row {lines.row} is not CSV: {error}") from error
    finally:
        csv.field_size_limit(before)


def _json_rows(lines: _Lines) -> Iterator[tuple[Row, int]]:
    start, lines.row = 0, 1
    for line in lines:
        where = f"{lines.name}: line {lines.row}"
        if line.strip():
            try:
                row = json.loads(line, object_pairs_hook=unique)
            except (ValueError, RecursionError) as error:
                raise InvalidInput(f"{where} is not JSON: {error}") from error
            if not isinstance(row, dict):
                raise InvalidInput(f"{where} is not a JSON object")
            # A cell may have a lone surrogate: its row is refused, or keeps it escaped. A column
            # would be found to have no name that can be written once all is scored.
            odd = next((column for column in row if has_surrogate(column)), None)
            if odd is not None:
                raise InvalidInput(
                    f"{where}: the column {odd!r:.80} has a lone surrogate in its name"
                )
            yield row, start
        start = lines.begins = lines.position
        lines.row += 1


def _kind(value: Any) -> str:
    if isinstance(value, int) and not isinstance(value, bool):
        return "int64" if -(2**63) <= value < 2**63 else "json"
    return _KINDS.get(type(value), "json")


_KINDS = {type(None): "null", bool: "bool", float: "double", str: "string"}


def _widened(one: str, other: str) -> str:
    """The kind that holds the values of both."""
    kinds = {one, other} - {"null"} or {"null"}
    if len(kinds) == 1:
        return kinds.pop()
    return "double" if kinds == {"int64", "double"} else "json"


# --- Parquet ----------------------------------------------------------------------------


def _scan_parquet(name: str, file: BinaryIO, _: Format, on_row: OnRow | None) -> _Scanned:
    digest = hashlib.sha256()
    while chunk := file.read(_CHUNK):
        digest.update(chunk)
    file.seek(0)
    parquet = open_parquet_file(name, file)
    columns = tuple(parquet.schema.names)
    if len(set(columns)) != len(columns):
        raise InvalidInput(f"{name}: the schema names a column twice")
    if on_row is not None:
        rows = (row for batch in parquet_batches(parquet) for row in batch.to_pylist())
        for number, row in enumerate(rows):
            on_row(number, row)
    return columns, parquet.file.metadata.num_rows, digest.hexdigest(), {}, ()


def open_parquet(source: Source) -> Parquet:
    """Opens the file for reading in order.

    Raises:
        InvalidInput: it cannot be read, or is no longer the one that was scanned.
    """
    source.check_unchanged()
    return open_parquet_file(source.name, source.place.open())


def _parquet_rows(source: Source, block: Block, columns: Sequence[str] | None) -> list[Row]:
    wanted = None if columns is None else list(dict.fromkeys(columns))
    rows: list[Row] = []
    with contextlib.closing(open_parquet(source)) as parquet:
        # Each group is decoded once for all spans: a random subset has one for nearly every row.
        start = 0
        for group in range(parquet.file.metadata.num_row_groups):
            end = start + parquet.file.metadata.row_group(group).num_rows
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
    return rows
