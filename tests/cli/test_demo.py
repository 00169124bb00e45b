"""`plainmed demo`: what it shows, and that it stops what it started."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from io import StringIO
from pathlib import Path

import psutil
import pytest
from rich.console import Console

from serve_app.cli.demo import free_port, run_demo, running
from serve_app.core.resources import sample_abstract
from tests.support.paths import ROOT
from tests.support.servers import lead, measure, wait_for

SERVER = """
import os, signal, subprocess, sys, time
sys.path.insert(0, {root!r})
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
print("child", child.pid, flush=True)
{body}
"""


def command(body: str) -> list[str]:
    root = str(ROOT)
    return [sys.executable, "-c", SERVER.format(root=root, body=body)]


def child_of(log: Path) -> int:
    return int(re.search(r"child (\d+)", log.read_text(encoding="utf-8"))[1])  # type: ignore[index]


def gone(pid: int) -> bool:
    """Killed: not there, or dead and not yet collected by whoever adopted it."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def test_the_sample_abstract_is_a_review_and_carries_no_remark() -> None:
    text = sample_abstract()
    assert text.startswith("Background:")
    assert "#" not in text
    assert 240 < len(text.split()) < 320


def test_demo_shows_summary_metrics_targets_and_loss_and_stops_what_it_started() -> None:
    port = free_port()
    serve = (
        "import uvicorn\nfrom serve_app.api.app import create_app\n"
        "from serve_app.api.middleware.request_guard import Traffic\n"
        "from serve_app.core.settings import load_settings\n"
        "from tests.support.servers import LightBackend\n"
        "app = create_app(LightBackend(), load_settings(), Traffic())\n"
        f"uvicorn.run(app, port={port})"
    )
    shown = StringIO()
    before = signal.getsignal(signal.SIGTERM)
    console = Console(file=shown, width=100)
    status = run_demo(command(serve), f"http://127.0.0.1:{port}", 60, console)
    text = shown.getvalue()
    assert status == 0, text
    summary = lead(sample_abstract())
    assert "Chronic obstructive pulmonary disease" in text
    assert "Summary by lead-2" in text
    for value in (*measure(sample_abstract(), summary).values, 0.8556, 0.4481, 14.966):
        assert f"{value:.4f}" in text
    assert "Loss" in text
    assert signal.getsignal(signal.SIGTERM) is before
    log = Path(re.search(r"its log: (\S+)\)", text)[1])  # type: ignore[index]
    assert not log.exists()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), 1)


def test_demo_that_fails_shows_the_servers_log() -> None:
    shown = StringIO()
    console = Console(file=shown, width=200)
    body = "print('no room [for] a model', flush=True); sys.exit(3)"
    status = run_demo(command(body), f"http://127.0.0.1:{free_port()}", 60, console)
    text = shown.getvalue()
    assert status == 1
    assert "the server ended with status 3" in text
    assert "no room [for] a model" in text
    log = Path(re.search(r"its log: (\S+)\)", text)[1])  # type: ignore[index]
    wait_for(lambda: gone(child_of(log)))


def test_a_demo_that_fails_says_so_in_five_lines_with_the_cause() -> None:
    shown = StringIO()
    body = (
        "for n in range(40): print('INFO', n)\n"
        "print('error: the application failed to start\\n  Generator: ConfigError: no model')\n"
        "print('the tracebacks are in /x')\nsys.exit(1)"
    )
    url = f"http://127.0.0.1:{free_port()}"
    assert run_demo(command(body), url, 60, Console(file=shown, width=80)) == 1
    _, *failure = shown.getvalue().partition("server.log)\n")[2].splitlines()
    assert len(failure) + 1 <= 5
    assert "  Generator: ConfigError: no model" in "\n".join(failure)
    assert failure[-1].startswith("Its whole log is ")


def test_demo_gives_up_on_a_server_that_never_gets_ready() -> None:
    shown = StringIO()
    url = f"http://127.0.0.1:{free_port()}"
    status = run_demo(command("time.sleep(600)"), url, 1, Console(file=shown, width=200))
    assert status == 1
    assert "not ready after 1 s" in shown.getvalue()


def test_a_server_that_will_not_stop_is_killed_with_its_group(tmp_path: Path) -> None:
    log = tmp_path / "log"
    body = "signal.signal(signal.SIGTERM, signal.SIG_IGN); print('ready', flush=True)\n"
    with running(command(body + "time.sleep(600)"), log, stop_timeout_s=0.3) as process:
        while "ready" not in log.read_text(encoding="utf-8"):
            time.sleep(0.02)
        assert os.getpgid(process.pid) == process.pid != os.getpgid(0)
    assert process.returncode == -signal.SIGKILL
    wait_for(lambda: gone(child_of(log)))


def test_killing_the_demo_stops_the_server_too(tmp_path: Path) -> None:
    server = command("time.sleep(600)")
    code = (
        "from rich.console import Console\nfrom serve_app.cli.demo import run_demo\n"
        f"run_demo({server!r}, 'http://127.0.0.1:{free_port()}', 600, Console(width=300))"
    )
    demo = subprocess.Popen([sys.executable, "-u", "-c", code], stdout=subprocess.PIPE, text=True)
    assert demo.stdout is not None
    log = Path(re.search(r"its log: (\S+)\)", demo.stdout.readline())[1])  # type: ignore[index]
    deadline = time.monotonic() + 30
    while not (log.exists() and "child" in log.read_text(encoding="utf-8")):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    demo.terminate()
    assert demo.wait(30) == 128 + signal.SIGTERM
    demo.stdout.close()
    wait_for(lambda: gone(child_of(log)))
