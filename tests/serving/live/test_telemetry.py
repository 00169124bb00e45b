"""The running application exports every metric that its list, its dashboard and its alerts name."""

from __future__ import annotations

import json
import re
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx

from serve_app import __version__
from serve_app.core.observability.instruments import SPECS, exported
from tests.serving.live.conftest import FAULTY, WRITER, Server
from tests.serving.live.metrics_ports import exported_text
from tests.support.command import plainmed
from tests.support.helm_releases import expressions, metrics_used, target_labels
from tests.support.promql_uses import uses
from tests.support.texts import GENERATED, ORIGINALS

SERIES = {"counter": [""], "gauge": [""], "histogram": ["_bucket", "_sum", "_count"]}
"""What a metric's series end with, by its kind."""


ELSEWHERE = {"ray_node_gpus_utilization"}
"""Exported where there is a GPU."""


def test_what_the_list_and_each_panel_and_alert_names_is_exported(
    server: Server, http: httpx.Client
) -> None:
    # The same original twice, for the cache; an error; a summary.
    long = " ".join(ORIGINALS * 30)  # more than the relevance model reads
    pairs: dict[str, Any] = {"texts_original": [long], "texts_generated": [GENERATED[0]]}
    for _ in range(2):
        assert http.post("/evaluate", json=pairs).status_code == 200
    assert http.post("/loss", json={"texts_original": [""]}).status_code == 422
    # The extractive engine counts no tokens; the language model beside it does.
    written = {"text": ORIGINALS[0], "max_new_tokens": 24, "seed": 1}
    assert http.post(f"/{WRITER}/generate", json=written).status_code == 200

    wanted = {exported(name) + end for name, spec in SPECS.items() for end in SERIES[spec.kind]}
    used = {title: names - ELSEWHERE for title, names in metrics_used().items()}
    wanted = wanted.union(*used.values())
    time.sleep(13)  # by then Ray has forgotten gauges that were set once
    deadline = time.monotonic() + 40
    missing = wanted
    while missing and time.monotonic() < deadline:
        text = exported_text(server)
        missing = wanted - set(re.findall(r"^(ray_\w+)[{ ]", text, re.MULTILINE))
        time.sleep(1)
    assert not missing, {title: names & missing for title, names in used.items()}
    assert ORIGINALS[0][:40] not in text
    exported_series = list(series(text))
    runs = {
        (labels["deployment"], labels["model"])
        for name, labels, value in exported_series
        if name == "ray_plainmed_model" and value == 1.0 and labels["application"] == "plainmed"
    }
    relevance, factuality, readability = (
        "all-MiniLM-L6-v2", "alignscore-mini", "textstat-0.7.4-compatible",
    )  # fmt: skip
    assert runs == {
        ("Relevance", relevance), ("Factuality", factuality), ("Readability", readability),
        ("Generator", "extractive"),
    }  # fmt: skip
    scored = {
        (labels["metric"], labels["model"]): value
        for name, labels, value in exported_series
        if name in ("ray_plainmed_score_count", "ray_plainmed_grade_count")
        and labels["application"] == "plainmed"
    }
    assert set(scored) == {
        ("relevance", relevance), ("factuality", factuality),
        *((grade, readability) for grade in ("fkgl", "smog", "dale_chall")),
    }  # fmt: skip
    assert min(scored.values()) >= 2
    cut = {
        labels["metric"]: value
        for name, labels, value in exported_series
        if name == "ray_plainmed_truncations_total" and labels["application"] == "plainmed"
    }
    assert cut["relevance"] >= 2
    assert_labels(exported_series)


def series(text: str) -> Iterator[tuple[str, dict[str, str], float]]:
    """Every sample of an export: its metric, labels and value."""
    for name, labels, value in re.findall(r"^(ray_\w+)\{(.*)\} (\S+)$", text, re.MULTILINE):
        yield name, dict(re.findall(r'(\w+)="([^"]*)"', labels)), float(value)


def assert_labels(exported_series: list[tuple[str, dict[str, str], float]]) -> None:
    """Each expression selects, groups and matches by labels that the series have."""
    kept: dict[str, set[str]] = {}
    applications: dict[str, set[str]] = {}
    for name, labels, _ in exported_series:
        kept.setdefault(name, set()).update(labels)
        applications.setdefault(name, set()).add(labels.get("application", ""))
    for title, found in expressions().items():
        for use in (one for text, wanted in found for one in uses(text, wanted)):
            if use.metric in ELSEWHERE:
                continue
            assert use.labels <= kept[use.metric] | target_labels(), (title, use)
            for label, value in use.equal:
                if label == "application":
                    assert value in applications[use.metric], (title, use)


def test_a_replicas_lines_are_json_and_have_the_id_of_the_request_that_failed(
    server: Server,
) -> None:
    ids = {f"failed-{number}" for number in range(8)}

    def ask(name: str) -> int:
        body = {"texts_original": ["A text."], "texts_generated": [f"{name} uncomputable text."]}
        url = f"{server.url}/{FAULTY}/metrics/factuality"
        return httpx.post(url, json=body, headers={"x-request-id": name}, timeout=60).status_code

    with ThreadPoolExecutor(len(ids)) as pool:
        assert set(pool.map(ask, ids)) == {500}
    logs = (server.session_folder() / "logs" / "serve").glob("replica_faulty_Faulty_*.log")
    lines = [json.loads(line) for log in logs for line in log.read_text("utf-8").splitlines()]
    failed = Counter(
        line["request_id"]
        for line in lines
        if line["message"].startswith("a computation failed: ValueError")
        and line.get("request_id") in ids
    )
    assert failed == dict.fromkeys(ids, 1)
    # What a batch says of all its requests has all their ids.
    for line in lines:
        if "one by one" in line["message"]:
            assert line["request_id"]


def test_a_requests_line_says_where_its_time_went(server: Server, http: httpx.Client) -> None:
    pairs = {"texts_original": ORIGINALS, "texts_generated": GENERATED}
    http.post("/loss", json=pairs, headers={"x-request-id": "timed-1"})
    http.post("/generate", json={"text": ORIGINALS[0]}, headers={"x-request-id": "timed-2"})
    logs = (server.session_folder() / "logs" / "serve").glob("replica_plainmed_Gateway_*.log")
    lines = [json.loads(line) for log in logs for line in log.read_text("utf-8").splitlines()]
    scored, written = (
        next(line for line in lines if line.get("request_id") == name and "stages" in line)
        for name in ("timed-1", "timed-2")
    )
    metrics = ("relevance", "factuality", "readability")
    parts = {f"{metric}{end}" for metric in metrics for end in ("", "_queue", "_compute")}
    assert set(scored["stages"]) == {"admission", "body", "loss"} | parts
    assert scored["stages"]["factuality_compute"] > 0
    assert max(scored["stages"][one] for one in metrics) <= scored["stages"]["loss"]
    assert scored["stages"]["loss"] <= scored["seconds"]
    assert set(written["stages"]) == {
        "admission", "body", "generator", "generator_queue", "generator_compute",
    }  # fmt: skip


def test_status_has_replicas_models_targets_and_rates(http: httpx.Client) -> None:
    before = http.get("/status").json()
    for _ in range(3):
        assert http.post("/metrics/readability", json={"texts": ["A cat."]}).status_code == 200
    assert http.post("/metrics/readability", json={"texts": [""]}).status_code == 422
    after = http.get("/status").json()
    assert after["gateways_heard"] == 1
    assert after["deployments"]["Factuality"] == {
        "model": "alignscore-mini", "device": "cpu", "replicas_ready": 2, "replicas_wanted": 2,
    }  # fmt: skip
    assert after["deployments"]["Gateway"]["replicas_ready"] == 1
    assert after["targets"]["name"] == "embedded"
    assert re.fullmatch(r"sha256:[0-9a-f]{16}", after["targets"]["fingerprint"])
    route = "/metrics/readability"
    counted = before["routes"].get(route, {"requests": 0})["requests"]
    assert after["routes"][route]["requests"] == counted + 4
    assert 0 < after["routes"][route]["p50_s"] <= after["routes"][route]["p99_s"]


def test_the_status_command_shows_a_running_server(server: Server) -> None:
    done = plainmed("status", server.url)
    assert done.exit_code == 0, done.output
    assert re.search(r"Factuality +2/2 +alignscore-mini +cpu", done.output)
    assert f"ready  PlainMed {__version__} at {server.url}" in done.output
