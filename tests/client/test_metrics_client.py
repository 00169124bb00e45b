"""The earlier system's module, against the application's own gateway over real HTTP."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from metrics_client import (
    getFactuality,
    getHealth,
    getLoss,
    getLossPair,
    getReadability,
    getRelevance,
)
from serve_app.cli.demo import free_port
from serve_app.client.clients import PlainMedAPIError, PlainMedConnectionError
from serve_app.core.errors import ConfigError, InvalidInput
from serve_app.metrics.loss import LossFunction
from serve_app.metrics.readability import readability
from tests.support.servers import TARGETS, Answer, ScriptedServer, api_server, measure, overlap
from tests.support.texts import GENERATED, ORIGINALS

WEIGHTS = [0.25, 0.25, 0.2, 0.15, 0.15]
HUMANS = [text.replace("and", "or") for text in reversed(GENERATED)]


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with api_server(per_sample=True) as url:
        yield url


@pytest.fixture(autouse=True)
def environment(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("METRICS_API_URL", server)


def expected(
    originals: list[str], generated: list[str], humans: list[str] | None = None
) -> list[float]:
    values = [measure(*pair).values for pair in zip(originals, generated, strict=True)]
    means = None
    if humans is not None:
        means = [measure(*pair).values for pair in zip(originals, humans, strict=True)]
    return LossFunction(TARGETS)(values, WEIGHTS, means).tolist()


def test_two_lists_give_a_list_of_losses() -> None:
    assert getLoss(ORIGINALS, GENERATED, weights=WEIGHTS) == expected(ORIGINALS, GENERATED)


def test_three_lists_are_originals_humans_generated() -> None:
    with_humans = expected(ORIGINALS, GENERATED, HUMANS)
    assert with_humans != expected(ORIGINALS, GENERATED)
    assert getLoss(ORIGINALS, HUMANS, GENERATED, weights=WEIGHTS) == with_humans
    assert getLoss(ORIGINALS, HUMANS, GENERATED, WEIGHTS) == with_humans
    named = getLoss(generated=GENERATED, humans=HUMANS, originals=ORIGINALS, weights=WEIGHTS)
    assert named == with_humans


def test_one_pair_gives_a_float_as_str_or_as_list() -> None:
    (loss,) = expected(ORIGINALS[:1], GENERATED[:1])
    assert getLoss(ORIGINALS[0], GENERATED[0], weights=WEIGHTS) == loss
    assert getLoss(ORIGINALS[:1], GENERATED[:1], weights=WEIGHTS) == loss
    assert getLoss(ORIGINALS[0], generated=GENERATED[0], weights=WEIGHTS) == loss
    (with_human,) = expected(ORIGINALS[:1], GENERATED[:1], HUMANS[:1])
    assert getLoss(ORIGINALS[0], HUMANS[0], GENERATED[0], weights=WEIGHTS) == with_human


def test_relevance_and_factuality_give_lists_for_one_pair_too() -> None:
    scores = [overlap(*pair) for pair in zip(ORIGINALS, GENERATED, strict=True)]
    for function in (getRelevance, getFactuality):
        assert function(ORIGINALS, GENERATED) == scores
        assert function(ORIGINALS[1], GENERATED[1]) == [scores[1]]
        assert function(iter(ORIGINALS), tuple(GENERATED)) == scores  # type: ignore[arg-type]


def test_a_pair_of_texts_or_lists_has_a_loss_by_each_name_it_had() -> None:
    losses = expected(ORIGINALS, GENERATED)
    assert getLossPair(ORIGINALS, GENERATED, weights=WEIGHTS) == losses
    assert getLossPair(humans=ORIGINALS, generated=GENERATED, weights=WEIGHTS) == losses
    assert getLossPair(A=ORIGINALS[0], B=GENERATED[0], weights=WEIGHTS) == losses[0]


@pytest.mark.parametrize("weights", [[5, 5, 4, 3, 3], (0.5, 0.5, 0.4, 0.3, 0.3)])
def test_weights_are_divided_by_their_sum(weights: list[float]) -> None:
    wanted = expected(ORIGINALS, GENERATED)
    assert getLoss(ORIGINALS, GENERATED, weights=weights) == pytest.approx(wanted, abs=1e-12)


def test_every_function_takes_a_server_and_a_timeout(
    server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("METRICS_API_URL", f"http://127.0.0.1:{free_port()}")
    texts = (ORIGINALS, GENERATED)
    options = {"base_url": server + "/", "timeout": 30.0}
    assert len(getRelevance(*texts, server, 30.0)) == len(ORIGINALS)
    assert len(getFactuality(*texts, **options)) == len(ORIGINALS)
    assert len(getReadability(GENERATED, server, 30.0)["smog"]) == len(GENERATED)
    assert getLoss(*texts, weights=WEIGHTS, **options) == expected(*texts)
    assert getLoss(ORIGINALS, HUMANS, GENERATED, WEIGHTS, server, 30.0) == expected(*texts, HUMANS)
    assert getLossPair(*texts, weights=WEIGHTS, **options) == expected(*texts)
    assert getHealth(server, 30.0)["status"] == getHealth(**options)["status"]
    with ScriptedServer([Answer(delay=60)]) as slow, pytest.raises(RuntimeError, match="in time"):
        getRelevance("a", "a", base_url=slow.url, timeout=0.2)


@pytest.mark.parametrize("status", [200, 503])
def test_health_is_the_json_of_the_server_ready_or_not(status: int) -> None:
    body = {"status": "ok", "relevance": {"ready": status == 200}, "targets": {"a": 1}}
    with ScriptedServer([Answer(status, json.dumps(body).encode())]) as scripted:
        assert getHealth(scripted.url) == body


def test_readability_gives_lists_by_name() -> None:
    wanted = [readability(text) for text in GENERATED]
    assert getReadability(GENERATED) == {
        "fkgl": [item.fkgl for item in wanted],
        "smog": [item.smog for item in wanted],
        "dale_chall": [item.dale_chall for item in wanted],
    }
    assert getReadability(GENERATED[0])["fkgl"] == [wanted[0].fkgl]


def test_the_wire_format_is_the_earlier_systems(monkeypatch: pytest.MonkeyPatch) -> None:
    with ScriptedServer([Answer(body=b"[0.1, 0.2]")]) as scripted:
        monkeypatch.setenv("METRICS_API_URL", scripted.url)
        assert getLoss(["a", "b"], ["h", "i"], ["c", "d"], weights=WEIGHTS) == [0.1, 0.2]
    (request,) = scripted.received
    assert (request.method, request.path) == ("POST", "/loss")
    assert json.loads(request.body) == {
        "texts_original": ["a", "b"],
        "texts_generated": ["c", "d"],
        "texts_human": ["h", "i"],
        "weights": WEIGHTS,
    }


def test_the_server_is_looked_up_at_each_call(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    first = getRelevance("a b", "a c")
    with ScriptedServer([Answer(body=b'{"relevance":[9],"model":"","device":""}')]) as other:
        monkeypatch.setenv("METRICS_API_URL", other.url)
        assert getRelevance("a b", "a c") == [9]
    monkeypatch.setenv("METRICS_API_URL", server)
    assert getRelevance("a b", "a c") == first == [0.5]


def test_the_timeout_is_a_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    with ScriptedServer([Answer(delay=60)]) as slow:
        monkeypatch.setenv("METRICS_API_URL", slow.url)
        monkeypatch.setenv("METRICS_API_TIMEOUT", "0.2")
        with pytest.raises(PlainMedConnectionError, match="in time"):
            getRelevance("a", "a")
    for wrong in ("fast", "-1", "0"):
        monkeypatch.setenv("METRICS_API_TIMEOUT", wrong)
        with pytest.raises(ConfigError):
            getRelevance("a", "a")


def test_mistakes_raise() -> None:
    with pytest.raises(TypeError, match="generated"):
        getLoss(ORIGINALS)
    with pytest.raises(TypeError, match="two texts"):
        getLossPair(ORIGINALS)
    # ValueErrors and RuntimeErrors, as the earlier module raised.
    for function in (getLoss, getRelevance, getFactuality):
        with pytest.raises(ValueError, match="same length"):
            function(ORIGINALS, GENERATED[:2])
    with pytest.raises(ValueError, match="same length"):
        getLoss(ORIGINALS, HUMANS[:2], GENERATED)
    for weights in ([1, 1, 1, 1], [0, 0, 0, 0, 0]):
        with pytest.raises(ValueError, match="weights"):
            getLoss(ORIGINALS, GENERATED, weights=weights)
    with pytest.raises(RuntimeError) as refused:
        getLoss(ORIGINALS, GENERATED, weights=[-1, 1, 1, 1, 1])
    assert isinstance(refused.value, PlainMedAPIError)
    with pytest.raises(InvalidInput, match=r"texts_generated\[0\]"):
        getLoss(ORIGINALS, WEIGHTS[: len(ORIGINALS)])  # type: ignore[arg-type]


def test_no_server_is_a_connection_error(
    monkeypatch: pytest.MonkeyPatch, waits: list[float]
) -> None:
    monkeypatch.setenv("METRICS_API_URL", f"http://127.0.0.1:{free_port()}")
    with pytest.raises(PlainMedConnectionError, match="5 attempts"):
        getRelevance("a", "a")
    assert sum(waits) > 3  # a client with its defaults is patient
