"""Loading models: merged or adapter and base; what is wrong or missing is an error at start."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, BertConfig, BertModel, MambaConfig, MambaForCausalLM

from serve_app.core.errors import ConfigError
from serve_app.generation.causal.engine import TransformersGenerator
from serve_app.generation.protocol import GenerationParams
from serve_app.models.causal_lm import load_causal_model
from tests.generation.causal.engines import engine
from tests.support.tiny_models import make_tokenizer, save_adapter

TEXT = "The trial included 120 adults."
GREEDY = GenerationParams(max_new_tokens=30, temperature=0.0)


def written(subject: TransformersGenerator) -> str:
    return subject.generate([TEXT], [GREEDY])[0].text


def test_an_adapter_changes_the_output_and_equals_its_merged_model(
    folder: Path, tmp_path: Path
) -> None:
    adapted = engine(folder / "adapter")
    assert adapted.name == "adapter"
    assert written(adapted) != written(engine(folder / "plain"))
    adapted._model.save_pretrained(tmp_path)
    make_tokenizer().save_pretrained(tmp_path)
    merged = engine(tmp_path)
    ids = torch.tensor([adapted._prompter.encode(TEXT)])
    with torch.inference_mode():
        assert torch.equal(adapted._model(ids).logits, merged._model(ids).logits)


def test_the_base_of_an_adapter_may_be_a_path_relative_to_it(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder / "plain", tmp_path / "base")
    save_adapter(tmp_path / "runs" / "a1", folder / "plain", base_name="../../base")
    moved = engine(tmp_path / "runs" / "a1")
    here = engine(folder / "adapter")
    assert written(moved) == written(here)


def test_the_base_of_an_adapter_may_be_given(folder: Path, tmp_path: Path) -> None:
    save_adapter(tmp_path / "a", folder / "plain", base_name="someorg/somebase")
    with pytest.raises(ConfigError, match="someorg/somebase") as caught:
        engine(tmp_path / "a")
    assert "base_model_name_or_path" in caught.value.message
    assert engine(tmp_path / "a", base_reference=str(folder / "plain")).context == 256


def test_a_directory_that_is_no_model_says_so(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"neither config\.json"):
        engine(tmp_path)
    (tmp_path / "file").write_text("x")
    with pytest.raises(ConfigError, match="is a file"):
        engine(tmp_path / "file")
    with pytest.raises(ConfigError, match="no file or directory"):
        engine(tmp_path / "nothing")


def test_a_model_without_tokenizer_says_so(folder: Path, tmp_path: Path) -> None:
    for name in ("config.json", "model.safetensors"):
        shutil.copy(folder / "plain" / name, tmp_path / name)
    with pytest.raises(ConfigError, match="has no tokenizer"):
        engine(tmp_path)


def test_missing_or_damaged_weights_are_an_error_not_random_numbers(
    folder: Path, tmp_path: Path
) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(folder / "plain", broken)
    weights = load_file(broken / "model.safetensors")
    del weights["lm_head.weight"]
    save_file(weights, broken / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ConfigError, match=r"lm_head\.weight"):
        engine(broken)
    content = (folder / "plain" / "model.safetensors").read_bytes()
    (broken / "model.safetensors").write_bytes(content[: len(content) // 2])
    with pytest.raises(ConfigError, match="cannot load"):
        engine(broken)


def test_an_encoder_is_not_a_generator(tmp_path: Path) -> None:
    make_tokenizer().save_pretrained(tmp_path)
    config = json.loads(BertConfig().to_json_string())
    config["model_type"] = "clip_text_model"
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ConfigError, match="not a causal"):
        engine(tmp_path)


def test_an_encoder_whose_family_has_a_causal_head_lacks_that_head(tmp_path: Path) -> None:
    make_tokenizer().save_pretrained(tmp_path)
    BertModel(
        BertConfig(
            vocab_size=400,
            hidden_size=8,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=8,
        )
    ).save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match="lack"):
        engine(tmp_path)


def test_a_model_without_a_key_value_cache_is_refused(tmp_path: Path) -> None:
    make_tokenizer().save_pretrained(tmp_path)
    config = MambaConfig(vocab_size=400, hidden_size=16, num_hidden_layers=1, state_size=4)
    MambaForCausalLM(config).save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match="key-value cache"):
        engine(tmp_path)


def test_dtype_is_applied_and_checked(folder: Path) -> None:
    subject = engine(folder / "adapter", dtype="bfloat16")
    assert {p.dtype for p in subject._model.parameters()} == {torch.bfloat16}
    assert subject.generate([TEXT], [GREEDY])[0].completion_tokens == 30
    with pytest.raises(ConfigError, match="int8"):
        engine(folder / "plain", dtype="int8")


def test_a_tokenizer_with_more_tokens_than_the_base_widens_it(folder: Path, tmp_path: Path) -> None:
    save_adapter(tmp_path, folder / "plain")
    tokenizer = make_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|more|>"]})
    tokenizer.save_pretrained(tmp_path)
    loaded = load_causal_model(tmp_path, device=torch.device("cpu"), dtype=torch.float32)
    assert loaded.model.get_input_embeddings().num_embeddings == len(tokenizer)
    base = AutoModelForCausalLM.from_pretrained(folder / "plain")
    assert base.get_input_embeddings().num_embeddings == len(tokenizer) - 1
