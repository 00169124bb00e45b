"""How the gateway looks at the other deployments: once for all who ask, in a bounded time, and
never as an error of its own."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Any

import pytest
from ray import serve

from serve_app.api.request_stats import RequestStats
from serve_app.core.errors import Unavailable
from serve_app.core.observability.tracing import Timed
from serve_app.metrics.evaluation import BertScoreResult
from serve_app.serving.deployments import handle_backend
from serve_app.serving.deployments.handle_backend import HandleBackend
from serve_app.serving.deployments.metrics import Description
from serve_app.serving.scheduling.single_flight import SingleFlight


def status(**running: int) -> SimpleNamespace:
    """What Serve says of an application with so many replicas of each deployment."""
    deployments = {
        name: SimpleNamespace(
            replica_states={"RUNNING": count, "STARTING": 1}, status="HEALTHY", message=""
        )
        for name, count in running.items()
    }
    return SimpleNamespace(applications={"plainmed": SimpleNamespace(deployments=deployments)})


class Deployment:
    """As a handle: gives what it is set to, or never anything while it is busy."""

    def __init__(self, model: str = "first") -> None:
        self.model, self.busy, self.asked = model, False, 0
        self.describe = SimpleNamespace(remote=lambda: self._say(Description(self.model, "cpu", 1)))
        self.targets = SimpleNamespace(remote=lambda: self._say(({"n": self.asked}, [])))
        self.score = SimpleNamespace(
            remote=lambda *_: self._say(
                Timed([BertScoreResult(0.5, 0.5, 0.5, False, False)], {}, "computed", "gpu")
            )
        )

    async def _say(self, what: Any) -> Any:
        self.asked += 1
        if self.busy:
            await asyncio.sleep(60)
        return what


def backend(**handles: Deployment) -> HandleBackend:
    return HandleBackend(handles, "plainmed", RequestStats())  # type: ignore[arg-type]


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """A busy deployment is not waited for long, and no answer is kept."""
    for name, seconds in {
        "HEALTH_TIMEOUT_S": 60.0,
        "NAMES_WAIT_S": 0.1,
        "HEALTH_FRESH_S": 0.0,
        "NAMES_FRESH_S": 0.0,
    }.items():
        monkeypatch.setattr(handle_backend, name, seconds)


async def test_who_asks_at_the_same_time_or_soon_after_shares_one_look(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked = 0

    def count() -> SimpleNamespace:
        nonlocal asked
        asked += 1
        return status(Loss=1)

    monkeypatch.setattr(serve, "status", count)
    monkeypatch.setattr(handle_backend, "HEALTH_FRESH_S", 600.0)
    one = backend(Loss=Deployment())
    looks = await asyncio.gather(*(one.health() for _ in range(50)))
    looks.append(await one.health())
    assert asked == 1
    assert all(look.ready for look in looks)


@pytest.mark.usefixtures("quick")
async def test_serve_is_never_asked_by_two_threads_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    # Its models put a module on a list of cloudpickle's and take it off again: in two threads, the
    # second to take it off raised ValueError, and GET /healthz answered 500.
    listed: set[str] = set()

    def unsafe() -> SimpleNamespace:
        listed.add("module")
        time.sleep(0.25)  # longer than it is waited for
        listed.remove("module")
        return status(Loss=1)

    monkeypatch.setattr(serve, "status", unsafe)
    monkeypatch.setattr(handle_backend, "HEALTH_TIMEOUT_S", 0.2)
    one = backend(Loss=Deployment())
    for _ in range(3):
        await asyncio.gather(*(one.health() for _ in range(4)))
    monkeypatch.setattr(handle_backend, "HEALTH_TIMEOUT_S", 60.0)
    assert (await one.health()).ready


@pytest.mark.usefixtures("quick")
async def test_a_controller_that_hangs_delays_nobody_for_long_and_takes_one_thread(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    free = threading.Event()

    def hang() -> SimpleNamespace:
        free.wait(60)
        return status(Loss=1)

    monkeypatch.setattr(serve, "status", hang)
    monkeypatch.setattr(handle_backend, "HEALTH_TIMEOUT_S", 0.2)
    one = backend(Loss=Deployment())
    before = threading.active_count()
    try:
        async with asyncio.timeout(30):
            for _ in range(3):
                look = await one.health()
                assert not look.ready
                assert list(look.components) == ["Loss"]
        assert threading.active_count() <= before + 1
    finally:
        free.set()


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(("kept_s", "ready"), [(30.0, True), (0.0, False)])
async def test_what_the_controller_said_last_holds_for_a_while(
    kept_s: float, ready: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(handle_backend, "REPLICAS_KEPT_S", kept_s)
    one = backend(Loss=Deployment())
    monkeypatch.setattr(serve, "status", lambda: status(Loss=2))
    assert (await one.health()).replicas["Loss"].wanted == 3

    def dead() -> None:
        raise RuntimeError("no controller")

    monkeypatch.setattr(serve, "status", dead)
    assert (await one.health()).ready is ready


@pytest.mark.usefixtures("quick")
async def test_a_deployment_that_is_too_busy_to_say_what_it_runs_is_ready(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(serve, "status", lambda: status(Relevance=1, Loss=0))
    busy = Deployment()
    busy.busy = True
    one = backend(Relevance=busy, Loss=Deployment())
    async with asyncio.timeout(30):  # it will say nothing for a minute
        parts = (await one.health()).components
    assert (parts["Relevance"].ready, parts["Relevance"].model) == (True, None)
    assert not parts["Loss"].ready


@pytest.mark.usefixtures("quick")
async def test_after_an_update_names_and_targets_are_the_new_ones(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(serve, "status", lambda: status(Relevance=1, Factuality=1, Loss=1))
    parts = {name: Deployment() for name in ("Relevance", "Factuality", "Loss")}
    one = backend(**parts)
    first = await one.health()
    assert await one.models() == {"relevance": "first", "factuality": "first"}
    parts["Relevance"].model = "second"
    second = await one.health()
    assert second.components["Relevance"].model == "second"
    assert first.targets is not None
    assert second.targets is not None
    assert second.targets["n"] > first.targets["n"]
    assert await one.models() == {"relevance": "second", "factuality": "first"}
    # One that is busy since keeps its name.
    parts["Relevance"].busy = True
    assert (await one.health()).components["Relevance"].model == "second"


async def test_scores_name_what_computed_them_and_not_what_is_asked_afterwards() -> None:
    asked = Deployment("another replica's")
    scores = await backend(Relevance=asked).relevance(["A text."], ["A text."])
    assert (scores.model, scores.device) == ("computed", "gpu")
    assert asked.asked == 1


def question(answer: Callable[[], Awaitable[int | None]]) -> SingleFlight[int]:
    return SingleFlight(answer, 60.0)


async def test_who_leaves_takes_nobodys_answer_along() -> None:
    async def ask() -> int:
        await asyncio.sleep(0.05)
        return 1

    shared = question(ask)
    gone = asyncio.create_task(shared.get())
    stays = asyncio.create_task(shared.get())
    await asyncio.sleep(0.01)
    gone.cancel()
    assert await stays == 1


async def test_no_answer_and_an_error_are_not_kept() -> None:
    answers = iter([None, RuntimeError("no"), 3])

    async def ask() -> int | None:
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    shared = question(ask)
    assert await shared.get() is None
    with pytest.raises(RuntimeError):
        await shared.get()
    assert await shared.get() == await shared.get() == shared.last == 3


def failed(name: str, message: str) -> SimpleNamespace:
    """What Serve says of an application one of whose deployments cannot start."""
    found = status(Loss=1, Readability=1)
    found.applications["plainmed"].deployments[name] = SimpleNamespace(
        replica_states={"STOPPING": 1}, status="DEPLOY_FAILED", message=message
    )
    return found


@pytest.mark.parametrize("serve_says", ["nothing", "that it is not available"])
async def test_a_call_that_needs_a_deployment_which_cannot_start_is_refused_at_once_with_its_kind(
    monkeypatch: pytest.MonkeyPatch, serve_says: str
) -> None:
    message = "File /x.py\nserve_app.core.errors.CheckpointError: /secret/path is no model"
    monkeypatch.setattr(serve, "status", lambda: failed("Relevance", message))
    broken = Deployment()
    broken.busy = True
    if serve_says != "nothing":
        broken.score = SimpleNamespace(remote=unavailable)
    one = backend(Relevance=broken, Readability=Deployment())
    with pytest.raises(Unavailable) as info:
        await asyncio.wait_for(one.relevance(["A cat."], ["A cat."]), 30)
    assert info.value.code == "not_ready"
    assert info.value.message.startswith("Relevance cannot start (CheckpointError)")
    assert "/secret" not in info.value.message
    assert (await one.health()).replicas["Relevance"].failure == info.value.message


async def unavailable(*_: Any) -> Any:
    raise Unavailable("a deployment is not available; try again")


async def test_a_slow_call_is_waited_for_while_its_deployment_runs_or_starts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(serve, "status", lambda: failed("Generator", "RuntimeError: no"))
    monkeypatch.setattr(handle_backend, "HEALTH_FRESH_S", 0.02)
    slow = Deployment()

    async def score(*_: Any) -> Any:
        await asyncio.sleep(0.3)
        return Timed([BertScoreResult(0.5, 0.5, 0.5, False, False)], {}, "computed", "gpu")

    slow.score = SimpleNamespace(remote=score)
    found = await backend(Relevance=slow).relevance(["A cat."], ["A cat."])
    assert found.values == [0.5]


async def test_a_call_that_is_given_up_while_it_waits_is_cancelled(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(serve, "status", lambda: status(Relevance=1))
    ended = asyncio.Event()

    async def score(*_: Any) -> Any:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    waiting = Deployment()
    waiting.score = SimpleNamespace(remote=score)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(backend(Relevance=waiting).relevance(["A."], ["A."]), 0.3)
    assert ended.is_set()
