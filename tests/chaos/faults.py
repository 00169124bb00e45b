"""What is done to a running system while it is under load.

Each fault says what it does, what it needs before and how it is undone; none knows what the load
sees of it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import shutil
import signal
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from serve_app.artifacts import embedded_path
from serve_app.settings import load_settings
from serve_app.targets import load_targets
from tests.artifact_servers import MotoProcess
from tests.chaos.load import Case, same
from tests.chaos.patience import numbers
from tests.chaos.poisoned import POISON
from tests.chaos.stage import METRICS, Stage, processes

HANGS_S = 60.0
"""Longer than three health checks of the stage, after which Serve replaces a replica."""

FULL_S = 1.5
"""A process is held so long before it is killed, so that requests are under way in it."""

POISONED_S = 12.0
S3_AWAY_S = 30.0
BUCKET = "chaos-models"


def _nothing(_: Stage) -> None:
    """Nothing to prepare, nothing to undo."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that goes wrong.

    Attributes:
        name: for the table.
        strike: does it; returns when Serve has noticed, or when the change is through.
        prepare: before the load begins.
        heal: after it, what does not heal by itself.
    """

    name: str
    strike: Callable[[Stage], None]
    prepare: Callable[[Stage], None] = _nothing
    heal: Callable[[Stage], None] = _nothing


def _kill(pid: int) -> None:
    os.kill(pid, signal.SIGSTOP)
    time.sleep(FULL_S)
    os.kill(pid, signal.SIGKILL)


def kill_replica(deployment: str) -> Fault:
    """SIGKILL of one of two replicas."""

    def strike(stage: Stage) -> None:
        _kill(stage.replicas(deployment)[0])
        stage.wait_noticed()

    return Fault(f"`kill -9` of a {deployment} replica", strike)


def hang_replica(deployment: str) -> Fault:
    """SIGSTOP of one of two replicas, for longer than its health check waits."""

    def strike(stage: Stage) -> None:
        pid = stage.replicas(deployment)[0]
        os.kill(pid, signal.SIGSTOP)
        time.sleep(HANGS_S)
        with contextlib.suppress(ProcessLookupError):  # Serve has replaced it
            os.kill(pid, signal.SIGCONT)

    return Fault(f"a {deployment} replica that hangs (SIGSTOP, {HANGS_S:.0f} s)", strike)


def kill_process(title: str, name: str) -> Fault:
    """SIGKILL of a process of Serve's own."""

    def strike(stage: Stage) -> None:
        _kill(processes(title)[0].pid)
        stage.wait_noticed()

    return Fault(f"`kill -9` of {name}", strike)


def _kill_node(stage: Stage) -> None:
    node = stage.busiest()
    stage.nodes.remove(node)
    stage.cluster.remove_node(node, allow_graceful=False)
    stage.wait_noticed()


def _deploy(stage: Stage) -> None:
    stage.deploy()
    stage.wait_noticed(timeout_s=5)


def _new_targets(stage: Stage) -> None:
    """The same numbers in another file, so that the known answers stay known."""
    document = load_targets(load_settings()).to_dict()
    path = Path(tempfile.mkdtemp(prefix="targets-", dir=stage.folder)) / "targets.json"
    path.write_text(json.dumps(document), encoding="utf-8")
    stage.settings()["targets_file"] = str(path)
    _deploy(stage)


def _new_model(stage: Stage) -> None:
    """The same weights from another place, so that the known answers stay known."""
    stage.settings()["alignscore_model"] = str(embedded_path("alignscore-mini"))
    _deploy(stage)


def _replicas(count: int) -> Callable[[Stage], None]:
    def strike(stage: Stage) -> None:
        for name in METRICS:
            stage.deployment(name)["num_replicas"] = count
        _deploy(stage)

    return strike


def _poison(stage: Stage) -> None:
    """Texts that cannot be computed, each among four that can, all sent at once.

    Raises:
        RuntimeError: a text that can was not answered rightly, one that cannot was not refused as
            such, or no batch had both.
    """
    known = [case for case in stage.known if case.path == "/metrics/relevance"]
    poison = {"texts_original": ["A trial."], "texts_generated": [f"{POISON} text"]}

    async def burst(http: httpx.AsyncClient) -> None:
        mates = [http.post(case.path, json=dict(case.body)) for case in known[:4]]
        bad = http.post("/metrics/relevance", json=poison)
        refused, *answers = await asyncio.gather(bad, *mates)
        _check(refused, answers, known)

    async def bursts() -> None:
        async with httpx.AsyncClient(base_url=stage.url, timeout=120) as http:
            end = time.monotonic() + POISONED_S
            while time.monotonic() < end:
                await burst(http)

    asyncio.run(bursts())
    logs = stage.folder.glob("ray/session_*/logs/serve/replica_plainmed_Relevance_*.log")
    mixed = [one for log in logs for one in re.findall(r"a batch of (\d+) failed", log.read_text())]
    if not mixed:
        raise RuntimeError("no batch had a text that cannot be computed beside another")


def _check(refused: httpx.Response, answers: list[httpx.Response], known: list[Case]) -> None:
    code: Any = refused.json()["error"]["code"]
    if (refused.status_code, code) != (500, "metric_failed"):
        raise RuntimeError(f"what cannot be computed: {refused.status_code} {refused.text[:200]}")
    for case, answer in zip(known, answers, strict=False):
        if answer.status_code != 200 or not same(numbers(answer.json()), numbers(case.expected)):
            raise RuntimeError(f"its batch mate: {answer.status_code} {answer.text[:200]}")


class _Bucket:
    """An S3 server with the factuality model in it, which comes and goes."""

    def __init__(self) -> None:
        self._server: MotoProcess | None = None
        self._before = "embedded:alignscore-mini"

    def prepare(self, stage: Stage) -> None:
        """Factuality's weights from S3."""
        self._start(stage)
        self._before = stage.settings().get("alignscore_model", self._before)
        stage.settings()["alignscore_model"] = f"s3://{BUCKET}/alignscore-mini/"
        _deploy(stage)
        stage.wait_whole()

    def strike(self, stage: Stage) -> None:
        """A replica dies while there is neither S3 nor a copy of the weights."""
        self._stop()
        shutil.rmtree(stage.folder / "cache")
        os.kill(stage.replicas("Factuality")[0], signal.SIGKILL)
        time.sleep(S3_AWAY_S)
        if stage.whole():
            raise RuntimeError("a replica started without its weights")
        self._start(stage)

    def heal(self, stage: Stage) -> None:
        """The weights from where they were."""
        stage.settings()["alignscore_model"] = self._before
        _deploy(stage)
        stage.wait_whole()
        self._stop()

    def _start(self, stage: Stage) -> None:
        import boto3

        self._server = MotoProcess(stage.s3_port)
        s3 = boto3.client("s3")
        s3.create_bucket(Bucket=BUCKET)
        for path in embedded_path("alignscore-mini").iterdir():
            s3.upload_file(str(path), BUCKET, f"alignscore-mini/{path.name}")

    def _stop(self) -> None:
        if self._server is not None:
            self._server.kill()
        self._server = None


_bucket = _Bucket()

FAULTS = [
    *(kill_replica(name) for name in METRICS),
    *(hang_replica(name) for name in ("Factuality", "Gateway")),
    Fault("a text that cannot be computed in a batch with others", _poison),
    Fault("a rolling update of the targets", _new_targets),
    Fault("a rolling update of a model", _new_model),
    Fault("2 to 3 replicas of everything", _replicas(3), heal=_replicas(2)),
    Fault("3 to 2 replicas of everything", _replicas(2), prepare=_replicas(3)),
    kill_process("ServeController", "the Serve controller"),
    kill_process("ProxyActor", "one of the HTTP proxies"),
    Fault(
        f"S3 gone ({S3_AWAY_S:.0f} s) while a Factuality replica starts without a cache",
        _bucket.strike,
        prepare=_bucket.prepare,
        heal=_bucket.heal,
    ),
    Fault(
        "`kill -9` of a whole node",
        _kill_node,
        heal=lambda stage: stage.nodes.append(stage.add_node()),
    ),
]
