"""The transformers engine: prompts, decoding equal to transformers' own, stops, streaming."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    Lfm2Config,
    MistralConfig,
    Qwen3Config,
)

from serve_app.errors import ConfigError, InvalidInput, PlainMedError, Unavailable
from serve_app.generation.causal_model import CausalModel
from serve_app.generation.decoding import Row
from serve_app.generation.protocol import GenerationParams, Summary
from serve_app.generation.scheduler import Scheduler, Track
from serve_app.generation.text_stream import final_text
from serve_app.generation.transformers_engine import TransformersGenerator
from tests.tiny_models import (
    CHAT_TEMPLATE,
    make_llama,
    make_tokenizer,
    save_adapter,
    save_model,
    speak,
)

PROMPT = {"system_prompt": "You rewrite medical text.", "user_prefix": "Summarise:\n\n"}
TEXTS = [
    "The trial included 120 adults.",
    "Patients who took the medicine had fewer heart attacks than those who took a placebo.",
    "Side effects were rare.",
    "We found no clear difference in pain between the two groups; the evidence is weak. Few "
    "patients had nausea or a headache.",
    "Pain?",
]
GREEDY = GenerationParams(max_new_tokens=60, temperature=0.0, repeat_penalty=1.1)


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    """Two threads on a 64-wide model wait for each other most of the time."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("models")
    save_model(root / "plain")
    save_model(root / "chat", chat_template=CHAT_TEMPLATE)
    save_adapter(root / "adapter", root / "plain")
    return root


@pytest.fixture(scope="module")
def plain(folder: Path) -> TransformersGenerator:
    return engine(folder / "plain")


def engine(reference: Path, **options: Any) -> TransformersGenerator:
    return TransformersGenerator.from_reference(
        str(reference), device="cpu", **{**PROMPT, **options}
    )


def speaking(text: str, stop: str | None, **options: Any) -> TransformersGenerator:
    """An engine whose model writes `text` and then the token `stop`, for any input."""
    tokenizer = make_tokenizer()
    model = make_llama(tokenizer)
    last = tokenizer("\n\n")["input_ids"][-1]
    ids = tokenizer(text)["input_ids"]
    if stop is not None:
        ids = [*ids, tokenizer.convert_tokens_to_ids(stop)]
    speak(model, [last, *ids])
    loaded = CausalModel(model, tokenizer, 256)
    return TransformersGenerator(loaded, name="speaker", **{**PROMPT, **options})


def model_of(engine: TransformersGenerator) -> Any:
    return engine._model


def by_transformers(engine: TransformersGenerator, texts: list[str], new: int) -> list[list[int]]:
    """The ids transformers' own `generate` writes for one left-padded batch of prompts."""
    prompts = [engine._prompter.encode(text) for text in texts]
    batch = make_tokenizer().pad(
        {"input_ids": prompts}, padding=True, padding_side="left", return_tensors="pt"
    )
    output = model_of(engine).generate(
        **batch, do_sample=False, repetition_penalty=1.1, max_new_tokens=new
    )
    written: list[list[int]] = output[:, batch["input_ids"].shape[1] :].tolist()
    return written


def by_us(engine: TransformersGenerator, texts: list[str], params: GenerationParams) -> Any:
    """The ids our loop writes for the same batch, without a stop token to end it."""
    rows = [Row(tuple(engine._prompter.encode(t)), params, params.max_new_tokens) for t in texts]
    tracks = [Track(row) for row in rows]
    Scheduler(model_of(engine), stop_ids={1}, pad_id=2, max_rows=16).submit(tracks)
    return [list(track) for track in tracks]


# --- decoding ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["plain", "chat", "adapter"])
def test_greedy_equals_transformers_generate_alone_and_left_padded(folder: Path, name: str) -> None:
    subject = engine(folder / name)
    expected = by_transformers(subject, TEXTS, 60)
    assert by_us(subject, TEXTS, GREEDY) == expected
    for text, theirs in zip(TEXTS, expected, strict=True):
        assert by_transformers(subject, [text], 60) == by_us(subject, [text], GREEDY) == [theirs]
        assert len(set(theirs)) > 20, "degenerate output proves nothing"
    texts = [final_text(subject._prompter.decode(theirs)) for theirs in expected]
    assert [summary.text for summary in subject.generate(TEXTS, [GREEDY] * len(TEXTS))] == texts
    assert len(set(texts)) == len(texts)


@pytest.mark.parametrize(
    ("family", "options"),
    [
        (MistralConfig, {"sliding_window": 16}),
        (Qwen3Config, {"head_dim": 16}),
        (GPT2Config, {"n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 256}),
        (Lfm2Config, {"full_attn_idxs": [1]}),
    ],
    ids=["sliding-window", "qwen3", "learned-positions", "recurrent"],
)
def test_other_families_equal_transformers_too(family: Any, options: dict[str, Any]) -> None:
    tokenizer = make_tokenizer()
    shape = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2}
    ends = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2}
    sizes = {} if family is GPT2Config else shape | heads
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(
        family(vocab_size=len(tokenizer), **sizes, **ends, **options)
    ).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 2:
                parameter.normal_(0.0, 0.2)
        model.get_output_embeddings().weight[tokenizer.all_special_ids] = 0.0
    subject = TransformersGenerator(CausalModel(model, tokenizer, 256), name="other", **PROMPT)
    for text in TEXTS[:2]:
        (theirs,) = by_transformers(subject, [text], 30)
        assert by_us(subject, [text], replace(GREEDY, max_new_tokens=30)) == [theirs]
        assert len(set(theirs)) > 5
    params = [replace(GREEDY, max_new_tokens=n) for n in (30, 4, 30)]
    together = subject.generate(TEXTS[:3], params)
    alone = [subject.generate([t], [p])[0] for t, p in zip(TEXTS[:3], params, strict=True)]
    assert together == alone


def test_seeded_sampling_does_not_depend_on_the_batch(plain: TransformersGenerator) -> None:
    params = [
        GenerationParams(max_new_tokens=20 + 9 * i, temperature=t, top_p=p, seed=40 + i)
        for i, (t, p) in enumerate([(0.2, 0.9), (1.0, 1.0), (0.7, 0.5), (0.0, 0.9), (1.5, 0.95)])
    ]
    alone = [plain.generate([t], [p])[0] for t, p in zip(TEXTS, params, strict=True)]
    assert plain.generate(TEXTS, params) == alone
    assert plain.generate(TEXTS[::-1], params[::-1]) == alone[::-1]
    twice = plain.generate([TEXTS[1], TEXTS[1]], [params[1], params[1]])
    assert twice[0] == twice[1] == alone[1]


def test_more_texts_than_a_batch_come_back_in_order(
    folder: Path, plain: TransformersGenerator
) -> None:
    small = engine(folder / "plain", batch_size=2)
    params = [GREEDY] * len(TEXTS)
    assert small.generate(TEXTS, params) == plain.generate(TEXTS, params)


def test_different_seeds_differ_and_no_seed_draws_afresh(plain: TransformersGenerator) -> None:
    def write(seed: int | None) -> str:
        params = GenerationParams(max_new_tokens=30, temperature=1.0, seed=seed)
        return plain.generate(TEXTS[:1], [params])[0].text

    assert len({write(1), write(2), write(3)}) == 3
    assert len({write(None), write(None), write(None)}) == 3


def test_a_small_nucleus_is_greedy_and_sampling_follows_the_distribution() -> None:
    # Two tokens with probabilities 3/4 and 1/4 after the prompt, all others next to none.
    tokenizer = make_tokenizer()
    model = make_llama(tokenizer)
    last, a, b = (tokenizer(t)["input_ids"][-1] for t in ("\n\n", "A", "B"))
    speak(model, [last, a])
    with torch.no_grad():
        hidden = model.model(torch.tensor([[last]])).last_hidden_state[0, -1]
        direction = hidden / hidden.dot(hidden)
        model.lm_head.weight.zero_()
        model.lm_head.weight[a] = direction * 30
        model.lm_head.weight[b] = direction * (30 - torch.log(torch.tensor(3.0)))
    subject = TransformersGenerator(
        CausalModel(model, tokenizer, 256), name="coin", batch_size=64, **PROMPT
    )

    def share_of_a(**options: Any) -> float:
        params = [
            GenerationParams(max_new_tokens=1, repeat_penalty=1.0, seed=i, **options)
            for i in range(400)
        ]
        texts = [s.text for s in subject.generate(["Pain."] * 400, params)]
        assert set(texts) <= {"A", "B"}
        return texts.count("A") / 400

    assert share_of_a(temperature=1.0, top_p=1.0) == pytest.approx(0.75, abs=0.07)
    # At temperature 2 the odds 3:1 become sqrt(3):1.
    assert share_of_a(temperature=2.0, top_p=1.0) == pytest.approx(0.634, abs=0.08)
    assert share_of_a(temperature=1.0, top_p=0.7) == 1.0
    assert share_of_a(temperature=1.0, top_p=0.8) < 1.0
    assert share_of_a(temperature=0.0, top_p=1.0) == 1.0


def test_threads_do_not_disturb_each_other(plain: TransformersGenerator) -> None:
    params = [GenerationParams(max_new_tokens=25, temperature=0.9, seed=i) for i in range(5)]
    expected = [plain.generate([t], [p])[0] for t, p in zip(TEXTS, params, strict=True)]
    with ThreadPoolExecutor(5) as pool:
        found = list(
            pool.map(
                lambda pair: plain.generate([pair[0]], [pair[1]])[0],
                list(zip(TEXTS, params, strict=True)) * 3,
            )
        )
    assert found == expected * 3


def test_logits_that_are_not_finite_are_an_error() -> None:
    tokenizer = make_tokenizer()
    model = make_llama(tokenizer)
    with torch.no_grad():
        model.model.norm.weight[3] = float("nan")
    subject = TransformersGenerator(CausalModel(model, tokenizer, 256), name="broken", **PROMPT)
    with pytest.raises(PlainMedError, match="not finite") as caught:
        subject.generate(TEXTS[:1], [GREEDY])
    assert caught.value.code == "generation_failed"
    assert caught.value.status == 500


# --- stops and counts ----------------------------------------------------------------------


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


# --- streaming and cancelling --------------------------------------------------------------


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


def slow_down(engine: TransformersGenerator) -> None:
    """Makes every pass take 10 ms, so that a test can be sure to be faster."""
    model_of(engine).register_forward_pre_hook(lambda *_: time.sleep(0.01))


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


def test_variants_of_a_seed_differ_and_each_repeats(plain: TransformersGenerator) -> None:
    params = [
        GenerationParams(max_new_tokens=20, temperature=1.0, seed=5, variant=variant)
        for variant in range(4)
    ]
    together = plain.generate(TEXTS[:1] * 4, params)
    assert len({summary.text for summary in together}) == 4
    assert [plain.generate(TEXTS[:1], [one])[0] for one in params] == together
    ordinary = replace(params[0], variant=0)
    assert plain.generate(TEXTS[:1], [ordinary])[0] == together[0]


# --- time limit ----------------------------------------------------------------------------


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


# --- long and bad input --------------------------------------------------------------------


def test_input_over_the_context_is_refused_with_the_limit(plain: TransformersGenerator) -> None:
    text = " ".join(TEXTS) * 6
    with pytest.raises(InvalidInput) as caught:
        plain.generate([text], [GREEDY])
    error = caught.value
    tokens = len(make_tokenizer()(text)["input_ids"])
    assert (error.code, error.status, error.field) == ("input_too_long", 422, "text")
    assert f"{tokens} tokens" in error.message
    assert "256" in error.message
    with pytest.raises(InvalidInput) as again:
        plain.stream(text, GREEDY)  # at the call, before anything is streamed
    assert again.value.message == error.message
    with pytest.raises(InvalidInput):
        plain.validate(text, GREEDY)


def test_the_limit_counts_the_new_tokens_to_the_token(plain: TransformersGenerator) -> None:
    used = len(plain._prompter.encode(TEXTS[0]))
    fits = GenerationParams(max_new_tokens=256 - used, temperature=0.0)
    assert plain.generate(TEXTS[:1], [fits])[0].prompt_tokens == used
    with pytest.raises(InvalidInput, match="context of 256"):
        plain.validate(TEXTS[0], GenerationParams(max_new_tokens=257 - used))
    with pytest.raises(InvalidInput, match="lower max_new_tokens") as caught:
        plain.validate(TEXTS[0], GenerationParams(max_new_tokens=256))
    assert caught.value.field == "max_new_tokens"


def test_windows_summarise_all_of_a_long_text(folder: Path) -> None:
    subject = engine(folder / "plain", long_input="window")
    text = " ".join(TEXTS[:4]) + " " + " ".join(TEXTS[:4])
    params = GenerationParams(max_new_tokens=96, temperature=0.8, seed=9)
    with pytest.raises(InvalidInput):
        engine(folder / "plain").validate(text, params)
    rows = subject._plan(text, params)
    assert 2 <= len(rows) <= 3
    assert all(len(row.prompt) + row.max_new_tokens <= 256 for row in rows)
    summary = subject.generate([text], [params])[0]
    assert summary.text.count("\n\n") >= len(rows) - 1
    assert not summary.truncated
    assert summary.completion_tokens <= 96
    assert summary.prompt_tokens == sum(len(row.prompt) for row in rows)
    *pieces, last = subject.stream(text, params)
    assert last == summary
    assert "".join(map(str, pieces)) == summary.text
    # Among other texts nothing changes.
    assert subject.generate([TEXTS[0], text], [GREEDY, params])[1] == summary


def test_too_many_windows_for_the_summary_are_refused(folder: Path) -> None:
    subject = engine(folder / "plain", long_input="window")
    with pytest.raises(InvalidInput, match="windows") as caught:
        subject.validate(" ".join(TEXTS) * 6, GenerationParams(max_new_tokens=64))
    assert caught.value.code == "input_too_long"


@pytest.mark.parametrize("text", ["", "  \n", "...", "\ud800 pain"])
def test_a_text_that_cannot_be_summarised_is_refused(
    plain: TransformersGenerator, text: str
) -> None:
    with pytest.raises(InvalidInput) as caught:
        plain.generate([text], [GREEDY])
    assert caught.value.field == "text"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_new_tokens", 0),
        ("temperature", -0.1),
        ("temperature", float("nan")),
        ("temperature", 2.1),
        ("top_p", 0.0),
        ("top_p", 1.1),
        ("repeat_penalty", 0.0),
        ("repeat_penalty", float("inf")),
        ("seed", -1),
        ("seed", 2**63),
        ("variant", -1),
    ],
)
def test_a_parameter_out_of_range_is_named(
    plain: TransformersGenerator, name: str, value: float
) -> None:
    with pytest.raises(InvalidInput) as caught:
        plain.validate("Pain.", GenerationParams(**{name: value}))  # type: ignore[arg-type]
    assert caught.value.field == name


def test_no_texts_are_no_summaries(plain: TransformersGenerator) -> None:
    assert plain.generate([], []) == []
    with pytest.raises(ValueError, match="2 texts but 1 params"):
        plain.generate(TEXTS[:2], [GREEDY])
