"""The earlier system's call does what it did, by the means of this system."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

import serve_app.offline.calibration
from serve_app.core.errors import ConfigError
from serve_app.core.settings import load_settings
from serve_app.metrics.loss import Targets
from serve_app.metrics.targets import load_targets
from serve_app.offline.calibration import calibrate_targets, calibrateTargets
from tests.support.calibration_corpus import ROWS, make_pair, write_pairs

pytestmark = pytest.mark.usefixtures("in_process")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_pairs(tmp_path / "p.csv", [make_pair(at, "train") for at in range(12)])


def test_the_four_earlier_arguments_go_by_place_or_by_name(source: Path, tmp_path: Path) -> None:
    by_place = calibrateTargets(str(source), str(tmp_path / "a.json"), 0.5, 4)
    by_name = calibrateTargets(
        path=str(source), save_to=str(tmp_path / "b.json"), subset=0.5, chunk_size=4, progress=False
    )
    assert by_place == by_name == json.loads((tmp_path / "a.json").read_text())
    assert by_place["n"] == 6
    new = calibrate_targets(source, subset=0.5, chunk_size=4, progress=False)
    assert by_place == new.to_dict()
    assert by_place["TARGET_FKGL"] == new.mean[2]
    assert by_place["SIGMA_DALECHALL"] == new.sigma[4]
    assert "calibrateTargets" in serve_app.offline.calibration.__all__


def test_seed_and_progress_are_used(source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one = calibrateTargets(source, None, 0.5, 4, seed=1, progress=False)
    assert capsys.readouterr().err == ""
    other = calibrateTargets(source, None, 0.5, 4, seed=2)
    assert "6/6" in capsys.readouterr().err
    assert (one["seed"], other["seed"]) == (1, 2)
    assert one["fingerprint"] != other["fingerprint"]


def test_update_globals_makes_later_scores_use_the_new_targets(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = os.environ["TARGETS_FILE"]
    monkeypatch.setenv("TARGETS_FILE", before)  # so that it is put back at the end
    calibrateTargets(source, tmp_path / "a.json", progress=False)
    assert os.environ["TARGETS_FILE"] == before
    monkeypatch.chdir(tmp_path)
    calibrateTargets(source, "b.json", update_globals=True, progress=False)
    monkeypatch.chdir("/")
    assert load_targets(load_settings()) == Targets.load(tmp_path / "b.json")


def test_update_globals_without_a_file_is_refused_before_the_work(source: Path) -> None:
    before = os.environ["TARGETS_FILE"]
    with pytest.raises(ConfigError, match="give save_to"):
        calibrateTargets(source, update_globals=True)
    assert os.environ["TARGETS_FILE"] == before


def test_a_failed_calibration_leaves_the_targets_in_use(tmp_path: Path) -> None:
    before = os.environ["TARGETS_FILE"]
    with pytest.raises(ConfigError, match="at least 2 pairs"):
        calibrateTargets(
            write_pairs(tmp_path / "p.csv", ROWS[:1]), tmp_path / "t.json", update_globals=True
        )
    assert os.environ["TARGETS_FILE"] == before


def test_all_rows_can_be_used(tmp_path: Path) -> None:
    source = write_pairs(
        tmp_path / "p.csv", [row[:2] for row in ROWS], ["source_text", "target_text"]
    )
    assert calibrateTargets(source, split=None, progress=False)["n"] == 5
