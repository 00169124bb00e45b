"""The programs of examples/ run as they stand, here with small models."""

from __future__ import annotations

import re
import runpy
import sys
from pathlib import Path
from typing import Any

import pytest

from serve_app.metrics.loss import Targets
from tests.support.command import plainmed
from tests.support.paths import ROOT

EXAMPLES = ROOT / "examples"
PAIRS = EXAMPLES / "pairs.csv"
ROWS = ["aspirin", "exercise", "zinc", "antibiotics", "statins", "asthma"]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Any:
    """Runs an example as a program in an empty folder; what it printed, and its status."""
    monkeypatch.chdir(tmp_path)

    def run(name: str, *arguments: str) -> tuple[str, int]:
        path = EXAMPLES / f"{name}.py"
        monkeypatch.setattr(sys, "argv", [str(path), *arguments])
        status = 0
        try:
            runpy.run_path(str(path), run_name="__main__")
        except SystemExit as ended:
            status = int(ended.code or 0)
        return capsys.readouterr().out, status

    return run


def test_the_page_names_every_example_and_each_says_how_to_run_it() -> None:
    page = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    programs = sorted(path.name for path in EXAMPLES.glob("*.py"))
    assert sorted(set(re.findall(r"\((\w+\.py)\)", page))) == programs
    for name in programs:
        assert f"python examples/{name}" in (EXAMPLES / name).read_text(encoding="utf-8")


@pytest.mark.usefixtures("in_process")
def test_outputs_of_a_model_are_scored_row_by_row(run: Any) -> None:
    shown, _ = run("score_outputs")
    _, *rows = shown.splitlines()
    assert [row.split()[0] for row in rows] == ROWS
    for row in rows:
        loss, relevance, factuality = map(float, row.split()[1:4])
        assert all(0 <= value <= 1 for value in (loss, relevance, factuality))
        assert len(row.split()) == 7


@pytest.mark.usefixtures("in_process")
def test_two_systems_are_compared_pair_by_pair(run: Any) -> None:
    shown, _ = run("compare_systems")
    assert "model_a" in shown.replace("\\", "")
    assert "model_b" in shown.replace("\\", "")
    assert "## Paired differences" in shown


@pytest.mark.usefixtures("in_process")
def test_targets_are_made_of_the_human_summaries(run: Any, tmp_path: Path) -> None:
    shown, _ = run("calibrate", "mine.json")
    targets = Targets.load(tmp_path / "mine.json")
    assert targets.details["n"] == len(ROWS)
    for mean in targets.mean:
        assert f"{mean:.2f}" in shown
    assert "0.000 by yours" in shown


@pytest.mark.usefixtures("in_process")
def test_candidates_are_shown_best_first(run: Any) -> None:
    shown, _ = run("best_of_n")
    losses = [float(one) for one in re.findall(r"loss ([\d.]+)", shown)]
    assert len(losses) == 4
    assert losses == sorted(losses)
    assert len(shown.rpartition("\n\n")[2].split()) > 5


@pytest.mark.usefixtures("in_process")
def test_a_copy_earns_less_than_a_summary(run: Any) -> None:
    shown, _ = run("reward")
    values = {line[:9].strip(): float(line[9:]) for line in shown.splitlines()}
    assert values["no words"] == 0
    assert values["copied"] < values["good"] <= 1
    assert values["reversed"] < values["good"]


@pytest.mark.usefixtures("in_process")
def test_the_gate_fails_only_what_is_certainly_too_bad(run: Any, tmp_path: Path) -> None:
    columns = ["--original-column", "original", "--generated-column", "model_a"]
    scored = tmp_path / "scored.csv"
    assert plainmed("score", PAIRS, "--out", scored, *columns).exit_code == 0
    shown, status = run("gate", str(scored), "1")
    assert status == 0
    low, high = map(float, re.findall(r"\(([\d.]+) to ([\d.]+)\)", shown)[0])
    assert low < high
    assert run("gate", str(scored), str((low + high) / 2))[1] == 0  # it may be
    shown, status = run("gate", str(scored), str(low / 2))
    assert status == 1
    assert "failed" in shown


@pytest.mark.usefixtures("in_process")
def test_the_gate_fails_what_has_no_score_or_no_interval(run: Any, tmp_path: Path) -> None:
    table, scored = tmp_path / "pairs.csv", tmp_path / "scored.csv"
    table.write_text("original,generated\nA long text.,A text.\n")
    assert plainmed("score", table, "--out", scored).exit_code == 0
    assert run("gate", str(scored), "1")[1] == 1
    table.write_text("original,generated\nA long text.,A text.\nA text.,\n")
    assert plainmed("score", table, "--out", scored, "--restart").exit_code == 1
    shown, status = run("gate", str(scored), "1")
    assert status == 1
    assert "1 of 2 rows have no score" in shown
