"""Real processes: what is refused to start, and which ports of one that runs others could reach.

`plainmed serve` here; `serve run` is the server of tests/serve. One Ray at a time, with the
readability metric alone in it where it has to get ready.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest
import yaml

from tests.serve.conftest import Server, free_port

BIN = Path(sys.executable).parent


@pytest.mark.parametrize("host", ["0.0.0.0", "::"])
def test_plainmed_serve_ends_at_once_on_a_public_address_without_keys(host: str) -> None:
    done = subprocess.run(
        [str(BIN / "plainmed"), "serve", "--host", host],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 2
    assert "API_KEYS_FILE" in done.stderr
    assert "ALLOW_NO_KEYS" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.fixture(scope="module")
def private(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """`plainmed serve` of the generator half, as on a laptop."""
    folder = tmp_path_factory.mktemp("private")
    port = free_port()
    command = [str(BIN / "plainmed"), "serve", "--port", str(port), "--services", "generator"]
    running = Server(port, folder / "log", command)
    try:
        running.wait_until_ready()
        yield running
    finally:
        running.stop()


def listening(server: Server) -> dict[str, set[str]]:
    """Addresses on which the server's processes listen, by process name."""
    main = psutil.Process(server.process.pid)
    found: dict[str, set[str]] = {}
    for process in [main, *main.children(recursive=True)]:
        for connection in process.net_connections("tcp"):
            if connection.status == psutil.CONN_LISTEN:
                found.setdefault(process.name(), set()).add(connection.laddr.ip)
    return found


def test_what_plainmed_serve_starts_is_on_loopback_but_for_a_port_of_each_replica(
    private: Server,
) -> None:
    found = listening(private)
    assert {"gcs_server", "raylet"} <= set(found)  # those that hold Ray's control
    # Ray 2.60 has this one address written into its code: docs/security.md, Ports.
    for name in [name for name in found if name.startswith("ray::ServeReplica")]:
        found[name].discard("::")
    outside = {name: ips - {"127.0.0.1", "::ffff:127.0.0.1", "::1"} for name, ips in found.items()}
    assert {name: ips for name, ips in outside.items() if ips} == {}


def test_ray_refuses_callers_without_its_token(private: Server) -> None:
    """The job API would run programs, and the control store would let a driver in."""
    main = psutil.Process(private.process.pid)
    (gcs,) = [p for p in main.children(recursive=True) if p.name() == "gcs_server"]
    words = dict(
        word[2:].split("=", 1) for word in gcs.cmdline() if word.startswith("--") and "=" in word
    )
    address = f"127.0.0.1:{words['gcs_server_port']}"
    if words["gcs_server_port"] == "0":
        ports = {c.laddr.port for c in gcs.net_connections("tcp") if c.status == "LISTEN"}
        (port,) = ports
        address = f"127.0.0.1:{port}"
    status: set[int] = set()
    for process in main.children(recursive=True):
        for connection in process.net_connections("tcp"):
            if connection.status != psutil.CONN_LISTEN or "dashboard" not in " ".join(
                process.cmdline()
            ):
                continue
            try:
                url = f"http://127.0.0.1:{connection.laddr.port}/api/jobs/"
                status.add(httpx.get(url, timeout=10).status_code)
            except httpx.HTTPError:
                continue  # not HTTP
    assert 401 in status
    assert 200 not in status
    probe = "import sys, ray; ray.init(sys.argv[1], log_to_driver=False); print('let in')"
    done = subprocess.run(
        [sys.executable, "-c", probe, address],
        env={"PATH": "/usr/bin:/bin", "HOME": str(private.log.parent), "RAY_AUTH_TOKEN": "0" * 64},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert "let in" not in done.stdout
    assert done.returncode != 0


def test_serve_run_on_a_public_address_without_keys_does_not_answer(tmp_path: Path) -> None:
    """Serve itself listens; the gateway, which would answer, refuses to start and says why."""
    port = free_port()
    config = tmp_path / "serve.yaml"
    args = {"services": ["generator"]}
    application = {"name": "a", "import_path": "serve_app.app:build", "args": args}
    document = {"http_options": {"host": "0.0.0.0", "port": port}, "applications": [application]}
    config.write_text(yaml.safe_dump(document))
    running = Server(port, tmp_path / "log", [str(BIN / "serve"), "run", str(config)])
    try:
        with pytest.raises(RuntimeError, match="did not get ready") as caught:
            running.wait_until_ready()
    finally:
        running.stop()
    assert "ALLOW_NO_KEYS" in str(caught.value) + running.log.read_text()
