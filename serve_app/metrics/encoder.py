"""The one encoder runtime both model metrics share; it knows no metric.

Takes token id sequences, sorts them by length, forms batches under a budget of padded
tokens, runs the module under `inference_mode`, hands each batch's output to a `consume`
function of the metric, and returns the results in the order they came.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

Result = TypeVar("Result")

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True, slots=True)
class TokenSequence:
    """One input of the encoder, special tokens included, unpadded."""

    input_ids: Sequence[int]
    token_type_ids: Sequence[int] | None = None

    def __len__(self) -> int:
        return len(self.input_ids)


@dataclass(frozen=True, slots=True)
class Batch:
    """A padded batch. `indices[row]` is the position of that row among the inputs.

    Shapes: `input_ids`, `attention_mask` and `token_type_ids` are (rows, longest); `lengths`
    has one entry a row.
    """

    indices: list[int]
    lengths: list[int]
    input_ids: Tensor
    attention_mask: Tensor
    token_type_ids: Tensor | None


def resolve_device(name: str) -> torch.device:
    """`auto` is the first GPU there is, else the CPU."""
    if name != "auto":
        return torch.device(name)
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def plan_batches(
    lengths: Sequence[int], token_budget: int, max_rows: int | None = None
) -> Iterator[list[int]]:
    """Yields index lists, longest first, each at most `token_budget` tokens once padded.

    A sequence longer than the budget gets a batch of its own, so nothing is ever dropped.
    Longest first means the largest allocation happens once, at the start.
    """
    order = sorted(range(len(lengths)), key=lambda index: (-lengths[index], index))
    start = 0
    while start < len(order):
        rows = max(1, token_budget // max(1, lengths[order[start]]))
        if max_rows is not None:
            rows = min(rows, max_rows)
        yield order[start : start + rows]
        start += rows


class EncoderRuntime:
    """Runs a transformer module over many sequences.

    Args:
        model: called with `input_ids`, `attention_mask` and, where given, `token_type_ids`.
        pad_token_id: fills the end of shorter rows; masked out.
        device: as `resolve_device`.
        dtype: one of `DTYPES`; anything but float32 changes scores (see docs/performance.md).
        token_budget: most padded tokens a forward pass takes.
        max_rows: most rows a forward pass takes, or None.
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
    ) -> None:
        self.device = resolve_device(device)
        self.dtype = DTYPES[dtype]
        self.model = model.to(device=self.device, dtype=self.dtype).eval()
        self.pad_token_id = pad_token_id
        self.token_budget = token_budget
        self.max_rows = max_rows

    def run(
        self,
        sequences: Sequence[TokenSequence],
        consume: Callable[[Any, Batch], Iterable[Result]],
    ) -> list[Result]:
        """Encodes every sequence; `consume(output, batch)` gives one result for each row.

        Raises:
            ValueError: `consume` gave fewer or more results than the batch has rows.
        """
        results: dict[int, Result] = {}
        with torch.inference_mode():
            for indices in plan_batches(
                [len(sequence) for sequence in sequences], self.token_budget, self.max_rows
            ):
                batch = self._pad(sequences, indices)
                inputs = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask}
                if batch.token_type_ids is not None:
                    inputs["token_type_ids"] = batch.token_type_ids
                output = self.model(**inputs)
                for index, result in zip(batch.indices, consume(output, batch), strict=True):
                    results[index] = result
        return [results[index] for index in range(len(sequences))]

    def _pad(self, sequences: Sequence[TokenSequence], indices: list[int]) -> Batch:
        lengths = [len(sequences[index]) for index in indices]
        shape = (len(indices), max(lengths))
        input_ids = torch.full(shape, self.pad_token_id, dtype=torch.long)
        mask = torch.zeros(shape, dtype=torch.long)
        with_types = sequences[indices[0]].token_type_ids is not None
        types = torch.zeros(shape, dtype=torch.long) if with_types else None
        for row, (index, length) in enumerate(zip(indices, lengths, strict=True)):
            sequence = sequences[index]
            input_ids[row, :length] = torch.tensor(sequence.input_ids, dtype=torch.long)
            mask[row, :length] = 1
            if types is not None:
                types[row, :length] = torch.tensor(sequence.token_type_ids, dtype=torch.long)
        return Batch(
            indices=indices,
            lengths=lengths,
            input_ids=input_ids.to(self.device),
            attention_mask=mask.to(self.device),
            token_type_ids=None if types is None else types.to(self.device),
        )
