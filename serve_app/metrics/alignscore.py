"""Factuality: how any checker scores a claim against a context, and AlignScore.

A checker cuts the context into chunks and the claim into sentences, and its model reads each
distinct (chunk, sentence) once; a sentence scores its best over the chunks, a claim the mean over
its sentences, unless the checker combines them otherwise: `ClaimScorer`. The other checkers are in
`serve_app.metrics.checkers`.

AlignScore: Zha et al., "AlignScore: Evaluating Factual Consistency with a Unified Alignment
Function", ACL 2023, as the published inference code (0.1.3) computes it. The `_sp` modes cut the
context at sentence ends into chunks of about 350 words. The plain modes score the whole claim
against the whole context in one pass. This module knows texts, chunks and heads; `align_model` has
the network.

The published code can score a pair differently by what else is in its batch of 32 (a sentence that
fills the encoder alone changes how every pair of the batch is cut); we give the score of the pair
alone. Where it fails with torch's "expected a non-empty list of Tensors" (a `_sp` claim without a
sentence) or scores an empty string, we refuse the text by name.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice, product
from pathlib import Path
from typing import Any, NamedTuple, Unpack, get_args

from torch import Tensor, nn
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from serve_app.core.errors import (
    CheckpointError,
    ConfigError,
    InvalidInput,
    MetricFailed,
    moved,
)
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
from serve_app.models.encoder_runtime import Batch, EncoderRuntime, PairEncoder, TokenSequence
from serve_app.models.pretrained import require_known_ids
from serve_app.models.verification import refusing
from serve_app.storage.artifacts import Downloads, resolve
from serve_app.text.sentences import split_sentences
from serve_app.text.validation import require_pairs

__all__ = ["AlignScoreResult", "AlignScorer", "ClaimSentence", "EvalMode", "context_chunks"]

EVAL_MODES: tuple[str, ...] = get_args(EvalMode)

Pair = tuple[str, str]
"""(chunk, sentence)."""
Values = tuple[float, ...]
"""What a model says of one pair; first, how well the chunk supports the sentence."""
Read = Callable[[Any, Batch], Iterable[Values]]
"""Reads the model's output: one `Values` for each row of the batch."""

_PAIRS_IN_MEMORY = 4096  # pairs whose tokens are held together; more gain no speed


class Sample(NamedTuple):
    """The pieces of one (context, claim). `cut`: part of the texts is in none that counts."""

    chunks: Sequence[str]
    sentences: Sequence[str]
    cut: bool = False

    def pairs(self) -> Iterator[Pair]:
        """Every chunk with every sentence."""
        return product(self.chunks, self.sentences)


class ClaimScorer(ABC):
    """A factuality checker.

    Args:
        model: the network; moved to the device and cast in place.
        pad_token_id: fills the end of shorter rows.
        name: name of the model in results.
        max_rows: most (chunk, sentence) pairs in a forward pass, or None.
        max_pairs: most such pairs of one context and claim, or None.
        options: `device`, `dtype`, `token_budget` as for `EncoderRuntime`.

    Attributes:
        eval_mode: which head and splitting of several, or None where there is no choice.
        chunk_words: words of a context chunk, where that can be chosen.
    """

    eval_mode: str | None = None
    chunk_words: int | None = None

    def __init__(
        self,
        model: nn.Module,
        *,
        pad_token_id: int,
        name: str,
        max_rows: int | None = None,
        max_pairs: int | None = None,
        **options: Unpack[RuntimeOptions],
    ) -> None:
        self.name = name
        self.max_pairs = max_pairs
        self._runtime = EncoderRuntime(
            model, pad_token_id=pad_token_id, max_rows=max_rows, **options
        )
        self.device = str(self._runtime.device)

    @abstractmethod
    def chunks(self, context: str) -> list[str]:
        """The chunks of a context."""

    def sentences(self, claim: str) -> list[str]:
        """The sentences of a claim."""
        return split_sentences(claim)

    def split(self, context: str, claim: str) -> Sample:
        """What is compared with what.

        Raises:
            InvalidInput: this checker cannot read the texts.
        """
        return Sample(self.chunks(context), self.sentences(claim))

    def split_piece(self, context: str, claim: str) -> Sample:
        """As `split`, where the context is about a chunk, and the claim one sentence."""
        return whole(context, claim)

    @abstractmethod
    def inputs(self, pairs: Sequence[Pair]) -> list[tuple[TokenSequence, bool]]:
        """The model's input for each pair, and whether part of the pair was cut off."""

    @abstractmethod
    def read(self, output: Any, batch: Batch) -> Iterable[Values]:
        """See `Read`."""

    def combine(self, columns: Sequence[Sequence[Values]]) -> float:
        """The score of sentences, each a column with the values of every chunk."""
        return math.fsum(max(value[0] for value in one) for one in columns) / len(columns)

    @property
    def tokens(self) -> int:
        """Tokens encoded so far."""
        return self._runtime.tokens

    def score(self, contexts: Sequence[str], claims: Sequence[str]) -> list[AlignScoreResult]:
        """One result for each (context, claim), independent of the others in the call.

        Raises:
            InvalidInput: the lists are empty or differ in length, a text is empty, has no word or
                nothing that this checker reads, or a pair exceeds `max_pairs`.
            MetricFailed: the model gave NaN or infinity.
        """
        return self._results(contexts, claims, self.split, self.read)

    def score_pieces(self, chunks: Sequence[str], sentences: Sequence[str]) -> list[float]:
        """The score of each sentence, which is not split, by the chunk beside it.

        Raises:
            InvalidInput, MetricFailed: as `score`.
        """
        found = self._results(chunks, sentences, self.split_piece, self.read)
        return [result.score for result in found]

    def score_published(
        self, contexts: Sequence[str], claims: Sequence[str]
    ) -> list[AlignScoreResult]:
        """As `score`, but with claims split only where the publisher's own evaluation does."""
        return self.score(contexts, claims)

    def truncates(self, contexts: Sequence[str], claims: Sequence[str]) -> list[bool]:
        """Whether `score` would cut part of each pair. Tokenises only."""
        samples = [self.split(*pair) for pair in zip(contexts, claims, strict=True)]
        return [
            one.cut or any(cut for part in _parts(one.pairs()) for _, cut in self.inputs(part))
            for one in samples
        ]

    def _results(
        self,
        contexts: Sequence[str],
        claims: Sequence[str],
        split: Callable[[str, str], Sample],
        read: Read,
    ) -> list[AlignScoreResult]:
        require_pairs(contexts, claims, "contexts", "claims")
        samples = []
        for index, pair in enumerate(zip(contexts, claims, strict=True)):
            try:
                samples.append(split(*pair))
                self._require_scorable(samples[-1])
            except InvalidInput as error:
                raise moved(error, index) from None
        found = self._score_pairs(
            dict.fromkeys(pair for one in samples for pair in one.pairs()), read
        )
        return [
            self._summarise(sample, found, f"claims[{index}]")
            for index, sample in enumerate(samples)
        ]

    def _require_scorable(self, sample: Sample) -> None:
        chunks, sentences = len(sample.chunks), len(sample.sentences)
        for count, field in ((chunks, "texts_original"), (sentences, "texts_generated")):
            if not count:
                raise InvalidInput(
                    f"the text has no sentence that {self.name} reads",
                    field=f"{field}[0]",
                    code="no_sentences",
                )
        if self.max_pairs is not None and chunks * sentences > self.max_pairs:
            raise InvalidInput(
                f"the original has {chunks} chunks and the summary {sentences} sentences: "
                f"{chunks * sentences} pairs to compare for factuality, and at most "
                f"{self.max_pairs} are (ALIGNSCORE_MAX_PAIRS); send shorter texts",
                field="texts_generated[0]",
                code="too_many_pairs",
            )

    def _score_pairs(self, pairs: Iterable[Pair], read: Read) -> dict[Pair, tuple[Values, bool]]:
        """The values of each distinct pair, and whether it was cut."""
        found: dict[Pair, tuple[Values, bool]] = {}
        for part in _parts(pairs):
            joined = self.inputs(part)
            values = self._runtime.run([sequence for sequence, _ in joined], read)
            cuts = [cut for _, cut in joined]
            found.update(zip(part, zip(values, cuts, strict=True), strict=True))
        return found

    def _summarise(
        self, sample: Sample, found: dict[Pair, tuple[Values, bool]], field: str
    ) -> AlignScoreResult:
        truncated = sample.cut
        columns, best = [], []
        for sentence in sample.sentences:
            pairs = [found[chunk, sentence] for chunk in sample.chunks]
            column = [values for values, _ in pairs]
            if not all(math.isfinite(value) for values in column for value in values):
                raise MetricFailed(
                    f"{self.name} gave no finite number for this text; set METRICS_DTYPE to "
                    "float32; if it is float32 already, check the weights",
                    field=field,
                )
            truncated = truncated or any(cut for _, cut in pairs)
            at = max(range(len(column)), key=lambda index: column[index][0])
            best.append(ClaimSentence(sentence, self.combine([column]), at, sample.chunks[at]))
            columns.append(column)
        return AlignScoreResult(self.combine(columns), tuple(best), truncated)


def _parts(pairs: Iterable[Pair]) -> Iterator[list[Pair]]:
    left = iter(pairs)
    while part := list(islice(left, _PAIRS_IN_MEMORY)):
        yield part


def whole(context: str, claim: str) -> Sample:
    """One piece each."""
    return Sample([context], [claim])


# --- AlignScore -------------------------------------------------------------------------


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


class AlignScorer(ClaimScorer):
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
        self.eval_mode: EvalMode = eval_mode
        self.chunk_words: int = chunk_words
        encoder = model.base_model
        limit = encoder_limit(encoder, tokenizer)
        require_known_ids(tokenizer, encoder, name)
        with_types = getattr(encoder.config, "type_vocab_size", 1) > 1
        self._pairs = PairEncoder(tokenizer, limit, with_types=with_types)
        pad = tokenizer.pad_token_id
        pad = encoder.config.pad_token_id if pad is None else pad
        super().__init__(
            model, pad_token_id=pad, name=name, max_rows=max_rows, max_pairs=max_pairs, **options
        )

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

    def score(
        self,
        contexts: Sequence[str],
        claims: Sequence[str],
        *,
        eval_mode: EvalMode | None = None,
    ) -> list[AlignScoreResult]:
        """One result for each (context, claim), independent of the others in the call.

        Raises:
            InvalidInput, MetricFailed: as `ClaimScorer.score`; or the mode is unknown.
        """
        mode = self.eval_mode if eval_mode is None else eval_mode
        if mode not in EVAL_MODES:
            raise InvalidInput(
                f"{mode!r} is none of {', '.join(EVAL_MODES)}", field="eval_mode", code="bad_mode"
            )
        return self._results(contexts, claims, self._split_in(mode), _reading(mode))

    def chunks(self, context: str) -> list[str]:
        """Runs of whole sentences of about `chunk_words` words."""
        return context_chunks(context, self.chunk_words)

    def split(self, context: str, claim: str) -> Sample:
        """Chunks and sentences in the `_sp` modes, else both texts whole."""
        return self._split_in(self.eval_mode)(context, claim)

    def _split_in(self, mode: EvalMode) -> Callable[[str, str], Sample]:
        return super().split if mode.endswith("_sp") else whole

    def inputs(self, pairs: Sequence[Pair]) -> list[tuple[TokenSequence, bool]]:
        """The pair, tokenised as the published code does; each text once."""
        distinct = list(dict.fromkeys(text for pair in pairs for text in pair))
        tokens = dict(zip(distinct, self._pairs.encode(distinct), strict=True))
        return [self._pairs.join(tokens[chunk], tokens[sentence]) for chunk, sentence in pairs]

    def read(self, output: AlignLogits, batch: Batch) -> Iterable[Values]:
        """The head of `eval_mode`."""
        return _reading(self.eval_mode)(output, batch)


def _reading(mode: EvalMode) -> Read:
    return lambda logits, _: [(score,) for score in head_scores(logits, mode)]


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
