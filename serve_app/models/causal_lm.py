"""Loads a causal language model and its tokenizer from a directory; generates nothing.

The directory holds a whole model (`config.json`), or a LoRA adapter
(`adapter_config.json`) whose base is found, loaded and merged with it.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from serve_app.core.documents import read_json
from serve_app.core.errors import ConfigError
from serve_app.models.formats import has_tokenizer
from serve_app.models.tokenizer_checks import require_known_ids, token_limit
from serve_app.models.verification import (
    read_config,
    refusing,
    require_finite,
    require_fitting,
    require_sound_files,
)
from serve_app.storage.artifacts import Downloads, resolve

_ADVICE = "merge or download the model again"


@dataclass(frozen=True, slots=True)
class CausalModel:
    """A model in eval mode, its tokenizer, and the most tokens it takes (None: no limit)."""

    model: Any
    tokenizer: Any
    context: int | None


def load_causal_model(
    directory: Path,
    *,
    device: torch.device,
    dtype: torch.dtype,
    base_reference: str | None = None,
    downloads: Downloads | None = None,
) -> CausalModel:
    """Loads what `directory` holds onto `device`.

    Args:
        directory: a merged model, or a LoRA adapter.
        device: where the model runs.
        dtype: type of its weights; an adapter is merged in it.
        base_reference: the adapter's base; unset: as its adapter_config.json says.
        downloads: for a base that has to be fetched; see `resolve`.

    Raises:
        ConfigError: it is neither, or weights, tokenizer or base are missing or damaged, or a
            weight is no finite number.
        CheckpointError: the tokenizer's limit is no number, or it has tokens the model has no row
            for.
    """
    if not directory.is_dir():
        raise ConfigError(f"{directory} is a file; a causal model is a directory")
    if (directory / "adapter_config.json").is_file():
        base = _base_directory(directory, base_reference, downloads)
        config = load_config(base)
        tokenizer = load_tokenizer(directory if has_tokenizer(directory) else base)
        model = _merge(_load_model(base, config, dtype), directory, len(tokenizer))
    elif (directory / "config.json").is_file():
        config = load_config(directory)
        tokenizer = load_tokenizer(directory)
        model = _load_model(directory, config, dtype)
    else:
        raise ConfigError(
            f"{directory} is no model: it has neither config.json (a causal model) nor "
            "adapter_config.json (a LoRA adapter)"
        )
    require_known_ids(tokenizer, model, directory.name)
    return CausalModel(
        model=model.to(device=device, dtype=dtype).eval(),
        tokenizer=tokenizer,
        context=context_of(model.config, tokenizer),
    )


def load_config(directory: Path) -> Any:
    """The configuration of the causal model in `directory`.

    Raises:
        ConfigError: it cannot be read, or is of another kind of model.
    """
    config = read_config(directory)
    if config.model_type not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        raise ConfigError(
            f"{directory} holds a {config.model_type} model, which is not a causal language model"
        )
    return config


def _load_model(directory: Path, config: Any, dtype: torch.dtype) -> Any:
    require_sound_files(directory)
    require_fitting(AutoModelForCausalLM, config, directory)
    with refusing(f"cannot load the causal model in {directory}"):
        model, info = AutoModelForCausalLM.from_pretrained(
            directory, config=config, dtype=dtype, output_loading_info=True, trust_remote_code=False
        )
    if "past_key_values" not in inspect.signature(model.forward).parameters:
        raise ConfigError(
            f"{directory} holds a {config.model_type} model, which keeps no key-value cache; the "
            "generator cannot run it"
        )
    # transformers fills what is missing with random numbers and goes on.
    missing = sorted(info["missing_keys"])
    if missing:
        raise ConfigError(
            f"the weights in {directory} lack {len(missing)} tensors of the causal model, "
            f"such as {', '.join(missing[:3])}"
        )
    require_finite(model.state_dict(), directory, _ADVICE)
    return model


def load_tokenizer(directory: Path) -> Any:
    """The tokenizer in `directory`.

    Raises:
        ConfigError: there is none, or it cannot be loaded.
        CheckpointError: its limit is no number of tokens.
    """
    if not has_tokenizer(directory):
        raise ConfigError(
            f"{directory} has no tokenizer; copy tokenizer.json and tokenizer_config.json "
            "there from the model it was trained from"
        )
    with refusing(f"cannot load the tokenizer in {directory}"):
        tokenizer = AutoTokenizer.from_pretrained(directory, trust_remote_code=False)
    token_limit(tokenizer)  # transformers compares by it whenever a text is read
    return tokenizer


def _base_directory(adapter: Path, base_reference: str | None, downloads: Downloads | None) -> Path:
    """Where the adapter's base is.

    Raises:
        ConfigError: it is not named, not there, or a bare hub name: nothing is downloaded
            that was not asked for by a hf:// or s3:// reference.
    """
    named = base_reference or _named_base(adapter)
    for candidate in (adapter / named, Path(named).expanduser()):
        if candidate.is_dir():
            return candidate
    try:
        return resolve(named, downloads)
    except ConfigError as error:
        hint = ""
        if "://" not in named:
            hint = (
                "; put the directory of the base, or an hf://org/name or s3:// reference to "
                f"it, into base_model_name_or_path of {adapter / 'adapter_config.json'}"
            )
        raise ConfigError(
            f"the base model {named!r} of the LoRA adapter {adapter} is not there: "
            f"{error.message}{hint}"
        ) from error


def _named_base(adapter: Path) -> str:
    with refusing(f"{adapter / 'adapter_config.json'} is not JSON"):
        config = read_json(adapter / "adapter_config.json", strict=False)
    named = config.get("base_model_name_or_path") if isinstance(config, dict) else None
    if not isinstance(named, str) or not named.strip():
        raise ConfigError(
            f"{adapter / 'adapter_config.json'} names no base_model_name_or_path; put the "
            "directory or reference of the base model there"
        )
    return named


def _merge(base: Any, adapter: Path, tokens: int) -> Any:
    if tokens > base.get_input_embeddings().num_embeddings:
        base.resize_token_embeddings(tokens)
    require_sound_files(adapter)
    with refusing(f"cannot merge the LoRA adapter {adapter} with its base"):
        adapted = PeftModel.from_pretrained(base, str(adapter), low_cpu_mem_usage=True)
        require_finite(adapted.state_dict(), adapter, "train the adapter again, or fetch it again")
        return adapted.merge_and_unload(safe_merge=True)


def context_of(config: Any, tokenizer: Any) -> int | None:
    """The most tokens a model takes; None: no limit is known."""
    limit = getattr(config.get_text_config(), "max_position_embeddings", None)
    if limit is None and (said := token_limit(tokenizer)) < 10**9:  # "unknown" is 1e30 there
        limit = said
    return None if limit is None else int(limit)
