"""Scored files become systems, and their rows pairs: nothing is lost on the way without a count."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from serve_app.core.errors import InvalidInput
from serve_app.metrics.loss import METRICS
from serve_app.offline.report.matching import choose_column, pair
from serve_app.offline.report.reader import SAME_ORIGINAL, Columns, read_systems
from serve_app.offline.report.systems import System
from tests.support.report_files import failed, scored, write
from tests.support.texts import GENERATED, ORIGINALS


def table(rows: list[dict[str, Any]]) -> np.ndarray:
    return np.array([[row[name] for name in METRICS] for row in rows])


def pair_all(systems: list[System]) -> Any:
    column = choose_column(systems)
    assert column is not None
    return pair(systems[0], systems[1], column)


@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
def test_every_format_gives_the_same_numbers_and_counts_failures(
    tmp_path: Path, ending: str
) -> None:
    rows = scored(6)
    rows[2:2] = [failed("x"), {**failed("y"), "error_code": "missing"}]
    (system,) = read_systems([write(tmp_path / f"mine.{ending}", rows)])
    assert (system.name, system.file, system.rows) == ("mine", f"mine.{ending}", 8)
    assert system.failures == {"empty_text": 1, "missing": 1}
    assert np.flatnonzero(~system.scored).tolist() == [2, 3]
    assert system.values[system.scored] == pytest.approx(table(scored(6)))
    assert system.words[0].tolist() == [len(ORIGINALS[0].split()), len(GENERATED[0].split())]
    assert np.isnan(system.words[2]).all()
    assert [one.generated for one in system.texts([7, 0])] == [GENERATED[5 % 4], GENERATED[0]]


def test_a_cell_that_is_no_number_fails_its_row_by_name(tmp_path: Path) -> None:
    rows = scored(3)
    rows[1] |= {"error_code": None, "fkgl": "about nine", "smog": float("nan")}
    (system,) = read_systems([write(tmp_path / "a.csv", rows)])
    assert system.failures == {"no fkgl, smog": 1}
    assert system.scored.tolist() == [True, False, True]


def test_results_of_evaluate_are_read_with_their_sentences_and_truncation(tmp_path: Path) -> None:
    def answer(at: int) -> dict[str, Any]:
        row = scored(3)[at]
        return {
            "id": at,
            "generated": GENERATED[at],
            "metrics": {name: row[name] for name in METRICS},
            "loss": row["loss"],
            "sentences": [{"text": GENERATED[at][:20], "score": 0.25, "support": "because"}],
            "truncated": {
                "relevance_original": at == 0,
                "relevance_generated": False,
                "factuality": False,
            },
        }

    path = write(tmp_path / "a.jsonl", [answer(at) for at in range(3)])
    cells = [
        {name: json.dumps(cell) if isinstance(cell, dict | list) else cell for name, cell in row}
        for row in (answer(at).items() for at in range(3))
    ]
    for file in (path, write(tmp_path / "b.csv", cells)):
        (system,) = read_systems([file])
        assert system.values == pytest.approx(table(scored(3)))
        assert system.truncated["relevance_original"].tolist() == [1, 0, 0]
        (texts,) = system.texts([1])
        assert texts.sentences is not None
        assert (texts.sentences[0].score, texts.sentences[0].support) == (0.25, "because")


def test_a_column_model_makes_systems_unless_a_name_is_given(tmp_path: Path) -> None:
    rows = [{"model": name, **row} for name in ("b", "a") for row in scored(2)]
    path = write(tmp_path / "both.csv", rows)
    assert [(one.name, one.rows) for one in read_systems([path])] == [("b", 2), ("a", 2)]
    assert [(one.name, one.rows) for one in read_systems([path], ["all"])] == [("all", 4)]


def test_one_name_in_two_files_is_told_apart_or_refused(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    rows = [{"model": "m", **row} for row in scored(2)]
    one, two = write(tmp_path / "x.csv", rows), write(tmp_path / "y.csv", rows)
    assert [system.name for system in read_systems([one, two])] == ["m (x)", "m (y)"]
    same = write(tmp_path / "other" / "x.csv", rows)
    with pytest.raises(InvalidInput, match="--name"):
        read_systems([one, same])
    assert [system.name for system in read_systems([one, same], ["1", "2"])] == ["1", "2"]
    with pytest.raises(InvalidInput, match="1 names for 2 files"):
        read_systems([one, same], ["1"])


def test_what_is_no_scored_file_is_refused_with_the_way_out(tmp_path: Path) -> None:
    rows = [{name: cell for name, cell in row.items() if name != "smog"} for row in scored(2)]
    with pytest.raises(InvalidInput, match=r"there is no smog.*plainmed score"):
        read_systems([write(tmp_path / "a.csv", rows)])
    (tmp_path / "empty.csv").write_text(",".join(scored(1)[0]) + "\n", encoding="utf-8")
    with pytest.raises(InvalidInput, match="no rows"):
        read_systems([tmp_path / "empty.csv"])
    good = write(tmp_path / "b.csv", scored(2))
    with pytest.raises(InvalidInput, match=r"--id nothing: there is no such column"):
        read_systems([good], columns=Columns(id="nothing"))
    many = write(tmp_path / "c.csv", [{"model": at, **row} for at, row in enumerate(scored(30))])
    with pytest.raises(InvalidInput, match="over 20 systems"):
        read_systems([many])


def test_a_prefix_names_the_scores(tmp_path: Path) -> None:
    kept = ("doc_id", "original", "generated")
    rows = [
        {(name if name in kept else f"new_{name}"): cell for name, cell in row.items()}
        for row in [*scored(2), failed("z")]
    ]
    (system,) = read_systems([write(tmp_path / "a.jsonl", rows)], columns=Columns(prefix="new_"))
    assert system.values[:2] == pytest.approx(table(scored(2)))
    assert system.failures == {"empty_text": 1}


def test_rows_pair_by_id_in_any_order_and_all_others_are_counted(tmp_path: Path) -> None:
    one = scored(6)
    one.append({**one[5]})  # d5 twice
    other = [*reversed(scored(5, seed=1)), failed("d5"), *scored(1, seed=2)]
    other[0]["doc_id"] = "new"  # was d4
    other[-1]["doc_id"] = ""
    other[1] = failed("d3")
    systems = read_systems(
        [write(tmp_path / "a.csv", one), write(tmp_path / "b.jsonl", other)], ["a", "b"]
    )
    found = pair_all(systems)
    assert found.column == "doc_id"
    keys = [system.keys["doc_id"] for system in systems]
    assert [keys[0][at] for at in found.first] == [keys[1][at] for at in found.second]
    assert sorted(keys[0][at] for at in found.first) == ["d0", "d1", "d2"]
    assert found.failed == 1  # d3
    assert found.repeated == (2, 0)
    assert found.unpaired == (1, 3)  # d4; new, d5 and the one without an id
    for system, unpaired, repeated in zip(systems, found.unpaired, found.repeated, strict=True):
        assert system.rows == found.count + found.failed + unpaired + repeated


def test_integers_and_floats_of_another_writer_are_one_id(tmp_path: Path) -> None:
    one = [{**row, "doc_id": at} for at, row in enumerate(scored(3))]
    other = [{**row, "doc_id": float(at)} for at, row in enumerate(scored(3))]
    files = [write(tmp_path / "a.csv", one), write(tmp_path / "b.parquet", other)]
    assert pair_all(read_systems(files)).count == 3


def test_without_an_id_the_same_original_pairs(tmp_path: Path) -> None:
    def rows(seed: int) -> list[dict[str, Any]]:
        return [
            {name: cell for name, cell in row.items() if name != "doc_id"}
            for row in scored(4, seed)
        ]

    files = [
        write(tmp_path / "a.csv", rows(0)),
        write(tmp_path / "b.jsonl", list(reversed(rows(1)))),
    ]
    found = pair_all(read_systems(files))
    assert (found.column, found.count) == (SAME_ORIGINAL, 4)
    assert found.second.tolist() == [3, 2, 1, 0]


def test_where_nothing_is_in_common_nothing_pairs(tmp_path: Path) -> None:
    bare = [{name: row[name] for name in METRICS} for row in scored(3)]
    files = [write(tmp_path / "a.csv", bare), write(tmp_path / "b.csv", scored(3))]
    systems = read_systems(files)
    assert choose_column(systems) is None
    with pytest.raises(InvalidInput, match="--id"):
        choose_column(systems, "doc_id")
