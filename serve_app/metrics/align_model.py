"""The AlignScore network: an encoder with three heads, and how its weights are stored.

Zha et al., "AlignScore: Evaluating Factual Consistency with a Unified Alignment Function",
ACL 2023: one encoder reads (context, claim); from its pooled first token a binary head says
aligned or not, a three-way head aligned, neutral or contradicting, and a regression
head gives a degree. This module knows weights and logits, not text.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import AutoModel, PreTrainedModel

from serve_app.artifacts import resolve
from serve_app.documents import read_json
from serve_app.errors import CheckpointError
from serve_app.metrics.packed import PackedEncoder, PackedForward, supports
from serve_app.metrics.quiet import quiet_loading
from serve_app.weights import (
    read_config,
    refusing,
    require_finite,
    require_fitting,
    require_sound_files,
)

HEADS = ("bin_layer", "tri_layer", "reg_layer")
DEFAULT_CHUNK_WORDS = 350


class AlignLogits(NamedTuple):
    """Raw outputs, one row a pair: `binary` (n, 2) with column 1 aligned, `three_way` (n, 3)
    in the order aligned, neutral, contradicting, and `regression` (n, 1)."""

    binary: Tensor
    three_way: Tensor
    regression: Tensor


class AlignModel(nn.Module):
    """Encoder with pooler, and the three heads on its pooled output."""

    def __init__(self, base_model: PreTrainedModel) -> None:
        super().__init__()
        hidden = int(base_model.config.hidden_size)
        self.base_model = base_model
        self.bin_layer = nn.Linear(hidden, 2)
        self.tri_layer = nn.Linear(hidden, 3)
        self.reg_layer = nn.Linear(hidden, 1)

    def forward(self, **inputs: Tensor) -> AlignLogits:
        """Logits of all three heads for a padded batch of token ids."""
        pooled = self.base_model(**inputs).pooler_output
        return AlignLogits(self.bin_layer(pooled), self.tri_layer(pooled), self.reg_layer(pooled))

    def packed(self) -> PackedForward | None:
        """The network on packed tokens, or None where the encoder has no such form."""
        if not supports(self.base_model):
            return None
        encoder = PackedEncoder(self.base_model, first_only=True)
        # Only what follows the encoder is kept: holding `self` would hold its layers twice.
        pooler: nn.Module = self.base_model.pooler
        heads = (self.bin_layer, self.tri_layer, self.reg_layer)

        def forward(ids: Tensor, types: Tensor | None, lengths: Sequence[int]) -> AlignLogits:
            pooled = pooler(encoder(ids, types, lengths)[:, None])
            return AlignLogits(*(head(pooled) for head in heads))

        return forward


@dataclass(frozen=True)
class CompactConfig:
    """`config.json` beside a compact model's `model.safetensors`.

    Attributes:
        name: what results are labelled with.
        base: reference of the encoder the weights are a difference from.
        rank: columns kept of each matrix difference.
        chunk_words: context chunk size the model was tuned for, in words.
        eval_mode: the mode that does best on development data.
    """

    name: str
    base: str
    rank: int
    chunk_words: int
    eval_mode: str


def is_compact(directory: Path) -> bool:
    """True if the directory holds a compact model rather than an encoder.

    Raises:
        CheckpointError: its config.json cannot be read.
    """
    config = directory / "config.json"
    if not config.is_file():
        return False
    with refusing(f"cannot read {config}", CheckpointError):
        data = read_json(config, strict=False)
    return isinstance(data, dict) and data.get("plainmed_format") == "alignscore-compact"


def save_compact(model: AlignModel, directory: Path, config: CompactConfig) -> None:
    """Writes what `model` adds to its base encoder: a truncated SVD of each matrix's difference
    in bfloat16; vectors and heads whole. Embedding tables must be those of the base.

    Raises:
        CheckpointError: an embedding table differs from the base's.
    """
    base = AutoModel.from_pretrained(resolve(config.base)).state_dict()
    tensors: dict[str, Tensor] = {}
    for name, value in model.state_dict().items():
        value = value.detach().float().cpu()
        key = name.removeprefix("base_model.")
        if key == name:
            tensors[f"full.{name}"] = value.clone()
            continue
        difference = value - base[key].float()
        if not difference.any():
            continue
        if "embeddings.weight" in key or key.endswith("_embeddings.weight"):
            raise CheckpointError(f"{key} differs from the base encoder's; freeze embeddings")
        if value.ndim < 2:
            tensors[f"full.{name}"] = value.clone()
            continue
        left, singular, right = torch.linalg.svd(difference, full_matrices=False)
        root = singular[: config.rank].sqrt()
        tensors[f"left.{name}"] = (left[:, : config.rank] * root).bfloat16().contiguous()
        tensors[f"right.{name}"] = (root[:, None] * right[: config.rank]).bfloat16().contiguous()
    directory.mkdir(parents=True, exist_ok=True)
    save_file(tensors, directory / "model.safetensors")
    document = {"plainmed_format": "alignscore-compact", **config.__dict__}
    (directory / "config.json").write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")


def load_compact(directory: Path) -> tuple[AlignModel, CompactConfig, Path]:
    """The model, its config, and the base encoder's directory (which has the tokenizer).

    Raises:
        CheckpointError: a file is missing, or does not fit the base encoder.
    """
    with refusing(f"{directory} is not a compact AlignScore model", CheckpointError):
        document = read_json(directory / "config.json")
        document.pop("plainmed_format")
        config = CompactConfig(**document)
        tensors = load_file(directory / "model.safetensors")
    base_directory = resolve(config.base)
    with refusing(f"{directory}: cannot load its base {config.base}", CheckpointError):
        require_sound_files(base_directory, CheckpointError)
        base_config = read_config(base_directory, CheckpointError)
        require_fitting(AutoModel, base_config, base_directory, CheckpointError)
        with quiet_loading():
            base = AutoModel.from_pretrained(
                base_directory, attn_implementation="sdpa", trust_remote_code=False
            )
    model = AlignModel(base)
    state = model.state_dict()
    for name, tensor in tensors.items():
        kind, _, target = name.partition(".")
        if target not in state:
            raise CheckpointError(f"{directory}: {target} is not a weight of {config.base}")
        if kind == "full":
            update = tensor
        elif kind == "left":
            if f"right.{target}" not in tensors:
                raise CheckpointError(f"{directory}: {target} has only half of its factors")
            with refusing(f"{directory}: the factors of {target} do not fit", CheckpointError):
                update = state[target] + tensor.float() @ tensors[f"right.{target}"].float()
        else:
            continue
        if update.shape != state[target].shape:
            raise CheckpointError(
                f"{directory}: {target} has shape {tuple(update.shape)}, "
                f"the encoder wants {tuple(state[target].shape)}"
            )
        state[target].copy_(update)
    missing = [head for head in HEADS if f"full.{head}.weight" not in tensors]
    if missing:
        raise CheckpointError(f"{directory}: no weights for {', '.join(missing)}")
    advice = "get the model again from where it is published"
    require_finite(model.state_dict(), directory, advice, CheckpointError)
    return model.eval(), config, base_directory
