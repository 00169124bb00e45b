"""Chooses each row's next token from its logits. Knows parameters and numbers; no model, no text.

Each row has its own temperature, nucleus, penalty and random generator, so that what it
draws does not depend on the rows beside it.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from serve_app.generation.protocol import GenerationParams

# Below this a temperature is greedy: dividing by it leaves one token with any mass.
_GREEDY_BELOW = 1e-4
# Most nuclei have fewer tokens; sorting a vocabulary of 128,000 for each row costs more than a
# small model's forward pass.
_HEAD = 256


class Sampler:
    """The sampling state of some rows, in their order.

    Args:
        prompts: token ids of each row's prompt; the penalty counts them.
        params: of each row; `seed` seeds its own random generator.
        vocabulary: how many logits there are.
        device: where logits come from.
    """

    def __init__(
        self,
        prompts: Sequence[Sequence[int]],
        params: Sequence[GenerationParams],
        vocabulary: int,
        device: torch.device,
    ) -> None:
        self._device = device
        self._penalty = _column([p.repeat_penalty for p in params], device)
        self._temperature = _column([p.temperature for p in params], device)
        self._top_p = _column([p.top_p for p in params], device)
        self._greedy = [p.temperature < _GREEDY_BELOW for p in params]
        # Always on the CPU: the draws of a seed are then the same on every device.
        self._random = [torch.Generator() for _ in params]
        for generator, p in zip(self._random, params, strict=True):
            if p.seed is None:
                generator.seed()
            else:
                generator.manual_seed(p.seed)
        # (rows, vocabulary): which tokens stand in the row's prompt or output.
        seen = torch.zeros((len(params), vocabulary), dtype=torch.bool)
        for row, prompt in enumerate(prompts):
            known = [token for token in prompt if token < vocabulary]
            seen[row, torch.tensor(known, dtype=torch.long)] = True
        self._seen = seen.to(device)

    def keep(self, rows: Sequence[int]) -> None:
        """Keeps these rows only, in this order."""
        self._greedy = [self._greedy[row] for row in rows]
        self._random = [self._random[row] for row in rows]
        self._penalty, self._temperature = self._penalty[rows], self._temperature[rows]
        self._top_p, self._seen = self._top_p[rows], self._seen[rows]

    def join(self, other: Sampler) -> None:
        """Adds the rows of `other`, which is used up by it, after its own."""
        self._greedy += other._greedy
        self._random += other._random
        self._penalty = torch.cat([self._penalty, other._penalty])
        self._temperature = torch.cat([self._temperature, other._temperature])
        self._top_p = torch.cat([self._top_p, other._top_p])
        self._seen = torch.cat([self._seen, other._seen])

    def next_tokens(self, logits: Tensor) -> list[int | None]:
        """One token id a row; None where the row's logits are NaN or infinite.

        Args:
            logits: (rows, vocabulary).
        """
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
        # The draw falls into the nucleus in vocabulary order, not by probability: rounding
        # that swaps two equally likely tokens would otherwise swap the outcome as well.
        cumulated = nucleus.cumsum(dim=-1)
        wanted = draws.to(self._device) * cumulated[:, -1:]
        drawn = torch.searchsorted(cumulated, wanted, right=True)
        drawn = drawn.clamp(max=scores.shape[1] - 1)
        possible = nucleus.gather(1, drawn) > 0
        return torch.where(possible, drawn, nucleus.argmax(dim=-1, keepdim=True)).squeeze(1)


def _column(values: list[float], device: torch.device) -> Tensor:
    return torch.tensor(values, dtype=torch.float32, device=device).unsqueeze(1)


def _nucleus(probabilities: Tensor, top_p: Tensor) -> Tensor:
    """`probabilities` with 0 for what the likeliest tokens of mass `top_p` leave outside.

    Sorts only as much of a row as its nucleus needs; each row is decided by itself.

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
        # What the head leaves out is outside too, where the head reaches the mass by itself.
        complete = (mass[:, -1:] >= top_p[rows]).squeeze(1) | (size >= probabilities.shape[1])
        kept = torch.zeros_like(nucleus[rows]).scatter(1, order, head * inside)
        nucleus[rows[complete]] = kept[complete]
        cut[rows[complete]] = False
    return nucleus
