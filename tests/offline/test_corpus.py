"""Whole corpora: what is read and what is written, with a light scorer."""

from __future__ import annotations

import csv
import datetime as dt
from collections.abc import Generator, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from serve_app.core.errors import Unavailable
from serve_app.offline.corpus import BlockResult, ScoreJob
from serve_app.offline.corpus.local_engine import LocalEngine
from serve_app.offline.corpus.reader import Block, Source, read_rows, scan
from tests.support.corpus_runs import SUFFIXES, left, prepare, run
from tests.support.corpus_tools import OverlapScorer, make_rows, overlap, write_rows
from tests.support.corpus_tools import read_rows as read_file


class ShuffledEngine(LocalEngine):
    """Gives the blocks back in another order, and each of them twice."""

    def run(
        self, source: Source, blocks: Sequence[Block], task: Any
    ) -> Generator[BlockResult, None, None]:
        results = list(super().run(source, blocks, task))
        yield from reversed(results)
        yield from results


@pytest.mark.parametrize("target", SUFFIXES)
@pytest.mark.parametrize("source", SUFFIXES)
def test_every_row_is_written_once_in_order_with_its_scores(
    tmp_path: Path, source: str, target: str
) -> None:
    rows = make_rows(23)
    job = prepare(write_rows(tmp_path / f"in{source}", rows), tmp_path / f"out{target}")
    assert len(job.blocks) == 6
    outcome = run(job)
    assert (outcome.rows, outcome.failed) == (23, 0)
    written = read_file(tmp_path / f"out{target}")
    assert [{name: row[name] for name in rows[0]} for row in written] == rows
    for row in written:
        share = overlap(row["original"], row["summary"])
        assert float(row["relevance"]) == share
        assert float(row["loss"]) == share / 3
        assert not row["error"]
    assert left(tmp_path) == sorted([f"in{source}", f"out{target}"])


def test_blocks_in_any_order_and_twice_make_the_same_output(tmp_path: Path) -> None:
    source = write_rows(tmp_path / "in.csv", make_rows(30))
    run(prepare(source, tmp_path / "one.csv"))
    run(prepare(source, tmp_path / "two.csv"), engine=ShuffledEngine(OverlapScorer()))
    assert (tmp_path / "one.csv").read_bytes() == (tmp_path / "two.csv").read_bytes()


def test_a_block_that_never_comes_back_is_no_output(tmp_path: Path) -> None:
    class Forgetful(LocalEngine):
        def run(self, source: Source, blocks: Sequence[Block], task: Any) -> Any:
            yield from list(super().run(source, blocks, task))[1:]

    job = prepare(write_rows(tmp_path / "in.csv", make_rows(9)), tmp_path / "out.csv")
    with pytest.raises(Unavailable, match="1 blocks came back from no worker"):
        run(job, engine=Forgetful(OverlapScorer()))
    assert not (tmp_path / "out.csv").exists()


def test_parquet_keeps_the_types_of_its_columns(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.table(
        {
            "original": pa.array(["A text of words."] * 3, pa.large_string()),
            "summary": pa.array(["A text.", None, "Words."]).dictionary_encode(),
            "day": [dt.date(2026, 1, day) for day in (1, 2, 3)],
            "price": pa.array([Decimal("1.50"), None, Decimal("2.25")]),
            "tags": [["a"], [], None],
        }
    )
    pq.write_table(table, tmp_path / "in.parquet")
    run(prepare(tmp_path / "in.parquet", tmp_path / "out.parquet"))
    written = pq.read_table(tmp_path / "out.parquet")
    assert written.select(table.column_names).to_pylist() == table.to_pylist()
    assert written.schema.field("price").type == table.schema.field("price").type
    assert written.schema.field("loss").type == pa.float64()
    assert written["error_code"].to_pylist() == [None, "missing", None]
    run(prepare(tmp_path / "in.parquet", tmp_path / "out.jsonl"))
    first = read_file(tmp_path / "out.jsonl")[0]
    assert (first["day"], first["price"], first["tags"]) == ("2026-01-01", "1.50", ["a"])


def test_mixed_json_values_become_parquet_columns(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        {"original": "A b.", "summary": "A.", "n": 1, "x": 1, "y": [1], "flag": None, "big": 1},
        {"original": "A b.", "summary": "B.", "n": 2, "x": 0.5, "y": "z", "flag": True},
        {"summary": "B.", "original": "A b.", "y": None, "big": 2**70, "none": None},
    ]
    run(prepare(write_rows(tmp_path / "in.jsonl", rows), tmp_path / "out.parquet"))
    written = read_file(tmp_path / "out.parquet")
    assert [row["n"] for row in written] == [1, 2, None]
    assert [row["x"] for row in written] == [1.0, 0.5, None]
    assert [row["y"] for row in written] == ["[1]", "z", None]
    assert [row["flag"] for row in written] == [None, True, None]
    assert [row["big"] for row in written] == ["1", None, str(2**70)]
    assert [row["none"] for row in written] == [None] * 3


def test_line_breaks_quotes_blank_lines_and_long_texts_survive(tmp_path: Path) -> None:
    limit = csv.field_size_limit()
    source = tmp_path / "in.csv"
    long = "A trial found no difference. " * 10_000
    source.write_bytes(
        (
            '\ufefforiginal,"sum\nmary",id\r\n\r\n"a ""b""\r\nc, d",é.,1\r\n'
            f'\n"{long}",\u2028x,2\n"last","one",3'
        ).encode()
    )
    corpus = scan(source)
    assert corpus.source.columns == ("original", "sum\nmary", "id")
    alone = [read_rows(corpus.source, block) for block in corpus.blocks(1)]
    assert [list(row.values()) for rows in alone for row in rows] == [
        ['a "b"\r\nc, d', "é.", "1"],
        [long, "\u2028x", "2"],
        ["last", "one", "3"],
    ]
    assert csv.field_size_limit() == limit
    source = tmp_path / "in.jsonl"
    source.write_text('\n{"original": "a\u2028b"}\n\n  \n{"original": "c"}', encoding="utf-8")
    corpus = scan(source)
    alone = [read_rows(corpus.source, block) for block in corpus.blocks(1)]
    assert alone == [[{"original": "a\u2028b"}], [{"original": "c"}]]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_any_choice_of_rows_can_be_read_alone(tmp_path: Path, suffix: str) -> None:
    rows = make_rows(40)
    corpus = scan(write_rows(tmp_path / f"in{suffix}", rows))
    chosen = [0, 1, 2, 6, 7, 13, 20, 21, 38, 39]
    blocks = corpus.blocks(4, chosen)
    assert [block.rows for block in blocks] == [chosen[:4], chosen[4:8], chosen[8:]]
    found = [row for block in blocks for row in read_rows(corpus.source, block, ["id"])]
    assert [row["id"] for row in found] == [f"r{number}" for number in chosen]


def test_there_is_a_bound_on_the_number_of_blocks(tmp_path: Path) -> None:
    source = tmp_path / "in.csv"
    source.write_text("original,summary\n" + "a,b\n" * 10_000)
    job = ScoreJob.prepare(source, tmp_path / "out.csv", batch_size=1)
    assert [block.count for block in job.blocks[:2]] == [3, 3]
    assert sum(block.count for block in job.blocks) == 10_000
