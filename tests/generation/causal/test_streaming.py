"""Where a summary ends: stop tokens, limits, time, a reader that goes away; and its pieces."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from serve_app.core.errors import ConfigError, PlainMedError, Unavailable
from serve_app.generation import best_of
from serve_app.generation.causal.engine import TransformersGenerator
from serve_app.generation.protocol import GenerationParams, Summary
from serve_app.models.causal_lm import CausalModel
from tests.generation.causal.engines import GREEDY, PROMPT, TEXTS, engine, model_of, speaking
from tests.support.tiny_models import CHAT_TEMPLATE, make_llama, make_tokenizer, speak

# --- stops and counts -------------------------------------------------------------------


@pytest.mark.parametrize("stop", ["<|end|>", "<|sentence_end|>"])
def test_stops_at_the_stop_token_and_leaves_it_out(stop: str) -> None:
    subject = speaking(" Fewer patients.", stop)
    summary = subject.generate(["Any text."], [GREEDY])[0]
    assert summary.text == "Fewer patients."
    assert summary.finish_reason == "stop"
    assert summary.model == "speaker"
    assert not summary.truncated
    tokenizer = make_tokenizer()
    assert summary.completion_tokens == len(tokenizer(" Fewer patients.")["input_ids"])
    prompt = "<|begin|>You rewrite medical text.\n\nSummarise:\n\nAny text.\n\n"
    with_begin = tokenizer(prompt)["input_ids"]
    assert summary.prompt_tokens == len(with_begin) - 1  # this tokenizer adds no BOS itself


def test_stops_at_every_end_the_generation_config_lists(tmp_path: Path) -> None:
    subject = speaking(" Less pain.", "<|eot_id|>")
    assert subject.generate(["Any."], [GREEDY])[0].finish_reason == "length"
    model_of(subject).generation_config.eos_token_id = [1, 4]
    model_of(subject).save_pretrained(tmp_path)
    make_tokenizer().save_pretrained(tmp_path)
    loaded = engine(tmp_path)
    summary = loaded.generate(["Any."], [GREEDY])[0]
    assert (summary.text, summary.finish_reason) == ("Less pain.", "stop")


def test_length_cuts_at_max_new_tokens(plain: TransformersGenerator) -> None:
    params = GenerationParams(max_new_tokens=7, temperature=0.0)
    summary = plain.generate(TEXTS[:1], [params])[0]
    assert (summary.finish_reason, summary.completion_tokens) == ("length", 7)


def test_rows_that_end_early_leave_the_others_as_they_are(plain: TransformersGenerator) -> None:
    params = [
        GenerationParams(max_new_tokens=n, temperature=0.0, repeat_penalty=1.1)
        for n in (3, 50, 1, 50, 20)
    ]
    together = plain.generate(TEXTS, params)
    assert [s.completion_tokens for s in together] == [3, 50, 1, 50, 20]
    assert together == [plain.generate([t], [p])[0] for t, p in zip(TEXTS, params, strict=True)]


# --- streaming and cancelling -----------------------------------------------------------


def test_stream_gives_whole_characters_and_the_text_of_generate() -> None:
    said = " \tPain:é😀(38.5°C)"
    subject = speaking(said, "<|end|>")
    *pieces, last = subject.stream("Any text.", GREEDY)
    assert isinstance(last, Summary)
    assert all(isinstance(piece, str) and piece for piece in pieces)
    assert len(pieces) > 4
    assert not any("\ufffd" in piece for piece in pieces if isinstance(piece, str))
    assert "".join(map(str, pieces)) == last.text == said.strip()
    assert last == subject.generate(["Any text."], [GREEDY])[0]


def test_stream_equals_generate_for_sampled_text(plain: TransformersGenerator) -> None:
    params = GenerationParams(max_new_tokens=60, temperature=1.0, seed=5)
    *pieces, last = plain.stream(TEXTS[1], params)
    assert "".join(map(str, pieces)) == last.text
    assert last == plain.generate([TEXTS[1]], [params])[0]


def test_a_character_cut_off_by_the_limit_is_left_out() -> None:
    subject = speaking("Pain 😀", "<|end|>")
    whole = subject.generate(["Any."], [GREEDY])[0]
    params = GenerationParams(max_new_tokens=whole.completion_tokens - 1, temperature=0.0)
    cut = subject.generate(["Any."], [params])[0]
    assert (whole.text, cut.text, cut.finish_reason) == ("Pain 😀", "Pain", "length")


def test_reasoning_between_special_tokens_is_left_out_streamed_or_not() -> None:
    """Decoding drops special tokens, so without them the thoughts would read as the summary."""
    tokenizer = make_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": ["<think>", "</think>"]})
    model = make_llama(tokenizer)
    last = tokenizer("\n\n")["input_ids"][-1]
    speak(model, [last, *tokenizer("<think>Two groups</think> Fewer pains.<|end|>")["input_ids"]])
    loaded = CausalModel(model, tokenizer, 256)
    subject = TransformersGenerator(loaded, name="thinker", **PROMPT)
    *pieces, last_one = subject.stream("Any text.", GREEDY)
    (summary,) = subject.generate(["Any text."], [GREEDY])
    assert "".join(map(str, pieces)) == summary.text == "Fewer pains."
    assert last_one == summary
    assert summary.reasoning_characters == len("Two groups")


def test_a_prompt_that_opens_the_reasoning_hides_it_until_it_is_closed() -> None:
    template = CHAT_TEMPLATE.replace("assistant\n\n", "assistant\n<think>\n\n")
    tokenizer = make_tokenizer(template)
    model = make_llama(tokenizer)
    last = tokenizer("<think>\n\n")["input_ids"][-1]
    speak(model, [last, *tokenizer("Hm</think> Pain.<|end|>")["input_ids"]])
    loaded = CausalModel(model, tokenizer, 256)
    subject = TransformersGenerator(loaded, name="thinker", **PROMPT)
    *pieces, _ = subject.stream("Any text.", GREEDY)
    assert "".join(map(str, pieces)) == "Pain."
    cut = GenerationParams(max_new_tokens=1, temperature=0.0)
    with pytest.raises(PlainMedError, match=r"reasoning \(length \d\) and no summary"):
        list(subject.stream("Any text.", cut))
    with pytest.raises(PlainMedError, match="raise max_new_tokens") as caught:
        best_of.grouped(subject.generate(["Any text."], [cut]), 1)
    assert caught.value.code == "generation_failed"


def slow_down(engine: TransformersGenerator) -> None:
    """Makes every pass take 10 ms, so that a test can be sure to be faster."""
    model = engine._scheduler._model
    extend = model.extend

    def slowly(*args: Any) -> Any:
        time.sleep(0.01)
        return extend(*args)

    model.extend = slowly  # type: ignore[method-assign]


def standing_still(engine: TransformersGenerator) -> bool:
    """Whether the engine computes nothing from here on; waits for a pass under way to end."""
    time.sleep(0.1)
    seen = engine.passes
    time.sleep(0.2)
    return engine.passes == seen


def test_closing_a_stream_stops_the_computation(folder: Path) -> None:
    subject = engine(folder / "plain")
    slow_down(subject)
    stream = subject.stream(TEXTS[0], GenerationParams(max_new_tokens=200, temperature=0.0))
    assert subject.passes == 0  # nothing is computed before the first piece is asked for
    next(stream)
    stream.close()
    assert standing_still(subject)
    assert 0 < subject.passes < 200, "it ran to its end before it could be closed"


def test_a_stream_that_is_not_read_does_not_block_others(plain: TransformersGenerator) -> None:
    stream = plain.stream(TEXTS[0], GREEDY)
    first = next(stream)
    with ThreadPoolExecutor(1) as pool:
        other = pool.submit(plain.generate, TEXTS[:1], [GREEDY]).result(timeout=60)[0]
    assert str(first) + "".join(str(p) for p in list(stream)[:-1]) == other.text


def test_a_cancelled_text_leaves_the_batch_and_the_rest_goes_on(
    plain: TransformersGenerator,
) -> None:
    asked: list[int] = []

    def cancelled(index: int) -> bool:
        asked.append(index)
        return index == 1 and asked.count(1) > 5

    params = [GREEDY] * 3
    found = plain.generate(TEXTS[:3], params, cancelled=cancelled)
    expected = plain.generate(TEXTS[:3], params)
    assert found[0] == expected[0]
    assert found[2] == expected[2]
    assert (found[1].finish_reason, found[1].completion_tokens) == ("cancelled", 5)
    assert expected[1].text.startswith(found[1].text)
    *_, last = plain.stream(TEXTS[0], GREEDY, cancelled=lambda: True)
    assert last == Summary("", "plain", "cancelled", found[0].prompt_tokens, 0)


# --- time limit -------------------------------------------------------------------------


def test_a_text_out_of_time_is_cut_and_says_so(folder: Path) -> None:
    hasty = engine(folder / "plain", timeout_s=0.7)
    slow_down(hasty)
    params = GenerationParams(max_new_tokens=220, temperature=0.0)
    whole = engine(folder / "plain").generate(TEXTS[:1], [params])[0]
    assert whole.finish_reason == "length"
    started = time.monotonic()
    cut = hasty.generate(TEXTS[:1], [params])[0]
    assert cut.finish_reason == "time"
    assert 0 < cut.completion_tokens < whole.completion_tokens
    assert whole.text.startswith(cut.text)
    *pieces, last = hasty.stream(TEXTS[0], params)
    assert last.finish_reason == "time"  # type: ignore[union-attr]
    assert "".join(map(str, pieces)) == last.text  # type: ignore[union-attr]
    assert time.monotonic() - started < 5
    assert standing_still(hasty)


def test_a_text_that_never_had_its_turn_is_an_error(folder: Path) -> None:
    hasty = engine(folder / "plain", timeout_s=1e-9)
    with pytest.raises(Unavailable, match="busy") as caught:
        hasty.generate(TEXTS[:1], [GREEDY])
    assert (caught.value.code, caught.value.status) == ("timeout", 503)
    with pytest.raises(Unavailable):
        list(hasty.stream(TEXTS[0], GREEDY))
    with pytest.raises(ConfigError, match="timeout_s"):
        engine(folder / "plain", timeout_s=0)
