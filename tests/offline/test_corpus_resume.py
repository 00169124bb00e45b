"""A run that was killed, or whose engine failed, goes on where it was."""

from __future__ import annotations

import contextlib
import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Generator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from serve_app.core.errors import InvalidInput, PlainMedError, Unavailable
from serve_app.offline.corpus import BlockResult, ModelNames, RowError, RowScores, ray_engine
from serve_app.offline.corpus.local_engine import LocalEngine
from serve_app.offline.corpus.ray_engine import RayEngine, RayOptions
from serve_app.offline.corpus.reader import Block, Source
from tests.support.corpus_runs import SUFFIXES, Killed, StoppingEngine, left, prepare, run
from tests.support.corpus_tools import OverlapScorer, make_rows, write_rows
from tests.support.corpus_tools import read_rows as read_file
from tests.support.paths import ROOT

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
        "import os, signal\nfrom tests.support.corpus_runs import *\n"
        f"job = prepare(Path({str(source)!r}), Path({str(tmp_path / 'out.csv')!r}))\n"
        "def stop(count):\n"
        "    stop.rows += count\n"
        "    if stop.rows >= 24: os.kill(os.getpid(), signal.SIGKILL)\n"
        "stop.rows = 0\n"
        f"run(job, OverlapScorer({str(log)!r}), on_rows=stop)\n"
    )
    root = ROOT
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
        ModelNames({"relevance": "large", "factuality": "overlap"}, (0.5,) * 5),
        ModelNames({"relevance": "overlap", "factuality": "overlap"}, (0.6,) * 5),
    ],
)
def test_blocks_of_other_models_are_not_mixed_in(tmp_path: Path, other: ModelNames) -> None:
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


# --- Ray that fails ---------------------------------------------------------------------


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
    monkeypatch.setattr(ray_engine, "_connected", lambda address: contextlib.nullcontext())


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


# --- the journal ------------------------------------------------------------------------


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
    from serve_app.offline.corpus.journal import Journal
    from serve_app.storage.locate import locate

    rows = (
        RowScores((0.1, 1e-300, -3.3333333333333335, 5e15, 0.7), 0.30000000000000004),
        RowError("empty_text", "column 'a': é \ud800"),
        RowScores((1.0, 2.0, 3.0, 4.0, 5.0)),
    )
    out = locate(tmp_path / "out.csv")
    journal = Journal(out, {})
    journal.begin()
    journal.add(BlockResult(3, rows, ModelNames({"relevance": "m"}, (0.5,))))
    again = Journal(out, {})
    assert again.finished == {3}
    assert list(again.results([3])) == [rows]
    assert json.loads((tmp_path / "out.csv.parts" / "manifest.json").read_text())["models"] == {
        "names": {"relevance": "m"},
        "probe": [0.5],
        "eval_mode": None,
    }
