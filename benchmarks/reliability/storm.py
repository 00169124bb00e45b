"""Ten times the load a server can take, and what its clients see of it.

Finds the rate that busy clients get, few and many, then sends load in three phases: normal, ten
times that rate, normal again. A `gust` is a short one: ten times the rate, and nothing around it.
Knows answers and times; the processes of the server are read by others.
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

CLIENTS, TIMES, NORMAL = (8, 32), 10.0, 0.5
"""Few busy clients, and as many as fill every batch: the sustained rate is the higher one."""

CASES = 48
SUSTAINED_S, NORMAL_S, WARM_S, AFTER_S, SAMPLE_S = 40.0, 30.0, 5.0, 60.0, 10.0
EARLY_S = 30.0
"""Of an overload: buffers and caches have the size that it needs by then."""

SETTLED_S, WINDOW_S, BATCH_S = 10.0, 30.0, 10.0
"""An overload has begun by the first, its rate is taken over every stretch of the second, and the
third is how long a batch may take: its answers come all at once, so each of them counts evenly over
so long before it came. Else the batches at a window's ends would decide."""

GUST_CLIENTS, GUST_S, GUST_SUSTAINED_S = 16, 45.0, 15.0

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
        sustained: right answers a second of so many busy clients, with nothing refused.
        offered: requests a second during the overload.
        accepted: right answers a second during it, once it has settled.
        slowest: the same in the `WINDOW_S` of it in which they were fewest.
        peak: in those of the busy clients in which they were most.
        best: in the `WINDOW_S` of the overload in which they were most.
        counts: of its requests, by outcome.
        refused: seconds until a refusal.
        answered: seconds until a right answer, of requests of the overload.
        before, after: the same of normal load before it and after it.
        back_s: from the end of the overload until the last request that took more than twice the
            p99 of before.
        memory: MiB resident of all processes, what they share counted in each, with the seconds
            since the overload began.
        grown: MiB resident that kinds of processes gained between `EARLY_S` after the overload
            began and the last reading.
        sender_cores: what the sender took, in processors.
        sender_late_s: most that the sender itself came too late.
        sender_first: whether it had real-time priority.
        cores: what kinds of processes took during the overload, in processors.
        details: what was said where an answer was neither right nor refused.
    """

    sustained: dict[int, float]
    offered: float
    accepted: float
    slowest: float
    peak: float
    best: float
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
        kind: last.get(kind, Usage()).rss_mib - first.get(kind, Usage()).rss_mib
        for kind in {*first, *last}
    }


def _seconds(answers: Sequence[Answer], outcome: str) -> list[float]:
    return [one.answered - one.asked for one in answers if one.outcome == outcome]


def rates(
    answered: Sequence[float], begin: float, end: float, window: float = WINDOW_S
) -> list[float]:
    """Answers a second, in every `window` between two moments (a second apart; all of it, where it
    is shorter), each counting evenly over the `BATCH_S` before it came.

    Args:
        answered: when each came, those after `end` too.
    """
    window = min(window, end - begin)
    came = np.asarray(answered, dtype=np.float64)
    found = []
    for start in np.arange(begin, end - window + 1e-6, 1.0):
        inside = np.minimum(came, start + window) - np.maximum(came - BATCH_S, start)
        found.append(float(np.clip(inside, 0.0, None).sum() / BATCH_S / window))
    return found


def _right(answers: Sequence[Answer]) -> list[float]:
    """When those came."""
    return [one.answered for one in answers if one.outcome == "right"]


@dataclass(frozen=True, slots=True)
class Sustained:
    """What busy clients got.

    Attributes:
        rates: right answers a second, by how many clients asked.
        best: in the `WINDOW_S` in which they were most.
    """

    rates: dict[int, float]
    best: float

    @property
    def rate(self) -> float:
        """Of the number of clients that got most."""
        return max(self.rates.values())


async def sustained(
    url: str, cases: list[Case], clients: Sequence[int], seconds: float
) -> Sustained:
    """Right answers a second that busy clients get.

    Raises:
        RuntimeError: not every answer was right.
    """
    phases = [Phase(length, clients=count) for count in clients for length in (WARM_S, seconds)]
    return busy(await in_another_process(Plan(url, cases, phases)), clients, seconds)


def busy(sent: Sent, clients: Sequence[int], seconds: float) -> Sustained:
    """What the answers of busy clients say: each number of them has a phase to get warm and one
    of `seconds` to be measured.

    Raises:
        RuntimeError: not every answer was right.
    """
    if wrong := [one for phase in sent.answers for one in phase if one.outcome != "right"]:
        raise RuntimeError(f"at a load it can take, a request was {wrong[0]}")
    found, best = {}, 0.0
    for number, count in enumerate(clients):
        warm, measured = sent.answers[2 * number : 2 * number + 2]
        begun = sent.begun[2 * number + 1]
        found[count] = len(measured) / (max(one.answered for one in measured) - begun)
        # The clients stop then: what came in the last seconds counts in part, and is left out.
        end = begun + max(seconds - BATCH_S, seconds / 2)
        best = max(best, *rates(_right([*warm, *measured]), begun, end))
    return Sustained(found, best)


async def _readings(pid: int, seconds: float) -> list[Reading]:
    found: list[Reading] = []
    origin = time.monotonic()
    while (at := time.monotonic() - origin) < seconds:
        used = await asyncio.to_thread(
            lambda: processes.usage(processes.family(pid), walk=False)  # refusals are timed
        )
        found.append((time.monotonic(), used))
        await asyncio.sleep(max(0.0, SAMPLE_S - (time.monotonic() - origin - at)))
    return found


async def storm(url: str, pid: int, texts: Texts, seconds: float) -> Storm:
    """All of it; some `seconds` and three and a half minutes.

    Args:
        url: of the server.
        pid: its first process.
        texts: pairs are taken from these.
        seconds: how long the overload lasts.
    """
    pairs = serving.sample(texts, CASES, 5)
    cases = await known(url, [("/loss", serving.body([pair])) for pair in pairs])
    found = await sustained(url, cases, CLIENTS, SUSTAINED_S)
    phases = [
        Phase(NORMAL_S, rate=NORMAL * found.rate),
        Phase(seconds, rate=TIMES * found.rate),
        Phase(AFTER_S, rate=NORMAL * found.rate),
    ]
    whole = sum(phase.seconds for phase in phases)
    sent, readings = await asyncio.gather(
        in_another_process(Plan(url, cases, phases)), _readings(pid, whole + SAMPLE_S)
    )
    return judged(found, seconds, sent, readings, whole)


def judged(
    busy: Sustained,
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
    every = [*before, *during, *after]
    settled = min(began + SETTLED_S, (began + ended) / 2)
    windows = rates(_right(every), settled, ended)
    return Storm(
        sustained=busy.rates,
        offered=len(during) / seconds,
        accepted=rates(_right(every), settled, ended, ended - settled)[0],
        slowest=min(windows),
        peak=busy.best,
        best=max(windows),
        counts={name: sum(one.outcome == name for one in during) for name in OUTCOMES},
        refused=Quantiles.of(_seconds(during, "refused")),
        answered=Quantiles.of(_seconds(during, "right")),
        before=normal,
        after=Quantiles.of(_seconds(after, "right")),
        back_s=max([ended, *slow]) - ended,
        memory=[(at - began, sum(used.values(), Usage()).rss_mib) for at, used in readings],
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


@dataclass(frozen=True, slots=True)
class Gust:
    """What came of a short one.

    Attributes:
        sustained: right answers a second of busy clients, with nothing refused.
        offered: requests a second in the gust.
        accepted: right answers a second in it, once it has settled.
        counts: of its requests, by outcome.
        refused: seconds until a refusal.
        details: what was said where an answer was neither right nor refused.
    """

    sustained: float
    offered: float
    accepted: float
    counts: dict[str, int]
    refused: Quantiles
    details: list[str]


async def gust(url: str, cases: list[Case], seconds: float = GUST_S) -> Gust:
    """Ten times what busy clients get of these requests in turn; some `seconds` and half a minute.

    Args:
        url: of the server.
        cases: what is asked, with the answers.
        seconds: how long it lasts.
    """
    found = await sustained(url, cases, [GUST_CLIENTS], GUST_SUSTAINED_S)
    phases = [Phase(seconds, rate=TIMES * found.rate)]
    return blown(found.rate, seconds, await in_another_process(Plan(url, cases, phases)))


def blown(rate: float, seconds: float, sent: Sent) -> Gust:
    """What the answers of a gust say, where busy clients got `rate`."""
    [during], [began] = sent.answers, sent.begun
    settled = began + min(SETTLED_S, seconds / 4)
    # Nothing is asked afterwards, so what would count for the last seconds never comes.
    end = began + max(seconds - BATCH_S, seconds / 2)
    others = [one for one in during if one.outcome not in ("right", "refused")]
    return Gust(
        sustained=rate,
        offered=len(during) / seconds,
        accepted=rates(_right(during), settled, end, end - settled)[0],
        counts={name: sum(one.outcome == name for one in during) for name in OUTCOMES},
        refused=Quantiles.of(_seconds(during, "refused")),
        details=sorted({f"{one.outcome}: {one.detail}" for one in others}),
    )


def mixed(pairs: Sequence[tuple[str, str]]) -> list[tuple[str, dict[str, object]]]:
    """Requests of every kind of work in turn, each of one pair or text."""
    found: list[tuple[str, dict[str, object]]] = []
    for pair in pairs:
        found += [
            ("/loss", serving.body([pair])),
            ("/evaluate", serving.body([pair])),
            ("/metrics/factuality", serving.body([pair])),
            ("/generate", {"text": pair[0]}),
        ]
    return found
