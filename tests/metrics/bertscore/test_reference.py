"""BERTScore equals bert-score on the same weights: any layer, batch and tokenizer."""

from __future__ import annotations

import contextlib
import io
import random
from pathlib import Path

import bert_score
import pytest
from bert_score.utils import model2layers
from transformers import AutoTokenizer

from serve_app.metrics.bertscore import BertScorer
from serve_app.metrics.bertscore_layers import (
    BERT_SCORE_LAYERS,
)
from serve_app.storage.artifacts import resolve
from tests.metrics.bertscore.samples import EMBEDDED, load_roberta, sample_pairs, sample_text


def published_scores(
    directory: Path, layer: int, references: list[str], candidates: list[str]
) -> list[tuple[float, float, float]]:
    with contextlib.redirect_stderr(io.StringIO()):
        columns = bert_score.score(
            candidates,
            references,
            model_type=str(directory),
            num_layers=layer,
            device="cpu",
            batch_size=16,
        )
    return list(zip(*(column.tolist() for column in columns), strict=True))


def largest_difference(scorer: BertScorer, directory: Path, pairs: tuple[list[str], list[str]]):
    ours = scorer.score(*pairs)
    theirs = published_scores(directory, scorer.layer, *pairs)
    assert len(ours) == len(theirs)
    return max(
        abs(mine - published)
        for result, row in zip(ours, theirs, strict=True)
        for mine, published in zip((result.precision, result.recall, result.f1), row, strict=True)
    )


def test_wordpiece_scores_equal_bert_score(minilm):
    pairs = sample_pairs(100, 420, seed=1)
    assert any(result.truncated_reference for result in minilm.score(*pairs))
    assert largest_difference(minilm, resolve(EMBEDDED), pairs) <= 1e-6


def test_byte_level_bpe_scores_equal_bert_score(roberta):
    pairs = sample_pairs(200, 200, seed=2)
    scorer = load_roberta(roberta)
    flags = [(r.truncated_reference, r.truncated_candidate) for r in scorer.score(*pairs)]
    assert {(False, False), (True, False), (False, True)} <= set(flags)
    assert largest_difference(scorer, roberta, pairs) <= 1e-6


@pytest.mark.parametrize("layer", [0, 1, 2, 3, 4])
def test_every_layer_equals_bert_score(roberta, layer):
    scorer = load_roberta(roberta, layer=layer)
    assert largest_difference(scorer, roberta, sample_pairs(12, 120, seed=layer)) <= 1e-6


def test_tokens_unlike_any_other_count_as_bert_score_counts_them_in_a_batch():
    """At MiniLM's last layer a one-word text may be dissimilar to all of the other."""
    rng = random.Random(3)
    references = [sample_text(rng, 30 if index % 2 else 1) for index in range(16)]
    candidates = [sample_text(rng, 1 if index % 2 else 30) for index in range(16)]
    pairs = ([*references, sample_text(rng, 60)], [*candidates, sample_text(rng, 60)])
    scorer = BertScorer.from_reference(EMBEDDED, layer=6, device="cpu")
    assert largest_difference(scorer, resolve(EMBEDDED), pairs) <= 1e-6
    unclipped = published_scores(resolve(EMBEDDED), 6, pairs[0][:1], pairs[1][:1])[0]
    assert abs(unclipped[0] - scorer.score(*pairs)[0].precision) > 1e-4, "not what is tested"


@pytest.mark.parametrize("budget", [1, 100, 100_000])
def test_scores_do_not_depend_on_the_token_budget(roberta, budget):
    pairs = sample_pairs(20, 150, seed=4)
    plain = load_roberta(roberta).score(*pairs)
    other = load_roberta(roberta, token_budget=budget).score(*pairs)
    assert max(abs(a.f1 - b.f1) for a, b in zip(plain, other, strict=True)) <= 1e-6


def test_the_layer_table_equals_bert_scores():
    assert model2layers == BERT_SCORE_LAYERS


def test_a_first_word_is_tokenised_as_in_mid_sentence_whatever_the_directory_says(
    roberta, tmp_path
):
    """Published RoBERTa directories do not set add_prefix_space; bert-score asked for it."""
    for source in roberta.iterdir():
        (tmp_path / source.name).write_bytes(source.read_bytes())
    tokenizer = AutoTokenizer.from_pretrained(roberta, add_prefix_space=False)
    tokenizer.save_pretrained(tmp_path)
    plain = AutoTokenizer.from_pretrained(tmp_path)
    assert plain.tokenize("patients") != plain.tokenize("the patients")[-1:], "not what is tested"
    pairs = sample_pairs(20, 60, seed=6)
    assert load_roberta(tmp_path).score(*pairs) == load_roberta(roberta).score(*pairs)
