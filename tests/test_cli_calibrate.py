"""`plainmed calibrate`: targets that `plainmed score` uses."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from serve_app.metrics.readability import readability
from tests.command import plainmed, refused
from tests.texts import GENERATED, ORIGINALS


@pytest.mark.usefixtures("in_process")
def test_calibrate_writes_targets_that_score_uses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pair: list[object]
) -> None:
    source, out = tmp_path / "human.csv", tmp_path / "targets.json"
    with source.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["source_text", "target_text", "split"])
        writer.writerows((*texts, "train") for texts in zip(ORIGINALS, GENERATED, strict=True))
    assert plainmed("calibrate", source, "--out", out).exit_code == 0
    monkeypatch.setenv("TARGETS_FILE", str(out))
    result = plainmed("score", *pair, "--json")
    assert "warning" not in result.stderr
    targets = json.loads(result.stdout)["results"][0]["targets"]
    assert targets["fkgl"] == pytest.approx(
        sum(readability(text).fkgl for text in GENERATED) / len(GENERATED)
    )


def test_calibrate_names_a_missing_column(tmp_path: Path) -> None:
    source = tmp_path / "human.csv"
    source.write_text("source_text,split\na,train\n", encoding="utf-8")
    assert "target_text" in refused("calibrate", source, "--out", tmp_path / "t.json")
