"""What the clients send, and what they make of the answers."""

from __future__ import annotations

import inspect
import json
from typing import Any

import pytest

from serve_app.cli.demo import free_port
from serve_app.client.clients import AsyncPlainMedClient, PlainMedAPIError, PlainMedClient
from tests.client.answers import RELEVANCE, SUMMARY
from tests.support.servers import Answer, ScriptedServer, api_server, lead
from tests.support.texts import ORIGINALS


def test_the_environment_names_the_server(monkeypatch: pytest.MonkeyPatch) -> None:
    with ScriptedServer([RELEVANCE]) as server:
        monkeypatch.setenv("METRICS_API_URL", server.url + "/")
        with PlainMedClient() as client:
            client.relevance("a", "a")
    assert server.received[0].path == "/metrics/relevance"


def test_both_clients_have_the_same_methods_with_the_same_arguments_and_words() -> None:
    names = [name for name in vars(PlainMedClient) if not name.startswith("_") and name != "close"]
    assert {"loss", "evaluate", "generate_stream", "status"} < set(names)
    for name in names:
        one, other = getattr(PlainMedClient, name), getattr(AsyncPlainMedClient, name)
        assert next(iter(inspect.signature(one).parameters)) == "self"
        assert inspect.signature(one).parameters == inspect.signature(other).parameters
        assert one.__doc__
        assert inspect.iscoroutinefunction(other) == (name != "generate_stream")
    bound = inspect.signature(PlainMedClient("http://127.0.0.1:1").loss)
    named = ["originals", "generated", "humans", "weights", "profile", "request_id"]
    assert [*bound.parameters] == named


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
