"""Strikes with every fault in turn while a load is on, and writes what its clients saw.

python -m tests.chaos                    # all faults; some fifteen minutes on two cores
python -m tests.chaos --only Factuality  # those with this in their name
python -m tests.chaos --write            # also into docs/reliability.md
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import httpx
from rich.console import Console

from benchmarks.report import replace
from tests.chaos.faults import FAULTS, Fault
from tests.chaos.load import OUTCOMES, Case, Load
from tests.chaos.patience import PatientClient
from tests.chaos.stage import Stage, stage
from tests.texts import GENERATED, ORIGINALS

PAGE = Path(__file__).resolve().parents[2] / "docs" / "reliability.md"
RATE = 4.0
"""Requests a second, about half of what two busy cores can."""

PAIRS = 4
"""Of a request: enough that some are under way at every moment."""

AFTER_S = 8.0
"""The load goes on this long after everything is whole again."""

console = Console(stderr=True)


@dataclass(frozen=True, slots=True)
class Row:
    """What the clients saw of one fault.

    Attributes:
        fault: its name.
        counts: requests by what became of them in the end.
        repeated: how often an attempt met with what.
        slowest_s: longest time from a request to its answer, repeats included.
        whole_s: from the strike until everything ran again as wanted.
        details: of what was not right.
    """

    fault: str
    counts: dict[str, int]
    repeated: dict[str, int]
    slowest_s: float
    whole_s: float
    details: list[str]

    @property
    def good(self) -> bool:
        """Whether every request was answered, and rightly."""
        return self.counts["right"] > 0 and sum(self.counts.values()) == self.counts["right"]


def cases(url: str) -> list[Case]:
    """Known requests: some pairs each by several routes, with the answers of an idle server."""
    asked: list[tuple[str, dict[str, list[str]]]] = []
    for original, generated in zip(ORIGINALS, GENERATED, strict=True):
        pairs = {
            "texts_original": [f"{original} Case {number}." for number in range(PAIRS)],
            "texts_generated": [f"{generated} Case {number}." for number in range(PAIRS)],
        }
        asked += [
            ("/loss", pairs),
            ("/metrics/factuality", pairs),
            ("/metrics/relevance", pairs),
            ("/metrics/readability", {"texts": pairs["texts_generated"]}),
        ]
    found = []
    for path, body in asked:
        answer = httpx.post(url + path, json=body, timeout=120)
        answer.raise_for_status()
        found.append(Case(path, body, answer.json()))
    return found


def strike(running: Stage, fault: Fault) -> Row:
    """One fault under load."""
    fault.prepare(running)
    running.wait_whole()
    with Load(running.url, running.known, client=PatientClient, rate=RATE) as load:
        time.sleep(4.0)
        struck = time.monotonic()
        fault.strike(running)
        running.wait_whole()
        whole = time.monotonic() - struck
        time.sleep(AFTER_S)
    fault.heal(running)
    running.wait_whole()
    counts = load.counts()
    return Row(
        fault.name,
        {outcome: counts[outcome] for outcome in OUTCOMES},
        dict(Counter(what for one in load.answers for what in one.seen)),
        max((one.answered - one.asked for one in load.answers), default=0.0),
        whole,
        sorted({f"{one.outcome}: {one.detail}" for one in load.answers if one.outcome != "right"}),
    )


def table(rows: Sequence[Row]) -> str:
    """Markdown."""
    lines = [
        "| fault | right | wrong | 503 | failed | lost | attempts repeated | slowest answer "
        "| whole again after |",
        "| --- | ---: | ---: | ---: | ---: | ---: | --- | ---: | ---: |",
    ]
    for row in rows:
        counts = " | ".join(str(row.counts[outcome]) for outcome in OUTCOMES)
        repeated = ", ".join(f"{count} × {what}" for what, count in sorted(row.repeated.items()))
        lines.append(
            f"| {row.fault} | {counts} | {repeated} | {row.slowest_s:.1f} s | {row.whole_s:.0f} s |"
        )
    return "\n".join(lines)


def main() -> int:
    """Runs it; the exit status is 1 where a request was not answered, or wrongly."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--only", nargs="+", default=[""], help="faults whose name has one of these"
    )
    parser.add_argument("--write", action="store_true", help="fill in docs/reliability.md")
    arguments = parser.parse_args()
    chosen = [
        one for one in FAULTS if any(part.lower() in one.name.lower() for part in arguments.only)
    ]
    if not chosen:
        parser.error(f"no fault has {arguments.only!r} in its name")
    rows: list[Row] = []
    with stage() as running:
        running.known = cases(running.url)
        for fault in chosen:
            rows.append(strike(running, fault))
            console.print(rows[-1], "" if rows[-1].good else "NOT GOOD")
    print(table(rows))
    if arguments.write:
        replace(PAGE, "faults", table(rows))
    return 0 if all(row.good for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
