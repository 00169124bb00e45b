"""The decoding loop: prompts in, one new token a row and step out. Knows no text.

Each row keeps its own temperature, nucleus, penalty and random generator, so that what
it writes does not depend on the rows it shares a batch with (in float32; a lower
precision rounds differently in batches of different shape).
"""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from serve_app.errors import PlainMedError
from serve_app.generation.protocol import GenerationParams

# Below this a temperature is greedy: dividing by it leaves one token with any mass.
_GREEDY_BELOW = 1e-4


@dataclass(frozen=True, slots=True)
class Row:
    """One prompt to continue.

    Attributes:
        prompt: token ids, not empty.
        params: sampling of this row; `seed` seeds its own random generator.
        max_new_tokens: the row ends after so many, >= 1.
    """

    prompt: Sequence[int]
    params: GenerationParams
    max_new_tokens: int


@dataclass(frozen=True, slots=True)
class Step:
    """What happened to one row: a token it wrote (None for none), and why it ended (or not)."""

    row: int
    token: int | None
    finish_reason: str | None


def decode(
    model: Any,
    rows: Sequence[Row],
    *,
    stop_ids: frozenset[int],
    pad_id: int,
    lock: threading.Lock | None = None,
    cancelled: Callable[[int], bool] | None = None,
) -> Iterator[list[Step]]:
    """Continues all rows as one batch; yields one list of steps per forward pass.

    A stop token ends its row and is not given out. Rows that ended leave the batch. Closing
    the iterator stops the computation: nothing is computed ahead of what was asked for.

    Args:
        model: a causal language model in eval mode.
        rows: padded on the left to the longest; just one unless `supports_batches`.
        stop_ids: tokens that end a row.
        pad_id: any valid token id; masked out.
        lock: held during each forward pass, never while the caller works.
        cancelled: asked before each pass for each row still running; True ends the row with
            reason `cancelled`.

    Raises:
        PlainMedError: `generation_failed`, if the model's logits are NaN or infinite.
    """
    device = next(model.parameters()).device
    accepted = inspect.signature(model.forward).parameters
    sampler = _Sampler(rows, device)
    active = list(range(len(rows)))
    written = [0] * len(rows)
    ids, mask = _left_pad([row.prompt for row in rows], pad_id, device)
    positions = (mask.cumsum(dim=1) - 1).clamp(min=0)
    cache = DynamicCache(config=model.config)

    while active:
        dropped = [row for row in active if cancelled is not None and cancelled(row)]
        if dropped:
            yield [Step(row, None, "cancelled") for row in dropped]
            keep = [index for index, row in enumerate(active) if row not in dropped]
            active = [active[index] for index in keep]
            if not active:
                return
            ids, mask, positions = ids[keep], mask[keep], positions[keep]
            _select(cache, sampler, keep, device)
        # Entered anew each step: across a yield the mode would leak into the caller.
        with lock or nullcontext(), torch.inference_mode():
            optional = {"position_ids": positions, "logits_to_keep": 1}
            output = model(
                input_ids=ids,
                attention_mask=mask,
                past_key_values=cache,
                use_cache=True,
                **{name: value for name, value in optional.items() if name in accepted},
            )
            tokens = sampler.next_tokens(output.logits[:, -1, :])
        steps: list[Step] = []
        keep = []
        for index, (row, token) in enumerate(zip(active, tokens, strict=True)):
            written[row] += 1
            if token in stop_ids:
                steps.append(Step(row, None, "stop"))
            elif written[row] >= rows[row].max_new_tokens:
                steps.append(Step(row, token, "length"))
            else:
                steps.append(Step(row, token, None))
                keep.append(index)
        yield steps
        if len(keep) < len(active):
            active = [active[index] for index in keep]
            tokens = [tokens[index] for index in keep]
            if not active:
                return
            mask, positions = mask[keep], positions[keep]
            _select(cache, sampler, keep, device)
        ids = torch.tensor(tokens, device=device).unsqueeze(1)
        mask = torch.cat([mask, mask.new_ones(len(tokens), 1)], dim=1)
        positions = positions[:, -1:] + 1


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


def supports_batches(model: Any) -> bool:
    """False for recurrent models: their state cannot drop rows, nor be left-padded safely."""
    layers = DynamicCache(config=model.config).layers
    return all(hasattr(layer, "batch_select_indices") for layer in layers)


def _select(cache: DynamicCache, sampler: _Sampler, keep: list[int], device: torch.device) -> None:
    with torch.inference_mode():
        if sampler.started:  # before the first pass the cache is empty
            cache.batch_select_indices(torch.tensor(keep, device=device))
        sampler.select(keep)


class _Sampler:
    """Chooses each row's next token from its logits, with the row's own settings."""

    def __init__(self, rows: Sequence[Row], device: torch.device) -> None:
        params = [row.params for row in rows]
        self._device = device
        self._prompts: list[Sequence[int]] = [row.prompt for row in rows]
        self._seen: Tensor | None = None
        self._penalty = torch.tensor([[p.repeat_penalty] for p in params], device=device)
        self._temperature = torch.tensor([[p.temperature] for p in params], device=device)
        self._top_p = torch.tensor([[p.top_p] for p in params], device=device)
        self._greedy = [p.temperature < _GREEDY_BELOW for p in params]
        # Always on the CPU: the draws of a seed are then the same on every device.
        self._random = [torch.Generator() for _ in params]
        for generator, p in zip(self._random, params, strict=True):
            if p.seed is None:
                generator.seed()
            else:
                generator.manual_seed(p.seed)

    @property
    def started(self) -> bool:
        """True once there was a pass."""
        return self._seen is not None

    def select(self, keep: list[int]) -> None:
        """Keeps these rows only."""
        self._prompts = [self._prompts[i] for i in keep]
        self._greedy = [self._greedy[i] for i in keep]
        self._random = [self._random[i] for i in keep]
        self._penalty, self._temperature = self._penalty[keep], self._temperature[keep]
        self._top_p = self._top_p[keep]
        if self._seen is not None:
            self._seen = self._seen[keep]

    def next_tokens(self, logits: Tensor) -> list[int]:
        """One token id a row; `logits` is (rows, vocabulary)."""
        scores = logits.float()
        if bool((scores.isnan() | scores.isposinf()).any()):
            raise PlainMedError(
                "the generator's logits are not finite; its weights are damaged, or "
                "GENERATOR_DTYPE=float16 overflows (use bfloat16 or float32)",
                code="generation_failed",
            )
        seen = self._seen_tokens(scores)
        # Repetition penalty (Keskar et al., 2019) over prompt and output, as transformers'.
        penalised = torch.where(scores < 0, scores * self._penalty, scores / self._penalty)
        scores = torch.where(seen, penalised, scores)
        tokens = scores.argmax(dim=-1)
        if not all(self._greedy):
            greedy = torch.tensor(self._greedy, device=self._device)
            tokens = torch.where(greedy, tokens, self._sample(scores))
        seen.scatter_(1, tokens.unsqueeze(1), True)
        chosen: list[int] = tokens.tolist()
        return chosen

    def _seen_tokens(self, scores: Tensor) -> Tensor:
        """(rows, vocabulary): which tokens stand in the row's prompt or output; not padding."""
        if self._seen is None:
            seen = torch.zeros(scores.shape, dtype=torch.bool)
            for row, prompt in enumerate(self._prompts):
                known = [token for token in prompt if token < scores.shape[1]]
                seen[row, torch.tensor(known, dtype=torch.long)] = True
            self._seen = seen.to(self._device)
        return self._seen

    def _sample(self, scores: Tensor) -> Tensor:
        """Temperature, then the nucleus (Holtzman et al., 2020), then one draw a row."""
        # Subtracting the maximum first keeps a small temperature from overflowing.
        scaled = scores - scores.amax(dim=-1, keepdim=True)
        probabilities = (scaled / self._temperature.clamp(min=_GREEDY_BELOW)).softmax(dim=-1)
        ordered, order = probabilities.sort(dim=-1, descending=True, stable=True)
        outside = ordered.cumsum(dim=-1) - ordered >= self._top_p
        outside[:, 0] = False
        nucleus = probabilities.masked_fill(outside.scatter(1, order, outside), 0.0)
        draws = torch.stack([torch.rand(1, generator=g) for g in self._random]).to(self._device)
        # The draw falls into the nucleus in vocabulary order, not by probability: rounding
        # that swaps two equally likely tokens would otherwise swap the outcome as well.
        cumulated = nucleus.cumsum(dim=-1)
        drawn = torch.searchsorted(cumulated, draws * cumulated[:, -1:], right=True)
        drawn = drawn.clamp(max=scores.shape[1] - 1)
        possible = nucleus.gather(1, drawn) > 0
        return torch.where(possible, drawn, nucleus.argmax(dim=-1, keepdim=True)).squeeze(1)
