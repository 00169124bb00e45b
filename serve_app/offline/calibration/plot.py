"""Draws what was measured beside the targets made of it: one histogram a metric."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from serve_app.metrics.loss import METRIC_NAMES, METRICS, Targets
from serve_app.offline.svg_charts import Band, Quantiles, cell, grid, histogram

_SHARES = ("5", "25", "50", "75", "95")


def draw(table: NDArray[np.float64], targets: Targets) -> str:
    """An SVG document: each metric's values, its target band, its quantiles.

    Args:
        table: (n, 5) metrics in the order of `METRICS`.
        targets: made of them; the band is mean ± sigma.

    Raises:
        ValueError: the targets do not say how the metrics are distributed.
    """
    calibration = targets.calibration
    if calibration is None:
        raise ValueError("the targets must be those of a calibration")
    caption = (
        "Shaded: the target band, mean ± one standard deviation; line: the mean.",
        "Under the axis: quantiles 5 to 95 % (line), 25 to 75 % (box), the median (tick).",
    )
    charts = []
    for index, (metric, mean, sigma) in enumerate(
        zip(METRICS, targets.mean, targets.sigma, strict=True)
    ):
        distribution = getattr(calibration.distributions, metric)
        five = [distribution.quantiles[share] for share in _SHARES]
        charts.append(
            histogram(
                table[:, index],
                METRIC_NAMES[metric],
                subtitle=f"mean {mean:.4g}, standard deviation {sigma:.4g}",
                band=Band(mean, mean - sigma, mean + sigma),
                quantiles=Quantiles((five[0], five[1], five[2], five[3], five[4])),
                at=cell(index, len(caption)),
            )
        )
    title = f"{calibration.n} human summaries of {calibration.corpus}"
    return grid(charts, title, caption)
