"""Rows of CSV and JSON lines in UTF-8, one at a time, each with the byte where it starts.

Finds out what separates the cells of a CSV. Knows syntax; knows no files and no columns.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO

from serve_app.core.documents import has_surrogate, unique
from serve_app.core.errors import InvalidInput
from serve_app.core.printable import printable
from serve_app.offline.corpus.parquet import LONGEST_VALUE

Row = dict[str, Any]

LONGEST_ROW = LONGEST_VALUE
"""Most bytes of one row, all its lines together."""

SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}
_SEPARATOR_LINE = re.compile(r"sep=(.)\r?\n?", re.IGNORECASE)  # Excel's hint


@dataclass(frozen=True)
class TextFormat:
    """How the rows of a file are written: the names of a CSV's columns and what separates them."""

    kind: str
    columns: tuple[str, ...] = ()
    separator: str = ","


def shown(names: Iterable[str], most: int = 12) -> str:
    """Names for a message: a few of them, shortened, control characters escaped."""
    names = [printable(name) for name in names]
    found = [name if len(name) <= 40 else f"{name[:39]}…" for name in names[:most]]
    return ", ".join(found) + (f" and {len(names) - most} more" if len(names) > most else "")


class Lines:
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

    def __iter__(self) -> Lines:
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


def text_format(lines: Lines, kind: str, separator: str = ",") -> TextFormat:
    """How a file is written, from its start; the header of a CSV is read.

    Args:
        lines: of the file, at its start.
        kind: the format.
        separator: the usual one; another is used where it makes more columns of the header.

    Raises:
        InvalidInput: the header is not CSV, or names a column twice.
    """
    if kind == "jsonl":
        return TextFormat(kind)
    header = ""
    candidates = dict.fromkeys((separator, *SEPARATORS))
    for line in lines:
        hint = None if header else _SEPARATOR_LINE.fullmatch(line)
        if hint is not None:
            candidates = {hint[1]: None}
            continue
        header += line
        # A name may have line ends, in quotes.
        if header.strip() and header.count('"') % 2 == 0:
            break
    columns: tuple[str, ...] = ()
    wrong = None
    for candidate in candidates:
        reader = csv.reader(io.StringIO(header, newline=""), strict=True, delimiter=candidate)
        try:
            found = tuple(next((cells for cells in reader if cells), []))
        except csv.Error as error:
            wrong = wrong or error
            continue
        # A quote inside a name: this character stands within a quoted name, and separates none.
        if len(found) > len(columns) and not any('"' in name for name in found):
            columns, separator = found, candidate
    if wrong is not None and not columns:
        raise InvalidInput(f"{lines.name}: the header is not CSV: {wrong}") from wrong
    if len(set(columns)) != len(columns):
        twice = next(name for name in columns if columns.count(name) > 1)
        raise InvalidInput(
            f"{lines.name}: the header names a column twice: {shown([twice])!r}; is it a header?"
        )
    return TextFormat(kind, columns, separator)


def text_rows(lines: Lines, form: TextFormat) -> Iterator[tuple[Row, int]]:
    """Each row and the byte it starts at.

    Raises:
        InvalidInput: a row is malformed; it is named.
    """
    return _csv_rows(lines, form) if form.kind == "csv" else _json_rows(lines)


def _csv_rows(lines: Lines, form: TextFormat) -> Iterator[tuple[Row, int]]:
    columns: Sequence[str] = form.columns
    before = csv.field_size_limit(LONGEST_ROW)  # of its own it takes 128 KiB
    try:
        reader = csv.reader(lines, strict=True, delimiter=form.separator)
        lines.row = 1
        while True:
            start = lines.begins = lines.position
            cells = next(reader, None)
            if cells is None:
                return
            if not cells:
                continue
            if len(cells) != len(columns):
                separators = SEPARATORS.get(form.separator, repr(form.separator))
                raise InvalidInput(
                    f"{lines.name}: row {lines.row} (up to line {lines.count}) does not have "
                    f"the {len(columns)} fields of the header, but {len(cells)}; put quotes "
                    f"around texts with {separators}"
                )
            yield dict(zip(columns, cells, strict=True)), start
            lines.row += 1
    except csv.Error as error:
        raise InvalidInput(f"{lines.name}: row {lines.row} is not CSV: {error}") from error
    finally:
        csv.field_size_limit(before)


def _json_rows(lines: Lines) -> Iterator[tuple[Row, int]]:
    start, lines.row = 0, 1
    for line in lines:
        if line.strip():
            where = f"{lines.name}: line {lines.row}"
            try:
                row = json.loads(line, object_pairs_hook=unique)
            except (ValueError, RecursionError) as error:
                raise InvalidInput(f"{where} is not JSON: {error}") from error
            yield json_row(where, row), start
        start = lines.begins = lines.position
        lines.row += 1


def json_row(where: str, row: Any) -> Row:
    """The value as a row.

    Raises:
        InvalidInput: it is no object, or a name has a lone surrogate.
    """
    if not isinstance(row, dict):
        raise InvalidInput(f"{where} is not a JSON object")
    # A cell may have a lone surrogate: its row is refused, or keeps it escaped. A column
    # would be found to have no name that can be written once all is scored.
    odd = next((column for column in row if has_surrogate(column)), None)
    if odd is not None:
        raise InvalidInput(f"{where}: the column {odd!r:.80} has a lone surrogate in its name")
    return row
