"""Continues prompts token by token; rows come and go between passes. Knows no text, no threads.

What a row writes does not depend on the rows it shares passes with (in float32; a lower precision
rounds differently in batches of different shape). Each row therefore has its own temperature,
nucleus, penalty and random generator.
"""

from __future__ import annotations

import inspect
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import Cache, DynamicCache

from serve_app.core.sampling import GenerationParams
from serve_app.generation.causal.kv_cache import RowCache, holds_rows, without

FAILED = "failed"
"""Finish reason of a row whose logits are not finite."""

# Lower temperatures are greedy: dividing by them leaves one token with any mass.
_GREEDY_BELOW = 1e-4
# Most nuclei are smaller; sorting a vocabulary of 128,000 for each row costs more than a forward
# pass of a small model.
_HEAD = 256


@dataclass(frozen=True, slots=True, eq=False)
class Row:
    """One prompt to continue.

    Attributes:
        prompt: token ids, not empty.
        params: how to continue it; `seed` seeds the row's own random generator.
    """

    prompt: tuple[int, ...]
    params: GenerationParams


@dataclass(frozen=True, slots=True)
class Step:
    """A row's outcome of one pass: the token it wrote, if any, and why it ended, if it did."""

    row: Row
    token: int | None
    finish_reason: str | None


class Model:
    """A causal language model in eval mode, behind the one call that all families take."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self._accepted = inspect.signature(model.forward).parameters
        self.device: torch.device = next(model.parameters()).device
        self.batches = holds_rows(model)
        """Whether it can take several rows in a pass, and a prompt in parts."""

    def new_cache(self) -> Cache:
        """An empty cache of the kind the model needs."""
        return RowCache(self._model) if self.batches else DynamicCache(config=self._model.config)

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
    """Reads prompts: equal ones once, long ones in parts.

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
    """The running rows: each pass writes one token of each.

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
        """Adds rows whose prompts are read, and writes the first token of each.

        A model without `batches` must have no running row.
        """
        assert prefill.logits is not None  # noqa: S101 - the caller waits until all is read
        rows = prefill.rows
        sampler = Sampler(rows, prefill.logits.shape[1], self._model.device)
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
        """One pass over all rows, at least one: the next token of each."""
        assert self._cache is not None  # noqa: S101 - there are rows
        assert self._sampler is not None  # noqa: S101
        device, span = self._model.device, max(self._lengths)
        if isinstance(self._cache, RowCache):
            self._cache.trim(span)
        lengths = torch.tensor(self._lengths, device=device).unsqueeze(1)
        # The new token is in column `span`, right after the row's other tokens.
        mask = (torch.arange(span + 1, device=device) >= span - lengths).long()
        ids = torch.tensor(self._tokens, device=device).unsqueeze(1)
        logits = self._model.logits(ids, mask, lengths, self._cache)
        self._lengths = [length + 1 for length in self._lengths]
        return self._take(self._sampler.next_tokens(logits), 0)

    def drop(self, rows: Collection[Row]) -> None:
        """Removes these rows."""
        self._remove([index for index, row in enumerate(self.rows) if row in rows])

    def _take(self, tokens: Sequence[int | None], first: int) -> list[Step]:
        """Records the tokens of the rows from `first` on; rows that end leave."""
        steps: list[Step] = []
        ended: list[int] = []
        for index, token in enumerate(tokens, start=first):
            row = self.rows[index]
            self._written[index] += 1
            if token is None:
                steps.append(Step(row, None, FAILED))
            elif token in self._stop_ids:
                steps.append(Step(row, None, "stop"))
            elif self._written[index] >= row.params.max_new_tokens:
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


class Sampler:
    """The sampling state of some rows, in their order.

    Args:
        rows: their prompts count for the penalty.
        vocabulary: number of logits.
        device: device of the logits.
    """

    def __init__(self, rows: Sequence[Row], vocabulary: int, device: torch.device) -> None:
        self._device = device
        params = [row.params for row in rows]
        self._penalty = _column([p.repeat_penalty for p in params], device)
        self._temperature = _column([p.temperature for p in params], device)
        self._top_p = _column([p.top_p for p in params], device)
        self._greedy = [p.temperature < _GREEDY_BELOW for p in params]
        # On the CPU, so that a seed draws the same on every device.
        self._random = [torch.Generator() for _ in params]
        for generator, p in zip(self._random, params, strict=True):
            if p.seed is None:
                generator.seed()
            else:
                generator.manual_seed(p.seed)
        # (rows, vocabulary): whether the token is in the row's prompt or output.
        seen = torch.zeros((len(rows), vocabulary), dtype=torch.bool)
        for index, row in enumerate(rows):
            known = [token for token in row.prompt if token < vocabulary]
            seen[index, torch.tensor(known, dtype=torch.long)] = True
        self._seen = seen.to(device)

    def keep(self, rows: Sequence[int]) -> None:
        """Keeps these rows only, in this order."""
        self._greedy = [self._greedy[row] for row in rows]
        self._random = [self._random[row] for row in rows]
        self._penalty, self._temperature = self._penalty[rows], self._temperature[rows]
        self._top_p, self._seen = self._top_p[rows], self._seen[rows]

    def join(self, other: Sampler) -> None:
        """Moves the rows of `other` after its own."""
        self._greedy += other._greedy
        self._random += other._random
        self._penalty = torch.cat([self._penalty, other._penalty])
        self._temperature = torch.cat([self._temperature, other._temperature])
        self._top_p = torch.cat([self._top_p, other._top_p])
        self._seen = torch.cat([self._seen, other._seen])

    def next_tokens(self, logits: Tensor) -> list[int | None]:
        """A token id per row of `logits` (rows, vocabulary); None where they are not finite."""
        scores = logits.float()
        broken = (scores.isnan() | scores.isposinf()).any(dim=-1)
        found_broken = bool(broken.any())
        if found_broken:
            scores = scores.masked_fill(broken.unsqueeze(1), 0.0)
        # Repetition penalty (Keskar et al., 2019) over prompt and output, as transformers'.
        penalised = torch.where(scores < 0, scores * self._penalty, scores / self._penalty)
        scores = torch.where(self._seen, penalised, scores)
        tokens = scores.argmax(dim=-1)
        sampled = [row for row, greedy in enumerate(self._greedy) if not greedy]
        if len(sampled) == len(self._greedy):
            tokens = self._sample(scores, sampled)
        elif sampled:
            tokens[sampled] = self._sample(scores[sampled], sampled)
        self._seen.scatter_(1, tokens.unsqueeze(1), True)
        chosen: list[int | None] = tokens.tolist()
        if found_broken:
            bad = broken.tolist()
            chosen = [None if bad[row] else token for row, token in enumerate(chosen)]
        return chosen

    def _sample(self, scores: Tensor, rows: list[int]) -> Tensor:
        """Temperature, then the nucleus (Holtzman et al., 2020), then one draw a row."""
        temperature = self._temperature[rows].clamp(min=_GREEDY_BELOW)
        # Subtracting the maximum first keeps a small temperature from overflowing.
        scaled = scores - scores.amax(dim=-1, keepdim=True)
        nucleus = _nucleus((scaled / temperature).softmax(dim=-1), self._top_p[rows])
        draws = torch.stack([torch.rand(1, generator=self._random[row]) for row in rows])
        # In vocabulary order, not by probability: rounding that swaps two equally likely tokens
        # would otherwise change the outcome.
        cumulated = nucleus.cumsum(dim=-1)
        wanted = draws.to(self._device) * cumulated[:, -1:]
        drawn = torch.searchsorted(cumulated, wanted, right=True)
        drawn = drawn.clamp(max=scores.shape[1] - 1)
        possible = nucleus.gather(1, drawn) > 0
        return torch.where(possible, drawn, nucleus.argmax(dim=-1, keepdim=True)).squeeze(1)


def _column(values: list[float], device: torch.device) -> Tensor:
    return torch.tensor(values, dtype=torch.float32, device=device).unsqueeze(1)


def _nucleus(probabilities: Tensor, top_p: Tensor) -> Tensor:
    """`probabilities` with 0 for tokens outside the likeliest ones of total mass `top_p`.

    Sorts only as much of a row as its nucleus needs; rows are independent of each other.

    Args:
        probabilities: (rows, vocabulary).
        top_p: (rows, 1).
    """
    nucleus = probabilities.clone()
    cut = (top_p < 1).squeeze(1)
    for size in (_HEAD, probabilities.shape[1]):
        rows = cut.nonzero().squeeze(1)
        if rows.numel() == 0:
            break
        head, order = probabilities[rows].topk(min(size, probabilities.shape[1]), dim=-1)
        mass = head.cumsum(dim=-1)
        inside = mass - head < top_p[rows]
        inside[:, 0] = True
        # A head that reaches the mass holds the whole nucleus.
        complete = (mass[:, -1:] >= top_p[rows]).squeeze(1) | (size >= probabilities.shape[1])
        kept = torch.zeros_like(nucleus[rows]).scatter(1, order, head * inside)
        nucleus[rows[complete]] = kept[complete]
        cut[rows[complete]] = False
    return nucleus
