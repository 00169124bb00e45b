"""Measures the plain engine beside the extractive one, and shows what it writes.

    python -m benchmarks.plain compare ../shared/data/cochrane_pls.csv

Writes the table and the pairs of docs/plain.md from the test part. Models are those the settings
(environment variables) name.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer

from benchmarks import report
from benchmarks.extractive import Csv, Limit, engine_for, shown, some
from serve_app.core.settings import load_settings
from serve_app.evidence import check
from serve_app.evidence.alignment import sentences_of
from serve_app.generation.plain.engine import PlainGenerator
from serve_app.generation.plain.grammar import doubled
from serve_app.generation.protocol import GenerationParams
from serve_app.metrics.loss import METRICS
from serve_app.metrics.suite import MetricSuite
from serve_app.offline.calibration import read_pairs
from serve_app.text.glossary import Glossary
from serve_app.text.jargon import STATISTIC, unexplained

app = typer.Typer(add_completion=False, help=__doc__, pretty_exceptions_show_locals=False)

DOCS = Path(__file__).resolve().parent.parent / "docs" / "plain.md"
PAIRS_SHOWN = 10
# Written apart from the rules that take them out.
_STATISTICS = re.compile(
    r"\b(?:CI|RR|OR|HR|MD|SMD|WMD|RD|NNT|SD)s?\b|\b[Pp]\s?[=<>]|\bI[2²]|confidence interval|odds "
    r"ratio"
)


@app.callback()
def _main() -> None:
    """Commands by name."""


@app.command()
def compare(
    path: Csv,
    split: Annotated[str, typer.Option(help="which part of the file")] = "test",
    limit: Limit = 0,
    docs: Annotated[bool, typer.Option(help="write into docs/plain.md")] = True,
) -> None:
    """What the two engines and people write: metrics, statistics, abbreviations, findings."""
    settings = load_settings()
    if settings.torch_num_threads:
        torch.set_num_threads(settings.torch_num_threads)
    suite = MetricSuite.from_settings(settings)
    glossary = Glossary.load()
    engines = {
        "extractive": engine_for(settings, suite, 0.3),
        "plain": PlainGenerator(suite, glossary),
        "plain, a grade costs half": PlainGenerator(suite, glossary, per_grade=0.035),
        "plain, a grade costs nothing": PlainGenerator(suite, glossary, per_grade=0.0),
    }
    pairs = some(read_pairs(path, split), limit)
    texts: dict[str, list[str]] = {name: [] for name in (*engines, "human summary")}
    for pair in shown(pairs, len(pairs)):
        for name, engine in engines.items():
            texts[name].append(engine.generate([pair.source], [GenerationParams()])[0].text)
        texts["human summary"].append(pair.target)
    sources = [pair.source for pair in pairs]
    lines = [
        f"| | {' | '.join(METRICS)} | words | statistics in | unexplained abbreviation in | "
        "doubled word in | severe findings per 100 sentences |",
        "| --- |" + " ---: |" * 10,
    ]
    lines += [_row(name, said, sources, suite) for name, said in texts.items()]
    table = "\n".join(lines) + (
        f"\n\n{len(pairs)} texts (`{split}`), models {', '.join(suite.models.values())}. The "
        f"columns with "
        "“in” count texts.\n\n"
        "<!-- not run: takes minutes, and reads a folder that is no part of the repository -->\n"
        "```bash\npython -m benchmarks.plain compare ../shared/data/cochrane_pls.csv\n```\n"
    )
    typer.echo(table)
    if docs:
        report.replace(DOCS, "compare", table)
        report.replace(DOCS, "pairs", _shown_pairs(texts["extractive"], texts["plain"]))


def _row(name: str, texts: Sequence[str], sources: Sequence[str], suite: MetricSuite) -> str:
    values = np.array([one.values for one in suite.measure(sources, texts)]).mean(axis=0)
    severe = sum(check(source, text).severe for source, text in zip(sources, texts, strict=True))
    sentences = sum(len(sentences_of(text)) for text in texts)
    counts = (
        sum(bool(STATISTIC.search(text) or _STATISTICS.search(text)) for text in texts),
        sum(bool(unexplained(text)) for text in texts),
        sum(bool(doubled(text)) for text in texts),
    )
    return (
        f"| {name} | {values[0]:.3f} | {values[1]:.3f} | {values[2]:.2f} | {values[3]:.2f} | "
        f"{values[4]:.2f} | {np.mean([len(text.split()) for text in texts]):.0f} | "
        f"{' | '.join(map(str, counts))} | {100 * severe / sentences:.1f} |"
    )


def _shown_pairs(before: Sequence[str], after: Sequence[str]) -> str:
    """Every tenth text, or of fewer than a hundred as evenly as they come."""
    step = max(1, len(before) // PAIRS_SHOWN)
    return "\n".join(
        f"**{index}.** *Extractive:* {before[index]}\n\n*Plain:* {after[index]}\n"
        for index in range(0, step * PAIRS_SHOWN, step)
        if index < len(before)
    )


if __name__ == "__main__":
    app()
