"""The adapters for torchmetrics and `evaluate` give the means of what a suite measures."""

from __future__ import annotations

import pickle

import pytest
import torch
from torchmetrics import Metric, MetricCollection

from serve_app.core.errors import InvalidInput
from serve_app.metrics.suite import MetricSuite
from serve_app.training.rewards.adapters import NAMES, PlainMedEvaluation, PlainMedMetric, measure
from serve_app.training.rewards.scoring import PairScorer, local_scorer, remote_scorer
from tests.support.servers import api_server
from tests.support.texts import GENERATED, ORIGINALS


@pytest.fixture
def suite(tiny_suite: MetricSuite, one_thread: None) -> MetricSuite:
    return tiny_suite


@pytest.fixture
def scorer(suite: MetricSuite) -> PairScorer:
    return local_scorer(suite=suite)


def expected(suite: MetricSuite) -> dict[str, float]:
    """The means, from the suite and the loss by themselves."""
    values = [one.values for one in suite.measure(ORIGINALS, GENERATED)]
    losses = local_scorer(suite=suite).metrics.loss(values)  # type: ignore[attr-defined]
    means = [sum(column) / len(values) for column in zip(*values, strict=True)]
    return dict(zip(NAMES, [*means, float(losses.mean())], strict=True))


def test_evaluate_style_gives_the_means_and_each_loss(
    suite: MetricSuite, scorer: PairScorer
) -> None:
    found = PlainMedEvaluation(scorer).compute(predictions=GENERATED, sources=ORIGINALS)
    losses = found.pop("losses")
    assert found == pytest.approx(expected(suite), abs=1e-5)
    assert isinstance(losses, list)
    assert len(losses) == len(GENERATED)
    assert sum(losses) / len(losses) == pytest.approx(found["loss"])


def test_evaluate_style_adds_up_and_begins_anew(scorer: PairScorer) -> None:
    whole = PlainMedEvaluation(scorer).compute(predictions=GENERATED, references=ORIGINALS)
    metric = PlainMedEvaluation(scorer)
    metric.add(prediction=GENERATED[0], source=ORIGINALS[0])
    metric.add_batch(predictions=GENERATED[1:], references=ORIGINALS[1:])
    assert metric.compute() == whole
    with pytest.raises(InvalidInput, match="nothing to compute"):
        metric.compute()


def test_evaluate_style_wants_the_originals_once(scorer: PairScorer) -> None:
    metric = PlainMedEvaluation(scorer)
    with pytest.raises(InvalidInput, match="once"):
        metric.compute(predictions=GENERATED)
    with pytest.raises(InvalidInput, match="once"):
        metric.compute(predictions=GENERATED, sources=ORIGINALS, references=ORIGINALS)
    with pytest.raises(InvalidInput, match="4 originals but 3 predictions"):
        metric.compute(predictions=GENERATED[:3], sources=ORIGINALS)


def test_torchmetrics_style_averages_over_updates(suite: MetricSuite, scorer: PairScorer) -> None:
    metric = PlainMedMetric(scorer)
    assert isinstance(metric, Metric)
    metric.update(GENERATED[:1], ORIGINALS[:1])
    metric.update(GENERATED[1:], ORIGINALS[1:])
    found = {name: float(value) for name, value in metric.compute().items()}
    assert found == pytest.approx(expected(suite), abs=1e-5)
    metric.reset()
    with pytest.raises(InvalidInput, match="call update first"):
        metric.compute()


def test_torchmetrics_forward_gives_the_batch_and_keeps_the_whole(
    suite: MetricSuite, scorer: PairScorer
) -> None:
    metric = PlainMedMetric(scorer)
    first = metric(GENERATED[:1], ORIGINALS[:1])
    assert float(first["fkgl"]) == pytest.approx(measure(scorer, ORIGINALS, GENERATED)[0, 2])
    metric(GENERATED[1:], ORIGINALS[1:])
    assert float(metric.compute()["loss"]) == pytest.approx(expected(suite)["loss"], abs=1e-5)


def test_it_goes_into_a_collection(scorer: PairScorer) -> None:
    collection = MetricCollection({"plainmed": PlainMedMetric(scorer)})
    collection.update(GENERATED, ORIGINALS)
    assert set(collection.compute()) >= set(NAMES)


def test_a_summary_without_a_word_is_an_error(scorer: PairScorer) -> None:
    with pytest.raises(InvalidInput, match=r"pair 1 cannot be scored: .*no word"):
        PlainMedMetric(scorer).update([GENERATED[0], "..."], ORIGINALS[:2])


def test_a_metric_on_a_server_can_be_pickled() -> None:
    with api_server() as url:
        metric = pickle.loads(pickle.dumps(PlainMedMetric(remote_scorer(url))))
        metric.update(GENERATED, ORIGINALS)
        assert 0 < float(metric.compute()["loss"]) < 1


def test_processes_put_their_sums_together(suite: MetricSuite, scorer: PairScorer) -> None:
    other = PlainMedMetric(scorer)
    other.update(GENERATED[1:], ORIGINALS[1:])  # a share of another size

    def gather(state: torch.Tensor, group: object = None) -> list[torch.Tensor]:
        return [state, other.total if state.ndim else other.count]

    metric = PlainMedMetric(scorer, dist_sync_fn=gather, distributed_available_fn=lambda: True)
    metric.update(GENERATED[:1], ORIGINALS[:1])
    found = {name: float(value) for name, value in metric.compute().items()}
    assert found == pytest.approx(expected(suite), abs=1e-5)
