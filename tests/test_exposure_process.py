"""Real processes: what is refused to start, and which ports of one that runs others could reach.

`plainmed serve` here, with the generator half where it has to get ready; `serve run` is the server
of tests/serve.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

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
