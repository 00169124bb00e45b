"""Parquet files, whose size in memory a file's own size does not show.

A few kilobytes may unpack to any amount: what a file says of itself is checked before any of it is
decoded, and what comes out is counted row by row as it does. Knows no blocks and no places.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO

from serve_app.core.errors import InvalidInput

LONGEST_VALUE = 64 << 20
"""Most bytes of one value of fixed length: a thousand times a long article."""

MOST_UNPACKED = 1000
"""A file may unpack to so many times its size (counted as a MiB at least): texts that are
repeated in every row reach a tenth of that."""

_ROW_COST = 64  # bytes that a row counts beside its content
_BUFFER = 1 << 20  # bytes read at a time
_ROWS = 256  # decoded at a time
_AT_ONCE = 256 << 20  # bytes that may be decoded together where a file says little of them
_PER_STORED = 16  # bytes of memory a byte of a list may become: of one that is there once


@dataclass(frozen=True)
class Parquet:
    """An open file.

    Attributes:
        name: for messages.
        file: the `pyarrow.parquet.ParquetFile`, which reads texts and bytes as dictionaries, also
            those in lists: one that is repeated a million times is in memory once, until it is
            known how much it is in all.
        schema_arrow: the types of the columns as they are in the file.
        most: bytes it may unpack to.
        rows: how many are decoded at a time.
    """

    name: str
    file: Any
    schema_arrow: Any
    most: int
    rows: int

    @property
    def metadata(self) -> Any:
        """Rows and row groups."""
        return self.file.metadata

    def close(self) -> None:
        """Closes it, whoever opened it."""
        self.file.close(force=True)


def opened(name: str, file: BinaryIO) -> Parquet:
    """The file, for a reading in order.

    Raises:
        InvalidInput: it is no such file, or says that it takes more memory than it may.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        # Buffered and not prefetched: a row group larger than memory must be readable too.
        options: dict[str, Any] = {"buffer_size": _BUFFER, "pre_buffer": False}
        plain = pq.ParquetFile(file, **options)
        leaves = [plain.schema.column(at) for at in range(plain.metadata.num_columns)]
        texts = [one.path for one in leaves if one.physical_type == "BYTE_ARRAY"]
        size = file.seek(0, io.SEEK_END)
        found = pq.ParquetFile(file, metadata=plain.metadata, read_dictionary=texts, **options)
        groups = found.metadata.num_row_groups
    except (pa.ArrowException, OSError, ValueError) as error:
        raise InvalidInput(f"{name} is not a Parquet file: {error}") from error
    most = MOST_UNPACKED * max(size, 1 << 20)
    for at in range(groups):
        _require_honest(name, found.metadata.row_group(at), leaves, most)
    # Values of fixed length are in no dictionary: few rows of long ones, so that little is decoded
    # before it is counted.
    fixed = sum(one.length for one in leaves)
    rows = max(1, min(_ROWS, LONGEST_VALUE // max(fixed, 1)))
    return Parquet(name, found, plain.schema_arrow, most, rows)


def _require_honest(name: str, group: Any, leaves: Sequence[Any], most: int) -> None:
    """Raises `InvalidInput` where a row group says that it takes more memory than it may.

    The content of lists may all be in one row, so what is decoded at a time does not bound it.
    """
    stored = decoded = 0
    for at, leaf in enumerate(leaves):
        chunk = group.column(at)
        values = chunk.num_values * (leaf.length or 8)  # of those of no fixed length, a pointer
        allowed = max(_AT_ONCE, _PER_STORED * chunk.total_uncompressed_size)
        if leaf.length > LONGEST_VALUE or (leaf.max_repetition_level and values > allowed):
            what, size = ("lists", values) if leaf.max_repetition_level else ("values", leaf.length)
            raise InvalidInput(
                f"{name}: the {what} of {leaf.path} take {size >> 20} MiB, far more than their "
                "size in the file; leave the column out, or save it as JSON lines"
            )
        stored += chunk.total_uncompressed_size
        decoded += values
    if max(stored, decoded) > most:
        raise InvalidInput(_too_much(name, most))


def _too_much(name: str, most: int) -> str:
    return (
        f"{name} unpacks to more than {most >> 20} MiB, {MOST_UNPACKED} times its size, as no file "
        "of texts does; if it is one all the same, save it as CSV or JSON lines"
    )


def parquet_batches(
    parquet: Parquet, groups: Iterable[int] | None = None, columns: Any = None
) -> Iterator[Any]:
    """Record batches in order, of a few hundred rows at most.

    Raises:
        InvalidInput: the file is damaged, or unpacks to more than it may.
    """
    import pyarrow as pa

    name, unpacked = parquet.name, 0
    try:
        for batch in parquet.file.iter_batches(
            batch_size=parquet.rows, row_groups=groups, columns=columns, use_threads=False
        ):
            unpacked += _ROW_COST * batch.num_rows + sum(map(_unpacked, batch.columns))
            if unpacked > parquet.most:
                raise InvalidInput(_too_much(name, parquet.most))
            fields = [parquet.schema_arrow.field(one) for one in batch.schema.names]
            plain = [
                _plain(column, one.type) for column, one in zip(batch.columns, fields, strict=True)
            ]
            yield pa.record_batch(plain, schema=pa.schema(fields))
    except (pa.ArrowException, OSError) as error:
        raise InvalidInput(f"{name} cannot be read as Parquet: {error}") from error


def _unpacked(column: Any) -> int:
    """Bytes of a column once each of its texts stands for itself."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if pa.types.is_nested(column.type):
        parts = [column.keys, column.items] if pa.types.is_map(column.type) else column.flatten()
        return 8 * len(column) + sum(map(_unpacked, parts if isinstance(parts, list) else [parts]))
    if not pa.types.is_dictionary(column.type) or not len(column.dictionary):
        return int(column.nbytes)
    lengths = pc.binary_length(column.dictionary).take(column.indices)
    return int(pc.sum(lengths).as_py() or 0)


def _plain(column: Any, kind: Any) -> Any:
    """A column as the file has it, where it was read as a dictionary or has such within."""
    import pyarrow as pa

    if column.type == kind:
        return column
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    return column.cast(kind)
