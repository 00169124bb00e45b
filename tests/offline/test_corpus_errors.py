"""Rows that cannot be scored, and files that are refused at once."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from serve_app.core.errors import ConfigError, InvalidInput
from serve_app.offline.corpus import RowScores, ScoreJob, parquet, reader
from tests.support.corpus_runs import left, prepare, run
from tests.support.corpus_tools import OverlapScorer, make_rows, write_rows
from tests.support.corpus_tools import read_rows as read_file

# --- errors by row ----------------------------------------------------------------------


@pytest.mark.parametrize("batch_size", [1, 3, 16])
def test_a_bad_row_costs_no_other_row_its_scores(tmp_path: Path, batch_size: int) -> None:
    rows: list[dict[str, Any]] = make_rows(12)
    rows[1]["summary"] = " "
    rows[3]["original"] = None
    rows[4]["summary"] = 7
    rows[6]["summary"] = "poison"
    rows[7]["summary"] = "a broken secret"
    rows[9]["summary"] = "lone \ud800 surrogate"
    del rows[10]["original"]
    source = write_rows(tmp_path / "in.jsonl", rows)
    outcome = run(prepare(source, tmp_path / "out.jsonl", batch_size=batch_size))
    assert outcome.failed == 7
    written = read_file(tmp_path / "out.jsonl")
    assert [row["id"] for row in written] == [row["id"] for row in rows]
    errors = {at: row["error_code"] for at, row in enumerate(written) if row["error_code"]}
    assert errors == {
        1: "empty_text",
        3: "missing",
        4: "not_text",
        6: "metric_failed",
        7: "metric_failed",
        9: "invalid_unicode",
        10: "missing",
    }
    assert written[1]["error"] == "column 'summary': the text is empty"
    assert written[4]["error"] == "column 'summary' is not text but int"
    assert "secret" not in written[7]["error"]
    assert written[9]["summary"] == "lone \ud800 surrogate"
    for at, row in enumerate(written):
        assert (row["loss"] is None) == (row["fkgl"] is None) == (at in errors)
    run(prepare(source, tmp_path / "out.csv"))
    run(prepare(source, tmp_path / "out.parquet"))
    assert read_file(tmp_path / "out.parquet")[9]["summary"] == "lone \\ud800 surrogate"


def test_a_failure_that_is_not_about_texts_ends_the_run_and_keeps_the_rest(tmp_path: Path) -> None:
    class Refusing(OverlapScorer):
        def __call__(self, originals: Sequence[str], generated: Sequence[str]) -> list[RowScores]:
            if "study 5 " in " ".join(generated):
                raise ConfigError("the disk with the models is gone")
            return super().__call__(originals, generated)

    job = prepare(write_rows(tmp_path / "in.csv", make_rows(12)), tmp_path / "out.csv")
    with pytest.raises(ConfigError, match="the disk"):
        run(job, Refusing())
    assert left(tmp_path) == ["in.csv", "out.csv.parts"]
    log = tmp_path / "log"
    assert run(job, OverlapScorer(str(log))).rows == 12
    assert len(log.read_text().splitlines()) == 8


# --- what is refused at once ------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("in.parquet", b"PAR1 or not", "is not a Parquet file"),
        ("in.csv", b"original,summary\na,b\nc,\xe9\n", r"row 2 is not UTF-8 text \(byte 23\)"),
        ("in.csv", b'original,summary\n"a\n\nb",b\nc\n', r"row 2 \(up to line 5\)"),
        ("in.jsonl", b'{"original": 1}\n\xff\n', r"row 2 is not UTF-8 text \(byte 16\)"),
        ("in.jsonl", b"[" * 100_000, "line 1 is not JSON"),
        ("in.jsonl", b'{"a": 1}\n{"a": 1, "a": 2}\n', "line 2 .* 'a' is there twice"),
        ("in.jsonl", b'{"a": 1}\n{"\\ud800": 2}\n', "line 2: .*half of a character in its name"),
    ],
)
def test_a_malformed_file_is_named_to_the_row(
    tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InvalidInput, match=message) as caught:
        prepare(tmp_path / name, tmp_path / "out.csv")
    assert str(tmp_path / name) in caught.value.message


@pytest.mark.parametrize("name", ["in.csv", "in.jsonl"])
def test_the_lines_of_a_row_count_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(reader, "LONGEST_ROW", 1 << 20)
    line = "word " * 20_000 + "\n"
    rows = [{"original": line * 5, "summary": "b"}] * 20  # half of what a row may have, each
    assert prepare(write_rows(tmp_path / name, rows), tmp_path / "out.csv").corpus.rows == 20
    (tmp_path / "in.csv").write_text(f'original,summary\na,b\n"{line * 11}",b\n')
    with pytest.raises(InvalidInput, match="row 2 has more than 1 MiB in its lines"):
        reader.scan(tmp_path / "in.csv")


def test_long_values_of_a_parquet_file_are_decoded_few_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parquet, "LONGEST_VALUE", 1000)
    fixed = pa.array([bytes(300)] * 10, pa.binary(300))
    pq.write_table(pa.table({"original": ["a"] * 10, "other": fixed}), tmp_path / "in.parquet")
    source = reader.scan(tmp_path / "in.parquet").source
    sizes = [batch.num_rows for batch in parquet.parquet_batches(reader.open_parquet(source))]
    assert sizes == [3, 3, 3, 1]


def test_a_list_that_takes_far_more_than_its_size_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parquet, "_AT_ONCE", 8000)
    for count in (1000, 1001):
        table = pa.table({"original": ["a"], "other": [[0] * count]})
        pq.write_table(table, tmp_path / f"{count}.parquet")
    assert reader.scan(tmp_path / "1000.parquet").rows == 1
    with pytest.raises(InvalidInput, match=r"the lists of other\.list\.element take"):
        reader.scan(tmp_path / "1001.parquet")


@pytest.mark.parametrize(
    ("out", "message"),
    [
        ("out.xlsx", "must end in"),
        ("none/out.csv", "there is no folder"),
        ("folder.csv", "it is a folder"),
        ("s3://b/out.csv", "not an S3 file"),
        ("s3://bucket/", "not an S3 file"),
        ("gs://bucket/out.csv", "only a path or s3://BUCKET/KEY"),
    ],
)
def test_an_output_that_cannot_be_written_is_refused_before_the_work(
    tmp_path: Path, out: str, message: str
) -> None:
    (tmp_path / "folder.csv").mkdir()
    source = write_rows(tmp_path / "in.csv", make_rows(2))
    with pytest.raises(InvalidInput, match=message):
        ScoreJob.prepare(source, out if "://" in out else tmp_path / out)
