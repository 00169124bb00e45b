"""The packed encoder against the transformers module whose weights it runs."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import (
    AlbertConfig,
    AlbertModel,
    BertConfig,
    BertModel,
    RobertaConfig,
    RobertaModel,
    XLMRobertaConfig,
    XLMRobertaModel,
)

from serve_app.metrics.align_model import AlignModel
from serve_app.models import packed_encoder
from serve_app.models.encoder_runtime import EncoderRuntime, TokenSequence
from serve_app.models.packed_encoder import PackedEncoder, packed_form, supports

SIZES = {
    "vocab_size": 60,
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 64,
}
PAD = 1


def network(kind: str, **changes: Any) -> Any:
    torch.manual_seed(0)
    made = {
        "bert": (BertModel, BertConfig),
        "roberta": (RobertaModel, RobertaConfig),
        "xlm-roberta": (XLMRobertaModel, XLMRobertaConfig),
    }
    model, config = made[kind]
    positions = 130 if kind != "bert" else 128
    options = {**SIZES, "max_position_embeddings": positions, "pad_token_id": PAD, **changes}
    return model(config(**options), add_pooling_layer=True).eval()


def sample(lengths: list[int], *, types: bool, seed: int = 0) -> list[TokenSequence]:
    generator = torch.Generator().manual_seed(seed)
    rows = []
    for length in lengths:
        ids = torch.randint(2, 60, (length,), generator=generator).tolist()
        kinds = [int(at > length // 2) for at in range(length)]
        rows.append(TokenSequence(ids, kinds if types else None))
    return rows


def states(model: Any, rows: list[TokenSequence], *, packed: bool, budget: int = 300) -> Any:
    runtime = EncoderRuntime(
        model, pad_token_id=PAD, device="cpu", token_budget=budget, packed=packed
    )
    # Else both sides of a comparison would be the module, and equal whatever the packed form does.
    assert (runtime._packed is not None) == packed
    return runtime.run(
        rows, lambda output, batch: torch.split(batch.token_states(output).clone(), batch.lengths)
    )


def distance(left: Any, right: Any) -> float:
    pairs = zip(left, right, strict=True)
    return max(float((a.float() - b.float()).abs().max()) for a, b in pairs)


@pytest.mark.parametrize("kind", ["bert", "roberta", "xlm-roberta"])
@pytest.mark.parametrize("types", [False, True])
def test_states_equal_the_modules_own(kind, types):
    model = network(kind, type_vocab_size=2)
    rows = sample([1, 128, 5, 5, 17, 64, 5, 99, 128, 2], types=types)
    assert distance(states(model, rows, packed=True), states(model, rows, packed=False)) < 2e-6


@settings(deadline=None, max_examples=25)
@given(st.lists(st.integers(1, 60), min_size=1, max_size=12), st.integers(1, 400))
def test_lengths_and_budget_do_not_change_a_text(lengths, budget):
    model = network("bert")
    rows = sample(lengths, types=False)
    together = states(model, rows, packed=True, budget=budget)
    alone = [states(model, [row], packed=True)[0] for row in rows]
    assert distance(together, alone) < 2e-6


def test_a_padding_token_spelled_out_in_a_text_counts_as_roberta_counts_it():
    model = network("roberta")
    rows = [TokenSequence([5, PAD, 6, 7, PAD, 8]), TokenSequence([9, 10, PAD])]
    # A row of its own each: the module reads a padding token's position off the ids alone.
    assert distance(states(model, rows, packed=True), states(model, rows, packed=False)) < 2e-6


def test_first_tokens_alone_equal_those_of_all_states():
    model = network("roberta")
    lengths = [40, 40, 7, 3, 1]
    ids = torch.cat([torch.tensor(row.input_ids) for row in sample(lengths, types=False)])
    every = PackedEncoder(model)(ids, None, lengths)
    first = PackedEncoder(model, first_only=True)(ids, None, lengths)
    starts = torch.tensor([0, 40, 80, 87, 90])
    assert float((first - every[starts]).abs().max()) < 2e-6


def test_an_encoder_cut_to_its_embeddings_is_packed_too():
    model = network("bert", num_hidden_layers=0)
    rows = sample([4, 9], types=False)
    assert distance(states(model, rows, packed=True), states(model, rows, packed=False)) < 1e-6
    ids = torch.tensor([*rows[0].input_ids, *rows[1].input_ids])
    assert PackedEncoder(model, first_only=True)(ids, None, [4, 9]).shape == (2, 32)


@pytest.mark.parametrize("kind", ["bert", "roberta"])
def test_alignscore_logits_equal_the_padded_network(kind):
    model = AlignModel(network(kind, type_vocab_size=2)).eval()
    rows = sample([30, 30, 11, 90, 2], types=kind == "bert")

    def logits(packed: bool) -> Any:
        runtime = EncoderRuntime(model, pad_token_id=PAD, device="cpu", packed=packed)
        assert (runtime._packed is not None) == packed
        return runtime.run(rows, lambda output, _: list(torch.cat(output, dim=1).clone()))

    assert distance(logits(True), logits(False)) < 2e-6


def test_without_onednn_the_numbers_are_the_same(monkeypatch):
    model = network("bert")
    rows = sample([50, 20, 20], types=False)
    fused = states(model, rows, packed=True)
    monkeypatch.setattr(packed_encoder, "_linear_kind", lambda dtype: packed_encoder._Linear)
    assert distance(states(model, rows, packed=True), fused) < 2e-6


@pytest.mark.parametrize("first_only", [False, True])
def test_products_see_token_counts_in_steps_only(monkeypatch, first_only):
    # oneDNN keeps a compiled product for each count it meets: any count at all is a memory leak.
    seen: set[int] = set()

    class Counting(packed_encoder._Linear):
        def __call__(self, x):
            seen.add(x.shape[0])
            return super().__call__(x)

    monkeypatch.setattr(packed_encoder, "_linear_kind", lambda dtype: Counting)
    encoder = PackedEncoder(network("bert"), first_only=first_only)
    for tokens in range(1, 100):
        encoder(torch.full((tokens,), 5), None, [tokens])
    counts = {32, 64, 96, 128}
    # The last layer takes one token of each sequence, and of the one that fills the step.
    assert seen == (counts | {1, 2} if first_only else counts)


def test_bfloat16_stays_as_near_as_the_modules_own():
    rows = sample([50, 20, 20], types=False)
    exact = states(network("bert"), rows, packed=False)

    def rounded(packed: bool) -> float:
        runtime = EncoderRuntime(
            network("bert"), pad_token_id=PAD, device="cpu", dtype="bfloat16", packed=packed
        )
        assert (runtime._packed is not None) == packed
        found = runtime.run(
            rows, lambda out, batch: torch.split(batch.token_states(out).clone(), batch.lengths)
        )
        return distance(found, exact)

    assert 0 < rounded(True) < 1.5 * rounded(False)


def test_other_networks_run_as_they_are():
    assert not supports(network("bert", hidden_act="relu"))
    assert packed_form(network("bert", hidden_act="relu")) is None
    assert packed_form(network("bert", is_decoder=True)) is None
    config = AlbertConfig(**SIZES, embedding_size=16, max_position_embeddings=64)
    albert = AlbertModel(config)
    assert packed_form(albert) is None
    assert packed_form(AlignModel(albert)) is None
    assert packed_form(torch.nn.Linear(2, 2)) is None
