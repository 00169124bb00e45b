"""The openai engine against `transformers serve` on a tiny model, whole and broken."""

from __future__ import annotations

import builtins
import importlib
import json
import logging
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from serve_app.errors import ConfigError, InvalidInput, PlainMedError, Unavailable
from serve_app.generation.loading import load_generator
from serve_app.generation.openai_engine import OpenAIGenerator
from serve_app.generation.protocol import GenerationParams, Summary
from serve_app.settings import load_settings
from tests.openai_server import Fault, FaultyProxy, transformers_serve
from tests.servers import Answer, ScriptedServer, wait_for
from tests.tiny_models import CHAT_TEMPLATE, save_model

TEXT = "The trial included 120 adults with type 2 diabetes, followed for six months."
OTHER = "Side effects were rare: headache and nausea."
SYSTEM = "You rewrite medical text."
PREFIX = "Summarise: "
GREEDY = GenerationParams(max_new_tokens=12, temperature=0.0, top_p=1.0, repeat_penalty=1.0)


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("tiny"), chat_template=CHAT_TEMPLATE, context=512)


@pytest.fixture(scope="module")
def server(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with pytest.MonkeyPatch.context() as patch:
        # It lists the models of the hub's cache, and fails where there is no such folder.
        patch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path_factory.mktemp("hub")))
        with transformers_serve(model) as url:
            yield url


@pytest.fixture
def proxy(server: str) -> Iterator[FaultyProxy]:
    with FaultyProxy(server) as proxy:
        yield proxy


@pytest.fixture
def engine(model: Path) -> Iterator[Callable[..., OpenAIGenerator]]:
    made = []

    def make(url: str, **options: Any) -> OpenAIGenerator:
        options = {"model": str(model), "timeout_s": 30.0, "max_retries": 2, **options}
        made.append(OpenAIGenerator(url, system_prompt=SYSTEM, user_prefix=PREFIX, **options))
        return made[-1]

    yield make
    for one in made:
        one.close()


def written_by(model: Path, text: str, tokens: int = 12) -> tuple[str, int]:
    """What the model writes greedily, and the tokens it reads, by transformers alone."""
    tokenizer = AutoTokenizer.from_pretrained(model)
    messages = [
        {"role": "system", "content": SYSTEM},
        {"role": "user", "content": PREFIX + text},
    ]
    inputs = tokenizer.apply_chat_template(
        messages, add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    output = AutoModelForCausalLM.from_pretrained(model).generate(
        **inputs, max_new_tokens=tokens, do_sample=False
    )
    read = inputs["input_ids"].shape[1]
    text = tokenizer.decode(output[0, read:], skip_special_tokens=True)
    # Cut at its length, a summary may end within a character: that part of it is left out.
    return text.strip().rstrip("\ufffd").strip(), read


def drain(pieces: Any) -> tuple[list[str], Summary]:
    *texts, summary = pieces
    return texts, summary


# --- the whole server ----------------------------------------------------------------------------


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


# --- what a broken or busy server becomes --------------------------------------------------------


def test_a_busy_server_is_asked_again_when_it_says(
    proxy: FaultyProxy, model: Path, engine: Callable[..., OpenAIGenerator]
) -> None:
    proxy.faults = [Fault(429, {"error": {"message": "slow down"}}, {"Retry-After": "1"})]
    (summary,) = engine(proxy.url).generate([TEXT], [GREEDY])
    assert summary.text == written_by(model, TEXT)[0]
    assert 1.0 <= proxy.gaps[0] < 3.0


def test_errors_of_the_server_are_retried_with_growing_pauses(
    proxy: FaultyProxy, model: Path, engine: Callable[..., OpenAIGenerator]
) -> None:
    proxy.faults = [Fault(500, {"error": "x"}), Fault(502, {"error": "x"})]
    _, summary = drain(engine(proxy.url).stream(TEXT, GREEDY))
    assert summary.text == written_by(model, TEXT)[0]
    first, second = proxy.gaps
    assert 0.3 < first < second


@pytest.mark.parametrize("status", [429, 503])
def test_a_server_that_stays_busy_is_unavailable(
    proxy: FaultyProxy, engine: Callable[..., OpenAIGenerator], status: int
) -> None:
    busy = Fault(status, {"error": {"message": "busy", "code": "overloaded"}}, {"Retry-After": "0"})
    proxy.faults = [busy] * 2
    with pytest.raises(Unavailable, match=rf"{status} \(overloaded\)"):
        engine(proxy.url, max_retries=1).generate([TEXT], [GREEDY])
    assert len(proxy.bodies) == 2


def test_a_server_that_is_not_there_is_unavailable(
    engine: Callable[..., OpenAIGenerator],
) -> None:
    with ScriptedServer([Answer()]) as gone:
        url = f"{gone.url}/v1"
    with pytest.raises(Unavailable, match="cannot be reached"):
        engine(url, max_retries=0).generate([TEXT], [GREEDY])


def test_a_slow_server_is_unavailable_in_time(
    proxy: FaultyProxy, engine: Callable[..., OpenAIGenerator]
) -> None:
    proxy.faults = [Fault(delay_s=20), Fault(pause_s=0.2)]
    subject = engine(proxy.url, timeout_s=0.5)
    for ask in (
        lambda: subject.generate([TEXT], [GREEDY]),
        lambda: drain(subject.stream(TEXT, GREEDY)),
    ):
        started = time.monotonic()
        with pytest.raises(Unavailable, match="OPENAI_TIMEOUT_S"):
            ask()
        assert time.monotonic() - started < 3
    wait_for(lambda: proxy.hung_up == 2)


def test_a_stream_cut_off_is_an_error_after_its_pieces_and_never_a_summary(
    proxy: FaultyProxy, engine: Callable[..., OpenAIGenerator]
) -> None:
    proxy.faults = [Fault(cut_after=12)]
    pieces = engine(proxy.url).stream(TEXT, GREEDY)
    got: list[Any] = []
    with pytest.raises(Unavailable, match="broke off"):
        got.extend(pieces)
    assert got
    assert all(isinstance(piece, str) for piece in got)


def test_a_stream_that_ends_without_its_end_is_an_error(
    engine: Callable[..., OpenAIGenerator],
) -> None:
    events = (event(delta={"content": "Half"}),)
    with ScriptedServer([stream_of(*events)]) as scripted:
        pieces = engine(f"{scripted.url}/v1").stream(TEXT, GREEDY)
        assert next(pieces) == "Half"
        with pytest.raises(Unavailable, match="broke off"):
            next(pieces)


@pytest.mark.parametrize(
    ("status", "error", "kind", "code", "says"),
    [
        (401, {"code": "invalid_api_key"}, PlainMedError, "generation_failed", "OPENAI_API_KEY"),
        (403, {}, PlainMedError, "generation_failed", "may not use"),
        (404, {"code": "model_not_found"}, PlainMedError, "generation_failed", "OPENAI_MODEL"),
        (429, {"code": "insufficient_quota"}, PlainMedError, "generation_failed", "used up"),
        (400, {"type": "BadRequestError"}, PlainMedError, "generation_failed", "BadRequestError"),
        (413, {}, InvalidInput, "input_too_long", "do not fit"),
        (400, {"code": "context_length_exceeded"}, InvalidInput, "input_too_long", "do not fit"),
        (400, {"type": "exceed_context_size_error"}, InvalidInput, "input_too_long", "do not fit"),
    ],
)
def test_each_refusal_says_what_to_do(
    engine: Callable[..., OpenAIGenerator],
    status: int,
    error: dict[str, Any],
    kind: type[PlainMedError],
    code: str,
    says: str,
) -> None:
    body = json.dumps({"error": {"message": f"no: {TEXT}", **error}}).encode()
    answer = Answer(status, body, {"Content-Type": "application/json"})
    with ScriptedServer([answer]) as scripted:
        subject = engine(f"{scripted.url}/v1", max_retries=0)
        for ask in (
            lambda: subject.generate([TEXT], [GREEDY]),
            lambda: drain(subject.stream(TEXT, GREEDY)),
        ):
            with pytest.raises(kind, match=says) as caught:
                ask()
            assert caught.value.code == code
            assert "trial" not in caught.value.message
            assert caught.value.__cause__ is None
            assert (caught.value.field == "text") == (kind is InvalidInput)


@pytest.mark.parametrize(
    "message",
    [
        "This model's maximum context length is 4096 tokens. However, you requested 5000 tokens.",
        "the request exceeds the available context size (4096 tokens), try increasing it",
        "The decoder prompt (length 5000) is longer than the maximum model length of 4096.",
    ],
    ids=["vllm-and-vendor", "llama.cpp", "vllm-prompt"],
)
def test_a_text_over_the_context_is_told_with_the_servers_limit(
    engine: Callable[..., OpenAIGenerator], message: str
) -> None:
    body = json.dumps({"error": {"message": message, "type": "invalid_request_error"}}).encode()
    with (
        ScriptedServer([Answer(400, body, {"Content-Type": "application/json"})]) as scripted,
        pytest.raises(InvalidInput, match="context of 4096 tokens") as caught,
    ):
        engine(f"{scripted.url}/v1").generate([TEXT], [GREEDY])
    assert (caught.value.code, caught.value.field) == ("input_too_long", "text")


def test_a_page_in_place_of_an_answer_is_no_summary(
    engine: Callable[..., OpenAIGenerator],
) -> None:
    page = Answer(200, b"<html>hello</html>", {"Content-Type": "text/html"})
    with (
        ScriptedServer([page]) as scripted,
        pytest.raises(PlainMedError, match="OPENAI_BASE_URL") as caught,
    ):
        engine(scripted.url).generate([TEXT], [GREEDY])
    assert caught.value.code == "generation_failed"


@pytest.mark.parametrize("data", ["5", "not json", '{"error": "no more memory"}'])
def test_a_stream_of_something_else_is_an_error(
    engine: Callable[..., OpenAIGenerator], data: str
) -> None:
    with (
        ScriptedServer([stream_of(data, "[DONE]")]) as scripted,
        pytest.raises(PlainMedError) as caught,
    ):
        drain(engine(f"{scripted.url}/v1").stream(TEXT, GREEDY))
    assert caught.value.code == "generation_failed"
    assert "memory" not in caught.value.message


def test_a_summary_the_server_withholds_is_an_error(
    engine: Callable[..., OpenAIGenerator],
) -> None:
    last = event(delta={}, finish_reason="content_filter")
    answers = [completion(None, finish_reason="content_filter"), stream_of(last, "[DONE]")]
    with ScriptedServer(answers) as scripted:
        subject = engine(f"{scripted.url}/v1")
        with pytest.raises(PlainMedError, match="content_filter"):
            subject.generate([TEXT], [GREEDY])
        with pytest.raises(PlainMedError, match="content_filter"):
            drain(subject.stream(TEXT, GREEDY))


def test_usage_the_server_does_not_report_is_zero_and_its_end_is_kept(
    engine: Callable[..., OpenAIGenerator],
) -> None:
    events = (event(delta={"content": " A"}), event(delta={"content": " b. "}))
    last = event(delta={}, finish_reason="stop")
    with ScriptedServer([completion(" A b. "), stream_of(*events, last, "[DONE]")]) as scripted:
        subject = engine(f"{scripted.url}/v1")
        (whole,) = subject.generate([TEXT], [GREEDY])
        pieces, summary = drain(subject.stream(TEXT, GREEDY))
        assert json.loads(scripted.received[1].body)["stream_options"] == {"include_usage": True}
    assert pieces == ["A", " b."]
    assert whole == summary
    assert (summary.text, summary.finish_reason) == ("A b.", "stop")
    assert (summary.prompt_tokens, summary.completion_tokens) == (0, 0)


def test_usage_in_a_chunk_of_its_own_is_read(engine: Callable[..., OpenAIGenerator]) -> None:
    usage = {"prompt_tokens": 31, "completion_tokens": 2, "total_tokens": 33}
    events = (
        event(delta={"content": "A."}),
        event(delta={}, finish_reason="stop"),
        json.dumps({**CHUNK, "choices": [], "usage": usage}),
    )
    with ScriptedServer([stream_of(*events, "[DONE]")]) as scripted:
        _, summary = drain(engine(f"{scripted.url}/v1").stream(TEXT, GREEDY))
    assert (summary.prompt_tokens, summary.completion_tokens) == (31, 2)


# --- cancelling ----------------------------------------------------------------------------------


def test_a_closed_stream_closes_the_response(
    proxy: FaultyProxy, engine: Callable[..., OpenAIGenerator]
) -> None:
    proxy.faults = [Fault(pause_s=0.1)]
    pieces = engine(proxy.url).stream(TEXT, GREEDY)
    assert isinstance(next(pieces), str)
    pieces.close()
    wait_for(lambda: proxy.hung_up == 1)


def test_a_cancelled_stream_ends_with_what_it_has(
    proxy: FaultyProxy, engine: Callable[..., OpenAIGenerator]
) -> None:
    proxy.faults = [Fault(pause_s=0.1)]
    stop = threading.Event()
    pieces = engine(proxy.url).stream(TEXT, GREEDY, cancelled=stop.is_set)
    first = next(pieces)
    stop.set()
    texts, summary = drain(pieces)
    assert summary.finish_reason == "cancelled"
    assert summary.text == str(first) + "".join(texts)
    wait_for(lambda: proxy.hung_up == 1)


def test_a_cancelled_text_ends_soon_and_the_others_are_written(
    proxy: FaultyProxy, model: Path, engine: Callable[..., OpenAIGenerator]
) -> None:
    proxy.faults = [Fault(delay_s=20), Fault(delay_s=20)]
    subject = engine(proxy.url)
    started = time.monotonic()
    found = subject.generate(
        [TEXT, TEXT], [GREEDY, GREEDY], cancelled=lambda _: len(proxy.bodies) == 2
    )
    assert time.monotonic() - started < 5
    assert [item.finish_reason for item in found] == ["cancelled", "cancelled"]
    wait_for(lambda: proxy.hung_up == 2)
    found = subject.generate([TEXT, OTHER], [GREEDY, GREEDY], cancelled=lambda at: at == 0)
    assert found[0].finish_reason in {"cancelled", "length"}
    assert found[1].text == written_by(model, OTHER)[0]


def test_the_first_error_ends_the_other_requests_of_a_call(
    proxy: FaultyProxy, engine: Callable[..., OpenAIGenerator]
) -> None:
    proxy.faults = [Fault(401, {"error": {}}), *[Fault(delay_s=20)] * 2]
    with pytest.raises(PlainMedError, match="OPENAI_API_KEY"):
        engine(proxy.url).generate([TEXT] * 3, [GREEDY] * 3)
    wait_for(lambda: proxy.hung_up == len(proxy.bodies) - 1)


def test_an_empty_text_is_refused_before_anything_is_sent(
    proxy: FaultyProxy, engine: Callable[..., OpenAIGenerator]
) -> None:
    subject = engine(proxy.url)
    with pytest.raises(InvalidInput):
        subject.generate([TEXT, " "], [GREEDY, GREEDY])
    with pytest.raises(InvalidInput):
        subject.stream("", GREEDY)
    assert proxy.bodies == []


# --- starting ------------------------------------------------------------------------------------


def test_the_start_waits_for_a_server_that_starts_too(
    engine: Callable[..., OpenAIGenerator],
) -> None:
    answers = [Answer(404), Answer(503), Answer(200, b'{"object": "list", "data": []}')]
    for answer in answers:
        answer.headers["Content-Type"] = "application/json"
    with ScriptedServer(answers) as scripted:
        engine(f"{scripted.url}/v1").wait_until_up(20)
        assert [request.path for request in scripted.received] == ["/v1/models"] * 3


def test_a_server_that_does_not_come_up_or_wants_another_key_ends_the_start(
    engine: Callable[..., OpenAIGenerator],
) -> None:
    with ScriptedServer([Answer(503)]) as scripted, pytest.raises(Unavailable, match="503"):
        engine(f"{scripted.url}/v1").wait_until_up(0)
    with ScriptedServer([Answer(401)]) as scripted:
        started = time.monotonic()
        with pytest.raises(PlainMedError, match="OPENAI_API_KEY"):
            engine(f"{scripted.url}/v1").wait_until_up(30)
        assert time.monotonic() - started < 5


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({}, "OPENAI_BASE_URL"),
        ({"openai_base_url": "http://127.0.0.1:1/v1"}, "OPENAI_MODEL"),
    ],
)
def test_the_engine_needs_a_server_and_a_model(values: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        load_generator(load_settings(generator="openai", **values))


@pytest.mark.parametrize(
    "url",
    ["127.0.0.1:8000/v1", "ftp://host/v1", "http://user:hunter2@host/v1", "http://h/v1?k=hunter2"],
)
def test_a_url_that_is_none_or_holds_a_secret_is_refused_without_repeating_it(url: str) -> None:
    with pytest.raises(ConfigError, match="OPENAI_BASE_URL") as caught:
        load_settings(openai_base_url=url)
    assert "hunter2" not in caught.value.message


def test_a_server_alone_does_not_make_auto_send_texts_away() -> None:
    settings = load_settings(openai_base_url="http://127.0.0.1:1/v1", openai_model="m")
    assert settings.generator_engine == "extractive"


def test_without_the_package_the_start_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    real = builtins.__import__

    def without_openai(name: str, *arguments: Any, **options: Any) -> Any:
        if name.partition(".")[0] == "openai":
            raise ImportError(name)
        return real(name, *arguments, **options)

    monkeypatch.delitem(sys.modules, "serve_app.generation.openai_engine")
    monkeypatch.setattr(builtins, "__import__", without_openai)
    with pytest.raises(ConfigError, match=r"pip install 'plainmed\[openai\]'"):
        importlib.import_module("serve_app.generation.openai_engine")


# --- secrets -------------------------------------------------------------------------------------


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


CHUNK = {"id": "1", "object": "chat.completion.chunk", "created": 1, "model": "m"}


def completion(content: str | None, finish_reason: str = "stop") -> Answer:
    choice = {
        "index": 0,
        "message": {"role": "assistant", "content": content},
        "finish_reason": finish_reason,
    }
    body = {**CHUNK, "object": "chat.completion", "choices": [choice]}
    return Answer(200, json.dumps(body).encode(), {"Content-Type": "application/json"})


def event(delta: dict[str, Any], finish_reason: str | None = None) -> str:
    choice = {"index": 0, "delta": delta, "finish_reason": finish_reason}
    return json.dumps({**CHUNK, "choices": [choice]})


def stream_of(*events: str) -> Answer:
    chunks = tuple(f"data: {text}\n\n".encode() for text in events)
    return Answer(200, headers={"Content-Type": "text/event-stream"}, chunks=chunks)
