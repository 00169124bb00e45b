"""Ten times the load a server can take, and what its clients see of it.

Finds the rate that a few busy clients get, then sends load in four phases: normal, ten times that
rate, normal again. Knows answers and times; the processes of the server are read by others.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks import serving
from benchmarks.reliability import processes
from benchmarks.reliability.processes import Usage
from benchmarks.reliability.sending import Phase, Plan, Sent, in_another_process, known
from benchmarks.texts import Texts
from tests.chaos.load import OUTCOMES, Answer, Case

CLIENTS, TIMES, NORMAL = 8, 10.0, 0.5
CASES = 48
SUSTAINED_S, WARM_S, AFTER_S, SAMPLE_S = 30.0, 5.0, 60.0, 10.0
EARLY_S = 30.0
"""Of an overload: buffers and caches have the size that it needs by then."""

Reading = tuple[float, dict[str, Usage]]


@dataclass(frozen=True, slots=True)
class Quantiles:
    """Of times, in seconds."""

    p50: float
    p99: float
    most: float

    @classmethod
    def of(cls, seconds: Sequence[float]) -> Quantiles:
        """Of these; NaN where there are none."""
        if not seconds:
            return cls(*[float("nan")] * 3)
        p50, p99 = np.percentile(seconds, [50, 99])
        return cls(float(p50), float(p99), max(seconds))


@dataclass(frozen=True, slots=True)
class Storm:
    """What came of it.

    Attributes:
        sustained: right answers a second with busy clients and nothing refused.
        offered: requests a second during the overload.
        accepted: right answers a second during it.
        counts: of its requests, by outcome.
        refused: seconds until a refusal.
        answered: seconds until a right answer, of requests of the overload.
        before, after: the same of normal load before it and after it.
        back_s: from the end of the overload until the last request that took more than twice the
            p99 of before.
        memory: MiB of their own of all processes, with the seconds since the overload began.
        grown: MiB of their own that kinds of processes gained between `EARLY_S` after the overload
            began and the last reading.
        sender_cores: what the sender took, in processors.
        sender_late_s: most that the sender itself came too late.
        sender_first: whether it had real-time priority.
        cores: what kinds of processes took during the overload, in processors.
        details: what was said where an answer was neither right nor refused.
    """

    sustained: float
    offered: float
    accepted: float
    counts: dict[str, int]
    refused: Quantiles
    answered: Quantiles
    before: Quantiles
    after: Quantiles
    back_s: float
    memory: list[tuple[float, float]]
    grown: dict[str, float]
    sender_cores: float
    sender_late_s: float
    sender_first: bool
    cores: dict[str, float]
    details: list[str]


def _cores(readings: Sequence[Reading]) -> dict[str, float]:
    """Processors in use between the first reading and the last, by kind of process."""
    if len(readings) < 2:
        return {}
    (start, first), (end, last) = readings[0], readings[-1]
    return {
        name: (used.cpu_s - first.get(name, Usage()).cpu_s) / (end - start)
        for name, used in last.items()
    }


def _grown(readings: Sequence[Reading]) -> dict[str, float]:
    """MiB that kinds of processes gained between the first reading and the last."""
    if not readings:
        return {}
    first, last = readings[0][1], readings[-1][1]
    return {
        kind: last.get(kind, Usage()).own_mib - first.get(kind, Usage()).own_mib
        for kind in {*first, *last}
    }


def _seconds(answers: Sequence[Answer], outcome: str) -> list[float]:
    return [one.answered - one.asked for one in answers if one.outcome == outcome]


async def sustained(url: str, cases: list[Case]) -> float:
    """Right answers a second that busy clients get.

    Raises:
        RuntimeError: not every answer was right.
    """
    phases = [Phase(seconds, clients=CLIENTS) for seconds in (WARM_S, SUSTAINED_S)]
    sent = await in_another_process(Plan(url, cases, phases))
    if wrong := [one for phase in sent.answers for one in phase if one.outcome != "right"]:
        raise RuntimeError(f"at a load it can take, a request was {wrong[0]}")
    end = max(one.answered for one in sent.answers[1])
    return len(sent.answers[1]) / (end - sent.begun[1])


async def _readings(pid: int, seconds: float) -> list[Reading]:
    found: list[Reading] = []
    origin = time.monotonic()
    while (at := time.monotonic() - origin) < seconds:
        used = await asyncio.to_thread(lambda: processes.usage(processes.family(pid)))
        found.append((time.monotonic(), used))
        await asyncio.sleep(max(0.0, SAMPLE_S - (time.monotonic() - origin - at)))
    return found


async def storm(url: str, pid: int, texts: Texts, seconds: float) -> Storm:
    """All of it; some `seconds` and two and a half minutes.

    Args:
        url: of the server.
        pid: its first process.
        texts: pairs are taken from these.
        seconds: how long the overload lasts.
    """
    pairs = serving.sample(texts, CASES, 5)
    cases = await known(url, [("/loss", serving.body([pair])) for pair in pairs])
    rate = await sustained(url, cases)
    phases = [
        Phase(SUSTAINED_S, rate=NORMAL * rate),
        Phase(seconds, rate=TIMES * rate),
        Phase(AFTER_S, rate=NORMAL * rate),
    ]
    whole = sum(phase.seconds for phase in phases)
    sent, readings = await asyncio.gather(
        in_another_process(Plan(url, cases, phases)), _readings(pid, whole + SAMPLE_S)
    )
    return judged(rate, seconds, sent, readings, whole)


def judged(
    rate: float,
    seconds: float,
    sent: Sent,
    readings: Sequence[Reading],
    whole: float,
) -> Storm:
    """What the answers of the three phases say; `whole` is how long they lasted."""
    before, during, after = sent.answers
    _, began, ended = sent.begun
    normal = Quantiles.of(_seconds(before, "right"))
    slow = [
        one.answered
        for one in after
        if one.outcome != "right" or one.answered - one.asked > 2 * normal.p99
    ]
    right = sum(
        one.outcome == "right" and began <= one.answered < ended for one in [*before, *during]
    )
    every = [*before, *during, *after]
    return Storm(
        sustained=rate,
        offered=len(during) / seconds,
        accepted=right / (ended - began),
        counts={name: sum(one.outcome == name for one in during) for name in OUTCOMES},
        refused=Quantiles.of(_seconds(during, "refused")),
        answered=Quantiles.of(_seconds(during, "right")),
        before=normal,
        after=Quantiles.of(_seconds(after, "right")),
        back_s=max([ended, *slow]) - ended,
        memory=[(at - began, sum(used.values(), Usage()).own_mib) for at, used in readings],
        grown=_grown([one for one in readings if began + EARLY_S <= one[0]]),
        sender_cores=sent.cpu_s / whole,
        sender_late_s=sent.late_s,
        sender_first=sent.real_time,
        cores=_cores([one for one in readings if began <= one[0] <= ended]),
        details=sorted(
            {
                f"{one.outcome}: {one.detail}"
                for one in every
                if one.outcome not in ("right", "refused")
            }
        ),
    )
