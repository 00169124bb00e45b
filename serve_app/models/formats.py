"""What directories of models hold: said once for all who load.

Knows names only; loads nothing.
"""

from __future__ import annotations

from pathlib import Path

import torch

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


def has_tokenizer(directory: Path) -> bool:
    """Whether there is a file a tokenizer can be made of.

    With none at all, transformers makes up an empty tokenizer for some model types.
    """
    return any((directory / name).is_file() for name in _TOKENIZER_FILES)
