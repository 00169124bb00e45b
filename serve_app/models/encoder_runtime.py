"""The one encoder runtime both model metrics share; it knows no metric.

Takes token id sequences, sorts them by length, forms batches under a budget of padded
tokens, runs the module under `inference_mode`, hands each batch's output to a `consume`
function of the metric, and returns the results in the order they came. On a CPU a module that
has a packed form (see `packed`) runs in it, without padding. It knows no tokenizer and no
weights format; attention kernels are chosen where the module is loaded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from serve_app.core.errors import ConfigError
from serve_app.models.device import resolve_device
from serve_app.models.formats import DTYPES
from serve_app.models.packed_encoder import packed_form
from serve_app.models.yield_points import pause

Result = TypeVar("Result")

# Tokens a thread takes in one pass on a CPU. Larger batches gain nothing (docs/relevance.md), and
# a padded module would only pad more.
_CPU_TOKENS_PER_THREAD = 512


@dataclass(frozen=True, slots=True)
class TokenSequence:
    """One input of the encoder, special tokens included, unpadded.

    `token_type_ids` is as long as `input_ids`; None stands for all zeros.
    """

    input_ids: Sequence[int]
    token_type_ids: Sequence[int] | None = None

    def __len__(self) -> int:
        return len(self.input_ids)


@dataclass(frozen=True, slots=True)
class Batch:
    """A batch, padded or packed. `indices[row]` is the position of that row among the inputs.

    Padded, `input_ids`, `attention_mask` and `token_type_ids` are (rows, longest); packed,
    `attention_mask` is None and the others are (tokens,), row after row. All are int64, on the
    runtime's device; `lengths` has one entry a row, in tokens. `token_type_ids` is None when no
    row has any.
    """

    indices: list[int]
    lengths: list[int]
    input_ids: Tensor
    attention_mask: Tensor | None
    token_type_ids: Tensor | None

    def token_states(self, output: Any) -> Tensor:
        """Hidden states of all real tokens, (tokens, hidden), row after row.

        Args:
            output: what a bare encoder gave for this batch.
        """
        if self.attention_mask is None:
            packed: Tensor = output
            return packed
        states: Tensor = output[0][self.attention_mask.bool()]
        return states


def plan_batches(
    lengths: Sequence[int], token_budget: int, max_rows: int | None = None, *, padded: bool = True
) -> Iterator[list[int]]:
    """Yields index lists, longest first, each at most `token_budget` tokens (once padded).

    A sequence longer than the budget gets a batch of its own, so nothing is ever dropped.
    Longest first means the largest allocation happens once, at the start.

    >>> list(plan_batches([3, 9, 4, 1], token_budget=12))
    [[1], [2, 0, 3]]
    >>> list(plan_batches([3, 9, 4, 1], token_budget=13, padded=False))
    [[1, 2], [0, 3]]
    """
    order = sorted(range(len(lengths)), key=lambda index: (-lengths[index], index))
    rows: list[int] = []
    tokens = 0
    for index in order:
        cost = lengths[rows[0]] if padded and rows else lengths[index]
        if rows and (tokens + cost > token_budget or len(rows) == max_rows):
            yield rows
            rows, tokens, cost = [], 0, lengths[index]
        rows.append(index)
        tokens += cost
    if rows:
        yield rows


class EncoderRuntime:
    """Runs a transformer module over many sequences.

    Args:
        model: called with `input_ids`, `attention_mask` and, where given, `token_type_ids`;
            it is moved to the device and dtype in place.
        pad_token_id: fills the end of shorter rows; masked out.
        device: as `resolve_device`.
        dtype: one of `DTYPES`; anything but float32 changes scores (see docs/relevance.md).
        token_budget: most tokens a forward pass takes, padding included, >= 1; on a CPU never
            more than 512 a thread (1,024 at least).
        max_rows: most rows a forward pass takes, >= 1, or None.
        packed: on a CPU use the module's packed form where it has one: the same numbers (to
            float rounding), faster.

    Raises:
        ConfigError: the device, dtype, budget or row limit is not one of those.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        pad_token_id: int,
        device: str = "auto",
        dtype: str = "float32",
        token_budget: int = 8192,
        max_rows: int | None = None,
        packed: bool = True,
    ) -> None:
        if dtype not in DTYPES:
            raise ConfigError(f"METRICS_DTYPE: {dtype!r} is not one of {', '.join(DTYPES)}")
        if token_budget < 1:
            raise ConfigError(f"TOKEN_BUDGET must be at least 1, not {token_budget}")
        if max_rows is not None and max_rows < 1:
            raise ConfigError(f"a batch needs at least 1 row, not {max_rows}")
        self.device = resolve_device(device)
        self.dtype = DTYPES[dtype]
        module = model.to(device=self.device, dtype=self.dtype).eval()
        # The packed form has what it needs of the module, whose layers may then be freed.
        self._packed = packed_form(module) if packed else None
        self._module = module if self._packed is None else None
        self.pad_token_id = pad_token_id
        self.token_budget = token_budget
        self.max_rows = max_rows
        self.tokens = 0
        """Tokens encoded so far, padding not counted."""

    @property
    def batch_tokens(self) -> int:
        """Most tokens a forward pass takes here, padding included: the budget, or the CPU's own."""
        if self.device.type != "cpu":
            return self.token_budget
        # At least two threads' worth: below that the cost of a pass itself shows.
        return min(self.token_budget, _CPU_TOKENS_PER_THREAD * max(2, torch.get_num_threads()))

    def run(
        self,
        sequences: Sequence[TokenSequence],
        consume: Callable[[Any, Batch], Iterable[Result]],
    ) -> list[Result]:
        """Encodes every sequence; `consume(output, batch)` gives one result for each row.

        `consume` runs under `inference_mode`; it should copy out what it keeps, since a view of
        the output holds the whole padded batch in memory.

        Raises:
            ValueError: a sequence is empty, or `consume` gave fewer or more results than rows.
            Stopped: between two passes, where `pauses` says so.
        """
        lengths = [len(sequence) for sequence in sequences]
        if 0 in lengths:
            raise ValueError(f"sequence {lengths.index(0)} has no tokens")
        results: dict[int, Result] = {}
        with torch.inference_mode():
            for indices in plan_batches(
                lengths, self.batch_tokens, self.max_rows, padded=self._packed is None
            ):
                pause()
                chosen = [sequences[index] for index in indices]
                batch = (
                    self._pad(chosen, indices) if self._packed is None else _pack(chosen, indices)
                )
                rows = list(consume(self._forward(batch), batch))
                if len(rows) != len(indices):
                    raise ValueError(f"consume gave {len(rows)} results for {len(indices)} rows")
                results.update(zip(indices, rows, strict=True))
                self.tokens += sum(batch.lengths)
        return [results[index] for index in range(len(sequences))]

    def _forward(self, batch: Batch) -> Any:
        if self._packed is not None:
            return self._packed(batch.input_ids, batch.token_type_ids, batch.lengths)
        inputs = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask}
        if batch.token_type_ids is not None:
            inputs["token_type_ids"] = batch.token_type_ids
        assert self._module is not None  # noqa: S101 - it is the one or the other
        return self._module(**inputs)

    def _pad(self, rows: list[TokenSequence], indices: list[int]) -> Batch:
        lengths = [len(row) for row in rows]
        mask = np.arange(max(lengths)) < np.array(lengths)[:, None]

        def scatter(values: Iterable[Sequence[int]], fill: int) -> Tensor:
            # One flat read and one masked write: no Python loop over tokens or rows of tensors.
            padded = np.full(mask.shape, fill, dtype=np.int64)
            flat = chain.from_iterable(values)
            padded[mask] = np.fromiter(flat, dtype=np.int64, count=sum(lengths))
            return torch.from_numpy(padded).to(self.device)

        types = None
        if any(row.token_type_ids is not None for row in rows):
            types = scatter((row.token_type_ids or (0,) * len(row) for row in rows), 0)
        return Batch(
            indices=indices,
            lengths=lengths,
            input_ids=scatter((row.input_ids for row in rows), self.pad_token_id),
            attention_mask=torch.from_numpy(mask.astype(np.int64)).to(self.device),
            token_type_ids=types,
        )


def _pack(rows: list[TokenSequence], indices: list[int]) -> Batch:
    lengths = [len(row) for row in rows]

    def flat(values: Iterable[Sequence[int]]) -> Tensor:
        joined = chain.from_iterable(values)
        return torch.from_numpy(np.fromiter(joined, dtype=np.int64, count=sum(lengths)))

    types = None
    if any(row.token_type_ids is not None for row in rows):
        types = flat(row.token_type_ids or (0,) * len(row) for row in rows)
    return Batch(indices, lengths, flat(row.input_ids for row in rows), None, types)
