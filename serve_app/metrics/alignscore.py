"""Factuality: AlignScore of a claim (the generated text) against a context (the original).

Zha et al., "AlignScore: Evaluating Factual Consistency with a Unified Alignment Function",
ACL 2023, as the published inference code (0.1.3) computes it. In the `_sp` modes the context
is cut into chunks of about 350 words at sentence ends and the claim into sentences; a
sentence's score is its best over the chunks, a claim's the mean over its sentences. In
the plain modes one pass scores the whole claim against the whole context. This module knows
texts, chunks and heads; the network is `align_model`'s, sentence ends are `sentences`'s.

Where the published code depends on what else is in its batch of 32 (a sentence that alone
fills the encoder makes it cut every pair of the batch by another rule), we give what it gives
for that pair alone. Where it breaks off with torch's "expected a non-empty list of Tensors"
(a `_sp` claim without a sentence), or scores an empty string, we refuse the text by name.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

import torch
from torch import Tensor
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from serve_app.core.errors import CheckpointError, ConfigError, InvalidInput, MetricFailed
from serve_app.core.settings import EvalMode
from serve_app.metrics.align_checkpoint import load_checkpoint
from serve_app.metrics.align_model import (
    DEFAULT_CHUNK_WORDS,
    AlignLogits,
    AlignModel,
    is_compact,
    load_compact,
)
from serve_app.metrics.pair_tokens import PairEncoder
from serve_app.metrics.results import AlignScoreResult, ClaimSentence
from serve_app.models.encoder_runtime import Batch, EncoderRuntime
from serve_app.models.tokenizer_checks import require_known_ids, token_limit
from serve_app.models.verification import refusing
from serve_app.storage.artifacts import Downloads, resolve
from serve_app.text.sentences import split_sentences
from serve_app.text.validation import require_pairs

__all__ = ["AlignScoreResult", "AlignScorer", "ClaimSentence", "EvalMode", "context_chunks"]

EVAL_MODES: tuple[str, ...] = get_args(EvalMode)

_AT_ONCE = 4096
"""Pairs whose tokens are in memory together; more gain no speed."""


def context_chunks(context: str, chunk_words: int = DEFAULT_CHUNK_WORDS) -> list[str]:
    """The context in runs of whole sentences, each of about `chunk_words` words.

    Every chunk but the last has the same number of sentences, so a chunk of long sentences
    has more words; sentences are joined by one space.

    >>> context_chunks("One two. Three four. Five six.", chunk_words=4)
    ['One two.', 'Three four.', 'Five six.']
    >>> context_chunks("One two. Three four. Five six.", chunk_words=7)
    ['One two. Three four. Five six.']
    """
    sentences = split_sentences(context)
    wanted = len(context.split()) // chunk_words + 1
    size = max(len(sentences) // wanted, 1)
    return [" ".join(sentences[at : at + size]) for at in range(0, len(sentences), size)]


def head_scores(logits: AlignLogits, mode: EvalMode) -> list[float]:
    """One score a row: P(aligned) of the three-way or binary head, or the regression output."""
    head = mode.removesuffix("_sp")
    scores: Tensor
    if head == "nli":
        scores = logits.three_way.float().softmax(dim=-1)[:, 0]
    elif head == "bin":
        scores = logits.binary.float().softmax(dim=-1)[:, 1]
    else:
        scores = logits.regression.float()[:, 0]
    values: list[float] = scores.tolist()
    return values


class AlignScorer:
    """Scores claims against contexts with one AlignScore model.

    Args:
        model: the network; moved to `device` and cast to `dtype`.
        tokenizer: the fast tokenizer of its encoder.
        name: the label results carry; name the model the weights came from.
        eval_mode: the mode `score` uses when it is given none.
        chunk_words: context chunk size in words, in the `_sp` modes.
        device: `auto`, `cpu`, `mps`, `cuda` or `cuda:N`.
        dtype: `float32`, or a faster and inexact `bfloat16` or `float16`.
        token_budget: most padded tokens a forward pass takes.
        max_rows: most (chunk, sentence) pairs a forward pass takes, or None.
        max_pairs: most of them that one context and claim may make in the `_sp` modes, or None.

    Raises:
        ConfigError: an argument is out of its range, or the tokenizer is not a fast one, has no
            padding token or belongs to another encoder.
    """

    def __init__(
        self,
        model: AlignModel,
        tokenizer: Any,
        *,
        name: str,
        eval_mode: EvalMode = "nli_sp",
        chunk_words: int = DEFAULT_CHUNK_WORDS,
        device: str = "auto",
        dtype: str = "float32",
        token_budget: int = 8192,
        max_rows: int | None = None,
        max_pairs: int | None = None,
    ) -> None:
        if eval_mode not in EVAL_MODES:
            raise ConfigError(f"eval_mode {eval_mode!r} is none of {', '.join(EVAL_MODES)}")
        if chunk_words < 1:
            raise ConfigError(f"chunk_words must be at least 1, not {chunk_words}")
        self.name = name
        self.eval_mode = eval_mode
        self.chunk_words = chunk_words
        self.max_pairs = max_pairs
        config = model.base_model.config
        limit = encoder_limit(model, tokenizer)
        require_known_ids(tokenizer, model.base_model, name)
        self._pairs = PairEncoder(
            tokenizer,
            limit,
            with_types=getattr(config, "type_vocab_size", 1) > 1,
        )
        pad = tokenizer.pad_token_id
        self._runtime = EncoderRuntime(
            model,
            pad_token_id=config.pad_token_id if pad is None else pad,
            device=device,
            dtype=dtype,
            token_budget=token_budget,
            max_rows=max_rows,
        )
        self.device = str(self._runtime.device)

    @classmethod
    def from_reference(
        cls,
        model: str,
        *,
        ckpt: str | None = None,
        eval_mode: EvalMode | None = None,
        chunk_words: int | None = None,
        device: str = "auto",
        dtype: str = "float32",
        token_budget: int = 8192,
        max_rows: int | None = None,
        max_pairs: int | None = None,
        downloads: Downloads | None = None,
    ) -> AlignScorer:
        """A scorer from weights references (see `serve_app.storage.artifacts`).

        Args:
            model: a compact model such as `embedded:alignscore-mini`; with `ckpt`, the encoder
                directory that checkpoint was trained on (its config and tokenizer are read).
            ckpt: a published Lightning `.ckpt`, or None.
            eval_mode: None takes the compact model's own, and `nli_sp` for a checkpoint.
            chunk_words: None takes the compact model's own, and 350 for a checkpoint.
            device: this and the rest as in the constructor; `downloads` is for references that
                have to be fetched.

        Raises:
            ConfigError: a reference cannot be resolved.
            CheckpointError: what it leads to is not an AlignScore model.
        """
        directory = resolve(model, downloads)
        compact = directory.is_dir() and is_compact(directory)
        if ckpt is not None:
            if compact:
                raise CheckpointError(
                    f"ALIGNSCORE_CKPT is set, but ALIGNSCORE_MODEL ({model}) is a whole model; "
                    "set it to the directory of the checkpoint's backbone, such as roberta-base"
                )
            path = resolve(ckpt, downloads)
            network, _ = load_checkpoint(path, directory)
            name, own_mode, own_words = path.stem, "nli_sp", DEFAULT_CHUNK_WORDS
        elif compact:
            network, config, directory = load_compact(directory)
            name, own_mode, own_words = config.name, config.eval_mode, config.chunk_words
        else:
            raise CheckpointError(
                f"{model} holds no AlignScore heads; if it is the backbone of a published "
                "checkpoint, set ALIGNSCORE_CKPT to that .ckpt file"
            )
        return cls(
            network,
            load_tokenizer(directory),
            name=name,
            eval_mode=eval_mode or own_mode,  # type: ignore[arg-type]  # the constructor checks
            chunk_words=own_words if chunk_words is None else chunk_words,
            device=device,
            dtype=dtype,
            token_budget=token_budget,
            max_rows=max_rows,
            max_pairs=max_pairs,
        )

    @property
    def tokens(self) -> int:
        """Tokens encoded so far."""
        return self._runtime.tokens

    def score(
        self,
        contexts: Sequence[str],
        claims: Sequence[str],
        *,
        eval_mode: EvalMode | None = None,
    ) -> list[AlignScoreResult]:
        """One result for each (context, claim); none depends on the others in the call.

        Raises:
            InvalidInput: the lists are empty or differ in length, a text is empty or has no
                word, a pair makes more than `max_pairs`, or the mode is unknown.
            MetricFailed: the model gave NaN or infinity.
        """
        mode = self.eval_mode if eval_mode is None else eval_mode
        if mode not in EVAL_MODES:
            raise InvalidInput(
                f"{mode!r} is none of {', '.join(EVAL_MODES)}", field="eval_mode", code="bad_mode"
            )
        require_pairs(contexts, claims, "contexts", "claims")
        samples = [
            self._split(context, claim, mode)
            for context, claim in zip(contexts, claims, strict=True)
        ]
        for index, (chunks, sentences) in enumerate(samples):
            self._require_few(len(chunks), len(sentences), index)
        scores = self._score_pairs(
            dict.fromkeys(
                (chunk, sentence)
                for chunks, sentences in samples
                for chunk in chunks
                for sentence in sentences
            ),
            mode,
        )
        return [
            _summarise(chunks, sentences, scores, f"claims[{index}]")
            for index, (chunks, sentences) in enumerate(samples)
        ]

    def truncates(self, contexts: Sequence[str], claims: Sequence[str]) -> list[bool]:
        """Whether a part of each pair would not be read, as `score` finds. Tokenises only."""
        samples = [
            self._split(context, claim, self.eval_mode)
            for context, claim in zip(contexts, claims, strict=True)
        ]
        texts = list(dict.fromkeys(text for sample in samples for part in sample for text in part))
        tokens = dict(zip(texts, self._pairs.encode(texts), strict=True))
        return [
            any(self._pairs.join(tokens[c], tokens[s])[1] for c in chunks for s in sentences)
            for chunks, sentences in samples
        ]

    def _require_few(self, chunks: int, sentences: int, index: int) -> None:
        if self.max_pairs is not None and chunks * sentences > self.max_pairs:
            raise InvalidInput(
                f"the original has {chunks} chunks and the summary {sentences} sentences: "
                f"{chunks * sentences} pairs to compare for factuality, and at most "
                f"{self.max_pairs} are (ALIGNSCORE_MAX_PAIRS); send shorter texts",
                field=f"texts_generated[{index}]",
                code="too_many_pairs",
            )

    def _split(self, context: str, claim: str, mode: EvalMode) -> tuple[list[str], list[str]]:
        if mode.endswith("_sp"):
            return context_chunks(context, self.chunk_words), split_sentences(claim)
        return [context], [claim]

    def _score_pairs(
        self, pairs: dict[tuple[str, str], None], mode: EvalMode
    ) -> dict[tuple[str, str], tuple[float, bool]]:
        """Score and truncation of each distinct (chunk, sentence), in one run."""
        texts = list(dict.fromkeys(text for pair in pairs for text in pair))
        tokens = dict(zip(texts, self._pairs.encode(texts), strict=True))

        def consume(logits: AlignLogits, _: Batch) -> list[float]:
            return head_scores(logits, mode)

        found: dict[tuple[str, str], tuple[float, bool]] = {}
        waiting = list(pairs)
        for at in range(0, len(waiting), _AT_ONCE):
            part = waiting[at : at + _AT_ONCE]
            joined = [self._pairs.join(tokens[chunk], tokens[sentence]) for chunk, sentence in part]
            sequences = [sequence for sequence, _ in joined]
            scores = self._runtime.run(sequences, consume)
            cuts = [cut for _, cut in joined]
            found.update(zip(part, zip(scores, cuts, strict=True), strict=True))
        return found


def _summarise(
    chunks: list[str],
    sentences: list[str],
    scores: dict[tuple[str, str], tuple[float, bool]],
    field: str,
) -> AlignScoreResult:
    truncated = False
    best = []
    for sentence in sentences:
        column = [scores[chunk, sentence] for chunk in chunks]
        values = [value for value, _ in column]
        if not all(map(math.isfinite, values)):
            raise MetricFailed(
                "the AlignScore model gave no finite number for this text; set METRICS_DTYPE to "
                "float32, and if it is that already, check the weights",
                field=field,
            )
        truncated = truncated or any(cut for _, cut in column)
        index = max(range(len(chunks)), key=values.__getitem__)
        best.append(ClaimSentence(sentence, values[index], index, chunks[index]))
    score = math.fsum(sentence.score for sentence in best) / len(best)
    return AlignScoreResult(score, tuple(best), truncated)


def encoder_limit(model: AlignModel, tokenizer: Any) -> int:
    """Most tokens a pair may have: what the tokenizer says, and the positions there are.

    Raises:
        CheckpointError: the tokenizer says no number.
    """
    limit = token_limit(tokenizer)
    embeddings = getattr(model.base_model, "embeddings", None)
    positions = getattr(embeddings, "position_embeddings", None)
    if isinstance(positions, torch.nn.Embedding):
        # RoBERTa numbers positions from behind the padding index.
        unused = 0 if positions.padding_idx is None else positions.padding_idx + 1
        limit = min(limit, positions.num_embeddings - unused)
    return limit


def load_tokenizer(directory: Path) -> Any:
    """The tokenizer in an encoder's directory.

    `tokenizer.json` is taken as it stands, as transformers 4 took it when scores were
    published; transformers 5 would rebuild parts of it by class (ALBERT's normaliser).

    Raises:
        CheckpointError: there is none.
    """
    ready = (directory / "tokenizer.json").is_file()
    kind = PreTrainedTokenizerFast if ready else AutoTokenizer
    with refusing(f"{directory} has no usable tokenizer", CheckpointError):
        return kind.from_pretrained(directory, trust_remote_code=False)
