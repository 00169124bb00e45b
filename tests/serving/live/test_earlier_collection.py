"""The requests of the earlier system's Postman collection (`pruebas_metricas.json`), unchanged.

Its checks of raw metrics hold. Those of the loss compare one text above its target with one below,
so they depend on targets and direction; what each loss must be is computed here. Its
`smog[dense] > smog[simple]` never held: SMOG of fewer than three sentences is 0, there as here.
"""

from __future__ import annotations

import httpx
import pytest

from serve_app.core.settings import load_settings
from serve_app.metrics.loss import LossFunction
from serve_app.metrics.suite import MetricSuite
from serve_app.metrics.targets import load_targets

INSULIN = "Insulin decreases blood glucose."
ASPIRIN = "Aspirin reduces the risk of blood clots."
HEART = "The heart pumps blood throughout the body."
LUNGS = "The lungs help you breathe air."
PLAIN = "The medicine helps. It lowers sugar. It is safe for most people. Doctors check you often."
PLAN = "The treatment plan is simple. The doctor changes the dose slowly to keep you safe."
DENSE = (
    "The pharmacological management of type 2 diabetes frequently involves metformin "
    "administration, as clinicians evaluate glycemic trajectories and comorbidities."
)
DENSER = (
    "The pharmacological management of type 2 diabetes frequently involves metformin "
    "administration, as clinicians evaluate glycemic trajectories, cardiovascular comorbidities, "
    "and contraindications to optimize adherence."
)
HARD = (
    "Therapeutic regimens necessitate meticulous titration, incorporating contraindications and "
    "idiosyncratic responses to mitigate iatrogenic sequelae."
)
LOSSES = [
    (INSULIN, "Insulin lowers blood sugar.", [1, 0, 0, 0, 0]),
    (INSULIN, "Bananas cause computers to melt.", [1, 0, 0, 0, 0]),
    (ASPIRIN, "Aspirin lowers the risk of clot formation.", [0, 1, 0, 0, 0]),
    (ASPIRIN, "Aspirin increases the risk of blood clots.", [0, 1, 0, 0, 0]),
    (HEART, DENSE, [0, 0, 1, 0, 0]),
    (HEART, PLAIN, [0, 0, 1, 0, 0]),
    (INSULIN, DENSE, [0, 0, 0, 1, 0]),
    (INSULIN, PLAIN, [0, 0, 0, 1, 0]),
    (LUNGS, HARD, [0, 0, 0, 0, 1]),
    (LUNGS, PLAN, [0, 0, 0, 0, 1]),
]


def test_health_says_that_each_model_is_ready(http: httpx.Client) -> None:
    answer = http.get("/healthz")
    assert answer.status_code == 200
    body = answer.json()
    assert all(body[name]["ready"] for name in ("relevance", "factuality", "readability"))


def test_each_loss_is_a_number_and_the_one_its_weights_ask_for(http: httpx.Client) -> None:
    settings = load_settings()
    measured = MetricSuite.from_settings(settings).measure(
        [original for original, _, _ in LOSSES], [generated for _, generated, _ in LOSSES]
    )
    errors = LossFunction(load_targets(settings)).errors([item.values for item in measured])
    for (original, generated, weights), row in zip(LOSSES, errors, strict=True):
        body = {
            "texts_original": [original],
            "texts_human": ["(ignored)"],
            "texts_generated": [generated],
            "weights": weights,
        }
        answer = http.post("/loss", json=body)
        assert answer.status_code == 200
        assert float(answer.text) == pytest.approx(row @ weights, abs=1e-5)


@pytest.mark.parametrize(
    ("metric", "original", "good", "bad"),
    [
        ("relevance", INSULIN, LOSSES[0][1], LOSSES[1][1]),
        ("factuality", ASPIRIN, ASPIRIN, LOSSES[3][1]),
    ],
)
def test_the_better_text_scores_higher(
    http: httpx.Client, metric: str, original: str, good: str, bad: str
) -> None:
    def score(generated: str) -> float:
        body = {"texts_original": [original], "texts_generated": [generated]}
        return float(http.post(f"/metrics/{metric}", json=body).json()[metric][0])

    assert 0 <= score(bad) < score(good) <= 1


def test_dense_text_reads_harder(http: httpx.Client) -> None:
    body = http.post("/metrics/readability", json={"texts": [PLAIN, DENSER]}).json()
    assert body["fkgl"][1] > body["fkgl"][0]
    assert body["dale_chall"][1] >= body["dale_chall"][0]
    assert body["smog"][1] == 0
