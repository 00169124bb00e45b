"""The verbs that only look: status, endpoints, logs."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from typer.testing import CliRunner
from urllib3.exceptions import ProtocolError
from urllib3.response import HTTPResponse

from serve_app.cli.main import app
from tests.ops.command import GENERATOR, METRICS, ROOT, deployed, done, refused
from tests.ops.fakes import Cluster, Stage, event, pod


def test_status_shows_conditions_applications_replicas_and_events(
    stage: Stage, cluster: Cluster
) -> None:
    deployed(stage, cluster)
    cluster.events = [
        event(GENERATOR, "CreatedRayCluster", "made a cluster", "Normal"),
        event("another", "Irrelevant", "not ours"),
    ]
    said = done("status")
    for words in (
        (f"{METRICS}: ready, 1 endpoint",),
        ("condition Ready", "True"),
        ("application plainmed", "RUNNING"),
        ("Gateway", "HEALTHY"),
        ("workers", "1 of 1 ready"),
        ("event 12:00:00", "CreatedRayCluster", "made a cluster"),
    ):
        assert any(all(word in line for word in words) for line in said.splitlines()), words
    assert "Irrelevant" not in said


def test_status_breaks_no_name_on_a_narrow_terminal(
    stage: Stage, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    deployed(stage, cluster)
    names = [f"{GENERATOR}-k2xvq-generator-worker-7f9hs", f"{GENERATOR}-k2xvq-head-9xqlm"]
    reason = "0/6 nodes are available: 6 Insufficient cpu. preemption: 0/6 nodes are available"
    cluster.pods[GENERATOR] = [pod(name, unscheduled=reason) for name in names]
    cluster.events = [event(names[0], "FailedScheduling", f"{reason} \x1b]0;owned\x07")]
    result = CliRunner().invoke(app, ["ops", "status", "--root", str(ROOT)], env={"COLUMNS": "80"})
    lines = result.output.splitlines()
    assert max(map(len, lines)) <= 80
    for word in (*names, METRICS, GENERATOR, "FailedScheduling", "preemption:"):
        assert any(word in line for line in lines), word
    assert "\x1b" not in result.output


def test_status_fails_where_a_service_is_not_ready(stage: Stage, cluster: Cluster) -> None:
    done("deploy", "metrics", "--yes")
    said = refused("status", "all", code=1)
    assert "not deployed" in said


def test_endpoints_prints_an_address_a_service(stage: Stage, cluster: Cluster) -> None:
    done("deploy", "metrics", "--yes")
    said = done("endpoints")
    assert said.splitlines() == [
        "metrics\thttp://plainmed-metrics.elb.us-east-1.amazonaws.com:8001",
        "generator\tnot deployed; plainmed ops deploy generator",
    ]


@pytest.mark.parametrize("follow", [[], ["--follow"]])
def test_logs_name_the_pod_of_each_line(stage: Stage, cluster: Cluster, follow: list[str]) -> None:
    deployed(stage, cluster)
    said = done("logs", "metrics", "--tail", "3", *follow)
    assert said.splitlines() == [
        f"[{METRICS}-worker-1 ray-worker] line {n} of ray-worker" for n in range(3)
    ]
    assert any("tailLines=3" in request for request in cluster.requests)
    done("stop", "metrics")
    assert "no pods" in refused("logs", "metrics")


@pytest.mark.parametrize("follow", [[], ["--follow"]])
def test_a_log_that_breaks_off_says_so_and_the_others_go_on(
    stage: Stage, cluster: Cluster, monkeypatch: pytest.MonkeyPatch, follow: list[str]
) -> None:
    deployed(stage, cluster)
    whole = HTTPResponse.stream

    def cut(self: HTTPResponse, *size: int) -> Iterator[bytes]:
        yield next(iter(whole(self, *size)))[:7]
        if METRICS in str(self.url):
            raise ProtocolError("the connection was reset")

    monkeypatch.setattr(HTTPResponse, "stream", cut)
    lines = done("logs", "all", "--tail", "3", *follow).splitlines()
    where = f"[{METRICS}-worker-1 ray-worker]"
    again = "run the same command again"
    assert f"{where} (the log broke off: ProtocolError; {again})" in lines
    assert any(line.startswith(f"[{GENERATOR}-worker-1 ray-worker] line 0") for line in lines)
