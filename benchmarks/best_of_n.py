"""python -m benchmarks.best_of_n: how the mean loss falls with n candidates, and what they cost.

Human-written abstracts (the test part of the shared Cochrane pairs) are summarised by the
extractive engine 16 times each; the best of the first n is taken for each n. Beside it, the same
selection among random sentences: an engine that knows nothing of the loss. Seconds are those of
writing and of scoring, in this process. `--write` puts the tables in docs/best-of-n.md and the
curve in docs/charts/best_of_n.svg.
"""

from __future__ import annotations

import os
import random
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Annotated

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import numpy as np
import torch
import typer
from numpy.typing import NDArray

from benchmarks import machine, plots, report
from benchmarks.extractive import engine_for, random_sentences, shown, some
from benchmarks.texts import SHARED
from serve_app.core.settings import Settings, load_settings
from serve_app.generation import best_of
from serve_app.generation.best_of import Candidates
from serve_app.generation.extractive.engine import TEMPERATURE
from serve_app.generation.protocol import GenerationParams, Summary
from serve_app.metrics.evaluation import evaluate
from serve_app.metrics.loss import METRICS, LossFunction
from serve_app.metrics.suite import MetricSuite
from serve_app.metrics.targets import load_targets
from serve_app.offline.calibration import Pair, read_pairs

COUNTS = (1, 2, 4, 8, 16)
COVERAGE = 0.3  # the engine's own
DOCS = Path(__file__).resolve().parent.parent / "docs"
app = typer.Typer(add_completion=False, pretty_exceptions_show_locals=False)
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Bench:
    """What every measurement needs."""

    settings: Settings
    suite: MetricSuite
    loss: LossFunction
    seed: int

    def written(self, text: str, n: int) -> Candidates:
        """n candidates by an engine that has not seen the text."""
        engine = engine_for(self.settings, self.suite, COVERAGE)
        jobs = best_of.jobs([text], GenerationParams(seed=self.seed), n)
        return best_of.grouped(engine.generate(*jobs), n)[0]

    def ranked(self, text: str, candidates: Candidates) -> Candidates:
        """The candidates scored in one batch, best first."""
        places = best_of.to_score([candidates])
        summaries = [summary for _, summary in places]
        scores = evaluate(self.suite.measure([text] * len(places), summaries), self.loss)
        return best_of.best_first([candidates], places, scores)[0]


@dataclass(frozen=True)
class Curve:
    """Of each text and count: the best candidate's loss, its errors, its words, and its BERTScore
    to the human summary. `distinct` counts different summaries among all candidates."""

    loss: Floats  # texts x counts
    errors: Floats  # texts x counts x metrics
    words: Floats
    human: Floats
    single: Floats  # texts x candidates
    distinct: list[int]


def curve(bench: Bench, pairs: list[Pair], groups: list[Candidates]) -> Curve:
    """Scores all candidates of each text once and takes the best of the first n."""
    best, single, distinct, human = [], [], [], []
    for pair, group in shown(zip(pairs, groups, strict=True), len(pairs)):
        ranked = bench.ranked(pair.source, group)
        chosen = [next(one for one in ranked if one.variant < n) for n in COUNTS]
        best.append(chosen)
        in_order = sorted(ranked, key=lambda one: one.variant)
        single.append([one.evaluation.loss for one in in_order if one.evaluation])
        distinct.append(len({one.summary.text for one in ranked}))
        texts = [one.summary.text for one in chosen]
        scores = bench.suite.relevance.score([pair.target] * len(texts), texts)
        human.append([score.f1 for score in scores])
    evaluations = [[one.evaluation for one in row if one.evaluation] for row in best]
    return Curve(
        loss=np.array([[one.loss for one in row] for row in evaluations]),
        errors=np.array([[one.errors for one in row] for row in evaluations]),
        words=np.array([[len(one.summary.text.split()) for one in row] for row in best], float),
        human=np.array(human),
        single=np.array(single),
        distinct=distinct,
    )


def at_random(groups: list[Candidates], pairs: list[Pair], seed: int) -> list[Candidates]:
    """As many candidates of each text, of sentences at random, each as long as the engine's."""
    rng = random.Random(seed)
    lengths = [[len(one.summary.text.split()) for one in group] for group in groups]
    return [
        best_of.grouped(
            [Summary(random_sentences(pair.source, words, rng), "random") for words in row],
            len(row),
        )[0]
        for pair, row in zip(pairs, lengths, strict=True)
    ]


def seconds(bench: Bench, pairs: list[Pair]) -> dict[int, tuple[float, float]]:
    """Median seconds of writing and of scoring n candidates of one text; the counts take turns."""
    found: dict[int, list[tuple[float, float]]] = {n: [] for n in COUNTS}
    for pair in shown(pairs, len(pairs)):
        for n in COUNTS:
            start = time.perf_counter()
            candidates = bench.written(pair.source, n)
            written = time.perf_counter()
            bench.ranked(pair.source, candidates)
            found[n].append((written - start, time.perf_counter() - written))
    return {
        n: (median(row[0] for row in rows), median(row[1] for row in rows))
        for n, rows in found.items()
    }


def loss_table(ours: Curve, chance: Curve) -> str:
    """One row a count."""
    lines = [
        "| n | mean loss | less than n = 1 | "
        + " | ".join(f"{name} error" for name in METRICS)
        + " | words | BERTScore to the human summary | random sentences: mean loss |",
        "| ---: |" + " ---: |" * (len(METRICS) + 5),
    ]
    for at, n in enumerate(COUNTS):
        losses = ours.loss[:, at]
        spread = losses.std(ddof=1) / len(losses) ** 0.5
        cells = [
            f"**{losses.mean():.4f}** ± {spread:.4f}",
            f"{1 - losses.mean() / ours.loss[:, 0].mean():.0%}" if n > 1 else "",
            *(f"{value:.3f}" for value in ours.errors[:, at].mean(axis=0)),
            f"{ours.words[:, at].mean():.0f}",
            f"{ours.human[:, at].mean():.3f}",
            f"{chance.loss[:, at].mean():.4f}",
        ]
        lines.append(f"| {n} | {' | '.join(cells)} |")
    return "\n".join(lines)


def cost_table(found: dict[int, tuple[float, float]]) -> str:
    """One row a count."""
    lines = [
        "| n | writing, s | scoring, s | both, s | times n = 1 |",
        "| ---: | ---: | ---: | ---: | ---: |",
    ]
    first = sum(found[COUNTS[0]])
    lines += [
        f"| {n} | {written:.2f} | {scored:.2f} | {written + scored:.2f} "
        f"| {(written + scored) / first:.1f} |"
        for n, (written, scored) in found.items()
    ]
    return "\n".join(lines)


def plot(path: Path, ours: Curve, chance: Curve) -> None:
    """Mean loss against n."""
    series = {
        "extractive engine": list(zip(COUNTS, ours.loss.mean(axis=0), strict=True)),
        "sentences at random": list(zip(COUNTS, chance.loss.mean(axis=0), strict=True)),
    }
    title = "Best of n, chosen by the loss"
    plots.lines(path, series, x="candidates (n)", y="mean loss", title=title, log_x=True)


@app.command(help=__doc__)
def main(
    limit: Annotated[int, typer.Option(help="texts of the curve, evenly spread", min=2)] = 30,
    timed: Annotated[int, typer.Option(help="texts of the seconds", min=1)] = 8,
    threads: Annotated[int, typer.Option(help="torch threads", min=1)] = 2,
    seed: Annotated[int, typer.Option(help="of the candidates")] = 0,
    write: Annotated[bool, typer.Option(help="write the page and the chart")] = False,
) -> None:
    """Measures the curve and the seconds."""
    torch.set_num_threads(threads)
    # Without the cache of originals, which would make every count after the first cheaper.
    settings = load_settings(bertscore_cache_mb=0)
    loss = LossFunction(load_targets(settings), settings.loss_steepness, settings.loss_direction)
    bench = Bench(settings, MetricSuite.from_settings(settings), loss, seed)
    pairs = some(read_pairs(SHARED / "cochrane_pls.csv", "test"), limit)
    groups = [bench.written(pair.source, COUNTS[-1]) for pair in shown(pairs, len(pairs))]
    ours = curve(bench, pairs, groups)
    chance = curve(bench, pairs, at_random(groups, pairs, seed))
    found = seconds(bench, pairs[:timed])
    single = ours.single
    about = (
        f"{len(pairs)} texts (`test`), models {', '.join(bench.suite.models.values())}, seed "
        f"{seed}, temperature {TEMPERATURE:g}. Of {COUNTS[-1]} candidates "
        f"{np.mean(ours.distinct):.1f} differ on average; a single further candidate has a mean "
        f"loss of {single[:, 1:].mean():.4f}. Seconds: medians of {len(pairs[:timed])} texts."
    )
    facts = machine.facts()
    tables = {
        "loss by n": f"{loss_table(ours, chance)}\n\n{about}",
        "cost by n": f"{cost_table(found)}\n\n{report.facts(facts)} Load when it ended: "
        f"{os.getloadavg()[1]:.1f}.",
    }
    for name, table in tables.items():
        print(f"\n## {name}\n\n{table}")
        if write:
            report.replace(DOCS / "best-of-n.md", name, table)
    if write:
        plot(DOCS / "charts" / "best_of_n.svg", ours, chance)


if __name__ == "__main__":
    app()
