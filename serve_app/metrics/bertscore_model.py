"""Encoders for BERTScore: loading a directory, cutting layers, and how much text fits.

Knows where each family of transformers keeps its layers and positions; knows no metric.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn
from transformers import AutoTokenizer, GPT2Tokenizer, RobertaTokenizer

from serve_app.core.documents import read_json
from serve_app.core.errors import CheckpointError, ConfigError
from serve_app.models.pretrained import load_pretrained
from serve_app.models.tokenizer_checks import token_limit
from serve_app.models.verification import refusing, require_finite

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
    """How many layers the encoder has.

    Raises:
        ConfigError: it is of a kind whose layers are not known.
    """
    owner, attribute = _layer_list(encoder, name)
    held = getattr(owner, attribute)
    return held if isinstance(held, int) else len(held)


def truncate_layers(encoder: nn.Module, layer: int, name: str) -> nn.Module:
    """Cuts the encoder in place to its first `layer` layers, without pooler, and returns it.

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
    """Most tokens of one input, special tokens included: the tokenizer's, or the positions there
    are where those are fewer.

    Raises:
        CheckpointError: the tokenizer's is no number.
    """
    limit = token_limit(tokenizer)
    positions = getattr(encoder.config, "max_position_embeddings", None)
    for module_name, module in encoder.named_modules():
        if module_name.endswith("position_embeddings") and isinstance(module, nn.Embedding):
            # RoBERTa counts positions from after its padding index.
            positions = module.num_embeddings - (
                0 if module.padding_idx is None else module.padding_idx + 1
            )
    # Relative positions have no end: T5 has no such number, XLNet and some others say -1.
    return min(limit, positions) if positions and positions > 0 else limit


def config_names(directory: Path) -> list[str]:
    """The model name a directory's config.json was saved under, if it says.

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
        CheckpointError: there is none, or weights other than the pooler's are missing or no finite
            numbers.
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
    """The tokenizer of a directory, set to treat a text's first word as any other.

    Raises:
        CheckpointError: there is none that can be used.
    """
    with refusing(f"BERTSCORE_MODEL: no usable tokenizer in {directory}", CheckpointError):
        tokenizer = AutoTokenizer.from_pretrained(directory, trust_remote_code=False)
        if isinstance(tokenizer, (GPT2Tokenizer, RobertaTokenizer)):
            # bert-score asks for a space before the first word at each call; transformers 5
            # takes that only here, and without it the first word is another token.
            tokenizer = AutoTokenizer.from_pretrained(
                directory, add_prefix_space=True, trust_remote_code=False
            )
    return tokenizer
