"""Draws the curves of the loss for docs/loss.md, from `serve_app.metrics.loss` itself.

    python scripts/loss_charts.py            # writes docs/charts/loss-*.svg

One chart a metric: its error against its value, with the shipped targets, for each steepness of the
settings (readability) and both directions. The target and one standard deviation to each side are
marked. Needs matplotlib (the `dev` extra).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np

from serve_app.metrics.loss import METRICS, Direction, Floats, LossFunction, Targets
from serve_app.metrics.targets import EMBEDDED_TARGETS

mpl.use("svg")
from matplotlib import pyplot as plt

CHARTS = Path(__file__).resolve().parent.parent / "docs" / "charts"
POINTS = 161
TITLES = {
    "relevance": "Relevance (BERTScore F1)",
    "factuality": "Factuality (AlignScore)",
    "fkgl": "FKGL (grade)",
    "smog": "SMOG (grade)",
    "dale_chall": "Dale-Chall",
}
_SQUARED = ("relevance", "factuality")
_COLOURS = {"calibrated": "#0b6e99", "legacy": "#b3541e", "one_sided": "#5b2a86"}


def span(metric: str, targets: Targets) -> tuple[float, float]:
    """The values the chart of a metric shows: [0, 1], or three deviations to each side."""
    if metric in _SQUARED:
        return 0.0, 1.0
    index = METRICS.index(metric)
    mean, sigma = targets.mean[index], targets.sigma[index]
    return mean - 3 * sigma, mean + 3 * sigma


def curve(
    metric: str, targets: Targets, steepness: str, direction: Direction
) -> tuple[Floats, Floats]:
    """(values, errors) of one metric, the others at their targets."""
    index = METRICS.index(metric)
    values = np.linspace(*span(metric, targets), POINTS)
    rows = np.tile(np.asarray(targets.mean), (POINTS, 1))
    rows[:, index] = values
    loss = LossFunction(targets, steepness=steepness, direction=direction)
    return values, loss.errors(rows)[:, index]


def chart(metric: str, targets: Targets) -> Any:
    """The figure of one metric."""
    index = METRICS.index(metric)
    mean, sigma = targets.mean[index], targets.sigma[index]
    figure, axes = plt.subplots(figsize=(5.2, 3.2), layout="constrained")
    axes.set_facecolor("white")
    axes.axvspan(mean - sigma, mean + sigma, color="#d9e6ec", label="target ± one sigma")
    axes.axvline(mean, color="#444444", linewidth=1, linestyle=":")
    kinds = ("calibrated",) if metric in _SQUARED else ("calibrated", "legacy")
    for steepness in kinds:
        label = "two_sided" if metric in _SQUARED else f"two_sided, {steepness}"
        axes.plot(
            *curve(metric, targets, steepness, "two_sided"),
            color=_COLOURS[steepness],
            label=label,
        )
    axes.plot(
        *curve(metric, targets, "calibrated", "one_sided"),
        color=_COLOURS["one_sided"],
        linestyle="--",
        label="one_sided" if metric in _SQUARED else "one_sided, calibrated",
    )
    axes.set(xlabel=TITLES[metric], ylabel="error", ylim=(0, 1.03), xlim=span(metric, targets))
    axes.set_title(f"target {mean:.2f}, sigma {sigma:.2f}", fontsize="medium")
    axes.grid(alpha=0.3)
    axes.legend(frameon=False, fontsize="small")
    return figure


def write(folder: Path, metrics: Sequence[str] = METRICS) -> list[Path]:
    """Draws the charts into `folder`; the files' paths."""
    # Text as text, and ids and dates that do not change, so that a diff shows a changed curve.
    mpl.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "plainmed"})
    targets = Targets.load(EMBEDDED_TARGETS)
    paths = []
    for metric in metrics:
        figure = chart(metric, targets)
        path = folder / f"loss-{metric.replace('_', '-')}.svg"
        figure.savefig(path, format="svg", facecolor="white", metadata={"Date": None})
        plt.close(figure)
        paths.append(path)
    return paths


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, default=CHARTS, help="folder; default: docs/charts")
    for path in write(parser.parse_args(arguments).out):
        print(path.name)
    return 0


if __name__ == "__main__":
    sys.exit(main())
