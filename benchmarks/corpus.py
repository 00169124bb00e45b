"""Measures a corpus run: peak memory and rows a second as the corpus grows.

    python -m benchmarks.corpus                       # the table of docs/corpus.md, printed
    python -m benchmarks.corpus --docs                # and written there
    python -m benchmarks.corpus --scorer models --rows 1000 --engine ray

Each run is a process of its own; this one watches it and all it starts. Rows are real pairs
(`benchmarks.texts`), repeated. The scorer `light` computes real readability and word overlap, no
model, so that 20,000 rows show what reading, Ray Data, journal and output take; `models` is what
`plainmed score` runs, with the settings of the environment.
"""

from __future__ import annotations

import csv
import os
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import psutil
import typer

from benchmarks import report, texts
from serve_app.metrics.readability import readability
from serve_app.offline.corpus import ModelNames, RowScores, ScoreJob, Scorer
from serve_app.offline.corpus.job import LocalEngine
from serve_app.offline.corpus.ray_engine import RayEngine, RayOptions

app = typer.Typer(add_completion=False, pretty_exceptions_show_locals=False)

DOCS = Path(__file__).resolve().parent.parent / "docs" / "corpus.md"
EVERY_S = 0.25


class LightScorer:
    """Readability as in production; the two model metrics are word overlap."""

    models = ModelNames({"relevance": "overlap", "factuality": "overlap"})

    def __call__(self, originals: Sequence[str], generated: Sequence[str]) -> list[RowScores]:
        found = []
        for one, other in zip(originals, generated, strict=True):
            left, right = set(one.split()), set(other.split())
            share, read = len(left & right) / len(left | right), readability(other)
            found.append(RowScores((share, share, read.fkgl, read.smog, read.dale_chall), share))
        return found


def light() -> Scorer:
    return LightScorer()


@dataclass(frozen=True)
class Measured:
    """One run; memory in MiB, of the process that drives it and of all processes together."""

    engine: str
    scorer: str
    rows: int
    megabytes: float
    seconds: float
    driver: float
    workers: int
    worker: float
    everything: float


def write_pairs(path: Path, count: int, words: int) -> None:
    pairs = texts.load().pairs
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "original", "summary"])
        for number in range(count):
            original, summary = pairs[number % len(pairs)]
            if words:
                original = " ".join(original.split()[:words])
                summary = " ".join(summary.split()[:words])
            writer.writerow([number, original, summary])


@app.command()
def one(source: Path, out: Path, engine: str, scorer: str, workers: int) -> None:
    """One run, in this process; started by `table`."""
    recipe = light
    if scorer == "models":
        from serve_app.core.settings import load_settings
        from serve_app.metrics.profiles import load_profile
        from serve_app.offline.corpus.scorer import LossTerms, SuiteRecipe

        settings = load_settings()
        recipe = SuiteRecipe(settings, LossTerms(load_profile(None, settings)))
    job = ScoreJob.prepare(source, out)
    options = RayOptions(workers=workers or None)
    made = LocalEngine(recipe()) if engine == "local" else RayEngine(recipe, options)
    outcome = job.run(lambda: made, {})
    typer.echo(f"{outcome.rows} rows, {outcome.failed} failed", err=True)


@app.callback(invoke_without_command=True)
def table(
    context: typer.Context,
    rows: Annotated[list[int] | None, typer.Option(help="how many rows")] = None,
    engine: Annotated[list[str] | None, typer.Option(help="local, ray")] = None,
    scorer: Annotated[str, typer.Option(help="light or models")] = "light",
    words: Annotated[int, typer.Option(help="cut each text to as many words; 0: whole")] = 0,
    workers: Annotated[int, typer.Option(help="on Ray; 0: one a core")] = 0,
    docs: Annotated[bool, typer.Option(help="write the table into docs/corpus.md")] = False,
) -> None:
    """Runs every engine on every size."""
    if context.invoked_subcommand is not None:
        return
    found = []
    with tempfile.TemporaryDirectory(prefix="plainmed-corpus-") as folder:
        for count in rows or [1000, 20_000]:
            source = Path(folder) / f"{count}.csv"
            write_pairs(source, count, words)
            for name in engine or ["local", "ray"]:
                run = measure(source, Path(folder) / "out.csv", name, scorer, workers, count)
                typer.echo(str(run), err=True)
                found.append(run)
            source.unlink()
    lines = markdown(found, words)
    typer.echo(lines)
    if docs:
        report.replace(DOCS, scorer, lines)


def measure(source: Path, out: Path, engine: str, scorer: str, workers: int, rows: int) -> Measured:
    arguments = ["one", str(source), str(out), engine, scorer, str(workers)]
    start = time.perf_counter()
    process = subprocess.Popen([sys.executable, "-m", "benchmarks.corpus", *arguments])
    watched = psutil.Process(process.pid)
    driver = everything = worker = 0.0
    most = 0
    while process.poll() is None:
        try:
            driver = max(driver, watched.memory_info().rss / 2**20)
            sizes = {child.pid: _memory(child) for child in watched.children(recursive=True)}
            actors = [size for size, title in sizes.values() if "ScoreBlocks" in title]
        except psutil.NoSuchProcess:
            break
        most, worker = max(most, len(actors)), max([worker, *actors])
        everything = max(everything, driver + sum(size for size, _ in sizes.values()))
        time.sleep(EVERY_S)
    if process.wait():
        raise RuntimeError(f"the run of {rows} rows on {engine} failed")
    seconds = time.perf_counter() - start
    with out.open(newline="", encoding="utf-8") as file:
        ids = [row["id"] for row in csv.DictReader(file)]
    assert ids == [str(number) for number in range(rows)], "rows are missing, twice or moved"
    size = source.stat().st_size / 2**20
    return Measured(engine, scorer, rows, size, seconds, driver, most, worker, everything)


def _memory(process: psutil.Process) -> tuple[float, str]:
    """What a process has to itself or its share of what it has not (PSS), and its title."""
    try:
        return process.memory_full_info().pss / 2**20, " ".join(process.cmdline())
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return 0.0, ""


def markdown(found: Sequence[Measured], words: int) -> str:
    lines = [
        "| engine | scorer | rows | input | time | rows/s | driver | largest worker | "
        "all processes |",
        "| --- | --- |" + " ---: |" * 7,
    ]
    for run in found:
        worker = f"{run.worker:.0f} MiB ({run.workers} of them)" if run.workers else ""
        lines.append(
            f"| {run.engine} | {run.scorer} | {run.rows:,} | {run.megabytes:.1f} MiB | "
            f"{run.seconds:.0f} s | {run.rows / run.seconds:.1f} | {run.driver:.0f} MiB | "
            f"{worker} | {run.everything:.0f} MiB |"
        )
    cut = f"cut to {words} words, " if words else ""
    return (
        "\n" + "\n".join(lines) + f"\n\nTexts: {texts.load().source}, {cut}repeated; "
        f"{os.cpu_count()} cores whose load was {os.getloadavg()[2]:.1f}. Peaks, sampled every "
        f"{EVERY_S:g} s; times include every start.\n\n"
        "<!-- not run: takes many minutes on a quiet machine -->\n```bash\n"
        f"python -m benchmarks.corpus {shlex.join(sys.argv[1:])}\n```\n\n"
    )


if __name__ == "__main__":
    app()
