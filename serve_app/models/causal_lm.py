"""Loads a causal language model and its tokenizer from a directory; generates nothing.

A decoder for a CPU is packed where its family allows; the rest stay modules of transformers.
The directory holds a whole model (`config.json`), or a LoRA adapter (`adapter_config.json`)
whose base is found and loaded with it. Serving and merging load adapters by the same code.
"""

from __future__ import annotations

import contextlib
import inspect
import logging
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from safetensors import safe_open
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from serve_app.core.documents import read_json
from serve_app.core.errors import ConfigError
from serve_app.models.packed_decoder import FAMILIES, PackedDecoder, Weights, can_pack
from serve_app.models.pretrained import has_tokenizer, require_known_ids, token_limit
from serve_app.models.quantised import QUANTISED, require_cpu_support
from serve_app.models.quantised_files import (
    EMBEDDINGS,
    Shards,
    holds_safetensors,
    stored_precision,
)
from serve_app.models.verification import (
    holds_model,
    read_config,
    refusing,
    require_finite,
    require_fitting,
    require_sound_files,
    without_adapter,
)
from serve_app.storage.artifacts import Downloads, require_reference, resolve

logger = logging.getLogger(__name__)

_ADAPTER = "adapter_config.json"
_BASE_OPTION = "MODEL_BASE (--base of merge_and_upload)"
_QUANTISED = re.compile(
    r"(-unsloth)?-(bnb-[48]bit|(gptq|awq)(-int[48])?|gguf|exl2|hqq|nf4|fp8(-dynamic)?|[48]bit"
    r"|int[48]|w[48]a\d+)$",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class CausalModel:
    """A model in eval mode, its tokenizer, and the most tokens it takes (None: no limit)."""

    model: Any
    tokenizer: Any
    context: int | None


@dataclass(frozen=True, slots=True)
class Adapted:
    """A base with its LoRA adapter, not yet merged.

    Attributes:
        model: peft's model in eval mode, on the CPU.
        tokenizer: the adapter's, else the base's.
        added: ids of the tokens the base had no row for.
        untied: whether input and output shared a table, and no longer do.
        warnings: what to look at; the model can be used all the same.
    """

    model: Any
    tokenizer: Any
    added: list[int]
    untied: bool
    warnings: list[str]


def load_causal_model(
    directory: Path,
    *,
    device: torch.device,
    dtype: torch.dtype,
    packed: str | None = None,
    base_reference: str | None = None,
    downloads: Downloads | None = None,
) -> CausalModel:
    """Loads what `directory` holds onto `device`.

    Args:
        directory: a merged model, or a LoRA adapter.
        device: where the model runs.
        dtype: type of its weights; an adapter is merged in it.
        packed: float32, bfloat16, int8 or int4: the model is a `PackedDecoder` of that precision
            where it can be, and of the precision it is stored in where it is quantised.
        base_reference: the adapter's base; unset: as its adapter_config.json says.
        downloads: for a base that has to be fetched; see `resolve`.

    Raises:
        ConfigError: it is neither, or weights, tokenizer or base are missing or damaged, a
            weight is no finite number, or it cannot be run in int8 or int4.
        CheckpointError: the tokenizer's limit is no number, or it has tokens the model has no row
            for.
    """
    if not directory.is_dir():
        raise ConfigError(f"{directory} is a file; a causal model is a directory")
    if (directory / _ADAPTER).is_file():
        if holds_model(directory):
            logger.warning("%s holds a model too; its adapter is used, and not that", directory)
        adapted = load_adapted(directory, find_base(directory, base_reference, downloads), dtype)
        for warning in adapted.warnings:
            logger.warning("%s: %s", directory, warning)
        tokenizer, model = adapted.tokenizer, merge(adapted, directory)
        del adapted
        if packed is not None:
            model = _packed(directory, model, packed)
    elif (directory / "config.json").is_file():
        config = load_config(directory)
        tokenizer = load_tokenizer(directory)
        if packed is not None:
            model = _load_packed(directory, config, dtype, packed)
        else:
            model = _load_model(directory, config, dtype)
    else:
        raise ConfigError(
            f"{directory} is no model: it has neither config.json (a causal model) nor "
            "adapter_config.json (a LoRA adapter)"
        )
    require_known_ids(tokenizer, model, directory.name)
    if not isinstance(model, PackedDecoder):
        model = model.to(device=device, dtype=dtype).eval()
    return CausalModel(
        model=model,
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


def _load_packed(directory: Path, config: Any, dtype: torch.dtype, precision: str) -> Any:
    """The decoder packed, a weight at a time; or the module, where it cannot be packed."""
    stored = stored_precision(config)
    if stored is not None:
        if stored != precision:
            logger.warning("%s is quantised to %s, and runs so", directory, stored)
        precision = stored
        del config.quantization_config  # transformers has no such method
    if not _packs(directory, config, precision):
        return _load_model(directory, config, dtype)
    require_sound_files(directory)
    require_fitting(AutoModelForCausalLM, config, directory)
    weights = Shards(directory) if holds_safetensors(directory) else None
    if weights is None or EMBEDDINGS not in weights.names:  # transformers knows other forms
        return _packed(directory, _load_model(directory, config, dtype), precision)
    generation = None
    if (directory / "generation_config.json").is_file():
        with refusing(f"cannot read generation_config.json in {directory}"):
            generation = GenerationConfig.from_pretrained(directory)
    return _pack(directory, config, weights, precision, generation)


def _packed(directory: Path, module: Any, precision: str) -> Any:
    """A module's decoder packed; or the module, where it cannot be packed."""
    config, generation = module.config, module.generation_config
    if not _packs(directory, config, precision):
        return module
    weights = module.state_dict()
    module.to("meta")  # its weights are freed as they are packed
    return _pack(directory, config, weights.pop, precision, generation)


def _packs(directory: Path, config: Any, precision: str) -> bool:
    if not can_pack(config):
        if precision in QUANTISED:
            raise ConfigError(
                f"{directory} holds a {config.model_type} model; GENERATOR_DTYPE={precision} runs "
                f"models of {', '.join(sorted(FAMILIES))} with ordinary attention: use bfloat16 or "
                "float32"
            )
        return False
    require_cpu_support(precision)
    return True


def _pack(
    directory: Path, config: Any, weights: Weights, precision: str, generation: Any
) -> PackedDecoder:
    with refusing(f"cannot load the causal model in {directory}"):
        return PackedDecoder(config, weights, precision, generation)


def _load_model(directory: Path, config: Any, dtype: torch.dtype) -> Any:
    if stored_precision(config) is not None:
        raise ConfigError(
            f"{directory} is quantised by merge_and_upload, for generating on a CPU: set "
            "DEVICE=cpu, or use the model it was made from"
        )
    require_sound_files(directory)
    require_fitting(AutoModelForCausalLM, config, directory)
    what = f"cannot load the causal model in {directory}"
    with refusing(what), without_adapter(directory) as whole:
        model, info = AutoModelForCausalLM.from_pretrained(
            whole, config=config, dtype=dtype, output_loading_info=True, trust_remote_code=False
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
    require_finite(model.state_dict(), directory, "merge or download the model again")
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


def require_adapter(directory: Path) -> dict[str, Any]:
    """The configuration of the LoRA adapter in `directory`.

    Raises:
        ConfigError: there is none, or it is an adapter of another kind.
    """
    path = directory / _ADAPTER
    if not path.is_file():
        raise ConfigError(f"{directory} is no LoRA adapter: it has no {_ADAPTER}")
    with refusing(f"cannot read {path}"):
        config = read_json(path, strict=False)
    kind = config.get("peft_type") if isinstance(config, dict) else None
    if kind != "LORA":
        raise ConfigError(f"{path} is of kind {kind!r}; only LORA adapters can be used")
    return dict(config)


def named_base(adapter: Path, given: str | None = None) -> str:
    """The reference of an adapter's base: `given`, else what its configuration says.

    Raises:
        ConfigError: as `require_adapter`, or it names no base.
    """
    named = given or require_adapter(adapter).get("base_model_name_or_path")
    if not isinstance(named, str) or not named.strip():
        raise ConfigError(
            f"{adapter / _ADAPTER} names no base_model_name_or_path; set {_BASE_OPTION} to the "
            "directory or reference of the base model"
        )
    return named


def find_base(adapter: Path, given: str | None = None, downloads: Downloads | None = None) -> Path:
    """The directory of an adapter's base, fetched if it is remote.

    Args:
        adapter: the adapter's directory.
        given: a reference; unset: as the adapter's configuration says.
        downloads: see `resolve`.

    Raises:
        ConfigError: it is not named, not there, quantised, or a bare hub name: nothing is
            downloaded that was not asked for by a hf:// or s3:// reference.
    """
    found = _local_base(adapter, named := named_base(adapter, given))
    if found is None:
        with _explaining_base(adapter, named):
            return resolve(named, downloads)
    return found


def check_base(adapter: Path, given: str | None = None, downloads: Downloads | None = None) -> str:
    """The reference of an adapter's base, once it is known that `find_base` would find it.

    Raises:
        ConfigError: as `find_base`, or what is on this machine is no base; downloads nothing.
    """
    found = _local_base(adapter, named := named_base(adapter, given))
    if found is None:
        with _explaining_base(adapter, named):
            require_reference(named, downloads)
    else:
        _require_whole_numbers(found, load_config(found))
    return named


def _local_base(adapter: Path, named: str) -> Path | None:
    for candidate in (adapter / named, Path(named).expanduser()):
        if candidate.is_dir():
            return candidate
    quantised = _QUANTISED.search(named.partition("@")[0].rstrip("/"))
    if quantised is not None:
        plain = named[: quantised.start()]
        raise ConfigError(
            f"the base model {named!r} of the LoRA adapter {adapter} is quantised, and adapters "
            f"are merged with unquantised weights; set {_BASE_OPTION} to the model it was made "
            f"from, such as {plain if '://' in plain else f'hf://{plain}'}, or to its directory"
        )
    return None


@contextlib.contextmanager
def _explaining_base(adapter: Path, named: str) -> Iterator[None]:
    try:
        yield
    except ConfigError as error:
        hint = ""
        if "://" not in named:
            hint = f"; set {_BASE_OPTION} to its directory, or to hf://{named} if it is on the hub"
        raise ConfigError(
            f"the base model {named!r} of the LoRA adapter {adapter} is not there: "
            f"{error.message}{hint}"
        ) from error


def _require_whole_numbers(base: Path, config: Any) -> None:
    quantised = getattr(config, "quantization_config", None)
    if quantised:
        kind = quantised.get("quant_method") if isinstance(quantised, dict) else "in some way"
        raise ConfigError(
            f"the base model in {base} is quantised ({kind}), and adapters are merged with "
            f"unquantised weights; set {_BASE_OPTION} to the model it was made from"
        )


def load_adapted(adapter: Path, base: Path, dtype: torch.dtype) -> Adapted:
    """Loads a LoRA adapter on its base, with a row for every token of its tokenizer.

    Args:
        adapter: its directory.
        base: directory of the whole model it was trained on.
        dtype: of the weights.

    Raises:
        ConfigError: adapter, base or tokenizer cannot be loaded, or do not fit each other.
        CheckpointError: as `load_tokenizer`.
    """
    settings = require_adapter(adapter)
    require_sound_files(adapter)
    tokenizer = load_tokenizer(adapter if has_tokenizer(adapter) else base)
    config = load_config(base)
    _require_whole_numbers(base, config)
    model = _load_model(base, config, dtype)
    rows = model.get_input_embeddings().num_embeddings
    trained = _trained_rows(adapter, model)
    wanted = max(rows, len(tokenizer)) if trained is None else trained
    if wanted < len(tokenizer):
        raise ConfigError(
            f"the adapter {adapter} has rows for {wanted} tokens, but its tokenizer has "
            f"{len(tokenizer)}; use the tokenizer it was trained with"
        )
    added, warnings = list(range(rows, len(tokenizer))), list[str]()
    if (base / _ADAPTER).is_file():
        warnings.append(f"the base {base.name} holds an adapter too, which is left out")
    if wanted != rows:
        with torch.random.fork_rng():
            torch.manual_seed(0)  # rows nobody trained are drawn: the same ones each time
            model.resize_token_embeddings(wanted)
    if added and trained is None:
        warnings.append(
            f"the adapter holds no trained rows for the {len(added)} tokens its tokenizer adds; "
            "they are what transformers draws for new tokens"
        )
    untied = trained is not None and not settings.get("ensure_weight_tying") and _untie(model)
    with refusing(f"the LoRA adapter {adapter} does not fit its base {base}"):
        adapted = PeftModel.from_pretrained(model, str(adapter), low_cpu_mem_usage=True).eval()
    require_finite(adapted.state_dict(), adapter, "train the adapter again, or fetch it again")
    return Adapted(adapted, tokenizer, added, untied, warnings)


def merge(adapted: Adapted, adapter: Path) -> Any:
    """The base with the adapter's changes added to its weights.

    Tables that were shared before and came out the same are shared again.

    Raises:
        ConfigError: that is not possible, or gives weights that are no numbers.
    """
    with refusing(f"cannot merge the LoRA adapter {adapter} with its base"):
        model = adapted.model.merge_and_unload(safe_merge=True)
    output, embeddings = model.get_output_embeddings(), model.get_input_embeddings()
    if adapted.untied and torch.equal(output.weight, embeddings.weight):
        output.weight = embeddings.weight
        _say_tied(model, True)
    return model


def _untie(model: Any) -> bool:
    """Gives the output its own table where it shares the input's; whether it did.

    The adapter trained one table, and left the other as it was: merged into a shared one, it
    would change both.
    """
    output, embeddings = model.get_output_embeddings(), model.get_input_embeddings()
    if output is None or output.weight is not embeddings.weight:
        return False
    output.weight = torch.nn.Parameter(embeddings.weight.detach().clone())
    _say_tied(model, False)
    return True


def _say_tied(model: Any, tied: bool) -> None:
    model.config.get_text_config().tie_word_embeddings = tied
    model.config.tie_word_embeddings = tied


def _trained_rows(adapter: Path, model: Any) -> int | None:
    """Tokens that embeddings in the adapter's weights have rows for; None: it has none."""
    names = {module: name for name, module in model.named_modules()}
    axes = {}
    for module, lora in (
        (model.get_input_embeddings(), {"lora_embedding_A": 1}),
        (model.get_output_embeddings(), {"lora_B.weight": 0}),
    ):
        if module is not None:
            for part, axis in ({"weight": 0, "base_layer.weight": 0} | lora).items():
                axes[f".{names[module]}.{part}"] = axis
    with refusing(f"cannot read the weights in {adapter}"):
        for key, shape in _shapes(adapter):
            for ending, axis in axes.items():
                if key.endswith(ending):
                    return shape[axis]
    return None


def _shapes(adapter: Path) -> list[tuple[str, tuple[int, ...]]]:
    """Names and shapes of an adapter's weights; none are kept in memory."""
    path = adapter / "adapter_model.safetensors"
    if path.is_file():
        with safe_open(path, framework="pt") as file:
            return [(key, tuple(file.get_slice(key).get_shape())) for key in file.keys()]  # noqa: SIM118
    path = adapter / "adapter_model.bin"
    if not path.is_file():
        return []
    weights = torch.load(path, map_location="cpu", weights_only=True)
    return [(key, tuple(value.shape)) for key, value in weights.items()]


def context_of(config: Any, tokenizer: Any) -> int | None:
    """The most tokens a model takes; None: no limit is known."""
    limit = getattr(config.get_text_config(), "max_position_embeddings", None)
    if limit is None and (said := token_limit(tokenizer)) < 10**9:  # "unknown" is 1e30 there
        limit = said
    return None if limit is None else int(limit)
