"""Runs an encoder over token sequences; both model metrics share it. Knows no metric.

Sorts sequences by length, batches them under a budget of padded tokens, runs the module under
`inference_mode`, hands each batch's output to the metric's `consume` function, and returns the
results in input order. On a CPU a module with a packed form (see `packed_encoder`) runs without
padding. `PairEncoder` joins two texts for one input. Knows no weights format; loaders choose the
attention kernels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, TypeVar

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor, nn

from serve_app.core.context import pause
from serve_app.core.errors import ConfigError
from serve_app.models.packed_encoder import packed_form
from serve_app.models.pretrained import DTYPES, resolve_device

Result = TypeVar("Result")

# Tokens per thread in one pass on a CPU: more gain nothing (docs/relevance.md), and add padding.
_CPU_TOKENS_PER_THREAD = 512


@dataclass(frozen=True, slots=True)
class TokenSequence:
    """One input of the encoder, with special tokens, unpadded. No `token_type_ids`: all zeros."""

    input_ids: Sequence[int]
    token_type_ids: Sequence[int] | None = None

    def __len__(self) -> int:
        return len(self.input_ids)


@dataclass(frozen=True, slots=True)
class Batch:
    """A batch, padded or packed. `indices[row]` is that row's position among the inputs.

    Padded, `input_ids`, `attention_mask` and `token_type_ids` are (rows, longest); packed,
    `attention_mask` is None and the others are (tokens,), row after row. All are int64, on the
    runtime's device. `lengths` are tokens per row; `token_type_ids` is None when no row has any.
    """

    indices: list[int]
    lengths: list[int]
    input_ids: Tensor
    attention_mask: Tensor | None
    token_type_ids: Tensor | None

    def token_states(self, output: Any) -> Tensor:
        """Hidden states of all real tokens, (tokens, hidden), in a bare encoder's `output`."""
        mask = self.attention_mask
        states: Tensor = output if mask is None else output[0][mask.bool()]
        return states


def plan_batches(
    lengths: Sequence[int], token_budget: int, max_rows: int | None = None, *, padded: bool = True
) -> Iterator[list[int]]:
    """Yields index lists, longest first, each at most `token_budget` tokens (once padded).

    A sequence longer than the budget gets a batch of its own: nothing is dropped. Longest first,
    so that the largest allocation comes once, at the start.

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
        token_budget: most tokens of a forward pass, padding included, >= 1; on a CPU at most 512
            a thread (or 1,024).
        max_rows: most rows of a forward pass, >= 1, or None.
        packed: on a CPU use the module's packed form if it has one: the same numbers (to float
            rounding), faster.

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
            raise ConfigError(f"token_budget must be at least 1, not {token_budget}")
        if max_rows is not None and max_rows < 1:
            raise ConfigError(f"a batch needs at least 1 row, not {max_rows}")
        self.device = resolve_device(device)
        self.dtype = DTYPES[dtype]
        module = model.to(device=self.device, dtype=self.dtype).eval()
        # The packed form keeps what it needs, so that the module's layers may be freed.
        self._packed = packed_form(module) if packed else None
        self._module = module if self._packed is None else None
        self.pad_token_id = pad_token_id
        self.token_budget = token_budget
        self.max_rows = max_rows
        self.tokens = 0
        """Tokens encoded so far, padding not counted."""

    @property
    def batch_tokens(self) -> int:
        """Most tokens of a forward pass on this device, padding included."""
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

        `consume` runs under `inference_mode` and should copy what it keeps: a view of the output
        holds the whole padded batch in memory.

        Raises:
            ValueError: a sequence is empty, or `consume` gave fewer or more results than rows.
            Stopped: raised by `pause` between two passes.
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


def fit_pair(first: int, second: int, room: int) -> tuple[int, int]:
    """Number of tokens to keep of each text so that both fit into `room`.

    >>> fit_pair(300, 20, 508), fit_pair(600, 20, 508)
    ((300, 20), (488, 20))
    >>> fit_pair(600, 900, 508), fit_pair(5, 900, 508)
    ((254, 254), (5, 503))
    """
    if first + second <= room:
        return first, second
    if second < room:
        return room - second, second
    shorter = min(first, second, room // 2)
    return (room - shorter, shorter) if first > second else (shorter, room - shorter)


def plain_backend(tokenizer: Any) -> Tokenizer:
    """A copy of what tokenises, on which truncation and padding set elsewhere have no effect.

    Raises:
        ConfigError: the transformers tokenizer is a slow one.
    """
    if not getattr(tokenizer, "is_fast", False):
        raise ConfigError(f"{tokenizer.name_or_path} has no fast tokenizer; add its tokenizer.json")
    backend = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    backend.no_truncation()
    backend.no_padding()
    return backend


class PairEncoder:
    """Joins tokenised texts into pairs with the tokenizer's own special tokens, cut to a limit.

    Each text is tokenised once, however many pairs it is in: fast tokenizers encode the halves of a
    pair apart and join them by a template, so joining here gives the same ids. Cutting follows
    AlignScore's published inference for a pair alone: it shortens the first text; where the second
    leaves no room for the first, it cuts the longer of the two ("longest first").

    Args:
        tokenizer: a fast transformers tokenizer; it is copied, not changed.
        limit: most tokens of a pair, special tokens included.
        with_types: whether the encoder distinguishes the texts by token types.

    Raises:
        ConfigError: the tokenizer is a slow one, or `limit` has no room for text.
    """

    def __init__(self, tokenizer: Any, limit: int, *, with_types: bool) -> None:
        self._backend = plain_backend(tokenizer)
        self._with_types = with_types
        self._keep_end = tokenizer.truncation_side == "left"
        self.limit = limit
        self.room = limit - self._backend.num_special_tokens_to_add(True)
        if self.room < 2:
            raise ConfigError(f"an encoder limit of {limit} tokens leaves no room for a pair")
        self._read_template()

    def _read_template(self) -> None:
        """Learns the special tokens around the texts from one encoded pair."""
        probe = self._backend.encode("a", "b")
        sides = probe.sequence_ids
        starts = [sides.index(side) for side in (0, 1)]
        ends = [len(sides) - sides[::-1].index(side) for side in (0, 1)]
        self._type_of = [probe.type_ids[start] for start in starts]
        gaps = [slice(0, starts[0]), slice(ends[0], starts[1]), slice(ends[1], len(sides))]
        self._special_ids = [probe.ids[gap] for gap in gaps]
        self._special_types = [probe.type_ids[gap] for gap in gaps]

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text, without special tokens and uncut."""
        encoded = self._backend.encode_batch_fast(list(texts), add_special_tokens=False)
        return [encoding.ids for encoding in encoded]

    def join(self, first: Sequence[int], second: Sequence[int]) -> tuple[TokenSequence, bool]:
        """The encoder's input for a pair, and whether part of a text was cut off."""
        lengths = len(first), len(second)
        kept = fit_pair(*lengths, self.room)
        cut = kept != lengths
        left, right = self._cut(first, kept[0]), self._cut(second, kept[1])
        before, between, after = self._special_ids
        ids = [*before, *left, *between, *right, *after]
        if not self._with_types:
            return TokenSequence(ids), cut
        before, between, after = self._special_types
        types = [[one] * count for one, count in zip(self._type_of, kept, strict=True)]
        return TokenSequence(ids, [*before, *types[0], *between, *types[1], *after]), cut

    def _cut(self, ids: Sequence[int], count: int) -> Sequence[int]:
        return ids[len(ids) - count :] if self._keep_end else ids[:count]
