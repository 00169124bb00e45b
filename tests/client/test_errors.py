"""What goes wrong arrives as an exception that says so."""

from __future__ import annotations

import pickle
from typing import Any

import pytest

from serve_app.client.clients import PlainMedAPIError, PlainMedClient, PlainMedConnectionError
from serve_app.core.errors import ConfigError, InvalidInput, PlainMedError
from tests.client.answers import RELEVANCE, error_body
from tests.support.servers import Answer, ScriptedServer


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
        ask(server.url, "relevance", "a", "a", request_id="mine", options={"retries": 0})
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
