"""The load of the overload and the soak: sent when due, judged right, read from the processes."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time

import aiohttp
import psutil
import pytest

from benchmarks.reliability import fairness, processes
from benchmarks.reliability.fairness import Clients
from benchmarks.reliability.mix import Mix, requests
from benchmarks.reliability.processes import Usage
from benchmarks.reliability.sending import (
    Lateness,
    Phase,
    Plan,
    Sent,
    carry_out,
    in_another_process,
)
from benchmarks.reliability.storm import judged
from tests.chaos.load import Answer, Case
from tests.servers import Answer as Scripted
from tests.servers import ScriptedServer, api_server
from tests.texts import GENERATED, ORIGINALS

BUSY = json.dumps({"error": {"code": "overloaded"}}).encode()
CASES = [Case("/loss", {}, 0.25)]
RIGHT = Scripted(body=b"0.25", delay=0.4)


async def test_at_a_rate_requests_are_sent_when_due_whatever_comes_back() -> None:
    with ScriptedServer([RIGHT]) as server:
        plan = Plan(server.url, CASES, [Phase(0.5, rate=20), Phase(0.5, rate=4)])
        start = time.monotonic()
        sent = await carry_out(plan)
        assert time.monotonic() - start < 4  # one after the other they would take 4.8 s
    assert [len(phase) for phase in sent.answers] == [10, 2]
    assert {one.outcome for phase in sent.answers for one in phase} == {"right"}
    assert all(one.answered - one.asked >= 0.4 for phase in sent.answers for one in phase)
    assert sent.begun[1] - sent.begun[0] >= 0.5


async def test_busy_clients_wait_for_each_answer_and_the_sender_is_another_process() -> None:
    with ScriptedServer([RIGHT]) as server:
        sent = await in_another_process(Plan(server.url, CASES, [Phase(1.0, clients=2)]))
    assert 2 <= len(sent.answers[0]) <= 6
    assert sent.cpu_s > 0
    assert 0 < sent.late_s < 5


async def test_a_sender_that_was_held_up_says_so_itself() -> None:
    lateness = Lateness()
    async with lateness.watched():
        await asyncio.sleep(0.05)
        time.sleep(0.3)
        await asyncio.sleep(0.05)
    assert lateness.late_s >= 0.25


def test_the_sender_goes_first_where_it_may_and_says_where_it_may_not() -> None:
    program = """
import os, subprocess, sys
from benchmarks.reliability.sending import go_first

def refused(*_):
    raise PermissionError

def first(pid):
    return os.sched_getscheduler(pid) & ~os.SCHED_RESET_ON_FORK == os.SCHED_RR

print(go_first(), first(0))
child = subprocess.Popen(["sleep", "60"])
print(first(child.pid))
child.kill()
os.sched_setscheduler = refused
print(go_first())
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    said, *others = done.stdout.decode().splitlines()
    assert said in ("True True", "False False")
    assert others == ["False", "False"]


@pytest.mark.parametrize(
    ("answer", "outcome"),
    [
        (Scripted(503, BUSY, {"retry-after": "2"}), "refused"),
        (Scripted(503, BUSY), "failed"),
        (Scripted(body=b"0.26"), "wrong"),
        (Scripted(hang_up=True), "failed"),
    ],
    ids=["refused", "without Retry-After", "another number", "hung up"],
)
async def test_what_is_not_right_is_called_by_its_name(answer: Scripted, outcome: str) -> None:
    with ScriptedServer([answer]) as server:
        sent = await carry_out(Plan(server.url, CASES, [Phase(0.2, rate=10)]))
    assert {one.outcome for one in sent.answers[0]} == {outcome}


def test_a_storm_is_judged_by_its_answers() -> None:
    before = [Answer("right", at, at + 0.2) for at in (0.0, 1.0, 2.0)]
    during = [
        *(Answer("right", 10.0, 10.0 + n) for n in range(1, 51)),
        *(Answer("refused", 20.0 + n, 20.02 + n) for n in range(50)),
        Answer("lost", 11.0, 191.0, "no answer"),
    ]
    after = [
        Answer("right", 71.0, 75.0),  # still slow five seconds after the end
        *(Answer("right", 80.0 + n, 80.2 + n) for n in range(10)),
    ]
    sent = Sent([0.0, 10.0, 70.0], [before, during, after], 13.0, 0.03, True)
    readings = [
        (at, {"Loss": Usage(own_mib=mib, cpu_s=at / 4), "HTTP proxy": Usage(own_mib=30.0)})
        for at, mib in ((5.0, 70.0), (20.0, 90.0), (41.0, 95.0), (60.0, 100.0), (75.0, 300.0))
    ]
    found = judged(0.9, 60.0, sent, readings, 130.0)
    assert found.accepted == pytest.approx(50 / 60)
    assert found.offered == pytest.approx(101 / 60)
    assert found.counts == {"right": 50, "wrong": 0, "refused": 50, "failed": 0, "lost": 1}
    assert found.refused.p99 == pytest.approx(0.02)
    assert found.answered.most == 50.0
    assert found.back_s == 5.0
    assert found.memory == [(-5, 100), (10, 120), (31, 125), (50, 130), (65, 330)]
    assert found.grown == {"Loss": 205.0, "HTTP proxy": 0.0}
    assert found.cores == {"Loss": 0.25, "HTTP proxy": 0.0}
    assert found.sender_cores == pytest.approx(0.1)
    assert found.sender_late_s == 0.03
    assert found.sender_first
    assert found.details == ["lost: no answer"]


async def test_the_mix_knows_what_each_request_must_be_answered() -> None:
    pairs = list(zip(ORIGINALS, GENERATED, strict=True))
    asked = requests([*pairs, *pairs])
    assert {one.status for one in asked} == {200, 400, 404, 413, 422, 503}
    with api_server() as url:
        mix = Mix(url, asked)
        async with aiohttp.ClientSession() as session:
            await mix.learn(session)
            for _ in asked:
                await mix.next(session)
            # This server answers at once, so nothing is ever late.
            assert {what.split(":")[0] for what in mix.unexpected} == {
                "in a hurry (X-Request-Timeout)"
            }
            asked[0].expected = 2.0
            await mix.next(session)
        assert mix.unexpected["/loss: another answer"] == 1


@pytest.mark.parametrize(
    ("command", "kind"),
    [
        ("ray::ServeReplica:plainmed:Factuality", "Factuality"),
        ("ray::ServeReplica:plainmed:Loss.handle_request", "Loss"),
        ("ray::ProxyActor", "HTTP proxy"),
        ("ray::ServeController.listen_for_change", "Serve controller"),
        ("ray::IDLE", "other Ray actors and workers"),
        ("/x/ray/core/src/ray/gcs/gcs_server --log_dir=/raylet/raylet", "Ray GCS"),
        ("/x/raylet --python_worker_command=ray::IDLE", "raylet"),
        ("/x/python -u /x/ray/dashboard/agent.py", processes.AGENTS),
        ("/x/python /x/bin/plainmed serve serve_config.yaml", "plainmed serve"),
    ],
)
def test_a_process_is_what_its_title_says(command: str, kind: str) -> None:
    assert processes.kind(command) == kind


async def test_memory_files_and_time_are_those_of_the_process() -> None:
    code = (
        "import os, sys; kept = os.urandom(1 << 26); sys.stdin.read(1); sum(range(10**7)); input()"
    )
    child = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE)
    try:
        assert child.stdin is not None

        async def own_mib() -> float:
            used = processes.usage(processes.family(child.pid))
            return sum(one.own_mib for one in used.values())

        deadline = time.monotonic() + 10
        while await own_mib() < 64:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.02)
        [used] = processes.usage(processes.family(child.pid)).values()
        assert (used.processes, used.actors) == (1, 0)
        assert used.files >= 3
        before = processes.cpu_s([psutil.Process(child.pid)])
        child.stdin.write(b"g")
        child.stdin.flush()
        while processes.cpu_s([psutil.Process(child.pid)]) - before < 0.1:
            assert time.monotonic() < deadline + 10
            await asyncio.sleep(0.02)
    finally:
        child.kill()
        child.wait()
    assert processes.usage(processes.family(child.pid)) == {}


async def test_replicas_are_idle_when_their_work_ended_not_when_nothing_ever_ticks() -> None:
    program = """
import time
began = time.monotonic()
while time.monotonic() - began < 1.5:
    pass
while True:  # as health checks do
    time.sleep(0.5)
    until = time.process_time() + 0.02
    while time.process_time() < until:
        pass
"""
    with subprocess.Popen([sys.executable, "-c", program]) as process:
        try:
            idle = await Clients("", 0).until_idle([psutil.Process(process.pid)])
        finally:
            process.kill()
    assert 0.9 < idle < 10


async def test_replicas_that_go_on_are_never_idle(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fairness, "LIMIT_S", 3.0)
    program = "while True: pass"
    with subprocess.Popen([sys.executable, "-c", program]) as process:
        try:
            idle = await Clients("", 0).until_idle([psutil.Process(process.pid)])
        finally:
            process.kill()
    assert idle == float("inf")
