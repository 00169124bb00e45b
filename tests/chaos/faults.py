"""What is done to a running system while it is under load.

Each fault says what it does and how it is undone; none knows what the load sees of it.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from serve_app.settings import load_settings
from serve_app.targets import load_targets
from tests.chaos.stage import METRICS, Stage, processes


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that goes wrong.

    Attributes:
        name: for the table.
        strike: does it; may take some seconds.
        errors: whether a client may see an error other than a 503 (there is one proxy only).
        heal: undoes what does not heal by itself.
    """

    name: str
    strike: Callable[[Stage], None]
    errors: bool = False
    heal: Callable[[Stage], None] | None = None


def kill_replica(deployment: str) -> Fault:
    """SIGKILL of one of two replicas."""

    def strike(stage: Stage) -> None:
        os.kill(stage.replicas(deployment)[0], signal.SIGKILL)

    return Fault(f"`kill -9` of a {deployment} replica", strike)


def hang_replica(deployment: str, seconds: float = 20.0) -> Fault:
    """SIGSTOP of one of two replicas, for longer than its health check waits."""

    def strike(stage: Stage) -> None:
        pid = stage.replicas(deployment)[0]
        os.kill(pid, signal.SIGSTOP)
        time.sleep(seconds)
        with contextlib.suppress(ProcessLookupError):  # Serve has replaced it
            os.kill(pid, signal.SIGCONT)

    return Fault(f"a {deployment} replica that hangs (SIGSTOP, {seconds:.0f} s)", strike)


def kill_process(title: str, name: str, errors: bool = False) -> Fault:
    """SIGKILL of a process of Serve's own."""

    def strike(_: Stage) -> None:
        found = processes(title)
        if not found:
            raise RuntimeError(f"there is no process {title}")
        found[0].kill()

    return Fault(f"`kill -9` of {name}", strike, errors)


def _kill_node(stage: Stage) -> None:
    stage.cluster.remove_node(stage.nodes.pop(), allow_graceful=False)


def _add_node(stage: Stage) -> None:
    stage.nodes.append(stage.cluster.add_node(num_cpus=2, object_store_memory=100 * 2**20))


def _new_targets(stage: Stage) -> None:
    """The same numbers in another file: every Loss replica and gateway is replaced."""
    document = load_targets(load_settings()).to_dict()
    path = Path(tempfile.mkdtemp(prefix="targets-")) / "targets.json"
    path.write_text(json.dumps(document), encoding="utf-8")
    stage.settings()["targets_file"] = str(path)
    stage.deploy()
    time.sleep(2)
    stage.wait_whole()


def _new_model(stage: Stage) -> None:
    """The same weights from another place, so that the known answers stay known."""
    from serve_app.artifacts import embedded_path

    stage.settings()["alignscore_model"] = str(embedded_path("alignscore-mini"))
    stage.deploy()
    time.sleep(2)
    stage.wait_whole()


def _replicas(count: int) -> Callable[[Stage], None]:
    def strike(stage: Stage) -> None:
        for name in METRICS:
            stage.deployment(name)["num_replicas"] = count
        stage.deploy()
        time.sleep(2)
        stage.wait_whole()

    return strike


FAULTS = [
    *(kill_replica(name) for name in METRICS),
    hang_replica("Factuality"),
    Fault("a rolling update of the targets", _new_targets),
    Fault("a rolling update of a model", _new_model),
    Fault("2 to 3 replicas of everything", _replicas(3)),
    Fault("3 to 2 replicas of everything", _replicas(2)),
    kill_process("ServeController", "the Serve controller"),
    kill_process("ProxyActor", "the HTTP proxy", errors=True),
    Fault("a whole node killed", _kill_node, heal=_add_node),
]
