"""Whole corpora: reading, resuming, errors by row, and what is written, with a light scorer."""

from __future__ import annotations

import contextlib
import csv
import datetime as dt
import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Generator, Sequence
from decimal import Decimal
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from serve_app.corpus import BlockResult, Models, RowError, ScoreJob, Scores, distributed
from serve_app.corpus.distributed import RayEngine, RayOptions
from serve_app.corpus.local import LocalEngine
from serve_app.corpus.reading import Block, Source, read_rows, scan
from serve_app.errors import ConfigError, InvalidInput, PlainMedError, Unavailable
from tests.corpus_tools import OverlapScorer, make_rows, overlap, write_rows
from tests.corpus_tools import read_rows as read_file

SUFFIXES = (".csv", ".jsonl", ".parquet")


class Killed(BaseException):
    """Stands for a kill -9 between two blocks."""


class StoppingEngine(LocalEngine):
    """Ends the run before its `after`-th block."""

    def __init__(self, scorer: OverlapScorer, after: int) -> None:
        super().__init__(scorer)
        self._after = after

    def run(
        self, source: Source, blocks: Sequence[Block], task: Any
    ) -> Generator[BlockResult, None, None]:
        for number, result in enumerate(super().run(source, blocks, task)):
            if number == self._after:
                raise Killed
            yield result


class ShuffledEngine(LocalEngine):
    """Gives the blocks back in another order, and each of them twice."""

    def run(
        self, source: Source, blocks: Sequence[Block], task: Any
    ) -> Generator[BlockResult, None, None]:
        results = list(super().run(source, blocks, task))
        yield from reversed(results)
        yield from results


def prepare(source: Path, out: Path, **options: Any) -> ScoreJob:
    return ScoreJob.prepare(source, out, **{"batch_size": 4, **options})


def run(job: ScoreJob, scorer: OverlapScorer | None = None, **options: Any) -> Any:
    engine = options.pop("engine", None) or LocalEngine(scorer or OverlapScorer())
    return job.run(lambda: engine, options.pop("scoring", {"a": 1}), **options)


def left(folder: Path, *known: str) -> list[str]:
    return sorted({path.name for path in folder.iterdir()} - set(known))


# --- what is written --------------------------------------------------------------------


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
        def __call__(self, originals: Sequence[str], generated: Sequence[str]) -> list[Scores]:
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


# --- resuming ---------------------------------------------------------------------------


@settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    kills=st.lists(st.integers(0, 9), max_size=4),
    suffixes=st.tuples(st.sampled_from(SUFFIXES), st.sampled_from(SUFFIXES)),
)
def test_killed_after_any_blocks_the_output_is_the_same_and_no_row_is_scored_twice(
    tmp_path: Path, kills: list[int], suffixes: tuple[str, str]
) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    try:
        rows = make_rows(37)
        rows[5]["summary"] = "poison"
        source = write_rows(folder / f"in{suffixes[0]}", rows)
        whole, out = folder / f"whole{suffixes[1]}", folder / f"out{suffixes[1]}"
        run(prepare(source, whole))
        log = folder / "log"
        scorer = OverlapScorer(str(log))
        for after in kills:
            try:
                run(prepare(source, out), engine=StoppingEngine(scorer, after))
            except Killed:
                assert not out.exists()
            else:
                out.unlink()  # everything was finished before the kill
                log.unlink()
        outcome = run(prepare(source, out), scorer)
        assert (outcome.rows, outcome.failed) == (37, 1)
        assert out.read_bytes() == whole.read_bytes()
        # The block that was under way when the run was killed is the only one done again.
        assert len(log.read_text().splitlines()) <= 36 + 4 * len(kills)
    finally:
        shutil.rmtree(folder)


def test_a_finished_block_is_not_scored_again(tmp_path: Path) -> None:
    source = write_rows(tmp_path / "in.csv", make_rows(20))
    job, log = prepare(source, tmp_path / "out.csv"), tmp_path / "log"
    with pytest.raises(Killed):
        run(job, engine=StoppingEngine(OverlapScorer(), 3))
    started = []
    run(job, OverlapScorer(str(log)), on_start=lambda done, total: started.append((done, total)))
    assert started == [(12, 20)]
    assert [line.split()[4] for line in log.read_text().splitlines()] == [
        str(number) for number in range(12, 20)
    ]


def test_a_process_killed_with_sigkill_goes_on(tmp_path: Path) -> None:
    source, log = write_rows(tmp_path / "in.csv", make_rows(60)), tmp_path / "log"
    code = (
        "import os, signal\nfrom tests.test_corpus import *\n"
        f"job = prepare(Path({str(source)!r}), Path({str(tmp_path / 'out.csv')!r}))\n"
        "def stop(count):\n"
        "    stop.rows += count\n"
        "    if stop.rows >= 24: os.kill(os.getpid(), signal.SIGKILL)\n"
        "stop.rows = 0\n"
        f"run(job, OverlapScorer({str(log)!r}), on_rows=stop)\n"
    )
    root = Path(__file__).resolve().parents[1]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, check=False)
    assert done.returncode == -signal.SIGKILL
    assert run(prepare(source, tmp_path / "out.csv"), OverlapScorer(str(log))).failed == 0
    assert [row["id"] for row in read_file(tmp_path / "out.csv")] == [f"r{n}" for n in range(60)]
    assert len(log.read_text().splitlines()) == 60
    assert left(tmp_path, "in.csv", "out.csv", "log") == []


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"scoring": {"a": 2}}, r"scoring\.a was 1, now 2"),
        ({"scoring": {"a": 1, "b": None, "c": 3}}, r"scoring\.c was null, now 3"),
        ({"batch_size": 5}, "batch_size was 4, now 5; block_rows was 4, now 5"),
        ({"generated": "id"}, r'columns\.generated was "summary", now "id"'),
        ({"rows": 21}, r"input\.sha256 was .*; input\.rows was 20, now 21"),
    ],
)
def test_a_run_with_something_else_does_not_go_on(
    tmp_path: Path, change: dict[str, Any], says: str
) -> None:
    source, out = tmp_path / "in.csv", tmp_path / "out.csv"
    with pytest.raises(Killed):
        run(
            prepare(write_rows(source, make_rows(20)), out),
            engine=StoppingEngine(OverlapScorer(), 2),
        )
    write_rows(source, make_rows(change.pop("rows", 20)))
    scoring = change.pop("scoring", {"a": 1})
    job = prepare(source, out, **change)
    with pytest.raises(InvalidInput, match=f"does not fit this one: .*{says}.*--restart"):
        run(job, scoring=scoring)
    log = tmp_path / "log"
    run(job, OverlapScorer(str(log)), scoring=scoring, restart=True)
    assert len(log.read_text().splitlines()) == job.corpus.rows


@pytest.mark.parametrize(
    "other",
    [
        Models({"relevance": "large", "factuality": "overlap"}, (0.5,) * 5),
        Models({"relevance": "overlap", "factuality": "overlap"}, (0.6,) * 5),
    ],
)
def test_blocks_of_other_models_are_not_mixed_in(tmp_path: Path, other: Models) -> None:
    class Other(OverlapScorer):
        models = other

    job = prepare(write_rows(tmp_path / "in.csv", make_rows(20)), tmp_path / "out.csv")
    with pytest.raises(Killed):
        run(job, engine=StoppingEngine(OverlapScorer(), 2))
    with pytest.raises(InvalidInput, match="not all made by the same models"):
        run(job, Other())
    assert run(job).failed == 0


def test_the_same_file_under_another_name_goes_on(tmp_path: Path) -> None:
    source = write_rows(tmp_path / "in.csv", make_rows(20))
    with pytest.raises(Killed):
        run(prepare(source, tmp_path / "out.csv"), engine=StoppingEngine(OverlapScorer(), 2))
    source.rename(tmp_path / "moved.csv")
    log = tmp_path / "log"
    run(prepare(tmp_path / "moved.csv", tmp_path / "out.csv"), OverlapScorer(str(log)))
    assert len(log.read_text().splitlines()) == 12


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"run": {}, "models": {}}'])
def test_a_folder_no_run_left_is_named(tmp_path: Path, content: str) -> None:
    job = prepare(write_rows(tmp_path / "in.csv", make_rows(4)), tmp_path / "out.csv")
    (tmp_path / "out.csv.parts").mkdir()
    (tmp_path / "out.csv.parts" / "manifest.json").write_text(content)
    with pytest.raises(InvalidInput, match="is not what an earlier run left"):
        run(job)


def test_a_damaged_block_is_named(tmp_path: Path) -> None:
    job = prepare(write_rows(tmp_path / "in.csv", make_rows(20)), tmp_path / "out.csv")
    with pytest.raises(Killed):
        run(job, engine=StoppingEngine(OverlapScorer(), 2))
    (tmp_path / "out.csv.parts" / "block-000001.json").write_text("[1")
    with pytest.raises(InvalidInput, match=r"block-000001\.json is damaged; remove it"):
        run(job)


def test_two_runs_do_not_write_the_same_output(tmp_path: Path) -> None:
    job = prepare(write_rows(tmp_path / "in.csv", make_rows(4)), tmp_path / "out.csv")
    with FileLock(tmp_path / ".out.csv.lock"), pytest.raises(InvalidInput, match="another run"):
        run(job)


def test_an_input_that_changes_meanwhile_is_noticed(tmp_path: Path) -> None:
    source = write_rows(tmp_path / "in.csv", make_rows(20))
    job = prepare(source, tmp_path / "out.csv")
    with source.open("a") as file:
        file.write("r20,more,text\n")
    with pytest.raises(InvalidInput, match="changed while"):
        run(job)
    assert not (tmp_path / "out.csv").exists()


# --- Ray that fails -----------------------------------------------------------------------


class FailingRay(RayEngine):
    """Pipelines that each finish so many blocks of the local engine, then fail as Ray does."""

    def __init__(self, finished: Sequence[int], error: Exception) -> None:
        super().__init__(OverlapScorer, RayOptions())
        self.finished = list(finished)
        self.error = error

    def _pipeline(
        self, source: Source, blocks: Sequence[Block], task: Any
    ) -> Generator[BlockResult, None, None]:
        results = LocalEngine(OverlapScorer()).run(source, blocks, task)
        if not self.finished:
            yield from results
            return
        yield from islice(results, self.finished.pop(0))
        raise self.error


@pytest.fixture
def no_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distributed, "_connected", lambda address: contextlib.nullcontext())


@pytest.mark.usefixtures("no_ray")
def test_a_pipeline_that_fails_is_started_again_with_what_is_left(tmp_path: Path) -> None:
    from ray.exceptions import NodeDiedError

    job = prepare(write_rows(tmp_path / "in.csv", make_rows(40)), tmp_path / "out.csv")
    engine = FailingRay([3, 0, 0, 2, 0, 0], NodeDiedError("a node is gone"))
    counts: list[int] = []
    assert run(job, engine=engine, on_rows=counts.append).failed == 0
    assert counts == [4] * 10
    assert [row["id"] for row in read_file(tmp_path / "out.csv")] == [f"r{n}" for n in range(40)]


@pytest.mark.usefixtures("no_ray")
def test_a_pipeline_that_only_fails_is_given_up_and_keeps_what_is_finished(tmp_path: Path) -> None:
    from ray.exceptions import NodeDiedError

    job = prepare(write_rows(tmp_path / "in.csv", make_rows(40)), tmp_path / "out.csv")
    with pytest.raises(Unavailable, match="failed 3 times without finishing a block: a node is"):
        run(job, engine=FailingRay([3, 0, 0, 0], NodeDiedError("a node is gone")))
    log = tmp_path / "log"
    run(job, OverlapScorer(str(log)))
    assert len(log.read_text().splitlines()) == 28


# --- what is refused at once ------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("in.parquet", b"PAR1 or not", "is not a Parquet file"),
        ("in.csv", b"original,summary\na,b\nc,\xe9\n", r"row 2 is not UTF-8 text \(byte 23\)"),
        ("in.csv", b'original,summary\n"a\n\nb",b\nc\n', r"row 2 \(up to line 5\)"),
        ("in.jsonl", b'{"original": 1}\n\xff\n', r"row 2 is not UTF-8 text \(byte 16\)"),
        ("in.jsonl", b"[" * 100_000, "line 1 is not JSON"),
    ],
)
def test_a_malformed_file_is_named_to_the_row(
    tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InvalidInput, match=message) as caught:
        prepare(tmp_path / name, tmp_path / "out.csv")
    assert str(tmp_path / name) in caught.value.message


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


def test_a_block_that_cannot_be_kept_is_a_message_and_the_others_stay(tmp_path: Path) -> None:
    job = prepare(write_rows(tmp_path / "in.csv", make_rows(20)), tmp_path / "out.csv")
    in_the_way = tmp_path / "out.csv.parts" / "block-000002.json"

    class Full(LocalEngine):
        def run(self, source: Source, blocks: Sequence[Block], task: Any) -> Any:
            for number, result in enumerate(super().run(source, blocks, task)):
                if number == 2:
                    in_the_way.mkdir()
                yield result

    with pytest.raises(PlainMedError, match=r"cannot write .*block-000002\.json: Is a directory"):
        run(job, engine=Full(OverlapScorer()))
    in_the_way.rmdir()
    log = tmp_path / "log"
    assert run(job, OverlapScorer(str(log))).rows == 20
    assert len(log.read_text().splitlines()) == 12


def test_row_errors_and_scores_survive_the_journal_to_the_bit(tmp_path: Path) -> None:
    from serve_app.corpus.journal import Journal
    from serve_app.corpus.places import place

    rows = (
        Scores((0.1, 1e-300, -3.3333333333333335, 5e15, 0.7), 0.30000000000000004),
        RowError("empty_text", "column 'a': é \ud800"),
        Scores((1.0, 2.0, 3.0, 4.0, 5.0)),
    )
    out = place(tmp_path / "out.csv")
    journal = Journal(out, {})
    journal.begin()
    journal.add(BlockResult(3, rows, Models({"relevance": "m"}, (0.5,))))
    again = Journal(out, {})
    assert again.finished == {3}
    assert list(again.results([3])) == [rows]
    assert json.loads((tmp_path / "out.csv.parts" / "manifest.json").read_text())["models"] == {
        "names": {"relevance": "m"},
        "probe": [0.5],
        "eval_mode": None,
    }
