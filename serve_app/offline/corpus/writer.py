"""Writes the output: every input row with its results, in the input's order.

Reads the input a second time, beside the finished blocks, and holds a few hundred rows at a
time. Knows formats; knows no metric and no engine.
"""

from __future__ import annotations

import contextlib
import csv
import io
import itertools
import json
import math
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from typing import IO, Any

from serve_app.core.documents import has_surrogate
from serve_app.core.errors import InvalidInput
from serve_app.metrics.loss import METRICS
from serve_app.offline.corpus.journal import Journal
from serve_app.offline.corpus.parquet import parquet_batches
from serve_app.offline.corpus.reader import (
    Block,
    Corpus,
    open_parquet,
    output_format,
    read_all,
)
from serve_app.offline.corpus.scoring import FINDINGS, RowError, RowResult, Task
from serve_app.offline.corpus.text_rows import Row
from serve_app.storage.base import File

NUMBERS = (*METRICS, "loss")
RESULT_COLUMNS = (
    *NUMBERS,
    "error",
    "error_code",
    "language",
    "original_column",
    "generated_column",
)
"""The new columns: the last two name the columns of the texts that the numbers are of."""

Systems = Sequence[tuple[Task, str]]


def result_columns(task: Task) -> tuple[str, ...]:
    """The new columns of a system: with those of `FINDINGS` where they are counted."""
    return (*RESULT_COLUMNS, *FINDINGS) if task.findings else RESULT_COLUMNS


def write_scored(
    out: File, corpus: Corpus, blocks: Sequence[Block], systems: Systems, journal: Journal
) -> int:
    """Writes all rows with the `result_columns` of each system added.

    Args:
        out: the file; complete or not at all.
        corpus: the input.
        blocks: all its blocks in order.
        systems: what was scored, and the prefix of its columns.
        journal: has the results of each block, system after system.

    Returns:
        How many pairs have no numbers.

    Raises:
        InvalidInput: the input changed, or the output cannot be written.
    """
    failed = 0

    def cells(at: int, task: Task, prefix: str) -> Iterator[Row]:
        nonlocal failed
        numbers = range(at * len(blocks), (at + 1) * len(blocks))
        for block, rows in zip(blocks, journal.results(numbers), strict=True):
            if len(rows) != block.count:
                raise InvalidInput(f"block {block.number} of {out.name} is incomplete; run again")
            failed += sum(isinstance(row, RowError) for row in rows)
            yield from (_cells(row, task, prefix) for row in rows)

    new: Iterator[Row] = map(
        _merged, zip(*(cells(at, *one) for at, one in enumerate(systems)), strict=True)
    )
    target = output_format(out)
    with out.written() as file:
        if target == "parquet":
            _parquet(file, corpus, blocks, systems, new)
        else:
            chunks = _with_cells(corpus, read_all(corpus, blocks), new)
            rows = ({**row, **added} for pair in chunks for row, added in zip(*pair, strict=True))
            if target == "csv":
                _csv(file, [*corpus.source.columns, *_names(systems)], rows)
            else:
                file.writelines(_json(row).encode("utf-8", _ESCAPE) + b"\n" for row in rows)
    return failed


def _merged(rows: Sequence[Row]) -> Row:
    return {name: cell for row in rows for name, cell in row.items()}


# A lone surrogate has no UTF-8 form.
_ESCAPE = "backslashreplace"


def _with_cells(
    corpus: Corpus, chunks: Iterable[Any], cells: Iterator[Row]
) -> Iterator[tuple[Any, list[Row]]]:
    """Some rows at a time (a list or a record batch), with the new cells of each."""
    count = 0
    for chunk in chunks:
        count += len(chunk)
        found = list(itertools.islice(cells, len(chunk)))
        if len(found) == len(chunk):
            yield chunk, found
    if count != corpus.rows or next(cells, None) is not None:
        raise corpus.source.changed()


def _names(systems: Systems) -> list[str]:
    return [prefix + name for task, prefix in systems for name in result_columns(task)]


def _cells(result: RowResult, task: Task, prefix: str) -> Row:
    if isinstance(result, RowError):
        values: Sequence[Any] = (*[None] * len(NUMBERS), result.message, result.code, None)
    else:
        values = (*result.values, result.loss, None, None, result.language)
    counts = None if isinstance(result, RowError) else result.findings
    values = (*values, task.original, task.generated)
    if task.findings:
        values = (*values, *(counts or [None] * len(FINDINGS)))
    return {prefix + name: value for name, value in zip(result_columns(task), values, strict=True)}


def _csv(file: IO[bytes], columns: Sequence[str], rows: Iterable[Row]) -> None:
    text = io.TextIOWrapper(file, encoding="utf-8", errors=_ESCAPE, newline="")
    writer = csv.DictWriter(text, columns, restval="")
    writer.writeheader()
    for row in rows:
        writer.writerow({name: _csv_cell(cell) for name, cell in row.items()})
    text.detach()  # flushes; the file is closed by who opened it


def _csv_cell(value: Any) -> Any:
    if isinstance(value, dict | list | bytes):
        return _json(value)
    return None if isinstance(value, float) and math.isnan(value) else value


def _json(value: Any) -> str:
    # Dates, decimals and the like of a Parquet input have no JSON form but their text.
    form = partial(json.dumps, default=_as_text, allow_nan=False)
    try:
        text = form(value, ensure_ascii=False)
    except ValueError:  # JSON has neither NaN nor infinity
        value = _finite(value)
        text = form(value, ensure_ascii=False)
    return form(value) if has_surrogate(text) else text  # escaped as it came


def _finite(value: Any) -> Any:
    """The value with null for every number that is none."""
    if isinstance(value, dict):
        return {name: _finite(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _as_text(value: Any) -> str:
    return value.decode("utf-8", _ESCAPE) if isinstance(value, bytes) else str(value)


def _parquet(
    file: IO[bytes],
    corpus: Corpus,
    blocks: Sequence[Block],
    systems: Systems,
    cells: Iterator[Row],
) -> None:
    """Columns of a Parquet input keep their types and metadata."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    types = dict.fromkeys(NUMBERS, pa.float64()) | dict.fromkeys(FINDINGS, pa.int64())
    added = [
        pa.field(prefix + name, types.get(name, pa.string()))
        for task, prefix in systems
        for name in result_columns(task)
    ]
    with contextlib.ExitStack() as stack:
        if corpus.source.format == "parquet":
            parquet = stack.enter_context(contextlib.closing(open_parquet(corpus.source)))
            schema, batches = parquet.schema, parquet_batches(parquet)
        else:
            schema = _schema(corpus)
            batches = (_batch(rows, corpus, schema) for rows in read_all(corpus, blocks))
        whole = pa.schema([*schema, *added], metadata=schema.metadata)
        writer = stack.enter_context(pq.ParquetWriter(file, whole))
        for batch, found in _with_cells(corpus, batches, cells):
            new = [pa.array([one[field.name] for one in found], field.type) for field in added]
            writer.write_batch(pa.record_batch([*batch.columns, *new], schema=whole))


def _schema(corpus: Corpus) -> Any:
    """The types of the columns of CSV or JSON lines."""
    import pyarrow as pa

    types = {"int64": pa.int64(), "double": pa.float64(), "bool": pa.bool_()}
    return pa.schema([(name, types.get(kind, pa.string())) for name, kind in corpus.kinds.items()])


def _batch(rows: Sequence[Row], corpus: Corpus, schema: Any) -> Any:
    import pyarrow as pa

    columns = [
        pa.array([_parquet_cell(row.get(name), kind) for row in rows], schema.field(name).type)
        for name, kind in corpus.kinds.items()
    ]
    return pa.record_batch(columns, schema=schema)


def _parquet_cell(value: Any, kind: str) -> Any:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    if kind == "json" and not isinstance(value, str):
        return _json(value)
    if kind == "double":
        return float(value)
    if isinstance(value, str) and not value.isascii():
        return value.encode("utf-8", _ESCAPE).decode("utf-8")
    return value
