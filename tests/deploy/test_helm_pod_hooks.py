"""A pod's readiness probe and its drain before it stops, run as the kubelet would."""

from __future__ import annotations

import http.server
import json
import os
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.support.helm_releases import pods, render

# --- the readiness probe, run as the kubelet would --------------------------------------


class _Pod(http.server.BaseHTTPRequestHandler):
    """A pod's API whose two health routes answer what the test says."""

    status: dict[str, int]

    def do_GET(self) -> None:
        self.send_response(self.status[self.path])
        self.end_headers()

    def log_message(self, *arguments: object) -> None:
        """Quiet."""


@pytest.fixture
def pod_api() -> Iterator[tuple[int, dict[str, int]]]:
    status = {"/-/healthz": 503, "/readyz": 503}
    handler = type("Handler", (_Pod,), {"status": status})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    yield server.server_address[1], status
    server.shutdown()
    server.server_close()


def test_a_worker_becomes_ready_with_the_application_and_stays_so_without_a_replica(
    pod_api: tuple[int, dict[str, int]], tmp_path: Path
) -> None:
    port, status = pod_api
    text = render("plainmed", ["cpu"], {"serve": {"port": port}})["rayservice.yaml"]
    template = pods([yaml.safe_load(text)])["metrics"]
    command = template["spec"]["containers"][0]["readinessProbe"]["exec"]["command"]
    # In a pod /tmp is the container's own; here the marker goes to the test's folder.
    command[-1] = command[-1].replace("/tmp/.plainmed", f"{tmp_path}/.plainmed")

    def ready() -> bool:
        return subprocess.run(command, capture_output=True, timeout=20, check=False).returncode == 0

    assert not ready()  # nothing is up
    status["/-/healthz"] = 200
    assert not ready()  # the proxy is up, the models are loading
    status["/readyz"] = 200
    assert ready()
    status["/readyz"] = 503
    assert ready()  # a replica was lost: requests wait for its replacement
    status["/-/healthz"] = 503
    assert not ready()  # the proxy is gone or draining


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
