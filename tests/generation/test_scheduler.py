"""The scheduler: rows of many calls in one batch, each as if it were alone; limits and failures."""

from __future__ import annotations

import gc
import itertools
import random
import threading
import time
import weakref
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch

from serve_app.core.errors import PlainMedError
from serve_app.generation.causal.decoding import Row
from serve_app.generation.causal.kv_cache import without
from serve_app.generation.causal.scheduler import Scheduler, SequenceStream
from serve_app.generation.protocol import GenerationParams
from tests.support.servers import wait_for
from tests.support.tiny_models import make_llama, make_tokenizer

VOCABULARY = 400
END = 1
pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def model() -> Any:
    return make_llama(make_tokenizer(), context=512)


def make(model: Any, **options: Any) -> Scheduler:
    return Scheduler(model, **{"stop_ids": {END}, "max_rows": 4, **options})


def row(length: int, new: int = 20, *, seed: int = 0, **sampling: Any) -> Row:
    """A prompt of `length` ordinary tokens, drawn by `seed`, that writes at most `new`."""
    draw = random.Random(1000 * length + seed)
    prompt = tuple(draw.randrange(10, 256) for _ in range(length))
    options = {"temperature": 0.9, "seed": seed, **sampling}
    return Row(prompt, GenerationParams(max_new_tokens=new, **options))


def alone(model: Any, rows: Sequence[Row]) -> list[tuple[list[int], str | None]]:
    """What each row writes with nobody beside it, its prompt read at once."""
    found = []
    for one in rows:
        stream = SequenceStream(one)
        make(model, max_rows=1, prefill_tokens=10_000).submit([stream])
        found.append((stream.wait(), stream.finish_reason))
    return found


def finished(streams: Sequence[SequenceStream]) -> list[tuple[list[int], str | None]]:
    return [(stream.wait(), stream.finish_reason) for stream in streams]


class Watch:
    """The passes of a model: (rows, new tokens) of each."""

    def __init__(self, model: Any) -> None:
        self.passes: list[tuple[int, int]] = []
        self._handle = model.register_forward_pre_hook(self._note, with_kwargs=True)

    def _note(self, module: Any, args: Any, kwargs: dict[str, Any]) -> None:
        self.passes.append(tuple(kwargs["input_ids"].shape))

    def __enter__(self) -> Watch:
        return self

    def __exit__(self, *_: object) -> None:
        self._handle.remove()


# --- together as alone ----------------------------------------------------------------------


def test_rows_of_many_calls_write_what_they_write_alone(model: Any) -> None:
    draw = random.Random(3)
    rows = [
        row(
            draw.choice([1, 3, 20, 90, 200]),
            draw.choice([1, 5, 40, 150]),
            seed=index,
            temperature=draw.choice([0.0, 0.7, 1.3]),
            repeat_penalty=draw.choice([1.0, 1.2]),
            top_p=draw.choice([0.5, 0.95, 1.0]),
        )
        for index in range(18)
    ]
    expected = alone(model, rows)
    assert len({tuple(tokens) for tokens, _ in expected}) > 15, "alike rows prove nothing"
    subject = make(model, max_rows=5, prefill_tokens=32)

    def call(part: Sequence[Row]) -> list[tuple[list[int], str | None]]:
        time.sleep(draw.random() / 20)
        streams = [SequenceStream(one, live=False) for one in part]
        subject.submit(streams)
        return finished(streams)

    parts = [rows[:1], rows[1:7], rows[7:10], rows[10:11], rows[11:]]
    with Watch(model) as watch, ThreadPoolExecutor(len(parts)) as pool:
        found = [result for results in pool.map(call, parts) for result in results]
    assert found == expected
    assert max(count for count, _ in watch.passes) == 5
    assert len(watch.passes) < sum(len(tokens) for tokens, _ in expected) / 2, "not merged"


def test_a_row_joins_others_under_way(model: Any) -> None:
    first, second = row(30, 120, seed=1), row(60, 30, seed=2)
    expected = alone(model, [first, second])
    subject = make(model)
    early, late = SequenceStream(first), SequenceStream(second)
    with Watch(model) as watch:
        subject.submit([early])
        wait_for(lambda: len(early.tokens) > 5)
        subject.submit([late])
        assert finished([early, late]) == expected
    assert (2, 1) in watch.passes


def test_equal_prompts_are_read_once_and_drawn_apart(model: Any) -> None:
    rows = [
        Row(row(50).prompt, GenerationParams(12, temperature=1.0, seed=seed)) for seed in range(4)
    ]
    expected = alone(model, rows)
    assert len({tuple(tokens) for tokens, _ in expected}) == 4
    streams = [SequenceStream(one) for one in rows]
    with Watch(model) as watch:
        make(model).submit(streams)
        assert finished(streams) == expected
    assert watch.passes[0] == (1, 50)
    assert watch.passes[1] == (4, 1)


def test_filling_places_from_the_end_moves_only_what_it_must() -> None:
    for count in range(1, 6):
        for size in range(count + 1):
            for gone in itertools.combinations(range(count), size):
                kept = without(count, gone)
                assert sorted(kept) == [at for at in range(count) if at not in gone]
                # A row is only ever copied over one that is gone.
                assert all(at == old or at in gone for at, old in enumerate(kept))


# --- sharing the model ----------------------------------------------------------------------


def test_a_long_prompt_does_not_keep_others_from_writing(model: Any) -> None:
    subject = make(model, prefill_tokens=16)
    writer, reader = SequenceStream(row(5, 300, seed=1)), SequenceStream(row(160, 3, seed=2))
    with Watch(model) as watch:
        subject.submit([writer])
        wait_for(lambda: bool(writer.tokens))
        subject.submit([reader])
        reader.wait()
        writer.cancel()
    parts = [at for at, (_, new) in enumerate(watch.passes) if new > 1]
    assert sum(watch.passes[at][1] for at in parts) == 5 + 160
    assert all(watch.passes[at][1] <= 16 for at in parts)
    assert all(after - before == 2 for before, after in itertools.pairwise(parts[1:]))


def test_a_request_of_many_rows_does_not_keep_a_small_one_waiting(model: Any) -> None:
    many = [SequenceStream(row(5, 30, seed=index)) for index in range(24)]
    one = SequenceStream(row(6, 30, seed=99))
    subject = make(model, max_rows=2)
    subject.submit(many)
    subject.submit([one])
    one.wait()
    assert sum(stream.finish_reason is not None for stream in many) <= 6
    assert all(reason == "length" for _, reason in finished(many))


def test_calls_of_one_tenant_queue_up_and_take_turns_with_other_tenants(
    model: Any,
) -> None:
    """The rows of a large request come in calls of their own."""
    many = [SequenceStream(row(5, 30, seed=index), tenant="large") for index in range(24)]
    one = SequenceStream(row(6, 30, seed=99), tenant="one")
    subject = make(model, max_rows=2)
    for stream in many:
        subject.submit([stream])
    subject.submit([one])
    one.wait()
    assert sum(stream.finish_reason is not None for stream in many) <= 6
    assert all(reason == "length" for _, reason in finished(many))


def test_no_more_rows_are_under_way_than_allowed(model: Any) -> None:
    streams = [SequenceStream(row(4, 6, seed=index)) for index in range(9)]
    with Watch(model) as watch:
        make(model, max_rows=3).submit(streams)
        finished(streams)
    assert max(count for count, _ in watch.passes) == 3


# --- limits ---------------------------------------------------------------------------------


def test_a_cancelled_row_ends_and_nothing_more_is_computed(model: Any) -> None:
    gone = threading.Event()
    stream = SequenceStream(row(10, 400), cancelled=gone.is_set)
    subject = make(model)
    subject.submit([stream])
    wait_for(lambda: len(stream.tokens) > 3)
    gone.set()
    tokens = stream.wait()
    assert stream.finish_reason == "cancelled"
    assert len(tokens) < 400
    seen = subject.passes
    time.sleep(0.2)
    assert subject.passes == seen


def test_a_row_cancelled_while_it_waits_or_is_read_never_writes(model: Any) -> None:
    subject = make(model, max_rows=1, prefill_tokens=4)
    gone = threading.Event()
    busy = SequenceStream(row(5, 400, seed=1))
    subject.submit([busy])
    wait_for(lambda: bool(busy.tokens))
    waiting = SequenceStream(row(5, 30, seed=2), cancelled=gone.is_set)
    subject.submit([waiting])
    gone.set()
    assert waiting.wait() == []
    assert waiting.finish_reason == "cancelled"
    busy.cancel()
    asked: list[int] = []

    def soon() -> bool:
        asked.append(1)
        return len(asked) > 2

    read = SequenceStream(row(400, 30, seed=3), cancelled=soon)
    before = subject.passes
    subject.submit([read])
    assert read.wait() == []
    assert read.finish_reason == "cancelled"
    assert subject.passes - before < 10, "the whole prompt of 400 was read for nobody"


def test_a_row_out_of_time_keeps_what_it_wrote(model: Any) -> None:
    one = row(10, 150)
    [(whole, _)] = alone(model, [one])
    slow = model.register_forward_pre_hook(lambda *_: time.sleep(0.01))
    late = SequenceStream(one, deadline=time.monotonic() + 0.5)
    never = SequenceStream(row(10, 5, seed=1), deadline=time.monotonic() - 1)
    make(model).submit([late, never])
    tokens = late.wait()
    slow.remove()
    assert late.finish_reason == "time"
    assert 0 < len(tokens) < len(whole)
    assert tokens == whole[: len(tokens)]
    assert (never.wait(), never.finish_reason) == ([], "time")


# --- failures -------------------------------------------------------------------------------


def test_a_prompt_the_model_cannot_read_fails_alone(model: Any) -> None:
    good, bad = row(6, 8, seed=1), Row((5, VOCABULARY + 999, 7), GenerationParams(8, seed=0))
    expected = alone(model, [good])
    streams = [SequenceStream(bad), SequenceStream(good)]
    make(model, prefill_tokens=100).submit(streams)
    with pytest.raises(PlainMedError, match="IndexError") as caught:
        streams[0].wait()
    assert caught.value.code == "generation_failed"
    assert finished(streams[1:]) == expected


def test_a_row_with_logits_that_are_not_finite_leaves_nothing_behind() -> None:
    poisoned = make_llama(make_tokenizer())
    with torch.no_grad():
        poisoned.model.embed_tokens.weight[300] = float("nan")
    good = [row(20, 40, seed=1), row(3, 40, seed=2), row(9, 25, seed=3)]
    expected = alone(poisoned, good)
    bad = Row((5, 300, *range(10, 60)), GenerationParams(8, seed=0))
    subject = make(poisoned, max_rows=2)
    streams = [SequenceStream(one) for one in (good[0], bad, good[1], good[2])]
    subject.submit(streams)
    with pytest.raises(PlainMedError, match="not finite"):
        streams[1].wait()
    # Among them one in the place of the bad row, whose numbers are masked but still there.
    assert finished([streams[0], *streams[2:]]) == expected


def test_a_pass_that_fails_ends_its_rows_and_the_next_call_starts_afresh(model: Any) -> None:
    subject = make(model)
    streams = [SequenceStream(row(5, 50, seed=index)) for index in range(2)]
    calls: list[int] = []

    def fail(*_: object) -> None:
        calls.append(1)
        if len(calls) == 4:
            raise MemoryError

    handle = model.register_forward_pre_hook(fail)
    try:
        subject.submit(streams)
        for stream in streams:
            with pytest.raises(PlainMedError, match="GENERATOR_BATCH"):
                stream.wait()
    finally:
        handle.remove()
    again = [row(5, 50, seed=0)]
    stream = SequenceStream(again[0])
    subject.submit([stream])
    assert finished([stream]) == alone(model, again)


def test_a_callback_that_raises_leaves_nobody_waiting(
    model: Any, caplog: pytest.LogCaptureFixture
) -> None:
    def broken() -> bool:
        raise KeyError("Jane Roe has lupus")

    streams = [
        SequenceStream(row(5, 20, seed=1), cancelled=broken),
        SequenceStream(row(5, 20, seed=2)),
    ]
    subject = make(model)
    subject.submit(streams)
    for stream in streams:
        with pytest.raises(PlainMedError):
            stream.wait()
    again = SequenceStream(row(5, 20, seed=2))
    subject.submit([again])
    assert finished([again]) == alone(model, [again.row])
    # The log has the kind and the place of it; its message may quote a text.
    assert "KeyError" in caplog.text
    assert "broken" in caplog.text
    assert "Jane" not in caplog.text


def test_there_is_no_thread_and_nothing_held_when_there_is_no_work() -> None:
    subject = make(make_llama(make_tokenizer()))
    stream = SequenceStream(row(5, 5))
    subject.submit([stream])
    stream.wait()
    wait_for(lambda: not any(thread.name == "decoding" for thread in threading.enumerate()))
    seen = weakref.ref(subject)
    del subject
    gc.collect()
    assert seen() is None
