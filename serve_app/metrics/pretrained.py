"""Loads the encoder in a directory as every metric wants it; knows no metric."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import AutoModel, PreTrainedModel

from serve_app.errors import CheckpointError
from serve_app.metrics.quiet import quiet_loading
from serve_app.weights import read_config, refusing, require_fitting, require_sound_files


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
