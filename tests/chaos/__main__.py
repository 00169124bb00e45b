"""Strikes with every fault in turn while a load is on, and writes what its clients saw.

python -m tests.chaos                    # all faults; some ten minutes on two cores
python -m tests.chaos --only Factuality  # those with this in their name
python -m tests.chaos --write            # also into docs/reliability.md
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import httpx
from rich.console import Console

from benchmarks.report import replace
from tests.chaos.faults import FAULTS, Fault
from tests.chaos.load import OUTCOMES, Answer, Case, Load
from tests.chaos.stage import Stage, stage
from tests.texts import GENERATED, ORIGINALS

PAGE = Path(__file__).resolve().parents[2] / "docs" / "reliability.md"
RATE = 4.0
"""Requests a second, about half of what two busy cores can."""

AFTER_S = 8.0
"""The load goes on this long after everything is whole again."""

console = Console(stderr=True)


@dataclass(frozen=True, slots=True)
class Row:
    """What the clients saw of one fault."""

    fault: str
    counts: dict[str, int]
    impaired_s: float
    whole_s: float
    details: list[str]
    good: bool


def cases(url: str) -> list[Case]:
    """Known requests: one pair each by several routes, with the answers of an idle server."""
    asked: list[tuple[str, dict[str, list[str]]]] = []
    for original, generated in zip(ORIGINALS, GENERATED, strict=True):
        pair = {"texts_original": [original], "texts_generated": [generated]}
        asked += [
            ("/loss", pair),
            ("/metrics/factuality", pair),
            ("/metrics/relevance", pair),
            ("/metrics/readability", {"texts": [generated]}),
        ]
    found = []
    for path, body in asked:
        answer = httpx.post(url + path, json=body, timeout=120)
        answer.raise_for_status()
        found.append(Case(path, body, answer.json()))
    return found


def strike(running: Stage, known: Sequence[Case], fault: Fault) -> Row:
    """One fault under load."""
    with Load(running.url, known, rate=RATE) as load:
        time.sleep(4.0)
        struck = time.monotonic()
        fault.strike(running)
        running.wait_whole()
        whole = time.monotonic() - struck
        time.sleep(AFTER_S)
    if fault.heal is not None:
        fault.heal(running)
        running.wait_whole()
    counts = load.counts()
    seen: list[Answer] = [one for one in load.answers if one.outcome != "right"]
    impaired = max((one.answered for one in seen), default=struck) - struck
    allowed = {"refused", "failed"} if fault.errors else {"refused"}
    return Row(
        fault.name,
        {outcome: counts[outcome] for outcome in OUTCOMES},
        max(0.0, impaired),
        whole,
        sorted({f"{one.outcome}: {one.detail}" for one in seen}),
        counts["right"] > 0 and all(one.outcome in allowed for one in seen),
    )


def table(rows: Sequence[Row]) -> str:
    """Markdown."""
    lines = [
        "| fault | right | wrong | 503 | failed | lost | clients saw it for | whole again after |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for row in rows:
        counts = " | ".join(str(row.counts[outcome]) for outcome in OUTCOMES)
        seen = f"{row.impaired_s:.1f} s" if sum(row.counts.values()) > row.counts["right"] else ""
        lines.append(f"| {row.fault} | {counts} | {seen} | {row.whole_s:.1f} s |")
    return "\n".join(lines)


def main() -> int:
    """Runs it; the exit status is 1 where an answer was wrong or lost, or an error not allowed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="faults whose name has this in it")
    parser.add_argument("--write", action="store_true", help="fill in docs/reliability.md")
    arguments = parser.parse_args()
    chosen = [one for one in FAULTS if arguments.only.lower() in one.name.lower()]
    if not chosen:
        parser.error(f"no fault has {arguments.only!r} in its name")
    rows: list[Row] = []
    with stage() as running:
        known = cases(running.url)
        for fault in chosen:
            rows.append(strike(running, known, fault))
            console.print(rows[-1])
    print(table(rows))
    if arguments.write:
        replace(PAGE, "faults", table(rows))
    return 0 if all(row.good for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
