"""Factuality: AlignScore of a claim (the generated text) against a context (the original).

Zha et al., "AlignScore: Evaluating Factual Consistency with a Unified Alignment Function",
ACL 2023, as the published inference code (0.1.3) computes it. The `_sp` modes cut the context at
sentence ends into chunks of about 350 words and the claim into sentences; a sentence scores its
best over the chunks, a claim the mean over its sentences. The plain modes score the whole claim
against the whole context in one pass. This module knows texts, chunks and heads; `align_model` has
the network.

The published code can score a pair differently by what else is in its batch of 32 (a sentence that
fills the encoder alone changes how every pair of the batch is cut); we give the score of the pair
alone. Where it fails with torch's "expected a non-empty list of Tensors" (a `_sp` claim without a
sentence) or scores an empty string, we refuse the text by name.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from itertools import product
from pathlib import Path
from typing import Any, Unpack, get_args

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
from serve_app.metrics.encoders import RuntimeOptions, encoder_limit
from serve_app.metrics.evaluation import AlignScoreResult, ClaimSentence
from serve_app.models.encoder_runtime import Batch, EncoderRuntime, PairEncoder
from serve_app.models.pretrained import require_known_ids
from serve_app.models.verification import refusing
from serve_app.storage.artifacts import Downloads, resolve
from serve_app.text.sentences import split_sentences
from serve_app.text.validation import require_pairs

__all__ = ["AlignScoreResult", "AlignScorer", "ClaimSentence", "EvalMode", "context_chunks"]

EVAL_MODES: tuple[str, ...] = get_args(EvalMode)
PairScores = dict[tuple[str, str], tuple[float, bool]]
"""Score of each distinct (chunk, sentence), and whether either was cut."""

_PAIRS_IN_MEMORY = 4096  # pairs whose tokens are held together; more gain no speed


def context_chunks(context: str, chunk_words: int = DEFAULT_CHUNK_WORDS) -> list[str]:
    """Splits the context into runs of whole sentences, each of about `chunk_words` words.

    Every chunk but the last has the same number of sentences, so chunks of long sentences have
    more words. Sentences are joined by one space.

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
        model: the network; moved to the device and cast in place.
        tokenizer: the fast tokenizer of its encoder.
        name: name of the model in results.
        eval_mode: default mode of `score`.
        chunk_words: context chunk size in words, in the `_sp` modes.
        max_rows: most (chunk, sentence) pairs in a forward pass, or None.
        max_pairs: most such pairs of one context and claim in the `_sp` modes, or None.
        options: `device`, `dtype`, `token_budget` as for `EncoderRuntime`.

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
        max_rows: int | None = None,
        max_pairs: int | None = None,
        **options: Unpack[RuntimeOptions],
    ) -> None:
        if eval_mode not in EVAL_MODES:
            raise ConfigError(f"eval_mode {eval_mode!r} is none of {', '.join(EVAL_MODES)}")
        if chunk_words < 1:
            raise ConfigError(f"chunk_words must be at least 1, not {chunk_words}")
        self.name = name
        self.eval_mode = eval_mode
        self.chunk_words = chunk_words
        self.max_pairs = max_pairs
        encoder = model.base_model
        limit = encoder_limit(encoder, tokenizer)
        require_known_ids(tokenizer, encoder, name)
        with_types = getattr(encoder.config, "type_vocab_size", 1) > 1
        self._pairs = PairEncoder(tokenizer, limit, with_types=with_types)
        pad = tokenizer.pad_token_id
        pad = encoder.config.pad_token_id if pad is None else pad
        self._runtime = EncoderRuntime(model, pad_token_id=pad, max_rows=max_rows, **options)
        self.device = str(self._runtime.device)

    @classmethod
    def from_reference(
        cls,
        model: str,
        *,
        ckpt: str | None = None,
        eval_mode: EvalMode | None = None,
        chunk_words: int | None = None,
        max_rows: int | None = None,
        max_pairs: int | None = None,
        downloads: Downloads | None = None,
        **options: Unpack[RuntimeOptions],
    ) -> AlignScorer:
        """Loads a scorer from weights references (see `serve_app.storage.artifacts`).

        Args:
            model: a compact model such as `embedded:alignscore-mini`; with `ckpt`, the directory
                of the encoder it was trained on (for its config and tokenizer).
            ckpt: a published Lightning `.ckpt`, or None.
            eval_mode: None: the compact model's own; `nli_sp` for a checkpoint.
            chunk_words: None: the compact model's own; 350 for a checkpoint.
            max_rows, max_pairs, options: as in the constructor.
            downloads: how to fetch remote references.

        Raises:
            ConfigError: a reference cannot be resolved.
            CheckpointError: it does not lead to an AlignScore model.
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
            max_rows=max_rows,
            max_pairs=max_pairs,
            **options,
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
        """One result for each (context, claim), independent of the others in the call.

        Raises:
            InvalidInput: the lists are empty or differ in length, a text is empty or has no word,
                a pair exceeds `max_pairs`, or the mode is unknown.
            MetricFailed: the model gave NaN or infinity.
        """
        mode = self.eval_mode if eval_mode is None else eval_mode
        if mode not in EVAL_MODES:
            raise InvalidInput(
                f"{mode!r} is none of {', '.join(EVAL_MODES)}", field="eval_mode", code="bad_mode"
            )
        require_pairs(contexts, claims, "contexts", "claims")
        samples = self._split(contexts, claims, mode)
        for index, (chunks, sentences) in enumerate(samples):
            self._require_few(len(chunks), len(sentences), index)
        pairs = dict.fromkeys(pair for sample in samples for pair in product(*sample))
        scores = self._score_pairs(list(pairs), mode)
        return [
            _summarise(chunks, sentences, scores, f"claims[{index}]")
            for index, (chunks, sentences) in enumerate(samples)
        ]

    def truncates(self, contexts: Sequence[str], claims: Sequence[str]) -> list[bool]:
        """Whether `score` would cut part of each pair. Tokenises only."""
        samples = self._split(contexts, claims, self.eval_mode)
        tokens = self._tokenize(text for sample in samples for part in sample for text in part)
        return [
            any(self._pairs.join(tokens[chunk], tokens[s])[1] for chunk, s in product(*sample))
            for sample in samples
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

    def _split(
        self, contexts: Sequence[str], claims: Sequence[str], mode: EvalMode
    ) -> list[tuple[list[str], list[str]]]:
        """Chunks and sentences of each (context, claim)."""
        pairs = zip(contexts, claims, strict=True)
        if not mode.endswith("_sp"):
            return [([context], [claim]) for context, claim in pairs]
        return [
            (context_chunks(context, self.chunk_words), split_sentences(claim))
            for context, claim in pairs
        ]

    def _tokenize(self, texts: Iterable[str]) -> dict[str, list[int]]:
        distinct = list(dict.fromkeys(texts))
        return dict(zip(distinct, self._pairs.encode(distinct), strict=True))

    def _score_pairs(self, pairs: list[tuple[str, str]], mode: EvalMode) -> PairScores:
        tokens = self._tokenize(text for pair in pairs for text in pair)

        def consume(logits: AlignLogits, _: Batch) -> list[float]:
            return head_scores(logits, mode)

        found: PairScores = {}
        for at in range(0, len(pairs), _PAIRS_IN_MEMORY):
            part = pairs[at : at + _PAIRS_IN_MEMORY]
            joined = [self._pairs.join(tokens[chunk], tokens[sentence]) for chunk, sentence in part]
            scores = self._runtime.run([sequence for sequence, _ in joined], consume)
            cuts = [cut for _, cut in joined]
            found.update(zip(part, zip(scores, cuts, strict=True), strict=True))
        return found


def _summarise(
    chunks: list[str], sentences: list[str], scores: PairScores, field: str
) -> AlignScoreResult:
    truncated = False
    best = []
    for sentence in sentences:
        column = [scores[chunk, sentence] for chunk in chunks]
        values = [value for value, _ in column]
        if not all(map(math.isfinite, values)):
            raise MetricFailed(
                "the AlignScore model gave no finite number for this text; set METRICS_DTYPE to "
                "float32; if it is float32 already, check the weights",
                field=field,
            )
        truncated = truncated or any(cut for _, cut in column)
        index = max(range(len(chunks)), key=values.__getitem__)
        best.append(ClaimSentence(sentence, values[index], index, chunks[index]))
    score = math.fsum(sentence.score for sentence in best) / len(best)
    return AlignScoreResult(score, tuple(best), truncated)


def load_tokenizer(directory: Path) -> Any:
    """The tokenizer in an encoder's directory.

    Uses `tokenizer.json` unchanged, as transformers 4 did when scores were published; transformers
    5 would rebuild parts of it by class (ALBERT's normaliser).

    Raises:
        CheckpointError: there is none.
    """
    ready = (directory / "tokenizer.json").is_file()
    kind = PreTrainedTokenizerFast if ready else AutoTokenizer
    with refusing(f"{directory} has no usable tokenizer", CheckpointError):
        return kind.from_pretrained(directory, trust_remote_code=False)
