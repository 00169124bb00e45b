"""The load of the chaos runs tells right from wrong, refused, failed and lost answers."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import psutil
import pytest
import uvicorn
import yaml
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from tests.chaos import __main__ as chaos
from tests.chaos import faults, shutdown
from tests.chaos import load as loads
from tests.chaos import stage as stages
from tests.chaos.load import Case, Load, due, in_background, same
from tests.chaos.patience import PatientClient
from tests.chaos.stage import ROOT, Stage
from tests.chaos.updates import either, unchanged
from tests.support.backends import Clock
from tests.support.servers import Answer, ScriptedServer, wait_for

RELEASED = threading.Event()
"""Set, what waits on `/lost` is answered."""


async def answer(request: Request) -> Response:
    kind = request.path_params["kind"]
    while kind == "lost" and not (RELEASED.is_set() or await request.is_disconnected()):
        await asyncio.sleep(0.01)
    if kind == "failed":
        return JSONResponse({"error": {"code": "internal_error"}}, 500)
    if kind == "unexplained":  # a 503 that does not say when to come back
        return JSONResponse({"error": {"code": "overloaded"}}, 503)
    if kind == "plain":
        return Response("busy", 503, {"retry-after": "1"})
    if kind == "refused":
        return JSONResponse({"error": {"code": "overloaded"}}, 503, {"retry-after": "1"})
    return JSONResponse({"loss": 0.25 if kind == "right" else 0.26})


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    app = Starlette(routes=[Route("/{kind}", answer, methods=["POST"])])
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="error"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    wait_for(lambda: server.started)
    port = server.servers[0].sockets[0].getsockname()[1]
    yield f"http://127.0.0.1:{port}"
    server.should_exit = True
    thread.join(10)


@pytest.fixture
def released() -> Iterator[threading.Event]:
    yield RELEASED
    RELEASED.clear()


@pytest.mark.parametrize(
    ("path", "outcome"),
    [
        ("/right", "right"),
        ("/wrong", "wrong"),
        ("/refused", "refused"),
        ("/unexplained", "failed"),
        ("/plain", "failed"),
        ("/failed", "failed"),
        ("/lost", "lost"),
    ],
)
def test_an_answer_is_what_it_is(url: str, path: str, outcome: str) -> None:
    timeout_s = 0.3 if outcome == "lost" else 60.0
    case = Case(path, {}, {"loss": 0.25})
    with Load(url, [case], clients=2, rate=20, timeout_s=timeout_s) as load:
        wait_for(lambda: len(load.answers) >= 3)
    assert {one.outcome for one in load.answers} == {outcome}


def test_a_server_that_is_not_there_is_a_failure() -> None:
    with Load("http://127.0.0.1:9", [Case("/x", {}, 1)], clients=1, rate=50) as load:
        wait_for(lambda: len(load.answers) >= 2)
    assert load.counts() == {"failed": len(load.answers)}


def test_the_pace_is_even_over_all_clients(url: str) -> None:
    start = time.monotonic()
    with Load(url, [Case("/right", {}, {"loss": 0.25})], clients=4, rate=40) as load:
        wait_for(lambda: len(load.answers) >= 20)
    assert time.monotonic() - start > 0.45  # 20 requests at 40 a second


def test_a_patient_client_repeats_and_tells_what_it_met_with() -> None:
    answers = [
        Answer(500, b"Internal Server Error"),
        Answer(hang_up=True),
        Answer(body=b'{"relevance": [0.5], "model": "another"}'),
        Answer(body=b'{"relevance": [0.6], "model": "one"}'),
    ]
    known = Case("/metrics/relevance", {}, {"relevance": [0.5], "model": "one"})

    async def ask(url: str) -> list[tuple[str, tuple[str, ...]]]:
        async with PatientClient(url, 60.0) as client:
            client._backoff = 0.01
            first, second = [await client.ask(known) for _ in range(2)]
        return [(first.outcome, first.seen), (second.outcome, second.seen)]

    with ScriptedServer(answers) as server:
        first, second = asyncio.run(ask(server.url))
    assert first == ("right", ("500 http_error", "connection"))
    assert second == ("wrong", ())


def test_a_patient_client_that_gives_up_says_what_it_was_told() -> None:
    busy = Answer(503, b'{"error": {"code": "unavailable", "message": "no", "field": null}}')

    async def ask(url: str) -> str:
        async with PatientClient(url, 60.0) as client:
            client._backoff = 0.01
            return (await client.ask(Case("/loss", {}, 0.5))).outcome

    with ScriptedServer([busy]) as server:
        assert asyncio.run(ask(server.url)) == "failed"  # it names no time to come back
    busy.headers["Retry-After"] = "0"
    with ScriptedServer([busy]) as server:
        assert asyncio.run(ask(server.url)) == "refused"


def test_numbers_are_compared_with_a_tolerance_and_everything_else_exactly() -> None:
    assert same({"a": [1, 2.00001]}, {"a": [1.0, 2.0]})
    assert not same({"a": 1.0, "b": None}, {"a": 1.0})
    assert not same([None], [0.0])
    assert not same("1", 1)


class Broken(loads.OnceClient):
    """Fails in itself, as no server can make it fail."""

    async def ask(self, case: Case) -> loads.Answer:
        await asyncio.sleep(0.01)
        raise ZeroDivisionError("the client is broken")


def test_a_load_that_breaks_says_so_where_it_is_left(url: str) -> None:
    def broken() -> Load:
        return Load(url, [Case("/right", {}, {"loss": 0.25})], client=Broken, clients=2, rate=50)

    with pytest.raises(ZeroDivisionError, match="broken"), broken() as load:
        wait_for(lambda: load.sent > 0)
    with pytest.raises(KeyError), broken():  # what the block raised comes first
        raise KeyError


def test_a_load_knows_how_many_requests_it_had_to_send(url: str) -> None:
    began = time.monotonic()
    with Load(url, [Case("/right", {}, {"loss": 0.25})], clients=4, rate=40) as load:
        wait_for(lambda: load.sent >= 12)
    assert 0.27 < load.seconds <= time.monotonic() - began
    load.seconds = load.sent / 40  # a busy machine takes longer
    assert load.missing() == []
    assert load.sent == len(load.answers)
    load.seconds = 10.0
    [said] = load.missing()
    assert re.fullmatch(rf"{load.sent} requests were sent; \d+ to 404 were due", said)
    load.seconds = load.sent / 40
    lost = load.answers.pop()
    assert load.missing() == [f"{load.sent - 1} outcomes of {load.sent} requests"]
    assert lost.case in range(1)


def test_waiting_clients_owe_nothing() -> None:
    # Sixteen clients that wait for a minute are done with one request each.
    least, most = due(16, 4.0, 60.0, 16 * 60.0)
    assert least == 1
    assert most == 256
    assert due(16, 4.0, 60.0, 0.0)[0] == pytest.approx(0.9 * 240 - 16)
    assert due(8, float("inf"), 60.0, 100.0) == (1.0, float("inf"))


def test_requests_that_wait_are_seen_to(url: str, released: threading.Event) -> None:
    with Load(url, [Case("/lost", {}, 1)], clients=2, rate=20, timeout_s=600.0) as load:
        wait_for(lambda: load.waiting(0.2) == 2)
        assert load.waiting(600.0) == 0
        load.stop()  # and does not wait for them
        assert load.waiting(0.0) == 2
        released.set()
    assert load.waiting(0.0) == 0
    assert load.slowest_s() >= 0.2


def test_one_request_goes_on_in_the_background(url: str, released: threading.Event) -> None:
    asked = in_background(url, Case("/lost", {}, 1), 600.0)
    assert not asked.done()
    released.set()
    assert asked.result(60).outcome == "wrong"


OLD = [Case("/loss", {}, [0.25, 0.5]), Case("/generate", {}, {"summary": "A.", "model": "old"})]
NEW = [Case("/loss", {}, [0.35, 0.6]), Case("/generate", {}, {"summary": "A.", "model": "new"})]


@pytest.mark.parametrize(
    ("got", "asked", "outcome"),
    [
        ([0.25, 0.5], 1.0, "right"),
        ([0.35, 0.6], 1.0, "right"),
        ([0.25, 0.6], 1.0, "wrong"),
        ([0.25, 0.5], 11.0, "wrong"),
        ([0.35, 0.6], 11.0, "right"),
    ],
    ids=["the old one", "the new one", "half of each", "the old one, too late", "the new one then"],
)
def test_an_answer_of_an_update_is_wholly_old_or_wholly_new(
    got: Any, asked: float, outcome: str
) -> None:
    first: loads.Outcome = "right" if same(got, OLD[0].expected) else "wrong"
    [found] = either([loads.Answer(first, asked, asked + 1, got=got)], OLD, NEW, 10.0)
    assert found.outcome == outcome
    lost = loads.Answer("lost", asked, asked + 1)
    assert either([lost], OLD, NEW, 10.0) == [lost]


def test_an_answer_that_an_update_leaves_alone_is_right_after_it_too() -> None:
    answer = loads.Answer("right", 11.0, 12.0, case=1, got={"summary": "A."})
    assert either([answer], OLD, NEW, 10.0)[0].outcome == "right"
    assert unchanged(OLD, NEW, "/loss") == 0
    assert unchanged(OLD, OLD, "/loss") == 1


def test_a_patient_client_keeps_what_may_be_judged_again() -> None:
    async def ask(url: str) -> Any:
        async with PatientClient(url, 10.0) as client:
            return await client.ask(Case("/loss", {}, [0.1]))

    with ScriptedServer([Answer(body=b'{"summary": "A.", "model": "new"}')]) as server:
        answer = asyncio.run(ask(server.url))
    assert (answer.outcome, answer.got) == ("wrong", {"summary": "A."})


def test_a_row_is_good_if_all_was_answered_and_the_fault_met_with_work() -> None:
    def row(right: int = 9, lost: int = 0, **rest: Any) -> chaos.Row:
        counts = {"right": right, "wrong": 0, "refused": 0, "failed": 0, "lost": lost}
        return chaos.Row("a fault", counts, {}, 1.0, 9.0, [], **rest)

    assert row().good
    assert row(held=2).good
    assert not row(held=0).good
    assert not row(0).good
    assert not row(lost=1).good
    assert not row(problems=["7 outcomes of 9 requests"]).good
    assert "| a fault | 2 | 9 | 0 |" in chaos.table([row(held=2)])
    assert "| a fault |  | 9 | 0 |" in chaos.table([row()])


def test_a_long_request_must_be_answered_by_a_replica_that_had_to_wait_for_it() -> None:
    right = loads.Answer("right", 0.0, 90.0)
    assert chaos.long_problems(right, 45.0) == []
    assert chaos.long_problems(right, 12.0) == [
        "no replica had to stop for longer than 30 s: 12.0 s"
    ]
    cut = loads.Answer("failed", 0.0, 33.0, "500")
    assert chaos.long_problems(cut, 31.0) == ["the long request: failed 500"]


def test_how_long_replicas_take_to_stop_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    stage, clock = Stage(None, None, {}, "", Path(), 0), Clock()
    monkeypatch.setattr(stages, "time", SimpleNamespace(monotonic=clock))
    for states in ({"RUNNING": 2}, {"RUNNING": 1, "STOPPING": 1}, {"STOPPING": 2}):
        stage._see({"Loss": states})
        clock.move(2.0)
    stage._see({"Loss": {"RUNNING": 2}})
    assert stage.drained["Loss"] == 2.0
    stage._see({"Loss": {"STOPPING": 1}})  # another one, from now on
    assert stage.drained["Loss"] == 2.0


@pytest.mark.parametrize("waits", [True, False])
def test_a_process_is_held_until_a_request_waits_in_it(
    monkeypatch: pytest.MonkeyPatch, waits: bool
) -> None:
    class Watched:
        """A load in which a request waits while the process is stopped, or never."""

        def slowest_s(self) -> float:
            return 0.01

        def waiting(self, longer_s: float) -> int:
            assert longer_s == 0.05
            return int(waits and psutil.Process(child.pid).status() == psutil.STATUS_STOPPED)

    monkeypatch.setattr(faults, "FULL_S", 0.05)
    monkeypatch.setattr(faults, "HELD_AT_MOST_S", 60.0)
    if not waits:
        clock = Clock()
        passing = SimpleNamespace(monotonic=clock, sleep=clock.move)
        monkeypatch.setattr(faults, "time", passing)
    tries = []

    def find() -> list[int]:
        tries.append(child.pid)
        return [child.pid]

    stage = Stage(None, None, {}, "", Path(), 0, load=cast(Load, Watched()))
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]) as child:
        try:
            assert faults.hold(stage, find) == [child.pid]
            held = psutil.Process(child.pid)
            wait_for(lambda: held.status() == psutil.STATUS_STOPPED)
        finally:
            child.kill()
    assert stage.held == int(waits)
    assert len(tries) == (1 if waits else faults.STRIKES)


def test_what_a_fault_strikes_must_have_work_in_it_and_the_generator_is_struck() -> None:
    inside = {fault.name for fault in faults.FAULTS if fault.inside}
    struck = {
        f.name for f in faults.FAULTS if f.name.startswith(("`kill -9`", "a Gen", "a Fac", "a Gat"))
    }
    assert struck - inside == {"`kill -9` of the Serve controller"}  # no request goes through it
    assert {name for name in inside if "Generator" in name} == {
        "`kill -9` of a Generator replica",
        f"a Generator replica that hangs (SIGSTOP, {faults.HANGS_S:.0f} s)",
    }


def shut_down(answers: list[loads.Answer], **rest: Any) -> shutdown.Row:
    """A row of a shutdown that was told at 10 and over at 60."""
    load = Load("", [Case("/loss", {}, 1)], clients=1, rate=1.0)
    load.answers, load.sent, load.seconds = answers, len(answers), 1.0
    return shutdown.judged("a hook", load, 10.0, 60.0, **rest)


def test_what_was_sent_before_a_hook_had_ended_must_be_answered_before_that() -> None:
    early = loads.Answer("right", 9.0, 30.0)
    between = loads.Answer("right", 15.0, 59.0)
    later = [loads.Answer("failed", 61.0, 61.1), loads.Answer("refused", 62.0, 62.1)]
    good = shut_down([early, between], until=60.0, later=later)
    assert good.good
    assert (good.under_way, good.answered, good.refused, good.closed) == (2, 2, 1, 1)
    assert (good.last_s, good.gone_s) == (49.0, 50.0)
    cut = loads.Answer("failed", 15.0, 60.1)
    assert not shut_down([early, cut], until=60.0).good
    outlived = loads.Answer("right", 15.0, 61.0)  # right, but the hook did not wait for it
    assert not shut_down([early, outlived], until=60.0).good
    assert not shut_down([], until=60.0).good
    # Told by a signal, what comes later may be refused.
    assert shut_down([early, loads.Answer("refused", 15.0, 15.1)]).good
    assert shut_down([cut, loads.Answer("failed", 9.0, 12.0)], wanted=False).good


def test_a_hook_that_ends_at_once_does_not_pass() -> None:
    cut = [loads.Answer("failed", 9.0 + n / 10, 60.0 - 49.9) for n in range(4)]
    load = Load("", [Case("/loss", {}, 1)], clients=1, rate=1.0)
    load.answers, load.sent, load.seconds = cut, len(cut), 2.0
    row = shutdown.judged("a hook", load, 10.0, 10.02, until=10.02)
    assert (row.under_way, row.answered, row.good) == (4, 0, False)


def test_the_charts_hook_is_changed_for_one_machine_or_not_run() -> None:
    [pods] = [
        document["spec"]["rayClusterConfig"]["workerGroupSpecs"]
        for document in yaml.safe_load_all((ROOT / "k8s" / "metrics.yaml").read_text())
        if document["kind"] == "RayService"
    ]
    hook = pods[0]["template"]["spec"]["containers"][0]["lifecycle"]["preStop"]
    script = shutdown.here(hook["exec"]["command"][-1], 9)
    assert "sleep 10\n" in script
    assert "8080" not in script
    with pytest.raises(RuntimeError, match="8080"):
        shutdown.here("sleep 60\n", 9)
