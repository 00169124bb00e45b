"""`plainmed report --suite biolaysumm`: the shared task's files and numbers."""

from __future__ import annotations

import builtins
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.core.errors import ConfigError, InvalidInput
from serve_app.metrics.readability import coleman_liau
from serve_app.offline.report.biolaysumm import KEY, read_submissions, score_submissions
from serve_app.offline.report.rouge import ROUGE, rouge, rouge_scorer
from serve_app.text.sentences import split_sentences
from tests.support.command import plainmed, refused
from tests.support.texts import GENERATED, HUMAN, ORIGINALS

textstat = pytest.importorskip("textstat", reason="needs textstat, of the dev extra")
pytest.importorskip("rouge_score", reason="needs rouge-score, of the extra biolaysumm")


def write_references(folder: Path, name: str, rows: Sequence[int]) -> None:
    folder.mkdir(exist_ok=True)
    lines = [
        json.dumps({"id": at, "article": ORIGINALS[at], "lay_summary": HUMAN[at]}) for at in rows
    ]
    (folder / name).write_text("\n".join(lines) + "\n", encoding="utf-8")


@pytest.fixture
def task(tmp_path: Path) -> Path:
    """A folder `gold` and a submission `ours`: two of eLife, four of PLOS."""
    write_references(tmp_path / "gold", "eLife_val.jsonl", (0, 1))
    write_references(tmp_path / "gold", "PLOS_val.jsonl", (0, 1, 2, 3))
    ours = tmp_path / "ours"
    ours.mkdir()
    (ours / "elife.txt").write_text("\n".join(GENERATED[:2]) + "\n", encoding="utf-8")
    (ours / "plos.txt").write_text("\n".join(GENERATED), encoding="utf-8")
    return tmp_path


def the_tasks_rouge(prediction: str, reference: str) -> dict[str, float]:
    """As the task's evaluation script calls it, on sentences split before."""
    from rouge_score.rouge_scorer import RougeScorer

    scorer = RougeScorer([*ROUGE], use_stemmer=True, split_summaries=True)
    import nltk

    original = nltk.sent_tokenize
    nltk.sent_tokenize = split_sentences  # the same boundaries; NLTK's own needs a download
    try:
        found = scorer.score(prediction, reference)
    finally:
        nltk.sent_tokenize = original
    return {name: found[name].fmeasure for name in ROUGE}


@pytest.mark.parametrize("at", range(4))
def test_rouge_is_that_of_the_tasks_script(at: int) -> None:
    prediction, reference = GENERATED[at] + "\n", f"{HUMAN[at]} {ORIGINALS[at]}"
    assert rouge(rouge_scorer(), prediction, reference) == the_tasks_rouge(prediction, reference)


def test_a_line_break_inside_a_sentence_ends_none() -> None:
    prediction = GENERATED[0].replace(" and ", " and\n")
    assert "\n" in prediction
    found = rouge(rouge_scorer(), prediction, ORIGINALS[0])
    assert found == the_tasks_rouge(prediction, ORIGINALS[0])
    assert found == rouge(rouge_scorer(), GENERATED[0], ORIGINALS[0])


def test_rouge_lsum_takes_the_prediction_first_as_the_script_does() -> None:
    scorer = rouge_scorer()
    one, other = "The cat sat. The cat ran.", "The cat sat and the cat ran."
    forth, back = rouge(scorer, one, other), rouge(scorer, other, one)
    assert forth["rouge1"] == back["rouge1"]
    assert forth["rougeLsum"] == the_tasks_rouge(one, other)["rougeLsum"]


@pytest.mark.parametrize("text", [*ORIGINALS, *GENERATED, *HUMAN, "One.", "e.g. (a) b_c -- d's!"])
def test_coleman_liau_is_that_of_textstat(text: str) -> None:
    assert coleman_liau(text) == textstat.coleman_liau_index(text)


@given(text=st.text(st.sampled_from("aeiBZ09 .!?,;'-_\n\tñ’"), min_size=1, max_size=80))
def test_coleman_liau_is_that_of_textstat_for_any_text(text: str) -> None:
    try:
        found = coleman_liau(text)
    except InvalidInput:
        assert not any(char.isalpha() for char in text)
        return
    assert found == textstat.coleman_liau_index(text)


def test_means_are_of_each_data_set_and_the_average_weighs_them_alike(task: Path) -> None:
    submissions = read_submissions([task / "ours"], references=task / "gold")
    systems, found = score_submissions(submissions, None)
    assert systems == []
    elife, plos, average = found.scores
    assert [(one.dataset, one.rows, one.scored) for one in found.scores] == [
        ("elife", 2, 2),
        ("plos", 4, 4),
        ("average", None, None),
    ]
    scorer = rouge_scorer()
    expected = [
        sum(rouge(scorer, GENERATED[at], HUMAN[at])["rouge2"] for at in range(count)) / count
        for count in (2, 4)
    ]
    assert [elife.means["rouge2"], plos.means["rouge2"]] == pytest.approx(expected)
    assert average.means["rouge2"] == pytest.approx(sum(expected) / 2)
    assert plos.means["cli"] == pytest.approx(
        sum(textstat.coleman_liau_index(text) for text in GENERATED) / 4
    )
    assert plos.means["dcrs"] == pytest.approx(
        sum(textstat.dale_chall_readability_score(text) for text in GENERATED) / 4
    )
    assert plos.means["bertscore"] is None
    assert plos.means["alignscore"] is None


def test_with_models_bertscore_is_of_the_reference_and_alignscore_of_the_article(
    task: Path, tiny_suite: Any
) -> None:
    submissions = read_submissions([task / "ours"], ["best"], references=task / "gold")
    counted: list[int] = []
    (system,), found = score_submissions(submissions, tiny_suite, counted.append)
    assert sum(counted) == submissions[0].rows == 6
    plos = found.scores[1].means
    near = tiny_suite.relevance.score(list(HUMAN), list(GENERATED))
    fact = tiny_suite.factuality.score(list(ORIGINALS), list(GENERATED))
    assert plos["bertscore"] == pytest.approx(sum(one.f1 for one in near) / 4, abs=1e-5)
    assert plos["alignscore"] == pytest.approx(sum(one.score for one in fact) / 4, abs=1e-5)
    assert (system.name, system.rows) == ("best", 6)
    assert system.keys[KEY][1:3] == ["elife 2", "plos 1"]
    (texts,) = system.texts([4])
    assert (texts.original, texts.generated) == (ORIGINALS[2], GENERATED[2])
    assert system.words[4, 0] == len(ORIGINALS[2].split())


def test_an_empty_prediction_is_counted_and_in_no_mean(task: Path) -> None:
    (task / "ours" / "elife.txt").write_text(f"{GENERATED[0]}\n\n", encoding="utf-8")
    submissions = read_submissions([task / "ours"], references=task / "gold")
    _, found = score_submissions(submissions, None)
    assert (found.scores[0].rows, found.scores[0].scored) == (2, 1)
    assert found.failures == {"ours": {"empty_text": 1}}
    assert found.scores[0].means["rouge1"] == pytest.approx(
        rouge(rouge_scorer(), GENERATED[0], HUMAN[0])["rouge1"]
    )


def test_one_data_set_alone_has_no_average(task: Path) -> None:
    (task / "ours" / "plos.txt").unlink()
    write_references(task / "ours", "elife.jsonl", (0, 1))
    _, found = score_submissions(read_submissions([task / "ours"]), None)
    assert [one.dataset for one in found.scores] == ["elife"]


def test_files_that_do_not_fit_are_refused_with_what_is_wrong(task: Path) -> None:
    ours, gold = task / "ours", task / "gold"
    with pytest.raises(InvalidInput, match=r"begins with elife.*there are: none.*--references"):
        read_submissions([ours])
    with pytest.raises(InvalidInput, match="is no folder"):
        read_submissions([ours / "elife.txt"], references=gold)
    with pytest.raises(InvalidInput, match="2 systems would be called 'ours'"):
        read_submissions([ours, ours], references=gold)
    write_references(gold, "elife_test.jsonl", (0, 1))
    with pytest.raises(InvalidInput, match=r"eLife_val.jsonl, elife_test.jsonl"):
        read_submissions([ours], references=gold)
    (gold / "elife_test.jsonl").unlink()
    (ours / "plos.txt").write_text("only one\n", encoding="utf-8")
    with pytest.raises(InvalidInput, match=r"1 predictions and PLOS_val\.jsonl 4 references"):
        read_submissions([ours], references=gold)
    (gold / "PLOS_val.jsonl").write_text('{"article": "text"}\n', encoding="utf-8")
    with pytest.raises(InvalidInput, match="row 1 has no text in lay_summary"):
        read_submissions([ours], references=gold)


def test_without_the_package_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *rest: Any, **named: Any) -> Any:
        if name.startswith("rouge_score"):
            raise ImportError(name)
        return real(name, *rest, **named)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ConfigError, match=r"plainmed\[biolaysumm\]"):
        rouge_scorer()


@pytest.mark.usefixtures("in_process")
def test_the_command_reports_the_suite_and_everything_else(task: Path) -> None:
    other = task / "theirs"
    other.mkdir()
    (other / "elife.txt").write_text("\n".join(HUMAN[:2]), encoding="utf-8")
    (other / "plos.txt").write_text("\n".join(HUMAN), encoding="utf-8")
    out, numbers = task / "r.html", task / "r.json"
    command = ("report", "--suite", "biolaysumm", task / "ours", other, "--references")
    result = plainmed(*command, task / "gold", "--out", out, "--json", numbers, "--worst", 1)
    assert result.exit_code == 0
    document = json.loads(numbers.read_text(encoding="utf-8"))
    assert [one["system"] for one in document["suite"]["scores"]] == ["ours"] * 3 + ["theirs"] * 3
    assert document["suite"]["scores"][3]["means"]["rouge1"] == pytest.approx(1)
    assert document["comparisons"][0]["pairs"] == 6
    assert document["comparisons"][0]["column"] == KEY
    assert "## BioLaySumm" in result.stdout
    page = out.read_text(encoding="utf-8")
    assert 'id="suite"' in page
    assert 'id="differences"' in page


def test_the_command_reports_the_suite_without_models(task: Path) -> None:
    out = task / "r.html"
    command = ("report", "--suite", "biolaysumm", task / "ours", "--out", out, "--no-models")
    result = plainmed(*command, "--references", task / "gold")
    assert result.exit_code == 0
    assert "Without models" in result.stdout
    assert "ROUGE-Lsum" in out.read_text(encoding="utf-8")
    assert 'id="distributions"' not in out.read_text(encoding="utf-8")
    assert "is no folder" in refused(*command, "--references", task / "nowhere")
