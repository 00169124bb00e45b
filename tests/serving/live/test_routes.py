"""Every route over HTTP gives what the library gives, in the contract's shape."""

from __future__ import annotations

import json
import uuid
from typing import Any

import httpx
import numpy as np
import openai
import pytest

from serve_app.core.settings import load_settings
from serve_app.metrics.evaluation import Measured, evaluate
from serve_app.metrics.loss import METRICS, LossFunction
from serve_app.metrics.suite import MetricSuite
from serve_app.metrics.targets import load_targets
from tests.serving.live.conftest import Server
from tests.support.texts import GENERATED, HUMAN, ORIGINALS

PAIRS = {"texts_original": ORIGINALS, "texts_generated": GENERATED}
TOLERANCE = 1e-5


@pytest.fixture(scope="session")
def suite() -> MetricSuite:
    return MetricSuite.from_settings(load_settings())


@pytest.fixture(scope="session")
def measured(suite: MetricSuite) -> list[Measured]:
    return suite.measure(ORIGINALS, GENERATED)


@pytest.fixture(scope="session")
def loss() -> LossFunction:
    return LossFunction(load_targets(load_settings()))


def test_relevance_is_the_librarys(http: httpx.Client, measured: list[Measured]) -> None:
    answer = http.post("/metrics/relevance", json=PAIRS).json()
    assert set(answer) == {"relevance", "model", "device"}
    assert answer["relevance"] == pytest.approx([m.relevance.f1 for m in measured], abs=TOLERANCE)
    assert answer["model"] == "all-MiniLM-L6-v2"


def test_factuality_is_the_librarys(http: httpx.Client, measured: list[Measured]) -> None:
    answer = http.post("/metrics/factuality", json=PAIRS).json()
    assert set(answer) == {"factuality", "model", "device"}
    expected = [m.factuality.score for m in measured]
    assert answer["factuality"] == pytest.approx(expected, abs=TOLERANCE)
    assert answer["model"] == "alignscore-mini"


def test_readability_is_the_librarys_exactly(http: httpx.Client, measured: list[Measured]) -> None:
    answer = http.post("/metrics/readability", json={"texts": GENERATED}).json()
    assert answer == {
        name: [getattr(m.readability, name) for m in measured]
        for name in ("fkgl", "smog", "dale_chall")
    } | {"language": ["en"] * len(GENERATED)}


def test_loss_of_several_texts_is_a_list(
    http: httpx.Client, measured: list[Measured], loss: LossFunction
) -> None:
    answer = http.post("/loss", json=PAIRS).json()
    assert answer == pytest.approx([e.loss for e in evaluate(measured, loss)], abs=TOLERANCE)
    assert all(0 <= value <= 1 for value in answer)


def test_loss_of_one_text_is_a_number(http: httpx.Client) -> None:
    one = {key: texts[:1] for key, texts in PAIRS.items()}
    alone = http.post("/loss", json=one).json()
    assert isinstance(alone, float)
    assert alone == pytest.approx(http.post("/loss", json=PAIRS).json()[0], abs=TOLERANCE)


def test_weights_choose_the_metric(http: httpx.Client) -> None:
    full = http.post("/evaluate", json=PAIRS).json()["results"]
    for index, metric in enumerate(METRICS):
        weights = [0.0] * 5
        weights[index] = 1.0
        losses = http.post("/loss", json={**PAIRS, "weights": weights}).json()
        assert losses == pytest.approx([item["errors"][metric] for item in full], abs=TOLERANCE)


def test_human_texts_do_not_change_the_loss_against_corpus_targets(http: httpx.Client) -> None:
    with_human = http.post("/loss", json={**PAIRS, "texts_human": HUMAN}).json()
    assert with_human == pytest.approx(http.post("/loss", json=PAIRS).json(), abs=TOLERANCE)


def test_evaluate_explains_the_loss(
    http: httpx.Client, measured: list[Measured], loss: LossFunction
) -> None:
    answer = http.post("/evaluate", json=PAIRS).json()
    assert answer["models"] == {"relevance": "all-MiniLM-L6-v2", "factuality": "alignscore-mini"}
    for text, result, expected in zip(GENERATED, answer["results"], measured, strict=True):
        assert result["generated"] == text
        values = [result["metrics"][name] for name in METRICS]
        assert values == pytest.approx(expected.values, abs=TOLERANCE)
        assert [result["targets"][name] for name in METRICS] == pytest.approx(loss.targets.mean)
        errors = np.array([result["errors"][name] for name in METRICS])
        assert errors == pytest.approx(loss.errors([values])[0], abs=TOLERANCE)
        assert result["loss"] == pytest.approx(float(errors @ answer["weights"]), abs=1e-9)
        scores = [sentence["score"] for sentence in result["sentences"]]
        assert np.mean(scores) == pytest.approx(result["metrics"]["factuality"], abs=TOLERANCE)
        assert " ".join(s["text"] for s in result["sentences"]) == text
        for word in result["difficult_words"]:
            assert text[word["start"] : word["end"]].lower() == word["word"]
        assert result["truncated"] == {
            "relevance_original": False,
            "relevance_generated": False,
            "factuality": False,
        }


def test_a_long_original_is_flagged_as_truncated(http: httpx.Client) -> None:
    long = " ".join(ORIGINALS * 4)
    answer = http.post(
        "/evaluate", json={"texts_original": [long], "texts_generated": GENERATED[:1]}
    ).json()
    assert answer["results"][0]["truncated"]["relevance_original"] is True
    assert answer["results"][0]["truncated"]["relevance_generated"] is False


def test_generate_writes_a_summary_from_the_original(http: httpx.Client) -> None:
    answer = http.post("/generate", json={"text": ORIGINALS[0]}).json()
    assert answer["summary"]
    assert answer["model"] == "extractive"
    for sentence in answer["sentences"]:
        assert sentence["source"] in ORIGINALS[0]
        assert sentence["text"] in answer["summary"]


def test_a_stream_ends_with_the_same_answer(http: httpx.Client) -> None:
    plain = http.post("/generate", json={"text": ORIGINALS[1]}).json()
    pieces, final = [], None
    with http.stream("POST", "/generate", json={"text": ORIGINALS[1], "stream": True}) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        event = None
        for line in response.iter_lines():
            if line.startswith("event: "):
                event = line.removeprefix("event: ")
            elif line.startswith("data: "):
                data = json.loads(line.removeprefix("data: "))
                if event is None:
                    pieces.append(data["text"])
                else:
                    assert event == "done"
                    final = data
    assert final == plain
    assert "".join(pieces).split() == plain["summary"].split()


def test_a_stream_of_a_bad_text_is_a_4xx(http: httpx.Client) -> None:
    response = http.post("/generate", json={"text": "...", "stream": True})
    assert response.status_code == 422
    assert response.json()["error"]["code"] == "no_words"


def test_evaluate_without_a_summary_generates_one(http: httpx.Client) -> None:
    generated = http.post("/generate", json={"text": ORIGINALS[0]}).json()["summary"]
    answer = http.post("/evaluate", json={"texts_original": ORIGINALS[:1]}).json()
    assert answer["results"][0]["generated"] == generated


def test_the_best_of_n_has_the_scores_that_evaluate_gives_its_text(http: httpx.Client) -> None:
    body = {"text": ORIGINALS[0], "n": 4, "select": "loss", "seed": 7}
    answer = http.post("/generate", json=body).json()
    found = answer["candidates"]
    assert len({one["summary"] for one in found}) > 1
    assert sorted(one["variant"] for one in found) == [0, 1, 2, 3]
    losses = [one["scores"]["loss"] for one in found]
    assert losses == sorted(losses)
    assert answer["summary"] == found[0]["summary"]
    texts = [one["summary"] for one in found]
    pairs = {"texts_original": ORIGINALS[:1] * 4, "texts_generated": texts}
    for one, result in zip(
        found, http.post("/evaluate", json=pairs).json()["results"], strict=True
    ):
        assert one["scores"]["loss"] == pytest.approx(result["loss"], abs=TOLERANCE)
        for part in ("metrics", "errors"):
            assert one["scores"][part] == pytest.approx(result[part], abs=TOLERANCE)
    assert http.post("/generate", json=body).json()["summary"] == answer["summary"]
    ordinary = http.post("/generate", json={"text": ORIGINALS[0]}).json()["summary"]
    assert ordinary == next(one["summary"] for one in found if one["variant"] == 0)
    written = http.post("/evaluate", json={"texts_original": ORIGINALS[:1], "n": 4, "seed": 7})
    assert written.json()["results"][0]["generated"] == answer["summary"]


def test_several_texts_are_summarised_in_one_request(http: httpx.Client) -> None:
    results = http.post("/generate", json={"texts": ORIGINALS}).json()["results"]
    for text, result in zip(ORIGINALS, results, strict=True):
        assert result == http.post("/generate", json={"text": text}).json()


def test_a_stream_of_several_candidates_is_refused(http: httpx.Client) -> None:
    response = http.post("/generate", json={"text": ORIGINALS[0], "n": 2, "stream": True})
    assert response.status_code == 422
    assert response.json()["error"]["field"] == "stream"


def test_health_names_models_devices_and_targets(http: httpx.Client) -> None:
    response = http.get("/healthz")
    assert response.status_code == 200
    answer = response.json()
    assert answer["status"] == "ready"
    assert answer["services"] == ["generator", "metrics"]
    components = answer["components"]
    assert set(components) == {"Relevance", "Factuality", "Readability", "Loss", "Generator"}
    assert all(part["ready"] for part in components.values())
    assert components["Relevance"]["model"] == "all-MiniLM-L6-v2"
    assert components["Relevance"]["device"] == "cpu"
    assert answer["targets"]["TARGET_FKGL"] > 0
    assert answer["warnings"] == []


def test_openapi_describes_every_route(http: httpx.Client) -> None:
    assert http.get("/docs").status_code == 200
    document = http.get("/openapi.json").json()
    assert set(document["paths"]) == {
        "/livez",
        "/readyz",
        "/healthz",
        "/status",
        "/metrics/relevance",
        "/metrics/factuality",
        "/metrics/readability",
        "/loss",
        "/evaluate",
        "/generate",
        "/v1/chat/completions",
        "/v1/models",
    }
    for operations in document["paths"].values():
        if "post" in operations:
            schema = operations["post"]["responses"]["422"]["content"]["application/json"]["schema"]
            assert schema == {"$ref": "#/components/schemas/ErrorResponse"}


def test_the_callers_request_id_comes_back(http: httpx.Client) -> None:
    response = http.post(
        "/metrics/readability", json={"texts": ["A cat."]}, headers={"X-Request-ID": "abc-123"}
    )
    assert response.headers.get_list("x-request-id") == ["abc-123"]


def test_cors_is_closed_by_default(http: httpx.Client) -> None:
    response = http.get("/healthz", headers={"Origin": "https://example.org"})
    assert "access-control-allow-origin" not in response.headers


def test_the_log_has_request_ids_and_no_medical_text(server: Server, http: httpx.Client) -> None:
    marker = "zyzzyva"
    http.post(
        "/metrics/readability",
        json={"texts": [f"The {marker} lowered pain."]},
        headers={"X-Request-ID": "find-me-7"},
    )
    logs = server.session_folder() / "logs"
    lines = [
        line
        for file in logs.rglob("*.log")
        for line in file.read_text("utf-8", "replace").split("\n")
    ]
    assert any("find-me-7" in line and "/metrics/readability" in line for line in lines)
    assert not any(marker in line for line in lines)


def test_the_stock_openai_client_gets_what_generate_writes(server: Server) -> None:
    generated = httpx.post(f"{server.url}/generate", json={"text": ORIGINALS[0]}, timeout=60).json()
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key=uuid.uuid4().hex) as client:
        assert [one.id for one in client.models.list()] == [generated["model"]]
        ask: Any = {"model": "plainmed", "messages": [{"role": "user", "content": ORIGINALS[0]}]}
        answer = client.chat.completions.create(**ask)
        chunks = list(client.chat.completions.create(**ask, stream=True))
        with pytest.raises(openai.UnprocessableEntityError, match="word"):
            client.chat.completions.create(**ask | {"messages": [{"role": "user", "content": "."}]})
    assert answer.choices[0].message.content == generated["summary"]
    pieces = [one.choices[0].delta.content or "" for one in chunks]
    assert len(pieces) > 2
    assert "".join(pieces) == generated["summary"]
