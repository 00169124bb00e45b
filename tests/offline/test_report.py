"""`plainmed report` and `plainmed compare`: the numbers of a report, as Markdown and JSON."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from serve_app.metrics.loss import METRICS, LossFunction, Targets
from serve_app.offline.report.analysis import Choices, analyse
from serve_app.offline.report.examples import (
    SAMPLE,
    UNSUPPORTED,
    SuiteReader,
    mark,
    truncation,
)
from serve_app.offline.report.reader import read_systems
from serve_app.offline.report.render import to_html
from serve_app.offline.report.systems import ScoredSentence
from tests.support.command import plainmed, refused
from tests.support.paths import ROOT
from tests.support.report_files import LOSS, TARGETS, failed, scored, write
from tests.support.texts import GENERATED, ORIGINALS

QUICK = Choices(LOSS, resamples=100)


def compared(*arguments: object, json_file: Path) -> dict[str, Any]:
    result = plainmed("compare", *arguments, "--targets", TARGETS, "--json", json_file)
    assert result.exit_code == 0
    found: dict[str, Any] = json.loads(json_file.read_text(encoding="utf-8"))
    return found


def test_the_parts_of_the_loss_add_up_and_follow_the_weights(tmp_path: Path) -> None:
    systems = read_systems([write(tmp_path / "a.csv", scored(30, shift=1))])
    weights = (0.1, 0.4, 0.2, 0.3, 0.0)
    (one,) = analyse(systems, Choices(LOSS, weights, resamples=100)).systems
    assert sum(one.parts.values()) == pytest.approx(one.numbers["loss"].mean)
    assert one.parts["dale_chall"] == 0
    errors = LOSS.errors(systems[0].values)
    assert one.parts["factuality"] == pytest.approx(0.4 * errors[:, 1].mean())


def test_the_share_in_the_band_counts_rows_within_one_deviation(tmp_path: Path) -> None:
    rows = scored(4)
    mean, sigma = LOSS.targets.mean[2], LOSS.targets.sigma[2]
    for row, distance in zip(rows, (-1.1, -0.9, 0.9, 0), strict=True):
        row["fkgl"] = mean + distance * sigma
    (one,) = analyse(read_systems([write(tmp_path / "a.csv", rows)]), QUICK).systems
    assert one.in_band["fkgl"] == 0.75


@pytest.mark.parametrize("shift", [4.0, -4.0])
def test_the_nearer_system_wins_whether_its_number_is_larger_or_smaller(
    tmp_path: Path, shift: float
) -> None:
    files = [
        write(tmp_path / "near.csv", scored(40)),
        write(tmp_path / "far.csv", scored(40, shift=shift)),
    ]
    (found,) = analyse(read_systems(files), QUICK).comparisons
    assert (found.one, found.other, found.pairs) == ("near", "far", 40)
    assert found.wins["relevance"].won >= 38
    assert (found.differences["relevance"].mean < 0) == (shift > 0)
    loss = found.differences["loss"]
    assert loss.interval is not None
    assert loss.interval[0] < loss.mean < loss.interval[1] < 0


def test_three_systems_are_compared_two_by_two(tmp_path: Path) -> None:
    files = [write(tmp_path / f"{name}.csv", scored(5, seed)) for seed, name in enumerate("abc")]
    found = analyse(read_systems(files), QUICK).comparisons
    assert [(one.one, one.other) for one in found] == [("a", "b"), ("a", "c"), ("b", "c")]


def test_a_system_without_any_number_is_shown_and_breaks_nothing(tmp_path: Path) -> None:
    files = [
        write(tmp_path / "a.csv", scored(3)),
        write(tmp_path / "b.jsonl", [failed(f"d{at}") for at in range(3)]),
    ]
    report = analyse(read_systems(files), QUICK)
    assert [one.scored for one in report.systems] == [3, 0]
    assert (report.comparisons[0].pairs, report.comparisons[0].failed) == (0, 3)
    page = to_html(report)
    assert "empty_text 3" in page
    assert "Left out of 3 matches" in page


def test_another_loss_in_the_file_is_said_and_not_used(tmp_path: Path) -> None:
    rows = scored(4)
    rows[0]["loss"] += 0.25
    report = analyse(read_systems([write(tmp_path / "a.csv", rows)]), QUICK)
    found = report.systems[0].other_loss
    assert found is not None
    assert (found.rows, found.largest) == (1, pytest.approx(0.25))
    assert report.systems[0].numbers["loss"].mean == pytest.approx(
        np.mean([row["loss"] for row in scored(4)])
    )


def test_the_worst_rows_come_first_with_what_the_file_says_of_their_sentences(
    tmp_path: Path,
) -> None:
    rows = scored(6)
    rows[4] |= dict.fromkeys(("fkgl", "smog", "dale_chall"), 30.0)
    rows[1] |= dict.fromkeys(("fkgl", "smog"), 25.0)
    first, second = GENERATED[0].split(". ", 1)
    rows[4]["generated"] = GENERATED[0]
    rows[4]["sentences"] = [
        {"text": f"{first}.", "score": 0.9, "support": ""},
        {"text": second, "score": 0.1, "support": "Nothing near."},
    ]
    (system,) = read_systems([write(tmp_path / "a.jsonl", rows)])
    (one,) = analyse([system], Choices(LOSS, worst=2, resamples=50)).systems
    assert [(found.row, found.key) for found in one.worst] == [(5, "d4"), (2, "d1")]
    marked = one.worst[0].summary
    assert marked is not None
    assert (one.worst[0].source, one.worst[1].source) == ("file", "none")
    assert [sentence.unsupported for sentence in marked.sentences] == [False, True]
    assert marked.sentences[1].support == "Nothing near."


def test_marking_keeps_every_character_in_order() -> None:
    text = f"  Title\n\n{GENERATED[0]}\nMore; (words)  "
    scores = [ScoredSentence(part, 0.2) for part in ("They did not", "not in the text", "More")]
    marked = mark(text, scores)
    pieces = [piece for sentence in marked.sentences for piece in sentence.pieces]
    assert "".join(piece.text for piece in pieces) == text
    assert marked.unsupported == 2
    assert "potassium" in [piece.text for piece in pieces if piece.difficult]
    assert marked.left_out == 0


def test_a_long_summary_is_cut_at_a_sentence_and_says_so() -> None:
    text = "This is a plain sentence of some words. " * 400
    marked = mark(text, None)
    shown = "".join(piece.text for one in marked.sentences for piece in one.pieces)
    assert text.startswith(shown)
    assert shown.rstrip().endswith("words.")
    assert marked.left_out == len(text) - len(shown) > 0


def test_unsupported_is_what_the_served_page_shows_as_low() -> None:
    script = ROOT / "serve_app" / "api" / "page" / "sentences.js"
    found = re.search(r"const MIDDLE = 1 / 3;", script.read_text(encoding="utf-8"))
    assert found is not None
    assert pytest.approx(1 / 3) == UNSUPPORTED


def test_truncation_is_what_the_models_would_cut(tmp_path: Path, tiny_suite: Any) -> None:
    rows = scored(4)
    rows[1]["original"] = " ".join(ORIGINALS * 12)
    (system,) = read_systems([write(tmp_path / "a.jsonl", rows)])
    found = truncation(system, SuiteReader(tiny_suite))
    measured = tiny_suite.measure(
        [row["original"] for row in rows], [row["generated"] for row in rows]
    )
    assert found is not None
    assert (found.rows, found.source) == (4, "models")
    assert found.counts == {
        "relevance_original": sum(one.relevance.truncated_reference for one in measured),
        "relevance_generated": sum(one.relevance.truncated_candidate for one in measured),
        "factuality": sum(one.factuality.truncated for one in measured),
    }
    assert found.counts["relevance_original"] == 1


def test_twenty_thousand_rows_make_a_small_page_and_a_known_sample(tmp_path: Path) -> None:
    rows = scored(20_000)
    rows[7]["original"] = "unique words of an original that is nowhere else"
    systems = read_systems(
        [write(tmp_path / "a.parquet", rows), write(tmp_path / "b.parquet", rows[::-1])]
    )

    class Counting:
        names: ClassVar = {"relevance": "r", "factuality": "f"}
        asked = 0

        def sentences(self, original: str, generated: str) -> None:
            return None

        def truncations(self, originals: Any, generated: Any) -> dict[str, list[bool]]:
            self.asked += len(originals)
            return dict.fromkeys(
                ("relevance_original", "relevance_generated", "factuality"), [True] * len(originals)
            )

    reader = Counting()
    report = analyse(systems, Choices(LOSS, reader=reader, resamples=20))
    page = to_html(report)
    assert report.comparisons[0].pairs == 20_000
    assert len(page) < 300_000
    assert "unique words of an original" not in page
    assert reader.asked == 2 * SAMPLE
    assert "of 500 rows drawn at random" in page


def test_compare_takes_the_earlier_csv_and_targets_and_weights(tmp_path: Path) -> None:
    columns = ("model", "doc_id", *METRICS)
    rows = [
        {name: row[name] for name in columns}
        for model, seed in (("gpt", 0), ("llama", 1))
        for row in ({"model": model, **row} for row in scored(12, seed, texts=False))
    ]
    path = write(tmp_path / "metrics.csv", rows)
    found = compared(path, "--weights", "1,0,0,0,0", json_file=tmp_path / "all.json")
    loss = LossFunction(Targets.load(TARGETS))
    for system, seed in zip(found["systems"], (0, 1), strict=True):
        values = [[row[name] for name in METRICS] for row in scored(12, seed)]
        assert system["numbers"]["loss"]["mean"] == pytest.approx(
            loss(values, [1, 0, 0, 0, 0]).mean()
        )
    assert found["comparisons"][0]["pairs"] == 12
    assert found["comparisons"][0]["column"] == "doc_id"
    assert found["models"] == {}


def test_the_summary_goes_to_the_terminal_and_to_a_file(tmp_path: Path) -> None:
    path = write(tmp_path / "a|b.csv", [*scored(4), failed("x")])
    out = tmp_path / "summary.md"
    result = plainmed("compare", path, "--markdown", out, "--targets", TARGETS)
    assert result.exit_code == 0
    assert result.stdout == out.read_text(encoding="utf-8")
    assert "1 rows without numbers (empty\\_text 1)" in result.stdout
    heads = [line for line in result.stdout.splitlines() if line.startswith("| System |")]
    assert heads
    assert r"a\|b" in result.stdout


def test_no_control_character_of_a_file_reaches_the_terminal(tmp_path: Path) -> None:
    rows = [{"model": "\x1b[31mred\u202e<b>", **row} for row in scored(2)]
    result = plainmed("compare", write(tmp_path / "a.jsonl", rows), "--targets", TARGETS)
    assert "\x1b" not in result.stdout
    assert "\u202e" not in result.stdout
    assert r"\[31mred \<b\>" in result.stdout


def test_compare_says_which_textstat_the_grades_are_of(tmp_path: Path) -> None:
    files = [write(tmp_path / "others.csv", scored(3, texts=False))]
    shown = plainmed("compare", *files, "--targets", TARGETS).stdout
    assert "those of textstat 0.7.4; other versions of textstat differ by up to 6" in shown
    assert "The files of others do not say which they are of." in shown
    ours = [{**row, "generated_column": "generated"} for row in scored(3)]
    shown = plainmed("compare", write(tmp_path / "a.csv", ours), "--targets", TARGETS).stdout
    assert "textstat 0.7.4" in shown
    assert "do not say" not in shown


def test_the_version_of_textstat_in_a_report_is_the_one_the_metrics_equal() -> None:
    from importlib.metadata import version

    from serve_app.offline.report.phrases import TEXTSTAT

    assert version("textstat") == TEXTSTAT  # the tests of readability compare with it


def test_a_column_of_texts_goes_with_its_file(tmp_path: Path) -> None:
    files = []
    for name, text in (("a", "one"), ("b", "two")):
        rows = [{**row, "x": text, "y": f"{text} {text}"} for row in scored(2)]
        files.append(write(tmp_path / f"{name}.csv", rows))
    command = ("report", *files, "--out", tmp_path / "r.html", "--no-models", "--targets", TARGETS)
    said = refused(*command, "--generated-column", "x")
    assert "1 --generated-column for 2 files; give it once per file" in said
    columns = ("--generated-column", "x", "--generated-column", "y")
    result = plainmed(*command, *columns, "--json", tmp_path / "r.json")
    assert result.exit_code == 0
    document = json.loads((tmp_path / "r.json").read_text(encoding="utf-8"))
    assert [one["column"] for one in document["systems"]] == ["x", "y"]
    assert [one["lengths"]["generated"]["mean"] for one in document["systems"]] == [1, 2]


def test_no_escape_of_a_file_name_or_a_cell_reaches_the_terminal(tmp_path: Path) -> None:
    path = write(tmp_path / "a\x1b]0;b.csv", [{**scored(1)[0], "fkgl": "\x1b[31mred"}])
    for command in (
        ("compare", path),
        ("compare", tmp_path / "none\x1b[2J.csv"),
        ("score", path, "--out", tmp_path / "o.csv", "--original-column", "\x1b[1m"),
    ):
        result = plainmed(*command)
        assert result.exit_code == 2
        assert "\x1b" not in result.output
        assert "\\x1b" in result.output


@pytest.mark.usefixtures("in_process")
def test_report_reads_the_worst_examples_with_the_models_of_the_settings(tmp_path: Path) -> None:
    files = [write(tmp_path / f"{name}.csv", scored(3, seed)) for seed, name in enumerate("ab")]
    out, numbers = tmp_path / "r.html", tmp_path / "r.json"
    result = plainmed("report", *files, "--out", out, "--json", numbers, "--worst", 1)
    assert result.exit_code == 0
    assert f"the report is in {out}" in result.stderr
    document = json.loads(numbers.read_text(encoding="utf-8"))
    assert document["models"]["factuality"] == "tiny"
    assert [one["worst"][0]["source"] for one in document["systems"]] == ["models", "models"]
    assert "computed for this report by tiny" in out.read_text(encoding="utf-8")
    result = plainmed("report", *files, "--out", out, "--json", numbers, "--no-models")
    assert json.loads(numbers.read_text(encoding="utf-8"))["models"] == {}


def test_the_page_may_go_to_standard_output(tmp_path: Path) -> None:
    files = [write(tmp_path / f"{name}.csv", scored(3, seed)) for seed, name in enumerate("ab")]
    page = tmp_path / "r.html"
    to_file = plainmed("report", *files, "--out", page, "--no-models")
    printed = plainmed("report", *files, "--stdout", "--no-models")
    assert printed.exit_code == 0
    times = rb"\d{4}-\d{2}-\d{2} \d{2}:\d{2}"
    one, other = (re.sub(times, b"", it) for it in (printed.stdout_bytes, page.read_bytes()))
    assert one == other
    assert printed.stderr == to_file.stdout
    assert "give --out or --stdout" in refused("report", *files)
    assert "give --out or --stdout" in refused("report", *files, "--stdout", "--out", page)


def test_report_refuses_before_it_works(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", scored(2))
    assert "no folder" in refused("report", path, "--out", tmp_path / "no" / "r.html")
    assert "weights must sum to 1" in refused(
        "report", path, "--out", tmp_path / "r.html", "--weights", "1,1,1,1,1", "--no-models"
    )
    assert "--suite" in refused("report", path, "--out", tmp_path / "r", "--references", tmp_path)
    assert "cannot read" in refused("compare", tmp_path / "none.csv")


def test_the_two_commercial_models_compare_as_their_published_metrics(
    shared_data: Path, tmp_path: Path
) -> None:
    found = compared(shared_data / "reference_metrics.jsonl", json_file=tmp_path / "r.json")
    assert [one["scored"] for one in found["systems"]] == [200, 200]
    (one,) = found["comparisons"]
    assert (one["column"], one["pairs"], one["unpaired"]) == ("doc_id", 200, [0, 0])
    rows = [
        json.loads(line)
        for line in (shared_data / "reference_metrics.jsonl").read_text("utf-8").splitlines()
    ]
    by_id: dict[int, dict[str, float]] = {}
    for row in rows:
        by_id.setdefault(row["doc_id"], {})[row["model"]] = row["fkgl"]
    apart = [both[one["one"]] - both[one["other"]] for both in by_id.values()]
    assert one["differences"]["fkgl"]["mean"] == pytest.approx(np.mean(apart))
    assert one["differences"]["fkgl"]["d_z"] == pytest.approx(
        np.mean(apart) / np.std(apart, ddof=1)
    )
