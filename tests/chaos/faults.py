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

from serve_app.core.settings import load_settings
from serve_app.metrics.targets import load_targets
from serve_app.storage.artifacts import embedded_path
from tests.chaos.load import Case, same
from tests.chaos.patience import numbers
from tests.chaos.poisoned import POISON
from tests.chaos.stage import DEPLOYMENTS, Stage, processes
from tests.support.artifact_servers import MotoProcess

HANGS_S = 45.0
"""Longer than three health checks of the stage, after which Serve replaces a replica."""

FULL_S, HELD_AT_MOST_S, STRIKES = 1.5, 9.0, 3
"""A process is held before it is killed, until a request has waited in it: at least for the first,
and longer than any did before the fault. The second is shorter than one health check: a process in
which nothing waits by then goes on, and is held again, so many times in all."""

POISONED_S = 12.0
S3_AWAY_S = 30.0
BUCKET = "chaos-models"


def _nothing(_: Stage) -> None:
    """Nothing to prepare, nothing to undo."""


def _all_well(_: Stage) -> list[str]:
    """Nothing to check."""
    return []


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that goes wrong.

    Attributes:
        name: for the table.
        strike: does it; returns when Serve has noticed, or when the change is through.
        prepare: before the load begins.
        heal: after it, what does not heal by itself.
        check: once all is whole again, still under load: what is not as it should be.
        inside: requests must be under way in what is struck.
        long: one long request must be, in a replica that is told to stop.
        changes: answers are others afterwards.
    """

    name: str
    strike: Callable[[Stage], None]
    prepare: Callable[[Stage], None] = _nothing
    heal: Callable[[Stage], None] = _nothing
    check: Callable[[Stage], list[str]] = _all_well
    inside: bool = False
    long: bool = False
    changes: bool = False


def hold(stage: Stage, find: Callable[[], list[int]]) -> list[int]:
    """Stops processes until requests have been seen to wait in them; `stage.held` is how many.

    Nothing else tells: a replica that is asked what it has under way has answered it by the time
    that it is stopped.

    Args:
        find: which; asked again for each try.

    Returns:
        The processes, which are stopped, also where `stage.held` has stayed 0.
    """
    assert stage.load is not None
    # More than twice as long as any before: it is the stopped process that it waits for.
    wanted = min(max(FULL_S, 2 * stage.load.slowest_s()), HELD_AT_MOST_S - 1)
    for left in reversed(range(STRIKES)):
        pids = find()
        _signal(pids, signal.SIGSTOP)
        end = time.monotonic() + HELD_AT_MOST_S
        while not stage.held and time.monotonic() < end:
            time.sleep(0.05)
            stage.held = stage.load.waiting(wanted)
        if stage.held or not left:
            break
        _signal(pids, signal.SIGCONT)
        time.sleep(FULL_S)
    return pids


def _signal(pids: list[int], number: signal.Signals) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):  # Serve has replaced it
            os.kill(pid, number)


def kill_replica(deployment: str) -> Fault:
    """SIGKILL of one of two replicas."""

    def strike(stage: Stage) -> None:
        _signal(hold(stage, lambda: stage.replicas(deployment)[:1]), signal.SIGKILL)
        stage.wait_noticed()

    return Fault(f"`kill -9` of a {deployment} replica", strike, inside=True)


def hang_replica(deployment: str) -> Fault:
    """SIGSTOP of one of two replicas, for longer than its health check waits."""

    def strike(stage: Stage) -> None:
        pids = hold(stage, lambda: stage.replicas(deployment)[:1])
        time.sleep(HANGS_S)
        _signal(pids, signal.SIGCONT)

    name = f"a {deployment} replica that hangs (SIGSTOP, {HANGS_S:.0f} s)"
    return Fault(name, strike, inside=True)


def _kill_full_gateway(stage: Stage) -> None:
    """With requests in it, which it has accepted: they wait for replicas that are stopped."""
    before = stage.asked_again()
    metrics = hold(stage, lambda: stage.replicas("Factuality"))
    _signal([stage.fullest_gateway()], signal.SIGKILL)
    _signal(metrics, signal.SIGCONT)
    stage.wait_noticed()
    stage.held = stage.asked_again() - before


def _kill_controller(stage: Stage) -> None:
    """No request goes through it."""
    _signal([processes("ServeController")[0].pid], signal.SIGKILL)
    stage.wait_noticed()


def _kill_proxy(stage: Stage) -> None:
    _signal(hold(stage, lambda: [processes("ProxyActor")[0].pid]), signal.SIGKILL)
    stage.wait_noticed()


def _kill_node(stage: Stage) -> None:
    node = stage.busiest()
    held = hold(stage, lambda: stage.replicas_on(node))
    stage.nodes.remove(node)
    stage.cluster.remove_node(node, allow_graceful=False)
    _signal(held, signal.SIGKILL)  # what is stopped does not see that its node is gone
    stage.wait_noticed()


def _deploy(stage: Stage) -> None:
    stage.deploy()
    stage.wait_noticed(timeout_s=5)


def _new_targets(stage: Stage) -> None:
    """Every target moves by its standard deviation, so that every loss is another."""
    document = load_targets(load_settings(**stage.settings())).to_dict()
    for key in document:
        if key.startswith("TARGET_"):
            document[key] += document[key.replace("TARGET_", "SIGMA_")]
    path = Path(tempfile.mkdtemp(prefix="targets-", dir=stage.folder)) / "targets.json"
    path.write_text(json.dumps(document), encoding="utf-8")
    stage.settings()["targets_file"] = str(path)
    _deploy(stage)


def _targets_named(stage: Stage) -> list[str]:
    """Every gateway names the new targets."""
    wanted = load_targets(load_settings(**stage.settings())).to_dict()["TARGET_FKGL"]
    named = {one["targets"]["TARGET_FKGL"] for one in _asked(stage, "/healthz")}
    return [] if named == {wanted} else [f"/healthz: targets of FKGL {named}, not {wanted}"]


NEW_MODEL = "alignscore-again"


def _new_model(stage: Stage) -> None:
    """The same weights under another name, so that the known answers stay known but for it."""
    folder = Path(tempfile.mkdtemp(prefix="model-", dir=stage.folder)) / NEW_MODEL
    shutil.copytree(embedded_path("alignscore-mini"), folder)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config["name"] = NEW_MODEL
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    stage.settings()["alignscore_model"] = str(folder)
    _deploy(stage)


def _model_named(stage: Stage) -> list[str]:
    """Every gateway names the new model, where it tells of itself and with its numbers."""
    pair = {"texts_original": ["A trial of zinc."], "texts_generated": ["Zinc was tried."]}
    health = _asked(stage, "/healthz")
    named = {
        "/healthz": {one["components"]["Factuality"]["model"] for one in health},
        "/metrics/factuality": {one["model"] for one in _asked(stage, "/metrics/factuality", pair)},
    }
    return [f"{path} names {models}" for path, models in named.items() if models != {NEW_MODEL}]


def _asked(stage: Stage, path: str, body: Any = None) -> list[Any]:
    """Answers to several connections: of every gateway, in all likelihood."""
    method = "GET" if body is None else "POST"
    return [
        httpx.request(method, stage.url + path, json=body, timeout=120).raise_for_status().json()
        for _ in range(12)
    ]


def _replicas(count: int) -> Callable[[Stage], None]:
    def strike(stage: Stage) -> None:
        for name in DEPLOYMENTS:
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
    *(kill_replica(name) for name in DEPLOYMENTS),
    Fault(
        "`kill -9` of a Gateway replica with requests that it has accepted",
        _kill_full_gateway,
        inside=True,
    ),
    *(hang_replica(name) for name in ("Factuality", "Generator", "Gateway")),
    Fault("a text that cannot be computed in a batch with others", _poison),
    Fault(
        "a rolling update of the targets, which changes the answers, with a long request under way",
        _new_targets,
        check=_targets_named,
        long=True,
        changes=True,
    ),
    Fault("a rolling update of a model", _new_model, check=_model_named),
    Fault("2 to 3 replicas of everything", _replicas(3), heal=_replicas(2)),
    Fault("3 to 2 replicas of everything", _replicas(2), prepare=_replicas(3)),
    Fault("`kill -9` of the Serve controller", _kill_controller),
    Fault("`kill -9` of one of the HTTP proxies", _kill_proxy, inside=True),
    Fault(
        f"S3 gone ({S3_AWAY_S:.0f} s) while a Factuality replica starts without a cache",
        _bucket.strike,
        prepare=_bucket.prepare,
        heal=_bucket.heal,
    ),
    Fault(
        "`kill -9` of a whole node",
        _kill_node,
        inside=True,
        heal=lambda stage: stage.nodes.append(stage.add_node()),
    ),
]
