"""Scored files become systems, and their rows pairs: nothing is lost on the way without a count."""

from __future__ import annotations

import datetime as dt
import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from serve_app.core.errors import InvalidInput
from serve_app.metrics.loss import METRICS
from serve_app.offline.report.reader import Columns, read_systems
from serve_app.offline.report.systems import SAME_ORIGINAL, System, choose_column, pair
from tests.support.corpus_runs import prepare, run
from tests.support.corpus_tools import make_rows
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


@pytest.mark.parametrize("cell", ["", "  ", "nan", "NaN", "NA", "n/a", "null", "None", "<NA>"])
def test_a_number_that_is_not_there_fails_its_row_by_name(tmp_path: Path, cell: str) -> None:
    rows = scored(3)
    rows[1] |= {"error_code": None, "fkgl": cell, "smog": float("nan")}
    (system,) = read_systems([write(tmp_path / "a.csv", rows)])
    assert system.failures == {"no fkgl, smog": 1}
    assert system.scored.tolist() == [True, False, True]


@pytest.mark.parametrize(
    ("cell", "hint"),
    [
        ("9,5", True),
        ("1.234,5", True),
        ("1,234.5", True),
        ("12 345", True),
        ("12\u202f345,6", True),
        ("1'234", True),
        ("about nine", False),
        ("inf", False),
        ("-Infinity", False),
        ("True", False),
        ("2026-01-01", False),
        ("1_000", False),
        ("9.5 %", False),
        ("٩", False),
    ],
)
def test_a_cell_that_is_no_number_is_named_and_nothing_is_compared(
    tmp_path: Path, cell: str, hint: bool
) -> None:
    rows = scored(3)
    rows[1]["fkgl"] = cell
    with pytest.raises(InvalidInput) as caught:
        read_systems([write(tmp_path / "a.csv", rows)])
    assert "a.csv: row 2, column fkgl: " in caught.value.message
    assert repr(cell) in caught.value.message
    assert ("decimal point" in caught.value.message) == hint


@pytest.mark.parametrize(
    "cell", [True, float("inf"), dt.date(2026, 1, 1), [1.5], {"a": 1}], ids=lambda cell: str(cell)
)
def test_a_value_of_another_type_is_no_number(tmp_path: Path, cell: Any) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = {name: [row[name] for row in scored(2)] for name in METRICS}
    pq.write_table(pa.table({**columns, "fkgl": [cell, cell]}), tmp_path / "a.parquet")
    with pytest.raises(InvalidInput, match=r"row 1, column fkgl: .* is no number"):
        read_systems([tmp_path / "a.parquet"])


def test_decimals_and_integers_of_parquet_are_numbers(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns: dict[str, Any] = {name: [row[name] for row in scored(2)] for name in METRICS}
    columns |= {"fkgl": [Decimal("9.50"), None], "smog": [8, 9]}
    pq.write_table(pa.table(columns), tmp_path / "a.parquet")
    (system,) = read_systems([tmp_path / "a.parquet"])
    assert system.values[0, 2:4].tolist() == [9.5, 8]
    assert system.failures == {"no fkgl": 1}


# --- the texts that were scored, and no others ------------------------------------------


def job(source: Path, out: Path, *columns: str) -> Path:
    run(prepare(source, out, generated=columns))
    return out


def two_models(folder: Path) -> Path:
    rows = [
        {**row, "target_text": "A human text.", "model_a": row["summary"], "model_b": "B text."}
        for row in make_rows(4)
    ]
    rows[2]["model_a"] = ""
    return write(folder / "in.jsonl", [{**row, "summary": "Another text."} for row in rows])


@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
def test_the_report_shows_the_text_that_was_scored_and_no_other(
    tmp_path: Path, ending: str
) -> None:
    out = job(two_models(tmp_path), tmp_path / f"out.{ending}", "model_a")
    (system,) = read_systems([out])
    found = [one.generated for one in system.texts(range(4))]
    assert found == [row["summary"] if at != 2 else None for at, row in enumerate(make_rows(4))]
    assert (system.column, system.by_plainmed) == ("model_a", True)


def test_an_option_that_is_not_what_was_scored_is_refused(tmp_path: Path) -> None:
    out = job(two_models(tmp_path), tmp_path / "out.csv", "model_a")
    assert read_systems([out], columns=Columns(generated="model_a"))[0].column == "model_a"
    with pytest.raises(InvalidInput, match=r"row 1 was scored on the column 'model_a', not on"):
        read_systems([out], columns=Columns(generated="target_text"))


@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
def test_columns_scored_together_are_systems_of_one_file(tmp_path: Path, ending: str) -> None:
    out = job(two_models(tmp_path), tmp_path / f"out.{ending}", "model_a", "model_b")
    one, two = read_systems([out])
    assert [one.name, two.name] == ["model_a", "model_b"]
    assert (one.failures, two.failures) == ({"empty_text": 1}, {})
    assert two.texts([0])[0].generated == "B text."
    assert pair_all([one, two]).count == 3
    named = read_systems([out], ["mine"])
    assert [system.name for system in named] == ["mine model_a", "mine model_b"]
    (alone,) = read_systems([out], columns=Columns(prefix="model_b_"))
    assert (alone.name, alone.column) == ("out", "model_b")


def test_files_scored_on_other_columns_can_be_joined_line_by_line(tmp_path: Path) -> None:
    source = two_models(tmp_path)
    parts = [job(source, tmp_path / f"{name}.jsonl", name) for name in ("model_a", "model_b")]
    whole = tmp_path / "both.jsonl"
    whole.write_text("".join(part.read_text() for part in parts))
    (system,) = read_systems([whole])
    assert [one.generated for one in system.texts([0, 4])] == [
        make_rows(1)[0]["summary"],
        "B text.",
    ]
    assert system.column == "model_a, model_b"


def test_where_the_scored_column_is_not_known_the_report_asks_and_compare_goes_on(
    tmp_path: Path,
) -> None:
    rows = [{**row, "target_text": "A human text."} for row in scored(3)]
    path = write(tmp_path / "a.csv", rows)
    with pytest.raises(InvalidInput, match="could be: generated, target_text; name it with"):
        read_systems([path])
    (system,) = read_systems([path], columns=Columns(generated="target_text"))
    assert system.texts([0])[0].generated == "A human text."
    (system,) = read_systems([path], texts=False)
    assert np.isnan(system.words[:, 1]).all()
    assert system.by_plainmed is False


def test_an_empty_summary_never_shows_another_column(tmp_path: Path) -> None:
    rows = scored(2)
    rows[1] |= {"generated": ""}
    (system,) = read_systems([write(tmp_path / "a.csv", rows)])
    assert [one.generated for one in system.texts([0, 1])] == [GENERATED[0], None]


# --- ids --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (1, 1.0),
        ("1", "1.0"),
        (7, " 7.00 "),
        ("-3", -3.0),
        (dt.date(2026, 1, 2), "2026-01-02 00:00:00"),
        (dt.date(2026, 1, 2), dt.datetime(2026, 1, 2)),
        ("2026-01-02", "2026-01-02T00:00:00.000"),
    ],
)
def test_an_id_is_the_same_whoever_wrote_it(tmp_path: Path, one: Any, other: Any) -> None:
    files = []
    for name, value in (("a", one), ("b", other)):
        rows = [{**scored(1)[0], "doc_id": value}]
        ending = "csv" if isinstance(value, str) else "parquet"
        files.append(write(tmp_path / f"{name}.{ending}", rows))
    assert pair_all(read_systems(files)).count == 1


@pytest.mark.parametrize(
    ("one", "other"), [("01", "1"), ("1e3", "1000"), ("1.5", "1.50"), ("", "")]
)
def test_ids_that_are_written_as_names_stay_apart(tmp_path: Path, one: str, other: str) -> None:
    files = [
        write(tmp_path / f"{name}.csv", [{**scored(1)[0], "doc_id": value}, scored(2)[1]])
        for name, value in (("a", one), ("b", other))
    ]
    assert pair_all(read_systems(files)).count == 1  # the second row alone


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
