"""Which texts, encoders and layers BERTScore takes, and what it says of the others."""

from __future__ import annotations

import json

import pytest
import torch
from transformers import AutoModel, AutoTokenizer

from serve_app.core.errors import CheckpointError, ConfigError, InvalidInput, MetricFailed
from serve_app.metrics.bertscore import BertScorer
from serve_app.metrics.bertscore_layers import (
    BERT_SCORE_LAYERS,
    EMBEDDED_LAYERS,
    known_layer,
    reference_name,
)
from serve_app.metrics.bertscore_model import encoder_limit, truncate_layers
from tests.metrics.bertscore.samples import load_roberta

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
