"""Loads the encoder in a directory as every metric wants it; knows no metric."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from transformers import AutoModel, PreTrainedModel
from transformers.utils import logging as transformers_logging

from serve_app.core.errors import CheckpointError
from serve_app.models.verification import (
    read_config,
    refusing,
    require_fitting,
    require_sound_files,
)


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
