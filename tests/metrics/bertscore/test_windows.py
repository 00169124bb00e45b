"""Texts longer than the encoder reads: cut and said, or read in windows."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.metrics.bertscore import BertScorer, plan_windows
from tests.metrics.bertscore.samples import EMBEDDED, load_roberta, sample_pairs, sample_text


@st.composite
def window_cases(draw: st.DrawFn) -> tuple[int, int, int]:
    context = draw(st.integers(0, 40))
    size = draw(st.integers(2 * context + 1, 2 * context + 120))
    return draw(st.integers(1, 2_000)), size, context


@given(window_cases())
def test_windows_take_every_token_once_with_context_on_both_sides(case):
    length, size, context = case
    windows = plan_windows(*case)
    taken = [token for window in windows for token in range(window.take_start, window.take_stop)]
    assert taken == list(range(length))
    for window in windows:
        assert 0 <= window.start < window.stop <= length
        assert window.stop - window.start == min(size, length)
        assert window.take_start < window.take_stop
        assert window.take_start - window.start >= (context if window.start else 0)
        assert window.stop - window.take_stop >= (context if window.stop < length else 0)


@given(window_cases())
def test_no_plan_has_fewer_windows_than_ours(case):
    length, size, context = case
    inner = size - 2 * context
    needed = 1 if length <= size else 1 + -(-(length - size) // inner)
    assert len(plan_windows(*case)) == needed


@pytest.mark.parametrize("case", [(0, 8, 2), (9, 4, 2), (9, 8, -1)])
def test_an_impossible_window_plan_raises(case):
    with pytest.raises(ValueError, match="no windows"):
        plan_windows(*case)


def test_windows_change_nothing_for_texts_that_fit(roberta):
    references, candidates = sample_pairs(30, 40, seed=11)
    windowed = load_roberta(roberta, long_text="window").score(references, candidates)
    plain = load_roberta(roberta).score(references, candidates)
    fitting = [not (r.truncated_reference or r.truncated_candidate) for r in plain]
    assert sum(fitting) > 25
    for one, other, fits in zip(windowed, plain, fitting, strict=True):
        assert not fits or one == other


def test_truncation_is_flagged_for_each_side_and_windows_read_all(minilm):
    short, long = "Short text.", sample_text(random.Random(12), 700)
    windowed = BertScorer.from_reference(EMBEDDED, device="cpu", long_text="window")
    pairs = ([short, long, short], [short, short, long])
    flags = [(r.truncated_reference, r.truncated_candidate) for r in minilm.score(*pairs)]
    assert flags == [(False, False), (True, False), (False, True)]
    for result in windowed.score(*pairs):
        assert not result.truncated_reference
        assert not result.truncated_candidate


def test_only_windows_see_what_is_said_past_the_limit(roberta):
    rng = random.Random(13)
    common = sample_text(rng, 150)
    references = [common + " " + sample_text(rng, 60), common]
    candidates = [common, common]
    cut_longer, cut_same = load_roberta(roberta).score(references, candidates)
    all_longer, all_same = load_roberta(roberta, long_text="window").score(references, candidates)
    assert cut_longer.f1 == cut_same.f1
    assert all_same.f1 == pytest.approx(1, abs=1e-6)
    assert all_longer.recall < all_same.recall - 1e-4
    assert all_longer.precision == pytest.approx(1, abs=0.05)


def test_the_score_changes_smoothly_where_a_text_outgrows_the_limit(minilm):
    """Token by token over the border of 510: no step larger than one token may cause."""
    windowed = BertScorer.from_reference(EMBEDDED, device="cpu", long_text="window")
    words = ["pain"] * 200 + ["trial", "of", "children", "with", "blood", "pressure"] * 70
    candidate = "A trial of children with pain and high blood pressure."
    texts = [" ".join(words[:count]) for count in range(507, 514)]
    scores = [result.f1 for result in windowed.score(texts, [candidate] * len(texts))]
    flags = [result.truncated_reference for result in minilm.score(texts, [candidate] * len(texts))]
    assert flags == [False] * 4 + [True] * 3
    steps = [abs(after - before) for before, after in pairwise(scores)]
    assert max(steps) < 0.005
