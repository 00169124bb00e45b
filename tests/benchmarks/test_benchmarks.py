"""The benchmarks measure what they say: turns, texts, ratios, and peers that agree with ours."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import kendalltau

from benchmarks import generation, machine, measure, metrics, peers, ranking, report, texts
from serve_app.metrics.alignscore import AlignScorer

FOUND = texts.Texts("shipped", list(texts._shipped()))


def test_sides_take_turns_after_one_run_that_is_not_counted():
    seen: list[str] = []
    timings = measure.interleave(
        {"a": lambda: seen.append("a"), "b": lambda: seen.append("b")}, rounds=3
    )
    assert "".join(seen) == "ab" + "ababab"
    assert [len(timing.seconds) for timing in timings.values()] == [3, 3]


def test_a_ratio_above_one_means_ours_is_faster():
    row = measure.Row("case", "peer", "float32", peer_s=3.0, ours_s=1.5, target=2.5)
    assert (row.ratio, row.reached) == (2.0, False)
    assert "**2.00** (missed)" in report.cases([row])
    assert measure.Row("case", "peer", "float32", 3.0, 1.5).reached is None


def test_a_row_read_back_is_the_row_written():
    row = measure.Row("case", "peer", "bfloat16", 3.0, 1.5, 2.5, 1e-4, "a note")
    assert measure.Row.from_dict(json.loads(json.dumps(row.as_dict()))) == row


def test_texts_have_the_sizes_the_cases_name():
    assert all(
        400 <= len(side.split()) <= 470 for pair in texts.long_pairs(FOUND, 8) for side in pair
    )
    for document, claim in texts.documents(FOUND, 3, claims=10):
        assert 700 <= len(document.split()) <= 770
        assert len(claim) > 10
    lengths = [len(original.split()) for original, _ in texts.mixed_pairs(FOUND, 40)]
    assert max(lengths) > 5 * min(lengths)


def test_the_restated_alignscore_inference_agrees_with_ours():
    pairs = [*texts.sentence_pairs(FOUND, 3), *texts.documents(FOUND, 1, words=150, claims=3)]
    contexts, claims = [list(side) for side in zip(*pairs, strict=True)]
    theirs = peers.AlignScoreReference()
    ours = AlignScorer.from_reference(peers.ALIGNSCORE, device="cpu")
    for mode, words in (("nli_sp", 350), ("bin_sp", 60)):
        ours.chunk_words = words
        expected = theirs.score(contexts, claims, chunk_words=words, mode=mode)
        found = [r.score for r in ours.score(contexts, claims, eval_mode=mode)]
        assert found == pytest.approx(expected, abs=1e-5)


def test_the_encoders_operations_are_counted_as_on_paper():
    class Config:
        hidden_size = 4
        intermediate_size = 16

    # One layer, one token: 4 projections of 4x4, two of 4x16, attention over itself.
    assert machine.encoder_flops(Config(), [1], 1) == 2 * (4 * 16 + 2 * 64) + 4 * 4
    assert machine.encoder_flops(Config(), [2], 1) == 2 * 2 * (4 * 16 + 2 * 64) + 4 * 4 * 4


def test_a_page_keeps_what_stands_around_its_tables(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("# Title\n<!-- cases -->\nold\n<!-- end of cases -->\ntail\n")
    report.replace(page, "cases", "new")
    assert page.read_text() == "# Title\n<!-- cases -->\nnew\n<!-- end of cases -->\ntail\n"
    with pytest.raises(ValueError, match="encoder"):
        report.replace(page, "encoder", "new")


def test_a_row_goes_to_json_with_its_ratio():
    document = json.loads(json.dumps(measure.Row("case", "peer", "float32", 3.0, 1.5).as_dict()))
    assert (document["ratio"], document["peer_s"]) == (2.0, 3.0)


@given(st.lists(st.integers(0, 9), min_size=2, max_size=30), st.randoms(use_true_random=False))
def test_kendalls_tau_is_scipys(values, rng):
    other = rng.sample(values, len(values))
    expected = kendalltau(values, other).statistic
    if not math.isnan(expected):
        assert ranking.kendall_tau(values, other) == pytest.approx(expected)


def test_readability_is_measured_and_equal():
    [row] = metrics.readability(texts.Texts("few", FOUND.pairs[:5]), 5)
    assert row.deviation == 0
    assert row.ratio > 0


def test_the_sides_of_the_generation_benchmark_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generation, "NEW_TOKENS", 4)
    monkeypatch.setattr(generation, "PROMPT_TOKENS", 16)
    loaded = generation.make("tiny", "float32")
    prompts = generation.texts(loaded, 2)
    generation.plain(loaded, prompts)
    assert len(generation.ours(generation.engine(loaded), prompts)) == 2
    for ours in (True, False):
        generation.steps(loaded, 2, ours=ours, count=2)
