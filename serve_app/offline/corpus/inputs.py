"""Turns whatever a user names as a corpus into one plain file that can be read in parts.

CSV, JSON lines and Parquet stay where they are. What is compressed, in UTF-16, a list in a `.json`,
an Arrow file, a folder of files or one that `datasets` saved is copied into a temporary file of one
of the three, once. Knows no columns but the `split` of a saved data set.
"""

from __future__ import annotations

import codecs
import contextlib
import gzip
import hashlib
import io
import json
import re
import tempfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, Any, BinaryIO, Literal

from serve_app.core.documents import read_json, unique
from serve_app.core.errors import InvalidInput
from serve_app.offline.corpus.parquet import MOST_UNPACKED, open_parquet_file, parquet_batches
from serve_app.offline.corpus.text_rows import (
    LONGEST_ROW,
    Lines,
    json_row,
    shown,
    text_format,
    text_rows,
)
from serve_app.storage.base import File
from serve_app.storage.locate import locate

Format = Literal["csv", "jsonl", "parquet"]
_FORMATS: dict[str, Format] = {
    ".csv": "csv",
    ".tsv": "csv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "jsonl",
    ".parquet": "parquet",
    ".arrow": "parquet",
}
_CHUNK = 1 << 20  # bytes copied at a time
_SPACE = re.compile(r"[ \t\r\n]*")


@dataclass(frozen=True)
class Input:
    """A file that can be read in parts.

    Attributes:
        name: what the user called it.
        place: where it is.
        format: of the file at `place`.
        separator: usual one of such a CSV.
        notes: what was chosen for the user, to be told.
        sha256: of the input's bytes where `place` is a copy, else "".
        copy: the folder of the copy, which goes with this object.
    """

    name: str
    place: File
    format: Format
    separator: str = ","
    notes: tuple[str, ...] = ()
    sha256: str = ""
    copy: Any = field(default=None, repr=False)


def open_input(name: str | Path, default: Format | None = None) -> Input:
    """The input as a plain file.

    Args:
        name: a path, `s3://BUCKET/KEY`, or a folder on this machine.
        default: the format where a name says none.

    Raises:
        InvalidInput: it cannot be read, or is no corpus; it is named.
    """
    text = str(name)
    path = Path(text).expanduser()
    if "://" not in text and path.is_dir():
        return _joined(text, path)
    where = locate(name)
    lower = where.name.lower()
    suffix = Path(lower.removesuffix(".gz")).suffix
    kind = _FORMATS.get(suffix, default)
    if kind is None:
        raise InvalidInput(
            f"{where.name}: the name must end in .csv, .tsv, .jsonl, .json or .parquet, or in one "
            "of these and .gz"
        )
    found = Input(where.name, where, kind, "\t" if suffix == ".tsv" else ",")
    try:
        if lower.endswith(".gz"):
            found = _copied(found, _unpacked)
        if kind != "parquet":
            with found.place.open() as file:
                begins = file.read(_CHUNK)
            encoding = _utf16(begins)
            if encoding is not None:
                found = _copied(found, lambda place, out: _recoded(place, encoding, out))
                found = replace(found, notes=(f"{where.name} is read as UTF-16",))
                with found.place.open() as file:
                    begins = file.read(_CHUNK)
            if suffix == ".json" and begins.removeprefix(codecs.BOM_UTF8).lstrip()[:1] == b"[":
                found = _copied(found, lambda place, out: _items(where.name, place, out))
        elif suffix == ".arrow":
            found = _copied(found, lambda place, out: _tables([(where.name, place, None)], out))
    except OSError as error:
        raise _no_room(where.name, error) from error
    return found


def _copied(found: Input, write: Any) -> Input:
    """The input with its file replaced by a copy that `write(place, out)` makes."""
    folder = tempfile.TemporaryDirectory(prefix="plainmed-")
    path = Path(folder.name) / "copy"
    with path.open("wb") as out:
        write(found.place, out)
    digest = found.sha256 or _sha256([found.place])
    return replace(found, place=locate(path), sha256=digest, copy=folder)


def _no_room(name: str, error: OSError) -> InvalidInput:
    return InvalidInput(
        f"cannot copy {name} into {tempfile.gettempdir()}: {error.strerror or error}; set TMPDIR "
        "to a folder with room"
    )


def _sha256(places: Sequence[File]) -> str:
    """Of the bytes of the files, one after the other."""
    digest = hashlib.sha256()
    for place in places:
        with place.open() as file:
            while chunk := file.read(_CHUNK):
                digest.update(chunk)
    return digest.hexdigest()


# --- one file ---------------------------------------------------------------------------


def _unpacked(place: File, out: IO[bytes]) -> None:
    with place.open() as file:
        left = MOST_UNPACKED * max(file.seek(0, io.SEEK_END), 1 << 20)
        file.seek(0)
        try:
            with gzip.open(file) as packed:
                while chunk := packed.read(_CHUNK):
                    left -= len(chunk)
                    if left < 0:
                        raise InvalidInput(
                            f"{place.name} unpacks to more than {MOST_UNPACKED} times its size, as "
                            "no file of texts does; if it is one all the same, unpack it yourself"
                        )
                    out.write(chunk)
        except (gzip.BadGzipFile, EOFError, zlib.error) as error:
            raise InvalidInput(f"{place.name} cannot be unpacked: {error}") from error


def _utf16(begins: bytes) -> str | None:
    """The UTF-16 that a file begins as, by its mark or its zeros; None for anything else."""
    if begins.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16"
    zeros = [at for at, byte in enumerate(begins[:4]) if byte == 0]
    if zeros == [1, 3]:
        return "utf-16-le"
    return "utf-16-be" if zeros == [0, 2] else None


def _recoded(place: File, encoding: str, out: IO[bytes]) -> None:
    with io.TextIOWrapper(place.open(), encoding, newline="") as text:
        try:
            while chunk := text.read(_CHUNK):
                out.write(chunk.encode())
        except ValueError as error:
            raise InvalidInput(f"{place.name} is not UTF-16 text: {error}") from error


def _items(name: str, place: File, out: IO[bytes]) -> None:
    """The objects of a JSON list as JSON lines, one in memory at a time."""
    decoder = json.JSONDecoder(object_pairs_hook=unique)
    with io.TextIOWrapper(place.open(), "utf-8-sig") as file:
        text, at = "", 0

        def more() -> bool:
            nonlocal text, at
            chunk = file.read(max(_CHUNK, len(text) - at))
            text, at = text[at:] + chunk, 0
            return bool(chunk)

        def following() -> str:
            """The next character that is no space; "" at the end."""
            nonlocal at
            while True:
                at = _SPACE.match(text, at).end()  # type: ignore[union-attr]  # matches always
                if at < len(text) or not more():
                    return text[at : at + 1]

        try:
            following()
            at += 1  # the bracket
            number = 0
            while following() != "]":
                number += 1
                while True:
                    try:
                        item, end = decoder.raw_decode(text, at)
                        break
                    except json.JSONDecodeError as error:
                        if len(text) - at > LONGEST_ROW or not more():
                            raise ValueError(f"item {number} is not JSON: {error}") from error
                row = json_row(f"{name}: item {number}", item)
                out.write(json.dumps(row).encode() + b"\n")
                at = end
                if following() == ",":
                    at += 1
                elif following() != "]":
                    raise ValueError(f"there is no comma after item {number}")
            at += 1
            if following():
                raise ValueError("something follows the list")
        except InvalidInput:
            raise
        except (ValueError, RecursionError) as error:
            raise InvalidInput(f"{name}: {error}") from error


# --- folders ----------------------------------------------------------------------------


def _joined(name: str, folder: Path) -> Input:
    """The files of a folder as one."""
    files, notes = _members(name, folder)
    kinds = {_format_of(path) for path, _ in files}
    if len(kinds) != 1:
        raise InvalidInput(f"{name} has files of several formats; give a folder of one")
    kind: Format = "parquet" if "parquet" in kinds else "jsonl"

    def write(_: File, out: IO[bytes]) -> None:
        if kind == "parquet":
            _tables([(str(path), locate(path), split) for path, split in files], out)
        else:
            _lines([path for path, _ in files], out)

    try:
        digest = _sha256([locate(path) for path, _ in files])
        found = Input(name, locate(name), kind, notes=tuple(notes), sha256=digest)
        return _copied(found, write)
    except OSError as error:
        raise _no_room(name, error) from error


def _format_of(path: Path) -> Format | None:
    return _FORMATS.get(Path(path.name.lower().removesuffix(".gz")).suffix)


def _members(name: str, folder: Path) -> tuple[list[tuple[Path, str | None]], list[str]]:
    """The files of a folder in order, each with its split, and notes for the user."""
    splits = folder / "dataset_dict.json"
    if splits.is_file():
        names = _list(splits, "splits")
        found = [(path, split) for split in names for path in _saved(folder / split)]
        return found, [f"{name} is read with its splits {shown(names)}, in this order"]
    if (folder / "state.json").is_file():
        return [(path, None) for path in _saved(folder)], []
    there = sorted(path for path in folder.iterdir() if path.name[:1] not in (".", "_"))
    files = [path for path in there if path.is_file() and _format_of(path)]
    if not files:
        raise InvalidInput(f"{name} is a folder without a .csv, .tsv, .jsonl, .json or .parquet")
    notes = [f"{name} is read as {len(files)} files, in the order of their names"]
    left_out = [path.name for path in there if path not in files]
    if left_out:
        notes.append(f"{name}: left out are {shown(left_out)}")
    return [(path, None) for path in files], notes


def _saved(folder: Path) -> list[Path]:
    """The Arrow files of a folder that `datasets` saved, in its order."""
    names = [one.get("filename") for one in _list(folder / "state.json", "_data_files", dict)]
    for name in names:
        if not isinstance(name, str) or Path(name).name != name:
            raise InvalidInput(f"{folder / 'state.json'}: {name!r:.80} is no name of a file")
    return [folder / name for name in names]


def _list(path: Path, key: str, kind: type = str) -> list[Any]:
    try:
        found = read_json(path)[key]
        if isinstance(found, list) and found and all(isinstance(one, kind) for one in found):
            return found
        raise ValueError(f"{key} is no list")
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise InvalidInput(f"{path} is not what `datasets` writes: {error!r}") from error


def _lines(files: Sequence[Path], out: IO[bytes]) -> None:
    """The rows of text files as JSON lines."""
    columns = None
    for path in files:
        found = open_input(path)
        with found.place.open() as file:
            lines = Lines(found.name, file, start=True)
            form = text_format(lines, found.format, found.separator)
            if form.columns != (columns or form.columns):
                raise InvalidInput(f"{found.name} has other columns than {files[0]}")
            columns = form.columns
            out.writelines(json.dumps(row).encode() + b"\n" for row, _ in text_rows(lines, form))


# --- Arrow ------------------------------------------------------------------------------


def _tables(files: Sequence[tuple[str, File, str | None]], out: IO[bytes]) -> None:
    """The rows of Arrow and Parquet files as one Parquet file, with a column for the split."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    with contextlib.ExitStack() as stack:
        writer = None
        for name, place, split in files:
            file = stack.enter_context(place.open())
            for batch in _batches(name, file):
                if split is not None and "split" not in batch.schema.names:
                    batch = batch.append_column("split", pa.array([split] * len(batch)))
                if writer is None:
                    writer = stack.enter_context(pq.ParquetWriter(out, batch.schema))
                elif not batch.schema.equals(writer.schema):
                    raise InvalidInput(f"{name} has other columns than {files[0][0]}")
                writer.write_batch(batch)
        if writer is None:
            raise InvalidInput(f"{files[0][0]}: there are no rows")


def _batches(name: str, file: BinaryIO) -> Iterator[Any]:
    import pyarrow as pa

    magic = file.read(6)
    file.seek(0)
    if magic[:4] == b"PAR1":
        yield from parquet_batches(open_parquet_file(name, file))
        return
    try:
        if magic == b"ARROW1":
            reader = pa.ipc.open_file(file)
            batches: Any = (reader.get_batch(at) for at in range(reader.num_record_batches))
        else:
            batches = pa.ipc.open_stream(file)
        for batch in batches:
            batch.validate(full=True)
            yield batch
    except (pa.ArrowException, OSError, ValueError) as error:
        if isinstance(error, InvalidInput):
            raise
        raise InvalidInput(f"{name} cannot be read as Arrow: {error}") from error
