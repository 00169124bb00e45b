"""`plainmed validate`: the table, the page, JSON, and what is refused before the work."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from serve_app.metrics.difficulty import FEATURES
from tests.support.command import plainmed, refused
from tests.support.texts import GENERATED, ORIGINALS


@pytest.fixture
def table(tmp_path: Path) -> Path:
    path = tmp_path / "pairs.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["source_text", "target_text", "split", "rating"])
        texts = zip(ORIGINALS, GENERATED, strict=True)
        writer.writerows((*pair, "test", at) for at, pair in enumerate(texts))
    return path


@pytest.fixture
def rated(tmp_path: Path) -> Path:
    path = tmp_path / "rated.jsonl"
    rows = [{"text": text, "easiness": at} for at, text in enumerate([*ORIGINALS, *GENERATED])]
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    return path


@pytest.mark.usefixtures("in_process")
def test_a_table_is_validated_and_the_page_written(table: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    result = plainmed("validate", table, "--limit", 3, "--out", page)
    assert result.exit_code == 0
    assert "direction turned" in result.stdout
    assert "faithfulness" in result.stdout
    assert "…" not in result.stdout
    assert "original in 'source_text', generated in 'target_text'" in result.stderr
    assert "3 of 4 rows" in result.stderr
    assert "<svg" in page.read_text(encoding="utf-8")


@pytest.mark.usefixtures("in_process")
def test_json_is_all_that_is_printed_and_the_same_each_time(table: Path) -> None:
    command = ("validate", table, "--split", "test", "--limit", 3, "--rated", table, "--json")
    first, second = (json.loads(plainmed(*command).stdout) for _ in range(2))
    assert first["kinds"] == second["kinds"]
    assert first["correlations"] == second["correlations"]
    assert first["perturbed"]["used"] == 3
    assert first["models"]["factuality"] == "tiny"
    assert first["tokens"] > 0
    assert {"relevance", "loss", "difficulty"} <= {*first["correlations"]}


def test_rated_texts_alone_need_no_model(rated: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALIGNSCORE_MODEL", "/nowhere")
    found = json.loads(plainmed("validate", "--rated", rated, "--json").stdout)
    assert list(found["correlations"]) == ["fkgl", "smog", "dale_chall", "difficulty"]
    assert found["models"] == {}
    assert found["correlations"]["difficulty"]["spearman"] < 0
    shown = plainmed("validate", "--rated", rated).stdout
    assert "Beyond FKGL" in shown


def test_another_difficulty_model_is_taken(rated: Path, tmp_path: Path) -> None:
    model = tmp_path / "model.json"
    numbers = {"intercept": 0.0, **dict.fromkeys(FEATURES, -1.0)}
    model.write_text(json.dumps(numbers), encoding="utf-8")
    command = ("validate", "--rated", rated, "--json", "--difficulty", model)
    found = json.loads(plainmed(*command).stdout)
    assert found["correlations"]["difficulty"]["spearman"] > 0
    model.write_text("{}", encoding="utf-8")
    assert "no difficulty model" in refused(*command)


@pytest.mark.usefixtures("in_process")
def test_columns_are_those_of_the_file_that_is_edited(table: Path, rated: Path) -> None:
    result = plainmed(
        *("validate", table, "--rated", rated, "--limit", 3),
        *("--original-column", "source_text", "--generated-column", "target_text"),
    )
    assert result.exit_code == 0
    assert "to name those of" in result.stderr
    assert "generated in 'text', rating in 'easiness'" in result.stderr


def test_mistakes_are_refused_before_the_models_are_loaded(
    table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ALIGNSCORE_MODEL", "/nowhere")
    assert "--rated" in refused("validate")
    assert "--share" in refused("validate", table, "--share", 0)
    assert "no column 'nothing'" in refused("validate", table, "--generated-column", "nothing")
    assert "is 'dev'" in refused("validate", table, "--split", "dev")
    assert "weights" in refused("validate", table, "--weights", "1,2")
    assert "writ" in refused("validate", table, "--out", tmp_path / "no" / "such" / "page.html")
