"""Drafts from the source: the same text in fewer passes, in any company."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch

from serve_app.generation.causal.decoding import Row
from serve_app.generation.causal.lookup import MOST, Lookup
from serve_app.generation.causal.scheduler import Scheduler, SequenceStream
from serve_app.generation.protocol import GenerationParams
from serve_app.models.packed_decoder import PackedDecoder
from tests.models.test_quantised import vnni
from tests.support.tiny_models import make_llama, make_tokenizer, speak

END = 1
TEXT = list(range(20, 120))
PRECISIONS = ["float32", pytest.param("int8", marks=vnni)]


def packed(module: Any, precision: str = "float32") -> PackedDecoder:
    return PackedDecoder(module.config, module.state_dict().__getitem__, precision)


@pytest.fixture(scope="module", params=PRECISIONS)
def wavering(request: pytest.FixtureRequest) -> PackedDecoder:
    """Goes on with TEXT at nine tokens of ten, so that drafts are right and wrong."""
    module = make_llama(make_tokenizer(), context=512)
    speak(module, [*TEXT, END])
    with torch.no_grad():
        module.lm_head.weight.mul_(0.25)
    return packed(module, request.param)


@pytest.fixture(scope="module", params=PRECISIONS)
def copier(request: pytest.FixtureRequest) -> PackedDecoder:
    """Writes TEXT from wherever it is in it, and END after it."""
    module = make_llama(make_tokenizer(), context=512)
    speak(module, [*TEXT, END])
    return packed(module, request.param)


def run(
    model: PackedDecoder, rows: list[Row], *, lookup: bool, **options: Any
) -> tuple[list[tuple[list[int], str | None]], int]:
    """What each row writes and why it ends, and the passes it took."""
    streams = [SequenceStream(row) for row in rows]
    scheduler = Scheduler(model, **{"stop_ids": {END}, "max_rows": 6, "lookup": lookup, **options})
    scheduler.submit(streams)
    return [(stream.wait(), stream.finish_reason) for stream in streams], scheduler.passes


def copy_of(start: int, new: int, **sampling: Any) -> Row:
    """A prompt that has TEXT, and ends with the token `start` of it."""
    options = {"temperature": 0.0, "repeat_penalty": 1.0, **sampling}
    return Row((*TEXT, 300, TEXT[start - 1], TEXT[start]), GenerationParams(new, **options))


# --- the drafts themselves ------------------------------------------------------------------


def test_a_draft_is_what_followed_the_last_tokens_before() -> None:
    lookup = Lookup([1, 2, 3, 4, 5, 6, 7, 8, 9, 2, 3])
    assert lookup.draft(3) == [4, 5, 6]
    lookup.add(77)
    assert lookup.draft(3) == []
    for token in (3, 4):
        lookup.add(token)
    assert lookup.draft(2) == [5, 6]


def test_the_longest_run_of_tokens_counts_and_then_the_latest() -> None:
    lookup = Lookup([1, 2, 3, 10, 8, 2, 3, 20, 1, 2, 3])
    assert lookup.draft(1) == [10]
    assert Lookup([2, 3, 10, 2, 3, 20, 2, 3]).draft(1) == [20]
    assert Lookup([5]).draft(4) == []


def test_drafts_grow_while_they_are_right() -> None:
    lookup = Lookup([*range(50), 0, 1, 2])
    first = len(lookup.draft(MOST))
    lookup.learn(first, first)
    assert len(lookup.draft(MOST)) == 2 * first
    lookup.learn(2 * first, 1)
    assert len(lookup.draft(MOST)) == 2
    for _ in range(9):
        lookup.learn(1, 1)
    assert len(lookup.draft(100)) == MOST


# --- in the decoding loop -------------------------------------------------------------------


def test_copied_text_takes_few_passes_and_ends_where_it_would(copier: PackedDecoder) -> None:
    row = copy_of(10, 200)
    [(plain, why)], passes = run(copier, [row], lookup=False)
    assert (plain, why) == (TEXT[11:], "stop")
    assert passes == len(plain) + 1
    [drafted], fewer = run(copier, [row], lookup=True)
    assert drafted == (plain, why)
    assert fewer < passes / 4


@pytest.mark.parametrize("new", [1, 2, 3, 7, 20])
def test_no_row_writes_more_than_it_may(copier: PackedDecoder, new: int) -> None:
    assert run(copier, [copy_of(10, new)], lookup=True)[0] == [(TEXT[11 : 11 + new], "length")]


def test_rows_of_any_kind_write_together_with_drafts_what_they_write_alone_without(
    wavering: PackedDecoder,
) -> None:
    draw = random.Random(3)
    rows = []
    for index in range(24):
        start = draw.randrange(80)
        noise = [draw.randrange(10, 256) for _ in range(draw.choice([0, 3, 30]))]
        prompt = (*TEXT[draw.randrange(40) :], *noise, *TEXT[start : start + 3])
        params = GenerationParams(
            draw.choice([1, 5, 40, 90]),
            temperature=draw.choice([0.0, 0.05, 0.9]),
            top_p=draw.choice([0.5, 1.0]),
            repeat_penalty=draw.choice([1.0, 1.2]),
            seed=index,
        )
        rows.append(Row(prompt, params))
    alone = [run(wavering, [row], lookup=False) for row in rows]
    expected = [found for [found], _ in alone]
    together, _ = run(wavering, rows, lookup=True, prefill_tokens=16)
    assert together == expected
    singly = [run(wavering, [row], lookup=True) for row in rows]
    assert [found for [found], _ in singly] == expected
    assert len({tuple(tokens) for tokens, _ in expected}) > 15, "alike rows prove nothing"
    assert sum(n for _, n in singly) < 0.9 * sum(n for _, n in alone), "no draft was right"


def test_candidates_of_one_prompt_draw_apart_with_drafts_too(wavering: PackedDecoder) -> None:
    rows = [copy_of(10, 60, temperature=0.9, top_p=1.0, seed=seed) for seed in range(3)]
    expected, passes = run(wavering, rows, lookup=False)
    assert len({tuple(tokens) for tokens, _ in expected}) == 3
    found, fewer = run(wavering, rows, lookup=True)
    assert found == expected
    assert fewer < passes


def test_a_cancelled_row_keeps_what_its_passes_wrote(copier: PackedDecoder) -> None:
    asked: list[int] = []

    def cancelled() -> bool:
        asked.append(1)
        return len(asked) > 4

    stream = SequenceStream(copy_of(10, 200), cancelled=cancelled)
    Scheduler(copier, stop_ids={END}, max_rows=1).submit([stream])
    tokens = stream.wait()
    assert stream.finish_reason == "cancelled"
    assert tokens == TEXT[11 : 11 + len(tokens)]
    assert 2 < len(tokens) < 89


def test_many_rows_leave_no_room_for_drafts(copier: PackedDecoder) -> None:
    rows = [copy_of(start, 30) for start in range(5, 5 + copier.free_tokens)]
    _, together = run(copier, rows, lookup=True, max_rows=len(rows), prefill_tokens=10_000)
    assert together == 30
