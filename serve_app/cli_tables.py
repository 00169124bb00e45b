"""Reads and writes the tables of texts the command line works on: CSV and JSON lines.

Knows files, rows and columns, and says which of them is wrong; knows no metric. A table is
held in memory whole; split a corpus too large for that into several files.
"""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from serve_app.errors import InvalidInput

SUFFIXES = (".csv", ".jsonl")
_LONGEST_FIELD = 2**31 - 1  # csv refuses fields over 128 KiB by default

Row = dict[str, Any]


@dataclass(frozen=True)
class Table:
    """Rows of a file, and the columns in the order they were first seen."""

    path: Path
    columns: list[str]
    rows: list[Row]

    def column(self, wanted: str | None, known: Sequence[str], option: str) -> str:
        """The column `wanted`, else the first of `known` that is there.

        Raises:
            InvalidInput: there is no such column; `option` is named as the way out.
        """
        there = ", ".join(self.columns)
        if wanted is not None:
            if wanted in self.columns:
                return wanted
            raise InvalidInput(f"{self.path}: there is no column {wanted!r}; there are: {there}")
        for name in known:
            if name in self.columns:
                return name
        raise InvalidInput(
            f"{self.path}: none of the columns {', '.join(known)} is there; there are: {there}; "
            f"name one with {option}"
        )


def read_table(path: Path) -> Table:
    """The rows of a .csv (with a header) or .jsonl (one object a line) file in UTF-8.

    Raises:
        InvalidInput: the file cannot be read or is malformed; file and row are named.
    """
    check_suffix(path)
    text = read_text(path)
    rows = list(_csv_rows(path, text) if path.suffix.lower() == ".csv" else _json_rows(path, text))
    if not rows:
        raise InvalidInput(f"{path}: there are no rows")
    columns = list(dict.fromkeys(name for row in rows for name in row))
    return Table(path, columns, rows)


def read_text(path: Path) -> str:
    """A whole UTF-8 file.

    Raises:
        InvalidInput: it cannot be read, or is not UTF-8.
    """
    try:
        return path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise InvalidInput(f"cannot read {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise InvalidInput(f"{path} is not UTF-8 text (byte {error.start})") from error


def check_suffix(path: Path) -> None:
    """Raises `InvalidInput` unless the file name says which format it is."""
    if path.suffix.lower() not in SUFFIXES:
        raise InvalidInput(f"{path}: the name must end in {' or '.join(SUFFIXES)}")


def _csv_rows(path: Path, text: str) -> Iterator[Row]:
    csv.field_size_limit(_LONGEST_FIELD)
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    number = 0
    try:
        names = reader.fieldnames or []
        if len(set(names)) != len(names):
            raise InvalidInput(f"{path}: the header names a column twice")
        for number, row in enumerate(reader, start=1):
            if None in row or None in row.values():
                raise InvalidInput(
                    f"{path}: row {number} (up to line {reader.line_num}) does not have the "
                    f"{len(names)} fields of the header"
                )
            yield row
    except csv.Error as error:
        raise InvalidInput(f"{path}: row {number + 1} is not CSV: {error}") from error


def _json_rows(path: Path, text: str) -> Iterator[Row]:
    # Not splitlines: JSON may hold U+2028 and the like unescaped.
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise InvalidInput(f"{path}: line {number} is not JSON: {error}") from error
        if not isinstance(row, dict):
            raise InvalidInput(f"{path}: line {number} is not a JSON object")
        yield row


def write_table(path: Path, columns: Sequence[str], rows: Iterable[Row]) -> None:
    """Writes the rows as they come, in the format of the suffix; complete or not at all.

    Raises:
        InvalidInput: the file cannot be written.
    """
    with written_beside(path) as file:
        if path.suffix.lower() == ".csv":
            writer = csv.DictWriter(file, columns, restval="")
            writer.writeheader()
            writer.writerows({name: _cell(row[name]) for name in row} for row in rows)
        else:
            for row in rows:
                file.write(json.dumps(row, ensure_ascii=False) + "\n")


def _cell(value: Any) -> Any:
    return json.dumps(value, ensure_ascii=False) if isinstance(value, dict | list) else value


@contextmanager
def written_beside(path: Path) -> Iterator[IO[str]]:
    """A file that takes its name only once it is complete.

    Raises:
        InvalidInput: it cannot be written.
    """
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with part.open("w", encoding="utf-8", newline="") as file:
            yield file
        part.replace(path)
    except OSError as error:
        raise InvalidInput(f"cannot write {path}: {error.strerror}") from error
    finally:
        part.unlink(missing_ok=True)
