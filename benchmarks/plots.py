"""Small line charts as SVG files; knows numbers and labels, not what was measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib as mpl

mpl.use("svg")
from matplotlib import pyplot as plt

Series = Mapping[str, Sequence[tuple[float, float]]]


def lines(path: Path, series: Series, *, x: str, y: str, title: str, log_x: bool = False) -> None:
    """One chart of one or more named series of (x, y)."""
    mpl.rcParams["svg.hashsalt"] = "plainmed"
    figure, axes = plt.subplots(figsize=(5.2, 3.2), layout="constrained")
    for name, points in series.items():
        axes.plot(*zip(*points, strict=True), marker="o", markersize=4, label=name)
    if log_x:
        axes.set_xscale("log", base=2)
        ticks = sorted({point[0] for points in series.values() for point in points})
        axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.set(xlabel=x, ylabel=y, title=title)
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    if len(series) > 1:
        axes.legend(frameon=False, fontsize="small")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, format="svg", metadata={"Date": None})
    plt.close(figure)
