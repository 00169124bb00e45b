"""`plainmed serve` as a process: where it may start, which ports others could reach, how it ends.

The generator half, alone; `serve run` is the server of conftest.py.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from tests.serve.conftest import Server, free_port
from tests.texts import ORIGINALS

BIN = Path(sys.executable).parent
COUNT = 8
READ_KEYS = """
import sys
from ray._raylet import GcsClient
assert GcsClient(address=sys.argv[1]).internal_kv_keys(b"", None, 5)
print("read")
"""
LOOPBACK = {"127.0.0.1", "::ffff:127.0.0.1", "::1"}


@pytest.mark.parametrize("host", ["0.0.0.0", "::"])
def test_it_ends_at_once_on_a_public_address_without_keys(host: str) -> None:
    command = [str(BIN / "plainmed"), "serve", "--host", host]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 2
    assert "API_KEYS_FILE" in done.stderr
    assert "ALLOW_NO_KEYS" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.fixture(scope="module")
def generator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """`plainmed serve --services generator`; the last test here ends it."""
    folder = tmp_path_factory.mktemp("generator")
    port = free_port()
    command = [str(BIN / "plainmed"), "serve", "--port", str(port), "--services", "generator"]
    running = Server(port, folder / "serve.log", command)
    try:
        running.wait_until_ready()
        yield running
    finally:
        running.stop()


def listening(server: Server) -> list[tuple[psutil.Process, str, int]]:
    """The processes of a server that listen, with address and port."""
    main = psutil.Process(server.process.pid)
    return [
        (process, connection.laddr.ip, connection.laddr.port)
        for process in [main, *main.children(recursive=True)]
        for connection in process.net_connections("tcp")
        if connection.status == psutil.CONN_LISTEN
    ]


def test_what_it_starts_is_on_loopback_but_for_a_port_of_each_replica(generator: Server) -> None:
    found: dict[str, set[str]] = {}
    for process, address, _ in listening(generator):
        found.setdefault(process.name(), set()).add(address)
    assert {"gcs_server", "raylet"} <= set(found)  # those that hold Ray's control
    # Ray 2.60 has this one address written into its code: docs/security.md, Ports.
    for name in [name for name in found if name.startswith("ray::ServeReplica")]:
        found[name].discard("::")
    outside = {name: addresses - LOOPBACK for name, addresses in found.items()}
    assert {name: addresses for name, addresses in outside.items() if addresses} == {}


def test_ray_lets_nobody_in_without_its_token(generator: Server) -> None:
    """The job API would run programs, and the control store would let a driver in."""
    (port,) = {port for process, _, port in listening(generator) if process.name() == "gcs_server"}

    def ask(**environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", READ_KEYS, f"127.0.0.1:{port}"],
            env={**os.environ, **environment},
            capture_output=True, text=True, check=False, timeout=60,
        )  # fmt: skip

    allowed = ask(RAY_AUTH_MODE="token")
    assert allowed.stdout.strip() == "read", allowed.stderr  # with the token of this user
    for wrong in ({"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0" * 64}, {}):
        done = ask(**wrong)
        assert done.returncode != 0
        assert "read" not in done.stdout
        assert "authentication" in done.stderr
    answers = []
    for process, _, port in listening(generator):
        if "dashboard" not in " ".join(process.cmdline()):
            continue
        try:
            answers.append(httpx.get(f"http://127.0.0.1:{port}/api/jobs/", timeout=10))
        except httpx.HTTPError:
            continue  # it speaks gRPC
    assert 401 in [answer.status_code for answer in answers]
    for answer in answers:  # the exporter of metrics answers every path alike
        assert answer.status_code != 200 or answer.text.startswith("# HELP"), answer.text[:200]


def test_the_generator_alone_refuses_metrics_and_drains_at_sigterm(generator: Server) -> None:
    health = httpx.get(f"{generator.url}/healthz").json()
    assert health["services"] == ["generator"]
    assert "Factuality" not in health["components"]
    refused = httpx.post(f"{generator.url}/loss", json={"texts_original": ORIGINALS})
    assert refused.status_code == 404
    assert refused.json()["error"]["code"] == "not_served"

    answers: list[httpx.Response] = []
    long = " ".join(ORIGINALS * 400)
    body = {"texts": [f"{long} Case {index}." for index in range(COUNT)]}

    def ask() -> None:
        answers.append(httpx.post(f"{generator.url}/generate", json=body, timeout=120))

    slow = threading.Thread(target=ask)
    slow.start()
    time.sleep(1.0)
    assert slow.is_alive(), "the request must still be under way when the signal comes"
    generator.process.send_signal(signal.SIGTERM)
    slow.join()
    assert answers[0].status_code == 200, answers[0].text[:500]
    assert len(answers[0].json()["results"]) == COUNT
    assert generator.process.wait(timeout=90) == 0
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{generator.url}/healthz")
