"""What `plainmed serve` checks before it starts Ray: its port and its CPUs."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from serve_app.cli.demo import free_port
from serve_app.core.errors import ConfigError
from serve_app.serving.machine import fitting_cpus, reserved

IPV6 = pytest.mark.skipif(not socket.has_ipv6, reason="no IPv6 here")
HOLD = """
import sys, time
from serve_app.serving.machine import reserved
with reserved("127.0.0.1", int(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def reserve(host: str, port: int) -> None:
    with reserved(host, port):
        pass


@contextmanager
def listening(host: str, port: int, shared: bool) -> Iterator[None]:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared:  # as Ray Serve's proxy does
            server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        try:
            server.bind((host, port))
        except OSError as error:
            pytest.skip(f"{host} cannot be used here: {error}")
        server.listen()
        yield


@pytest.mark.parametrize("shared", [False, True], ids=["another program", "another Serve"])
@pytest.mark.parametrize(
    ("taken", "wanted"),
    [
        ("127.0.0.1", "127.0.0.1"),
        ("0.0.0.0", "127.0.0.1"),
        ("127.0.0.1", "0.0.0.0"),
        ("127.0.0.1", "localhost"),
        pytest.param("::1", "::1", marks=IPV6),
        pytest.param("::", "127.0.0.1", marks=IPV6),
        pytest.param("0.0.0.0", "::", marks=IPV6),
        pytest.param("::1", "::", marks=IPV6),
    ],
)
def test_a_port_that_is_taken_is_refused_at_once(taken: str, wanted: str, shared: bool) -> None:
    port = free_port()
    with (
        listening(taken, port, shared),
        pytest.raises(ConfigError, match=f":{port}: another program uses it; .*--port"),
    ):
        reserve(wanted, port)
    reserve(wanted, port)  # free again, at once


def test_a_port_that_another_is_about_to_use_is_refused_while_its_own_serve_may_bind() -> None:
    port = free_port()
    command = [sys.executable, "-c", HOLD, str(port)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"held\n"
        with pytest.raises(ConfigError, match="another program"):
            reserve("127.0.0.1", port)
        with listening("127.0.0.1", port, shared=True):
            pass
        other.communicate()
    reserve("127.0.0.1", port)


def test_a_port_whose_connections_have_just_ended_is_free() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)) as client:
            accepted, _ = server.accept()
            accepted.close()  # the server's side waits, as after a restart
            client.recv(1)
    reserve("127.0.0.1", port)


@pytest.mark.parametrize("host", ["203.0.113.7", "no-such-host.invalid"])
def test_an_address_that_is_not_this_machines_is_refused_at_once(host: str) -> None:
    with pytest.raises(ConfigError, match="cannot listen on"), reserved(host, free_port()):
        pass


ASKED = {"Gateway": {"CPU": 0.1, "GPU": 0.0}, "Generator": {"CPU": 1.8, "GPU": 0.0}}


def test_replicas_fit_into_a_machine_with_half_the_cpus_and_that_is_said(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert fitting_cpus(ASKED, {"CPU": 4, "GPU": 0}) == 4
    assert capsys.readouterr().err == ""
    assert fitting_cpus(ASKED, {"CPU": 1, "GPU": 0}) == 2
    assert "ask for 1.9 CPUs and this machine has 1" in capsys.readouterr().err


def test_a_machine_that_is_too_small_is_told_at_once_with_what_asks_for_how_much() -> None:
    wanted = {**ASKED, "Relevance": {"CPU": 4.0, "GPU": 0.0}}
    with pytest.raises(ConfigError, match=r"5\.9 CPUs \(.*Relevance 4\).*has 2"):
        fitting_cpus(wanted, {"CPU": 2, "GPU": 0})
    on_gpu = {**ASKED, "Generator": {"CPU": 1.0, "GPU": 1.0}}
    assert fitting_cpus(on_gpu, {"CPU": 2, "GPU": 1}) == 2
    with pytest.raises(ConfigError, match=r"1 GPUs \(Generator 1\).*has 0"):
        fitting_cpus(on_gpu, {"CPU": 2, "GPU": 0})
