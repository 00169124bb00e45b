"""What published checkers share: loading with transformers' own classes, tokens, probabilities.

Knows no checker. Weights are read as everywhere here: safetensors, or torch's restricted unpickler.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Unpack

from tokenizers import Tokenizer
from torch import Tensor, nn
from transformers import AutoModelForSequenceClassification, PreTrainedModel

from serve_app.core.errors import CheckpointError, ConfigError
from serve_app.metrics.alignscore import ClaimScorer, Sample, Values, load_tokenizer
from serve_app.metrics.encoders import RuntimeOptions, table_positions
from serve_app.metrics.evaluation import AlignScoreResult
from serve_app.models.encoder_runtime import Batch, TokenSequence, plain_backend
from serve_app.models.packed_encoder import PackedEncoder, PackedForward, supports
from serve_app.models.pretrained import load_pretrained, require_known_ids
from serve_app.models.verification import listed, require_finite

ADVICE = "get the model again from where it is published"
_SUPPORTED = 1  # the label's index
_AT_ONCE = 64  # prompts; what the tokenizer notes of each takes more memory than its tokens


class Options(RuntimeOptions, total=False):
    """How a checker runs; see `ClaimScorer`."""

    max_rows: int | None
    max_pairs: int | None


class PublishedChecker(ClaimScorer):
    """A checker whose score of a pair is the softmax probability of its second label.

    Args:
        network: gives logits (rows, labels) for a batch; moved and cast in place.
        encoder: the transformers model in it.
        tokenizer: its fast tokenizer.
        name: name of the model in results.
        limit: most tokens of an input, special tokens included.
        options: as for `ClaimScorer`.

    Raises:
        ConfigError: the tokenizer is a slow one.
        CheckpointError: it belongs to another encoder.
    """

    def __init__(
        self,
        network: nn.Module,
        encoder: PreTrainedModel,
        tokenizer: Any,
        *,
        name: str,
        limit: int,
        **options: Unpack[Options],
    ) -> None:
        require_known_ids(tokenizer, encoder, name)
        positions = table_positions(encoder)
        self.limit = limit if positions is None else min(limit, positions)
        self._plain = plain_backend(tokenizer)
        self._cutting: Tokenizer = plain_backend(tokenizer)
        self._cutting.enable_truncation(self.limit, direction=tokenizer.truncation_side)
        self._with_types = getattr(encoder.config, "type_vocab_size", 1) > 1
        pad = tokenizer.pad_token_id
        pad = encoder.config.pad_token_id if pad is None else pad
        super().__init__(network, pad_token_id=pad, name=name, **options)

    def prompt(self, chunk: str, sentence: str) -> str | tuple[str, str]:
        """What is tokenised for a pair: one text, or two for the tokenizer to join."""
        return chunk, sentence

    def count(self, texts: Sequence[str], *, special: bool = False) -> list[int]:
        """Tokens of each text, uncut."""
        found = self._plain.encode_batch_fast(list(texts), add_special_tokens=special)
        return [len(one.ids) for one in found]

    def inputs(self, pairs: Sequence[tuple[str, str]]) -> list[tuple[TokenSequence, bool]]:
        """The prompts, each as the tokenizer itself would encode it alone, cut to `limit`."""
        found = []
        for at in range(0, len(pairs), _AT_ONCE):
            asked = [self.prompt(*pair) for pair in pairs[at : at + _AT_ONCE]]
            for one in self._cutting.encode_batch_fast(asked):
                types = one.type_ids if self._with_types else None
                found.append((TokenSequence(one.ids, types), bool(one.overflowing)))
        return found

    def read(self, output: Tensor, batch: Batch) -> Sequence[Values]:
        """The probability of "supported"."""
        found: list[float] = output.float().softmax(dim=-1)[:, _SUPPORTED].tolist()
        return [(value,) for value in found]


class WholeClaims(PublishedChecker):
    """A checker of sentences whose publisher's evaluation does not split claims itself.

    Too long an input loses its end, where the claim is, so contexts are always cut into chunks.
    """

    def split_piece(self, context: str, claim: str) -> Sample:
        """The context's chunks, and the claim in one piece."""
        return Sample(self.chunks(context), [claim])

    def score_published(
        self, contexts: Sequence[str], claims: Sequence[str]
    ) -> list[AlignScoreResult]:
        """As `score`, each claim in one piece."""
        return self._results(contexts, claims, self.split_piece, self.read)


class Classifier(nn.Module):
    """A sequence classifier that gives its logits alone, packed where its encoder can be."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, **inputs: Tensor) -> Tensor:
        """Logits (rows, labels) of a padded batch of token ids."""
        logits: Tensor = self.model(**inputs).logits
        return logits

    def packed(self) -> PackedForward | None:
        """The network on packed tokens, or None where the encoder has no packed form."""
        whole: Any = self.model
        if not supports(whole.base_model):
            return None
        encoder = PackedEncoder(whole.base_model, first_only=True)
        # BERT's classifier reads the pooled first token, RoBERTa's pools by itself.
        pooler: nn.Module = getattr(whole.base_model, "pooler", None) or nn.Identity()
        classifier: nn.Module = whole.classifier

        def forward(ids: Tensor, types: Tensor | None, lengths: Sequence[int]) -> Tensor:
            logits: Tensor = classifier(pooler(encoder(ids, types, lengths)[:, None]))
            return logits

        return forward


def load_whole(
    directory: Path, family: Any = AutoModelForSequenceClassification
) -> tuple[PreTrainedModel, Any]:
    """A whole model of a directory, and its tokenizer.

    Raises:
        CheckpointError: it cannot be loaded, a weight is missing or is not finite.
        ConfigError: SentencePiece is needed for its tokenizer, and not installed.
    """
    ready = (directory / "tokenizer.json").is_file() or not any(directory.glob("*.model"))
    if not ready and find_spec("sentencepiece") is None:
        raise ConfigError(
            f"{directory} has no tokenizer.json, and its SentencePiece model cannot be read: "
            "pip install 'plainmed[checkers]'"
        )
    what = f"FACTUALITY_MODEL: cannot load {directory}"
    model, missing = load_pretrained(directory, what, family)
    if missing:
        raise CheckpointError(f"{directory}: no weights for {listed(missing)}; {ADVICE}")
    require_finite(model.state_dict(), directory, ADVICE, CheckpointError)
    return model, load_tokenizer(directory)


def require_labels(model: PreTrainedModel, count: int, directory: Path) -> None:
    """Raises `CheckpointError` unless the classifier has `count` labels."""
    found = model.config.num_labels
    if found != count:
        raise CheckpointError(
            f"{directory}: a classifier of {found} labels, where FACTUALITY_CHECKER has {count}; "
            "set FACTUALITY_MODEL to a model of that checker"
        )


def runs(
    parts: Sequence[str], sizes: Sequence[int], most: int, join: Callable[[list[str]], str]
) -> Iterator[str]:
    """Joins neighbouring parts into texts of at most `most` in size.

    A part that is larger alone makes a text of its own.

    >>> list(runs(["a", "b", "cc", "ddddd", "e"], [1, 1, 2, 5, 1], 3, "".join))
    ['ab', 'cc', 'ddddd', 'e']
    """
    held: list[str] = []
    total = 0
    for part, size in zip(parts, sizes, strict=True):
        if held and total + size > most:
            yield join(held)
            held, total = [], 0
        held.append(part)
        total += size
    if held:
        yield join(held)
