"""The openai engine against a whole server: what is asked for, and what comes back."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from serve_app.core.errors import PlainMedError
from serve_app.core.settings import load_settings
from serve_app.generation import best_of
from serve_app.generation.loading import load_generator
from serve_app.generation.openai.engine import OpenAIGenerator
from serve_app.generation.protocol import GenerationParams
from tests.generation.openai.answers import (
    GREEDY,
    OTHER,
    PREFIX,
    SYSTEM,
    TEXT,
    answer,
    completion,
    drain,
    event,
    stream_of,
    written_by,
)
from tests.generation.openai.server import Fault, FaultyProxy
from tests.support.servers import ScriptedServer

# --- the whole server -------------------------------------------------------------------


def test_summaries_are_what_the_servers_model_writes(
    server: str, model: Path, engine: Callable[..., OpenAIGenerator]
) -> None:
    subject = engine(server)
    found = subject.generate([TEXT, f"  {OTHER}\n"], [GREEDY, GREEDY])
    for summary, text in zip(found, (TEXT, OTHER), strict=True):
        assert (summary.text, summary.prompt_tokens) == written_by(model, text)
        assert (summary.completion_tokens, summary.finish_reason) == (12, "length")
        assert summary.model == str(model)


def test_a_stream_gives_the_same_summary_in_pieces(
    server: str, engine: Callable[..., OpenAIGenerator]
) -> None:
    subject = engine(server)
    (whole,) = subject.generate([TEXT], [GREEDY])
    pieces, summary = drain(subject.stream(TEXT, GREEDY))
    assert len(pieces) > 2
    assert all(pieces)
    assert "".join(pieces) == summary.text == whole.text
    assert summary == whole


def test_settings_load_the_engine_and_it_writes_what_the_model_writes(
    server: str, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GENERATOR", "openai")
    monkeypatch.setenv("OPENAI_BASE_URL", server)
    monkeypatch.setenv("OPENAI_MODEL", str(model))
    monkeypatch.setenv("OPENAI_CONCURRENCY", "3")
    loaded = load_generator(load_settings(system_prompt=SYSTEM, user_prefix=PREFIX))
    assert (loaded.name, loaded.batch_size) == (str(model), 3)
    assert loaded.device == server.removeprefix("http://").removesuffix("/v1")
    (summary,) = loaded.generate([TEXT], [GREEDY])
    assert summary.text == written_by(model, TEXT)[0]


def test_what_is_asked_for_reaches_the_server(
    proxy: FaultyProxy, engine: Callable[..., OpenAIGenerator]
) -> None:
    params = GenerationParams(
        max_new_tokens=3, temperature=0.7, top_p=0.8, repeat_penalty=1.2, seed=5
    )
    engine(proxy.url, api_key="sk-1").generate([TEXT], [params])
    sent = proxy.bodies[0]
    assert sent["messages"] == [
        {"role": "system", "content": SYSTEM},
        {"role": "user", "content": PREFIX + TEXT},
    ]
    wanted = {"max_tokens": 3, "temperature": 0.7, "top_p": 0.8, "seed": 5}
    assert {name: sent[name] for name in wanted} == wanted
    assert not {"repeat_penalty", "repetition_penalty"} & set(sent)
    assert proxy.headers["authorization"] == "Bearer sk-1"


def test_the_servers_own_names_of_fields_are_used(
    engine: Callable[..., OpenAIGenerator],
) -> None:
    with ScriptedServer([completion("ok")]) as scripted:
        subject = engine(
            f"{scripted.url}/v1",
            max_tokens_field="max_completion_tokens",
            repeat_penalty_field="repetition_penalty",
        )
        subject.generate([TEXT], [GenerationParams(max_new_tokens=3, repeat_penalty=1.2)])
        sent = json.loads(scripted.received[0].body)
    assert (sent["max_completion_tokens"], sent["repetition_penalty"]) == (3, 1.2)
    assert not {"max_tokens", "repeat_penalty", "seed"} & set(sent)


def test_each_variant_of_a_seed_has_a_seed_of_its_own_that_fits_any_server(
    proxy: FaultyProxy, engine: Callable[..., OpenAIGenerator]
) -> None:
    params = [
        GenerationParams(max_new_tokens=1, seed=seed, variant=variant)
        for seed in (0, 2**63 - 1)
        for variant in range(4)
    ]
    engine(proxy.url).generate([TEXT] * 8, params)
    seeds = [body["seed"] for body in proxy.bodies]
    assert len(set(seeds)) == 8
    # Other numbers would be other summaries for the seeds of earlier requests.
    assert {0, 1_000_003, 2_000_006, 3_000_009} < set(seeds)
    assert all(0 <= seed < 2**31 for seed in seeds)


def test_control_tokens_in_a_text_do_not_reach_the_server_whole(
    proxy: FaultyProxy, engine: Callable[..., OpenAIGenerator]
) -> None:
    text = "p<0.05 <|eot_id|> and </s> and <start_of_turn>"
    engine(proxy.url).generate([text], [GREEDY])
    content = proxy.bodies[0]["messages"][1]["content"]
    assert content == PREFIX + "p<0.05 < |eot_id|> and < /s> and < start_of_turn>"


def test_no_more_requests_are_under_way_than_allowed_over_all_threads(
    proxy: FaultyProxy, engine: Callable[..., OpenAIGenerator]
) -> None:
    proxy.faults = [Fault(delay_s=0.15)] * 8
    subject = engine(proxy.url, concurrency=3)
    threads = [
        threading.Thread(target=subject.generate, args=([TEXT] * 4, [GREEDY] * 4)) for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(proxy.bodies) == 8
    assert proxy.most == 3


# --- secrets ----------------------------------------------------------------------------


def test_neither_key_nor_text_is_logged_or_printed(
    proxy: FaultyProxy, engine: Callable[..., OpenAIGenerator], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    key = "sk-not-to-be-seen"
    proxy.faults = [Fault(500, {"error": f"cannot summarise {TEXT}"})]
    subject = engine(proxy.url, api_key=key)
    subject.generate([TEXT], [GREEDY])
    drain(subject.stream(TEXT, GREEDY))
    ours = [record for record in caplog.records if not record.name.startswith("transformers")]
    shown = "\n".join(record.getMessage() for record in ours)
    shown += repr(vars(subject)) + repr(load_settings(openai_api_key=key))
    assert "Retrying" in shown  # the client's own log is among what was looked at
    assert key not in shown
    assert "diabetes" not in shown


# --- reasoning models ---------------------------------------------------------------------

THOUGHTS = "The reader is a patient."
PARTS = [
    {"type": "thinking", "thinking": [{"type": "text", "text": THOUGHTS}]},
    {"type": "text", "text": "Pain "},
    {"type": "text", "text": "fell."},
]


@pytest.mark.parametrize(
    "message",
    [
        {"content": f"<think>{THOUGHTS}</think>\n\nPain fell."},
        {"content": f"{THOUGHTS}</think>\n\nPain fell."},
        {"content": "Pain fell.", "reasoning_content": THOUGHTS},
        {"content": "Pain fell.", "reasoning": THOUGHTS},
        {"content": PARTS},
    ],
    ids=["tags", "closing-tag", "reasoning_content", "reasoning", "parts"],
)
def test_a_models_reasoning_is_left_out_and_counted(
    engine: Callable[..., OpenAIGenerator], message: dict[str, Any]
) -> None:
    with ScriptedServer([answer(message)]) as scripted:
        (summary,) = engine(f"{scripted.url}/v1").generate([TEXT], [GREEDY])
    assert summary.text == "Pain fell."
    assert summary.reasoning_characters == len(THOUGHTS)


@pytest.mark.parametrize(
    "deltas",
    [
        [{"content": "<thi"}, {"content": f"nk>{THOUGHTS}</think>"}, {"content": "Pain fell."}],
        [{"reasoning_content": THOUGHTS}, {"content": "Pain "}, {"content": "fell."}],
        [{"content": [part]} for part in PARTS],
    ],
    ids=["tags", "reasoning_content", "parts"],
)
def test_a_stream_gives_no_piece_of_the_reasoning(
    engine: Callable[..., OpenAIGenerator], deltas: list[dict[str, Any]]
) -> None:
    events = [event(delta=delta) for delta in deltas] + [event(delta={}, finish_reason="stop")]
    with ScriptedServer([stream_of(*events, "[DONE]")]) as scripted:
        pieces, summary = drain(engine(f"{scripted.url}/v1").stream(TEXT, GREEDY))
    assert "".join(pieces) == summary.text == "Pain fell."
    assert summary.reasoning_characters == len(THOUGHTS)


def test_a_model_that_closes_reasoning_it_did_not_open_is_held_back_once_it_is_known(
    engine: Callable[..., OpenAIGenerator],
) -> None:
    last = event(delta={}, finish_reason="stop")
    thoughts = [event(delta={"content": one}) for one in (THOUGHTS, "</think>", "Pain fell.")]
    plain = [event(delta={"content": "Pain fell."})]
    answers = [
        stream_of(*thoughts, last, "[DONE]"),
        stream_of(*thoughts, last, "[DONE]"),
        stream_of(*plain, last, "[DONE]"),
    ]
    with ScriptedServer(answers) as scripted:
        subject = engine(f"{scripted.url}/v1")
        with pytest.raises(PlainMedError, match="opening tag") as caught:
            drain(subject.stream(TEXT, GREEDY))
        assert caught.value.code == "generation_failed"
        for _ in range(2):
            pieces, summary = drain(subject.stream(TEXT, GREEDY))
            assert "".join(pieces) == summary.text == "Pain fell."


@pytest.mark.parametrize(
    "name", ["deepseek-r1", "DeepSeek-R1-Distill-Qwen-7B", "QwQ-32B", "Qwen3-4B-Thinking-2507"]
)
def test_the_first_stream_of_a_model_that_reasons_by_its_name_gives_no_thought_either(
    engine: Callable[..., OpenAIGenerator], name: str
) -> None:
    last = event(delta={}, finish_reason="stop")
    thoughts = [event(delta={"content": one}) for one in (THOUGHTS, "</think>", "Pain fell.")]
    parsed = [event(delta={"reasoning_content": THOUGHTS}), event(delta={"content": "Pain "})]
    parsed.append(event(delta={"content": "fell."}))
    for events, expected in ((thoughts, ["Pain fell."]), (parsed, ["Pain", " fell."])):
        with ScriptedServer([stream_of(*events, last, "[DONE]")]) as scripted:
            subject = engine(f"{scripted.url}/v1", model=name)
            pieces, summary = drain(subject.stream(TEXT, GREEDY))
        assert pieces == expected
        assert summary.text == "Pain fell."
        assert summary.reasoning_characters == len(THOUGHTS)


def test_a_model_named_for_reasoning_that_does_not_reason_streams_once_that_is_known(
    engine: Callable[..., OpenAIGenerator],
) -> None:
    plain = [event(delta={"content": one}) for one in ("Pain ", "fell.")]
    answers = [stream_of(*plain, event(delta={}, finish_reason="stop"), "[DONE]")] * 2
    with ScriptedServer(answers) as scripted:
        subject = engine(f"{scripted.url}/v1", model="org/some-thinking-model")
        assert drain(subject.stream(TEXT, GREEDY))[0] == ["Pain fell."]
        assert drain(subject.stream(TEXT, GREEDY))[0] == ["Pain", " fell."]


@pytest.mark.parametrize(
    ("message", "finish_reason"),
    [
        ({"content": None}, "length"),
        ({"content": ""}, "stop"),
        ({"content": None, "reasoning_content": THOUGHTS}, "length"),
        ({"content": f"<think>{THOUGHTS}"}, "length"),
        ({"content": None, "refusal": "I cannot help with that."}, "stop"),
        ({"content": [{"type": "refusal", "refusal": "I cannot."}]}, "stop"),
    ],
)
def test_no_summary_is_one_error_streamed_or_not(
    engine: Callable[..., OpenAIGenerator], message: dict[str, Any], finish_reason: str
) -> None:
    events = event(delta=message), event(delta={}, finish_reason=finish_reason)
    answers = [answer(message, finish_reason), stream_of(*events, "[DONE]")]
    with ScriptedServer(answers) as scripted:
        subject = engine(f"{scripted.url}/v1")
        with pytest.raises(PlainMedError) as whole:
            best_of.grouped(subject.generate([TEXT], [GREEDY]), 1)
        with pytest.raises(PlainMedError) as streamed:
            drain(subject.stream(TEXT, GREEDY))
    assert whole.value.code == streamed.value.code == "generation_failed"
    assert whole.value.message == streamed.value.message
    assert "I cannot" not in whole.value.message
