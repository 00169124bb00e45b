"""A pod's readiness probe and its drain before it stops, run as the kubelet would."""

from __future__ import annotations

import http.server
import json
import os
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

from tests.support.helm_releases import RELEASES, objects, pods, render

# --- the readiness probe, run as the kubelet would --------------------------------------


class _Pod(http.server.BaseHTTPRequestHandler):
    """A pod's routes, each with the status and body that the test says."""

    answers: dict[str, tuple[int, str]]

    def do_GET(self) -> None:
        status, body = self.answers[self.path]
        if self.path.startswith("/api/serve") != ("Authorization" in self.headers):
            status, body = 401, "the token is for the dashboard alone"
        self.send_response(status)
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, *arguments: object) -> None:
        """Quiet."""


APPLICATIONS = "/api/serve/applications/"


@pytest.fixture
def pod_api() -> Iterator[tuple[int, dict[str, tuple[int, str]]]]:
    answers = {
        "/api/healthz": (200, "success"),
        APPLICATIONS: (200, '{"applications": {}}'),
        "/-/healthz": (503, ""),
        "/readyz": (404, "Path '/readyz' not found."),
    }
    handler = type("Handler", (_Pod,), {"answers": answers})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    yield server.server_address[1], answers
    server.shutdown()
    server.server_close()


Probe = Callable[[], subprocess.CompletedProcess[str]]


def _probe(profile: str, group: str, port: int, tmp_path: Path) -> Probe:
    """A pod's readiness probe, with the ports and files of the test for those of a pod."""
    text = render("plainmed", [profile], {"serve": {"port": port}})["rayservice.yaml"]
    template = pods([yaml.safe_load(text)])[group]
    command = template["spec"]["containers"][0]["readinessProbe"]["exec"]["command"]
    # In a pod /tmp is the container's own; here the marker goes to the test's folder.
    for real, here in (("/tmp/.plainmed", f"{tmp_path}/.plainmed"), ("8265", str(port))):
        command[-1] = command[-1].replace(real, here)
    command[-1] = command[-1].replace("52365", str(port))
    environment = os.environ | {"RAY_AUTH_TOKEN": "the-clusters"}
    return lambda: subprocess.run(
        command, capture_output=True, timeout=20, check=False, env=environment, text=True
    )


def test_a_worker_becomes_ready_with_the_application_and_stays_so_without_a_replica(
    pod_api: tuple[int, dict[str, tuple[int, str]]], tmp_path: Path
) -> None:
    port, answers = pod_api
    probe = _probe("cpu", "metrics", port, tmp_path)
    assert probe().returncode == 1  # nothing is up
    answers["/-/healthz"] = (200, "success")
    assert probe().returncode == 1  # the proxy is up, the models are loading
    answers["/readyz"] = (200, "{}")
    assert probe().returncode == 0
    answers["/readyz"] = (503, "{}")
    assert probe().returncode == 0  # a replica was lost: requests wait for its replacement
    answers["/-/healthz"] = (503, "")
    assert probe().returncode == 1  # the proxy is gone or draining


def test_a_head_that_serves_waits_for_the_application_once_it_was_given_one(
    pod_api: tuple[int, dict[str, tuple[int, str]]], tmp_path: Path
) -> None:
    port, answers = pod_api
    probe = _probe("dev", "head", port, tmp_path)
    assert probe().returncode == 0  # KubeRay gives an application only to a head that is ready
    answers[APPLICATIONS] = (200, '{"applications": {"plainmed": {"docs_path": null}}}')
    assert probe().returncode == 1
    answers["/-/healthz"] = (200, "success")
    answers["/readyz"] = (503, '{"waiting": ["Generator"]}')
    broken = probe()
    assert broken.returncode == 1
    assert "503" in broken.stdout
    assert '"waiting": ["Generator"]' in broken.stdout
    answers["/readyz"] = (200, "{}")
    assert probe().returncode == 0
    answers["/readyz"] = (503, "{}")
    assert probe().returncode == 0
    answers["/api/healthz"] = (500, "")
    assert probe().returncode == 1


def test_every_pod_that_takes_requests_asks_the_application_and_no_other_does() -> None:
    for name in RELEASES:
        templates = pods(objects(name))
        for group, template in templates.items():
            probe = template["spec"]["containers"][0]["readinessProbe"]
            serves = group != "head" or set(templates) == {"head"}
            assert ("/readyz" in str(probe)) == serves, (name, group)
    in_place = {"upgradeStrategy": {"type": "None"}}
    text = render("plainmed", ["dev"], in_place)["rayservice.yaml"]
    head = pods([yaml.safe_load(text)])["head"]["spec"]["containers"][0]
    # There a wrong Serve config is corrected in the same cluster, which needs a head that is ready.
    assert head["readinessProbe"]["httpGet"]["path"] == "/api/healthz"


# --- the drain before a pod stops, run as the kubelet would -----------------------------


def _metrics(proxy: float, replica: float) -> str:
    return (
        "# TYPE ray_serve_num_ongoing_http_requests gauge\n"
        f'ray_serve_num_ongoing_http_requests{{NodeId="a",node_id="b"}} {proxy}\n'
        f'ray_serve_replica_processing_queries{{deployment="Loss"}} {replica}\n'
        'ray_serve_num_http_requests_total{route="/loss"} 7.0\n'
    )


class _Exporter(http.server.BaseHTTPRequestHandler):
    """Ray's metrics port, which answers what the test says, and the dashboard's list of ports."""

    page: list[str]

    def do_GET(self) -> None:
        text = self.page[0]
        if self.path == "/api/prometheus/sd":
            address, port = self.server.server_address[:2]
            text = json.dumps([{"targets": [f"127.0.0.3:{port}", f"{address}:{port}"]}])
            if self.headers["Authorization"] != "Bearer the-clusters":
                text = "[]"
        elif "Authorization" in self.headers:
            text = "a token for the dashboard was sent to a pod"
        self.send_response(200)
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *arguments: object) -> None:
        """Quiet."""


@pytest.fixture
def exporter(request: pytest.FixtureRequest) -> Iterator[tuple[int, list[str]]]:
    """Its port and page; the test may give an address other than this pod's own."""
    page = [_metrics(0.0, 0.0)]
    handler = type("Handler", (_Exporter,), {"page": page})
    address = getattr(request, "param", "127.0.0.1")
    server = http.server.ThreadingHTTPServer((address, 0), handler)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    yield server.server_address[1], page
    server.shutdown()
    server.server_close()


def _draining(port: int, tmp_path: Path, group: str, most: int = 20) -> subprocess.Popen[bytes]:
    """A pod's preStop hook, running, with the files and ports of the test for those of a pod."""
    values = {"drain": {"seconds": 1, "maxSeconds": most}}
    template = pods([yaml.safe_load(render("plainmed", ["cpu"], values)["rayservice.yaml"])])[group]
    command = template["spec"]["containers"][0]["lifecycle"]["preStop"]["exec"]["command"]
    for real, here, count in (
        ("8080", str(port), 3),
        ("8265", str(port), 1),
        ("/tmp/ray", str(tmp_path), 1),
        ("sleep 2\n", "sleep 0.2\n", 1),  # between two looks
    ):
        assert command[-1].count(real) == count
        command[-1] = command[-1].replace(real, here)
    environment = os.environ | {"FQ_RAY_IP": "127.0.0.2", "RAY_AUTH_TOKEN": "the-clusters"}
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def test_a_pod_waits_until_its_requests_are_answered(
    exporter: tuple[int, list[str]], tmp_path: Path
) -> None:
    port, page = exporter
    page[0] = _metrics(2.0, 0.0)
    hook = _draining(port, tmp_path, "metrics")
    with pytest.raises(subprocess.TimeoutExpired):
        hook.wait(1.6)
    page[0] = _metrics(0.0, 1.0)  # the proxy has answered; a replica works for another pod's proxy
    with pytest.raises(subprocess.TimeoutExpired):
        hook.wait(0.6)
    page[0] = _metrics(0.0, 0.0)
    assert hook.wait(5) == 0
    assert hook.communicate() == (b"", b"")


def test_a_pod_without_requests_leaves_after_the_least_time(
    exporter: tuple[int, list[str]], tmp_path: Path
) -> None:
    assert _draining(exporter[0], tmp_path, "metrics").wait(3) == 0


def test_a_drain_ends_at_its_limit(exporter: tuple[int, list[str]], tmp_path: Path) -> None:
    port, page = exporter
    page[0] = _metrics(1.0, 0.0)
    assert _draining(port, tmp_path, "metrics", most=2).wait(6) == 0


@pytest.mark.parametrize("exporter", ["127.0.0.2"], indirect=True)
@pytest.mark.parametrize("group", ["head", "metrics"])
def test_a_pod_waits_for_the_requests_of_every_other(
    exporter: tuple[int, list[str]], tmp_path: Path, group: str
) -> None:
    port, page = exporter
    page[0] = _metrics(0.0, 1.0)
    if group == "head":
        # As Ray writes it on the head: every node's exporter, and others of the head's own.
        # Nothing listens at 127.0.0.3: a pod that has gone. Workers ask the dashboard.
        targets = [f"127.0.0.3:{port}", f"127.0.0.2:{port}", "127.0.0.1:44227"]
        (tmp_path / "prom_metrics_service_discovery.json").write_text(
            json.dumps([{"labels": {"job": "ray"}, "targets": targets}])
        )
    hook = _draining(port, tmp_path, group)
    with pytest.raises(subprocess.TimeoutExpired):
        hook.wait(1.6)
    page[0] = _metrics(0.0, 0.0)
    assert hook.wait(5) == 0
