"""Which columns are scored is chosen only where one can be meant, and recorded with the scores."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from serve_app.core.errors import InvalidInput
from tests.support.corpus_runs import SUFFIXES, Killed, StoppingEngine, left, prepare, run
from tests.support.corpus_tools import OverlapScorer, make_rows, overlap, read_rows, write_rows

TEXT = "Adults took the drug or a dummy pill."


def table(path: Path, *columns: str, cell: Any = TEXT) -> Path:
    return write_rows(path, [dict.fromkeys(columns, cell)] * 3)


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize(
    ("columns", "candidates"),
    [
        (
            ("source_text", "target_text", "generated_model_a", "generated_model_b"),
            "target_text, generated_model_a, generated_model_b",
        ),
        (("input_text", "summary", "predicted_summary"), "summary, predicted_summary"),
        (("article", "lay_summary", "prediction"), "lay_summary, prediction"),
        (("original", "generated", "human_summary"), "generated, human_summary"),
        (("original", "Summary", "Generated Text"), "Summary, Generated Text"),
        (("original", "article", "generated"), "original, article"),
    ],
)
def test_where_several_columns_could_be_meant_nothing_is_scored(
    tmp_path: Path, suffix: str, columns: tuple[str, ...], candidates: str
) -> None:
    with pytest.raises(InvalidInput, match=f"several columns could be meant: {candidates}; name"):
        prepare(table(tmp_path / f"in{suffix}", *columns), tmp_path / "out.csv")


@pytest.mark.parametrize(
    ("columns", "chosen"),
    [
        (("original_text", "generated_text"), ("original_text", "generated_text")),
        (("input_text", "predicted_summary"), ("input_text", "predicted_summary")),
        (("article", "lay_summary"), ("article", "lay_summary")),
        (("Original", " Summary"), ("Original", " Summary")),
    ],
)
def test_known_names_are_found_in_any_case(
    tmp_path: Path, columns: tuple[str, ...], chosen: tuple[str, str]
) -> None:
    job = prepare(table(tmp_path / "in.csv", *columns), tmp_path / "out.csv")
    (task, prefix) = job.systems[0]
    assert (task.original, task.generated, prefix) == (*chosen, "")


def test_columns_about_summaries_that_hold_no_texts_are_no_candidates(tmp_path: Path) -> None:
    rows = [
        {**row, "generated_at": "2026-01-01", "summary_length": 7, "output_file": "a.txt"}
        for row in make_rows(5)
    ]
    job = prepare(write_rows(tmp_path / "in.jsonl", rows), tmp_path / "out.csv")
    assert job.systems[0][0].generated == "summary"


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_the_scored_file_and_the_journal_say_which_columns_were_scored(
    tmp_path: Path, suffix: str
) -> None:
    rows = make_rows(9)
    rows[2]["summary"] = ""
    source, out = write_rows(tmp_path / "in.jsonl", rows), tmp_path / f"out{suffix}"
    with pytest.raises(Killed):
        run(prepare(source, out), engine=StoppingEngine(OverlapScorer(), 1))
    manifest = json.loads((tmp_path / f"{out.name}.parts" / "manifest.json").read_text())
    assert manifest["run"]["columns"] == {"original": "original", "generated": "summary"}
    run(prepare(source, out))
    written = read_rows(out)
    assert {row["original_column"] for row in written} == {"original"}
    assert {row["generated_column"] for row in written} == {"summary"}


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_several_columns_are_one_system_each_in_one_file(tmp_path: Path, suffix: str) -> None:
    rows: list[dict[str, Any]] = [
        {"id": row["id"], "original": row["original"], "a": row["summary"], "b": row["original"]}
        for row in make_rows(11)
    ]
    rows[4]["b"] = "poison"
    source, out = write_rows(tmp_path / "in.jsonl", rows), tmp_path / f"out{suffix}"
    log = tmp_path / "log"
    with pytest.raises(Killed):
        run(
            prepare(source, out, generated=["a", "b"]),
            engine=StoppingEngine(OverlapScorer(str(log)), 2),
        )
    outcome = run(prepare(source, out, generated=["a", "b"]), OverlapScorer(str(log)))
    assert (outcome.rows, outcome.failed) == (22, 1)
    assert len(log.read_text().splitlines()) == 22 - 1 + 3  # a block that was not kept
    written = read_rows(out)
    assert [row["id"] for row in written] == [row["id"] for row in rows]
    for at, row in enumerate(written):
        assert float(row["a_relevance"]) == overlap(rows[at]["original"], rows[at]["a"])
        assert (row["a_generated_column"], row["b_generated_column"]) == ("a", "b")
        assert (row["b_error_code"] == "metric_failed") == (at == 4)
        assert at == 4 or float(row["b_relevance"]) == 1
    assert left(tmp_path) == sorted(["in.jsonl", "log", out.name])


def test_a_new_column_never_takes_the_name_of_another(tmp_path: Path) -> None:
    path = table(tmp_path / "in.csv", "original", "a", "b", "b_loss")
    with pytest.raises(InvalidInput, match="already a column 'b_loss'"):
        prepare(path, tmp_path / "out.csv", generated=["a", "b"])
    with pytest.raises(InvalidInput, match="already a column 'a_relevance'"):
        prepare(path, tmp_path / "out.csv", generated=["a", "a"])


# --- numbers that are none --------------------------------------------------------------


@pytest.mark.parametrize("target", SUFFIXES)
def test_what_is_no_number_is_written_as_nothing(tmp_path: Path, target: str) -> None:
    texts = [row["original"] for row in make_rows(3)]
    columns = {
        "original": texts,
        "summary": texts,
        "x": [float("nan"), float("inf"), 1.5],
        "y": [[float("nan"), 1.0], [], None],
    }
    pq.write_table(pa.table(columns), tmp_path / "in.parquet")
    out = tmp_path / f"out{target}"
    run(prepare(tmp_path / "in.parquet", out))
    content = out.read_bytes()
    if target == ".jsonl":
        assert b"NaN" not in content
        assert b"Infinity" not in content
        assert [row["x"] for row in read_rows(out)] == [None, None, 1.5]
        assert read_rows(out)[0]["y"] == [None, 1.0]
    elif target == ".csv":
        assert [row["x"] for row in read_rows(out)] == ["", "inf", "1.5"]
        assert read_rows(out)[0]["y"] == "[null, 1.0]"
    else:
        assert pq.read_table(out)["x"].is_null(nan_is_null=True).to_pylist() == [True, False, False]


def test_nan_of_json_lines_is_null_in_every_output(tmp_path: Path) -> None:
    lines = [
        '{"original": "A b c.", "summary": "A b.", "x": NaN, "y": [NaN]}',
        '{"original": "A b c.", "summary": "A b.", "x": 2.5, "y": "z"}',
    ]
    (tmp_path / "in.jsonl").write_text("\n".join(lines))
    for suffix in (".jsonl", ".parquet"):
        run(prepare(tmp_path / "in.jsonl", tmp_path / f"out{suffix}"))
        assert [row["x"] for row in read_rows(tmp_path / f"out{suffix}")] == [None, 2.5]
    assert read_rows(tmp_path / "out.parquet")[0]["y"] == "[null]"


# --- the folder beside the output -------------------------------------------------------


@pytest.mark.parametrize("restart", [False, True])
@pytest.mark.parametrize("link", [False, True])
def test_files_that_no_run_wrote_are_never_removed(
    tmp_path: Path, restart: bool, link: bool
) -> None:
    source, out = write_rows(tmp_path / "in.csv", make_rows(4)), tmp_path / "out.csv"
    mine = tmp_path / ("mine" if link else "out.csv.parts")
    mine.mkdir()
    (mine / "thesis.docx").write_text("years of work")
    if link:
        (tmp_path / "out.csv.parts").symlink_to(mine)
    with pytest.raises(InvalidInput, match="another --out"):
        run(prepare(source, out), restart=restart)
    assert (mine / "thesis.docx").read_text() == "years of work"
    assert not out.exists()


def test_a_link_to_the_folder_of_another_run_is_not_followed(tmp_path: Path) -> None:
    source, out = write_rows(tmp_path / "in.csv", make_rows(12)), tmp_path / "out.csv"
    with pytest.raises(Killed):
        run(prepare(source, out), engine=StoppingEngine(OverlapScorer(), 1))
    (tmp_path / "out.csv.parts").rename(tmp_path / "kept")
    (tmp_path / "out.csv.parts").symlink_to(tmp_path / "kept")
    for restart in (False, True):
        with pytest.raises(InvalidInput, match="is a link"):
            run(prepare(source, out), restart=restart)
    assert left(tmp_path / "kept") == ["block-000000.json", "manifest.json"]


def test_restart_leaves_a_manifest_of_something_else_alone(tmp_path: Path) -> None:
    source, out = write_rows(tmp_path / "in.csv", make_rows(4)), tmp_path / "out.csv"
    folder = tmp_path / "out.csv.parts"
    folder.mkdir()
    (folder / "manifest.json").write_text('{"name": "a web application"}')
    with pytest.raises(InvalidInput, match=r"holds manifest\.json, which is no file of a run"):
        run(prepare(source, out), restart=True)
    assert left(folder) == ["manifest.json"]


def test_what_a_killed_write_left_is_removed_with_the_rest(tmp_path: Path) -> None:
    source, out = write_rows(tmp_path / "in.csv", make_rows(12)), tmp_path / "out.csv"
    with pytest.raises(Killed):
        run(prepare(source, out), engine=StoppingEngine(OverlapScorer(), 1))
    (tmp_path / "out.csv.parts" / ".block-000001.json.4711.part").write_text("[")
    run(prepare(source, out))
    assert left(tmp_path) == ["in.csv", "out.csv"]


COUNTS = ("findings_severe", "findings_number", "findings_direction", "omissions")


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_findings_are_counted_by_severity_and_kind_beside_the_scores(
    tmp_path: Path, suffix: str
) -> None:
    source = "The trials had 3490 women. Fewer women died. Adverse events were more frequent."
    texts = [
        "The trials had 349 women. More women died.",
        source,
        "The trials had 3490 women. Fewer women died.",
    ]
    rows = [{"original": source, "generated": text} for text in texts]
    job = prepare(
        write_rows(tmp_path / f"in{suffix}", rows), tmp_path / f"out{suffix}", findings=True
    )
    run(job, OverlapScorer())
    written = read_rows(tmp_path / f"out{suffix}")
    counts = [tuple(int(row[name]) for name in COUNTS) for row in written]
    assert counts == [(2, 1, 1, 1), (0, 0, 0, 0), (0, 0, 0, 1)]


def test_a_row_without_scores_has_no_counts_and_a_run_without_findings_no_columns(
    tmp_path: Path,
) -> None:
    rows = [{"original": TEXT, "generated": None}, {"original": TEXT, "generated": TEXT}]
    table = write_rows(tmp_path / "in.jsonl", rows)
    run(prepare(table, tmp_path / "out.jsonl", findings=True), OverlapScorer())
    first, second = read_rows(tmp_path / "out.jsonl")
    assert (first["findings_severe"], second["findings_severe"]) == (None, 0)
    run(prepare(table, tmp_path / "plain.jsonl"), OverlapScorer())
    assert not {name for name in read_rows(tmp_path / "plain.jsonl")[0] if "findings" in name}


def test_counts_survive_an_interruption(tmp_path: Path) -> None:
    rows = [{"original": "It had 12 men.", "generated": f"It had {n} men."} for n in range(10, 40)]
    table = write_rows(tmp_path / "in.jsonl", rows)
    whole = prepare(table, tmp_path / "whole.jsonl", findings=True, batch_size=2, block_rows=2)
    run(whole, OverlapScorer())
    job = prepare(table, tmp_path / "out.jsonl", findings=True, batch_size=2, block_rows=2)
    with pytest.raises(Killed):
        run(job, engine=StoppingEngine(OverlapScorer(), 3))
    run(job)
    assert read_rows(tmp_path / "out.jsonl") == read_rows(tmp_path / "whole.jsonl")
