"""Encoders for BERTScore: loading, names, which hidden layer is read, and how much text fits.

Knows where each family of transformers keeps its layers and positions; knows no metric. Layers of
public models (`resources/bertscore_layers.json`) are those of `bert-score` 0.3.13, tuned by its
authors on WMT16 (WMT18 for Turkish); those of embedded models are ours: docs/relevance.md.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypedDict

from torch import nn
from transformers import AutoTokenizer, GPT2Tokenizer, RobertaTokenizer

from serve_app.core.documents import read_json
from serve_app.core.errors import CheckpointError, ConfigError
from serve_app.core.resources import RESOURCES
from serve_app.models.pretrained import load_pretrained, token_limit
from serve_app.models.verification import refusing, require_finite


class RuntimeOptions(TypedDict, total=False):
    """How an encoder runs; see `EncoderRuntime` for each, and for its default."""

    device: str
    dtype: str
    token_budget: int


_TABLES = read_json(RESOURCES / "bertscore_layers.json")
BERT_SCORE_LAYERS: dict[str, int] = _TABLES["bert_score"]
EMBEDDED_LAYERS: dict[str, int] = _TABLES["embedded"]


def _by_last_part() -> dict[str, int]:
    """Layers by name without organisation, where all organisations agree."""
    found: dict[str, set[int]] = {}
    for name, layer in BERT_SCORE_LAYERS.items():
        found.setdefault(name.rpartition("/")[2], set()).add(layer)
    return {name: layers.pop() for name, layers in found.items() if len(layers) == 1}


_SHORT_LAYERS = _by_last_part()


def known_layer(reference: str, other_names: Iterable[str] = ()) -> int | None:
    """The layer for `reference`, or None where the model is unknown.

    Looks up the reference's last two parts (`microsoft/deberta-base`), its last part, then each of
    `other_names` likewise (such as `_name_or_path` in a directory's config.json, so that a
    fine-tuned roberta-large is read where roberta-large is). Each is tried as `bert-score` spells
    it, then without the organisation.

    >>> known_layer("hf://FacebookAI/roberta-large")
    17
    >>> known_layer("/models/deberta-base")
    9
    >>> known_layer("/models/mine", ["roberta-large"])
    17
    """
    if reference.startswith("embedded:"):
        return EMBEDDED_LAYERS.get(reference.removeprefix("embedded:"))
    plain = reference
    if reference.startswith(("hf://", "s3://")):
        plain = reference.partition("://")[2].partition("@")[0]
    for name in (plain, *other_names):
        parts = [part for part in name.replace("\\", "/").split("/") if part]
        for spelling in ("/".join(parts[-2:]), *parts[-1:]):
            for table in (BERT_SCORE_LAYERS, _SHORT_LAYERS, EMBEDDED_LAYERS):
                if spelling in table:
                    return table[spelling]
    return None


# Where encoders keep their layers; the first path there is wins.
_LAYER_LISTS = ("layer", "encoder.block", "encoder.layer", "transformer.layer", "block", "layers")


def _core(encoder: Any) -> Any:
    """The encoder half of an encoder-decoder, else the module itself."""
    return encoder.encoder if hasattr(encoder, "decoder") else encoder


def _layer_list(encoder: Any, name: str) -> tuple[Any, str]:
    """The object and attribute that hold the layers, or their number."""
    core = _core(encoder)
    if hasattr(core, "n_layers") and hasattr(core, "attentions"):  # XLM
        return core, "n_layers"
    if hasattr(getattr(core, "encoder", None), "albert_layer_groups"):  # layers share weights
        return core.encoder.config, "num_hidden_layers"
    for path in _LAYER_LISTS:
        *owners, attribute = path.split(".")
        owner = core
        for part in owners:
            owner = getattr(owner, part, None)
        if isinstance(getattr(owner, attribute, None), nn.ModuleList):
            return owner, attribute
    raise ConfigError(
        f"BERTSCORE_MODEL: {name} is a {type(core).__name__}, whose layers are not known; "
        "use an encoder such as BERT, RoBERTa, DeBERTa, MPNet, ALBERT, BART or T5"
    )


def count_layers(encoder: nn.Module, name: str) -> int:
    """Number of layers.

    Raises:
        ConfigError: this kind of encoder is not known.
    """
    owner, attribute = _layer_list(encoder, name)
    held = getattr(owner, attribute)
    return held if isinstance(held, int) else len(held)


def truncate_layers(encoder: nn.Module, layer: int, name: str) -> nn.Module:
    """Cuts the encoder in place to its first `layer` layers, drops its pooler, and returns it.

    Raises:
        ConfigError: there is no such layer, or the encoder's kind is not known.
    """
    total = count_layers(encoder, name)
    if not 0 <= layer <= total:
        raise ConfigError(f"BERTSCORE_LAYER: {name} has layers 0 to {total}, not {layer}")
    owner, attribute = _layer_list(encoder, name)
    held = getattr(owner, attribute)
    setattr(owner, attribute, layer if isinstance(held, int) else held[:layer])
    core: Any = _core(encoder)
    if getattr(core, "pooler", None) is not None:
        core.pooler = None
    return core


def encoder_limit(encoder: Any, tokenizer: Any) -> int:
    """Most tokens of one input, special tokens included: the tokenizer's limit, or the number of
    positions where that is smaller.

    Raises:
        CheckpointError: the tokenizer's limit is no number.
    """
    limit = token_limit(tokenizer)
    positions = table_positions(encoder)
    if positions is None:
        positions = getattr(encoder.config, "max_position_embeddings", None)
    # Relative positions have no end: T5 gives no number, XLNet and some others -1.
    return min(limit, positions) if positions and positions > 0 else limit


def table_positions(encoder: nn.Module) -> int | None:
    """Most tokens that the table of absolute positions has rows for; None without a table."""
    for module_name, module in encoder.named_modules():
        if module_name.endswith("position_embeddings") and isinstance(module, nn.Embedding):
            # RoBERTa numbers positions from behind its padding index.
            unused = 0 if module.padding_idx is None else module.padding_idx + 1
            return module.num_embeddings - unused
    return None


def config_names(directory: Path) -> list[str]:
    """The model name in a directory's config.json, where there is one.

    Raises:
        CheckpointError: it cannot be read.
    """
    path = directory / "config.json"
    with refusing(f"BERTSCORE_MODEL: cannot read {path}", CheckpointError):
        name = read_json(path, strict=False).get("_name_or_path")
    return [name] if isinstance(name, str) and name else []


def load_encoder(directory: Path) -> nn.Module:
    """The encoder of a directory in float32, with SDPA attention.

    Raises:
        CheckpointError: there is none, or weights other than the pooler's are missing or not
            finite.
    """
    if not (directory / "config.json").is_file():
        raise CheckpointError(
            f"BERTSCORE_MODEL: {directory} is not an encoder directory (no config.json)"
        )
    encoder, missing = load_pretrained(directory, f"BERTSCORE_MODEL: cannot load {directory}")
    missing = [key for key in missing if not key.startswith("pooler.")]
    if missing:
        raise CheckpointError(
            f"BERTSCORE_MODEL: {directory} lacks {len(missing)} weights of a "
            f"{type(encoder).__name__}, such as {missing[0]}"
        )
    advice = "BERTSCORE_MODEL must name an encoder with whole weights; get it again"
    require_finite(encoder.state_dict(), directory, advice, CheckpointError)
    return encoder


def load_tokenizer(directory: Path) -> Any:
    """The tokenizer of a directory, set to treat a text's first word like any other.

    Raises:
        CheckpointError: there is no usable one.
    """
    with refusing(f"BERTSCORE_MODEL: no usable tokenizer in {directory}", CheckpointError):
        tokenizer = AutoTokenizer.from_pretrained(directory, trust_remote_code=False)
        if isinstance(tokenizer, (GPT2Tokenizer, RobertaTokenizer)):
            # bert-score asks for a space before the first word at each call; transformers 5 takes
            # that only here, and without it the first word becomes another token.
            tokenizer = AutoTokenizer.from_pretrained(
                directory, add_prefix_space=True, trust_remote_code=False
            )
    return tokenizer
