"""The AlignScore network: an encoder with three heads, and how its weights are stored.

Zha et al., "AlignScore: Evaluating Factual Consistency with a Unified Alignment Function",
ACL 2023: one encoder reads (context, claim); from its pooled first token a binary head says
aligned or not, a three-way head aligned, neutral or contradicting, and a regression
head gives a degree. This module knows weights and logits, not text.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import AutoModel, PreTrainedModel

from serve_app.core.documents import read_json
from serve_app.core.errors import CheckpointError
from serve_app.models.packed_encoder import PackedEncoder, PackedForward, supports
from serve_app.models.pretrained import load_pretrained
from serve_app.models.verification import listed, refusing, require_finite
from serve_app.storage.artifacts import resolve

HEADS = ("bin_layer", "tri_layer", "reg_layer")
_HEAD_WEIGHTS = tuple(f"{head}.{part}" for head in HEADS for part in ("weight", "bias"))
_ADVICE = "get the model again from where it is published"
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
        base: the encoder the weights are a difference from: `embedded:NAME` or a local directory;
            a file does not decide what is downloaded.
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
        CheckpointError: a file is missing or malformed, does not fit the base encoder, or the two
            together lack a weight: transformers would draw it at random.
    """
    with refusing(f"{directory} is not a compact AlignScore model", CheckpointError):
        config = _read_compact(directory / "config.json")
        tensors = load_file(directory / "model.safetensors")
    require_finite(tensors, directory, _ADVICE, CheckpointError)
    base_directory = resolve(config.base)
    base, absent = load_pretrained(
        base_directory, f"{directory}: cannot load its base {config.base}"
    )
    model = AlignModel(base)
    state = model.state_dict()
    parts = _parts(tensors, state, directory, config.base)
    whole = parts["full"]
    needed = (*_HEAD_WEIGHTS, *(f"base_model.{name}" for name in absent))
    missing = [name for name in needed if name not in whole]
    if missing:
        raise CheckpointError(f"{directory}: no weights for {listed(missing)}; {_ADVICE}")
    for name, tensor in whole.items():
        _require_shape(name, tensor.shape, state, directory)
        state[name].copy_(tensor)
    for name, left in parts["left"].items():
        right = parts["right"][name]
        # Before they are multiplied: small factors may claim a product that fills the memory.
        if left.ndim != 2 or right.ndim != 2 or left.shape[1] != right.shape[0]:
            raise CheckpointError(f"{directory}: the factors of {name} do not fit")
        _require_shape(name, (left.shape[0], right.shape[1]), state, directory)
        state[name].add_(left.float() @ right.float())
    require_finite(model.state_dict(), directory, _ADVICE, CheckpointError)
    return model.eval(), config, base_directory


def _read_compact(path: Path) -> CompactConfig:
    """Raises `CheckpointError` where a value is of another type, or `ValueError` for no JSON."""
    document = read_json(path)
    document.pop("plainmed_format")
    for field in fields(CompactConfig):
        value = document.get(field.name)
        if type(value).__name__ != field.type:
            raise CheckpointError(f"{path}: {field.name} is {value!r:.80}; it must be {field.type}")
    config = CompactConfig(**document)
    if "://" in config.base:
        raise CheckpointError(
            f"{path}: base is {config.base!r:.120}, and nothing is downloaded because a file says "
            "so; fetch it, and put its directory there"
        )
    return config


def _parts(
    tensors: Mapping[str, Tensor], state: Mapping[str, Tensor], directory: Path, base: str
) -> dict[str, dict[str, Tensor]]:
    """The tensors of a file by kind (`full`, `left`, `right`) and the weight they are of.

    Raises:
        CheckpointError: one is of another kind or of no weight, or is not whole: half of its
            factors, or factors beside the whole.
    """
    parts: dict[str, dict[str, Tensor]] = {"full": {}, "left": {}, "right": {}}
    for name, tensor in tensors.items():
        kind, _, target = name.partition(".")
        if kind not in parts or target not in state:
            raise CheckpointError(f"{directory}: {name:.120} is not a weight of {base}")
        parts[kind][target] = tensor
    for name in parts["left"].keys() ^ parts["right"].keys():
        raise CheckpointError(f"{directory}: {name} has only half of its factors")
    for name in parts["left"].keys() & parts["full"].keys():
        raise CheckpointError(f"{directory}: {name} is there whole and in factors")
    return parts


def _require_shape(
    name: str, shape: Sequence[int], state: Mapping[str, Tensor], directory: Path
) -> None:
    if tuple(shape) != tuple(state[name].shape):
        raise CheckpointError(
            f"{directory}: {name} has shape {tuple(shape)}, "
            f"the encoder wants {tuple(state[name].shape)}"
        )
