"""Continues prompts token by token; rows come and go between passes. Knows no text, no threads.

What a row writes does not depend on the rows it shares passes with (in float32 and int8; a lower
precision of activations rounds differently in batches of different shape). Each row therefore has
its own temperature, nucleus, penalty and random generator. Drafts are guesses of `lookup`: a pass
checks them, and only tokens that the row would have drawn anyway are written.
"""

from __future__ import annotations

import inspect
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from transformers import DynamicCache

from serve_app.core.sampling import GenerationParams
from serve_app.generation.causal.kv_cache import PackedCache, RowCache, holds_rows, without
from serve_app.generation.causal.lookup import MOST, Lookup
from serve_app.models.packed_decoder import PackedDecoder

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
    """A token of a row, if a pass wrote one, and why the row ended, if it did."""

    row: Row
    token: int | None
    finish_reason: str | None


class Model(Protocol):
    """A causal language model in eval mode.

    Attributes:
        device: where its logits are.
        batches: whether it can take several rows in a pass, and a prompt in parts.
        free_tokens: tokens of a pass that cost about as much as one; 1: it takes no drafts.
    """

    device: torch.device
    batches: bool
    free_tokens: int

    def new_cache(self, columns: Sequence[int]) -> Any:
        """An empty cache for rows of so many tokens each."""

    def extend(
        self,
        cache: Any,
        before: Sequence[int],
        tokens: Sequence[Sequence[int]],
        keep: Sequence[int],
    ) -> Tensor:
        """Reads new tokens of each row.

        Args:
            cache: of the tokens before; the new ones are added to it.
            before: how many of each row it holds.
            tokens: the new ones of each row; only a row that holds none may have fewer than the
                longest, unless the model takes drafts.
            keep: of how many of its last new tokens each row wants logits; at most 1, unless the
                model takes drafts.

        Returns:
            The logits, (sum of keep, vocabulary), row after row.
        """


def as_model(model: Any) -> Model:
    """A transformers module, or a `PackedDecoder`, as the decoding loop takes it."""
    return PackedModel(model) if isinstance(model, PackedDecoder) else PaddedModel(model)


class PaddedModel:
    """A transformers module, behind the one call that all families take; rows are padded."""

    free_tokens = 1

    def __init__(self, model: Any) -> None:
        self._model = model
        self._accepted = inspect.signature(model.forward).parameters
        self.device: torch.device = next(model.parameters()).device
        self.batches = holds_rows(model)

    def new_cache(self, columns: Sequence[int]) -> Any:
        """Of the kind the model needs; it grows."""
        return RowCache(self._model) if self.batches else DynamicCache(config=self._model.config)

    def extend(
        self,
        cache: Any,
        before: Sequence[int],
        tokens: Sequence[Sequence[int]],
        keep: Sequence[int],
    ) -> Tensor:
        """As `Model` says. All rows end in the last column; padding is on the left."""
        held, width = max(before), max(map(len, tokens))
        if isinstance(cache, RowCache):
            cache.trim(held)
        ids = torch.zeros((len(tokens), width), dtype=torch.long)  # padding is masked out
        for row, new in enumerate(tokens):
            ids[row, width - len(new) :] = torch.tensor(new, dtype=torch.long)
        lengths = torch.tensor([a + len(b) for a, b in zip(before, tokens, strict=True)])
        first = (held + width - lengths).unsqueeze(1)
        columns = torch.arange(held + width)
        positions = (columns[held:] - first).clamp(min=0)
        optional = {"position_ids": positions.to(self.device), "logits_to_keep": 1}
        output = self._model(
            input_ids=ids.to(self.device),
            attention_mask=(columns >= first).long().to(self.device),
            past_key_values=cache,
            use_cache=True,
            **{name: value for name, value in optional.items() if name in self._accepted},
        )
        logits: Tensor = output.logits[:, -1, :]
        wanted = [row for row, count in enumerate(keep) if count]
        return logits if len(wanted) == len(keep) else logits[wanted]


class PackedModel:
    """A `PackedDecoder`: rows without padding, each as long as it is."""

    batches = True

    def __init__(self, model: PackedDecoder) -> None:
        self._model = model
        self.device = model.device
        self.free_tokens = model.free_tokens

    def new_cache(self, columns: Sequence[int]) -> PackedCache:
        """With room for whole rows: it never grows."""
        return PackedCache([self._model.new_row(count) for count in columns])

    def extend(
        self,
        cache: PackedCache,
        before: Sequence[int],
        tokens: Sequence[Sequence[int]],
        keep: Sequence[int],
    ) -> Tensor:
        """As `Model` says. Drafts that were wrong are overwritten."""
        for row, held in zip(cache.rows, before, strict=True):
            row.length = held
        return self._model(tokens, cache.rows, keep)


class Prefill:
    """Reads prompts: equal ones once, long ones in parts.

    Args:
        model: reads them.
        rows: just one unless `model.batches`.
    """

    def __init__(self, model: Model, rows: Sequence[Row]) -> None:
        self.rows = list(rows)
        self.logits: Tensor | None = None
        """Of each row, once all is read."""
        self._model = model
        self._prompts = list(dict.fromkeys(row.prompt for row in rows))
        self._sources = [self._prompts.index(row.prompt) for row in rows]
        room = [0] * len(self._prompts)
        for row, source in zip(rows, self._sources, strict=True):
            room[source] = max(room[source], len(row.prompt) + row.params.max_new_tokens)
        self.cache = model.new_cache(room)
        self._longest = max(map(len, self._prompts))
        self._read = 0  # of the longest; the others begin later and end with it

    def advance(self, tokens: int) -> bool:
        """Reads about `tokens` further tokens, at least one a prompt; True when all is read."""
        stop = self._longest
        if self._model.batches:
            stop = min(stop, self._read + max(1, tokens // len(self._prompts)))
        missing = [self._longest - len(prompt) for prompt in self._prompts]
        before = [max(0, self._read - late) for late in missing]
        parts = [
            prompt[held : max(0, stop - late)]
            for prompt, held, late in zip(self._prompts, before, missing, strict=True)
        ]
        whole = stop == self._longest
        logits = self._model.extend(self.cache, before, parts, [int(whole)] * len(parts))
        self._read = stop
        if not whole:
            return False
        if self._sources != list(range(len(self._prompts))):
            self.cache.select(self._sources)
        self.logits = logits[self._sources]
        return True


class Batch:
    """The running rows: each pass writes at least one token of each.

    Args:
        model: writes them.
        stop_ids: tokens that end a row; not given out.
        lookup: whether to guess tokens from the text, where the model takes drafts.
    """

    def __init__(self, model: Model, stop_ids: Collection[int], *, lookup: bool = True) -> None:
        self.rows: list[Row] = []
        self._model = model
        self._stop_ids = frozenset(stop_ids)
        self._looks_up = lookup and model.free_tokens > 1
        self._cache: Any = None
        self._sampler: Sampler | None = None
        self._tokens: list[int] = []
        self._lengths: list[int] = []
        self._written: list[int] = []
        self._lookups: list[Lookup] = []

    def join(self, prefill: Prefill) -> list[Step]:
        """Adds rows whose prompts are read, and writes the first token of each.

        A model without `batches` must have no running row.
        """
        assert prefill.logits is not None  # noqa: S101 - the caller waits until all is read
        rows = prefill.rows
        first = len(self.rows)
        sampler = Sampler(rows, prefill.logits.shape[1], self._model.device)
        if self._sampler is None:
            self._cache, self._sampler = prefill.cache, sampler
        else:
            self._cache.join(prefill.cache)
            self._sampler.join(sampler)
        self.rows += rows
        self._lengths += [len(row.prompt) - 1 for row in rows]  # `_take` counts the last again
        self._written += [0] * len(rows)
        self._tokens += [0] * len(rows)
        if self._looks_up:
            self._lookups += [Lookup(row.prompt) for row in rows]
        return self._take(prefill.logits, [[] for _ in rows], first)

    def step(self) -> list[Step]:
        """One pass over all rows, at least one: the next token of each, or several."""
        drafts = self._drafts()
        tokens = [[last, *draft] for last, draft in zip(self._tokens, drafts, strict=True)]
        logits = self._model.extend(self._cache, self._lengths, tokens, [len(t) for t in tokens])
        return self._take(logits, drafts, 0)

    def drop(self, rows: Collection[Row]) -> None:
        """Removes these rows."""
        self._remove([index for index, row in enumerate(self.rows) if row in rows])

    def _drafts(self) -> list[list[int]]:
        """A guess of what each row goes on with; together they are about free."""
        if not self._looks_up:
            return [[] for _ in self.rows]
        most = min(MOST, self._model.free_tokens // len(self.rows) - 1)
        return [
            # The last token of a row is never a draft: nothing would follow it.
            lookup.draft(min(most, row.params.max_new_tokens - written - 1))
            for lookup, row, written in zip(self._lookups, self.rows, self._written, strict=True)
        ]

    def _take(self, logits: Tensor, drafts: Sequence[Sequence[int]], first: int) -> list[Step]:
        """Draws the tokens of the rows from `first` on, and records them; rows that end leave.

        A row draws on for as long as it draws its draft.
        """
        assert self._sampler is not None  # noqa: S101 - there are rows
        steps: list[Step] = []
        ended: list[int] = []
        rows = list(range(first, first + len(drafts)))
        place, starts = 0, {}
        for row, draft in zip(rows, drafts, strict=True):
            starts[row] = place
            place += 1 + len(draft)
        depth = 0
        while rows:
            wanted = [starts[row] + depth for row in rows]
            one_each = len(wanted) == len(logits)
            drawn = self._sampler.next_tokens(logits if one_each else logits[wanted], rows)
            going = []
            for row, token in zip(rows, drawn, strict=True):
                step = self._record(row, token)
                steps.append(step)
                draft = drafts[row - first]
                if step.finish_reason is not None:
                    ended.append(row)
                elif depth < len(draft) and token == draft[depth]:
                    going.append(row)
                    continue
                if draft:
                    self._lookups[row].learn(len(draft), depth)
            rows = going
            depth += 1
        self._remove(ended)
        return steps

    def _record(self, index: int, token: int | None) -> Step:
        """Notes a row's next token, whose place in the cache is taken by the one before."""
        row = self.rows[index]
        self._lengths[index] += 1
        self._written[index] += 1
        if token is None:
            return Step(row, None, FAILED)
        if token in self._stop_ids:
            return Step(row, None, "stop")
        self._tokens[index] = token
        if self._looks_up:
            self._lookups[index].add(token)
        over = self._written[index] >= row.params.max_new_tokens
        return Step(row, token, "length" if over else None)

    def _remove(self, gone: Sequence[int]) -> None:
        if not gone:
            return
        keep = without(len(self.rows), gone)
        self.rows = [self.rows[index] for index in keep]
        self._tokens = [self._tokens[index] for index in keep]
        self._lengths = [self._lengths[index] for index in keep]
        self._written = [self._written[index] for index in keep]
        if self._looks_up:
            self._lookups = [self._lookups[index] for index in keep]
        if not keep:
            self._cache = self._sampler = None
            return
        if self._model.batches:
            self._cache.fill(keep)
        if self._sampler is not None:
            self._sampler.keep(keep)


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
        self._penalty = [p.repeat_penalty for p in params]
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
        # Of each row: the tokens of its prompt and output, in a buffer, and how many there are.
        self._seen: list[tuple[Tensor, int]] = []
        for row in rows:
            known = [token for token in dict.fromkeys(row.prompt) if token < vocabulary]
            buffer = torch.zeros(len(known) + row.params.max_new_tokens, dtype=torch.long)
            buffer[: len(known)] = torch.tensor(known, dtype=torch.long)
            self._seen.append((buffer.to(device), len(known)))

    def keep(self, rows: Sequence[int]) -> None:
        """Keeps these rows only, in this order."""
        self._greedy = [self._greedy[row] for row in rows]
        self._random = [self._random[row] for row in rows]
        self._seen = [self._seen[row] for row in rows]
        self._penalty = [self._penalty[row] for row in rows]
        self._temperature, self._top_p = self._temperature[rows], self._top_p[rows]

    def join(self, other: Sampler) -> None:
        """Moves the rows of `other` after its own."""
        self._greedy += other._greedy
        self._random += other._random
        self._seen += other._seen
        self._penalty += other._penalty
        self._temperature = torch.cat([self._temperature, other._temperature])
        self._top_p = torch.cat([self._top_p, other._top_p])

    def next_tokens(self, logits: Tensor, rows: Sequence[int]) -> list[int | None]:
        """The next token of these rows; None where their logits are not finite.

        Args:
            logits: of each, (rows, vocabulary); may be overwritten.
            rows: their numbers, ascending.
        """
        scores = logits.float()
        for at, row in enumerate(rows):
            self._penalise(scores[at], row)
        highest, tokens = scores.max(dim=-1, keepdim=True)
        broken = ~(highest < torch.inf)  # also where it is not a number
        found_broken = bool(broken.any())
        if found_broken:
            scores, highest = scores.masked_fill(broken, 0.0), highest.masked_fill(broken, 0.0)
        sampled = [at for at, row in enumerate(rows) if not self._greedy[row]]
        if sampled:
            place = torch.tensor(sampled, device=self._device)
            # Subtracting the maximum first keeps a small temperature from overflowing.
            chances = scores[place] if len(sampled) < len(rows) else scores
            tokens[place] = self._sample(chances - highest[place], [rows[at] for at in sampled])
        chosen: list[int | None] = tokens.squeeze(1).tolist()
        for at, row in enumerate(rows):
            buffer, count = self._seen[row]
            if count < len(buffer):
                buffer[count] = tokens[at, 0]
                self._seen[row] = buffer, count + 1
        if found_broken:
            bad = broken.squeeze(1).tolist()
            chosen = [None if bad[at] else token for at, token in enumerate(chosen)]
        return chosen

    def _penalise(self, scores: Tensor, row: int) -> None:
        """Repetition penalty (Keskar et al., 2019) over prompt and output, as transformers'."""
        penalty, (buffer, count) = self._penalty[row], self._seen[row]
        if penalty != 1:
            seen = buffer[:count]
            old = scores[seen]
            scores[seen] = torch.where(old < 0, old * penalty, old / penalty)

    def _sample(self, scores: Tensor, rows: list[int]) -> Tensor:
        """Temperature, then the nucleus (Holtzman et al., 2020), then one draw a row: (rows, 1)."""
        temperature = self._temperature[rows].clamp(min=_GREEDY_BELOW)
        probabilities = (scores / temperature).softmax(dim=-1)
        draws = torch.stack([torch.rand(1, generator=self._random[row]) for row in rows])
        draws, top_p = draws.to(self._device), self._top_p[rows]
        head = min(_HEAD, probabilities.shape[1])
        tokens, inside, whole = _nucleus(probabilities, top_p, head)
        drawn = tokens.gather(1, _draw(inside, draws))
        rest = (~whole).nonzero().squeeze(1)
        if rest.numel() > 0:
            chances, top_p = probabilities[rest], top_p[rest]
            cut = (top_p < 1).squeeze(1)
            if bool(cut.any()):
                _, chances[cut], _ = _nucleus(chances[cut], top_p[cut], chances.shape[1])
            drawn[rest] = _draw(chances, draws[rest])
        return drawn


def _column(values: list[float], device: torch.device) -> Tensor:
    return torch.tensor(values, dtype=torch.float32, device=device).unsqueeze(1)


def _nucleus(probabilities: Tensor, top_p: Tensor, size: int) -> tuple[Tensor, Tensor, Tensor]:
    """The likeliest tokens of total mass `top_p`, among the `size` likeliest.

    In the order of the vocabulary, not of probability: rounding that swaps two equally likely
    tokens would otherwise change what is drawn.

    Args:
        probabilities: (rows, vocabulary).
        top_p: (rows, 1), below 1.
        size: of the result, 1 to vocabulary.

    Returns:
        Tokens (rows, size), their probabilities, 0 outside the nucleus; and whether that is all of
        the nucleus (rows,).
    """
    head, tokens = probabilities.topk(size, dim=-1)
    mass = head.cumsum(dim=-1)
    inside = mass - head < top_p
    inside[:, 0] = True
    tokens, order = tokens.sort(dim=-1)
    whole = (mass[:, -1:] >= top_p) & (top_p < 1)
    return tokens, (head * inside).gather(1, order), whole.squeeze(1)


def _draw(weights: Tensor, draws: Tensor) -> Tensor:
    """A column of each row, as likely as its weight; `draws` in [0, 1) are (rows, 1)."""
    cumulated = weights.cumsum(dim=-1)
    drawn = torch.searchsorted(cumulated, draws * cumulated[:, -1:], right=True)
    drawn = drawn.clamp(max=weights.shape[1] - 1)
    return torch.where(weights.gather(1, drawn) > 0, drawn, weights.argmax(dim=-1, keepdim=True))
