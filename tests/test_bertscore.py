"""BERTScore: equal to bert-score on the same weights, and what we add to it."""

from __future__ import annotations

import contextlib
import io
import json
import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path

import bert_score
import pytest
import torch
from bert_score.utils import model2layers
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import ByteLevelBPETokenizer
from transformers import AutoModel, AutoTokenizer, RobertaConfig, RobertaModel, RobertaTokenizer

from serve_app.artifacts import resolve
from serve_app.errors import CheckpointError, ConfigError, InvalidInput, MetricFailed
from serve_app.metrics.bertscore import BertScorer, plan_windows
from serve_app.metrics.bertscore_layers import (
    BERT_SCORE_LAYERS,
    EMBEDDED_LAYERS,
    known_layer,
    reference_name,
)
from serve_app.metrics.bertscore_model import encoder_limit, truncate_layers

EMBEDDED = "embedded:all-MiniLM-L6-v2"
VOCABULARY = """the of and in to with for was were not patients trial placebo treatment randomised
risk ratio evidence low-certainty children adults pain blood pressure 95% CI 0.81 1,204 mortality
hospital weeks adverse events vitamin D3 β-blocker insulin naïve surgery, reviewed; (RCT) people's
Crohn’s COVID-19 antibiotics quality-of-life µg/mL double-blind study heart"""
WORDS = VOCABULARY.split()
# What the sampler does not say: accents, other scripts, emoji, special tokens, newlines.
ODD = [
    "Ménière’s disease — naïve café",
    "血压 下降 10 mmHg",
    "Patients 😷 recovered 👍",
    "a [SEP] b [CLS] c [PAD] d [MASK] e",
    "a </s> b <s> c <mask> d",
    "  leading and trailing \n\n newlines\t ",
    "x",
    "Results\nNo   difference\u00a0was found.",
]


def sample_text(rng: random.Random, words: int) -> str:
    return " ".join(rng.choice(WORDS) for _ in range(words)).capitalize() + "."


def sample_pairs(count: int, longest: int, seed: int) -> tuple[list[str], list[str]]:
    """Pairs of lengths from one word to `longest`, mostly short, some sharing texts."""
    rng = random.Random(seed)
    references, candidates = [], []
    for index in range(count):
        reference = sample_text(rng, 1 + int(longest * rng.random() ** 5))
        candidate = sample_text(rng, 1 + int(longest * rng.random() ** 5))
        if index % 7 == 3:
            reference = references[-1]
        if index % 11 == 5:
            candidate = reference
        references.append(reference)
        candidates.append(candidate)
    return references + ODD, candidates + ODD[::-1]


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


@pytest.fixture(scope="module", autouse=True)
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(min(2, before))
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def minilm() -> BertScorer:
    return BertScorer.from_reference(EMBEDDED, device="cpu")


@pytest.fixture(scope="module")
def roberta(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A RoBERTa of 4 layers that reads 96 tokens, and a byte-level BPE trained on our words."""
    directory = tmp_path_factory.mktemp("models") / "tiny-roberta"
    bpe = ByteLevelBPETokenizer()
    rng = random.Random(5)
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    corpus = [sample_text(rng, 40) for _ in range(50)]
    bpe.train_from_iterator(corpus, vocab_size=500, special_tokens=special, show_progress=False)
    directory.mkdir()
    bpe.save_model(str(directory))
    merges = (directory / "merges.txt").read_text(encoding="utf-8").splitlines()[1:]
    tokenizer = RobertaTokenizer(
        vocab=json.loads((directory / "vocab.json").read_text(encoding="utf-8")),
        merges=[tuple(line.split(" ")) for line in merges if line],
        add_prefix_space=True,
        model_max_length=96,
    )
    tokenizer.save_pretrained(directory)
    torch.manual_seed(3)
    config = RobertaConfig(
        vocab_size=len(tokenizer),
        hidden_size=48,
        num_hidden_layers=4,
        num_attention_heads=4,
        intermediate_size=96,
        max_position_embeddings=98,
        type_vocab_size=1,
        initializer_range=0.15,
    )
    RobertaModel(config).save_pretrained(directory)
    return directory


def load_roberta(directory: Path, **options: object) -> BertScorer:
    return BertScorer.from_reference(str(directory), device="cpu", **{"layer": 3, **options})  # type: ignore[arg-type]


# --- equal to bert-score ----------------------------------------------------------------


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


# --- what the metric must be ------------------------------------------------------------


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


# --- truncation and windows -------------------------------------------------------------


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


# --- errors -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("references", "candidates", "field", "code"),
    [
        (["a"], ["b", "c"], "texts_generated", "length_mismatch"),
        ([], [], "texts_original", "empty_list"),
        (["a", " "], ["b", "c"], "texts_original[1]", "empty_text"),
        (["a", "b"], ["c", "..."], "texts_generated[1]", "no_words"),
        (["a", "b"], ["c", "[SEP]"], "texts_generated[1]", "no_words"),
        (["\ud800a"], ["b"], "texts_original[0]", "invalid_unicode"),
    ],
)
def test_texts_that_cannot_be_scored_are_named(minilm, references, candidates, field, code):
    with pytest.raises(InvalidInput) as caught:
        minilm.score(references, candidates)
    assert (caught.value.field, caught.value.code) == (field, code)


def test_a_score_that_is_no_number_is_an_error_not_a_score(roberta):
    encoder = AutoModel.from_pretrained(roberta)
    with torch.no_grad():
        encoder.embeddings.word_embeddings.weight.fill_(float("nan"))
    tokenizer = AutoTokenizer.from_pretrained(roberta)
    scorer = BertScorer(encoder, tokenizer, name="broken", layer=2, device="cpu")
    with pytest.raises(MetricFailed, match="pair 0") as caught:
        scorer.score(["some text"], ["another"])
    assert caught.value.field == "texts_generated[0]"


def test_an_unknown_model_without_layer_says_what_to_set(roberta):
    with pytest.raises(ConfigError, match=r"BERTSCORE_LAYER.*0 to 4"):
        load_roberta(roberta, layer=None)


@pytest.mark.parametrize("layer", [-1, 5])
def test_a_layer_the_encoder_lacks_is_refused(roberta, layer):
    with pytest.raises(ConfigError, match="layers 0 to 4"):
        load_roberta(roberta, layer=layer)


def test_a_wrong_long_text_is_named(roberta):
    with pytest.raises(ConfigError, match="BERTSCORE_LONG_TEXT"):
        load_roberta(roberta, long_text="shorten")


def test_a_directory_without_an_encoder_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match=r"no config\.json"):
        load_roberta(tmp_path)


def test_missing_weights_are_refused_not_made_up(roberta, tmp_path):
    from safetensors.torch import load_file, save_file

    for source in roberta.iterdir():
        (tmp_path / source.name).write_bytes(source.read_bytes())
    weights = load_file(tmp_path / "model.safetensors")
    del weights["encoder.layer.1.attention.self.query.weight"]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"encoder\.layer\.1\.attention\.self\.query"):
        load_roberta(tmp_path)


# --- names, layers, limits --------------------------------------------------------------


@pytest.mark.parametrize(
    ("reference", "name", "layer"),
    [
        ("hf://FacebookAI/roberta-large", "FacebookAI/roberta-large", 17),
        ("hf://microsoft/deberta-xlarge-mnli@abc", "microsoft/deberta-xlarge-mnli", 40),
        ("s3://bucket/models/roberta-large/", "roberta-large", 17),
        ("/models/deberta-v3-large", "deberta-v3-large", 12),
        ("models/microsoft/deberta-v3-large/", "deberta-v3-large", 12),
        ("/models/my-encoder", "my-encoder", None),
        ("embedded:all-MiniLM-L6-v2", "all-MiniLM-L6-v2", EMBEDDED_LAYERS["all-MiniLM-L6-v2"]),
        ("embedded:roberta-large", "roberta-large", None),
    ],
)
def test_a_reference_gives_its_name_and_layer(reference, name, layer):
    assert reference_name(reference) == name
    assert known_layer(reference) == layer


def test_a_directorys_config_may_name_the_known_model(roberta, tmp_path):
    for source in roberta.iterdir():
        (tmp_path / source.name).write_bytes(source.read_bytes())
    config = json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))
    config["_name_or_path"] = "google/bert_uncased_L-4_H-128_A-2"
    (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    scorer = load_roberta(tmp_path, layer=None)
    assert scorer.layer == BERT_SCORE_LAYERS["google/bert_uncased_L-4_H-128_A-2"] == 3


def test_the_scorer_says_model_layer_and_device(minilm):
    assert (minilm.name, minilm.device) == ("all-MiniLM-L6-v2", "cpu")
    assert minilm.layer == EMBEDDED_LAYERS["all-MiniLM-L6-v2"]


def test_the_limit_is_the_tokenizers_or_the_positions_there_are(roberta):
    encoder = AutoModel.from_pretrained(roberta)
    tokenizer = AutoTokenizer.from_pretrained(roberta)
    assert encoder_limit(encoder, tokenizer) == 96
    tokenizer.model_max_length = 64
    assert encoder_limit(encoder, tokenizer) == 64
    tokenizer.model_max_length = 10**30
    assert encoder_limit(encoder, tokenizer) == 96


def test_other_families_of_encoders_are_cut_as_bert_score_cuts_them():
    from transformers import (
        AlbertConfig,
        BartConfig,
        DistilBertConfig,
        MPNetConfig,
        T5Config,
        XLMConfig,
    )

    small = {"vocab_size": 60, "pad_token_id": 1}
    configs = [
        AlbertConfig(
            **small,
            hidden_size=32,
            num_attention_heads=2,
            intermediate_size=32,
            embedding_size=16,
            num_hidden_layers=3,
        ),
        BartConfig(
            **small,
            d_model=32,
            encoder_layers=3,
            decoder_layers=1,
            encoder_attention_heads=2,
            decoder_attention_heads=2,
            encoder_ffn_dim=32,
            decoder_ffn_dim=32,
        ),
        DistilBertConfig(**small, dim=32, n_heads=2, n_layers=3, hidden_dim=32),
        MPNetConfig(
            **small,
            hidden_size=32,
            num_attention_heads=2,
            num_hidden_layers=3,
            intermediate_size=32,
        ),
        T5Config(**small, d_model=32, d_kv=16, d_ff=32, num_heads=2, num_layers=3),
        XLMConfig(**small, emb_dim=32, n_heads=2, n_layers=3),
    ]
    ids = torch.tensor([[5, 6, 7, 8, 9]])
    for config in configs:
        whole = AutoModel.from_config(config).eval()
        core = whole.encoder if hasattr(whole, "decoder") else whole
        with torch.inference_mode():
            states = core(input_ids=ids, output_hidden_states=True).hidden_states
            cut = truncate_layers(whole, 2, "toy")
            output = cut(input_ids=ids)[0]
        # T5's stack ends in a norm of its own, which bert-score keeps too.
        norm = cut.final_layer_norm if isinstance(config, T5Config) else torch.nn.Identity()
        torch.testing.assert_close(output, norm(states[2]), msg=type(config).__name__)
