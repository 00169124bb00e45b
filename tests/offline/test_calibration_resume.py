"""A calibration that was killed goes on where it was, and never with other texts or models."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from serve_app.core.errors import ConfigError, MetricFailed
from serve_app.metrics.loss import Targets
from serve_app.metrics.suite import MetricSuite
from serve_app.offline.calibration import calibrate_targets
from serve_app.offline.calibration import run as calibration_run
from serve_app.offline.corpus.scorer import SuiteScorer
from tests.support.calibration_corpus import make_pair, write_pairs
from tests.support.command import plainmed, refused
from tests.support.paths import ROOT
from tests.support.slow import slow

PAIRS = 16


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_pairs(tmp_path / "in.csv", [make_pair(at, "train") for at in range(PAIRS)])


class Stop(BaseException):
    """Stands for a kill between two blocks."""


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The summaries that are measured from here on."""
    seen: list[str] = []
    measure = SuiteScorer.__call__

    def noted(self: SuiteScorer, originals: Sequence[str], generated: Sequence[str]):
        seen.extend(generated)
        return measure(self, originals, generated)

    monkeypatch.setattr(SuiteScorer, "__call__", noted)
    return seen


def stop_after_two(source: Path, out: Path, suite: MetricSuite | None, **options) -> None:
    """A run that ends after two blocks of four pairs, so that its journal is left."""
    kept = calibration_run.keep_results

    def keep(results, numbers, journal, on_rows) -> None:
        def count(rows: int) -> None:
            on_rows(rows)
            if len(journal.finished) == 2:
                raise Stop

        kept(results, numbers, journal, count)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(calibration_run, "keep_results", keep)
        with pytest.raises(Stop):
            calibrate_targets(source, out, 1.0, 4, suite=suite, progress=False, **options)


@slow(12)
@pytest.mark.usefixtures("in_process")
def test_a_command_killed_with_sigkill_goes_on(tmp_path: Path, measured: list[str]) -> None:
    pairs = [make_pair(at, "train") for at in range(40)]  # enough to be killed before the last
    source = write_pairs(tmp_path / "in.csv", pairs)
    out, parts = tmp_path / "t.json", tmp_path / "t.json.parts"
    command = ["calibrate", str(source), "--out", str(out), "--chunk-size", "1", "--no-progress"]
    process = subprocess.Popen([sys.executable, "-m", "serve_app.cli", *command], cwd=ROOT)
    try:
        deadline = time.monotonic() + 240
        while len(list(parts.glob("block-*.json"))) < 5 and process.poll() is None:
            assert time.monotonic() < deadline, "nothing is measured"
            time.sleep(0.02)
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    assert process.returncode == -signal.SIGKILL
    finished = len(list(parts.glob("block-*.json")))
    assert 5 <= finished < len(pairs)
    assert not out.exists()

    result = plainmed(*[word for word in command if word != "--no-progress"])
    assert result.exit_code == 0
    assert f"{finished} of {len(pairs)} pairs were finished by an earlier run" in result.stderr
    assert measured == [summary for _, summary, _ in pairs[finished:]]
    assert not parts.exists()
    whole = calibrate_targets(source, chunk_size=1, progress=False)
    resumed = Targets.load(out)
    assert resumed.mean == pytest.approx(whole.mean, abs=1e-6)
    assert resumed.details["fingerprint"] == whole.details["fingerprint"]
    assert resumed.models == whole.models


def test_what_is_finished_is_not_measured_again_and_nothing_is_left(
    source: Path, tmp_path: Path, tiny_suite: MetricSuite, measured: list[str], capsys
) -> None:
    whole = calibrate_targets(source, tmp_path / "w.json", 1.0, 4, suite=tiny_suite, progress=False)
    assert len(measured) == PAIRS
    out = tmp_path / "t.json"
    stop_after_two(source, out, tiny_suite)
    measured.clear()
    assert calibrate_targets(source, out, 1.0, 4, suite=tiny_suite) == whole
    assert f"8 of {PAIRS} pairs were finished by an earlier run" in capsys.readouterr().err
    assert len(measured) == PAIRS - 8
    # The same numbers, to the last byte: what goes through the journal loses nothing.
    assert out.read_bytes() == (tmp_path / "w.json").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.csv", "t.json", "w.json"]


def test_a_run_whose_blocks_are_all_finished_needs_no_models(
    source: Path, tmp_path: Path, tiny_suite: MetricSuite, measured: list[str]
) -> None:
    out, drawing = tmp_path / "t.json", tmp_path / "no" / "t.svg"
    drawing.parent.mkdir()
    options = {"suite": tiny_suite, "progress": False}

    def stop(*_) -> str:
        raise Stop

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(calibration_run, "draw", stop)
        with pytest.raises(Stop):
            calibrate_targets(source, out, 1.0, 4, plot=drawing, **options)
    measured.clear()
    targets = calibrate_targets(source, out, 1.0, 4, plot=drawing, **options)
    assert measured == []
    assert targets.models == tiny_suite.models
    assert drawing.read_text().startswith("<svg")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"seed": 1}, "seed was 0, now 1"),
        ({"subset": 0.5}, "subset was 1.0, now 0.5"),
        ({"chunk_size": 8}, "chunk_size was 4, now 8"),
        ({"split": None}, 'split was "train", now null'),
    ],
)
def test_a_run_with_something_else_is_refused(
    source: Path, tmp_path: Path, tiny_suite: MetricSuite, options: dict, says: str
) -> None:
    out = tmp_path / "t.json"
    stop_after_two(source, out, tiny_suite)
    given = {"chunk_size": 4, "suite": tiny_suite, "progress": False, **options}
    with pytest.raises(ConfigError, match=f"does not fit this one: .*{says}.*--restart"):
        calibrate_targets(source, out, **given)
    assert not out.exists()
    assert calibrate_targets(source, out, **given, restart=True).details["n"] >= PAIRS // 2


def test_other_texts_are_refused(source: Path, tmp_path: Path, tiny_suite: MetricSuite) -> None:
    out = tmp_path / "t.json"
    stop_after_two(source, out, tiny_suite)
    write_pairs(source, [make_pair(at, "train") for at in range(1, PAIRS + 1)])
    with pytest.raises(ConfigError, match=r"input\.sha256 was"):
        calibrate_targets(source, out, 1.0, 4, suite=tiny_suite, progress=False)


@pytest.mark.usefixtures("in_process")
def test_other_settings_are_refused_by_the_command_until_restart(
    source: Path, tmp_path: Path, tiny_suite: MetricSuite, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "t.json"
    stop_after_two(source, out, None)  # the models of the settings
    command = ("calibrate", source, "--out", out, "--chunk-size", "4")
    monkeypatch.setenv("BERTSCORE_LONG_TEXT", "window")
    said = refused(*command)
    assert 'scoring.settings.bertscore_long_text was "truncate", now "window"' in said
    assert "--restart" in said
    manifest = json.loads((tmp_path / "t.json.parts" / "manifest.json").read_text())
    assert manifest["models"]["names"] == tiny_suite.models
    assert plainmed(*command, "--restart").exit_code == 0
    assert Targets.load(out).calibration.settings["bertscore_long_text"] == "window"  # type: ignore


def test_a_row_that_fails_is_tried_again_by_the_next_run(
    source: Path, tmp_path: Path, tiny_suite: MetricSuite, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "t.json"
    bad = make_pair(9, "train")[1]
    measure = SuiteScorer.__call__

    def failing(self: SuiteScorer, originals: Sequence[str], generated: Sequence[str]):
        if bad in generated:
            raise MetricFailed("relevance is not a number")
        return measure(self, originals, generated)

    with monkeypatch.context() as patch:
        patch.setattr(SuiteScorer, "__call__", failing)
        with pytest.raises(MetricFailed, match=r"in\.csv: row 10 cannot be measured"):
            calibrate_targets(source, out, 1.0, 4, suite=tiny_suite, progress=False)
    blocks = sorted(path.name for path in (tmp_path / "t.json.parts").glob("block-*"))
    assert blocks == ["block-000000.json", "block-000001.json"]
    assert calibrate_targets(source, out, 1.0, 4, suite=tiny_suite, progress=False)


@pytest.mark.parametrize("content", ['[{"code": "x", "message": "y"}]', "[[1, 2, null]]", "[]"])
def test_a_damaged_block_makes_no_targets(
    source: Path, tmp_path: Path, tiny_suite: MetricSuite, content: str
) -> None:
    out = tmp_path / "t.json"
    stop_after_two(source, out, tiny_suite)
    (tmp_path / "t.json.parts" / "block-000001.json").write_text(content)
    with pytest.raises(ConfigError, match=r"t\.json\.parts is damaged; remove it"):
        calibrate_targets(source, out, 1.0, 4, suite=tiny_suite, progress=False)
    assert not out.exists()


def test_texts_that_make_no_targets_leave_nothing_in_the_way(
    tmp_path: Path, tiny_suite: MetricSuite
) -> None:
    alike = write_pairs(tmp_path / "alike.csv", [make_pair(1, "train")] * 3)
    out = tmp_path / "t.json"
    with pytest.raises(ConfigError, match="do not make targets"):
        calibrate_targets(alike, out, suite=tiny_suite, progress=False)
    assert not (tmp_path / "t.json.parts").exists()


def test_without_a_file_nothing_is_kept_and_nothing_can_be_restarted(
    source: Path, tmp_path: Path, tiny_suite: MetricSuite, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    calibrate_targets(source, suite=tiny_suite, progress=False)
    assert [path.name for path in tmp_path.iterdir()] == ["in.csv"]
    with pytest.raises(ConfigError, match="without save_to"):
        calibrate_targets(source, suite=tiny_suite, restart=True)


def test_blocks_that_come_back_in_another_order_make_the_same_targets(
    source: Path, tiny_suite: MetricSuite
) -> None:
    """As on Ray; the order of the rows is seen in the last digits of a sum, and in no journal."""
    made = calibration_run._with(tiny_suite)

    class Backwards:
        name = "backwards"

        def run(self, corpus, blocks, task):
            yield from reversed(list(made.make().run(corpus, blocks, task)))

    here = calibrate_targets(source, None, 1.0, 4, suite=tiny_suite, progress=False)
    with pytest.MonkeyPatch.context() as patch:
        backwards = calibration_run._Measurer(Backwards, made.describe)
        patch.setattr(calibration_run, "_with", lambda suite: backwards)
        assert calibrate_targets(source, None, 1.0, 4, suite=tiny_suite, progress=False) == here
