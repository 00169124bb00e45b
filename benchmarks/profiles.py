"""Measures the profiles: what people write and what two engines write, each by each profile's loss.

    python -m benchmarks.profiles write ../shared/data/cochrane_pls.csv written.json
    python -m benchmarks.profiles compare ../shared/data/cochrane_pls.csv written.json

Writes the table of docs/loss.md from the test part; `--split train --limit 30 --no-docs` is for
work on the profiles. Models are those the settings (environment variables) name.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer

from benchmarks import report
from benchmarks.extractive import Csv, Limit, engine_for, shown, some
from serve_app.core.settings import Settings, load_settings
from serve_app.generation.plain.engine import PlainGenerator
from serve_app.generation.protocol import GenerationParams
from serve_app.metrics.evaluation import Evaluation
from serve_app.metrics.profiles import PROFILES, load_profile
from serve_app.metrics.suite import MetricSuite
from serve_app.offline.calibration import read_pairs

app = typer.Typer(add_completion=False, help=__doc__, pretty_exceptions_show_locals=False)

DOCS = Path(__file__).resolve().parent.parent / "docs" / "loss.md"
HUMAN, EXTRACTIVE, PLAIN = "human", "extractive", "plain"
BETTER = ((HUMAN, EXTRACTIVE), (PLAIN, EXTRACTIVE), (PLAIN, HUMAN))


@app.callback()
def _main() -> None:
    """Commands by name."""


Split = Annotated[str, typer.Option(help="which part of the file")]
Written = Annotated[Path, typer.Argument(help="JSON with what the engines wrote, a row a text")]


@app.command()
def write(path: Csv, out: Written, split: Split = "test", limit: Limit = 0) -> None:
    """What the two engines write of each text; takes minutes, and knows no profile."""
    settings, suite = _loaded()
    engines = {
        EXTRACTIVE: engine_for(settings, suite, 0.3),
        PLAIN: PlainGenerator.from_settings(settings),
    }
    pairs = some(read_pairs(path, split), limit)
    rows = []
    for pair in shown(pairs, len(pairs)):
        row = {HUMAN: pair.target}
        for name, engine in engines.items():
            row[name] = engine.generate([pair.source], [GenerationParams()])[0].text
        rows.append(row)
        out.write_text(json.dumps(rows, indent=1), encoding="utf-8")


@app.command()
def compare(
    path: Csv,
    written: Written,
    split: Split = "test",
    limit: Limit = 0,
    docs: Annotated[bool, typer.Option(help="write into docs/loss.md")] = True,
) -> None:
    """The loss of human, extractive and plain summaries by each profile, and which is better."""
    settings, suite = _loaded()
    pairs = some(read_pairs(path, split), limit)
    rows = json.loads(written.read_text(encoding="utf-8"))
    if [row[HUMAN] for row in rows] != [pair.target for pair in pairs]:
        raise typer.BadParameter(f"{written} is not of these {len(pairs)} texts: write it again")
    texts = {name: [row[name] for row in rows] for name in (HUMAN, EXTRACTIVE, PLAIN)}
    sources = [pair.source for pair in pairs]
    measured = {name: suite.measure(sources, said) for name, said in texts.items()}
    lines = [
        f"| profile | {' | '.join(texts)} | {' | '.join(map(' beats '.join, BETTER))} |",
        "| --- |" + " ---: |" * (len(texts) + len(BETTER)),
    ]
    for profile in (load_profile(name, settings) for name in PROFILES):
        found = {
            name: profile.evaluate(measured[name], sources, said) for name, said in texts.items()
        }
        losses = {name: np.array([one.loss for one in each]) for name, each in found.items()}
        means = [f"{losses[name].mean():.3f}" for name in texts]
        wins = [f"{100 * np.mean(losses[one] < losses[two]):.0f} %" for one, two in BETTER]
        lines.append(f"| `{profile.name}` | {' | '.join([*means, *wins])} |")
        errors = {name: _errors(each) for name, each in found.items()}
        typer.echo(f"{profile.name}: mean errors {errors}", err=True)
    table = "\n".join(lines) + (
        f"\n\nMean losses, and on how many of {len(pairs)} texts (`{split}`) the one has less loss "
        f"than the other. Models {', '.join(suite.models.values())}.\n\n"
        "<!-- not run: takes minutes, and reads a folder that is no part of the repository -->\n"
        "```bash\n"
        "python -m benchmarks.profiles write ../shared/data/cochrane_pls.csv written.json\n"
        "python -m benchmarks.profiles compare ../shared/data/cochrane_pls.csv written.json\n```\n"
    )
    typer.echo(table)
    if docs:
        report.replace(DOCS, "profiles", table)


def _loaded() -> tuple[Settings, MetricSuite]:
    settings = load_settings()
    if settings.torch_num_threads:
        torch.set_num_threads(settings.torch_num_threads)
    return settings, MetricSuite.from_settings(settings)


def _errors(found: Sequence[Evaluation]) -> dict[str, list[float]]:
    """Mean errors of the five metrics, and of the terms beside them."""
    return {
        "metrics": np.mean([one.errors for one in found], axis=0).round(3).tolist(),
        "terms": np.mean([[term.error for term in one.terms] for one in found], axis=0)
        .round(3)
        .tolist(),
    }


if __name__ == "__main__":
    app()
