"""Measures the extractive engine on human pairs: its loss beside simple ways to pick sentences.

    python -m benchmarks.extractive compare ../shared/data/cochrane_pls.csv
    python -m benchmarks.extractive fit ../shared/data/cochrane_pls.csv

`compare` writes the table of docs/extractive.md from the test part. `fit` gives the straight
line with which the engine estimates relevance while it searches, from the training part.
Models, targets and loss are those the settings (environment variables) name.
"""

from __future__ import annotations

import os
import random
import shlex
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, TypeVar

import numpy as np
import torch
import typer
from rich.console import Console
from rich.progress import track

from benchmarks import report
from serve_app.core.settings import Settings, load_settings
from serve_app.generation.extractive.engine import ExtractiveGenerator
from serve_app.generation.extractive.passages import Passage, split_passages
from serve_app.generation.protocol import GenerationParams
from serve_app.metrics.loss import METRICS, LossFunction
from serve_app.metrics.suite import MetricSuite
from serve_app.offline.calibration import Pair, read_pairs
from serve_app.text.glossary import Glossary

app = typer.Typer(add_completion=False, help=__doc__, pretty_exceptions_show_locals=False)

SYSTEMS = ("extractive", "lead-3", "random sentences", "the original itself", "human summary")
DOCS = Path(__file__).resolve().parent.parent / "docs" / "extractive.md"

Csv = Annotated[Path, typer.Argument(help="CSV with source_text, target_text, split")]
Limit = Annotated[int, typer.Option(help="use this many texts, evenly spread; 0: all")]
Item = TypeVar("Item")


def shown(items: Iterable[Item], total: int) -> Iterable[Item]:
    return track(items, total=total, console=Console(stderr=True))


def some(pairs: list[Pair], limit: int) -> list[Pair]:
    return pairs[:: max(1, len(pairs) // limit)][:limit] if limit else pairs


def engine_for(settings: Settings, suite: MetricSuite, coverage: float) -> ExtractiveGenerator:
    loss = LossFunction.of(settings)
    return ExtractiveGenerator(
        suite, loss, Glossary.load(), max_words=settings.extractive_max_words, coverage=coverage
    )


def random_sentences(original: str, words: int, rng: random.Random) -> str:
    """Sentences in random choice and original order, as many as fit in `words` (at least one)."""
    usable = [passage for passage in split_passages(original) if passage.usable]
    chosen: list[Passage] = []
    left = words
    for passage in rng.sample(usable, len(usable)):
        length = len(passage.text.split())
        if length <= left or not chosen:
            chosen.append(passage)
            left -= length
    return " ".join(one.text for one in sorted(chosen, key=lambda one: one.index))


@app.command()
def compare(
    path: Csv,
    split: Annotated[str, typer.Option(help="which part of the file")] = "test",
    limit: Limit = 0,
    seed: Annotated[int, typer.Option(help="of the random sentences")] = 0,
    coverage: Annotated[float, typer.Option(help="cost of leaving everything out")] = 0.3,
    docs: Annotated[bool, typer.Option(help="write the table into docs/extractive.md")] = True,
) -> None:
    """Mean loss of the engine, lead-3, random sentences, the original and the human summary."""
    settings = load_settings()
    if settings.torch_num_threads:
        torch.set_num_threads(settings.torch_num_threads)
    suite = MetricSuite.from_settings(settings)
    engine = engine_for(settings, suite, coverage)
    loss = LossFunction.of(settings)
    pairs = some(read_pairs(path, split), limit)
    rng = random.Random(seed)
    values, words, to_human, wall, cpu = [], [], [], [], []
    for pair in shown(pairs, len(pairs)):
        began, cpu_began = time.perf_counter(), time.process_time()
        (summary,) = engine.generate([pair.source], [GenerationParams()])
        wall.append(time.perf_counter() - began)
        cpu.append(time.process_time() - cpu_began)
        lead = " ".join(passage.text for passage in split_passages(pair.source)[:3])
        chance = random_sentences(pair.source, len(summary.text.split()), rng)
        texts = [summary.text, lead, chance, pair.source, pair.target]
        measured = suite.measure([pair.source] * len(texts), texts)
        values.append([item.values for item in measured])
        words.append([len(text.split()) for text in texts])
        relevance = suite.relevance.score([pair.target] * (len(texts) - 1), texts[:-1])
        to_human.append([item.f1 for item in relevance] + [1.0])
    errors = np.array([loss.errors(rows) for rows in values])  # texts x systems x metrics
    table = results_table(errors, np.array(values), np.array(words), np.array(to_human))
    cores = os.cpu_count()
    table += (
        f"\n{len(pairs)} texts (`{split}`), models {', '.join(suite.models.values())}, targets "
        f"{Path(settings.targets_file).name if settings.targets_file else 'shipped'}. One summary "
        f"took {np.median(cpu):.1f} s of processor time (median; 95 % within "
        f"{np.quantile(cpu, 0.95):.1f} s), {np.median(wall):.1f} s by the clock, with "
        f"{torch.get_num_threads()} thread(s) on {cores} cores whose load was "
        f"{os.getloadavg()[1]:.1f}.\n\n"
        "<!-- not run: takes minutes, and reads a folder that is no part of the repository -->\n"
        f"```bash\npython -m benchmarks.extractive {shlex.join(sys.argv[1:])}\n```\n"
    )
    typer.echo(table)
    if docs:
        report.replace(DOCS, "compare", table)


def results_table(
    errors: np.ndarray, values: np.ndarray, words: np.ndarray, to_human: np.ndarray
) -> str:
    """Markdown: one row a system; errors and metrics are (texts, systems, 5)."""
    losses = errors.mean(axis=2)
    lines = [
        f"| | loss | ours is lower on | {' | '.join(f'{name} (error)' for name in METRICS)} "
        "| words | BERTScore to the human summary |",
        "| --- |" + " ---: |" * 9,
    ]
    for index, system in enumerate(SYSTEMS):
        wins = "" if index == 0 else f"{(losses[:, 0] < losses[:, index]).mean():.0%}"
        cells = [
            f"{value:.2f} ({error:.3f})"
            for value, error in zip(
                values[:, index].mean(axis=0), errors[:, index].mean(axis=0), strict=True
            )
        ]
        mean, spread = losses[:, index].mean(), losses[:, index].std(ddof=1)
        lines.append(
            f"| {system} | **{mean:.3f}** ± {spread / len(losses) ** 0.5:.3f} | {wins} | "
            f"{' | '.join(cells)} | {words[:, index].mean():.0f} | "
            f"{'' if system == SYSTEMS[-1] else f'{to_human[:, index].mean():.3f}'} |"
        )
    return "\n".join(lines) + "\n"


@app.command()
def fit(path: Csv, limit: Limit = 40, seed: int = 0) -> None:
    """Relevance of random sets of sentences against their matched share, and the line through."""
    settings = load_settings()
    suite = MetricSuite.from_settings(settings)
    engine = engine_for(settings, suite, 0.0)
    rng = random.Random(seed)
    shares, relevance, factuality = [], [], []
    pairs = some(read_pairs(path, "train"), limit)
    for pair in shown(pairs, len(pairs)):
        passages = split_passages(pair.source)
        sentences = engine.sentences(passages)
        space = engine.space(pair.source, passages, sentences, engine.max_words)
        sizes = [size for size in (2, 4, 6, 8) if size <= len(space.sentences)]
        choices = []
        for size in sizes:
            choice = space.empty()
            for at in sorted(rng.sample(range(len(space.sentences)), size)):
                choice = space.plus(choice, at)
            choices.append(choice)
        texts = [" ".join(space.sentences[at].text for at in one.chosen) for one in choices]
        if not texts:
            continue
        measured = suite.measure([pair.source] * len(texts), texts)
        shares += [float(one.matched @ space.importance) for one in choices]
        relevance += [item.relevance.f1 for item in measured]
        factuality += [
            one.mean_factuality - item.factuality.score
            for one, item in zip(choices, measured, strict=True)
        ]
    slope, start = np.polyfit(shares, relevance, 1)
    rest = np.array(relevance) - start - slope * np.array(shares)
    typer.echo(
        f"relevance = {start:.3f} + {slope:.3f} * share; correlation "
        f"{np.corrcoef(shares, relevance)[0, 1]:.3f}, standard error {rest.std():.3f}, "
        f"{len(shares)} sets of {len(pairs)} texts\n"
        f"factuality against the own chunk less factuality: mean {np.mean(factuality):+.4f}, "
        f"deviation {np.std(factuality):.4f}"
    )


if __name__ == "__main__":
    app()
