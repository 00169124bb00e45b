"""`profile` in /loss, /evaluate and /generate."""

from __future__ import annotations

from typing import Any

import pytest

from serve_app.client.clients import PlainMedClient
from serve_app.core.errors import InvalidInput
from serve_app.core.settings import load_settings
from serve_app.metrics.profiles import load_profile
from tests.support.backends import api_client
from tests.support.servers import TARGETS, LightBackend, api_server, measure

SOURCE = (
    "We included 20 trials with 500 people. Fewer people died with aspirin (RR 0.5, 95% CI 0.3 to "
    "0.8). No harms were seen."
)
SUMMARY = "We found 20 trials with 500 people. Fewer people died with ASA."
PAIR = {"texts_original": [SOURCE], "texts_generated": [SUMMARY]}


async def post(path: str, backend: LightBackend | None = None, **body: Any) -> Any:
    async with api_client(backend or LightBackend()) as http:
        return await http.post(path, json=body)


@pytest.mark.parametrize("name", ["public", "patient"])
async def test_loss_and_evaluate_give_the_loss_of_the_profile(name: str) -> None:
    profile = load_profile(name, load_settings(), TARGETS)
    [wanted] = profile.evaluate([measure(SOURCE, SUMMARY)], [SOURCE], [SUMMARY])
    answer = await post("/loss", **PAIR, profile=name)
    assert answer.json() == pytest.approx(wanted.loss)
    found = (await post("/evaluate", **PAIR, profile=name)).json()
    assert found["profile"] == name
    [result] = found["results"]
    assert result["loss"] == pytest.approx(wanted.loss)
    assert result["targets"]["fkgl"] == profile.loss.targets.mean[2]
    assert result["terms"]["plainness"] == {"error": 0.5, "weight": profile.terms["plainness"]}
    left = 1 - sum(one["weight"] for one in result["terms"].values())
    errors = zip(found["weights"], result["errors"].values(), strict=True)
    whole = left * sum(weight * error for weight, error in errors) + sum(
        one["weight"] * one["error"] for one in result["terms"].values()
    )
    assert result["loss"] == pytest.approx(whole)


async def test_who_does_not_ask_gets_the_answer_as_before_and_cochrane_is_the_same() -> None:
    silent = (await post("/evaluate", **PAIR)).json()
    asked = (await post("/evaluate", **PAIR, profile="cochrane")).json()
    assert "profile" not in silent
    assert "terms" not in silent["results"][0]
    assert asked.pop("profile") == "cochrane"
    assert asked == silent
    assert (await post("/loss", **PAIR)).json() == silent["results"][0]["loss"]


@pytest.mark.parametrize("path", ["/loss", "/evaluate", "/generate"])
@pytest.mark.parametrize("name", ["children", "", "Public", 3])
async def test_an_unknown_profile_is_422_with_those_there_are(path: str, name: Any) -> None:
    body = {"text": SOURCE, "select": "loss"} if path == "/generate" else PAIR
    answer = await post(path, **body, profile=name)
    assert answer.status_code == 422
    error = answer.json()["error"]
    assert error["field"] == "profile"
    for known in ("cochrane", "public", "patient"):
        assert known in error["message"]


async def test_human_texts_are_no_targets_of_a_profile_and_that_is_said() -> None:
    backend = LightBackend(per_sample=True)
    for path in ("/loss", "/evaluate"):
        body = {**PAIR, "texts_human": ["People with aspirin live longer."]}
        answer = await post(path, backend, **body, profile="public")
        assert answer.status_code == 422
        assert answer.json()["error"]["field"] == "texts_human"
        assert (await post(path, backend, **body, profile="cochrane")).status_code == 200


async def test_the_best_of_n_is_the_best_for_the_readers_of_the_profile() -> None:
    """Of the light backend's candidates one ends before the statistic, the other has it."""
    answer = await post("/generate", text=SOURCE, n=2, select="loss", profile="public")
    found = answer.json()
    assert found["profile"] == "public"
    assert "RR" not in found["summary"]
    plainness = [one["scores"]["terms"]["plainness"]["error"] for one in found["candidates"]]
    assert plainness == [0.0, 0.5]
    losses = [one["scores"]["loss"] for one in found["candidates"]]
    assert losses == sorted(losses)
    evaluated = await post("/evaluate", texts_original=[SOURCE], n=2, profile="public")
    assert evaluated.json()["results"][0]["loss"] == pytest.approx(losses[0])


async def test_generate_takes_a_profile_only_where_it_selects() -> None:
    answer = await post("/generate", text=SOURCE, profile="public")
    assert answer.status_code == 422
    assert answer.json()["error"]["field"] == "profile"
    assert "profile" not in (await post("/generate", text=SOURCE, n=2)).json()


def test_the_client_asks_for_a_profile_and_refuses_one_that_there_is_not() -> None:
    wanted = load_profile("patient", load_settings(), TARGETS)
    [expected] = wanted.evaluate([measure(SOURCE, SUMMARY)], [SOURCE], [SUMMARY])
    with api_server() as url, PlainMedClient(url) as client:
        assert client.loss(SOURCE, SUMMARY, profile="patient") == pytest.approx([expected.loss])
        found = client.evaluate(SOURCE, SUMMARY, profile="patient")
        assert found.profile == "patient"
        assert found.results[0].terms["plainness"].error == 0.5
        best = client.generate(SOURCE, n=2, select="loss", profile="public")
        assert best.profile == "public"
        [same] = client.generate_many([SOURCE], n=2, select="loss", profile="public")
        assert same == best
        with pytest.raises(InvalidInput, match="profile"):
            client.loss(SOURCE, SUMMARY, profile="children")  # type: ignore[arg-type]
