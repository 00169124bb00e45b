"""Decoders in safetensors: read a weight at a time, and written in fewer bits.

A quantised directory is one of transformers whose `quantization_config` names `plainmed`: beside a
weight NAME are `NAME.scale` and, in int4, `NAME.zero` (see `Quantised`). Knows no tokenizer.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import save_torch_state_dict
from safetensors import safe_open
from torch import Tensor

from serve_app.core.documents import read_json
from serve_app.core.errors import ConfigError
from serve_app.models.quantised import QUANTISED, Quantised, quantise
from serve_app.models.verification import refusing, require_finite

METHOD = "plainmed"
"""`quant_method` of a quantised directory's config.json."""

EMBEDDINGS = "model.embed_tokens.weight"
"""Name of the table of tokens in every family that can be packed."""

_SCALE, _ZERO = ".scale", ".zero"
_INDEX, _SINGLE = "model.safetensors.index.json", "model.safetensors"
_GET_AGAIN = "merge or download the model again"
# Looked up by token, or deciding between tokens of nearly equal probability: never int4.
_TABLES = (EMBEDDINGS, "lm_head.weight")


def holds_safetensors(directory: Path) -> bool:
    """Whether a directory has weights that `Shards` reads."""
    return (directory / _SINGLE).is_file() or (directory / _INDEX).is_file()


def stored_precision(config: Any) -> str | None:
    """int8 or int4, where a transformers configuration is of a directory quantised here.

    Raises:
        ConfigError: it was written by another version.
    """
    found = getattr(config, "quantization_config", None)
    if not isinstance(found, dict) or found.get("quant_method") != METHOD:
        return None
    precision = found.get("precision")
    if precision not in QUANTISED:
        raise ConfigError(
            f"the model is quantised to {precision!r}, and this version reads "
            f"{' and '.join(QUANTISED)}; quantise it again with merge_and_upload --quantize"
        )
    return str(precision)


class Shards:
    """The weights of a directory, each read from its file when it is asked for.

    Args:
        directory: with model.safetensors, or an index of several files.

    Raises:
        ConfigError: there are none, or they cannot be read.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._files: dict[str, Any] = {}
        names = [_SINGLE]
        with refusing(f"cannot load the weights in {directory}"):
            if not (directory / _SINGLE).is_file():
                index = read_json(directory / _INDEX)
                names = sorted(set(index["weight_map"].values()))
            for name in names:
                file: Any = safe_open(directory / name, framework="pt")
                self._files.update(dict.fromkeys(file.keys(), file))

    @property
    def names(self) -> set[str]:
        """Of all tensors."""
        return set(self._files)

    def __call__(self, name: str) -> Tensor | Quantised:
        """A weight.

        Raises:
            ConfigError: it is missing, damaged or not finite.
        """
        if name + _SCALE not in self._files:
            return self._tensor(name)
        zero = self._tensor(name + _ZERO) if name + _ZERO in self._files else None
        return Quantised(self._tensor(name), self._tensor(name + _SCALE), zero)

    def _tensor(self, name: str) -> Tensor:
        if name not in self._files:
            raise ConfigError(
                f"the weights in {self._directory} lack {name}, a tensor of the causal model; "
                f"{_GET_AGAIN}"
            )
        with refusing(f"cannot read {name} in {self._directory}"):
            tensor: Tensor = self._files[name].get_tensor(name)
        require_finite({name: tensor}, self._directory, _GET_AGAIN)
        return tensor


def save_quantised(
    weights: Mapping[str, Tensor], config: Any, directory: Path, precision: str, shard_size: str
) -> None:
    """Writes a decoder with its matrices in int8 or int4.

    Args:
        weights: of a transformers model, by name.
        config: its configuration; changed to say so.
        directory: where config.json and safetensors go.
        precision: int8 or int4.
        shard_size: of the largest file, such as `5GB`.
    """
    tensors: dict[str, Tensor] = {}
    for name, weight in weights.items():
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        if weight.dim() != 2:
            tensors[name] = weight.detach().contiguous()
            continue
        small = quantise(weight.detach(), "int8" if name in _TABLES else precision)
        tensors[name], tensors[name + _SCALE] = small.values, small.scale.contiguous()
        if small.zero is not None:
            tensors[name + _ZERO] = small.zero.contiguous()
    config.quantization_config = {"quant_method": METHOD, "precision": precision}
    config.save_pretrained(directory)
    save_torch_state_dict(tensors, directory, max_shard_size=shard_size)
