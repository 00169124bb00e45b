"""Loading models: merged or adapter and base; what is wrong or missing is an error at start."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForCausalLM,
    BertConfig,
    BertModel,
    GPT2Config,
    GPT2LMHeadModel,
    MambaConfig,
    MambaForCausalLM,
)

from serve_app.core.errors import ConfigError
from serve_app.generation.causal import engine as causal_engine
from serve_app.generation.causal.engine import TransformersGenerator
from serve_app.generation.protocol import GenerationParams
from serve_app.models.causal_lm import load_causal_model
from tests.generation.causal.engines import engine
from tests.models.test_quantised import vnni
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
    cpu = torch.device("cpu")
    module = load_causal_model(folder / "adapter", device=cpu, dtype=torch.float32).model
    module.save_pretrained(tmp_path)
    make_tokenizer().save_pretrained(tmp_path)
    merged = engine(tmp_path)
    ids = adapted._prompter.encode(TEXT)
    found, wanted = (
        one._model([ids], [one._model.new_row(len(ids))], [len(ids)]) for one in (adapted, merged)
    )
    assert torch.equal(found, wanted)
    assert torch.allclose(found, module(torch.tensor([ids])).logits[0], atol=1e-4)


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
    assert "set MODEL_BASE" in caught.value.message
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
    assert subject._model.precision == "bfloat16"
    assert subject.generate([TEXT], [GREEDY])[0].completion_tokens == 30
    half = engine(folder / "adapter", dtype="float16")
    assert {p.dtype for p in half._model.parameters()} == {torch.float16}
    with pytest.raises(ConfigError, match="float32, bfloat16, float16, int8, int4"):
        engine(folder / "plain", dtype="int3")


@vnni
@pytest.mark.parametrize("precision", ["int8", "int4"])
def test_quantised_weights_are_for_cpus_and_known_families(
    precision: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    subject = engine(folder / "adapter", dtype=precision)
    assert subject._model.precision == precision
    assert subject.generate([TEXT], [GREEDY])[0].completion_tokens == 30
    make_tokenizer().save_pretrained(tmp_path)
    shape = {"n_embd": 8, "n_layer": 1, "n_head": 2, "n_positions": 64}
    GPT2LMHeadModel(GPT2Config(vocab_size=400, **shape)).save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match=r"a gpt2 model.*llama.*use bfloat16 or float32"):
        engine(tmp_path, dtype=precision)
    assert engine(tmp_path, dtype="bfloat16").context == 64  # as a module
    monkeypatch.setattr(causal_engine, "resolve_device", lambda _: torch.device("cuda"))
    with pytest.raises(ConfigError, match="set DEVICE=cpu, or GENERATOR_DTYPE=bfloat16"):
        engine(folder / "plain", dtype=precision)


def test_weights_of_another_shape_than_the_configuration_are_refused(
    folder: Path, tmp_path: Path
) -> None:
    shutil.copytree(folder / "plain", tmp_path / "broken")
    path = tmp_path / "broken" / "model.safetensors"
    weights = load_file(path)
    name = "model.layers.1.self_attn.k_proj.weight"
    weights[name] = torch.cat([weights[name], weights[name]])
    save_file(weights, path, metadata={"format": "pt"})
    with pytest.raises(ConfigError, match=r"k_proj\.weight has the shape \(64, 64\)"):
        engine(tmp_path / "broken")
    weights[name] = weights[name][:32].clone().fill_(float("nan"))
    save_file(weights, path, metadata={"format": "pt"})
    with pytest.raises(ConfigError, match=r"NaN or infinity in .*k_proj"):
        engine(tmp_path / "broken")


def test_a_tokenizer_with_more_tokens_than_the_base_widens_it(folder: Path, tmp_path: Path) -> None:
    save_adapter(tmp_path, folder / "plain")
    tokenizer = make_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|more|>"]})
    tokenizer.save_pretrained(tmp_path)
    loaded = load_causal_model(tmp_path, device=torch.device("cpu"), dtype=torch.float32)
    assert loaded.model.get_input_embeddings().num_embeddings == len(tokenizer)
    base = AutoModelForCausalLM.from_pretrained(folder / "plain")
    assert base.get_input_embeddings().num_embeddings == len(tokenizer) - 1
