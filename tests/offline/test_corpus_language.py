"""A corpus in another language is refused, or told apart, and a report says so."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from serve_app.core.errors import InvalidInput
from serve_app.offline.corpus import RowScores
from serve_app.offline.corpus.scoring import result_from_json, row_to_json
from serve_app.offline.report.analysis import Choices, analyse
from serve_app.offline.report.reader import read_systems
from serve_app.offline.report.render import to_html, to_markdown
from serve_app.text.language import language_of
from tests.support.command import plainmed, refused
from tests.support.corpus_runs import prepare, run
from tests.support.corpus_tools import OverlapScorer, make_rows, read_rows, write_rows
from tests.support.report_files import LOSS, scored, write
from tests.support.texts import GENERATED, ORIGINALS

SPANISH = (
    "La aspirina redujo el riesgo de infarto en las personas mayores, pero aumentó las "
    "hemorragias graves durante el primer año del tratamiento."
)


def rows(english: int, spanish: int, column: str = "summary") -> list[dict[str, Any]]:
    pairs = [
        {"original": ORIGINALS[at % 4], "summary": GENERATED[at % 4]}
        for at in range(english + spanish)
    ]
    for row in pairs[english:]:
        row[column] = SPANISH
    return pairs


@pytest.mark.parametrize("column", ["original", "summary"])
def test_a_corpus_that_is_mostly_not_english_is_refused_and_names_its_first_rows(
    tmp_path: Path, column: str
) -> None:
    source = write_rows(tmp_path / "in.csv", rows(3, 5, column))
    with pytest.raises(InvalidInput) as caught:
        prepare(source, tmp_path / "out.csv")
    assert caught.value.code == "not_english"
    assert "5 of 8 rows looked at" in caught.value.message
    assert "(row 4: es, row 5: es, row 6: es, ...)" in caught.value.message
    assert "LANGUAGE_CHECK=off" in caught.value.message
    assert prepare(source, tmp_path / "out.csv", language_check="off").corpus.notes == ()


def test_a_few_rows_in_another_language_are_told_before_the_work(tmp_path: Path) -> None:
    job = prepare(write_rows(tmp_path / "in.csv", rows(5, 2)), tmp_path / "out.csv")
    (note,) = job.corpus.notes
    assert "2 of 7 rows looked at are not English (row 6: es, row 7: es)" in note


def test_every_part_of_a_large_corpus_is_looked_at(tmp_path: Path) -> None:
    pairs = rows(4000, 0)
    for row in pairs[1500:]:
        row["summary"] = SPANISH
    with pytest.raises(InvalidInput, match=r"of 200 rows looked at are not English"):
        prepare(write_rows(tmp_path / "in.parquet", pairs), tmp_path / "out.csv")


def test_short_texts_and_rows_without_texts_are_no_other_language(tmp_path: Path) -> None:
    source = write_rows(tmp_path / "in.jsonl", [{"original": 1, "summary": None}, *make_rows(3)])
    assert prepare(source, tmp_path / "out.csv").corpus.notes == ()


class Telling(OverlapScorer):
    """Says the language of each summary, as the models of the settings do."""

    def __call__(self, originals: Any, generated: Any) -> list[RowScores]:
        found = super().__call__(originals, generated)
        return [
            RowScores(one.values, one.loss, language=language_of(text))
            for one, text in zip(found, generated, strict=True)
        ]


def test_the_language_of_each_summary_is_in_the_scored_file_and_the_report(tmp_path: Path) -> None:
    source = write_rows(tmp_path / "in.csv", rows(5, 2))
    out = tmp_path / "out.csv"
    run(prepare(source, out), Telling())
    assert [row["language"] for row in read_rows(out)] == ["en"] * 5 + ["es"] * 2
    (system,) = read_systems([out])
    assert system.languages == {"en": 5, "es": 2}
    report = analyse([system], Choices(LOSS, resamples=20))
    for shown in (to_markdown(report), to_html(report)):
        assert "2 of 7 summaries of out are not English (es 2" in shown


def test_a_file_that_does_not_say_the_language_is_looked_at(tmp_path: Path) -> None:
    pairs = scored(4)
    pairs[3]["generated"] = SPANISH
    (system,) = read_systems([write(tmp_path / "a.csv", pairs)])
    assert system.languages == {"en": 3, "es": 1}


@pytest.mark.parametrize("language", [None, "es"])
def test_a_language_survives_the_journal(language: str | None) -> None:
    for row in (
        RowScores((1.0,) * 5, 0.5, language=language),
        RowScores((1.0,), language=language),
    ):
        assert result_from_json(row_to_json(row)) == row


@pytest.mark.usefixtures("in_process")
def test_the_command_follows_the_setting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, out = write_rows(tmp_path / "in.csv", rows(1, 3)), tmp_path / "out.jsonl"
    assert "3 of 4 rows looked at are not English" in refused("score", source, "--out", out)
    monkeypatch.setenv("LANGUAGE_CHECK", "off")
    assert plainmed("score", source, "--out", out).exit_code == 0
    assert [row["language"] for row in read_rows(out)] == [None] * 4
    monkeypatch.setenv("LANGUAGE_CHECK", "refuse")
    source = write_rows(tmp_path / "in.csv", rows(3, 1))
    result = plainmed("score", source, "--out", out)
    assert result.exit_code == 1
    assert [row["error_code"] for row in read_rows(out)] == [None] * 3 + ["not_english"]
