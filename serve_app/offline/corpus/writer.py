"""Writes the output: every input row with its results, in the input's order.

Reads the input a second time, beside the finished blocks, and holds a few hundred rows at a
time. Knows formats; knows no metric and no engine.
"""

from __future__ import annotations

import csv
import io
import itertools
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import IO, Any

from serve_app.core.errors import InvalidInput
from serve_app.metrics.loss import METRICS
from serve_app.offline.corpus.parquet import parquet_batches
from serve_app.offline.corpus.reader import (
    Block,
    Corpus,
    Format,
    Row,
    file_format,
    open_parquet,
    read_rows,
)
from serve_app.offline.corpus.scoring import RowError, RowResult
from serve_app.storage.base import File

NUMBERS = (*METRICS, "loss")
RESULT_COLUMNS = (*NUMBERS, "error", "error_code")


def write_scored(
    out: File,
    corpus: Corpus,
    blocks: Sequence[Block],
    results: Iterable[tuple[RowResult, ...]],
    prefix: str,
) -> int:
    """Writes all rows with the columns `RESULT_COLUMNS`, each under `prefix`, added.

    Args:
        out: the file; complete or not at all.
        corpus: the input.
        blocks: all its blocks in order.
        results: the results of each of them.
        prefix: put before the new columns.

    Returns:
        How many rows have no numbers.

    Raises:
        InvalidInput: the input changed, or the output cannot be written.
    """
    failed = 0

    def counted() -> Iterator[tuple[RowResult, ...]]:
        nonlocal failed
        for block, rows in zip(blocks, results, strict=True):
            if len(rows) != block.count:
                raise InvalidInput(f"block {block.number} of {out.name} is incomplete; run again")
            failed += sum(isinstance(row, RowError) for row in rows)
            yield rows

    target = file_format(out)
    with out.written() as file:
        if corpus.source.format == target == "parquet":
            _parquet_to_parquet(file, corpus, counted(), prefix)
        else:
            _rows_to(target)(file, corpus, _joined(corpus, blocks, counted(), prefix), prefix)
    return failed


def _joined(
    corpus: Corpus,
    blocks: Sequence[Block],
    results: Iterable[tuple[RowResult, ...]],
    prefix: str,
) -> Iterator[list[Row]]:
    """Some rows at a time, with their results."""
    chunks: Iterable[list[Row]]
    if corpus.source.format == "parquet":
        chunks = _parquet_chunks(corpus)
    else:
        chunks = (read_rows(corpus.source, block) for block in blocks)
    flat = (row for rows in results for row in rows)
    count = 0
    for chunk in chunks:
        count += len(chunk)
        yield [{**row, **_cells(result, prefix)} for row, result in zip(chunk, flat, strict=False)]
    # `counted` checks each block where it is asked for, which here is while rows last.
    if count != corpus.rows or next(flat, None) is not None:
        raise InvalidInput(f"{corpus.source.name} changed while it was worked on; start again")


def _parquet_chunks(corpus: Corpus) -> Iterator[list[Row]]:
    parquet = open_parquet(corpus.source)
    try:
        for batch in parquet_batches(parquet):
            yield batch.to_pylist()
    finally:
        parquet.close()


def _cells(result: RowResult, prefix: str) -> Row:
    values: Row = dict.fromkeys(RESULT_COLUMNS)
    if isinstance(result, RowError):
        values |= {"error": result.message, "error_code": result.code}
    else:
        values |= zip(NUMBERS, (*result.values, result.loss), strict=True)
    return {prefix + name: value for name, value in values.items()}


Writer = Callable[[IO[bytes], Corpus, Iterable[list[Row]], str], None]


def _rows_to(target: Format) -> Writer:
    writers: dict[Format, Writer] = {"csv": _csv, "jsonl": _jsonl, "parquet": _parquet}
    return writers[target]


def _csv(file: IO[bytes], corpus: Corpus, chunks: Iterable[list[Row]], prefix: str) -> None:
    columns = [*corpus.source.columns, *(prefix + name for name in RESULT_COLUMNS)]
    text = io.TextIOWrapper(file, encoding="utf-8", errors="backslashreplace", newline="")
    writer = csv.DictWriter(text, columns, restval="")
    writer.writeheader()
    for chunk in chunks:
        writer.writerows({name: _csv_cell(row[name]) for name in row} for row in chunk)
    text.detach()  # flushes; the file is closed by who opened it


def _csv_cell(value: Any) -> Any:
    return _json_text(value) if isinstance(value, dict | list | bytes) else value


def _jsonl(file: IO[bytes], _: Corpus, chunks: Iterable[list[Row]], __: str) -> None:
    for chunk in chunks:
        file.write(
            b"".join(_json_text(row).encode("utf-8", "backslashreplace") + b"\n" for row in chunk)
        )


def _json_text(value: Any) -> str:
    # Dates, decimals and the like of a Parquet input have no JSON form but their text.
    text = json.dumps(value, ensure_ascii=False, default=_as_text)
    if not text.isascii() and any("\ud800" <= char <= "\udfff" for char in text):
        return json.dumps(value, default=_as_text)  # a lone surrogate, escaped as it came
    return text


def _as_text(value: Any) -> str:
    return value.decode("utf-8", "backslashreplace") if isinstance(value, bytes) else str(value)


def _parquet(file: IO[bytes], corpus: Corpus, chunks: Iterable[list[Row]], prefix: str) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    types = {"string": pa.string(), "json": pa.string(), "int64": pa.int64(), "bool": pa.bool_()}
    fields = [
        pa.field(name, types.get(corpus.kinds[name], pa.float64()))
        for name in corpus.source.columns
    ]
    schema = pa.schema([*fields, *_result_fields(prefix)])
    with pq.ParquetWriter(file, schema) as writer:
        for chunk in chunks:
            writer.write_table(
                pa.table(
                    {
                        field.name: pa.array(
                            [_parquet_cell(row.get(field.name), corpus, field) for row in chunk],
                            field.type,
                        )
                        for field in schema
                    },
                    schema,
                )
            )


def _parquet_cell(value: Any, corpus: Corpus, field: Any) -> Any:
    if value is None:
        return None
    kind = corpus.kinds.get(field.name)
    if kind == "json" and not isinstance(value, str):
        return json.dumps(value)
    if kind == "double":
        return float(value)
    if isinstance(value, str) and not value.isascii():
        return value.encode("utf-8", "backslashreplace").decode("utf-8")
    return value


def _result_fields(prefix: str) -> list[Any]:
    import pyarrow as pa

    return [
        pa.field(prefix + name, pa.float64() if name in NUMBERS else pa.string())
        for name in RESULT_COLUMNS
    ]


def _parquet_to_parquet(
    file: IO[bytes], corpus: Corpus, results: Iterable[tuple[RowResult, ...]], prefix: str
) -> None:
    """As `_parquet`, but the input's columns keep their types and metadata."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    flat = (row for rows in results for row in rows)
    parquet = open_parquet(corpus.source)
    try:
        added = _result_fields(prefix)
        schema = parquet.schema_arrow
        schema = pa.schema([*schema, *added], metadata=schema.metadata)
        count = 0
        with pq.ParquetWriter(file, schema) as writer:
            for batch in parquet_batches(parquet):
                cells = [_cells(row, prefix) for row in itertools.islice(flat, batch.num_rows)]
                if len(cells) < batch.num_rows:
                    break
                columns = [
                    pa.array([cell[field.name] for cell in cells], field.type) for field in added
                ]
                writer.write_batch(pa.record_batch([*batch.columns, *columns], schema=schema))
                count += batch.num_rows
    finally:
        parquet.close()
    if count != corpus.rows or next(flat, None) is not None:
        raise InvalidInput(f"{corpus.source.name} changed while it was worked on; start again")
