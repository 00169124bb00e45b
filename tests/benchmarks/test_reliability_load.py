"""The load of the overload and the soak: sent when due, judged right, read from the processes."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import aiohttp
import psutil
import pytest

from benchmarks import overload
from benchmarks.reliability import fairness, processes
from benchmarks.reliability.fairness import (
    Clients,
    Reply,
    Streamed,
    deadlines_kept,
    quantiles,
    stream_kept,
)
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
from benchmarks.reliability.slow_writer import slow_writer
from benchmarks.reliability.storm import (
    Quantiles,
    Storm,
    Sustained,
    blown,
    busy,
    judged,
    mixed,
    rates,
)
from serve_app.core.settings import Settings, load_settings
from serve_app.generation.loading import load_generator
from serve_app.generation.protocol import GenerationParams
from tests.chaos.load import Answer, Case
from tests.support.backends import Clock
from tests.support.servers import Answer as Scripted
from tests.support.servers import Received, ScriptedServer, api_server
from tests.support.texts import GENERATED, ORIGINALS

BUSY = json.dumps({"error": {"code": "overloaded"}}).encode()
CASES = [Case("/loss", {}, 0.25)]
RIGHT = Scripted(body=b"0.25")


class Together(ScriptedServer):
    """Answers nobody before so many requests have come."""

    def __init__(self, requests: int) -> None:
        super().__init__([RIGHT])
        self._all = threading.Barrier(requests, timeout=60)

    def take(self, request: Received) -> Scripted:
        answer = super().take(request)
        self._all.wait()
        return answer


async def test_at_a_rate_requests_are_sent_when_due_whatever_comes_back() -> None:
    with Together(6) as server:
        sent = await carry_out(Plan(server.url, CASES, [Phase(0.2, rate=20), Phase(0.2, rate=10)]))
    assert {one.outcome for phase in sent.answers for one in phase} == {"right"}
    first, second = sent.begun
    assert second - first >= 0.2
    asked = [sorted(one.asked for one in phase) for phase in sent.answers]
    assert asked == [[first + n / 20 for n in range(4)], [second + n / 10 for n in range(2)]]


async def test_busy_clients_wait_for_each_answer_and_the_sender_is_another_process() -> None:
    with ScriptedServer([dataclasses.replace(RIGHT, delay=0.4)]) as server:
        sent = await in_another_process(Plan(server.url, CASES, [Phase(0.5, clients=2)]))
    assert 2 <= len(sent.answers[0]) <= 4
    assert sent.cpu_s > 0
    assert 0 < sent.late_s < 60


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


def test_a_rate_does_not_depend_on_where_batches_end() -> None:
    # Forty answers every eight seconds: five a second, though a window may hold three or four.
    came = [8.0 * batch for batch in range(30) for _ in range(40)]
    found = rates(came, 20.0, 140.0)
    assert len(found) == 91
    assert all(4.7 < rate < 5.3 for rate in found)
    assert rates(came, 20.0, 140.0, 120.0) == [pytest.approx(5.0, rel=0.02)]


def test_a_window_in_which_little_came_is_found() -> None:
    steady = [at / 5 for at in range(5 * 150)]
    gap = [at for at in steady if not 60 <= at < 75]
    assert min(rates(steady, 20.0, 140.0)) == pytest.approx(5.0, rel=0.02)
    assert min(rates(gap, 20.0, 140.0)) == pytest.approx(2.5, rel=0.03)


def test_busy_clients_are_judged_by_how_many_they_are() -> None:
    def phase(begun: float, rate: float) -> list[Answer]:
        return [Answer("right", begun, begun + n / rate) for n in range(1, int(40 * rate) + 1)]

    sent = Sent([0, 5, 50, 55], [[], phase(5, 4), phase(50, 6)[:30], phase(55, 6)], 1.0, 0.0)
    found = busy(sent, (8, 32), 40.0)
    assert found.rates == {8: pytest.approx(4.0), 32: pytest.approx(6.0)}
    assert found.rate == pytest.approx(6.0)
    assert found.best == pytest.approx(6.0, rel=0.03)
    sent.answers[0].append(Answer("refused", 0.0, 0.1))
    with pytest.raises(RuntimeError, match="refused"):
        busy(sent, (8, 32), 40.0)


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
        (at, {"Loss": Usage(rss_mib=mib, cpu_s=at / 4), "HTTP proxy": Usage(rss_mib=30.0)})
        for at, mib in ((5.0, 70.0), (20.0, 90.0), (41.0, 95.0), (60.0, 100.0), (75.0, 300.0))
    ]
    found = judged(Sustained({8: 0.9, 32: 0.8}, 1.2), 60.0, sent, readings, 130.0)
    assert found.sustained == {8: 0.9, 32: 0.8}
    assert found.offered == pytest.approx(101 / 60)
    # One a second until 60, each counting over the ten seconds before it, and then one at 75:
    # 36 of them from 20 to 70, and half as many as could be from 40 to 70.
    assert found.accepted == pytest.approx(36 / 50, abs=0.01)
    assert found.slowest == pytest.approx(16 / 30, abs=0.02)
    assert found.peak == 1.2
    assert found.best == pytest.approx(1.0, abs=0.02)
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


def missed(rows: list[overload.Row]) -> list[str]:
    return [what for what, _, _, good in rows if good is False]


def calm_storm(**changes: Any) -> Storm:
    """A storm in which all is well, but for the changes."""
    quick, slow = Quantiles(0.01, 0.02, 0.1), Quantiles(0.4, 0.7, 0.8)
    good = Storm(
        sustained={8: 4.5, 32: 5.8}, offered=58.0, accepted=5.7, slowest=5.5, peak=5.9,
        best=6.1, counts={"right": 700, "wrong": 0, "refused": 6000, "failed": 0, "lost": 0},
        refused=quick, answered=slow, before=slow, after=slow, back_s=4.0,
        memory=[(-30.0, 3900.0), (30.0, 4100.0), (60.0, 4120.0), (120.0, 4130.0)], grown={},
        sender_cores=0.1, sender_late_s=0.0, sender_first=True, cores={}, details=[],
    )  # fmt: skip
    return dataclasses.replace(good, **changes)


@pytest.mark.parametrize(
    ("changes", "row"),
    [
        ({}, None),
        ({"accepted": 5.2}, "accepted: right answers a second in the overload"),
        ({"slowest": 5.2}, "accepted in its slowest 30 s"),
        ({"offered": 45.0}, "offered in the overload, requests a second"),
        (
            {"memory": [(0.0, 3900.0), (31.0, 4100.0), (90.0, 4170.0), (180.0, 4100.0)]},
            "resident memory of all processes: before, after 30 s, most since then, at the end",
        ),
        (
            {"counts": {"right": 1, "wrong": 0, "refused": 1, "failed": 1, "lost": 0}},
            "neither right nor refused (wrong, failed, lost)",
        ),
    ],
    ids=["well", "less than the peak", "a slow stretch", "too little", "memory meanwhile", "lost"],
)
def test_each_row_of_a_storm_can_fail(changes: dict[str, Any], row: str | None) -> None:
    assert missed(overload.storm_rows(calm_storm(**changes), Settings())) == [row] * bool(row)


def test_a_gust_is_judged_by_its_answers() -> None:
    steady = [Answer("right", at / 4, at / 4 + 1.0) for at in range(4 * 45)]
    refused = [Answer("refused", at / 10, at / 10 + 0.02) for at in range(360)]
    good = blown(4.0, 45.0, Sent([0.0], [[*steady, *refused]], 1.0, 0.0))
    assert good.accepted == pytest.approx(4.0, rel=0.02)
    assert good.offered == pytest.approx(12.0)
    assert missed(overload.gust_rows("x", dataclasses.replace(good, offered=40.0))) == []
    # Too little was offered, it broke down in the middle, was slow to refuse, and lost one.
    broken = [one for one in steady if not 12 < one.asked < 20]
    slow = [Answer("refused", 1.0, 1.3), Answer("lost", 1.0, 9.0, "no answer")]
    bad = blown(4.0, 45.0, Sent([0.0], [[*broken, *slow]], 1.0, 0.0))
    assert len(missed(overload.gust_rows("x", bad))) == 3
    assert bad.details == ["lost: no answer"]


def test_the_requests_of_a_mixed_gust_are_of_every_kind() -> None:
    asked = mixed([("An original.", "A summary."), ("Another.", "Its summary.")])
    kinds = ["/loss", "/evaluate", "/metrics/factuality", "/generate"]
    assert [path for path, _ in asked] == kinds * 2
    assert asked[-1][1] == {"text": "Another."}


@pytest.mark.parametrize(
    ("answers", "kept"),
    [
        ([Reply(1.02, 503, "timeout"), Reply(1.3, 503, "timeout")], True),
        ([Reply(0.08, 503, "overloaded")], False),
        ([Reply(1.02, 503, "timeout"), Reply(1.1, 503, "overloaded")], False),
        ([Reply(0.5, 503, "timeout")], False),
        ([Reply(2.0, 503, "timeout")], False),
        ([Reply(1.0, 200)], False),
        ([], False),
    ],
    ids=["kept", "refused", "one refused", "too early", "too late", "answered", "none"],
)
def test_a_deadline_is_kept_by_what_it_ended_itself(answers: list[Reply], kept: bool) -> None:
    assert deadlines_kept(answers, 1.0) is kept


@pytest.mark.parametrize(
    ("answer", "kept"),
    [
        (Streamed(1.05, 4, "error", "timeout"), True),
        (Streamed(1.05, 0, "error", "timeout"), False),
        (Streamed(1.05, 4, "error", "internal_error"), False),
        (Streamed(1.05, 0, "", "timeout"), False),
        (Streamed(9.0, 40, "error", "timeout"), False),
        (Streamed(1.0, 4, "done", ""), False),
    ],
    ids=["kept", "not begun", "another error", "no stream", "too late", "done"],
)
def test_a_stream_is_ended_by_its_deadline_after_it_has_begun(answer: Streamed, kept: bool) -> None:
    assert stream_kept(answer, 1.0) is kept
    assert overload.stream_row(answer)[3] is kept


async def test_a_stream_is_read_to_its_last_event() -> None:
    events = [b'data: {"text": "One."}\n\n', b'data: {"text": " Two."}\n\n']
    error = b'event: error\ndata: {"error": {"code": "timeout", "message": "late"}}\n\n'
    refused = json.dumps({"error": {"code": "overloaded"}}).encode()
    with ScriptedServer([Scripted(chunks=(*events, error)), Scripted(503, refused)]) as server:
        clients = Clients(server.url, 0)
        late, none = [await clients.streamed("/generate", {"text": "A."}) for _ in range(2)]
    assert (late.pieces, late.last, late.code) == (2, "error", "timeout")
    assert (none.pieces, none.last, none.code) == (0, "", "overloaded")


async def test_an_answer_that_is_no_answer_is_no_time() -> None:
    with ScriptedServer([Scripted(503, BUSY)]) as server:
        [reply] = await Clients(server.url, 0).one_by_one("/loss", [{}], 0.0)
    assert (reply.status, reply.code) == (503, "overloaded")
    with pytest.raises(RuntimeError, match="overloaded"):
        quantiles([Reply(0.1, 200), reply])


def test_the_slow_writer_is_a_model_that_the_engine_can_use() -> None:
    with slow_writer() as url:
        settings = load_settings(generator="openai", openai_base_url=url, openai_model="slow")
        engine = load_generator(settings)
        [summary] = engine.generate(["A trial."], [GenerationParams()])
        assert summary.text == "It was slow."
        began = time.monotonic()
        pieces = engine.stream("A trial.", GenerationParams())
        assert [next(pieces), next(pieces)] == ["slow", " slow"]
        assert 0.1 < time.monotonic() - began < 20  # all of it takes 30 s
        pieces.close()


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

        deadline = time.monotonic() + 60
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
            assert time.monotonic() < deadline + 60
            await asyncio.sleep(0.02)
    finally:
        child.kill()
        child.wait()
    assert processes.usage(processes.family(child.pid)) == {}


@pytest.mark.parametrize(
    ("used_s", "idle"),
    [
        # A core for 1.5 s, then 0.02 s twice a second, as health checks do.
        (lambda passed: min(passed, 1.5) + 0.02 * (max(0.0, passed - 1.5) // 0.5), 1.5),
        (lambda passed: passed / 3, float("inf")),
    ],
    ids=["their work ended", "they go on"],
)
async def test_replicas_are_idle_when_their_work_ended_not_when_nothing_ever_ticks(
    monkeypatch: pytest.MonkeyPatch, used_s: Callable[[float], float], idle: float
) -> None:
    clock = Clock()
    began = clock.now

    async def sleep(seconds: float) -> None:
        clock.move(seconds)

    monkeypatch.setattr(fairness, "time", SimpleNamespace(monotonic=clock))
    monkeypatch.setattr(fairness, "asyncio", SimpleNamespace(sleep=sleep))
    monkeypatch.setattr(processes, "cpu_s", lambda _: used_s(clock.now - began))
    assert await Clients("", 0).until_idle([]) == idle
