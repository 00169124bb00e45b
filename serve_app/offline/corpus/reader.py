"""Reads a corpus: once from start to end, then any block of rows again.

The first reading checks every row, names the one that is wrong, and notes where each begins
(eight bytes a row), so that any worker can read a block without what comes before it. Knows no
metric, and holds no more of a file than a block.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import re
from array import array
from collections.abc import Callable, Container, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, BinaryIO

from serve_app.core.errors import InvalidInput
from serve_app.offline.corpus.inputs import Format, Input, open_input
from serve_app.offline.corpus.parquet import Parquet, open_parquet_file, parquet_batches
from serve_app.offline.corpus.text_rows import (
    SEPARATORS,
    Lines,
    Row,
    TextFormat,
    shown,
    text_format,
    text_rows,
)
from serve_app.storage.base import File
from serve_app.storage.locate import locate

OUTPUT_FORMATS: dict[str, Format] = {".csv": "csv", ".jsonl": "jsonl", ".parquet": "parquet"}

ORIGINAL_COLUMNS = (
    "original",
    "source_text",
    "texts_original",
    "original_text",
    "input_text",
    "article",
)
GENERATED_COLUMNS = (
    "generated",
    "target_text",
    "summary",
    "texts_generated",
    "generated_text",
    "predicted_summary",
    "lay_summary",
)
# Other names of columns with summaries, where their cells are texts.
_SUMMARIES = re.compile(r"generated|predict|generation|output|(^|_)(summary|pls|simplified)(_|$)")
_SAMPLE = 50  # rows looked at for what a column holds
_TEXT = 3  # words of a cell that is a text

OnRow = Callable[[int, Row], None]

_CHUNK = 1 << 20  # bytes hashed at a time


@dataclass(frozen=True)
class Source:
    """A file that was read once: what a worker needs to read a part of it.

    Attributes:
        name: what the user called it.
        path: where it is: elsewhere, where `name` had to be copied to be read in parts.
        format: of the file.
        columns: all of them.
        separator: of a CSV.
        stamp: changes when the file does.
    """

    name: str
    path: str
    format: Format
    columns: tuple[str, ...]
    separator: str
    stamp: str

    @property
    def place(self) -> File:
        """The file."""
        return locate(self.path)

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
        sha256: of the bytes of the file, or of all files of a folder.
        kinds: for CSV and JSON lines, the Arrow type that holds every value of a column:
            string, int64, double, bool, or json (a mixture: text stays, the rest is JSON text).
        notes: what was chosen for the user, to be told.
    """

    source: Source
    rows: int
    sha256: str
    kinds: dict[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    _starts: Sequence[int] = ()
    _input: Input | None = None  # its copy goes when nobody has this corpus any more

    def column(self, wanted: str | None, known: Sequence[str], option: str) -> str:
        """The column `wanted`, else the one of `candidates`.

        Raises:
            InvalidInput: there is no such column, or several could be meant; `option` is named as
                the way out.
        """
        name, there = self.source.name, shown(self.source.columns)
        if wanted is not None:
            if wanted in self.source.columns:
                return wanted
            raise InvalidInput(f"{name}: there is no column {wanted!r}; there are: {there}")
        found = self.candidates(known)
        exact = [column for column in found if _plain(column) in known]
        if not exact:
            raise InvalidInput(
                f"{name}: none of the columns {', '.join(known)} is there; there are: {there}; "
                f"name one with {option}"
            )
        if len(found) > 1:
            raise InvalidInput(
                f"{name}: several columns could be meant: {shown(found)}; name one with {option}"
            )
        return found[0]

    def candidates(self, known: Sequence[str]) -> list[str]:
        """The columns that could be meant: with a name of `known`, and for summaries also texts
        with a name like one, such as `generated_model_b`."""
        like = [
            column
            for column in self.source.columns
            if known is GENERATED_COLUMNS
            and _SUMMARIES.search(_plain(column))
            and not column.endswith("_column")
            and _plain(column) not in ORIGINAL_COLUMNS
        ]
        if any(_plain(column) not in known for column in like):
            spans = tuple(self.spans(range(min(self.rows, _SAMPLE))))
            sample = read_rows(self.source, Block(0, spans), like)
            like = [column for column in like if _holds_texts([row.get(column) for row in sample])]
        return [
            column for column in self.source.columns if _plain(column) in known or column in like
        ]

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
    row. `numbers` are those of the blocks that are left, counted from `first`."""

    corpus: Corpus
    rows: Sequence[int]
    size: int
    numbers: Sequence[int]
    first: int = 0

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, at: Any) -> Any:
        if isinstance(at, slice):
            return replace(self, numbers=self.numbers[at])
        number = self.numbers[at]
        rows = self.rows[number * self.size : (number + 1) * self.size]
        return Block(self.first + number, tuple(self.corpus.spans(rows)))

    def without(self, finished: Container[int]) -> Blocks:
        """The blocks whose number is not among the finished ones."""
        left = [one for one in self.numbers if self.first + one not in finished]
        return replace(self, numbers=left)

    @property
    def row_count(self) -> int:
        """Rows in all blocks together."""
        return sum(min(self.size, len(self.rows) - one * self.size) for one in self.numbers)


def _plain(column: str) -> str:
    """A name as the known names are written."""
    return column.strip().lower().replace(" ", "_")


def _holds_texts(cells: Sequence[Any]) -> bool:
    filled = [cell for cell in cells if cell not in (None, "")]
    texts = [cell for cell in filled if isinstance(cell, str) and len(cell.split()) >= _TEXT]
    return 2 * len(texts) > len(filled)


def output_format(where: File) -> Format:
    """The format that the end of an output's name says.

    Raises:
        InvalidInput: it says none.
    """
    if where.suffix not in OUTPUT_FORMATS:
        raise InvalidInput(f"{where.name}: the name must end in .parquet, .csv or .jsonl")
    return OUTPUT_FORMATS[where.suffix]


def scan(name: str | Path, on_row: OnRow | None = None, default: Format | None = None) -> Corpus:
    """Reads a corpus once, from start to end.

    Args:
        name: a path or `s3://BUCKET/KEY` of a .csv, .tsv, .jsonl, .json or .parquet file, maybe
            with .gz; or a folder of these, or one that `datasets` saved. CSV has a header.
        on_row: called with the number (from 0) and the cells of each row.
        default: the format where the name says none.

    Raises:
        InvalidInput: the file cannot be read or is malformed; file and row are named.
    """
    found = open_input(name, default)
    stamp = found.place.stamp()
    kinds: dict[str, str] = {}
    starts, separator = array("q"), found.separator
    with found.place.open() as file:
        if found.format == "parquet":
            columns, rows, digest = _scan_parquet(found.name, file, on_row)
        else:
            lines = Lines(found.name, file, start=True)
            form = text_format(lines, found.format, found.separator)
            kinds, starts = _scan_text(lines, form, on_row)
            columns, rows, digest = tuple(kinds), len(starts) - 1, lines.hash.hexdigest()
            separator = form.separator
    notes = found.notes
    if separator != found.separator:
        between = SEPARATORS.get(separator, repr(separator))
        notes += (f"{found.name} is read with {between} between its cells",)
    # Absolute, so that a worker in another folder opens the same file.
    path = Path(found.place.name).expanduser().absolute() if found.place.local else found.place.name
    source = Source(found.name, str(path), found.format, columns, separator, stamp)
    source.check_unchanged()
    return Corpus(source, rows, found.sha256 or digest, kinds, notes, starts, found)


def read_rows(source: Source, block: Block, columns: Sequence[str] | None = None) -> list[Row]:
    """The rows of a block, in order; with `columns`, those cells at least.

    Raises:
        InvalidInput: the file cannot be read, or is no longer the one that was scanned.
    """
    source.check_unchanged()
    if source.format == "parquet":
        rows = _parquet_rows(source, block, columns)
    else:
        form = TextFormat(source.format, source.columns, source.separator)
        rows = []
        for span in block.spans:
            content = io.BytesIO(source.place.span(span.start, span.end))
            lines = Lines(source.name, content, start=span.start == 0)
            rows += [row for row, _ in text_rows(lines, form)]
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


def _scan_text(
    lines: Lines, form: TextFormat, on_row: OnRow | None
) -> tuple[dict[str, str], array[int]]:
    """The kinds of the columns, and where each row begins and the last ends."""
    kinds = dict.fromkeys(form.columns, "string")
    starts = array("q")
    for number, (row, start) in enumerate(text_rows(lines, form)):
        starts.append(start)
        if form.kind == "jsonl":
            for column, value in row.items():
                kinds[column] = _widened(kinds.get(column, "null"), _kind(value))
        if on_row is not None:
            on_row(number, row)
    starts.append(lines.position)
    return {name: "string" if kind == "null" else kind for name, kind in kinds.items()}, starts


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


def _scan_parquet(
    name: str, file: BinaryIO, on_row: OnRow | None
) -> tuple[tuple[str, ...], int, str]:
    """Columns, rows and sha256."""
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
    return columns, parquet.file.metadata.num_rows, digest.hexdigest()


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
