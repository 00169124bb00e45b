"""What a broken, busy or foreign server becomes: a repeat, or an error that says what to do."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from serve_app.core.errors import InvalidInput, PlainMedError, Unavailable
from serve_app.generation.openai.engine import OpenAIGenerator
from tests.generation.openai.answers import (
    CHUNK,
    GREEDY,
    TEXT,
    completion,
    drain,
    event,
    stream_of,
    written_by,
)
from tests.generation.openai.server import Fault, FaultyProxy
from tests.support.servers import Answer, ScriptedServer, wait_for


def test_a_busy_server_is_asked_again_when_it_says(
    proxy: FaultyProxy, model: Path, engine: Callable[..., OpenAIGenerator]
) -> None:
    proxy.faults = [Fault(429, {"error": {"message": "slow down"}}, {"Retry-After": "1"})]
    (summary,) = engine(proxy.url).generate([TEXT], [GREEDY])
    assert summary.text == written_by(model, TEXT)[0]
    assert proxy.gaps[0] >= 1.0


def test_errors_of_the_server_are_retried_with_growing_pauses(
    proxy: FaultyProxy, model: Path, engine: Callable[..., OpenAIGenerator]
) -> None:
    proxy.faults = [Fault(500, {"error": "x"}), Fault(502, {"error": "x"})]
    _, summary = drain(engine(proxy.url).stream(TEXT, GREEDY))
    assert summary.text == written_by(model, TEXT)[0]
    first, second = proxy.gaps
    # What the client waits at least, half a second and one less a quarter; a busy machine adds.
    assert first > 0.3
    assert second > 0.7


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
        assert time.monotonic() - started < 15
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
