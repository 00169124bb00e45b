"""Relevance: BERTScore of a candidate (the generated text) against a reference (the original).

Zhang et al., "BERTScore: Evaluating Text Generation with BERT", ICLR 2020, as `bert-score`
0.3.13 computes it without idf and without baseline rescaling. Each token of one text is
matched with the most similar token of the other by cosine of their hidden states at one
layer; precision averages over the candidate's tokens, recall over the reference's. The
tokens the tokenizer adds around a text can be matched but are not averaged over.

This module knows encoders, tokenizers and the formula. Batching is the encoder runtime's,
layer numbers are `bertscore_layers`'s. docs/relevance.md says what each choice changes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from serve_app.core.errors import ConfigError, InvalidInput, MetricFailed
from serve_app.metrics.bertscore_layers import known_layer, reference_name
from serve_app.metrics.bertscore_model import (
    config_names,
    count_layers,
    encoder_limit,
    load_encoder,
    load_tokenizer,
    truncate_layers,
)
from serve_app.metrics.embedding_cache import EmbeddedText, EmbeddingCache
from serve_app.metrics.results import BertScoreResult
from serve_app.models.encoder_runtime import Batch, EncoderRuntime, TokenSequence
from serve_app.models.tokenizer_checks import require_known_ids
from serve_app.storage.artifacts import Downloads, resolve
from serve_app.text.validation import require_pairs

LongText = Literal["truncate", "window"]

# Entries of one similarity block: 64 MiB of float32, whatever the texts' lengths.
_BLOCK = 16_777_216


@dataclass(frozen=True, slots=True)
class TokenWindow:
    """Encode tokens [start, stop) of a text; keep the embeddings of [take_start, take_stop)."""

    start: int
    stop: int
    take_start: int
    take_stop: int


def plan_windows(length: int, size: int, context: int) -> list[TokenWindow]:
    """Windows that embed each of `length` tokens once, at most `size` tokens a window.

    As few equally spread windows as leave every token `context` tokens on each side in its
    window, or all there are where the text begins or ends nearer. Two neighbours share their
    overlap half and half. Every window is full, so a text one token over `size` is read almost
    as if it fitted.

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
    """One text as token rows. `weighted` is True for tokens that count in the average."""

    rows: list[TokenSequence]
    windows: list[TokenWindow]
    weighted: np.ndarray
    truncated: bool


class BertScorer:
    """Scores pairs of texts with one encoder.

    Args:
        encoder: a bidirectional transformer; taken over: cut to `layer` layers, moved and cast.
        tokenizer: its tokenizer.
        name: label of the model, carried by results.
        layer: hidden layer read, from 0 (the embeddings) to the encoder's number of layers.
        long_text: `truncate` reads as much of a text as fits, as `bert-score`; `window` reads
            all of it in overlapping windows.
        device, dtype, token_budget: as for `EncoderRuntime`.
        cache_bytes: most bytes of reference embeddings kept between calls; 0 keeps none.

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
        device: str = "auto",
        dtype: str = "float32",
        token_budget: int = 8192,
        cache_bytes: int = 0,
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
        limit = encoder_limit(encoder, tokenizer)
        require_known_ids(tokenizer, encoder, name)
        self._runtime = EncoderRuntime(
            truncate_layers(encoder, layer, name),
            pad_token_id=tokenizer.pad_token_id,
            device=device,
            dtype=dtype,
            token_budget=token_budget,
        )
        self.device = str(self._runtime.device)
        # Encoding a probe also turns off truncation stored in tokenizer.json, once, so that later
        # calls do not change the tokenizer and may run in several threads.
        probe = self._tokenize(["a"], special_tokens_mask=True)
        mask = probe["special_tokens_mask"][0]
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
        device: str = "auto",
        dtype: str = "float32",
        token_budget: int = 8192,
        cache_bytes: int = 0,
        downloads: Downloads | None = None,
    ) -> BertScorer:
        """Loads an encoder directory, fetched if `model` is an `s3://` or `hf://` reference.

        Args:
            model: the reference; see `serve_app.storage.artifacts`.
            layer: hidden layer; None looks the model up in `bertscore_layers`.
            downloads: for a reference that has to be fetched; see `resolve`.

        Raises:
            ConfigError: the reference or a setting is wrong, or the layer is not known.
            CheckpointError: the directory holds no encoder with all its weights and tokenizer.
        """
        directory = resolve(model, downloads)
        name = reference_name(model) or directory.resolve().name
        encoder = load_encoder(directory)
        if layer is None:
            layer = known_layer(model, config_names(directory))
        if layer is None:
            raise ConfigError(
                f"BERTSCORE_MODEL: no layer is known for {name}; set BERTSCORE_LAYER to a number "
                f"from 0 to {count_layers(encoder, name)} (the last layers are seldom the best)"
            )
        return cls(
            encoder,
            load_tokenizer(directory),
            name=name,
            layer=layer,
            long_text=long_text,
            device=device,
            dtype=dtype,
            token_budget=token_budget,
            cache_bytes=cache_bytes,
        )

    @property
    def tokens(self) -> int:
        """Tokens encoded so far."""
        return self._runtime.tokens

    def score(self, references: Sequence[str], candidates: Sequence[str]) -> list[BertScoreResult]:
        """BERTScore of each candidate against the reference at its position.

        Texts are stripped; one that occurs several times is encoded once. Memory grows with the
        call: hidden size x 4 bytes a distinct token, held until it returns.

        Args:
            references: original texts.
            candidates: generated texts, as many.

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
                # bert-score's padding has similarity 0 to everything, so below 0 no best stays.
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
        """Whether the end of each text would not be read. Tokenises only."""
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
        """The rows of one text; `ids` is all of it, with the special tokens around it."""
        end = len(ids) - self._after
        before, content, after = ids[: self._before], ids[self._before : end], ids[end:]
        size = self._content_limit
        truncated = self.long_text == "truncate" and len(content) > size
        if truncated:
            left = self._tokenizer.truncation_side == "left"
            content = content[-size:] if left else content[:size]
        # 63 tokens of 510 on each side: docs/relevance.md has what more or less would change.
        windows = plan_windows(len(content), size, size // 8) if content else []
        rows = [
            TokenSequence([*before, *content[window.start : window.stop], *after])
            for window in windows
        ]
        # By id, as bert-score has it: a text that spells out "[SEP]" gets no weight for it.
        unweighted = [self._tokenizer.cls_token_id, self._tokenizer.sep_token_id]
        whole = np.array([*before, *content, *after])
        return _Encoded(
            rows, windows, ~np.isin(whole, [i for i in unweighted if i is not None]), truncated
        )

    def _embed_all(self, pairs: list[tuple[str, str]]) -> dict[str, EmbeddedText]:
        """Every text of `pairs`; references come from the cache where it has them, and go there."""
        known = {
            reference: found
            for reference in dict.fromkeys(reference for reference, _ in pairs)
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
        for reference in dict.fromkeys(reference for reference, _ in pairs):
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
        """One text from its windows: the first's leading special tokens, the last's trailing."""
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
    packed = batch.token_states(output).float()
    # Plain division: a zero or overflown state becomes NaN and is reported, not hidden.
    return torch.split(
        packed / torch.linalg.vector_norm(packed, dim=-1, keepdim=True), batch.lengths
    )


@torch.inference_mode()
def _best_cosines(candidate: Tensor, reference: Tensor) -> tuple[Tensor, Tensor]:
    """Best cosine of each candidate token, and of each reference token: (c, d), (r, d) -> c, r."""
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
