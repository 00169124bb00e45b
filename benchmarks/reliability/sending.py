"""Sends prepared requests over HTTP at given times and judges every answer.

The client is aiohttp's, whose parser is compiled: on the machine of the server each millisecond of
the client is one that the server lacks. `python -m benchmarks.reliability.sending` is a process of
its own: it reads a `Plan` as JSON and writes what became of every request, and the processor
seconds that sending took.

Clients are elsewhere in truth and have processors of their own. Here they share those of the
server, whose models keep them busy: the sender would wait for a processor for up to seconds and
report that as the server's time. It therefore runs at real-time priority where it may, and reports
how late it was itself.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import sys
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import asdict, dataclass

import aiohttp
import httpx

from tests.chaos.load import Answer, Case, judge

TIMEOUT_S = 180.0
"""A request that has no answer by then is lost."""

REFUSED_PAUSE_S = 0.5
"""Of a closed-loop client after a refusal, which would else ask again at once."""

BEAT_S = 0.02
"""Of the clock by which a sender knows that it was held up."""


@dataclass(frozen=True, slots=True)
class Phase:
    """A stretch of load.

    Attributes:
        seconds: how long.
        rate: requests a second, sent when due whatever comes back; or, 0,
        clients: so many that ask again as soon as they are answered.
    """

    seconds: float
    rate: float = 0.0
    clients: int = 0


@dataclass(frozen=True, slots=True)
class Plan:
    """Phases one after the other, and what is asked in them in turn."""

    url: str
    cases: list[Case]
    phases: list[Phase]


@dataclass(frozen=True, slots=True)
class Sent:
    """What became of it.

    Attributes:
        begun: the phases' beginnings.
        answers: of each phase, times as `Answer` has them; with a rate, `asked` is when it was due.
        cpu_s: processor seconds that the sender took.
        late_s: most that the sender itself came too late to anything.
        real_time: whether it went before what else wanted a processor.
    """

    begun: list[float]
    answers: list[list[Answer]]
    cpu_s: float
    late_s: float
    real_time: bool = False


def go_first() -> bool:
    """Gives this process, and none that it starts, real-time priority.

    It must sleep most of the time: whatever else wants its processor waits for it.

    Returns:
        Whether the system let it.
    """
    try:
        least = os.sched_param(os.sched_get_priority_min(os.SCHED_RR))
        os.sched_setscheduler(0, os.SCHED_RR | os.SCHED_RESET_ON_FORK, least)
    except (AttributeError, OSError):  # no Linux, or no right to it
        return False
    return True


@dataclass(slots=True)
class Lateness:
    """How late an event loop came, at most: `late_s` seconds."""

    late_s: float = 0.0

    @asynccontextmanager
    async def watched(self) -> AsyncIterator[None]:
        """Watches the loop inside the block."""

        async def beat() -> None:
            while True:
                due = time.monotonic() + BEAT_S
                await asyncio.sleep(BEAT_S)
                self.late_s = max(self.late_s, time.monotonic() - due)

        task = asyncio.create_task(beat())
        try:
            yield
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task


async def ask(
    session: aiohttp.ClientSession, url: str, case: Case, body: bytes, asked: float
) -> Answer:
    """One request, judged."""
    try:
        async with session.post(
            url + case.path, data=body, headers={"content-type": "application/json"}
        ) as response:
            content = await response.read()
            answered = time.monotonic()
            known = httpx.Response(response.status, headers=response.headers, content=content)
            outcome, detail = judge(known, case.expected)
    except TimeoutError:
        return Answer("lost", asked, time.monotonic(), "no answer")
    except aiohttp.ClientError as error:
        return Answer("failed", asked, time.monotonic(), type(error).__name__)
    return Answer(outcome, asked, answered, detail)


async def carry_out(plan: Plan) -> Sent:
    """All phases of a plan; a phase does not wait for the answers of the one before."""
    bodies = [json.dumps(case.body).encode() for case in plan.cases]
    begun: list[float] = []
    answers: list[list[Answer]] = [[] for _ in plan.phases]
    waiting: set[asyncio.Task[Answer]] = set()
    lateness = Lateness()
    async with (
        lateness.watched(),
        aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0), timeout=aiohttp.ClientTimeout(TIMEOUT_S)
        ) as session,
    ):

        async def one(into: list[Answer], turn: int, asked: float) -> Answer:
            at = turn % len(bodies)
            answer = await ask(session, plan.url, plan.cases[at], bodies[at], asked)
            into.append(answer)
            return answer

        async def client(end: float, into: list[Answer], turns: Iterator[int]) -> None:
            while time.monotonic() < end:
                answer = await one(into, next(turns), time.monotonic())
                if answer.outcome != "right":
                    await asyncio.sleep(REFUSED_PAUSE_S)

        for phase, into in zip(plan.phases, answers, strict=True):
            origin = time.monotonic()
            begun.append(origin)
            if phase.clients:
                end = origin + phase.seconds
                # All of one row of requests: each client of its own would meet only some of them.
                turns = itertools.count()
                clients = (client(end, into, turns) for _ in range(phase.clients))
                await asyncio.gather(*clients)
                continue
            for turn in range(round(phase.seconds * phase.rate)):
                due = origin + turn / phase.rate
                await asyncio.sleep(max(0.0, due - time.monotonic()))
                task = asyncio.create_task(one(into, turn, due))
                waiting.add(task)
                task.add_done_callback(waiting.discard)
            await asyncio.sleep(max(0.0, origin + phase.seconds - time.monotonic()))
        await asyncio.gather(*waiting)
    return Sent(begun, answers, time.process_time(), lateness.late_s)


async def in_another_process(plan: Plan) -> Sent:
    """`carry_out` in a process of its own, so that it takes no time from who measures.

    Raises:
        RuntimeError: it ended with an error, which is the message.
    """
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "benchmarks.reliability.sending",
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    out, _ = await process.communicate(json.dumps(asdict(plan)).encode())
    if process.returncode:
        raise RuntimeError(f"the sender ended with status {process.returncode}")
    found = json.loads(out)
    answers = [[Answer(*one) for one in phase] for phase in found["answers"]]
    return Sent(**{**found, "answers": answers})


async def known(url: str, requests: Sequence[tuple[str, dict[str, object]]]) -> list[Case]:
    """The requests with what each is answered alone.

    Raises:
        httpx.HTTPStatusError: one was not answered 200.
    """
    found = []
    async with httpx.AsyncClient(base_url=url, timeout=TIMEOUT_S) as http:
        for path, body in requests:
            answer = (await http.post(path, json=body)).raise_for_status()
            found.append(Case(path, body, answer.json()))
    return found


def main() -> None:
    """Carries out the plan on standard input."""
    real_time = go_first()
    given = json.load(sys.stdin)
    plan = Plan(
        given["url"],
        [Case(**case) for case in given["cases"]],
        [Phase(**phase) for phase in given["phases"]],
    )
    sent = asyncio.run(carry_out(plan))
    rows = [
        [[one.outcome, one.asked, one.answered, one.detail] for one in phase]
        for phase in sent.answers
    ]
    json.dump(
        {
            "begun": sent.begun,
            "answers": rows,
            "cpu_s": sent.cpu_s,
            "late_s": sent.late_s,
            "real_time": real_time,
        },
        sys.stdout,
    )


if __name__ == "__main__":
    main()
