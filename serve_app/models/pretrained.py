"""What every loader of a transformers directory needs: device, dtype, encoder, tokenizer checks.

A tokenizer is a file of its own: it may state any limit, and any id for a word. Knows no metric.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModel, PreTrainedModel
from transformers.utils import logging as transformers_logging

from serve_app.core.errors import CheckpointError, ConfigError
from serve_app.models.verification import (
    read_config,
    refusing,
    require_fitting,
    require_sound_files,
    without_adapter,
)

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
"""Types of weights, by their names in settings and options."""

_TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer.model",
    "spiece.model",
    "sentencepiece.bpe.model",
    "vocab.json",
    "vocab.txt",
    "tekken.json",
)


def resolve_device(name: str) -> torch.device:
    """The torch device of the DEVICE setting; `auto` is the first GPU, else the CPU.

    Raises:
        ConfigError: the name is no device, or this machine has none of that kind.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ConfigError(f"DEVICE: {name!r} is not auto, cpu, cuda, cuda:N or mps") from None
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ConfigError(
            f"DEVICE: {name!r} was asked for, but torch sees {torch.cuda.device_count()} CUDA "
            "devices; use auto or cpu, or give the process a GPU"
        )
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise ConfigError("DEVICE: 'mps' was asked for, but this machine has none; use auto or cpu")
    return device


def load_pretrained(
    directory: Path, what: str, family: Any = AutoModel
) -> tuple[PreTrainedModel, list[str]]:
    """The model in a directory, checked, in float32, with SDPA attention where it has that.

    Args:
        directory: of transformers.
        what: how the message of a failure begins.
        family: the class that loads it: AutoModel for an encoder.

    Returns:
        The model, and the sorted names of weights the files lack (those are random).

    Raises:
        CheckpointError: it cannot be loaded, or its files are not what they claim.
    """
    with refusing(what, CheckpointError), quiet_loading():
        require_sound_files(directory, CheckpointError)
        config = read_config(directory, CheckpointError)
        require_fitting(family, config, directory, CheckpointError)
        with without_adapter(directory) as whole:
            model, info = family.from_pretrained(
                whole,
                attn_implementation=_attention(family, config),
                dtype=torch.float32,
                output_loading_info=True,
                trust_remote_code=False,
            )
    return model, sorted(info["missing_keys"])


def _attention(family: Any, config: Any) -> str:
    # Always named: a config.json could name another, which transformers would fetch.
    found = family._model_mapping.get(type(config), None)
    kinds = found if isinstance(found, tuple) else (found,)
    return "sdpa" if all(getattr(kind, "_supports_sdpa", False) for kind in kinds) else "eager"


@contextmanager
def quiet_loading() -> Iterator[None]:
    """Silences transformers within, then puts the caller's settings back.

    Its progress bars and its report of unused heads are noise in a server's log. Each loader
    checks for missing weights itself.
    """
    verbosity = transformers_logging.get_verbosity()
    progress = transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        if progress:
            transformers_logging.enable_progress_bar()


def has_tokenizer(directory: Path) -> bool:
    """Whether there is a file of a tokenizer: without, transformers may make up an empty one."""
    return any((directory / name).is_file() for name in _TOKENIZER_FILES)


def token_limit(tokenizer: Any) -> int:
    """Most tokens of an input, as the tokenizer says; about 1e30 where it states no limit.

    Raises:
        CheckpointError: that is no number of at least 1.
    """
    limit = tokenizer.model_max_length
    if isinstance(limit, bool) or not isinstance(limit, int | float) or not 1 <= limit < math.inf:
        raise CheckpointError(
            f"the tokenizer in {tokenizer.name_or_path}: model_max_length is {limit!r:.80}, which "
            "is no number of tokens; put the one of the model into tokenizer_config.json"
        )
    return int(limit)


def require_known_ids(tokenizer: Any, model: Any, name: str) -> None:
    """Checks that the model has a row for every token of the tokenizer.

    Otherwise some texts would fail, and only when they are sent.

    Args:
        tokenizer: its words, added tokens and the tokens around texts are checked.
        model: a transformers model.
        name: what messages call the model.

    Raises:
        CheckpointError: a token has no row; the message names one.
    """
    rows = int(model.get_input_embeddings().num_embeddings)
    around = tokenizer("a", "a")["input_ids"]  # a template may name ids of no word
    words = {**tokenizer.get_vocab(), **{f"number {one}": one for one in around}}
    strange = [word for word, one in words.items() if not 0 <= one < rows]
    if strange:
        raise CheckpointError(
            f"the tokenizer of {name} has {len(strange)} tokens that the model does not know, "
            f"such as {strange[0]!r:.80}: it has rows for {rows}; use the tokenizer that belongs "
            "to it"
        )
