"""The clients against real HTTP servers: what is sent, repeated, waited for and raised."""

from __future__ import annotations

import asyncio
import json
import pickle
import threading
import time
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.client import (
    AsyncPlainMedClient,
    PlainMedAPIError,
    PlainMedClient,
    PlainMedConnectionError,
)
from serve_app.client_wire import EventParser
from serve_app.demo import free_port
from serve_app.errors import ConfigError, InvalidInput, PlainMedError
from serve_app.schemas import GenerateResponse
from tests.servers import Answer, ScriptedServer, api_server, lead, overlap
from tests.texts import GENERATED, ORIGINALS

FAST: dict[str, Any] = {"backoff": 0.01}
RELEVANCE = Answer(body=b'{"relevance": [0.5], "model": "m", "device": "cpu"}')
SUMMARY = {
    "summary": "Plain words.",
    "model": "m",
    "finish_reason": "stop",
    "truncated": False,
    "usage": {"prompt_tokens": 1, "completion_tokens": 2},
    "sentences": [],
}


@pytest.fixture(params=["sync", "async"])
def ask(request: pytest.FixtureRequest) -> Any:
    """Calls a method of either client and gives its result; streams come as a list."""

    def sync_call(url: str, method: str, *args: Any, options: Any = FAST, **named: Any) -> Any:
        with PlainMedClient(url, **options) as client:
            result = getattr(client, method)(*args, **named)
            return list(result) if method == "generate_stream" else result

    async def async_call(url: str, method: str, args: Any, options: Any, named: Any) -> Any:
        async with AsyncPlainMedClient(url, **options) as client:
            result = getattr(client, method)(*args, **named)
            if method == "generate_stream":
                return [item async for item in result]
            return await result

    if request.param == "sync":
        return sync_call
    return lambda url, method, *args, options=FAST, **named: asyncio.run(
        async_call(url, method, args, options, named)
    )


def error_body(code: str = "unavailable", message: str = "busy", field: str | None = None) -> bytes:
    return json.dumps({"error": {"code": code, "message": message, "field": field}}).encode()


def busy(**headers: str) -> Answer:
    return Answer(503, error_body(), headers)


# --- what is repeated -------------------------------------------------------------------


def test_retry_after_seconds_are_waited_for_and_the_same_request_is_sent_again(ask: Any) -> None:
    with ScriptedServer([busy(**{"Retry-After": "1"}), RELEVANCE]) as server:
        assert ask(server.url, "relevance", "a b", "a") == [0.5]
    first, second = server.received
    assert 1.0 <= server.gaps[0] < 1.5
    assert first.body == second.body
    assert first.headers["x-request-id"] == second.headers["x-request-id"]


def test_retry_after_may_be_a_date(ask: Any) -> None:
    moment = format_datetime(datetime.now(UTC) + timedelta(seconds=2.5), usegmt=True)
    with ScriptedServer([busy(**{"Retry-After": moment}), RELEVANCE]) as server:
        assert ask(server.url, "relevance", "a b", "a") == [0.5]
    # An HTTP date has whole seconds, so up to one of the two and a half is cut off.
    assert 1.2 < server.gaps[0] < 3.2


@pytest.mark.parametrize("value", ["86400", "Fri, 31 Dec 2100 23:59:59 GMT"])
def test_retry_after_is_capped(ask: Any, value: str) -> None:
    with ScriptedServer([busy(**{"Retry-After": value}), RELEVANCE]) as server:
        ask(server.url, "relevance", "a", "a", options={"max_wait": 0.3})
    assert 0.3 <= server.gaps[0] < 0.8


@pytest.mark.parametrize("value", ["soon", "-5", "Fri, 31 Dec 1999 23:59:59 GMT"])
def test_a_retry_after_that_says_nothing_does_not_delay_or_break(ask: Any, value: str) -> None:
    with ScriptedServer([busy(**{"Retry-After": value}), RELEVANCE]) as server:
        assert ask(server.url, "relevance", "a", "a") == [0.5]
    assert server.gaps[0] < 0.5


@pytest.mark.parametrize("status", [502, 503, 504])
def test_gateway_statuses_are_repeated_until_the_retries_are_used_up(ask: Any, status: int) -> None:
    with (
        ScriptedServer([Answer(status, b"<html>Bad gateway</html>")]) as server,
        pytest.raises(PlainMedAPIError, match="3 attempts") as caught,
    ):
        ask(server.url, "relevance", "a", "a", options={**FAST, "retries": 2})
    assert len(server.received) == 3
    assert (caught.value.status, caught.value.attempts) == (status, 3)


@pytest.mark.parametrize("status", [400, 404, 413, 422, 429, 500, 501])
def test_other_statuses_are_not_repeated(ask: Any, status: int) -> None:
    with (
        ScriptedServer([Answer(status, error_body())]) as server,
        pytest.raises(PlainMedAPIError) as caught,
    ):
        ask(server.url, "relevance", "a", "a")
    assert len(server.received) == 1
    assert caught.value.status == status


def test_waits_double_with_jitter(ask: Any) -> None:
    with ScriptedServer([busy()]) as server, pytest.raises(PlainMedAPIError):
        ask(server.url, "relevance", "a", "a", options={"backoff": 0.2, "retries": 3})
    assert len(server.gaps) == 3
    for gap, full in zip(server.gaps, (0.2, 0.4, 0.8), strict=True):
        assert full / 2 <= gap < full + 0.15


def test_a_refused_connection_is_tried_again_until_the_server_is_up(ask: Any) -> None:
    port = free_port()
    started: list[ScriptedServer] = []
    timer = threading.Timer(0.5, lambda: started.append(ScriptedServer([RELEVANCE], port)))
    timer.start()
    options = {"backoff": 0.2, "retries": 6}
    assert ask(f"http://127.0.0.1:{port}", "relevance", "a", "a", options=options) == [0.5]
    timer.join()
    started[0].__exit__()
    assert len(started[0].received) == 1


def test_nobody_listening_is_a_connection_error_that_says_where(ask: Any) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    with pytest.raises(PlainMedConnectionError) as caught:
        ask(url, "relevance", "a", "a", options={**FAST, "retries": 2}, request_id="mine")
    assert caught.value.attempts == 3
    assert url in str(caught.value)
    assert "request mine" in str(caught.value)


def test_a_connection_that_breaks_before_the_answer_is_tried_again(ask: Any) -> None:
    with ScriptedServer([Answer(hang_up=True), RELEVANCE]) as server:
        assert ask(server.url, "relevance", "a", "a") == [0.5]
    assert len(server.received) == 2


def test_an_answer_that_does_not_come_in_time_is_not_asked_for_twice(ask: Any) -> None:
    with ScriptedServer([Answer(delay=1.5)]) as server:
        began = time.monotonic()
        with pytest.raises(PlainMedConnectionError, match="did not answer in time"):
            ask(server.url, "relevance", "a", "a", options={**FAST, "timeout": 0.3})
        assert time.monotonic() - began < 1.2
        assert len(server.received) == 1


def test_the_deadline_ends_the_retries(ask: Any) -> None:
    with ScriptedServer([busy(**{"Retry-After": "1"})]) as server:
        began = time.monotonic()
        with pytest.raises(PlainMedAPIError) as caught:
            ask(server.url, "loss", "a", "a", options={**FAST, "retries": 50, "deadline": 1.5})
        assert time.monotonic() - began < 1.5
    assert len(server.received) == caught.value.attempts == 2


def test_the_deadline_cuts_a_slow_answer_short(ask: Any) -> None:
    with ScriptedServer([Answer(delay=2.0)]) as server:
        began = time.monotonic()
        with pytest.raises(PlainMedConnectionError):
            ask(server.url, "loss", "a", "a", options={"deadline": 0.4})
        assert time.monotonic() - began < 1.2


# --- errors -----------------------------------------------------------------------------


def test_an_error_answer_becomes_an_exception_with_all_it_says(ask: Any) -> None:
    body = error_body("empty_text", "the text is empty", "texts_original[0]")
    with (
        ScriptedServer([Answer(422, body, {"X-Request-ID": "seen-by-server"})]) as server,
        pytest.raises(PlainMedAPIError) as caught,
    ):
        ask(server.url, "relevance", "", "a", request_id="mine")
    assert server.received[0].headers["x-request-id"] == "mine"
    error = caught.value
    assert isinstance(error, PlainMedError)
    assert (error.status, error.code, error.message) == (422, "empty_text", "the text is empty")
    assert (error.field, error.request_id) == ("texts_original[0]", "seen-by-server")
    for part in ("422", "empty_text", "texts_original[0]", "seen-by-server"):
        assert part in str(error)


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b"Internal Server Error", "Internal Server Error"),
        (b"", "an empty answer"),
        (b"\xff\xfe\x00", "\ufffd"),
        (b'{"detail": "nope"}', "nope"),
        (b"<html>" + b"x" * 5000, "…"),
    ],
)
def test_an_error_body_of_another_shape_is_survived(ask: Any, body: bytes, expected: str) -> None:
    with (
        ScriptedServer([Answer(500, body)]) as server,
        pytest.raises(PlainMedAPIError) as caught,
    ):
        ask(server.url, "relevance", "a", "a", request_id="mine")
    assert (caught.value.status, caught.value.code) == (500, "http_error")
    assert caught.value.request_id == "mine"
    assert expected in caught.value.message
    assert len(caught.value.message) <= 200


def test_a_redirect_says_where_to(ask: Any) -> None:
    moved = Answer(308, b"", {"Location": "https://plainmed.example/loss"})
    with (
        ScriptedServer([moved]) as server,
        pytest.raises(PlainMedAPIError, match=r"https://plainmed\.example/loss"),
    ):
        ask(server.url, "loss", "a", "a")


@pytest.mark.parametrize(
    "body",
    [b"<html>Welcome to the airport</html>", b"{}", b'{"relevance": [0.1, 0.2]}', b""],
)
def test_a_success_that_is_not_the_answer_is_an_error(ask: Any, body: bytes) -> None:
    with (
        ScriptedServer([Answer(200, body)]) as server,
        pytest.raises(PlainMedAPIError, match="did not answer as PlainMed") as caught,
    ):
        ask(server.url, "relevance", "a", "a")
    assert caught.value.code == "bad_response"


@pytest.mark.parametrize(
    ("method", "args", "field"),
    [
        ("relevance", (["a", 3], ["a", "b"]), "texts_original[1]"),
        ("readability", (["a \ud800"],), "texts[0]"),
        ("loss", ("a", "a", None, [float("nan"), 0.25, 0.25, 0.25, 0.25]), "weights[0]"),
        ("generate", (None,), "text"),
        ("generate_many", (["a", "b \ud800"],), "texts[1]"),
    ],
)
def test_what_no_server_accepts_is_not_sent(ask: Any, method: str, args: Any, field: str) -> None:
    with (
        ScriptedServer([RELEVANCE]) as server,
        pytest.raises(InvalidInput) as caught,
    ):
        ask(server.url, method, *args)
    assert caught.value.field == field
    assert server.received == []


@pytest.mark.parametrize("url", ["localhost:8000", "ftp://h/", "http://", "http://h:x/"])
def test_a_wrong_url_is_named(url: str) -> None:
    with pytest.raises(ConfigError, match="METRICS_API_URL"):
        PlainMedClient(url)


@pytest.mark.parametrize(
    "limits", [{"timeout": 0}, {"retries": -1}, {"deadline": float("nan")}, {"max_wait": -1}]
)
def test_limits_that_make_no_sense_are_refused(limits: Any) -> None:
    with pytest.raises(ConfigError):
        PlainMedClient("http://h", **limits)


def test_errors_survive_pickling() -> None:
    api = PlainMedAPIError(503, "unavailable", "busy", "texts", "id", 2.0)
    lost = PlainMedConnectionError("gone", "id", retryable=False)
    api.attempts = lost.attempts = 4
    for error in (api, lost):
        copy = pickle.loads(pickle.dumps(error))
        assert str(copy) == str(error)
        assert vars(copy) == vars(error)


# --- what is sent and read --------------------------------------------------------------


def test_the_environment_names_the_server(monkeypatch: pytest.MonkeyPatch) -> None:
    with ScriptedServer([RELEVANCE]) as server:
        monkeypatch.setenv("METRICS_API_URL", server.url + "/")
        with PlainMedClient() as client:
            client.relevance("a", "a")
    assert server.received[0].path == "/metrics/relevance"


def test_a_base_url_may_have_a_path_and_headers_are_sent(ask: Any) -> None:
    with ScriptedServer([RELEVANCE]) as server:
        options = {"headers": {"Authorization": "Bearer x"}}
        ask(f"{server.url}/plain/med", "relevance", "a", "a", options=options)
    assert server.received[0].path == "/plain/med/metrics/relevance"
    assert server.received[0].headers["authorization"] == "Bearer x"
    assert server.received[0].headers["user-agent"].startswith("plainmed/")


def test_a_proxy_of_the_environment_is_not_asked_for_loopback(
    ask: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{free_port()}")
    with ScriptedServer([RELEVANCE]) as server:
        assert ask(server.url, "relevance", "a", "a", options={"retries": 0}) == [0.5]


def test_unset_fields_are_left_out(ask: Any) -> None:
    with ScriptedServer([Answer(body=b"0.25")]) as server:
        assert ask(server.url, "loss", "é", ("b",)) == [0.25]
    assert json.loads(server.received[0].body) == {
        "texts_original": ["é"],
        "texts_generated": ["b"],
    }


@pytest.mark.parametrize("status", [200, 503])
def test_health_is_read_whether_ready_or_not_and_asked_for_once(ask: Any, status: int) -> None:
    body = {
        "status": "unavailable",
        "version": "1",
        "services": ["metrics"],
        "components": {"Relevance": {"ready": False}},
        "targets": None,
        "warnings": ["w"],
    }
    with ScriptedServer([Answer(status, json.dumps(body).encode())]) as server:
        health = ask(server.url, "health")
    assert not health.components["Relevance"].ready
    assert health.warnings == ["w"]
    assert len(server.received) == 1


def test_a_health_answer_of_something_else_is_an_error(ask: Any) -> None:
    with (
        ScriptedServer([Answer(503, b"no healthy upstream")]) as server,
        pytest.raises(PlainMedAPIError, match="no healthy upstream") as caught,
    ):
        ask(server.url, "health")
    assert caught.value.status == 503
    assert len(server.received) == 1


def test_best_of_n_reaches_the_server_and_its_scores_come_back(ask: Any) -> None:
    with api_server() as url:
        weights = [0.5, 0.2, 0.1, 0.1, 0.1]
        best = ask(url, "generate", ORIGINALS[0], n=3, select="loss", weights=weights)
        many = ask(url, "generate_many", ORIGINALS[:2], n=3, select="loss", weights=weights)
        result = ask(url, "evaluate", ORIGINALS[0], None, None, weights, n=3).results[0]
        plain = ask(url, "generate_many", ORIGINALS)
    losses = [one.scores.loss for one in best.candidates]
    assert losses == sorted(losses)
    assert best.summary == best.candidates[0].summary == result.generated
    assert (best.select, best.weights, result.loss) == ("loss", weights, losses[0])
    assert result.candidates == best.candidates
    assert many[0] == best
    assert [one.summary for one in plain] == [lead(text) for text in ORIGINALS]
    assert plain[0].candidates is None


def test_fewer_answers_than_texts_are_an_error(ask: Any) -> None:
    body = json.dumps({"results": [SUMMARY]}).encode()
    with (
        ScriptedServer([Answer(body=body)]) as server,
        pytest.raises(PlainMedAPIError, match="1 values for 2 texts"),
    ):
        ask(server.url, "generate_many", ["a", "b"], seed=1)
    assert json.loads(server.received[0].body) == {
        "texts": ["a", "b"],
        "stream": False,
        "seed": 1,
    }


# --- streams ----------------------------------------------------------------------------


def events(*pieces: str, end: str = "\n") -> bytes:
    blocks = [f"data: {json.dumps({'text': piece}, ensure_ascii=False)}" for piece in pieces]
    blocks.append(f"event: done{end}data: {json.dumps(SUMMARY)}")
    return "".join(block + end * 2 for block in blocks).encode()


def test_a_stream_gives_the_pieces_then_the_answer(ask: Any) -> None:
    # U+2028 ends a line for str.splitlines, but not for server-sent events.
    pieces = ("Plain ", "wörds\u2028 \x85", "日本.")
    with ScriptedServer([Answer(chunks=(b": a comment\n\n", events(*pieces)))]) as server:
        items = ask(server.url, "generate_stream", "text", seed=3)
    assert items == [*pieces, GenerateResponse.model_validate(SUMMARY)]
    assert json.loads(server.received[0].body) == {"text": "text", "stream": True, "seed": 3}


def test_a_stream_is_retried_until_it_begins(ask: Any) -> None:
    answers = [busy(), Answer(hang_up=True), Answer(chunks=(events("a"),))]
    with ScriptedServer(answers) as server:
        assert ask(server.url, "generate_stream", "text")[0] == "a"
    assert len(server.received) == 3


def test_a_stream_that_breaks_off_raises_and_is_not_repeated(ask: Any) -> None:
    cut = events("a", "b")[:-20]
    with (
        ScriptedServer([Answer(chunks=(cut,))]) as server,
        pytest.raises(PlainMedConnectionError, match="before the summary was complete"),
    ):
        ask(server.url, "generate_stream", "text")
    assert len(server.received) == 1


def test_an_error_inside_a_stream_is_raised(ask: Any) -> None:
    body = b'data: {"text": "a"}\n\nevent: error\ndata: ' + error_body() + b"\n\n"
    with (
        ScriptedServer([Answer(chunks=(body,))]) as server,
        pytest.raises(PlainMedAPIError, match="busy") as caught,
    ):
        ask(server.url, "generate_stream", "text")
    assert (caught.value.status, caught.value.code) == (503, "unavailable")
    assert len(server.received) == 1


def test_a_refused_stream_is_the_usual_error(ask: Any) -> None:
    refused = Answer(422, error_body("no_words", "the text has no word", "text"))
    with (
        ScriptedServer([refused]) as server,
        pytest.raises(PlainMedAPIError) as caught,
    ):
        ask(server.url, "generate_stream", "...")
    assert (caught.value.code, caught.value.field) == ("no_words", "text")


def test_a_stream_of_something_else_is_an_error(ask: Any) -> None:
    with (
        ScriptedServer([Answer(chunks=(b"data: [DONE]\n\n",))]) as server,
        pytest.raises(PlainMedAPIError) as caught,
    ):
        ask(server.url, "generate_stream", "text")
    assert caught.value.code == "bad_response"


@given(
    pieces=st.lists(st.text(max_size=8).filter(lambda text: "\r" not in text), max_size=4),
    end=st.sampled_from(["\n", "\r\n", "\r"]),
    data=st.data(),
)
def test_events_do_not_depend_on_how_the_bytes_are_cut(
    pieces: list[str], end: str, data: st.DataObject
) -> None:
    pieces = [piece.encode(errors="ignore").decode() for piece in pieces]
    stream = events(*pieces, end=end) + b":"
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=6)))
    parser = EventParser()
    found = []
    for start, stop in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        found += parser.feed(stream[start:stop])
    assert [json.loads(text)["text"] for _, text in found[:-1]] == pieces
    assert found[-1] == ("done", json.dumps(SUMMARY))


# --- against the application's own gateway ----------------------------------------------


@pytest.fixture(scope="module")
def url() -> Any:
    with api_server() as address:
        yield address


def test_every_method_agrees_with_the_gateway(ask: Any, url: str) -> None:
    pairs = list(zip(ORIGINALS, GENERATED, strict=True))
    scores = [overlap(*pair) for pair in pairs]
    assert ask(url, "relevance", ORIGINALS, GENERATED) == scores
    assert ask(url, "factuality", ORIGINALS[0], GENERATED[0]) == scores[:1]
    assert len(ask(url, "readability", GENERATED).smog) == len(GENERATED)
    weights = [0.25, 0.25, 0.2, 0.15, 0.15]
    evaluation = ask(url, "evaluate", ORIGINALS, GENERATED, weights=weights)
    assert evaluation.weights == weights
    losses = ask(url, "loss", ORIGINALS, GENERATED, weights=weights)
    assert losses == [result.loss for result in evaluation.results]
    assert ask(url, "loss", ORIGINALS[0], GENERATED[0], weights=weights) == losses[:1]
    assert ask(url, "evaluate", ORIGINALS[0]).results[0].generated == lead(ORIGINALS[0])
    assert ask(url, "generate", ORIGINALS[0]).summary == lead(ORIGINALS[0])
    *pieces, answer = ask(url, "generate_stream", ORIGINALS[0])
    assert "".join(pieces) == answer.summary == lead(ORIGINALS[0])
    assert ask(url, "health").status == "ready"


def test_the_gateways_refusals_arrive_as_they_are(ask: Any, url: str) -> None:
    with pytest.raises(PlainMedAPIError) as caught:
        ask(url, "loss", ["a b", "c"], ["a", " "], request_id="me-1")
    assert (caught.value.status, caught.value.code) == (422, "empty_text")
    assert (caught.value.field, caught.value.request_id) == ("texts_generated[1]", "me-1")


async def test_concurrent_calls_of_one_client_get_their_own_answers(url: str) -> None:
    texts = [f"word{index} and {'more ' * index}text" for index in range(40)]
    async with AsyncPlainMedClient(url) as client:
        found = await asyncio.gather(*(client.generate(text) for text in texts))
    assert [answer.summary for answer in found] == texts


def test_threads_may_share_a_client(url: str) -> None:
    found: dict[int, list[float]] = {}
    with PlainMedClient(url) as client:

        def work(index: int) -> None:
            found[index] = client.relevance("a b c", "a " + "z " * (index > 5) + "b")

        threads = [threading.Thread(target=work, args=(index,)) for index in range(12)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert found == {index: [2 / 3 if index > 5 else 1.0] for index in range(12)}


def test_a_stream_left_early_closes_its_connection(url: str) -> None:
    with PlainMedClient(url) as client:
        stream = client.generate_stream(ORIGINALS[0])
        next(stream)
        stream.close()  # type: ignore[attr-defined]
        assert client.health().status == "ready"
