"""The Helm chart's alerts, dashboard and drain look at metrics that Ray and PlainMed export."""

from __future__ import annotations

import re

from tests.support.helm_releases import (
    exported_metrics,
    metrics_used,
    objects,
    one,
    pods,
    render,
)
from tests.support.paths import ROOT

# --- monitoring: only metrics that Ray exports ------------------------------------------


def test_alerts_and_dashboard_use_metrics_that_are_exported() -> None:
    exported = exported_metrics()
    assert "ray_serve_application_status" in exported
    used = metrics_used()
    assert len(used) >= 35
    assert all(used.values())
    missing = {title: names - exported for title, names in used.items() if names - exported}
    assert not missing


def test_the_page_names_those_of_rays_metrics_that_are_used_and_no_others() -> None:
    page = (ROOT / "docs" / "observability.md").read_text(encoding="utf-8")
    table = page.partition("Of Ray's, the chart's dashboard and alerts use:")[2]
    rows = re.findall(r"^\| (`ray_.*?) \|", table, re.MULTILINE)
    named = {name for row in rows for name in re.findall(r"`(\w+)`", row)}
    used = {name for names in metrics_used().values() for name in names}
    assert named == {name for name in used if not name.startswith("ray_plainmed_")}


def test_the_page_names_every_alert() -> None:
    page = (ROOT / "docs" / "observability.md").read_text(encoding="utf-8")
    rules = one(objects("ha"), "PrometheusRule")["spec"]["groups"][0]["rules"]
    assert re.findall(r"^\| `(PlainMed\w+)` \|", page, re.MULTILINE) == [
        rule["alert"] for rule in rules
    ]


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
