"""The earlier system's module, against the application's own gateway over real HTTP."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from metrics_client import getFactuality, getLoss, getReadability, getRelevance
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


def test_relevance_and_factuality_give_a_float_or_a_list() -> None:
    scores = [overlap(*pair) for pair in zip(ORIGINALS, GENERATED, strict=True)]
    for function in (getRelevance, getFactuality):
        assert function(ORIGINALS, GENERATED) == scores
        assert function(ORIGINALS[1], GENERATED[1]) == scores[1]


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
        assert getRelevance("a b", "a c") == 9
    monkeypatch.setenv("METRICS_API_URL", server)
    assert getRelevance("a b", "a c") == first == 0.5


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
    with pytest.raises(PlainMedAPIError, match="texts_generated"):
        getLoss(ORIGINALS, GENERATED[:2])
    with pytest.raises(PlainMedAPIError, match="sum to 1"):
        getLoss(ORIGINALS, GENERATED, weights=[1, 1, 1, 1, 1])
    with pytest.raises(InvalidInput, match=r"texts_generated\[0\]"):
        getLoss(ORIGINALS, WEIGHTS)  # type: ignore[arg-type]


def test_no_server_is_a_connection_error(monkeypatch: pytest.MonkeyPatch) -> None:
    # A client with its defaults waits some seconds between five attempts.
    monkeypatch.setenv("METRICS_API_URL", f"http://127.0.0.1:{free_port()}")
    with pytest.raises(PlainMedConnectionError, match="5 attempts"):
        getRelevance("a", "a")
