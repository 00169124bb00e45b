"""Starts the servers that are measured, each in a process of its own, and stops them by pid."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil
import yaml

ROOT = Path(__file__).resolve().parent.parent
READY_S, STOP_S = 300.0, 90.0


@dataclass(frozen=True, slots=True)
class Running:
    """A server that answers, and the process that was started for it."""

    url: str
    pid: int


def free_port() -> int:
    """A port nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def end_on_sigterm() -> None:
    """Lets SIGTERM end this process as an exception does, so that its servers are stopped."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))


def _wait(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    until = time.monotonic() + READY_S
    while time.monotonic() < until and process.poll() is None:
        try:
            if httpx.get(f"{url}/healthz", timeout=10).status_code == 200:
                return
        except httpx.HTTPError:
            pass
        time.sleep(0.3)
    raise RuntimeError(f"the server did not get ready: {log.read_text(errors='replace')[-2000:]}")


@contextmanager
def _running(command: list[str], url: str, **environment: str) -> Iterator[Running]:
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log"
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            stdout=log.open("wb"),
            stderr=subprocess.STDOUT,
            start_new_session=True,
            # Another Ray on this machine must not be joined.
            env={**os.environ, "RAY_ADDRESS": "local", **environment},
        )
        try:
            _wait(process, url, log)
            yield Running(url, process.pid)
        finally:
            started = []
            if process.poll() is None:
                started = psutil.Process(process.pid).children(recursive=True)
                process.send_signal(signal.SIGINT)
            try:
                process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait(10)
            for one in started:  # Ray's HAProxy outlives it
                with suppress(psutil.NoSuchProcess):
                    one.kill()


@contextmanager
def single(library: str) -> Iterator[str]:
    """`benchmarks.single_server` with `library`; gives its URL."""
    port = free_port()
    command = [sys.executable, "-m", "benchmarks.single_server", str(port), library]
    with _running(command, f"http://127.0.0.1:{port}") as running:
        yield running.url


@contextmanager
def plainmed(
    changes: Mapping[str, Mapping[str, Any]] | None = None, **environment: str
) -> Iterator[str]:
    """`serve run` of serve_config.yaml's metrics half on a free port; gives its URL.

    Args:
        changes: fields of deployments to replace, by deployment name.
        environment: further environment variables.
    """
    config = yaml.safe_load((ROOT / "serve_config.yaml").read_text(encoding="utf-8"))
    port = free_port()
    config["http_options"]["port"] = port
    [application] = config["applications"]
    application["args"]["services"] = ["metrics"]
    application["deployments"] = [
        {**deployment, **(changes or {}).get(deployment["name"], {})}
        for deployment in application["deployments"]
        if deployment["name"] != "Generator"
    ]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "serve_config.yaml"
        path.write_text(yaml.safe_dump(config), encoding="utf-8")
        command = [str(Path(sys.executable).parent / "serve"), "run", str(path)]
        with _running(command, f"http://127.0.0.1:{port}", **environment) as running:
            yield running.url


@contextmanager
def whole(**environment: str) -> Iterator[Running]:
    """`plainmed serve serve_config.yaml`, all of it as users start it, on a free port.

    Args:
        environment: further environment variables, settings among them.
    """
    port = free_port()
    command = [str(Path(sys.executable).parent / "plainmed"), "serve", "serve_config.yaml"]
    with tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as folder:
        own = {"RAY_TMPDIR": folder, "RAY_SERVE_LOG_TO_STDERR": "0", **environment}
        url = f"http://127.0.0.1:{port}"
        with _running([*command, "--port", str(port)], url, **own) as running:
            yield running
