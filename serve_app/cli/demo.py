"""`plainmed demo`: starts a server, summarises and scores a sample abstract over HTTP, stops it.

Knows processes and the client, not what the server does. It ends only its own processes: the
server by its id, and then what is left in the process group made for it.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.panel import Panel

from serve_app.cli.score import metrics_table
from serve_app.client.clients import PlainMedAPIError, PlainMedClient, PlainMedConnectionError
from serve_app.core.errors import PlainMedError, Unavailable
from serve_app.core.printable import printable
from serve_app.core.resources import sample_abstract

HEAD_WORDS = 60
STOP_TIMEOUT_S = 90.0
_POLL_S = 0.5
_LOG_LINES = 3


def free_port() -> int:
    """A port of 127.0.0.1 that nothing listens on at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class StartFailed(Unavailable):
    """The server ended, or was not ready in time."""

    code = "start_failed"


@contextmanager
def running(
    command: Sequence[str], log: Path, stop_timeout_s: float = STOP_TIMEOUT_S
) -> Iterator[subprocess.Popen[bytes]]:
    """Runs a command in a process group of its own, and stops it: SIGTERM, then SIGKILL."""
    with log.open("wb") as output:
        process = subprocess.Popen(  # noqa: S603 - our own command line
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )
    try:
        yield process
    finally:
        try:
            # To the process alone, which stops its own children in order.
            process.terminate()
            with suppress(subprocess.TimeoutExpired):
                process.wait(stop_timeout_s)
        finally:  # also after a second Ctrl-C
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def wait_until_ready(
    process: subprocess.Popen[bytes], client: PlainMedClient, timeout_s: float, console: Console
) -> float:
    """Seconds until every component was ready.

    Raises:
        StartFailed: the process ended, or the time was up.
    """
    started = time.monotonic()
    with console.status("starting the server") as status:
        while True:
            elapsed = time.monotonic() - started
            if process.poll() is not None:
                raise StartFailed(f"the server ended with status {process.returncode}")
            if elapsed > timeout_s:
                raise StartFailed(f"the server was not ready after {timeout_s:.0f} s")
            state = "starting the server"
            with suppress(PlainMedAPIError, PlainMedConnectionError):
                health = client.health()
                waiting = [name for name, one in health.components.items() if not one.ready]
                if health.components and not waiting:
                    return time.monotonic() - started
                if waiting:
                    state = f"waiting for {', '.join(waiting)}"
            status.update(f"{state} ({elapsed:.0f} s)")
            time.sleep(_POLL_S)


def show(client: PlainMedClient, console: Console) -> None:
    """Sends the sample to `/generate` and `/evaluate` and prints the answers.

    Raises:
        PlainMedError: a call failed.
    """
    text = sample_abstract()
    began = time.monotonic()
    with console.status("POST /generate"):
        summary = client.generate(text, seed=0)
    generated_s = time.monotonic() - began
    with console.status("POST /evaluate"):
        evaluation = client.evaluate(text, summary.summary)
    total_s = time.monotonic() - began

    words = text.split()
    head = " ".join(words[:HEAD_WORDS])
    title = f"Original: an invented abstract, the first {HEAD_WORDS} of {len(words)} words"
    console.print(Panel(escape(f"{head} …"), title=title))
    count = len(summary.summary.split())
    title = f"Summary by {escape(printable(summary.model))}: {count} words"
    console.print(Panel(escape(_shown(summary.summary)), title=title))
    console.print(metrics_table(evaluation.results[0], evaluation.weights, evaluation.models))
    console.print(
        f"The target is the mean over human-written summaries. Generated in {generated_s:.1f} s, "
        f"scored in {total_s - generated_s:.1f} s."
    )


def end_of_log(text: str) -> list[str]:
    """What a server said last: its own error, else the last lines; at most three.

    >>> end_of_log("starting\\nerror: it failed to start\\n  Generator: no model\\n")
    ['error: it failed to start', '  Generator: no model']
    """
    lines = [line for line in text.splitlines() if line.strip()]
    errors = [at for at, line in enumerate(lines) if line.startswith("error: ")]
    return lines[errors[-1] :][:_LOG_LINES] if errors else lines[-_LOG_LINES:]


def _shown(text: str) -> str:
    return "\n".join(map(printable, text.splitlines()))


def run_demo(command: Sequence[str], url: str, timeout_s: float, console: Console) -> int:
    """The whole demo with the server that `command` starts at `url`; returns the exit status."""
    # `kill` must clean up as Ctrl-C does.
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    folder = Path(tempfile.mkdtemp(prefix="plainmed-demo-"))
    log = folder / "server.log"
    console.print(f"Starting PlainMed on {url} (its log: {log})")
    try:
        with running(command, log) as process, PlainMedClient(url, retries=2) as client:
            ready_s = wait_until_ready(process, client, timeout_s, console)
            console.print(f"Ready after {ready_s:.0f} s.")
            show(client, console)
            console.print("Stopping the server ...")
    except PlainMedError as error:
        console.print(f"error: {escape(printable(str(error)))}", style="red", soft_wrap=True)
        for line in end_of_log(log.read_text(encoding="utf-8", errors="replace")):
            console.print(f"  {escape(printable(line))}", soft_wrap=True)
        console.print(f"Its whole log is {log}", soft_wrap=True)
        return 1
    finally:
        signal.signal(signal.SIGTERM, before)
    console.print("Stopped the server. `plainmed serve` leaves one running.")
    shutil.rmtree(folder, ignore_errors=True)
    return 0
