"""What a metric's replica counts, also where one batch is computed in the pauses of another."""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from dataclasses import replace
from types import SimpleNamespace

import pytest

from serve_app.core.context import PAUSE, Stopped, pause
from serve_app.core.settings import Settings
from serve_app.metrics.evaluation import evaluate
from serve_app.metrics.loss import METRICS, LossFunction
from serve_app.serving import observability
from serve_app.serving.deployments.loss import Loss
from serve_app.serving.deployments.metrics import (
    READABILITY_MODEL,
    ReadabilityDeployment,
    Relevance,
)
from tests.support.recording import Kept
from tests.support.servers import TARGETS, measure


class Scorer:
    """Counts a token for each letter, half of them before a pause and half after it."""

    name, device = "letters", "cpu"

    def __init__(self) -> None:
        self.tokens = 0
        self.cache = SimpleNamespace(hits=0, misses=0)

    def score(self, originals: Sequence[str], generated: Sequence[str]) -> list[float]:
        for original, other in zip(originals, generated, strict=True):
            self.tokens += len(original)
            self.cache.misses += 1
            pause()
            self.tokens += len(other)
            self.cache.hits += 1
        return [0.5] * len(originals)


@pytest.fixture
def kept(monkeypatch: pytest.MonkeyPatch) -> Kept:
    kept = Kept()
    monkeypatch.setattr(observability, "ServeTelemetry", lambda: kept)
    monkeypatch.setattr("serve_app.metrics.suite.load_relevance", lambda _: Scorer())
    return kept


def test_a_start_tells_its_model_and_its_warm_up_counts_nothing(kept: Kept) -> None:
    Relevance.func_or_class(Settings())
    ReadabilityDeployment.func_or_class(Settings())
    assert {name for name, _, _ in kept.seen} == {"plainmed_model"}
    assert kept.of("plainmed_model") == [
        (1, {"model": "letters", "device": "cpu"}),
        (1, {"model": READABILITY_MODEL, "device": "cpu"}),
    ]


def test_what_was_computed_before_an_error_or_a_stop_is_counted(kept: Kept) -> None:
    replica = Relevance.func_or_class(Settings())

    def stop() -> None:
        raise Stopped

    token = PAUSE.set(stop)
    with pytest.raises(Stopped):
        replica._score([("abc", "d")])
    PAUSE.reset(token)
    replica._score([("a", "b")])
    assert [value for value, _ in kept.of("plainmed_tokens")] == [3.0, 2.0]
    assert [value for value, _ in kept.of("plainmed_cache_misses")] == [1.0, 1.0]


async def test_results_say_which_model_gave_them_on_which_device(kept: Kept) -> None:
    replica = Relevance.func_or_class(Settings())
    results = pickle.loads(pickle.dumps(await replica.score(["a"], ["b"])))
    assert (list(results), results.model, results.device) == ([0.5], "letters", "cpu")
    readable = await ReadabilityDeployment.func_or_class(Settings()).score(["A text."])
    assert (readable.model, readable.device) == (READABILITY_MODEL, "cpu")


def test_a_replica_that_is_stopped_sends_its_last_spans(kept: Kept) -> None:
    closed: list[bool] = []
    replica = Relevance.func_or_class(Settings())
    replica._tracer = SimpleNamespace(close=lambda: closed.append(True))
    replica.__del__()
    assert closed == [True]
    Relevance.func_or_class.__new__(Relevance.func_or_class).__del__()  # a start that failed


def test_a_batch_in_the_pause_of_another_is_counted_once(kept: Kept) -> None:
    replica = Relevance.func_or_class(Settings())

    def between() -> None:
        token = PAUSE.set(lambda: None)
        replica._score([("ab", "cd")])
        PAUSE.reset(token)

    token = PAUSE.set(between)
    replica._score([("a" * 50, "b" * 50)])
    PAUSE.reset(token)

    def counted(name: str) -> list[float]:
        return [value for value, _ in kept.of(name)]

    assert counted("plainmed_batch_tokens") == [4.0, 100.0]
    assert sum(counted("plainmed_tokens")) == 104.0
    assert counted("plainmed_cache_hits") == counted("plainmed_cache_misses") == [1.0, 1.0]


def test_losses_scores_grades_and_cuts_are_told_by_their_models(kept: Kept) -> None:
    loss = Loss.func_or_class.__new__(Loss.func_or_class)
    loss._telemetry = kept
    loss._models = {"relevance": "bert", "factuality": "align", "readability": "formulas"}
    whole = measure("Aspirin prevents strokes.", "Aspirin prevents strokes.")
    cut = replace(whole, relevance=replace(whole.relevance, truncated_reference=True))
    loss._record(evaluate([whole, cut], LossFunction(TARGETS)), "cochrane")
    assert [labels for _, labels in kept.of("plainmed_loss")] == [
        {"relevance_model": "bert", "factuality_model": "align"}
    ] * 2
    assert all(0 < value < 1 for value, _ in kept.of("plainmed_loss"))
    scores = {(labels["metric"], labels["model"]): v for v, labels in kept.of("plainmed_score")}
    assert scores == {("relevance", "bert"): 1.0, ("factuality", "align"): 1.0}
    grades = {(labels["metric"], labels["model"]): v for v, labels in kept.of("plainmed_grade")}
    assert grades == {
        (metric, "formulas"): value
        for metric, value in zip(METRICS[2:], whole.values[2:], strict=True)
    }
    cuts = [(labels["metric"], value) for value, labels in kept.of("plainmed_truncations")]
    assert cuts == [
        ("relevance", 0.0),
        ("factuality", 0.0),
        ("relevance", 1.0),
        ("factuality", 0.0),
    ]
