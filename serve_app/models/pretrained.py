"""What every loader of a transformers directory does: device, dtype, tokenizer, encoder.

A tokenizer is a file of its own that may say any limit and give any number for a word, so it is
checked against the model. Knows no metric and no request.
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
)

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
"""Types of weights, by the name that settings and options give them."""

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
    """`auto` is the first GPU there is, else the CPU; other names are torch's.

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


def load_pretrained(directory: Path, what: str) -> tuple[PreTrainedModel, list[str]]:
    """The encoder in float32, with SDPA attention, once its files are found to be sound.

    Args:
        directory: of transformers.
        what: how the message of a failure begins.

    Returns:
        The encoder, and which of its weights are not in the files (they are random), sorted.

    Raises:
        CheckpointError: it cannot be loaded, or its files are not what they claim.
    """
    with refusing(what, CheckpointError), quiet_loading():
        require_sound_files(directory, CheckpointError)
        config = read_config(directory, CheckpointError)
        require_fitting(AutoModel, config, directory, CheckpointError)
        encoder, info = AutoModel.from_pretrained(
            directory,
            attn_implementation="sdpa",
            dtype=torch.float32,
            output_loading_info=True,
            trust_remote_code=False,
        )
    return encoder, sorted(info["missing_keys"])


@contextmanager
def quiet_loading() -> Iterator[None]:
    """Silences transformers within; the caller's settings are put back.

    Its progress bars and its report of unused heads are noise in a server's log. What matters of
    a load, the missing weights, each loader checks itself.
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
    """Whether there is a file a tokenizer can be made of.

    With none at all, transformers makes up an empty tokenizer for some model types.
    """
    return any((directory / name).is_file() for name in _TOKENIZER_FILES)


def token_limit(tokenizer: Any) -> int:
    """Most tokens the tokenizer says an input may have; about 1e30 where it names no limit.

    Raises:
        CheckpointError: what it says is no number of at least 1.
    """
    limit = tokenizer.model_max_length
    if isinstance(limit, bool) or not isinstance(limit, int | float) or not 1 <= limit < math.inf:
        raise CheckpointError(
            f"the tokenizer in {tokenizer.name_or_path}: model_max_length is {limit!r:.80}, which "
            "is no number of tokens; put the one of the model into tokenizer_config.json"
        )
    return int(limit)


def require_known_ids(tokenizer: Any, model: Any, name: str) -> None:
    """Checks that the model has a row for every token the tokenizer can give.

    A text with any other could not be computed, and would be found out only when it is sent.

    Args:
        tokenizer: its words, added tokens and the tokens it puts around texts are looked at.
        model: a transformers model.
        name: what messages call the model.

    Raises:
        CheckpointError: a token has no row; one of them is named.
    """
    rows = int(model.get_input_embeddings().num_embeddings)
    around = tokenizer("a", "a")["input_ids"]  # a template may name ids that are no word's
    words = {**tokenizer.get_vocab(), **{f"number {one}": one for one in around}}
    strange = [word for word, one in words.items() if not 0 <= one < rows]
    if strange:
        raise CheckpointError(
            f"the tokenizer of {name} has {len(strange)} tokens that the model does not know, "
            f"such as {strange[0]!r:.80}: it has rows for {rows}; use the tokenizer that belongs "
            "to it"
        )
