"""The name a merged model gets, and merged weights that give the adapter's logits."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM

from serve_app.core.errors import ConfigError
from serve_app.generation.causal.engine import TransformersGenerator
from serve_app.generation.protocol import GenerationParams
from serve_app.models.causal_lm import check_base, find_base, load_causal_model
from serve_app.training.merge import derive_model_name, merge_adapter
from serve_app.training.merge import lora as merging_module
from serve_app.training.merge.naming import require_model_name
from tests.models.test_quantised import vnni
from tests.support.tiny_models import (
    CHAT_TEMPLATE,
    make_llama,
    make_tokenizer,
    save_adapter,
    save_model,
)
from tests.training.merge.bucket import TEXT


def logits(model: Any, text: str = TEXT) -> torch.Tensor:
    ids = torch.tensor([make_tokenizer()(text)["input_ids"]])
    with torch.inference_mode():
        found: torch.Tensor = model(input_ids=ids).logits
    return found.float()


# --- names ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("adapter", "name"),
    [
        ("org__model-run", "org__model-run"),
        ("outputs/org__model-run/", "org__model-run"),
        ("/data/outputs/org/model-run", "org__model-run"),
        ("hf://org/model-run", "org__model-run"),
        ("hf://org/model-run@v1.2", "org__model-run"),
        ("s3://bucket/adapters/org__model-run/", "org__model-run"),
        ("s3://bucket/org/model-run", "org__model-run"),
        ("runs/org__model-run/checkpoint-20", "org__model-run-checkpoint-20"),
        ("runs/org__model run: 3", "org__model run: 3"),
        ("/x/Outputs/meta-llama__Llama-3.2-3B-6_epocas/final", "meta-llama__Llama-3.2-3B-6_epocas"),
        ("Outputs/org__model 6 epocas/final/", "org__model 6 epocas"),
        ("s3://bucket/runs/org__model-run/final/", "org__model-run"),
        ("runs/org/model-run/final", "org__model-run"),
        ("runs/org__model-run/final/checkpoint-20", "org__model-run-checkpoint-20"),
        ("runs/org__model-run/final_adapter", "org__model-run"),
        ("hf://org/final", "org__final"),
        ("s3://bucket/model-run", "model-run"),
        ("s3://bucket/adapters/checkpoint-20", "adapters-checkpoint-20"),
        ("model-run", "here__model-run"),
        ("./model-run/../other/", "here__other"),
    ],
)
def test_the_model_name_comes_from_the_adapters_path(
    adapter: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    found = derive_model_name(adapter)
    assert found == name
    assert require_model_name(found) == found


@pytest.mark.parametrize("adapter", ["/", "s3://bucket/", "hf://@main", "s3://bucket/---"])
def test_a_path_that_gives_no_model_name_is_refused(adapter: str) -> None:
    with pytest.raises(ConfigError, match="no model name can be made"):
        derive_model_name(adapter)


@pytest.mark.parametrize("name", ["", "a/b", "a\\b", "..", "../x", "-x", " a", "a ", "a\n", "a\0b"])
def test_a_model_name_that_is_no_part_of_a_key_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="model name"):
        require_model_name(name)


# --- merging ----------------------------------------------------------------------------


def test_merged_weights_give_the_adapters_logits_and_not_the_bases(
    models: Path, tmp_path: Path
) -> None:
    adapter, base = models / "org__model-run", models / "base"
    report = merge_adapter(adapter, base, tmp_path / "m", max_shard_size="100KB")
    assert report.shards > 1
    assert report.dtype == "float32"
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "m")
    plain = AutoModelForCausalLM.from_pretrained(base)
    wanted = logits(PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), adapter))
    assert (logits(merged) - wanted).abs().max() < 1e-4 * wanted.abs().max()
    assert (logits(plain) - wanted).abs().max() > 0.1
    assert report.effect > 100 * report.saved_error
    assert AutoTokenizer.from_pretrained(tmp_path / "m").chat_template == CHAT_TEMPLATE
    assert not list(tmp_path.glob("*.partial"))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_the_dtype_is_the_one_asked_for(dtype: str, models: Path, tmp_path: Path) -> None:
    report = merge_adapter(models / "org__model-run", models / "base", tmp_path / "m", dtype=dtype)
    weights = load_file(tmp_path / "m" / "model.safetensors")
    assert {str(tensor.dtype) for tensor in weights.values()} == {f"torch.{dtype}"}
    # Rounding costs more than merging does, and less than is allowed.
    limit = merging_module.TOLERANCE[merging_module.DTYPES[dtype]] * report.scale
    assert report.merge_error < report.saved_error < limit
    assert report.saved_error < report.effect / 3
    with pytest.raises(ConfigError, match="int8"):
        merge_adapter(models / "org__model-run", models / "base", tmp_path / "x", dtype="int8")


@vnni
@pytest.mark.parametrize("precision", ["int8", "int4"])
def test_a_quantised_merge_is_small_and_near_and_served_as_it_is(
    precision: str, models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    adapter, base = models / "org__model-run", models / "base"
    report = merge_adapter(adapter, base, tmp_path / "m", quantize=precision, max_shard_size="60KB")
    assert report.dtype == precision
    assert report.shards > 1
    assert report.size < merge_adapter(adapter, base, tmp_path / "whole").size / 2
    assert 0 < report.saved_error < report.effect
    settings = {"device": "cpu", "system_prompt": "", "user_prefix": ""}
    at_load = TransformersGenerator.from_reference(str(adapter), dtype=precision, **settings)
    monkeypatch.setattr("serve_app.models.quantised.quantise", None)  # not a second time
    stored = TransformersGenerator.from_reference(str(tmp_path / "m"), **settings)
    assert stored._model.precision == precision  # whatever GENERATOR_DTYPE says
    params = GenerationParams(max_new_tokens=40, temperature=0.0)
    [served], [quantised] = (one.generate(["Pain."], [params]) for one in (stored, at_load))
    if precision == "int8":  # an adapter is merged in another dtype there, then quantised
        assert served.text[:20] == quantised.text[:20]
    cpu = torch.device("cpu")
    with pytest.raises(ConfigError, match="for generating on a CPU"):
        load_causal_model(tmp_path / "m", device=cpu, dtype=torch.float32)
    with pytest.raises(ConfigError, match="quantised"):
        merge_adapter(adapter, tmp_path / "m", tmp_path / "again")


@vnni
def test_a_quantised_merge_too_far_off_or_of_another_family_is_refused(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    adapter, base = models / "org__model-run", models / "base"
    with pytest.raises(ConfigError, match="choose one of int8, int4"):
        merge_adapter(adapter, base, tmp_path / "m", quantize="int2")
    monkeypatch.setitem(merging_module.QUANTISED_TOLERANCE, "int4", 1e-4)
    with pytest.raises(ConfigError, match="use int8"):
        merge_adapter(adapter, base, tmp_path / "m", quantize="int4")
    assert not (tmp_path / "m").exists()
    config = json.loads((base / "config.json").read_text())
    shutil.copytree(base, tmp_path / "other")
    (tmp_path / "other" / "config.json").write_text(json.dumps(config | {"mlp_bias": True}))
    with pytest.raises(ConfigError, match="leave --quantize away"):
        merge_adapter(adapter, tmp_path / "other", tmp_path / "m", quantize="int8")


def test_auto_keeps_the_dtype_of_the_base(models: Path, tmp_path: Path) -> None:
    make_llama(make_tokenizer()).to(torch.bfloat16).save_pretrained(tmp_path / "base")
    make_tokenizer().save_pretrained(tmp_path / "base")
    report = merge_adapter(models / "org__model-run", tmp_path / "base", tmp_path / "m")
    assert report.dtype == "bfloat16"


def adapter_with_more_tokens(root: Path, base: Path, *, trained: bool) -> Path:
    """An adapter whose tokenizer has two more tokens, with or without rows for them."""
    tokenizer = make_tokenizer(CHAT_TEMPLATE)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|more|>", "<|much more|>"]})
    model = LlamaForCausalLM.from_pretrained(base)
    saved = {"modules_to_save": ["embed_tokens", "lm_head"]} if trained else {}
    torch.manual_seed(3)
    if trained:
        model.resize_token_embeddings(len(tokenizer))
    adapted = get_peft_model(
        model, LoraConfig(r=4, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM", **saved)
    )
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name or (parameter.requires_grad and "lora" not in name):
                parameter.normal_(0.0, 0.3)
    adapted.peft_config["default"].base_model_name_or_path = str(base)
    adapted.save_pretrained(root, save_embedding_layers=trained)
    tokenizer.save_pretrained(root)
    return root


@pytest.mark.parametrize("trained", [True, False], ids=["trained", "untrained"])
def test_tokens_the_adapter_added_have_rows(trained: bool, models: Path, tmp_path: Path) -> None:
    adapter = adapter_with_more_tokens(tmp_path / "a", models / "base", trained=trained)
    report = merge_adapter(adapter, models / "base", tmp_path / "m")
    rows = len(make_tokenizer())
    assert (report.added_tokens, report.vocabulary) == (2, rows + 2)
    assert len(AutoTokenizer.from_pretrained(tmp_path / "m")) == rows + 2
    weights = load_file(tmp_path / "m" / "model.safetensors")
    assert weights["model.embed_tokens.weight"].shape[0] == rows + 2
    assert any("no trained rows" in warning for warning in report.warnings) is not trained
    if trained:
        own = load_file(adapter / "adapter_model.safetensors")
        (key,) = (key for key in own if key.endswith("embed_tokens.weight"))
        assert torch.equal(weights["model.embed_tokens.weight"], own[key])


def save_tied(root: Path) -> LlamaForCausalLM:
    """A base whose output shares the input's table."""
    model = make_llama(make_tokenizer())
    model.config.tie_word_embeddings = True
    model.lm_head.weight = model.model.embed_tokens.weight
    model.save_pretrained(root)
    make_tokenizer().save_pretrained(root)
    base = LlamaForCausalLM.from_pretrained(root)
    assert base.lm_head.weight is base.model.embed_tokens.weight
    return base


def test_tied_tables_the_adapter_left_alone_are_uploaded_as_one(tmp_path: Path) -> None:
    save_tied(tmp_path / "base")
    adapter = save_adapter(tmp_path / "a", tmp_path / "base")
    weights = load_file(adapter / "adapter_model.safetensors")
    table = LlamaForCausalLM.from_pretrained(tmp_path / "base").model.embed_tokens.weight.detach()
    weights["base_model.model.model.embed_tokens.weight"] = table.clone()
    save_file(weights, adapter / "adapter_model.safetensors", metadata={"format": "pt"})
    merge_adapter(adapter, tmp_path / "base", tmp_path / "m")
    assert "lm_head.weight" not in load_file(tmp_path / "m" / "model.safetensors")
    merged = LlamaForCausalLM.from_pretrained(tmp_path / "m")
    assert merged.config.tie_word_embeddings
    assert merged.lm_head.weight is merged.model.embed_tokens.weight


def test_one_trained_table_of_two_tied_ones_stays_its_own(tmp_path: Path) -> None:
    base = save_tied(tmp_path / "base")
    adapted = get_peft_model(
        base,
        LoraConfig(r=4, target_modules=["embed_tokens", "q_proj"], task_type="CAUSAL_LM"),
    )
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name or "lora_embedding" in name:
                parameter.normal_(0.0, 0.3)
    adapted.save_pretrained(tmp_path / "a", save_embedding_layers=False)
    merge_adapter(tmp_path / "a", tmp_path / "base", tmp_path / "m")
    merged = LlamaForCausalLM.from_pretrained(tmp_path / "m")
    wanted = logits(adapted.eval())
    assert (logits(merged) - wanted).abs().max() < 1e-4 * wanted.abs().max()


@pytest.mark.parametrize("form", ["safetensors", "bin"])
def test_an_adapter_with_a_smaller_vocabulary_is_served_as_it_is_merged(
    form: str, models: Path, tmp_path: Path
) -> None:
    """Qwen2.5: 151,936 rows of the base, 151,666 after the trainer fitted them to the tokenizer."""
    wide = LlamaForCausalLM.from_pretrained(models / "base")
    rows = wide.get_input_embeddings().num_embeddings
    wide.resize_token_embeddings(rows + 270)
    wide.save_pretrained(tmp_path / "base")
    make_tokenizer().save_pretrained(tmp_path / "base")
    adapter = save_adapter(tmp_path / "a", models / "base", base_name=str(tmp_path / "base"))
    weights = load_file(adapter / "adapter_model.safetensors")
    base = LlamaForCausalLM.from_pretrained(models / "base").state_dict()
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        weights[f"base_model.model.{name}"] = base[name].clone()
    if form == "bin":
        (adapter / "adapter_model.safetensors").unlink()
        torch.save(weights, adapter / "adapter_model.bin")
    else:
        save_file(weights, adapter / "adapter_model.safetensors", metadata={"format": "pt"})
    report = merge_adapter(adapter, tmp_path / "base", tmp_path / "m")
    assert report.vocabulary == rows
    served = load_causal_model(adapter, device=torch.device("cpu"), dtype=torch.float32).model
    assert served.get_input_embeddings().num_embeddings == rows
    merged = LlamaForCausalLM.from_pretrained(tmp_path / "m")
    assert (logits(served) - logits(merged)).abs().max() < 1e-4


def test_an_adapter_left_in_the_folder_of_a_base_is_not_loaded(
    models: Path, tmp_path: Path
) -> None:
    shutil.copytree(models / "base", tmp_path / "base")
    other = save_adapter(tmp_path / "other", models / "base", base_name="someorg/gone")
    for path in other.iterdir():
        shutil.copy(path, tmp_path / "base" / path.name)
    adapter = models / "org__model-run"
    report = merge_adapter(adapter, tmp_path / "base", tmp_path / "m")
    assert any("holds an adapter too, which is left out" in one for one in report.warnings)
    merge_adapter(adapter, models / "base", tmp_path / "clean")
    merged, clean = (load_file(tmp_path / n / "model.safetensors") for n in ("m", "clean"))
    assert all(torch.equal(merged[name], value) for name, value in clean.items())


def test_a_quantised_base_is_refused_with_the_model_to_name(models: Path, tmp_path: Path) -> None:
    for named, plain in {
        "unsloth/Llama-3.2-3B-Instruct-bnb-4bit": "hf://unsloth/Llama-3.2-3B-Instruct,",
        "unsloth/Qwen2.5-7B-unsloth-bnb-4bit": "hf://unsloth/Qwen2.5-7B,",
        "hf://org/model-GPTQ-Int4@main": "hf://org/model,",
        "org/model-AWQ": "hf://org/model,",
    }.items():
        adapter = save_adapter(tmp_path / "a", models / "base", base_name=named)
        for find in (find_base, check_base):
            with pytest.raises(ConfigError, match=r"is quantised.*set MODEL_BASE") as caught:
                find(adapter)
            assert plain in caught.value.message
            assert named in caught.value.message
    shutil.copytree(models / "base", tmp_path / "local-bnb-4bit")
    config = json.loads((models / "base" / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "bitsandbytes", "load_in_4bit": True}
    (tmp_path / "local-bnb-4bit" / "config.json").write_text(json.dumps(config))
    with pytest.raises(ConfigError, match=r"is quantised \(bitsandbytes\).*set MODEL_BASE"):
        check_base(adapter, str(tmp_path / "local-bnb-4bit"))
    with pytest.raises(ConfigError, match=r"is quantised \(bitsandbytes\).*set MODEL_BASE"):
        merge_adapter(adapter, tmp_path / "local-bnb-4bit", tmp_path / "m")


def test_a_merge_that_does_not_give_the_adapters_logits_is_not_kept(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = merging_module._save

    def damage(model: Any, tokenizer: Any, out: Path, max_shard_size: str) -> None:
        written(model, tokenizer, out, max_shard_size)
        weights = load_file(out / "model.safetensors")
        weights["model.layers.1.self_attn.q_proj.weight"] *= 1.5
        save_file(weights, out / "model.safetensors", metadata={"format": "pt"})

    monkeypatch.setattr(merging_module, "_save", damage)
    with pytest.raises(ConfigError, match="does not give the adapter's logits"):
        merge_adapter(models / "org__model-run", models / "base", tmp_path / "m")
    assert not list(tmp_path.iterdir())


def test_an_adapter_that_does_nothing_is_pointed_out(models: Path, tmp_path: Path) -> None:
    adapter = tmp_path / "a"
    shutil.copytree(models / "org__model-run", adapter)
    weights = load_file(adapter / "adapter_model.safetensors")
    weights = {k: v * 0 if "lora_B" in k else v for k, v in weights.items()}
    save_file(weights, adapter / "adapter_model.safetensors", metadata={"format": "pt"})
    report = merge_adapter(adapter, models / "base", tmp_path / "m")
    assert any("is it trained?" in warning for warning in report.warnings)


def test_what_cannot_be_merged_says_why(models: Path, tmp_path: Path) -> None:
    out = tmp_path / "m"
    with pytest.raises(ConfigError, match="no LoRA adapter"):
        merge_adapter(models / "base", models / "base", out)
    other = tmp_path / "other"
    shutil.copytree(models / "org__model-run", other)
    config = json.loads((other / "adapter_config.json").read_text())
    (other / "adapter_config.json").write_text(json.dumps(config | {"peft_type": "PREFIX_TUNING"}))
    with pytest.raises(ConfigError, match="PREFIX_TUNING"):
        merge_adapter(other, models / "base", out)
    # Trained on a base of another shape:
    wider = save_model(tmp_path / "wide")
    weights = json.loads((wider / "config.json").read_text())
    model = LlamaForCausalLM(
        LlamaForCausalLM.config_class(**(weights | {"hidden_size": 32, "head_dim": 8}))
    )
    model.save_pretrained(wider)
    with pytest.raises(ConfigError, match="does not fit its base"):
        merge_adapter(models / "org__model-run", wider, out)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("mine")
    with pytest.raises(ConfigError, match="holds something"):
        merge_adapter(models / "org__model-run", models / "base", tmp_path / "full")
    assert (tmp_path / "full" / "thesis.txt").read_text() == "mine"
    assert not out.exists()


def test_a_finished_merge_is_not_made_again_unless_something_changed(
    models: Path, tmp_path: Path
) -> None:
    stages: list[str] = []
    options: dict[str, Any] = {"on_stage": stages.append}
    adapter, base, out = models / "org__model-run", models / "base", tmp_path / "m"
    first = merge_adapter(adapter, base, out, **options)
    stages.clear()
    assert merge_adapter(adapter, base, out, **options) == first
    assert stages == ["merged and checked before"]
    merge_adapter(adapter, base, out, dtype="bfloat16", **options)
    assert "merging" in stages
