"""Strikes with every fault in turn while a load is on, and writes what its clients saw.

python -m tests.chaos                    # all faults; some eighteen minutes on two cores
python -m tests.chaos --only Factuality  # those with this in their name
python -m tests.chaos --write            # also into docs/reliability.md
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from math import ceil

import httpx
from rich.console import Console

from benchmarks.report import replace
from tests.chaos.faults import FAULTS, Fault
from tests.chaos.load import OUTCOMES, Answer, Case, Load, in_background
from tests.chaos.patience import PatientClient
from tests.chaos.stage import Stage, stage
from tests.chaos.updates import either, unchanged
from tests.support.paths import ROOT
from tests.support.texts import GENERATED, ORIGINALS

PAGE = ROOT / "docs" / "reliability.md"
RATE = 4.0
"""Requests a second, about half of what two busy cores can."""

PAIRS = 4
"""Of a request: enough that some are under way at every moment."""

WRITTEN = 5
"""Texts of a request for summaries: with four originals more than the generator keeps measured."""

BEFORE_S, AFTER_S = 4.0, 8.0
"""The load is on this long before the fault, and goes on this long after everything is whole."""

GRACE_S = 30.0
"""What Serve gives a replica that is to stop, unless it is told otherwise."""

LONG_S, LONG_TIMEOUT_S, PROBE_PAIRS, MOST_PAIRS = 40.0, 290.0, 12, 1000
"""A long request is so much work of the idle server, and takes longer under load and an update."""

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
        held: requests that waited in what was struck; None where none has to.
        problems: what else is not as it must be.
    """

    fault: str
    counts: dict[str, int]
    repeated: dict[str, int]
    slowest_s: float
    whole_s: float
    details: list[str]
    held: int | None = None
    problems: list[str] = field(default_factory=list)

    @property
    def good(self) -> bool:
        """Whether every request was answered, rightly, and the fault met with what it should."""
        right = self.counts["right"]
        answered = right > 0 and sum(self.counts.values()) == right
        return answered and self.held != 0 and not self.problems


def _texts(texts: Sequence[str], count: int) -> list[str]:
    """So many, all different."""
    return [f"{texts[number % len(texts)]} Case {number}." for number in range(count)]


def _pairs(original: str, generated: str, count: int) -> dict[str, list[str]]:
    return {
        "texts_original": _texts([original], count),
        "texts_generated": _texts([generated], count),
    }


def _known(url: str, path: str, body: dict[str, list[str]], timeout_s: float = 120) -> Case:
    answer = httpx.post(url + path, json=body, timeout=timeout_s)
    answer.raise_for_status()
    return Case(path, body, answer.json())


def cases(url: str) -> list[Case]:
    """Known requests: some texts each by every route, with the answers of an idle server."""
    asked: list[tuple[str, dict[str, list[str]]]] = []
    for original, generated in zip(ORIGINALS, GENERATED, strict=True):
        pairs = _pairs(original, generated, PAIRS)
        asked += [
            ("/loss", pairs),
            ("/metrics/factuality", pairs),
            ("/metrics/relevance", pairs),
            ("/metrics/readability", {"texts": pairs["texts_generated"]}),
            ("/generate", {"texts": _texts([original], WRITTEN)}),
        ]
    return [_known(url, path, body) for path, body in asked]


def long_case(url: str) -> Case:
    """A known request of `LONG_S` seconds' work, sized by how long a smaller one takes."""
    original, generated = " ".join(ORIGINALS), " ".join(GENERATED)
    began = time.monotonic()
    _known(url, "/loss", _pairs(original, generated, PROBE_PAIRS))
    count = ceil(PROBE_PAIRS * LONG_S / (time.monotonic() - began))
    body = _pairs(original, generated, min(MOST_PAIRS, count))
    return _known(url, "/loss", body, LONG_TIMEOUT_S)


def long_problems(answer: Answer, drained_s: float) -> list[str]:
    """What says that a long request was not left to its replica until it was answered.

    Args:
        answer: what became of it; it is asked once, and the right answer is the one of before an
            update, as its replica is.
        drained_s: how long a replica that had been told to stop had work.
    """
    found = []
    if answer.outcome != "right":
        found.append(f"the long request: {answer.outcome} {answer.detail}")
    if drained_s <= GRACE_S:
        found.append(f"no replica had to stop for longer than {GRACE_S:.0f} s: {drained_s:.1f} s")
    return found


def strike(running: Stage, fault: Fault) -> Row:
    """One fault under load."""
    fault.prepare(running)
    running.wait_whole()
    running.held = 0
    running.drained.clear()
    long = None
    with Load(running.url, running.known, client=PatientClient, rate=RATE) as load:
        running.load = load
        time.sleep(BEFORE_S / 2)
        if fault.long and running.long is not None:
            long = in_background(running.url, running.long, LONG_TIMEOUT_S)
        time.sleep(BEFORE_S / 2)
        struck = time.monotonic()
        fault.strike(running)
        running.wait_whole()
        whole = time.monotonic()
        problems = fault.check(running)
        time.sleep(AFTER_S)
    problems += load.missing()
    if fault.long:
        assert long is not None
        problems += long_problems(long.result(LONG_TIMEOUT_S), running.drained.get("Loss", 0.0))
    fault.heal(running)
    running.wait_whole()
    answers = load.answers
    if fault.changes:
        new = cases(running.url)
        if same := unchanged(running.known, new, "/loss"):
            problems.append(f"the update left {same} answers as they were")
        answers = either(answers, running.known, new, whole)
        running.known = new
    counts = Counter(one.outcome for one in answers)
    return Row(
        fault.name,
        {outcome: counts[outcome] for outcome in OUTCOMES},
        dict(Counter(what for one in answers for what in one.seen)),
        max((one.answered - one.asked for one in answers), default=0.0),
        whole - struck,
        sorted({f"{one.outcome}: {one.detail}" for one in answers if one.outcome != "right"}),
        running.held if fault.inside else None,
        problems,
    )


def table(rows: Sequence[Row]) -> str:
    """Markdown."""
    lines = [
        "| fault | waited in it | right | wrong | 503 | failed | lost | attempts repeated "
        "| slowest answer | whole again after |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | --- | ---: | ---: |",
    ]
    for row in rows:
        counts = " | ".join(str(row.counts[outcome]) for outcome in OUTCOMES)
        repeated = ", ".join(f"{count} × {what}" for what, count in sorted(row.repeated.items()))
        held = "" if row.held is None else row.held
        lines.append(
            f"| {row.fault} | {held} | {counts} | {repeated} | {row.slowest_s:.1f} s "
            f"| {row.whole_s:.0f} s |"
        )
    return "\n".join(lines)


def main() -> int:
    """Runs it; the exit status is 1 where a row is not `good`."""
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
        if any(fault.long for fault in chosen):
            running.long = long_case(running.url)
        for fault in chosen:
            rows.append(strike(running, fault))
            console.print(rows[-1], "" if rows[-1].good else "NOT GOOD")
    print(table(rows))
    if arguments.write:
        replace(PAGE, "faults", table(rows))
    return 0 if all(row.good for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
