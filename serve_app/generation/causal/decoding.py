"""Continues prompts token by token; rows come and go between passes. Knows no text, no threads.

What a row writes does not depend on the rows it shares passes with (in float32; a lower
precision rounds differently in batches of different shape).
"""

from __future__ import annotations

import inspect
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import Cache, DynamicCache

from serve_app.generation.causal.kv_cache import RowCache, holds_rows, without
from serve_app.generation.causal.sampling import Sampler
from serve_app.generation.protocol import GenerationParams

FAILED = "failed"
"""Finish reason of a row whose logits are not finite."""


@dataclass(frozen=True, slots=True, eq=False)
class Row:
    """One prompt to continue.

    Attributes:
        prompt: token ids, not empty.
        params: sampling of this row; `seed` seeds its own random generator.
        max_new_tokens: the row ends after so many, >= 1.
    """

    prompt: tuple[int, ...]
    params: GenerationParams
    max_new_tokens: int


@dataclass(frozen=True, slots=True)
class Step:
    """What happened to one row: a token it wrote (None for none), and why it ended (or not)."""

    row: Row
    token: int | None
    finish_reason: str | None


class Model:
    """A causal language model in eval mode, and how it wants to be called."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self._accepted = inspect.signature(model.forward).parameters
        self.device: torch.device = next(model.parameters()).device
        self.batches = holds_rows(model)
        """Whether it can take several rows in a pass, and a prompt in parts."""

    def new_cache(self) -> Cache:
        """An empty cache of the kind the model needs."""
        if self.batches:
            return RowCache(self._model)
        return DynamicCache(config=self._model.config)

    def logits(self, ids: Tensor, mask: Tensor, positions: Tensor, cache: Cache) -> Tensor:
        """Logits after the last of the new tokens, (rows, vocabulary).

        Args:
            ids: new tokens, (rows, new).
            mask: (rows, columns of the cache + new); 0 for padding.
            positions: of the new tokens, (rows, new).
            cache: of the tokens before; the new ones are added to it.
        """
        optional = {"position_ids": positions, "logits_to_keep": 1}
        output = self._model(
            input_ids=ids,
            attention_mask=mask,
            past_key_values=cache,
            use_cache=True,
            **{name: value for name, value in optional.items() if name in self._accepted},
        )
        last: Tensor = output.logits[:, -1, :]
        return last


class Prefill:
    """Prompts being read: equal ones once, long ones in parts.

    Args:
        model: reads them.
        rows: padded on the left to the longest; just one unless `model.batches`.
        pad_id: any valid token id; masked out.
    """

    def __init__(self, model: Model, rows: Sequence[Row], pad_id: int) -> None:
        self.rows = list(rows)
        self.cache = model.new_cache()
        self.logits: Tensor | None = None
        """Of each row, once all is read."""
        self._model = model
        prompts = list(dict.fromkeys(row.prompt for row in rows))
        self._sources = [prompts.index(row.prompt) for row in rows]
        self._ids, self._mask = _left_pad(prompts, pad_id, model.device)
        self._positions = (self._mask.cumsum(dim=1) - 1).clamp(min=0)
        self._read = 0

    def advance(self, tokens: int) -> bool:
        """Reads about `tokens` further tokens, at least one a prompt; True when all is read."""
        count, longest = self._ids.shape
        stop = longest
        if self._model.batches:
            stop = min(longest, self._read + max(1, tokens // count))
        new = slice(self._read, stop)
        logits = self._model.logits(
            self._ids[:, new], self._mask[:, :stop], self._positions[:, new], self.cache
        )
        self._read = stop
        if stop < longest:
            return False
        if len(self.rows) > 1:
            assert isinstance(self.cache, RowCache)  # noqa: S101 - several rows need one
            self.cache.select(self._sources)
        self.logits = logits[self._sources]
        return True


class Batch:
    """The rows under way, one new token each in a pass.

    Args:
        model: writes them.
        stop_ids: tokens that end a row; not given out.
    """

    def __init__(self, model: Model, stop_ids: Collection[int]) -> None:
        self.rows: list[Row] = []
        self._model = model
        self._stop_ids = frozenset(stop_ids)
        self._cache: Cache | None = None
        self._sampler: Sampler | None = None
        self._tokens: list[int] = []
        self._lengths: list[int] = []
        self._written: list[int] = []

    def join(self, prefill: Prefill) -> list[Step]:
        """Adds rows whose prompts are read, with the first token of each.

        A model without `batches` must have no row under way.
        """
        assert prefill.logits is not None  # noqa: S101 - the caller waits until all is read
        rows = prefill.rows
        sampler = Sampler(
            [row.prompt for row in rows],
            [row.params for row in rows],
            prefill.logits.shape[1],
            self._model.device,
        )
        tokens = sampler.next_tokens(prefill.logits)
        first = len(self.rows)
        if self._cache is None or self._sampler is None:
            self._cache, self._sampler = prefill.cache, sampler
        else:
            assert isinstance(self._cache, RowCache)  # noqa: S101
            assert isinstance(prefill.cache, RowCache)  # noqa: S101
            self._cache.join(prefill.cache)
            self._sampler.join(sampler)
        self.rows += rows
        self._lengths += [len(row.prompt) for row in rows]
        self._written += [0] * len(rows)
        self._tokens += [0] * len(rows)
        return self._take(tokens, first)

    def step(self) -> list[Step]:
        """One pass over all rows, which must be some: the next token of each."""
        assert self._cache is not None  # noqa: S101 - there are rows
        assert self._sampler is not None  # noqa: S101
        device, span = self._model.device, max(self._lengths)
        if isinstance(self._cache, RowCache):
            self._cache.trim(span)
        lengths = torch.tensor(self._lengths, device=device).unsqueeze(1)
        # The new token is in column `span`, and a row's tokens stand right before it.
        mask = (torch.arange(span + 1, device=device) >= span - lengths).long()
        ids = torch.tensor(self._tokens, device=device).unsqueeze(1)
        logits = self._model.logits(ids, mask, lengths, self._cache)
        self._lengths = [length + 1 for length in self._lengths]
        return self._take(self._sampler.next_tokens(logits), 0)

    def drop(self, rows: Collection[Row]) -> None:
        """Forgets these rows."""
        self._remove([index for index, row in enumerate(self.rows) if row in rows])

    def _take(self, tokens: Sequence[int | None], first: int) -> list[Step]:
        """Notes the tokens of the rows from `first` on; rows that end leave."""
        steps: list[Step] = []
        ended: list[int] = []
        for index, token in enumerate(tokens, start=first):
            row = self.rows[index]
            self._written[index] += 1
            if token is None:
                steps.append(Step(row, None, FAILED))
            elif token in self._stop_ids:
                steps.append(Step(row, None, "stop"))
            elif self._written[index] >= row.max_new_tokens:
                steps.append(Step(row, token, "length"))
            else:
                self._tokens[index] = token
                steps.append(Step(row, token, None))
                continue
            ended.append(index)
        self._remove(ended)
        return steps

    def _remove(self, gone: Sequence[int]) -> None:
        if not gone:
            return
        keep = without(len(self.rows), gone)
        self.rows = [self.rows[index] for index in keep]
        self._tokens = [self._tokens[index] for index in keep]
        self._lengths = [self._lengths[index] for index in keep]
        self._written = [self._written[index] for index in keep]
        if not keep:
            self._cache = self._sampler = None
            return
        if isinstance(self._cache, RowCache):
            self._cache.fill(keep)
        if self._sampler is not None:
            self._sampler.keep(keep)


def _left_pad(
    prompts: Sequence[Sequence[int]], pad_id: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Token ids and mask, both (rows, longest): generation goes on at the right edge."""
    longest = max(len(prompt) for prompt in prompts)
    ids = torch.full((len(prompts), longest), pad_id, dtype=torch.long)
    mask = torch.zeros((len(prompts), longest), dtype=torch.long)
    for row, prompt in enumerate(prompts):
        ids[row, longest - len(prompt) :] = torch.tensor(prompt, dtype=torch.long)
        mask[row, longest - len(prompt) :] = 1
    return ids.to(device), mask.to(device)
