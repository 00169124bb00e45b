"""MiniCheck: P(supported) of a sentence by its best chunk of the document.

Tang, Laban, Durrett, "MiniCheck: Efficient Fact-Checking of LLMs on Grounding Documents", EMNLP
2024, as `minicheck/inference.py` of github.com/Liyan06/MiniCheck (b58b9fa) computes it:

- Lines are split into sentences, and sentences joined into chunks of at most 400 tokens (RoBERTa,
  DeBERTa-v3) or 500 words (Flan-T5).
- The input is CHUNK + eos token + SENTENCE as one text, after "predict: " for Flan-T5, cut at its
  end to 512 tokens (RoBERTa) or 2,048.
- A classifier's score is softmax(logits)[1]; Flan-T5's is the softmax of its first output token's
  logits for token 209 against token 3.
- The score is the largest over the chunks. Splitting a text into sentences, and their mean, are
  left to the user there; here it is done as for AlignScore.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Unpack

import torch
from torch import Tensor, nn
from transformers import AutoModelForSeq2SeqLM

from serve_app.core.errors import CheckpointError
from serve_app.metrics.checkers.published import (
    Classifier,
    Options,
    WholeClaims,
    load_whole,
    require_labels,
    runs,
)
from serve_app.models.verification import read_config
from serve_app.text.sentences import split_sentences

_CHUNK_TOKENS, _CHUNK_WORDS = 400, 500
_LIMITS = {"roberta": 512, "deberta-v2": 2048, "t5": 2048}
_NO, _YES = 3, 209  # T5's tokens for "not supported" and "supported"


class MiniCheck(WholeClaims):
    """One MiniCheck model."""

    def __init__(
        self, model: Any, tokenizer: Any, *, name: str, **options: Unpack[Options]
    ) -> None:
        kind = model.config.model_type
        self._seq2seq = kind == "t5"
        self._end = str(tokenizer.eos_token)
        network = _FirstToken(model) if self._seq2seq else Classifier(model)
        super().__init__(network, model, tokenizer, name=name, limit=_LIMITS[kind], **options)

    def chunks(self, context: str) -> list[str]:
        """Runs of sentences; a line's end stays one."""
        lines = [split_sentences(line) for line in context.split("\n")]
        parts = [part for line in lines for part in (*line, "\n")][:-1]
        if self._seq2seq:
            sizes, most = [len(part.split()) for part in parts], _CHUNK_WORDS
        else:
            sizes, most = self.count(parts), _CHUNK_TOKENS
        found = runs(parts, sizes, most, " ".join)
        stripped = (chunk.replace(" \n ", "\n").strip() for chunk in found)
        return [chunk for chunk in stripped if chunk]

    def prompt(self, chunk: str, sentence: str) -> str:
        """Both texts with the token for a text's end between them."""
        start = "predict: " if self._seq2seq else ""
        return f"{start}{chunk}{self._end}{sentence}"


class _FirstToken(nn.Module):
    """Logits (rows, 2) of the two answers as the first token that a T5 model would write."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, **inputs: Tensor) -> Tensor:
        start = inputs["input_ids"].new_zeros((len(inputs["input_ids"]), 1))
        logits: Tensor = self.model(**inputs, decoder_input_ids=start).logits
        return logits[:, 0, torch.tensor([_NO, _YES], device=logits.device)]


def load(directory: Path, name: str, **options: Unpack[Options]) -> MiniCheck:
    """The model in a directory.

    Raises:
        CheckpointError: it is no MiniCheck model, or its files are not what they claim.
    """
    kind = read_config(directory, CheckpointError).model_type
    if kind not in _LIMITS:
        raise CheckpointError(
            f"{directory} holds a {kind} model; MiniCheck has {', '.join(_LIMITS)} models"
        )
    if kind == "t5":
        return MiniCheck(*load_whole(directory, AutoModelForSeq2SeqLM), name=name, **options)
    model, tokenizer = load_whole(directory)
    require_labels(model, 2, directory)
    return MiniCheck(model, tokenizer, name=name, **options)
