"""The three tables of `python -m tests.fuzz`, each with what in it is not as it should be."""

from __future__ import annotations

import re
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import httpx

from tests.fuzz import api
from tests.fuzz.files import all_cases, run
from tests.fuzz.probe import Outcome, in_a_fork
from tests.fuzz.texts import ORIGINAL, READERS, TEXTS, Models, answer, enough, growth, seconds
from tests.serving.live.conftest import Server, free_port

LENGTH = 20_000
"""Characters at which growth is measured; of models, `MODEL_LENGTH`, as their work is longer."""

MODEL_LENGTH = 3_000
MOST_GROWTH = 3.0
"""Times more for twice the text: 2 is linear, 4 quadratic."""

LEAST_S = 0.02
"""Times below this say nothing of growth: a longer text is taken, of `LONGEST` at most."""

LONGEST = 500_000

MILLION = 1_000_000
_MEMORY = 16 << 30


@dataclass
class Found:
    """A table in Markdown, and what is wrong."""

    text: str = ""
    problems: list[str] = field(default_factory=list)


def _table(head: list[str], rows: list[list[str]], right: int) -> str:
    """Markdown; the last `right` columns to the right."""
    marks = ["---"] * (len(head) - right) + ["---:"] * right
    escaped = [[cell.replace("|", "\\|") for cell in row] for row in (head, marks, *rows)]
    return "\n".join(f"| {' | '.join(row)} |" for row in escaped)


# --- files -----------------------------------------------------------------------------------


def files() -> Found:
    """Every hostile file with how its refusal begins."""
    rows, found = [], Found()
    for case, outcome in run([one for one in all_cases() if one.says]):
        right = outcome.kind == "refused" and re.search(case.says, outcome.message)
        if not right or outcome.ran:
            found.problems.append(f"{case.loader}: {case.name}: {outcome}")
        said = f"{_begins(outcome.message)} ..." if right else outcome.kind
        cost = [f"{outcome.seconds:.2f}", f"{outcome.grown_mib:.0f}"]
        rows.append([f"`{case.loader}`", case.name, said, *cost])
    head = ["given to", "file", "refused with", "s", "MiB"]
    count = f"{len(rows)} files, {len(rows) - len(found.problems)} refused, none run."
    found.text = f"{count}\n\n{_table(head, rows, 2)}"
    return found


def _begins(message: str, most: int = 70) -> str:
    """The first words of a message, its folders left out."""
    plain = re.sub(r"(/[\w.-]+)+/([\w.-]+)", r"\2", message).replace("\n", " ")
    return plain if len(plain) <= most else plain[:most].rsplit(" ", 1)[0].rstrip(" ,;:(")


# --- texts -----------------------------------------------------------------------------------


def texts() -> Found:
    """Every reader of texts: what it answers, how its time grows, what a million cost."""
    models = Models.embedded()
    found = Found()
    rows = [_reader(name, reader, LENGTH, found) for name, reader in READERS.items()]
    rows += [
        _reader(name, reader, MODEL_LENGTH, found) for name, reader in models.readers().items()
    ]
    head = [
        "what reads the text",
        "answered",
        "refused",
        "slowest text, s",
        "most growth",
        "a word of a million letters",
        "a million words",
        "a million characters of prose",
    ]
    found.text = _table(head, rows, 7)
    return found


def _reader(
    name: str, reader: Callable[[str], list[float]], length: int, found: Found
) -> list[str]:
    answered, refused = 0, Counter[str]()
    slowest, steepest = (0.0, ""), (0.0, "")
    for label, make in TEXTS.items():
        outcome = answer(reader, make(length))
        if isinstance(outcome, str):
            refused[outcome] += 1
        else:
            answered += 1
        slowest = max(slowest, (seconds(reader, make(length), times=1), label))
        measured = enough(reader, make, length, LEAST_S, LONGEST)
        once, ratio = growth(reader, make, measured, times=1)
        if once >= LEAST_S:
            if ratio > MOST_GROWTH / 1.2:  # a busy machine, or truly so
                once, ratio = growth(reader, make, measured, times=4)
            steepest = max(steepest, (ratio, label))
            if ratio > MOST_GROWTH:
                found.problems.append(f"{name}: {label}: {once:.2f} s, twice: {ratio:.1f} times")
    costs = []
    for label, count in (("one word", 1), ("words", 5), ("plain prose", 1)):
        text = TEXTS[label](count * MILLION)
        cost = in_a_fork(lambda text=text: reader(text), most_grown=_MEMORY, longest_s=300)
        if cost.kind not in ("loaded", "refused"):
            found.problems.append(f"{name}: {label}, a million: {cost}")
        costs.append(_cost(cost))
    return [
        name,
        str(answered),
        ", ".join(f"{count} {code}" for code, count in refused.items()) or "0",
        f"{slowest[0]:.2f} ({slowest[1]})",
        f"{steepest[0]:.1f} ({steepest[1]})" if steepest[1] else "too fast to say",
        *costs,
    ]


def _cost(outcome: Outcome) -> str:
    how = "" if outcome.kind == "loaded" else f"{outcome.kind}, "
    return f"{how}{outcome.seconds:.1f} s, {outcome.grown_mib:.0f} MiB"


# --- requests --------------------------------------------------------------------------------


@contextmanager
def _server() -> Iterator[str]:
    """The URL of `plainmed serve` with its default settings."""
    with TemporaryDirectory(prefix="plainmed-fuzz-") as folder:
        port = free_port()
        program = str(Path(sys.executable).parent / "plainmed")
        command = [program, "serve", "--port", str(port)]
        server = Server(port, Path(folder) / "serve.log", command)
        try:
            yield server.wait_until_ready().url
        finally:
            server.stop()


def requests(url: str | None, examples: int) -> Found:
    """Every route of a running server: how many requests of which kind were answered how."""
    if url is None:
        with _server() as started:
            return requests(started, examples)
    found = Found()
    rows = []
    for operation in api.operations(api.of_server(url)):
        for kind in api.KINDS:
            if operation.method == "get" and kind != api.ANSWERED:
                continue
            try:
                counts = api.fuzz(operation, kind, examples, lambda case: case.call(base_url=url))
            except BaseExceptionGroup as group:  # schemathesis tells all that is wrong at once
                found.problems += [f"{operation.label}, {kind}: {one}" for one in group.exceptions]
                counts = Counter()
            except AssertionError as error:
                found.problems.append(f"{operation.label}, {kind}: {error}")
                counts = Counter()
            if kind == api.ANSWERED and set(counts) - {200}:
                found.problems.append(f"{operation.label}, {kind}: {counts}")
            rows.append(_counted(operation.label, kind, counts))
    with httpx.Client(base_url=url, timeout=300) as http:
        rows.append(_counted("all", "odd beside the body", _odd(http, found)))
        rows += _hostile(http, found)
    found.text = _table(["route", "requests", "sent", "answers"], rows, 2)
    return found


def _counted(route: str, kind: str, counts: Counter[int]) -> list[str]:
    answers = ", ".join(f"{count} {status}" for status, count in sorted(counts.items()))
    return [f"`{route}`" if route != "all" else route, kind, str(sum(counts.values())), answers]


def _odd(http: httpx.Client, found: Found) -> Counter[int]:
    counts: Counter[int] = Counter()
    for name, method, path, headers, body, statuses in api.ODD:
        status = http.request(method, path, content=body, headers=headers).status_code
        counts[status] += 1
        if status not in statuses:
            found.problems.append(f"{name}: {status}")
    return counts


def _hostile(http: httpx.Client, found: Found) -> list[list[str]]:
    """The texts that break programs, as summaries, and a million of words and letters."""
    rows = []
    for path in ("/metrics/readability", "/metrics/relevance", "/metrics/factuality", "/loss"):
        counts: Counter[int] = Counter()
        for label, make in TEXTS.items():
            status = http.post(path, json=_body(path, make(2000))).status_code
            counts[status] += 1
            if status not in (200, 422):
                found.problems.append(f"POST {path}: {label}: {status}")
        rows.append(_counted(f"POST {path}", "texts that break programs", counts))
        counts = Counter()
        for text in ("a" * MILLION, "a" * (MILLION + 1), "pain " * MILLION):
            status = http.post(path, json=_body(path, text)).status_code
            counts[status] += 1
            if status not in (200, 413, 422):
                found.problems.append(f"POST {path}: a million: {status}")
        rows.append(
            _counted(f"POST {path}", "a million letters, one more, a million words", counts)
        )
    return rows


def _body(path: str, text: str) -> dict[str, list[str]]:
    if path == "/metrics/readability":
        return {"texts": [text]}
    return {"texts_original": [ORIGINAL], "texts_generated": [text]}
