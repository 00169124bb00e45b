"""What BERTScore must be whatever it is compared with, and what is computed only once."""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor

import pytest

from serve_app.metrics.bertscore import BertScorer
from tests.metrics.bertscore.samples import EMBEDDED, load_roberta, sample_pairs, sample_text


def test_identical_texts_score_one(minilm):
    texts = [sample_text(random.Random(seed), words) for seed, words in enumerate((1, 9, 80, 600))]
    for result in minilm.score(texts, texts):
        assert (result.precision, result.recall, result.f1) == pytest.approx((1, 1, 1), abs=1e-6)


def test_swapping_the_texts_swaps_precision_and_recall(minilm):
    references, candidates = sample_pairs(10, 60, seed=7)
    forward, backward = (
        minilm.score(references, candidates),
        minilm.score(candidates, references),
    )
    for one, other in zip(forward, backward, strict=True):
        assert one.precision == pytest.approx(other.recall, abs=1e-6)
        assert one.recall == pytest.approx(other.precision, abs=1e-6)
        assert one.f1 == pytest.approx(other.f1, abs=1e-6)


def test_a_related_text_scores_above_an_unrelated_one(minilm):
    original = "Aspirin reduced the risk of a second heart attack in adults over fifty."
    related, unrelated = minilm.score(
        [original] * 2,
        ["Adults who took aspirin had fewer second heart attacks.", "The cat sat by the window."],
    )
    assert related.f1 > unrelated.f1 + 0.1


def test_results_keep_the_order_and_equal_each_pair_scored_alone(minilm):
    references, candidates = sample_pairs(12, 90, seed=8)
    together = minilm.score(references, candidates)
    for result, reference, candidate in zip(together, references, candidates, strict=True):
        [alone] = minilm.score([reference], [candidate])
        assert result.f1 == pytest.approx(alone.f1, abs=1e-6)


def test_each_distinct_text_is_encoded_once_and_without_unused_layers(roberta, monkeypatch):
    scorer = load_roberta(roberta, layer=2)
    encoder = scorer._runtime._packed
    rows: list[int] = []

    def counted(ids, types, lengths):
        rows.extend(lengths)
        return encoder(ids, types, lengths)

    monkeypatch.setattr(scorer._runtime, "_packed", counted)
    scorer.score(["same text", " same text ", "other"], ["same text", "third one", "other"])
    assert len(rows) == 3
    assert len(encoder._layers) == 2


def test_a_reference_scored_before_is_not_encoded_again(roberta, monkeypatch):
    references, candidates = sample_pairs(6, 80, seed=11)
    expected = load_roberta(roberta).score(references, candidates)
    scorer = load_roberta(roberta, cache_bytes=10_000_000)
    first = scorer.score(references, candidates[::-1])
    assert (scorer.cache.hits, len(scorer.cache)) == (0, len(set(references)))
    lengths: list[int] = []
    encode = scorer._runtime.run
    monkeypatch.setattr(
        scorer._runtime, "run", lambda rows, take: lengths.append(len(rows)) or encode(rows, take)
    )
    again = scorer.score(references, candidates)
    held = {text.strip() for text in references}
    assert lengths == [len({text.strip() for text in candidates} - held)]
    assert lengths[0] < len(set(candidates) | held)
    assert [result.f1 for result in again] == pytest.approx([r.f1 for r in expected], abs=1e-6)
    assert len(first) == len(again)


def test_a_cached_reference_keeps_its_truncation_flag(roberta):
    scorer = load_roberta(roberta, cache_bytes=10_000_000)
    long_text = "word " * 600
    flags = [scorer.score([long_text], ["a word"])[0].truncated_reference for _ in range(2)]
    assert flags == [True, True]


def test_threads_may_share_a_scorer(roberta):
    scorer = load_roberta(roberta)
    pairs = sample_pairs(24, 120, seed=9)
    expected = scorer.score(*pairs)
    with ThreadPoolExecutor(4) as pool:
        for results in pool.map(lambda _: scorer.score(*pairs), range(8)):
            assert results == expected


@pytest.mark.parametrize(("dtype", "tolerance"), [("bfloat16", 0.01), ("float16", 0.002)])
def test_half_precision_weights_stay_near(minilm, dtype, tolerance):
    pairs = sample_pairs(10, 120, seed=10)
    half = BertScorer.from_reference(EMBEDDED, device="cpu", dtype=dtype)
    distance = max(
        abs(a.f1 - b.f1) for a, b in zip(minilm.score(*pairs), half.score(*pairs), strict=True)
    )
    assert 0 < distance < tolerance
