"""Relevance: BERTScore of a candidate (the generated text) against a reference (the original).

Zhang et al., "BERTScore: Evaluating Text Generation with BERT", ICLR 2020, as `bert-score`
0.3.13 computes it without idf and without baseline rescaling. Each token of one text is matched
with the most similar token of the other, by cosine of their hidden states at one layer; precision
averages over the candidate's tokens, recall over the reference's. Special tokens can be matched
but are not averaged over. docs/relevance.md has what each choice changes.

Knows tokenizers and the formula; `encoders` loads models and knows layers, `EncoderRuntime`
batches.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from threading import Lock
from typing import Any, Literal, Unpack

import numpy as np
import torch
from torch import Tensor, nn

from serve_app.core.errors import ConfigError, InvalidInput, MetricFailed
from serve_app.metrics import encoders
from serve_app.metrics.encoders import RuntimeOptions
from serve_app.metrics.evaluation import BertScoreResult
from serve_app.models.encoder_runtime import Batch, EncoderRuntime, TokenSequence
from serve_app.models.pretrained import require_known_ids
from serve_app.storage.artifacts import Downloads, reference_name, resolve
from serve_app.text.validation import require_pairs

LongText = Literal["truncate", "window"]

_BLOCK = 16_777_216  # entries of a similarity block: 64 MiB of float32


@dataclass(frozen=True, slots=True)
class TokenWindow:
    """Encode tokens [start, stop) of a text; keep the embeddings of [take_start, take_stop)."""

    start: int
    stop: int
    take_start: int
    take_stop: int


def plan_windows(length: int, size: int, context: int) -> list[TokenWindow]:
    """Windows of at most `size` tokens that embed each of `length` tokens once.

    The fewest equally spread windows in which every token has `context` tokens on each side (fewer
    at the text's ends). Neighbours split their overlap in half. Every window is full, so a text
    one token over `size` is read almost as if it fitted.

    Raises:
        ValueError: `length` or `size` is below 1, or `size` leaves no token between contexts.

    >>> plan_windows(10, size=8, context=2)
    [TokenWindow(start=0, stop=8, take_start=0, take_stop=5), TokenWindow(start=2, stop=10, \
take_start=5, take_stop=10)]
    """
    if length < 1 or context < 0 or size <= 2 * context:
        raise ValueError(f"no windows of {size} with context {context} over {length} tokens")
    if length <= size:
        return [TokenWindow(0, length, 0, length)]
    gaps = math.ceil((length - size) / (size - 2 * context))
    starts = [index * (length - size) // gaps for index in range(gaps + 1)]
    borders = [(left + size + right) // 2 for left, right in pairwise(starts)]
    return [
        TokenWindow(start, start + size, take_start, take_stop)
        for start, take_start, take_stop in zip(
            starts, [0, *borders], [*borders, length], strict=True
        )
    ]


@dataclass(frozen=True, slots=True)
class _Encoded:
    """One text as token rows; `weighted` is True for tokens that count in the average."""

    rows: list[TokenSequence]
    windows: list[TokenWindow]
    weighted: np.ndarray
    truncated: bool


@dataclass(frozen=True, slots=True)
class EmbeddedText:
    """A text's unit embeddings `states`, (tokens, hidden) in float32; `weighted`, (tokens,), marks
    tokens that count in averages; `truncated` is True if the end of the text was not read."""

    states: Tensor
    weighted: np.ndarray
    truncated: bool


class EmbeddingCache:
    """LRU cache of at most `max_bytes` bytes of embeddings and texts; threads may share it.

    Training and best-of-n score the same original again and again. Its embeddings are most of the
    cost, and they do not depend on the text it is compared with.
    """

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.nbytes = 0
        self.hits = 0
        self.misses = 0
        self._held: OrderedDict[str, EmbeddedText] = OrderedDict()
        self._lock = Lock()

    def __len__(self) -> int:
        return len(self._held)

    def get(self, text: str) -> EmbeddedText | None:
        """The embeddings of `text`, or None."""
        with self._lock:
            found = self._held.get(text)
            if found is None:
                self.misses += 1
                return None
            self.hits += 1
            self._held.move_to_end(text)
            return found

    def clear(self) -> None:
        """Drops all texts; the counts stay."""
        with self._lock:
            self._held.clear()
            self.nbytes = 0

    def put(self, text: str, embedded: EmbeddedText) -> None:
        """Keeps the embeddings of `text`, unless they alone exceed the bound."""
        if _size(text, embedded) > self.max_bytes:
            return
        # A view would hold the whole batch it was computed in.
        own = replace(embedded, states=embedded.states.clone())
        with self._lock:
            if text in self._held:
                self.nbytes -= _size(text, self._held.pop(text))
            self._held[text] = own
            self.nbytes += _size(text, own)
            while self.nbytes > self.max_bytes:
                self.nbytes -= _size(*self._held.popitem(last=False))


def _size(text: str, embedded: EmbeddedText) -> int:
    # A character takes 4 bytes at most.
    return embedded.states.nbytes + embedded.weighted.nbytes + 4 * len(text)


class BertScorer:
    """Scores pairs of texts with one encoder.

    Args:
        encoder: a bidirectional transformer; cut to `layer` layers, moved and cast in place.
        tokenizer: its tokenizer.
        name: name of the model in results.
        layer: hidden layer to read, from 0 (the embeddings) to the encoder's number of layers.
        long_text: `truncate` reads what fits of a text, as `bert-score`; `window` reads all of it
            in overlapping windows.
        cache_bytes: most bytes of reference embeddings kept between calls; 0 keeps none.
        options: `device`, `dtype`, `token_budget` as for `EncoderRuntime`.

    Raises:
        ConfigError: the layer does not exist, the encoder or a setting cannot be used, or the
            tokenizer belongs to another encoder.
    """

    def __init__(
        self,
        encoder: nn.Module,
        tokenizer: Any,
        *,
        name: str,
        layer: int,
        long_text: LongText = "truncate",
        cache_bytes: int = 0,
        **options: Unpack[RuntimeOptions],
    ) -> None:
        if long_text not in ("truncate", "window"):
            raise ConfigError(f"BERTSCORE_LONG_TEXT: {long_text!r} is not truncate or window")
        if tokenizer.pad_token_id is None:
            raise ConfigError(f"BERTSCORE_MODEL: the tokenizer of {name} has no padding token")
        self.name = name
        self.layer = layer
        self.long_text = long_text
        self.cache = EmbeddingCache(cache_bytes)
        self._tokenizer = tokenizer
        limit = encoders.encoder_limit(encoder, tokenizer)
        require_known_ids(tokenizer, encoder, name)
        cut = encoders.truncate_layers(encoder, layer, name)
        self._runtime = EncoderRuntime(cut, pad_token_id=tokenizer.pad_token_id, **options)
        self.device = str(self._runtime.device)
        # This first call also turns off truncation stored in tokenizer.json, so that later calls do
        # not change the tokenizer and may run in several threads.
        mask = self._tokenize(["a"], special_tokens_mask=True)["special_tokens_mask"][0]
        self._before = mask.index(0)
        self._after = mask[::-1].index(0)
        self._content_limit = limit - self._before - self._after
        if self._content_limit < 1:
            raise ConfigError(f"BERTSCORE_MODEL: {name} has no room for text in {limit} tokens")

    @classmethod
    def from_reference(
        cls,
        model: str,
        *,
        layer: int | None = None,
        long_text: LongText = "truncate",
        cache_bytes: int = 0,
        downloads: Downloads | None = None,
        **options: Unpack[RuntimeOptions],
    ) -> BertScorer:
        """Loads an encoder from a weights reference (see `serve_app.storage.artifacts`).

        Args:
            model: the reference.
            layer: hidden layer; None looks the model up (`encoders.known_layer`).
            long_text, cache_bytes, options: as in the constructor.
            downloads: how to fetch a remote reference.

        Raises:
            ConfigError: the reference or a setting is wrong, or the layer is unknown.
            CheckpointError: the directory has no encoder with all its weights and tokenizer.
        """
        directory = resolve(model, downloads)
        name = reference_name(model)
        encoder = encoders.load_encoder(directory)
        if layer is None:
            layer = encoders.known_layer(model, encoders.config_names(directory))
        if layer is None:
            raise ConfigError(
                f"BERTSCORE_MODEL: no layer is known for {name}; set BERTSCORE_LAYER to a number "
                f"from 0 to {encoders.count_layers(encoder, name)} (the last layers are seldom the "
                "best)"
            )
        return cls(
            encoder,
            encoders.load_tokenizer(directory),
            name=name,
            layer=layer,
            long_text=long_text,
            cache_bytes=cache_bytes,
            **options,
        )

    @property
    def tokens(self) -> int:
        """Tokens encoded so far."""
        return self._runtime.tokens

    def score(self, references: Sequence[str], candidates: Sequence[str]) -> list[BertScoreResult]:
        """BERTScore of each candidate against the reference at its position.

        Texts are stripped, and each distinct one is encoded once. The call holds hidden size x 4
        bytes for each token until it returns.

        Raises:
            InvalidInput: the lists differ in length or are empty, or a text has nothing to score.
            MetricFailed: a score is not a finite number.
        """
        require_pairs(references, candidates, "texts_original", "texts_generated")
        pairs = [
            (reference.strip(), candidate.strip())
            for reference, candidate in zip(references, candidates, strict=True)
        ]
        embedded = self._embed_all(pairs)
        maxima = [
            _best_cosines(embedded[candidate].states, embedded[reference].states)
            for reference, candidate in pairs
        ]
        # One transfer for all pairs; on a GPU each would be a synchronisation.
        flat = torch.cat([part for pair in maxima for part in pair]).cpu().numpy()
        results, at = [], 0
        for index, (reference, candidate) in enumerate(pairs):
            means = []
            for text in (candidate, reference):
                weighted = embedded[text].weighted
                # bert-score's padding has similarity 0 to everything, so no best is below 0.
                best = flat[at : at + len(weighted)].clip(min=0)
                means.append(float(best[weighted].mean(dtype=np.float64)))
                at += len(weighted)
            precision, recall = means
            results.append(
                BertScoreResult(
                    precision,
                    recall,
                    _f1(precision, recall, index),
                    truncated_reference=embedded[reference].truncated,
                    truncated_candidate=embedded[candidate].truncated,
                )
            )
        return results

    def truncates(self, texts: Sequence[str]) -> list[bool]:
        """Whether `score` would cut the end of each text. Tokenises only."""
        return [item.truncated for item in self._encode([text.strip() for text in texts])]

    def _tokenize(self, texts: list[str], special_tokens_mask: bool = False) -> Any:
        return self._tokenizer(
            texts,
            add_special_tokens=True,
            padding=False,
            truncation=False,
            return_attention_mask=False,
            return_token_type_ids=False,
            return_special_tokens_mask=special_tokens_mask,
            verbose=False,
        )

    def _encode(self, texts: list[str]) -> list[_Encoded]:
        return [self._rows(ids) for ids in self._tokenize(texts)["input_ids"]]

    def _rows(self, ids: list[int]) -> _Encoded:
        """The rows of one text; `ids` are all its tokens, with the special ones around them."""
        end = len(ids) - self._after
        before, content, after = ids[: self._before], ids[self._before : end], ids[end:]
        size = self._content_limit
        truncated = self.long_text == "truncate" and len(content) > size
        if truncated:
            left = self._tokenizer.truncation_side == "left"
            content = content[-size:] if left else content[:size]
        # 63 tokens of 510 on each side; docs/relevance.md has what more or less would change.
        windows = plan_windows(len(content), size, size // 8) if content else []
        rows = [
            TokenSequence([*before, *content[window.start : window.stop], *after])
            for window in windows
        ]
        # By id, as in bert-score: a text that spells out "[SEP]" gets no weight for it.
        unweighted = [self._tokenizer.cls_token_id, self._tokenizer.sep_token_id]
        whole = np.array([*before, *content, *after])
        return _Encoded(
            rows, windows, ~np.isin(whole, [i for i in unweighted if i is not None]), truncated
        )

    def _embed_all(self, pairs: list[tuple[str, str]]) -> dict[str, EmbeddedText]:
        """Embeddings of every text in `pairs`; references are taken from and put into the cache."""
        references = dict.fromkeys(reference for reference, _ in pairs)
        known = {
            reference: found
            for reference in references
            if (found := self.cache.get(reference)) is not None
        }
        texts = [t for t in dict.fromkeys(t for pair in pairs for t in pair) if t not in known]
        encoded = dict(zip(texts, self._encode(texts), strict=True)) if texts else {}
        for index, pair in enumerate(pairs):
            for text, field in zip(pair, ("texts_original", "texts_generated"), strict=True):
                if text in encoded and not encoded[text].weighted.any():
                    raise InvalidInput(
                        f"the text has no token that {self.name} can score",
                        field=f"{field}[{index}]",
                        code="no_words",
                    )
        fresh = self._embed(encoded)
        for reference in references:
            if reference in fresh:
                self.cache.put(reference, fresh[reference])
        return known | fresh

    def _embed(self, encoded: dict[str, _Encoded]) -> dict[str, EmbeddedText]:
        """Unit embeddings of each text, from one run of the encoder."""
        rows = self._runtime.run([row for text in encoded.values() for row in text.rows], _unit)
        embedded, at = {}, 0
        for key, text in encoded.items():
            parts = rows[at : at + len(text.rows)]
            at += len(text.rows)
            states = parts[0] if len(parts) == 1 else self._join(parts, text.windows)
            embedded[key] = EmbeddedText(states, text.weighted, text.truncated)
        return embedded

    def _join(self, parts: list[Tensor], windows: list[TokenWindow]) -> Tensor:
        """Joins a text's windows; keeps the special tokens of the first and last one's ends."""
        taken = [
            part[self._before + window.take_start - window.start :][
                : window.take_stop - window.take_start
            ]
            for part, window in zip(parts, windows, strict=True)
        ]
        tail = parts[-1][len(parts[-1]) - self._after :]
        return torch.cat([parts[0][: self._before], *taken, tail])


def _unit(output: Any, batch: Batch) -> Sequence[Tensor]:
    """Each row's hidden states without padding, scaled to length 1, in float32."""
    states = batch.token_states(output).float()
    # Plain division: a zero or overflown state becomes NaN and is reported, not hidden.
    units = states / torch.linalg.vector_norm(states, dim=-1, keepdim=True)
    return torch.split(units, batch.lengths)


@torch.inference_mode()
def _best_cosines(candidate: Tensor, reference: Tensor) -> tuple[Tensor, Tensor]:
    """Best cosine of each candidate and of each reference token: (c, d), (r, d) -> (c,), (r,)."""
    rows = max(1, _BLOCK // len(reference))
    by_candidate, by_reference = [], None
    for block in torch.split(candidate, rows):
        similarity = block @ reference.T
        by_candidate.append(similarity.amax(dim=1))
        best = similarity.amax(dim=0)
        by_reference = best if by_reference is None else torch.maximum(by_reference, best)
    assert by_reference is not None  # noqa: S101 - a text has at least one token
    return torch.cat(by_candidate), by_reference


def _f1(precision: float, recall: float, index: int) -> float:
    total = precision + recall
    f1 = 2 * precision * recall / total if total else math.nan
    if not math.isfinite(f1):
        raise MetricFailed(
            f"relevance of pair {index} is not a finite number (precision {precision}, recall "
            f"{recall}); with METRICS_DTYPE float16 try bfloat16 or float32, else check the "
            "weights of BERTSCORE_MODEL",
            field=f"texts_generated[{index}]",
        )
    return f1
