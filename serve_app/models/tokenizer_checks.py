"""What is asked of a model's tokenizer before a text is given to it.

A tokenizer is a file of its own: it may say any limit, and give any number for a word. Knows what
the model has room and rows for; knows no metric.
"""

from __future__ import annotations

import math
from typing import Any

from serve_app.core.errors import CheckpointError


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
