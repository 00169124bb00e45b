"""Packed decoders give the logits of transformers' modules, for rows of any length in a pass."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    Gemma3TextConfig,
    GPT2Config,
    LlamaConfig,
    MistralConfig,
    Qwen2Config,
    Qwen3Config,
)

from serve_app.models.packed_decoder import PackedDecoder, can_pack
from tests.models.test_quantised import vnni

SHAPE = {
    "vocab_size": 400,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 2,
}
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
    "rope_theta": 1e4,
}
SLIDING = ["sliding_attention", "full_attention", "sliding_attention"]
FAMILIES = {
    "llama": LlamaConfig(**SHAPE),
    "llama3, tied": LlamaConfig(**SHAPE, tie_word_embeddings=True, rope_parameters=LLAMA3),
    "attention bias": LlamaConfig(**SHAPE, attention_bias=True),
    "mistral": MistralConfig(**SHAPE, sliding_window=16, head_dim=32),
    "qwen2": Qwen2Config(**SHAPE),
    "qwen2, sliding": Qwen2Config(
        **SHAPE, use_sliding_window=True, sliding_window=8, max_window_layers=1
    ),
    "qwen3": Qwen3Config(**SHAPE, head_dim=16),
    "gemma3": Gemma3TextConfig(**SHAPE, head_dim=16, sliding_window=8, layer_types=SLIDING),
}


def module_of(config: Any) -> Any:
    """A module whose every weight matters."""
    torch.manual_seed(0)
    module = AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.dim() == 2:
                parameter.normal_(0.0, 0.2)
            else:
                parameter.add_(torch.randn_like(parameter) * 0.2)
    return module


def packed(module: Any, precision: str = "float32") -> PackedDecoder:
    return PackedDecoder(module.config, module.state_dict().__getitem__, precision)


def prompts(*lengths: int) -> list[list[int]]:
    torch.manual_seed(1)
    return [torch.randint(3, 400, (length,)).tolist() for length in lengths]


def in_parts(model: PackedDecoder, rows: list[list[int]]) -> list[torch.Tensor]:
    """Logits of all tokens of rows that share passes, each cut at other places."""
    caches = [model.new_row(len(row)) for row in rows]
    found: list[list[torch.Tensor]] = [[] for _ in rows]
    for step in range(4):
        parts = []
        for index, row in enumerate(rows):
            cuts = [0, *sorted((len(row) * (index + k) // 5) % len(row) for k in (1, 3, 4))]
            parts.append(row[[*cuts, len(row)][step] : [*cuts, len(row)][step + 1]])
        counts = [len(part) for part in parts]
        for own, logits in zip(found, model(parts, caches, counts).split(counts), strict=True):
            own.append(logits)
    return [torch.cat(own) for own in found]


@torch.inference_mode()
@pytest.mark.parametrize("name", FAMILIES)
def test_logits_equal_those_of_transformers(name: str) -> None:
    module = module_of(FAMILIES[name])
    rows = prompts(40, 2, 23)
    for row, found in zip(rows, in_parts(packed(module), rows), strict=True):
        wanted = module(torch.tensor([row])).logits[0]
        assert (found - wanted).abs().max() < 1e-5 * wanted.abs().max()


@torch.inference_mode()
@pytest.mark.parametrize(
    ("precision", "error"),
    [
        ("bfloat16", 0.05),
        pytest.param("int8", 0.08, marks=vnni),
        pytest.param("int4", 0.9, marks=vnni),
    ],
)
def test_lower_precisions_are_near(precision: str, error: float) -> None:
    module = module_of(FAMILIES["qwen3"])
    [row] = prompts(40)
    [found] = in_parts(packed(module, precision), [row])
    wanted = module(torch.tensor([row])).logits[0]
    assert (found - wanted).norm() < error * wanted.norm()
    assert not torch.equal(found, wanted)


@torch.inference_mode()
def test_only_the_logits_asked_for_are_computed() -> None:
    model = packed(module_of(FAMILIES["llama"]))
    rows = prompts(7, 5)
    whole = model(rows, [model.new_row(9) for _ in rows], [7, 5])
    some = model(rows, [model.new_row(9) for _ in rows], [2, 0])
    assert torch.allclose(some, whole[5:7], atol=1e-5)
    assert model(rows, [model.new_row(9) for _ in rows], [0, 0]).shape == (0, 400)


@torch.inference_mode()
def test_tokens_taken_back_leave_nothing_behind() -> None:
    """A wrong draft: the row's length is set back, and its columns are written again."""
    model = packed(module_of(FAMILIES["mistral"]))
    [row] = prompts(30)
    cache, clean = model.new_row(40), model.new_row(40)
    model([row[:20]], [cache], [0])
    model([[9, 8, 7, 6]], [cache], [4])
    cache.length = 20
    found = model([row[20:]], [cache], [10])
    model([row[:20]], [clean], [0])
    assert torch.equal(found, model([row[20:]], [clean], [10]))


def test_what_cannot_be_packed_is_known() -> None:
    assert all(map(can_pack, FAMILIES.values()))
    assert not can_pack(GPT2Config())
    dynamic = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}
    assert not can_pack(LlamaConfig(**SHAPE, rope_parameters=dynamic))
    assert not can_pack(LlamaConfig(**SHAPE, mlp_bias=True))
