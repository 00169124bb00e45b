"""HHEM-2.1-open: P(consistent) of a whole summary by its whole source.

Vectara's hallucination_evaluation_model, as `modeling_hhem_v2.py` of its repository computes it, of
which nothing is run: a token classifier on T5's encoder reads the prompt below, and the score is
softmax(logits of the first token)[1]. Nothing is split. T5's positions are relative, so inputs have
no end by themselves; here they have one, since attention takes memory by their square.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Unpack

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import AutoModelForTokenClassification

from serve_app.core.errors import CheckpointError, InvalidInput
from serve_app.metrics.alignscore import Sample, load_tokenizer
from serve_app.metrics.checkers.published import ADVICE, Options, PublishedChecker
from serve_app.models.verification import (
    read_config,
    refusing,
    require_finite,
    require_fitting,
    require_sound_files,
)

_LIMIT = 4096
_PROMPT = (
    "<pad> Determine if the hypothesis is true given the premise?\n\n"
    "Premise: {chunk}\n\nHypothesis: {sentence}"
)
_TABLES = ("transformer.shared.weight", "transformer.encoder.embed_tokens.weight")


class HHEM(PublishedChecker):
    """One HHEM model."""

    def __init__(
        self, model: Any, tokenizer: Any, *, name: str, **options: Unpack[Options]
    ) -> None:
        super().__init__(_OnFirst(model), model, tokenizer, name=name, limit=_LIMIT, **options)

    def chunks(self, context: str) -> list[str]:
        """The whole context."""
        return [context]

    def sentences(self, claim: str) -> list[str]:
        """The whole claim."""
        return [claim]

    def split(self, context: str, claim: str) -> Sample:
        """Both texts whole.

        Raises:
            InvalidInput: together they exceed the limit; cutting would lose the claim.
        """
        (tokens,) = self.count([self.prompt(context, claim)], special=True)
        if tokens > self.limit:
            raise InvalidInput(
                f"original and summary make {tokens} tokens, and {self.name} reads at most "
                f"{self.limit} at once; send shorter texts, or use a checker that splits them",
                field="texts_generated[0]",
                code="too_many_tokens",
            )
        return super().split(context, claim)

    def split_piece(self, context: str, claim: str) -> Sample:
        """As `split`."""
        return self.split(context, claim)

    def prompt(self, chunk: str, sentence: str) -> str:
        """The question that the model was trained on."""
        return _PROMPT.format(chunk=chunk, sentence=sentence)


class _OnFirst(nn.Module):
    """Logits (rows, 2) on the first token."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, **inputs: Tensor) -> Tensor:
        logits: Tensor = self.model(**inputs).logits
        return logits[:, 0]


def load(directory: Path, weights: Path, name: str, **options: Unpack[Options]) -> HHEM:
    """The model of HHEM's weights on the T5 in a directory.

    Args:
        directory: of flan-t5-base, for its config.json and its tokenizer; its weights, if any, are
            not read.
        weights: HHEM's `model.safetensors`, or its directory.
        name: name of the model in results.
        options: as for `ClaimScorer`.

    Raises:
        CheckpointError: the directory is no T5, or the weights do not fit it.
    """
    what = f"{directory} is no backbone of HHEM: set FACTUALITY_MODEL to hf://google/flan-t5-base"
    try:
        config = read_config(directory, CheckpointError)
    except CheckpointError as error:
        raise CheckpointError(f"{what} ({error.message})") from error
    if config.model_type != "t5":
        raise CheckpointError(f"{what}, not to a {config.model_type}")
    config.num_labels = 2
    file = weights / "model.safetensors" if weights.is_dir() else weights
    if not file.is_file():
        raise CheckpointError(f"FACTUALITY_WEIGHTS: there is no {file}; {ADVICE}")
    require_sound_files(file, CheckpointError)
    require_fitting(AutoModelForTokenClassification, config, file, CheckpointError)
    with refusing(f"FACTUALITY_WEIGHTS: {file} is not HHEM's on {directory}", CheckpointError):
        state = {key.removeprefix("t5."): value for key, value in load_file(file).items()}
        for table, other in (_TABLES, _TABLES[::-1]):  # one table, of which a file keeps one name
            if other in state:
                state.setdefault(table, state[other])
        require_finite(state, file, ADVICE, CheckpointError)
        model = AutoModelForTokenClassification.from_config(
            config, attn_implementation="sdpa", dtype=torch.float32, trust_remote_code=False
        )
        model.load_state_dict(state)
    return HHEM(model, load_tokenizer(directory), name=name, **options)
