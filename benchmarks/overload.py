"""python -m benchmarks.overload: ten times the load, unequal clients, absent clients, deadlines.

Starts `plainmed serve serve_config.yaml` for each part (`storm`, `fairness`) on a quiet machine and
measures what its clients see; exits 1 where a target of docs/reliability.md is missed. `--write`
puts the tables there. The texts are those of benchmarks/texts.py. Each part takes some eight
minutes.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import typer
from rich.console import Console

from benchmarks import machine, report, servers, serving, texts
from benchmarks.load import Body
from benchmarks.reliability.fairness import (
    LATE_S,
    SCORERS,
    Clients,
    Streamed,
    deadlines_kept,
    quantiles,
    stream_kept,
)
from benchmarks.reliability.sending import go_first, known
from benchmarks.reliability.slow_writer import MODEL, slow_writer
from benchmarks.reliability.storm import (
    EARLY_S,
    GUST_CLIENTS,
    TIMES,
    WINDOW_S,
    Gust,
    Quantiles,
    Storm,
    gust,
    mixed,
    storm,
)
from serve_app.core.settings import Settings
from serve_app.text.sentences import split_sentences

PAGE = Path(__file__).resolve().parent.parent / "docs" / "reliability.md"
PARTS = {"storm": "overload", "fairness": "fairness"}
"""And the marks of their tables."""

SHARE_OF_PEAK, REFUSED_S, BACK_S, FLAT_MIB = 0.9, 0.1, 10.0, 64.0
MANY, TENTH, GIANT_CHARS, GIANTS = 10_000, 1_000, 1_000_000, 4
HURRY_S, HURRIED, HURRIED_PAIRS, BUSY_PAIRS = 1.0, 4, 15, 200
"""So few and small that the gate lets all of them in: what ends them is their deadline. Each is
some seconds' work."""

WRITTEN = 64
"""Texts to summarise in turn: so many more than the generator keeps measured that it has none by
chance."""

LEFT_S = 2.0
"""Most that a replica works on after its client has gone."""

console = Console(stderr=True)
Row = tuple[str, str, str, bool | None]


def table(rows: Sequence[Row]) -> str:
    """Markdown: what, measured, target, and whether it is reached."""
    lines = ["| | measured | target | |", "| --- | ---: | ---: | --- |"]
    for what, measured, target, good in rows:
        mark = "" if good is None else "reached" if good else "missed"
        lines.append(f"| {what} | {measured} | {target} | {mark} |")
    return "\n".join(lines)


def _ms(found: Quantiles) -> str:
    return f"{1000 * found.p50:.0f}, {1000 * found.p99:.0f}, {1000 * found.most:.0f} ms"


def _s(found: Quantiles) -> str:
    return f"{found.p50:.2f}, {found.p99:.2f}, {found.most:.2f} s"


def _most_of(grown: Mapping[str, float]) -> str:
    """The kinds of processes that gained a MiB or more, most first."""
    gained = sorted(((mib, kind) for kind, mib in grown.items() if mib >= 1), reverse=True)
    return ", ".join(f"{kind} {mib:+.0f} MiB" for mib, kind in gained) or "nothing"


def storm_rows(found: Storm, settings: Settings) -> list[Row]:
    """The table of an overload."""
    own = found.before.p99
    bound = settings.max_wait_s + own
    share, least = (rate / found.peak for rate in (found.accepted, found.slowest))
    wrong = sum(found.counts[name] for name in ("wrong", "failed", "lost"))
    early = next(mib for at, mib in found.memory if at >= EARLY_S)
    later = [mib for at, mib in found.memory if at >= EARLY_S]
    window = f"{WINDOW_S:.0f} s"
    few = ", ".join(str(count) for count in found.sustained)
    return [
        (f"sustained: right answers a second, {few} busy clients",
         ", ".join(f"{rate:.2f}" for rate in found.sustained.values()), "", None),
        ("offered in the overload, requests a second", f"{found.offered:.1f}",
         f"{TIMES:.0f} times", found.offered > 0.98 * TIMES * max(found.sustained.values())),
        (f"peak: right answers a second in the busy clients' best {window}",
         f"{found.peak:.2f}", "", None),
        ("accepted: right answers a second in the overload", f"{found.accepted:.2f} ({share:.0%})",
         f"{SHARE_OF_PEAK:.0%} of the peak or more", share >= SHARE_OF_PEAK),
        (f"accepted in its slowest {window}", f"{found.slowest:.2f} ({least:.0%})",
         f"{SHARE_OF_PEAK:.0%} of the peak or more", least >= SHARE_OF_PEAK),
        (f"the same in its best {window}", f"{found.best:.2f}", "", None),
        ("refused: 503 with Retry-After and the usual error", str(found.counts["refused"]), "",
         None),
        ("time of a refusal: p50, p99, longest", _ms(found.refused),
         f"p99 under {1000 * REFUSED_S:.0f} ms", found.refused.p99 < REFUSED_S),
        ("time of an accepted request: p50, p99, longest", _s(found.answered),
         f"p99 under {bound:.0f} s", found.answered.p99 < bound),
        ("neither right nor refused (wrong, failed, lost)", str(wrong), "0", wrong == 0),
        ("normal load before: p50, p99, longest", _s(found.before), "", None),
        ("normal load after: p50, p99, longest", _s(found.after), "", None),
        ("back to normal after", f"{found.back_s:.1f} s", f"{BACK_S:.0f} s",
         found.back_s <= BACK_S),
        ("resident memory of all processes: before, after 30 s, most since then, at the end",
         ", ".join(f"{mib:.0f}" for mib in (found.memory[0][1], early, max(later), later[-1]))
         + " MiB",
         f"+{FLAT_MIB:.0f} MiB at most after the first 30 s", max(later) - early <= FLAT_MIB),
        ("of what was gained after the first 30 s", _most_of(found.grown), "", None),
        ("cores in use in the overload: sender, proxy, gateway, replicas of models",
         ", ".join(f"{cores:.2f}" for cores in (
             found.sender_cores,
             *(found.cores.get(kind, 0.0) for kind in ("HTTP proxy", "Gateway")),
             sum(found.cores.get(kind, 0.0) for kind in SCORERS),
         )), "", None),
        ("latest that the sender itself was",
         f"{1000 * found.sender_late_s:.0f} ms"
         + ("" if found.sender_first else ", without real-time priority"), "", None),
    ]  # fmt: skip


def gust_rows(what: str, found: Gust, *, alike: bool = True) -> list[Row]:
    """The rows of a short overload with `what`.

    Args:
        what: is asked.
        found: what came of it.
        alike: whether its requests cost alike. Else a rate of what is let in cannot be held against
            that of busy clients: routes take turns in other shares there.
    """
    share = found.accepted / found.sustained
    wrong = sum(found.counts[name] for name in ("wrong", "failed", "lost"))
    return [
        (f"{what}: sustained ({GUST_CLIENTS} busy clients), offered, accepted a second",
         f"{found.sustained:.2f}, {found.offered:.1f}, {found.accepted:.2f} ({share:.0%})",
         f"{TIMES:.0f} times offered" + f", {SHARE_OF_PEAK:.0%} or more accepted" * alike,
         (share >= SHARE_OF_PEAK or not alike) and found.offered > 0.98 * TIMES * found.sustained),
        (f"{what}: refused, time of a refusal: p50, p99, longest",
         f"{found.counts['refused']}; {_ms(found.refused)}",
         f"p99 under {1000 * REFUSED_S:.0f} ms", found.refused.p99 < REFUSED_S),
        (f"{what}: neither right nor refused", str(wrong), "0", wrong == 0),
    ]  # fmt: skip


async def gusts(url: str, found: texts.Texts) -> list[Row]:
    """Short overloads of summaries alone, and of every kind of work in turn."""
    rows = []
    asked: dict[str, list[tuple[str, dict[str, object]]]] = {
        "`/generate`": [
            ("/generate", {"text": original}) for original, _ in serving.sample(found, WRITTEN, 11)
        ],
        "`/loss`, `/evaluate`, `/metrics/factuality`, `/generate` in turn": mixed(
            serving.sample(found, WRITTEN, 13)
        ),
    }
    for what, requests in asked.items():
        blown = await gust(url, await known(url, requests))
        rows += gust_rows(what, blown, alike=len({path for path, _ in requests}) == 1)
        for row in rows[-3:]:
            console.print(row, blown.details)
    return rows


async def fairness_rows(clients: Clients, found: texts.Texts, count: int) -> list[Row]:
    """The table of unequal clients, of those that leave and of deadlines."""
    pairs = serving.sample(found, min(200, len(found.pairs)), 7)
    singles = [serving.body([pairs[at % len(pairs)]]) for at in range(count)]

    def many(count: int) -> Body:
        return serving.body([pairs[at % len(pairs)] for at in range(count)])

    alone = quantiles(await clients.one_by_one("/loss", singles))
    rows: list[Row] = [("a single pair, alone: p50, p99, longest", _s(alone), "", None)]
    console.print(rows[-1])
    # First: what is cancelled later counts as time in which little got done, and the gate that
    # goes by it would refuse what is to meet its deadline.
    deadlines = await _deadlines(clients, many)
    for row in deadlines:
        console.print(row)

    def beside(what: str, measured: Quantiles) -> None:
        rows.append((f"a single pair beside {what}", _s(measured), "p50 under 5 s",
                     measured.p50 < 5.0))  # fmt: skip
        console.print(rows[-1])

    async with clients.under_way("/loss", [many(MANY)]) as statuses:
        await asyncio.sleep(5)
        beside(
            f"one request of {MANY:,} pairs", quantiles(await clients.one_by_one("/loss", singles))
        )
        if statuses:
            raise RuntimeError(f"the large request was answered {statuses}")
    await clients.until_idle(clients.replicas(*SCORERS))
    async with clients.under_way("/loss", [many(TENTH)] * 10) as statuses:
        await asyncio.sleep(5)
        measured = quantiles(await clients.one_by_one("/loss", singles))
        beside(f"ten requests of {TENTH:,} pairs ({statuses.count(503)} of them refused)", measured)
    await clients.until_idle(clients.replicas(*SCORERS))
    words = " ".join(original for original, _ in pairs)
    giant = (words * (GIANT_CHARS // len(words) + 1))[:GIANT_CHARS]
    # Two sentences: more would be over ALIGNSCORE_MAX_PAIRS.
    claim = " ".join(split_sentences(pairs[0][1])[:2])
    large = serving.body([(giant, claim)])
    async with clients.under_way("/metrics/factuality", [large] * GIANTS) as statuses:
        await asyncio.sleep(5)
        beside(f"{GIANTS} texts of {GIANT_CHARS:,} characters, two for each Factuality replica",
               quantiles(await clients.one_by_one("/loss", singles)))  # fmt: skip
        if statuses:
            raise RuntimeError(f"the large texts were answered {statuses}")
    rows.append(_idle("those two", await clients.until_idle(clients.replicas(*SCORERS))))
    rows += await _summaries(clients, pairs, min(WRITTEN, count))
    cases = [
        (f"`/loss` of {TENTH:,} pairs", "/loss", many(TENTH), SCORERS),
        (f"`/generate` of {TENTH:,} texts", "/generate",
         {"texts": many(TENTH)["texts_original"]}, ("Generator",)),
    ]  # fmt: skip
    for what, path, body, watched in cases:
        cores, seconds = await clients.left(path, body, *watched)
        rows.append(_idle(f"{what} ({cores:.2f} cores while it waited)", seconds))
        console.print(rows[-1])
    return [*rows, *deadlines]


def _idle(what: str, seconds: float) -> Row:
    return (
        f"client gone: replicas idle after {what}",
        f"{seconds:.1f} s",
        f"{LEFT_S:.0f} s",
        seconds <= LEFT_S,
    )


async def _summaries(clients: Clients, pairs: Sequence[tuple[str, str]], count: int) -> list[Row]:
    """A single text to summarise, beside two requests of many and alone."""
    large = {"texts": [pairs[at % len(pairs)][0] for at in range(TENTH)]}
    singles = [{"text": f"{pairs[at][0]} Asked alone."} for at in range(count)]
    # Both at once, and before anything else is asked of the route: a gate that knows how long a
    # thousand texts take would let in one of them.
    async with clients.under_way("/generate", [large] * 2) as statuses:
        await asyncio.sleep(5)
        measured = quantiles(await clients.one_by_one("/generate", singles))
        both = not statuses
    await clients.until_idle(clients.replicas("Generator"))
    others = [{"text": f"{one['text']} And again."} for one in singles]
    alone = quantiles(await clients.one_by_one("/generate", others))
    rows: list[Row] = [
        ("`/generate` of a single text, alone: p50, p99, longest", _s(alone), "", None),
        (f"`/generate` of a single text beside two requests of {TENTH:,} texts"
         + ("" if both else f" (answered {statuses})"), _s(measured), "p50 under 5 s",
         both and measured.p50 < 5.0),
    ]  # fmt: skip
    for row in rows:
        console.print(row)
    return rows


async def _deadlines(clients: Clients, many: Callable[[int], Body]) -> list[Row]:
    """Requests in a hurry, at a server that is busy and lets them in."""
    async with clients.under_way("/loss", [many(BUSY_PAIRS)]) as statuses:
        await asyncio.sleep(2)
        late = await clients.at_once(
            "/loss", [many(HURRIED_PAIRS)] * HURRIED, **{"x-request-timeout": f"{HURRY_S:g}"}
        )
        if statuses:
            raise RuntimeError(f"the busy client was answered {statuses}")
    idle = await clients.until_idle(clients.replicas(*SCORERS))
    times = Quantiles.of([one.seconds for one in late])
    ended = ", ".join(sorted({f"{one.status} {one.code}".strip() for one in late}))
    return [
        (
            f"{HURRIED} requests of {HURRIED_PAIRS} pairs with `X-Request-Timeout: {HURRY_S:g}` "
            f"in a busy server: p50, p99, longest until their answer ({ended})",
            _s(times),
            f"503 timeout after {HURRY_S:g} to {HURRY_S + LATE_S:.1f} s",
            deadlines_kept(late, HURRY_S),
        ),
        _idle("these and the busy client (nothing of them is left to compute)", idle),
    ]


def stream_row(found: Streamed) -> Row:
    """Of a stream in a hurry."""
    ended = f"{found.last} {found.code}".strip() or "no event"
    return (
        f"a stream of `/generate` with `X-Request-Timeout: {HURRY_S:g}`, from a model that writes "
        f"for half a minute: until its end ({found.pieces} pieces, then {ended})",
        f"{found.seconds:.2f} s",
        f"error timeout after {HURRY_S:g} to {HURRY_S + LATE_S:.1f} s",
        stream_kept(found, HURRY_S),
    )


async def _streams(text: str) -> list[Row]:
    """A deadline of a stream that has begun, at a server whose model is slow."""
    with (
        slow_writer() as url,
        servers.whole(GENERATOR="openai", OPENAI_BASE_URL=url, OPENAI_MODEL=MODEL) as running,
    ):
        found = await Clients(running.url, running.pid).streamed(
            "/generate",
            {"text": text, "stream": True},
            **{"x-request-timeout": f"{HURRY_S:g}"},
        )
    return [stream_row(found)]


async def _measure(part: str, seconds: float, singles: int) -> list[Row]:
    found = texts.load()
    # Ten thousand texts in one request are over the default limits.
    limits = {"MAX_TEXTS": str(MANY), "MAX_BODY_BYTES": str(64 << 20)} if part == "fairness" else {}
    with servers.whole(**limits) as running:
        if part == "storm":
            rows = storm_rows(await storm(running.url, running.pid, found, seconds), Settings())
            for row in rows:
                console.print(row)
            return [*rows, *await gusts(running.url, found)]
        go_first()  # as the sender of the storm does, and for its reason
        rows = await fairness_rows(Clients(running.url, running.pid), found, singles)
    return [*rows, *await _streams(found.pairs[0][0])]


def main(
    parts: Annotated[list[str] | None, typer.Argument(help=", ".join(PARTS))] = None,
    seconds: Annotated[float, typer.Option(min=20, help="how long the overload lasts")] = 120.0,
    singles: Annotated[int, typer.Option(min=5, help="single pairs asked for in turn")] = 50,
    write: Annotated[bool, typer.Option(help="fill in docs/reliability.md")] = False,
) -> None:
    """Measures the parts asked for, or both."""
    servers.end_on_sigterm()
    missed = False
    for part in parts or PARTS:
        if part not in PARTS:
            raise typer.BadParameter(f"{part} is none of {', '.join(PARTS)}")
        started = time.monotonic()
        rows = asyncio.run(_measure(part, seconds, singles))
        text = f"{report.facts(machine.facts())}\n\n{table(rows)}"
        print(f"\n## {part}\n\n{text}")
        console.print(f"{part}: {time.monotonic() - started:.0f} s")
        missed = missed or any(good is False for *_, good in rows)
        if write:
            report.replace(PAGE, PARTS[part], text)
    raise typer.Exit(1 if missed else 0)


if __name__ == "__main__":
    typer.run(main)
