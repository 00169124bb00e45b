"""python -m benchmarks.soak: mixed load for half an hour; does anything of the application grow?

Starts `plainmed serve serve_config.yaml`, asks every route at half of what it can do, with bad
requests, clients that leave and clients in a hurry among them, and reads memory, file descriptors
and threads of all its processes every ten seconds. After the first fifth a line is fitted through
each. `--write` puts the table in docs/reliability.md.
"""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import aiohttp
import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from benchmarks import machine, report, servers, serving, texts
from benchmarks.reliability import processes
from benchmarks.reliability.mix import Mix, requests
from benchmarks.reliability.processes import Usage
from benchmarks.reliability.trend import Trend, trend

PAGE = Path(__file__).resolve().parent.parent / "docs" / "reliability.md"
SAMPLE_S, WARM_UP, PAIRS, CLIENTS = 10.0, 0.2, 16, 4
AT_ONCE = 8
"""Most requests under way: where others use the machine too, the load slows down with it."""
CACHE_MB = 4
"""Of relevance's embeddings, instead of 256: full in the first minute, and emptied all the time."""

MEASURES = {"own_mib": "MiB", "files": "file descriptors", "threads": "threads", "actors": "actors"}
NEGLIGIBLE = {"own_mib": 1.0, "files": 1.0, "threads": 1.0, "actors": 1.0}
"""Less gained over the measured part is no growth: the steps in which memory is taken."""

console = Console(stderr=True)
Sample = tuple[float, dict[str, Usage]]


async def capacity(mix: Mix, seconds: float) -> float:
    """Requests of the mix a second that a few busy clients get answered."""
    end = time.monotonic() + seconds
    start, before = time.monotonic(), mix.counts.total()
    async with aiohttp.ClientSession() as session:

        async def client() -> None:
            while time.monotonic() < end:
                await mix.next(session)

        await asyncio.gather(*(client() for _ in range(CLIENTS)))
    return (mix.counts.total() - before) / (time.monotonic() - start)


async def load(mix: Mix, rate: float, seconds: float) -> None:
    """The mix at a steady rate, as long as few are under way."""
    origin = time.monotonic()
    timeout = aiohttp.ClientTimeout(120)
    room = asyncio.Semaphore(AT_ONCE)
    async with aiohttp.ClientSession(timeout=timeout) as session, asyncio.TaskGroup() as group:

        async def one() -> None:
            try:
                await mix.next(session)
            finally:
                room.release()

        for number in range(round(rate * seconds)):
            await asyncio.sleep(max(0.0, origin + number / rate - time.monotonic()))
            await room.acquire()
            if time.monotonic() - origin > seconds:
                room.release()
                break
            group.create_task(one())


async def watch(pid: int, seconds: float) -> list[Sample]:
    """What the processes use, every `SAMPLE_S`."""
    found: list[Sample] = []
    origin = time.monotonic()
    columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as progress:
        bar = progress.add_task("soak", total=seconds)
        while time.monotonic() - origin < seconds:
            used = await asyncio.to_thread(lambda: processes.usage(processes.family(pid)))
            found.append((time.monotonic() - origin, used))
            total = sum(one.own_mib for one in used.values())
            progress.update(bar, completed=found[-1][0], description=f"soak, {total:.0f} MiB")
            await asyncio.sleep(max(0.0, len(found) * SAMPLE_S - (time.monotonic() - origin)))
    return found


def trends(samples: Sequence[Sample]) -> dict[str, dict[str, Trend]]:
    """A line through each measure of each kind of process, and of all together."""
    kinds = sorted({name for _, used in samples for name in used})
    times = [at for at, _ in samples]
    every = [(at, {**used, "all": sum(used.values(), Usage())}) for at, used in samples]
    return {
        name: {
            measure: trend(times, [getattr(used.get(name, Usage()), measure) for _, used in every])
            for measure in MEASURES
        }
        for name in [*kinds, "all"]
    }


def growing(found: dict[str, dict[str, Trend]]) -> list[str]:
    """What grows by the rule of the page."""
    return [
        f"{name}: {MEASURES[measure]}"
        for name, lines in found.items()
        for measure, line in lines.items()
        if line.grows(NEGLIGIBLE[measure])
    ]


def table(samples: Sequence[Sample], found: dict[str, dict[str, Trend]]) -> str:
    """Markdown: a row for each kind of process."""
    lines = [
        "| processes | MiB of their own, first and last | MiB an hour, 95 % interval | "
        "file descriptors, first and last | threads, first and last | |",
        "| --- | ---: | ---: | ---: | ---: | --- |",
    ]
    first, last = (
        {**used, "all": sum(used.values(), Usage())} for _, used in (samples[0], samples[-1])
    )
    grown = growing(found)
    for name, slopes in found.items():
        a, b, memory = first.get(name, Usage()), last.get(name, Usage()), slopes["own_mib"]
        ours = [one.split(": ")[1] for one in grown if one.startswith(f"{name}: ")]
        lines.append(
            f"| {b.processes} x {name} | {a.own_mib:.1f}, {b.own_mib:.1f} "
            f"| {memory.per_hour:+.1f} ({memory.low:+.1f} to {memory.high:+.1f}) "
            f"| {a.files}, {b.files} | {a.threads}, {b.threads} "
            f"| {', '.join(ours) + ' grow' if ours else 'no growth'} |"
        )
    return "\n".join(lines)


def summary(mix: Mix, rate: float, full: float, seconds: float, samples: Sequence[Sample]) -> str:
    """What was asked, in a paragraph before the table."""
    actors = {sum(used.values(), Usage()).actors for _, used in samples}
    asked = ", ".join(f"{name} {count}" for name, count in sorted(mix.counts.items()))
    wrong = ", ".join(f"{what} {count}" for what, count in mix.unexpected.items()) or "none"
    return (
        f"{seconds / 60:.0f} min at {rate:.2f} requests a second ({full:.2f} were answered when "
        f"asked as fast as they came); lines fitted after the first {WARM_UP:.0%}, through "
        f"{len(samples)} readings.\n\nAsked: {asked}. Answers not as they must be: {wrong}. "
        f"Serve actors at every reading: {', '.join(map(str, sorted(actors)))}."
    )


async def _run(minutes: float, rate: float | None) -> tuple[str, dict[str, Any], bool]:
    with servers.whole(BERTSCORE_CACHE_MB=str(CACHE_MB)) as running:
        mix = Mix(running.url, requests(serving.sample(texts.load(), PAIRS, 5)))
        async with aiohttp.ClientSession() as session:
            await mix.learn(session)
        full = await capacity(mix, 30.0)
        rate = rate or full / 2
        console.print(f"{full:.2f} requests a second at full load; now {rate:.2f}")
        seconds = 60.0 * minutes
        samples, _ = await asyncio.gather(
            watch(running.pid, seconds), load(mix, rate, seconds - SAMPLE_S)
        )
    kept = [one for one in samples if one[0] >= WARM_UP * seconds]
    found = trends(kept)
    text = f"{summary(mix, rate, full, seconds, kept)}\n\n{table(kept, found)}"
    readings = [
        {
            "seconds": round(at, 1),
            **{name: [round(one.own_mib, 2), one.files, one.threads] for name, one in used.items()},
        }
        for at, used in samples
    ]
    document = {"machine": machine.facts(), "rate": rate, "capacity": full, "readings": readings}
    return text, document, not growing(found) and not mix.unexpected


def main(
    minutes: Annotated[float, typer.Option(min=2, help="how long")] = 30.0,
    rate: Annotated[
        float | None, typer.Option(min=0.1, help="requests a second; unset: half of what it can")
    ] = None,
    readings: Annotated[Path | None, typer.Option(help="write every reading here (JSON)")] = None,
    write: Annotated[bool, typer.Option(help="fill in docs/reliability.md")] = False,
) -> None:
    """Runs it; the exit status is 1 where something grew or an answer was not as it must be."""
    servers.end_on_sigterm()
    text, document, good = asyncio.run(_run(minutes, rate))
    print(text)
    if readings is not None:
        readings.write_text(json.dumps(document) + "\n", encoding="utf-8")
    if write:
        report.replace(PAGE, "soak", text)
    raise typer.Exit(0 if good else 1)


if __name__ == "__main__":
    typer.run(main)
