"""Which texts a calibration uses, and the fingerprint that says so."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from serve_app.offline.calibration.pairs import select
from serve_app.offline.corpus import reader
from serve_app.offline.corpus.reader import read_rows
from tests.support.calibration_corpus import HEADER, make_pair, write_pairs
from tests.support.corpus_tools import write_rows

PAIRS = [make_pair(number, "train") for number in range(12)]


def fingerprint(path: Path, subset: float = 1.0, seed: int = 0, split: str | None = "train") -> str:
    return select(path, split, subset, seed).fingerprint


@pytest.fixture
def plain(tmp_path: Path) -> str:
    return fingerprint(write_pairs(tmp_path / "plain.csv", PAIRS))


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_the_fingerprint_is_of_the_texts_in_any_format(
    tmp_path: Path, plain: str, suffix: str
) -> None:
    rows = [dict(zip(HEADER, row, strict=True)) | {"id": str(at)} for at, row in enumerate(PAIRS)]
    assert fingerprint(write_rows(tmp_path / f"in{suffix}", rows)) == plain
    assert plain.startswith("sha256:")


def test_rows_in_another_order_or_not_used_do_not_change_it(tmp_path: Path, plain: str) -> None:
    rows = [*reversed(PAIRS), make_pair(99, "test")]
    assert fingerprint(write_pairs(tmp_path / "in.csv", rows)) == plain


@pytest.mark.parametrize(
    "change",
    [
        lambda rows: rows[:-1],
        lambda rows: [*rows, rows[0]],
        lambda rows: [*rows[:-1], [rows[-1][0], rows[-1][1] + " ", "train"]],
        # Words that go over to the other text.
        lambda rows: [*rows[:-1], [rows[-1][0] + "We", rows[-1][1].removeprefix("We"), "train"]],
        # Summaries that change places.
        lambda rows: [
            [rows[0][0], rows[1][1], "train"],
            [rows[1][0], rows[0][1], "train"],
            *rows[2:],
        ],
    ],
)
def test_any_change_of_a_used_text_changes_it(tmp_path: Path, plain: str, change) -> None:
    assert fingerprint(write_pairs(tmp_path / "in.csv", change(PAIRS))) != plain


def test_a_subset_has_the_fingerprint_of_its_own_rows(tmp_path: Path, plain: str) -> None:
    path = write_pairs(tmp_path / "in.csv", PAIRS)
    half = select(path, "train", 0.5, 3)
    assert half.fingerprint != plain
    assert len(half.rows) == 6
    assert half.rows.tolist() == sorted(set(half.rows.tolist()))
    alone = write_pairs(tmp_path / "half.csv", [PAIRS[row] for row in half.rows.tolist()])
    assert fingerprint(alone) == half.fingerprint
    assert select(path, "train", 0.5, 4).rows.tolist() != half.rows.tolist()


def test_chosen_rows_are_rows_of_the_file_not_of_the_split(tmp_path: Path) -> None:
    rows = [make_pair(number, "train" if number % 3 == 2 else "test") for number in range(9)]
    assert select(write_pairs(tmp_path / "in.csv", rows), "train", 1.0, 0).rows.tolist() == [
        2,
        5,
        8,
    ]


@pytest.mark.parametrize("group", [7, 900, 2000])
def test_a_subset_of_a_parquet_file_decodes_no_row_twice_for_a_block(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, group: int
) -> None:
    rows = [dict(zip(HEADER, make_pair(at, "train"), strict=True)) for at in range(1500)]
    path = tmp_path / "in.parquet"
    pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=group)
    selection = select(path, "train", 0.3, 0)
    decoded = 0
    batches = reader.parquet_batches

    def counted(*arguments):
        nonlocal decoded
        for batch in batches(*arguments):
            decoded += batch.num_rows
            yield batch

    monkeypatch.setattr(reader, "parquet_batches", counted)
    blocks = selection.corpus.blocks(40, selection.rows.tolist())
    for block in blocks[:2] + blocks[-2:]:
        decoded = 0
        found = read_rows(selection.corpus.source, block, HEADER[:2])
        assert [row["target_text"] for row in found] == [
            rows[at]["target_text"] for at in block.rows
        ]
        assert decoded <= 1500
