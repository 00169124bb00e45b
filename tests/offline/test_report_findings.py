"""Systems compared by their findings: from a file's counts, else from its texts."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from serve_app.core.errors import InvalidInput
from serve_app.core.settings import load_settings
from serve_app.evidence import check
from serve_app.evidence.reader import reader_errors
from serve_app.metrics.loss import METRICS
from serve_app.metrics.profiles import TERM_NAMES, load_profile
from serve_app.offline.corpus.scoring import FINDINGS, count_findings
from serve_app.offline.report import findings
from serve_app.offline.report.analysis import Choices, Report, analyse
from serve_app.offline.report.examples import mark
from serve_app.offline.report.findings import MISLEADING, TOPICS
from serve_app.offline.report.reader import read_systems
from serve_app.offline.report.render import to_html, to_json, to_markdown
from tests.support.command import plainmed, refused
from tests.support.report_files import LOSS, TARGETS, Rows, failed, scored, write
from tests.support.texts import GENERATED, ORIGINALS

QUICK = Choices(LOSS, resamples=200)
READING = Choices(LOSS, resamples=200, check=True)


def counted(rows: Rows, severe: list[int], **more: list[int]) -> Rows:
    """The rows with the columns of `plainmed score`, `severe` by row and other counts 0."""
    columns = {**dict.fromkeys(FINDINGS, [0] * len(rows)), "findings_severe": severe}
    columns |= more
    return [
        {**row, **{name: values[at] for name, values in columns.items()}}
        for at, row in enumerate(rows)
    ]


def report_of(folder: Path, systems: dict[str, Rows], choices: Choices = QUICK) -> Report:
    return analyse(
        read_systems([write(folder / f"{name}.jsonl", rows) for name, rows in systems.items()]),
        choices,
    )


@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
def test_the_counts_of_a_file_are_compared_with_intervals(tmp_path: Path, ending: str) -> None:
    some, none = [3, 0, 1, 0, 2, 0, 0, 0, 1, 1], [0, 0, 1, 0, 0, 0, 0, 0, 0, 1]
    files = [
        write(tmp_path / f"{name}.{ending}", counted(scored(10, texts=False), severe, omissions=of))
        for name, severe, of in (("a", some, [2] * 10), ("b", none, [1, 3] * 5))
    ]
    report = analyse(read_systems(files), QUICK)
    one, other = report.systems
    assert (one.findings_source, one.findings[MISLEADING].n) == ("file", 10)
    assert one.findings[MISLEADING].mean == 0.5
    assert one.findings["findings_severe"].mean == 0.8
    assert (one.findings["omissions"].mean, other.findings["omissions"].mean) == (2, 2)
    interval = one.findings[MISLEADING].interval
    assert interval is not None
    assert 0 < interval[0] < 0.5 < interval[1] < 1
    assert not set(TOPICS) & set(one.findings)  # a file does not count them by topic
    (found,) = report.comparisons
    apart = np.array(some) - np.array(none)
    severe = found.findings["findings_severe"]
    assert severe.n == 10
    assert severe.mean == pytest.approx(apart.mean())
    assert severe.d_z == pytest.approx(apart.mean() / apart.std(ddof=1))
    fewer = found.fewer["findings_severe"]
    assert (fewer.won, fewer.tied, fewer.lost) == (0, 7, 3)


def test_rows_without_counts_are_in_no_mean_and_pairs_need_both(tmp_path: Path) -> None:
    first = counted(scored(4, texts=False), [1, 1, 0, 0])
    second = counted(scored(4, texts=False), [0, 0, 0, 5])
    first[1] |= dict.fromkeys(FINDINGS)  # as a server of an earlier version leaves them
    report = report_of(tmp_path, {"a": [*first, failed("x")], "b": second[::-1]})
    assert report.systems[0].findings[MISLEADING].n == 3
    assert report.systems[0].findings["findings_severe"].mean == pytest.approx(1 / 3)
    (found,) = report.comparisons
    assert found.pairs == 4
    assert found.findings["findings_severe"].n == 3
    assert found.findings["findings_severe"].mean == pytest.approx((1 + 0 - 5) / 3)


def test_each_prefix_has_its_own_counts(tmp_path: Path) -> None:
    rows = [
        {
            f"{name}_{key}": value
            for name, severe in (("a", 1), ("b", 0))
            for key, value in counted(scored(3, texts=False), [severe] * 3)[at].items()
        }
        for at in range(3)
    ]
    systems = read_systems([write(tmp_path / "both.csv", rows)])
    assert [one.found["findings_severe"].tolist() for one in systems] == [[1] * 3, [0] * 3]


@pytest.mark.parametrize("cell", ["-1", "0.5", "two"])
def test_a_count_that_is_none_is_refused_by_row_and_column(tmp_path: Path, cell: str) -> None:
    rows: list[dict[str, Any]] = counted(scored(3, texts=False), [0, 0, 0])
    rows[1]["findings_severe"] = cell
    with pytest.raises(InvalidInput, match=r"row 2, column findings_severe"):
        read_systems([write(tmp_path / "a.csv", rows)])


def test_a_file_without_counts_and_texts_has_no_word_of_findings(tmp_path: Path) -> None:
    # A column of the same name that is about something else, where nobody counted.
    rows = [{**row, "omissions": "none that we know"} for row in scored(3, texts=False)]
    report = report_of(tmp_path, {"a": rows, "b": scored(3, texts=False)}, READING)
    assert [one.findings for one in report.systems] == [{}, {}]
    assert report.comparisons[0].findings == {}
    for shown in (to_html(report), to_markdown(report)):
        assert "omissions" not in shown
        assert 'id="findings"' not in shown
        assert "severe findings" not in shown


def wrong(rows: Rows) -> Rows:
    return [{**row, "generated": f"There were 77 trials. {row['generated']}"} for row in rows]


def test_the_texts_of_a_file_without_counts_are_read_by_the_rules(tmp_path: Path) -> None:
    systems = {"a": scored(8), "b": wrong(scored(8))}
    report = report_of(tmp_path, systems, READING)
    for one, rows in zip(report.systems, systems.values(), strict=True):
        pairs = [check(row["original"], row["generated"]) for row in rows]
        assert one.findings_source == "rules"
        for at, name in enumerate(FINDINGS):
            expected = np.mean([count_findings(found)[at] for found in pairs])
            assert one.findings[name].mean == pytest.approx(expected)
        topics = [f"omissions_{left.topic}" for found in pairs for left in found.omissions]
        for topic in TOPICS:
            assert one.findings[topic].mean == pytest.approx(topics.count(topic) / len(pairs))
    assert report.systems[1].findings["findings_number"].mean >= 1
    difference = report.comparisons[0].findings["findings_number"]
    assert difference.mean <= -1
    assert "by the rules, for this report, of 8 rows" in to_markdown(report)
    assert [one.findings for one in report_of(tmp_path, systems).systems] == [{}, {}]


def test_the_counts_of_a_file_are_not_counted_again(tmp_path: Path) -> None:
    report = report_of(tmp_path, {"a": counted(wrong(scored(4)), [0] * 4)}, READING)
    assert report.systems[0].findings_source == "file"
    assert report.systems[0].findings[MISLEADING].mean == 0


def test_a_row_without_words_has_no_count(tmp_path: Path) -> None:
    rows = wrong(scored(3))
    rows[1]["generated"] = "..."
    report = report_of(tmp_path, {"a": rows}, READING)
    assert report.systems[0].findings[MISLEADING].n == 2


def test_texts_of_too_many_words_are_left_to_score_and_the_report_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(findings, "MOST_WORDS", 200)
    report = report_of(tmp_path, {"a": scored(4), "b": counted(scored(4), [1] * 4)}, READING)
    assert [one.findings_source for one in report.systems] == ["too large", "file"]
    assert report.comparisons[0].findings == {}
    shown = to_markdown(report)
    assert "The file of a counts no findings" in shown
    assert "| share of summaries with a severe finding | – | 100 % |" in shown


def test_what_no_system_has_is_not_listed_and_what_never_varies_has_no_interval(
    tmp_path: Path,
) -> None:
    rows = counted(scored(5, texts=False), [1] * 5, findings_number=[1] * 5)
    shown = to_markdown(report_of(tmp_path, {"a": rows, "b": counted(scored(5), [0] * 5)}))
    assert "| findings: number | 1.000 | 0.000 |" in shown
    assert "| findings: number | +1.000 | – | – | 0 | 0 | 5 |" in shown
    assert "findings: roles" not in shown


def test_examples_show_findings_at_their_words_and_what_is_left_out() -> None:
    text = f"😀 There were 77 trials. {GENERATED[0]}"
    marked = mark(text, None, ORIGINALS[0])
    found = check(ORIGINALS[0], text)
    pieces = [piece for sentence in marked.sentences for piece in sentence.pieces]
    assert "".join(piece.text for piece in pieces) == text
    [number] = [piece for piece in pieces if piece.severity == "severe"]
    assert (number.text, number.ends) == ("77", (1,))
    assert marked.findings[0].what == "severe, number"
    assert "14 randomised controlled trials" in marked.findings[0].source
    assert [one.message for one in marked.findings] == [one.message for one in found.findings]
    assert [one.what for one in marked.omissions] == [one.topic for one in found.omissions]
    assert all(one.source in ORIGINALS[0] for one in marked.omissions)
    assert mark(text, None).findings == ()


def test_difficult_words_and_findings_at_the_same_words_are_both_marked() -> None:
    marked = mark("Thrombolysis was given to 77 women.", None, ORIGINALS[1])
    pieces = marked.sentences[0].pieces
    assert any(piece.difficult and piece.severity for piece in pieces)
    assert "".join(piece.text for piece in pieces) == "Thrombolysis was given to 77 women."


def test_report_reads_the_texts_and_compare_does_not(tmp_path: Path) -> None:
    path, numbers = write(tmp_path / "a.jsonl", wrong(scored(3))), tmp_path / "r.json"
    command = ("--targets", TARGETS, "--json", numbers)
    result = plainmed("report", path, "--out", tmp_path / "r.html", "--no-models", *command)
    assert result.exit_code == 0
    (one,) = json.loads(numbers.read_text(encoding="utf-8"))["systems"]
    assert one["findings"][MISLEADING]["mean"] == 1
    assert one["worst"][0]["summary"]["findings"] >= 1
    page = (tmp_path / "r.html").read_text(encoding="utf-8")
    assert re.search(r'<span class="found severe" data-n="1">(<u class="difficult">)?77<', page)
    assert plainmed("compare", path, *command).exit_code == 0
    (one,) = json.loads(numbers.read_text(encoding="utf-8"))["systems"]
    assert one["findings"] == {}


def test_json_has_counts_and_no_words_of_the_texts(tmp_path: Path) -> None:
    report = report_of(tmp_path, {"a": wrong(scored(3))}, READING)
    document = to_json(report)
    assert "77" not in json.dumps(json.loads(document)["systems"][0]["worst"][0]["summary"])
    assert "There were" not in document


def test_a_report_by_a_profile_has_its_targets_and_terms_in_the_loss(tmp_path: Path) -> None:
    path, numbers, page = (tmp_path / name for name in ("a.jsonl", "r.json", "r.html"))
    write(path, wrong(scored(3)))
    command = ("report", path, "--out", page, "--no-models", "--json", numbers)
    result = plainmed(*command, "--profile", "public")
    assert result.exit_code == 0, result.stderr
    assert "profile public" in result.stdout
    document = json.loads(numbers.read_text(encoding="utf-8"))
    profile = load_profile("public", load_settings())
    assert document["profile"] == "public"
    assert document["direction"] == "one_sided"
    assert document["targets"]["fkgl"] == 8.0
    assert sum(document["weights"].values()) == pytest.approx(1)
    (one,) = document["systems"]
    assert one["parts"]["findings"] > 0
    assert sum(one["parts"].values()) == pytest.approx(one["numbers"]["loss"]["mean"])
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    errors = profile.loss.errors([[row[name] for name in METRICS] for row in rows])
    terms = [
        reader_errors(row["generated"], check(row["original"], row["generated"]).findings)
        for row in rows
    ]
    wanted = [
        (1 - sum(profile.terms.values())) * float(np.mean(error))
        + sum(weight * term[name] for name, weight in profile.terms.items())
        for error, term in zip(errors, terms, strict=True)
    ]
    assert one["numbers"]["loss"]["mean"] == pytest.approx(np.mean(wanted))
    assert TERM_NAMES["findings"] in page.read_text(encoding="utf-8")
    plainmed(*command)
    silent = json.loads(numbers.read_text(encoding="utf-8"))
    assert (silent["profile"], list(silent["weights"])) == (None, list(METRICS))


def test_a_profile_needs_texts_and_leaves_no_doubt_whose_targets_it_has(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", scored(3, texts=False))
    command = ("report", path, "--out", tmp_path / "r.html", "--no-models", "--profile", "patient")
    assert "--profile" in refused(*command)
    assert "--targets and --profile" in refused(*command, "--targets", TARGETS)
