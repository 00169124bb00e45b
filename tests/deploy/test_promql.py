"""Expressions of the dashboard and the alerts: what they read is there, with these labels."""

from __future__ import annotations

import pytest
from promql import COMPUTING, Queries

from serve_app.api.endpoints import CALLS
from serve_app.core.observability.instruments import SPECS, exported
from tests.support.helm_releases import SUFFIXES, expressions, target_labels
from tests.support.promql_uses import Use, uses

Q = Queries('release="r"')
SERVES = {"application", "deployment", "replica"}
LABELS = {
    exported(name) + end: {*spec.labels, *SERVES, *(["le"] if end == "_bucket" else [])}
    for name, spec in SPECS.items()
    for end in SUFFIXES[spec.kind]
}
"""Of our own metrics, as they are exported."""
EVERY = [
    (title, text, wanted)
    for title, found in expressions().items()
    for text, wanted in found
]  # fmt: skip


@pytest.mark.parametrize(("title", "text", "wanted"), EVERY)
def test_an_expression_relies_on_labels_that_its_metrics_have(
    title: str, text: str, wanted: frozenset[str]
) -> None:
    found = uses(text, wanted)
    assert found
    for use in found:
        if use.metric.startswith("ray_plainmed_"):  # Ray's: tests/serving/live/test_telemetry.py
            assert use.labels <= LABELS[use.metric] | target_labels(), title
        assert ("release", "plainmed") in use.equal, title
        if use.metric.startswith("ray_serve_"):
            assert ("application", "plainmed") in use.equal, title


@pytest.mark.parametrize(("title", "text", "wanted"), EVERY)
def test_only_of_what_rises_a_rate_is_taken(title: str, text: str, wanted: frozenset[str]) -> None:
    for use in uses(text, wanted):
        rises = use.metric.endswith(("_total", "_bucket", "_sum", "_count"))
        told_apart = {"ray_node_mem_total", "ray_serve_deployment_replica_starts_total"}
        assert use.rated == (rises and use.metric not in told_apart), title


def test_a_quantile_keeps_the_buckets_apart_and_groups_by_what_is_asked() -> None:
    [use] = uses(Q.quantile(0.95, "plainmed_request_seconds", "route", COMPUTING), {"route"})
    assert use == Use(
        "ray_plainmed_request_seconds_bucket",
        frozenset({"release", "route", "le"}),
        frozenset({("release", "r")}),
        rated=True,
    )


@pytest.mark.parametrize(
    "text",
    [
        "sum(rate(x_total[5m])",  # no expression
        "histogram_quantile(0.5, sum by (route) (rate(x_bucket[5m])))",
        "sum by (code) (rate(x_total[5m]))",  # the legend shows `route`
    ],
)
def test_what_would_show_nothing_is_noticed(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011
        uses(text, {"route"})


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: Q.rate("plainmed_queued_items"),
        lambda: Q.quantile(0.5, "plainmed_requests"),
        lambda: Q.mean("plainmed_requests"),
        lambda: Q.gauge("plainmed_requests", ""),
    ],
)
def test_a_metric_of_another_kind_is_refused(wrong) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match="is no "):
        wrong()


def test_what_probes_ask_and_what_clients_do_wrong_is_no_part_of_the_share_of_errors() -> None:
    [(text, wanted)] = expressions()["PlainMedErrors"]
    failed, asked = uses(text, wanted)
    assert failed.metric == asked.metric == exported("plainmed_requests")
    assert text.count(COMPUTING) == 2
    assert all(route in COMPUTING for route in CALLS)
    assert not any(path in COMPUTING for path in ("readyz", "healthz", "other"))
    assert 'status!~"4.."' in text


def test_times_of_answers_are_those_of_routes_that_compute() -> None:
    for title in ("PlainMedSlow", "Answer time"):
        for text, _ in expressions()[title]:
            assert f'ray_plainmed_request_seconds_bucket{{release="plainmed",{COMPUTING}}}' in text


def test_a_queue_alerts_where_the_requests_of_each_deployment_wait() -> None:
    [(text, wanted)] = expressions()["PlainMedQueue"]
    assert {use.metric for use in uses(text, wanted)} == {
        "ray_plainmed_queue_seconds_bucket",
        "ray_serve_deployment_queued_queries",
    }
    [(text, wanted)] = expressions()["PlainMedOverloaded"]
    [use] = uses(text, wanted)
    assert ("code", "overloaded") in use.equal


def test_restarts_are_of_replicas_that_are_new_and_gone_and_not_of_those_that_came_or_went() -> (
    None
):
    [(text, wanted)] = expressions()["PlainMedRestarts"]
    started, before, alive = uses(text, wanted)
    assert started.metric == before.metric == "ray_serve_deployment_replica_starts_total"
    assert "offset 10m" in text
    assert alive.metric == "ray_serve_replica_processing_queries"
    assert {"deployment", "replica"} <= alive.labels
