"""The Helm chart's alerts, dashboard and drain look at metrics that Ray and PlainMed export."""

from __future__ import annotations

import re

from tests.helm_releases import exported_metrics, metrics_used, objects, one, pods, render

# --- monitoring: only metrics that Ray exports ------------------------------------------


def test_alerts_and_dashboard_use_metrics_that_are_exported() -> None:
    exported = exported_metrics()
    assert "ray_serve_num_http_requests_total" in exported
    used = metrics_used()
    assert len(used) >= 35
    assert all(used.values())
    missing = {title: names - exported for title, names in used.items() if names - exported}
    assert not missing


def test_each_alert_says_what_to_do_and_selects_its_release() -> None:
    for rule in one(objects("ha"), "PrometheusRule")["spec"]["groups"][0]["rules"]:
        assert rule["annotations"]["summary"]
        assert rule["annotations"]["action"]
        assert 'release="plainmed"' in rule["expr"]
    monitor = one(objects("ha"), "PodMonitor")["spec"]["podMetricsEndpoints"][0]
    assert {item["targetLabel"] for item in monitor["relabelings"]} >= {"release", "ray_io_cluster"}


def test_a_stopped_release_does_not_alert_that_it_is_down() -> None:
    text = render("plainmed", ["ha"], {"suspend": True})["prometheusrule.yaml"]
    assert "PlainMedDown" not in text
    assert "PlainMedErrors" in text


# --- the drain before a pod stops, run as the kubelet would -----------------------------


def test_the_drain_looks_at_metrics_that_are_exported() -> None:
    script = pods(objects("ha"))["head"]["spec"]["containers"][0]["lifecycle"]["preStop"]
    pattern = re.search(r"ray_serve_\(([a-z_|]+)\)", script["exec"]["command"][-1])
    assert pattern is not None
    assert {f"ray_serve_{name}" for name in pattern[1].split("|")} <= exported_metrics()
