"""`plainmed calibrate`: targets that `plainmed score` uses."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from serve_app.metrics.readability import readability
from tests.support.calibration_corpus import ROWS, make_pair, write_pairs
from tests.support.command import plainmed, refused
from tests.support.texts import GENERATED, ORIGINALS


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


@pytest.mark.usefixtures("in_process")
def test_calibrate_takes_split_seed_subset_and_draws(tmp_path: Path) -> None:
    rows = [make_pair(at, "train" if at % 2 else "test") for at in range(20)]
    source, out, drawing = write_pairs(tmp_path / "p.csv", rows), tmp_path / "t", tmp_path / "d.svg"
    result = plainmed(
        *("calibrate", source, "--out", out, "--split", "test", "--subset", 0.5, "--seed", 3),
        *("--chunk-size", 4, "--no-progress", "--plot", drawing),
    )
    assert result.exit_code == 0
    assert result.stderr.splitlines() == [
        f"targets of 5 pairs written to {out}",
        f"their distributions drawn in {drawing}",
    ]
    document = json.loads(out.read_text(encoding="utf-8"))
    assert (document["split"], document["subset"], document["seed"]) == ("test", 0.5, 3)
    assert "<svg" in drawing.read_text(encoding="utf-8")
    assert plainmed("calibrate", source, "--out", out, "--all-rows").exit_code == 0
    document = json.loads(out.read_text(encoding="utf-8"))
    assert (document["split"], document["n"]) == (None, 20)


def test_calibrate_refuses_what_cannot_be(tmp_path: Path) -> None:
    source = write_pairs(tmp_path / "p.csv", ROWS)
    out = tmp_path / "t.json"
    assert "subset" in refused("calibrate", source, "--out", out, "--subset", 0)
    said = refused("calibrate", source, "--out", out, "--split", "dev")
    assert "'dev' in none of its 5 rows; use split=None (--all-rows)" in said
    assert "no-folder" in refused("calibrate", source, "--out", tmp_path / "no-folder" / "t.json")
    assert not out.exists()
