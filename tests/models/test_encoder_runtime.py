"""The encoder runtime: plans, padding, order, and independence of how batches fall."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from serve_app.core.errors import ConfigError
from serve_app.models.device import resolve_device
from serve_app.models.encoder_runtime import Batch, EncoderRuntime, TokenSequence, plan_batches

PAD = 7


class ToyEncoder(nn.Module):
    """One layer of real attention over real embeddings, and a record of what it was given."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.tokens = nn.Embedding(50, 16)
        self.types = nn.Embedding(2, 16)
        self.attention = nn.MultiheadAttention(16, 2, batch_first=True)
        self.seen: list[tuple[Tensor, Tensor, Tensor | None]] = []
        self.inference: list[bool] = []

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None = None
    ) -> Tensor:
        self.seen.append((input_ids, attention_mask, token_type_ids))
        self.inference.append(torch.is_inference_mode_enabled())
        states = self.tokens(input_ids)
        if token_type_ids is not None:
            states = states + self.types(token_type_ids)
        padding = attention_mask == 0
        mixed, _ = self.attention(states, states, states, key_padding_mask=padding)
        return mixed


def first_and_length(output: Tensor, batch: Batch) -> Iterator[tuple[Tensor, int]]:
    for row, length in enumerate(batch.lengths):
        yield output[row, 0].clone(), length


def sequences_of(lengths: list[int], *, types: bool = False) -> list[TokenSequence]:
    generator = torch.Generator().manual_seed(1)
    made = []
    for length in lengths:
        ids = torch.randint(8, 50, (length,), generator=generator).tolist()
        kinds = [position % 2 for position in range(length)] if types else None
        made.append(TokenSequence(ids, kinds))
    return made


def runtime(**options: object) -> tuple[EncoderRuntime, ToyEncoder]:
    model = ToyEncoder()
    return EncoderRuntime(model, pad_token_id=PAD, device="cpu", **options), model  # type: ignore[arg-type]


lengths_lists = st.lists(st.integers(1, 200), max_size=60)


@given(lengths_lists, st.integers(1, 500), st.none() | st.integers(1, 10))
def test_a_plan_takes_every_sequence_once_within_budget_and_rows(lengths, budget, max_rows):
    batches = list(plan_batches(lengths, budget, max_rows))
    assert sorted(index for batch in batches for index in batch) == list(range(len(lengths)))
    for batch in batches:
        padded = len(batch) * max(lengths[index] for index in batch)
        assert padded <= budget or len(batch) == 1
        assert max_rows is None or len(batch) <= max_rows


@given(lengths_lists, st.integers(1, 500))
def test_a_plan_runs_from_long_to_short_and_fills_batches(lengths, budget):
    batches = list(plan_batches(lengths, budget))
    flat = [lengths[index] for batch in batches for index in batch]
    assert flat == sorted(lengths, reverse=True)
    for batch in batches[:-1]:
        assert (len(batch) + 1) * lengths[batch[0]] > budget, "one more would have fitted"


def test_results_come_in_the_order_of_the_inputs():
    lengths = [3, 11, 1, 7, 11, 2, 30, 5]
    engine, _ = runtime(token_budget=24)
    results = engine.run(sequences_of(lengths), first_and_length)
    assert [length for _, length in results] == lengths


def test_rows_are_padded_to_the_longest_of_their_batch_only():
    lengths = [3, 11, 1, 7, 11, 2, 30, 5]
    sequences = sequences_of(lengths)
    engine, model = runtime(token_budget=24)
    batches: list[Batch] = []

    def keep(output: Tensor, batch: Batch) -> list[None]:
        batches.append(batch)
        return [None] * len(batch.indices)

    engine.run(sequences, keep)
    assert len(model.seen) == len(batches) > 2
    for (ids, mask, types), batch in zip(model.seen, batches, strict=True):
        assert ids.shape == mask.shape == (len(batch.indices), max(batch.lengths))
        assert ids.numel() <= 24 or len(batch.indices) == 1
        assert mask.sum(dim=1).tolist() == batch.lengths
        assert types is None
        for row, (index, length) in enumerate(zip(batch.indices, batch.lengths, strict=True)):
            assert ids[row, :length].tolist() == list(sequences[index].input_ids)
            assert (ids[row, length:] == PAD).all()


def test_max_rows_holds():
    engine, model = runtime(token_budget=1000, max_rows=3)
    engine.run(sequences_of([4] * 10), first_and_length)
    assert [len(ids) for ids, _, _ in model.seen] == [3, 3, 3, 1]


def test_a_sequence_over_the_budget_is_run_alone():
    engine, model = runtime(token_budget=16)
    engine.run(sequences_of([5, 40, 6]), first_and_length)
    assert [tuple(ids.shape) for ids, _, _ in model.seen] == [(1, 40), (2, 6)]


@pytest.mark.parametrize("types", [False, True])
def test_a_result_does_not_depend_on_its_neighbours(types):
    sequences = sequences_of([3, 11, 1, 7, 25, 2, 30, 5], types=types)
    together, _ = runtime(token_budget=120)
    alone, _ = runtime(max_rows=1)
    for mixed, single in zip(
        together.run(sequences, first_and_length),
        alone.run(sequences, first_and_length),
        strict=True,
    ):
        torch.testing.assert_close(mixed[0], single[0], atol=1e-6, rtol=0)


def test_token_types_reach_the_model_and_missing_ones_are_zero():
    engine, model = runtime()
    engine.run([TokenSequence([9, 9, 9], [0, 1, 1]), TokenSequence([9, 9])], first_and_length)
    [(_, _, types)] = model.seen
    assert types is not None
    assert types.tolist() == [[0, 1, 1], [0, 0, 0]]


def test_the_model_runs_in_inference_mode_and_eval():
    engine, model = runtime()
    engine.run(sequences_of([2, 3]), first_and_length)
    assert model.inference == [True]
    assert not model.training


@pytest.mark.parametrize("change", [-1, 1])
def test_a_wrong_number_of_results_raises(change):
    engine, _ = runtime()
    with pytest.raises(ValueError, match="results for 4 rows"):
        engine.run(sequences_of([2] * 4), lambda output, batch: [0] * (len(batch.indices) + change))


def test_an_empty_sequence_raises_naming_it():
    engine, _ = runtime()
    with pytest.raises(ValueError, match="sequence 1 has no tokens"):
        engine.run([TokenSequence([9]), TokenSequence([])], first_and_length)


def test_nothing_to_run_gives_nothing():
    engine, model = runtime()
    assert engine.run([], first_and_length) == []
    assert model.seen == []


def test_a_cpu_takes_smaller_batches_than_a_large_budget_allows():
    small, _ = runtime(token_budget=100)
    large, model = runtime(token_budget=10**9)
    assert small.batch_tokens == 100
    large.run(sequences_of([100] * 200), first_and_length)
    assert max(ids.numel() for ids, _, _ in model.seen) <= large.batch_tokens < 10**9
    assert large.batch_tokens >= 1024


def test_weights_take_the_dtype_asked_for():
    engine, model = runtime(dtype="bfloat16")
    [result] = engine.run(sequences_of([4]), first_and_length)
    assert {weight.dtype for weight in model.parameters()} == {torch.bfloat16}
    assert result[0].dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"dtype": "int8"}, "METRICS_DTYPE"),
        ({"token_budget": 0}, "TOKEN_BUDGET"),
        ({"max_rows": 0}, "row"),
    ],
)
def test_a_wrong_option_is_named(options, named):
    with pytest.raises(ConfigError, match=named):
        runtime(**options)


def test_devices_are_resolved_or_refused_by_name():
    expected = "cuda" if torch.cuda.is_available() else "cpu"
    assert resolve_device("auto").type == expected
    assert resolve_device("cpu") == torch.device("cpu")
    with pytest.raises(ConfigError, match="DEVICE"):
        resolve_device("quantum")
    with pytest.raises(ConfigError, match="CUDA devices"):
        resolve_device("cuda:99")
