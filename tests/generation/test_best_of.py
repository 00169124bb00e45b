"""Best of n: what is generated and scored, in which order candidates come, and what is an error."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.api.app import create_app
from serve_app.api.middleware.request_guard import Traffic
from serve_app.core.errors import InvalidInput, MetricFailed
from serve_app.core.settings import load_settings
from serve_app.generation import best_of
from serve_app.generation.best_of import Candidate
from serve_app.generation.protocol import GenerationParams, Summary
from serve_app.metrics.evaluation import Evaluation
from serve_app.metrics.loss import METRICS
from tests.support.servers import LightBackend, lead, measure
from tests.support.texts import GENERATED, ORIGINALS

PARAMS = GenerationParams(temperature=0.7, seed=5)


def scored(loss: float) -> Evaluation:
    return Evaluation(measure("A cat sat.", "A cat."), (0.0,) * 5, (loss,) * 5, loss, (1.0,) * 5)


def group(*texts: str) -> list[Candidate]:
    return [Candidate(at, Summary(text, "m")) for at, text in enumerate(texts)]


def ranked(texts: list[str], losses: dict[str, float]) -> list[Candidate]:
    groups = [group(*texts)]
    places = best_of.to_score(groups)
    return best_of.best_first(groups, places, [scored(losses[text]) for _, text in places])[0]


# --- the selection alone ----------------------------------------------------------------


def test_each_text_is_asked_for_n_times_and_only_the_variant_differs() -> None:
    texts, params = best_of.jobs(["a", "b"], PARAMS, 3)
    assert texts == ["a", "a", "a", "b", "b", "b"]
    assert params == [replace(PARAMS, variant=variant) for variant in (0, 1, 2, 0, 1, 2)]


@given(st.lists(st.sampled_from("ab"), max_size=8), st.integers(1, 4), st.booleans())
def test_a_turn_holds_one_text_with_its_candidates(
    texts: list[str], n: int, together: bool
) -> None:
    jobs, params = best_of.jobs(texts, PARAMS, n)
    found = best_of.parts(jobs, params, together=together)
    assert [jobs[part] for part in found] == (
        [[text] * n for text in texts] if together else [[text] for text in jobs]
    )
    assert [one for part in found for one in params[part]] == params


def test_summaries_come_back_to_their_texts() -> None:
    groups = best_of.grouped([Summary(text, "m") for text in "abcd"], 2)
    assert [[one.summary.text for one in candidates] for candidates in groups] == [
        ["a", "b"],
        ["c", "d"],
    ]
    assert [[one.variant for one in candidates] for candidates in groups] == [[0, 1], [0, 1]]


def test_a_missing_candidate_is_an_error() -> None:
    with pytest.raises(MetricFailed) as caught:
        best_of.grouped([Summary(text, "m") for text in "abc"], 2)
    assert caught.value.code == "generation_failed"


def test_equal_candidates_of_a_text_are_scored_once_and_all_kept() -> None:
    groups = [group("x", "y", "x"), group("x")]
    places = best_of.to_score(groups)
    assert places == [(0, "x"), (0, "y"), (1, "x")]
    first, second = best_of.best_first(groups, places, [scored(0.4), scored(0.2), scored(0.9)])
    assert [(one.variant, one.evaluation.loss) for one in first if one.evaluation] == [
        (1, 0.2),
        (0, 0.4),
        (2, 0.4),
    ]
    # The same summary of another text has that text's score.
    assert [one.evaluation.loss for one in second if one.evaluation] == [0.9]


def test_a_candidate_without_a_word_comes_last_without_scores() -> None:
    found = ranked(["...", "b", "", "a"], {"a": 0.1, "b": 0.9})
    assert [one.variant for one in found] == [3, 1, 0, 2]
    assert [one.evaluation is None for one in found] == [False, False, True, True]


def test_no_candidate_with_a_word_is_an_error_that_names_the_text() -> None:
    with pytest.raises(MetricFailed, match="text 1") as caught:
        best_of.to_score([group("a", ""), group("", "...")])
    assert caught.value.code == "generation_failed"


@pytest.mark.parametrize("loss", [math.nan, math.inf])
def test_a_loss_that_is_no_number_is_an_error(loss: float) -> None:
    with pytest.raises(MetricFailed, match="candidate 1"):
        ranked(["a", "b"], {"a": 0.1, "b": loss})


def test_scores_that_do_not_come_back_are_an_error() -> None:
    groups = [group("a", "b")]
    with pytest.raises(MetricFailed, match="1 scores"):
        best_of.best_first(groups, best_of.to_score(groups), [scored(0.1)])
    with pytest.raises(MetricFailed, match="not scored"):
        best_of.best_first(groups, [(0, "a")], [scored(0.1)])


def test_fewer_than_one_candidate_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        best_of.jobs(["a"], PARAMS, 0)


@given(st.lists(st.tuples(st.sampled_from("abcdefgh"), st.booleans()), min_size=1, max_size=16))
def test_best_first_and_more_candidates_never_raise_the_least_loss(
    drawn: list[tuple[str, bool]],
) -> None:
    # Losses with ties: two letters share each.
    losses = {letter: (ord(letter) - ord("a")) // 2 / 4 for letter in "abcdefgh"}
    texts = [letter if has_word else "?" for letter, has_word in drawn]
    least = math.inf
    for n in range(1, len(texts) + 1):
        if not any(text != "?" for text in texts[:n]):
            continue
        found = ranked(texts[:n], losses)
        assert sorted(one.variant for one in found) == list(range(n))
        order = [
            (math.inf if one.evaluation is None else one.evaluation.loss, one.variant)
            for one in found
        ]
        assert order == sorted(order)
        assert order[0][0] <= least
        least = order[0][0]


# --- over HTTP, with a backend that is light but computes -------------------------------


async def post(path: str, body: dict[str, Any], backend: Any = None, **settings: Any) -> Any:
    app = create_app(backend or LightBackend(), load_settings(**settings), Traffic())
    transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as http:
        return await http.post(path, json=body)


async def losses_of(original: str, summaries: list[str], **more: Any) -> list[float]:
    body = {"texts_original": [original] * len(summaries), "texts_generated": summaries, **more}
    answer = (await post("/loss", body)).json()
    return answer if isinstance(answer, list) else [answer]


async def test_one_text_written_once_is_answered_as_before() -> None:
    plain = (await post("/generate", {"text": ORIGINALS[0]})).json()
    assert set(plain) == {
        *("summary", "model", "finish_reason", "truncated", "usage", "sentences"),
    }
    assert (await post("/generate", {"text": ORIGINALS[0], "n": 1})).json() == plain
    assert plain["summary"] == lead(ORIGINALS[0])


async def test_without_select_candidates_come_in_the_order_of_writing_and_unscored() -> None:
    backend = LightBackend()
    answer = (await post("/generate", {"text": ORIGINALS[0], "n": 4}, backend)).json()
    assert [one["variant"] for one in answer["candidates"]] == [0, 1, 2, 3]
    assert [one["summary"] for one in answer["candidates"]] == [
        lead(ORIGINALS[0], sentences) for sentences in (2, 1, 2, 3)
    ]
    assert all(one["scores"] is None for one in answer["candidates"])
    assert "select" not in answer
    assert answer["summary"] == lead(ORIGINALS[0])
    assert backend.scored == []


async def test_select_gives_the_best_first_with_the_scores_that_loss_gives() -> None:
    backend = LightBackend()
    weights = [0.5, 0.1, 0.2, 0.1, 0.1]
    body = {"text": ORIGINALS[0], "n": 5, "select": "loss", "weights": weights}
    answer = (await post("/generate", body, backend)).json()
    found = answer["candidates"]
    losses = [one["scores"]["loss"] for one in found]
    assert losses == sorted(losses)
    assert losses[0] < losses[-1]
    assert losses == await losses_of(
        ORIGINALS[0], [one["summary"] for one in found], weights=weights
    )
    for one in found:
        errors = [one["scores"]["errors"][name] for name in METRICS]
        total = sum(weight * error for weight, error in zip(weights, errors, strict=True))
        assert total == pytest.approx(one["scores"]["loss"])
        assert set(one["scores"]["metrics"]) == set(METRICS)
    assert {key: answer[key] for key in ("summary", "model", "sentences")} == {
        key: found[0][key] for key in ("summary", "model", "sentences")
    }
    assert (answer["select"], answer["weights"]) == ("loss", weights)
    # One call scores them all, the equal ones (variants 0 and 2) once.
    assert [len(call) for call in backend.scored] == [4]


async def test_select_of_a_single_candidate_scores_it() -> None:
    answer = (await post("/generate", {"text": ORIGINALS[0], "select": "loss"})).json()
    (one,) = answer["candidates"]
    assert [one["scores"]["loss"]] == await losses_of(ORIGINALS[0], [one["summary"]])


async def test_several_texts_are_answered_as_each_alone_in_one_call_each() -> None:
    backend = LightBackend()
    body = {"texts": ORIGINALS, "n": 3, "select": "loss"}
    results = (await post("/generate", body, backend)).json()["results"]
    assert len(backend.scored) == 1
    assert backend.generated == 3 * len(ORIGINALS)
    for text, result in zip(ORIGINALS, results, strict=True):
        alone = {"text": text, "n": 3, "select": "loss"}
        assert result == (await post("/generate", alone)).json()
    plain = (await post("/generate", {"texts": ORIGINALS})).json()
    assert [one["summary"] for one in plain["results"]] == [lead(text) for text in ORIGINALS]
    assert all("candidates" not in one for one in plain["results"])


async def test_evaluate_writes_candidates_by_the_same_path_and_shows_the_best() -> None:
    body = {"texts_original": ORIGINALS[:2], "n": 4}
    results = (await post("/evaluate", body)).json()["results"]
    for text, result in zip(ORIGINALS, results, strict=False):
        generated = (await post("/generate", {"text": text, "n": 4, "select": "loss"})).json()
        assert result["candidates"] == generated["candidates"]
        assert result["generated"] == generated["summary"]
        best = result["candidates"][0]["scores"]
        assert (result["loss"], result["errors"]) == (best["loss"], best["errors"])
    single = (await post("/evaluate", {"texts_original": ORIGINALS[:2]})).json()["results"]
    assert [one["generated"] for one in single] == [lead(text) for text in ORIGINALS[:2]]
    assert all("candidates" not in one for one in single)


async def test_human_targets_choose_among_the_candidates_of_evaluate() -> None:
    # Its own human text is the target, so the candidate that equals it has loss 0.
    for sentences in (1, 3):
        human = lead(ORIGINALS[0], sentences)
        body = {"texts_original": [ORIGINALS[0]], "texts_human": [human], "n": 4}
        answer = (await post("/evaluate", body, LightBackend(per_sample=True))).json()
        assert answer["results"][0]["generated"] == human
        assert answer["results"][0]["loss"] == 0


@pytest.mark.parametrize(
    ("body", "status", "code", "field"),
    [
        ({}, 422, "missing_field", "text"),
        ({"text": "A cat.", "texts": ["A cat."]}, 422, "invalid_input", "texts"),
        ({"texts": []}, 422, "empty_list", "texts"),
        ({"texts": ["A cat.", "..."]}, 422, "no_words", "texts[1]"),
        ({"texts": "A cat."}, 422, "invalid_input", "texts"),
        ({"text": "A cat.", "n": 0}, 422, "invalid_input", "n"),
        ({"text": "A cat.", "n": 7}, 422, "invalid_input", "n"),
        ({"text": "A cat.", "n": 2.5}, 422, "invalid_input", "n"),
        ({"texts": ["A cat."] * 4, "n": 3}, 413, "too_many_texts", "n"),
        ({"texts": ["A cat."] * 11}, 413, "too_many_texts", "texts"),
        ({"text": "A cat.", "select": "best"}, 422, "invalid_input", "select"),
        ({"text": "A cat.", "n": 2, "weights": [0.2] * 5}, 422, "invalid_input", "weights"),
        (
            {"text": "A cat.", "select": "loss", "weights": [0.5] * 5},
            *(422, "invalid_input", "weights"),
        ),
        ({"text": "A cat.", "stream": True, "n": 2}, 422, "invalid_input", "stream"),
        ({"text": "A cat.", "stream": True, "select": "loss"}, 422, "invalid_input", "stream"),
        ({"texts": ["A cat."], "stream": True}, 422, "invalid_input", "stream"),
    ],
    ids=str,
)
async def test_a_request_that_makes_no_sense_is_refused_by_field(
    body: dict[str, Any], status: int, code: str, field: str
) -> None:
    response = await post("/generate", body, max_candidates=6, max_texts=10)
    error = response.json()["error"]
    assert (response.status_code, error["code"], error["field"]) == (status, code, field)


@pytest.mark.parametrize(("extra", "field"), [({"n": 2}, "n"), ({"seed": 1}, "seed")])
async def test_evaluate_of_given_summaries_takes_no_settings_of_the_generator(
    extra: dict[str, int], field: str
) -> None:
    body = {"texts_original": ORIGINALS[:1], "texts_generated": GENERATED[:1], **extra}
    response = await post("/evaluate", body)
    assert (response.status_code, response.json()["error"]["field"]) == (422, field)


async def test_the_generator_alone_says_what_select_needs() -> None:
    backend = LightBackend()
    backend.services = frozenset({"generator"})
    response = await post("/generate", {"text": "A cat.", "n": 2, "select": "loss"}, backend)
    error = response.json()["error"]
    assert (response.status_code, error["code"], error["field"]) == (404, "not_served", "select")
    assert "services: [metrics, generator]" in error["message"]
    assert backend.generated == 0
    assert (await post("/generate", {"text": "A cat.", "n": 2}, backend)).status_code == 200


class Refusing(LightBackend):
    """Cannot take a text, as an engine says it."""

    async def generate(self, texts: Any, params: Any) -> list[Summary]:
        raise InvalidInput("over the context", field="text", code="input_too_long")


@pytest.mark.parametrize(
    ("path", "body", "field"),
    [
        ("/generate", {"text": "A cat.", "n": 2}, "text"),
        ("/generate", {"texts": ["A cat."]}, "texts[0]"),
        ("/generate", {"texts": ["A cat.", "A dog."]}, "texts"),
        ("/evaluate", {"texts_original": ["A cat."]}, "texts_original[0]"),
    ],
)
async def test_a_text_the_engine_refuses_is_named_by_the_requests_own_field(
    path: str, body: dict[str, Any], field: str
) -> None:
    response = await post(path, body, Refusing())
    error = response.json()["error"]
    assert (response.status_code, error["code"], error["field"]) == (422, "input_too_long", field)


class Mute(LightBackend):
    """Writes no word, as a language model may."""

    async def generate(self, texts: Any, params: Any) -> list[Summary]:
        return [Summary("", "m") for _ in texts]


async def test_candidates_without_a_word_are_an_error_and_not_the_callers() -> None:
    response = await post("/generate", {"text": "A cat.", "n": 2, "select": "loss"}, Mute())
    assert (response.status_code, response.json()["error"]["code"]) == (500, "generation_failed")
