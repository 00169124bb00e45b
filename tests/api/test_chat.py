"""`/v1/...`: what the stock `openai` client gets from the real gateway, over a socket."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import httpx
import openai
import pytest

from serve_app.api.auth.api_keys import dump_keys, new_key
from serve_app.api.middleware.admission import LoadGate
from serve_app.api.middleware.gate import Refused
from serve_app.api.middleware.request_guard import Traffic
from serve_app.core.errors import MetricFailed, Unavailable
from serve_app.generation.protocol import GenerationParams, Summary
from tests.support.backends import Failing, api_client
from tests.support.servers import LightBackend, api_server, wait_for

TEXT = "Aspirin lowered the risk of stroke. Bleeding was more common. Six trials were read."
SUMMARY = "Aspirin lowered the risk of stroke. Bleeding was more common."
MESSAGES: list[Any] = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "An earlier text. It is not read."},
    {"role": "assistant", "content": "Fine."},
    {"role": "user", "content": TEXT},
]


class Counting(LightBackend):
    """An engine with tokens; notes what it is asked, and ends by `reason`."""

    def __init__(self, reason: str = "stop") -> None:
        super().__init__()
        self.asked: list[tuple[str, GenerationParams]] = []
        self.reason = reason

    async def generate(
        self, texts: Sequence[str], params: Sequence[GenerationParams]
    ) -> list[Summary]:
        self.asked += zip(texts, params, strict=True)
        return [
            Summary(one.text, one.model, self.reason, 40, 12, truncated=True)
            for one in await super().generate(texts, params)
        ]


class Endless(LightBackend):
    """Repeats a sentence until it is stopped."""

    stopped = False

    async def stream(self, text: str, params: GenerationParams) -> AsyncIterator[str | Summary]:
        try:
            while True:
                yield "Pain fell. "
                await asyncio.sleep(0.001)
        finally:
            self.stopped = True


class Dead(LightBackend):
    """Has no generator that answers."""

    async def writer(self) -> str:
        raise Unavailable("the Generator is starting; try again", code="not_ready")


@contextmanager
def chat(backend: LightBackend | None = None, key: str = "none", **more: Any) -> Iterator[Any]:
    with (
        api_server(backend, **more) as url,
        openai.OpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0) as client,
    ):
        yield client


@pytest.fixture(scope="module")
def client() -> Iterator[Any]:
    with chat() as one:
        yield one


def ask(client: Any, **more: Any) -> Any:
    return client.chat.completions.create(**{"model": "plainmed", "messages": MESSAGES, **more})


def test_the_last_message_of_the_user_is_summarised_as_by_generate(client: Any) -> None:
    answer = ask(client)
    generate = httpx.post(f"{client.base_url}".replace("/v1/", "/generate"), json={"text": TEXT})
    assert answer.choices[0].message.content == generate.json()["summary"] == SUMMARY
    assert answer.choices[0].message.role == "assistant"
    assert (answer.model, answer.object) == ("lead-2", "chat.completion")
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage is None  # this engine has no tokens, and none are made up
    assert answer.plainmed == {
        "finish_reason": "stop",
        "truncated": False,
        "messages_not_read": [0, 1, 2],
    }


def test_a_message_may_come_in_parts(client: Any) -> None:
    parts = [{"type": "text", "text": one} for one in ("Pain fell.", "Sleep was better.")]
    answer = ask(client, messages=[{"role": "user", "content": parts}])
    assert answer.choices[0].message.content == "Pain fell. Sleep was better."


def test_an_answer_can_be_sent_back_in_the_conversation(client: Any) -> None:
    said = ask(client).choices[0].message.model_dump()
    answer = ask(client, messages=[*MESSAGES, said, {"role": "user", "content": "Pain fell."}])
    assert answer.choices[0].message.content == "Pain fell."


def test_a_stream_brings_the_same_text_and_ends_as_openais(client: Any) -> None:
    chunks = list(ask(client, stream=True, stream_options={"include_usage": True}))
    assert len(chunks) > 3
    assert "".join(one.choices[0].delta.content or "" for one in chunks) == SUMMARY
    assert [one.choices[0].delta.role for one in chunks][:2] == ["assistant", None]
    assert [one.choices[0].finish_reason for one in chunks][-2:] == [None, "stop"]
    assert chunks[-1].plainmed["messages_not_read"] == [0, 1, 2]
    assert len({(one.id, one.model, one.created) for one in chunks}) == 1


def test_a_stream_is_data_lines_and_done(client: Any) -> None:
    body = {"model": "lead-2", "messages": MESSAGES, "stream": True}
    answer = httpx.post(f"{client.base_url}chat/completions", json=body)
    assert answer.headers["content-type"].startswith("text/event-stream")
    *events, last, end = answer.text.split("\n\n")
    assert (last, end) == ("data: [DONE]", "")
    assert {json.loads(one.removeprefix("data: "))["object"] for one in events} == {
        "chat.completion.chunk"
    }


def test_the_model_that_runs_is_listed_and_no_other_is_taken(client: Any) -> None:
    assert [one.id for one in client.models.list()] == ["lead-2"]
    assert ask(client, model="lead-2").model == "lead-2"
    with pytest.raises(openai.NotFoundError, match="this server runs lead-2") as caught:
        ask(client, model="gpt-5")
    assert (caught.value.code, caught.value.param) == ("model_not_found", "model")


@pytest.mark.parametrize(
    ("param", "given"),
    [
        ("tools", [{"type": "function", "function": {"name": "f", "parameters": {}}}]),
        ("tool_choice", "required"),
        ("response_format.type", {"type": "json_object"}),
        ("logprobs", True),
        ("top_logprobs", 2),
        ("logit_bias", {"50": 1}),
        ("n", 2),
        ("frequency_penalty", 0.5),
        ("presence_penalty", -1.0),
        ("store", True),
        ("modalities", ["audio"]),
        ("messages[0].role", [{"role": "tool", "tool_call_id": "1", "content": "a"}]),
        (
            "messages[0].content[0].type",
            [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "a"}}]}],
        ),
    ],
)
def test_what_is_not_supported_is_refused_by_name(client: Any, param: str, given: Any) -> None:
    with pytest.raises(openai.BadRequestError, match="leave it out") as caught:
        ask(client, **{param.split("[")[0].split(".")[0]: given})
    assert (caught.value.code, caught.value.param) == ("unsupported_field", param)
    assert caught.value.type == "invalid_request_error"
    assert param in str(caught.value)


def test_values_that_ask_for_nothing_are_taken(client: Any) -> None:
    answer = ask(
        client,
        n=1,
        tools=[],
        tool_choice="none",
        logprobs=False,
        logit_bias={},
        presence_penalty=0,
        frequency_penalty=0.0,
        response_format={"type": "text"},
        store=False,
        user="a colleague",
        stop=None,
        extra_body={"functions": None, "top_logprobs": None},
    )
    assert answer.choices[0].message.content == SUMMARY


def test_sampling_reaches_the_engine_and_its_tokens_come_back() -> None:
    backend = Counting("time")
    with chat(backend) as client:
        sampling = {"temperature": 0.5, "top_p": 0.7, "seed": 3}
        answer = ask(client, max_completion_tokens=9, **sampling)
        ask(client, max_tokens=8)
        *_, last, usage = ask(client, stream=True, stream_options={"include_usage": True})
        *_, alone = ask(client, stream=True)
    text, params = backend.asked[0]
    assert text == TEXT
    assert (params.max_new_tokens, params.temperature, params.top_p, params.seed) == (
        9,
        0.5,
        0.7,
        3,
    )
    assert backend.asked[1][1].max_new_tokens == 8
    counts = {"prompt_tokens": 40, "completion_tokens": 12, "total_tokens": 52}
    assert counts.items() <= answer.usage.model_dump().items()
    assert answer.choices[0].finish_reason == last.choices[0].finish_reason == "length"
    assert answer.plainmed["finish_reason"] == "time"
    assert answer.plainmed["truncated"] is last.plainmed["truncated"] is True
    assert (usage.choices, usage.usage.total_tokens) == ([], 52)
    assert alone.usage is None


@pytest.mark.parametrize("stop", ["Bleeding", [" more", "Bleeding was"]])
def test_a_stop_sequence_ends_the_summary_whole_or_streamed(client: Any, stop: Any) -> None:
    whole = ask(client, stop=stop).choices[0].message.content
    chunks = ask(client, stop=stop, stream=True)
    assert whole == "Aspirin lowered the risk of stroke. "
    assert "".join(one.choices[0].delta.content or "" for one in chunks) == whole


def test_a_client_that_goes_ends_the_engines_work() -> None:
    backend = Endless()
    with chat(backend) as client:
        chunks = ask(client, stream=True)
        assert next(chunks).choices[0].delta.content == "Pain fell. "
        assert not backend.stopped
        chunks.close()
        wait_for(lambda: backend.stopped)


def test_a_stop_sequence_ends_the_engines_work_too() -> None:
    backend = Endless()
    with chat(backend) as client:
        *_, last = ask(client, stop="fell. Pain", stream=True)
        assert last.choices[0].finish_reason == "stop"
        wait_for(lambda: backend.stopped)


@pytest.mark.parametrize(
    ("field", "status", "more"),
    [
        ("messages", 422, {"messages": [{"role": "system", "content": "Be brief."}]}),
        ("messages[1].content", 422, {"messages": [*MESSAGES[:1], {"role": "user"}]}),
        ("messages[0].content", 413, {"messages": [{"role": "user", "content": "word " * 99}]}),
        ("max_tokens", 422, {"max_tokens": 513}),
        ("max_completion_tokens", 422, {"max_completion_tokens": 513}),
        ("max_tokens", 422, {"max_tokens": 5, "max_completion_tokens": 6}),
        ("temperature", 422, {"temperature": 2.5}),
        ("stop[0]", 422, {"stop": [""]}),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_an_error_names_the_chats_own_field(
    field: str, status: int, more: dict[str, Any], stream: bool
) -> None:
    limits = {"max_text_chars": 200}
    with chat(settings=limits) as client, pytest.raises(openai.APIStatusError) as caught:
        ask(client, stream=stream, **more)
    assert (caught.value.status_code, caught.value.param) == (status, field)
    assert "max_new_tokens" not in str(caught.value)


def test_keys_are_those_of_generate() -> None:
    writer = new_key(services=("generator",), requests_per_minute=2)
    scorer = new_key(services=("metrics",))
    settings = {"api_keys": dump_keys([writer.entry, scorer.entry])}
    with chat(key=writer.key, settings=settings) as client:
        assert ask(client).choices
        assert client.models.list().data
        with pytest.raises(openai.RateLimitError, match="2 requests a minute"):
            ask(client)
        with pytest.raises(openai.AuthenticationError, match="ask the operator") as caught:
            ask(client.with_options(api_key=uuid.uuid4().hex))
        assert (caught.value.code, caught.value.type) == (
            "invalid_api_key",
            "invalid_request_error",
        )
        for call in (ask, lambda one: one.models.list()):
            with pytest.raises(openai.PermissionDeniedError, match="generator"):
                call(client.with_options(api_key=scorer.key))


def test_out_of_time_draining_and_not_ready_are_503() -> None:
    traffic = Traffic()
    with chat(Endless(), traffic=traffic) as client:
        hurried = client.with_options(default_headers={"x-request-timeout": "0.3"})
        with pytest.raises(openai.APIError, match="within the request's time") as late:
            list(ask(hurried, stream=True))
        traffic.draining = True
        with pytest.raises(openai.InternalServerError, match="shutting down") as caught:
            ask(client)
    assert late.value.code == "timeout"
    assert "lower max_tokens" in str(late.value)
    assert (caught.value.status_code, caught.value.type) == (503, "server_error")
    with chat(Dead()) as client:
        for call in (ask, lambda one: one.models.list()):
            with pytest.raises(openai.InternalServerError) as caught:
                call(client)
            assert (caught.value.status_code, caught.value.code) == (503, "not_ready")


def test_a_stream_that_fails_raises_in_the_client() -> None:
    with chat(Failing(MetricFailed("no summary could be written"))) as client:
        chunks = ask(client, stream=True)
        assert next(chunks).choices[0].delta.content == "The first piece"
        with pytest.raises(openai.APIError, match="no summary could be written") as caught:
            next(chunks)
    assert caught.value.code == "metric_failed"


def test_a_server_of_metrics_alone_says_what_to_start() -> None:
    with chat(services=("metrics",)) as client:
        for call in (ask, lambda one: one.models.list()):
            with pytest.raises(openai.NotFoundError, match=r"services: \[generator\]"):
                call(client)


async def test_other_routes_keep_the_one_shape_of_errors() -> None:
    async with api_client() as http:
        answer = await http.post("/generate", json={"text": "a", "tools": []})
    assert answer.status_code == 422
    assert set(answer.json()["error"]) == {"code", "message", "field"}


def test_both_routes_wait_in_one_queue() -> None:
    gate = LoadGate(
        max_requests=9,
        max_bytes=1 << 20,
        max_body_bytes=1 << 20,
        max_wait_s=5,
        crowded_wait_s=5,
        clock=lambda: 0.0,
    )

    def admit(path: str) -> None:
        gate.admit({"method": "POST", "path": path}, {"content-length": "150000"})  # type: ignore[arg-type]

    admit("/generate")
    with pytest.raises(Refused):
        admit("/v1/chat/completions")
