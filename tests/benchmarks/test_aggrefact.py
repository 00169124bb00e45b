"""`benchmarks.aggrefact` reads LLM-AggreFact's files in every format, and computes as published."""

from __future__ import annotations

import csv
import json
import random
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from benchmarks import aggrefact
from serve_app.core.errors import InvalidInput
from serve_app.core.settings import load_settings
from serve_app.metrics.suite import load_factuality
from tests.support.tiny_checkers import save_minicheck, text


def rows(count: int, seed: int = 0) -> list[dict[str, Any]]:
    rng = random.Random(seed)
    return [
        {
            "dataset": ("A", "B")[at % 2],
            "doc": text(rng, 4),
            "claim": text(rng, 1),
            "label": at // 2 % 2,
            "contamination_identifier": "x",
        }
        for at in range(count)
    ]


def write(path: Path, found: list[dict[str, Any]]) -> None:
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(found), path)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in found), encoding="utf-8")
    else:
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(found[0]))
            writer.writeheader()
            writer.writerows(found)


@pytest.mark.parametrize("suffix", aggrefact.SUFFIXES)
def test_every_format_is_read_alike(tmp_path: Path, suffix: str) -> None:
    dev, test = rows(8), rows(12, seed=1)
    write(tmp_path / f"dev-00000-of-00001{suffix}", dev)
    write(tmp_path / f"test{suffix}", test)
    found = aggrefact.read(tmp_path)
    counts = {name: [len(one["dev"]), len(one["test"])] for name, one in found.items()}
    assert counts == {"A": [4, 6], "B": [4, 6]}
    first = test[0]
    assert found["A"]["test"][0] == (first["doc"], first["claim"], first["label"])


def test_the_teams_file_is_read_by_its_own_names(tmp_path: Path) -> None:
    labels = ("supported", "not_supported", "contradicted", "unsupported")
    found = [
        {"context": "A b.", "claim": "A.", "label": label, "source": "s", "split": split}
        for label in labels
        for split in ("train", "dev")
    ]
    write(tmp_path / "summaries.jsonl", found)
    read = aggrefact.read(tmp_path / "summaries.jsonl")
    assert [claim.label for claim in read["s"]["dev"]] == [1, 0, 0, 0]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"label": "maybe"}, "row 3: label is 'maybe'"),
        ({"doc": None}, "row 3: there is no doc or context"),
    ],
)
def test_a_wrong_row_is_named(tmp_path: Path, change: dict[str, Any], says: str) -> None:
    found = rows(4)
    found[2] |= change
    write(tmp_path / "test.jsonl", found)
    with pytest.raises(InvalidInput, match=says):
        aggrefact.read(tmp_path)


def test_a_file_without_a_split_and_a_folder_without_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="no file that ends in"):
        aggrefact.read(tmp_path)
    write(tmp_path / "contest.csv", rows(2))
    with pytest.raises(InvalidInput, match="says dev or test"):
        aggrefact.read(tmp_path)


def test_accuracy_is_balanced_and_a_score_at_the_threshold_is_not_supported() -> None:
    labels, scores = [1, 1, 1, 1, 0], [0.9, 0.8, 0.7, 0.5, 0.5]
    assert aggrefact.balanced_accuracy(labels, scores, 0.5) == (3 / 4 + 1) / 2
    assert aggrefact.balanced_accuracy(labels, scores, 0.49) == 0.5
    assert aggrefact.best_threshold(labels, scores) == 0.5


def test_the_threshold_is_tuned_on_dev_and_the_rest_is_not_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = save_minicheck("roberta", tmp_path / "model")
    write(tmp_path / "dev.csv", rows(24))
    write(tmp_path / "test.csv", rows(40, seed=1))
    settings = {"FACTUALITY_CHECKER": "minicheck", "FACTUALITY_MODEL": str(model), "DEVICE": "cpu"}
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    scorer = load_factuality(load_settings())
    data = aggrefact.read(tmp_path)
    table = aggrefact.evaluate(scorer, data, None, 0)
    for row, name in zip(table, "AB", strict=False):
        scored = {
            split: [scorer.score_published([c.doc], [c.claim])[0].score for c in data[name][split]]
            for split in ("dev", "test")
        }
        labels = {split: [c.label for c in data[name][split]] for split in ("dev", "test")}
        threshold = aggrefact.best_threshold(labels["dev"], scored["dev"])
        wanted = [
            f"{100 * aggrefact.balanced_accuracy(labels['test'], scored['test'], one):.1f}"
            for one in (0.5, threshold)
        ]
        cells = [cell.strip() for cell in row.strip("|").split("|")]
        assert cells == [name, "test", "20", wanted[0], f"{threshold:.2f}", wanted[1]]
    app = aggrefact.typer.Typer()
    app.command()(aggrefact.main)
    shown = CliRunner().invoke(app, [str(tmp_path)])
    assert shown.exit_code == 0, shown.output
    assert all(row in shown.stdout for row in table)
    assert "minicheck:model" in shown.stdout


def test_a_dataset_of_one_label_has_no_number(tmp_path: Path) -> None:
    model = save_minicheck("roberta", tmp_path / "model")
    settings = load_settings(
        factuality_checker="minicheck", factuality_model=str(model), device="cpu"
    )
    claims = [aggrefact.Claim("Aspirin lowered pain.", "It did.", 1)]
    table = aggrefact.evaluate(load_factuality(settings), {"A": {"test": claims}}, None, 0)
    assert table == ["| A | test | 1 | – | – | – |", "| mean of 0 | | | – | | – |"]
