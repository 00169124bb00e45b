"""`plainmed check`: what differs is printed, and a severe difference is exit status 1."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from serve_app.cli.main import app


@pytest.fixture
def source(tmp_path: Path) -> Path:
    file = tmp_path / "source.txt"
    text = "We included 15 trials with 3490 women. Serious harms were more frequent with cerclage."
    file.write_text(text, encoding="utf-8")
    return file


def run(source: Path, summary: str, *options: str) -> Result:
    file = source.with_name("summary.txt")
    file.write_text(summary, encoding="utf-8")
    return CliRunner().invoke(app, ["check", str(source), str(file), *options])


def test_a_severe_finding_is_printed_with_both_sides_and_ends_with_1(source: Path) -> None:
    done = run(source, "We included 15 trials with 349 women.")
    assert done.exit_code == 1
    assert "severe, number" in done.stdout
    assert "3490 women" in done.stdout
    assert "left out, harms" in done.stdout


def test_a_true_summary_ends_with_0(source: Path) -> None:
    done = run(source, "There were 15 trials with 3490 women. Serious harms were more frequent.")
    assert done.exit_code == 0
    assert "0 severe" in done.stdout


def test_json_has_every_field(source: Path) -> None:
    document = json.loads(run(source, "We included 15 trials with 349 women.", "--json").stdout)
    [finding] = document["findings"]
    assert finding["kind"] == "number"
    assert document["omissions"][0]["topic"] == "harms"


def test_a_missing_file_is_a_line_and_status_2(source: Path) -> None:
    done = CliRunner().invoke(app, ["check", str(source), str(source.with_name("none"))])
    assert done.exit_code == 2
    assert "cannot read" in done.output
