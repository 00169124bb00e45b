"""Turns measured summaries into targets and a plot of them. Measures and reads nothing."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from serve_app import __version__
from serve_app.core.errors import ConfigError
from serve_app.metrics.loss import METRIC_NAMES, METRICS, Targets
from serve_app.metrics.targets import FORMAT, QUANTILES
from serve_app.offline.bootstrap import CONFIDENCE, RESAMPLES, Floats, intervals
from serve_app.offline.calibration.pairs import Selection
from serve_app.offline.corpus.scoring import ModelNames
from serve_app.offline.svg_charts import Band, cell, grid, histogram

_PACKAGES = ("torch", "transformers", "tokenizers", "numpy")  # they compute the metrics
_DIGITS = 9  # of an interval's ends: far more than resampling settles
_CAPTION = (
    "Shaded: the target band, mean ± one standard deviation; line: the mean.",
    "Under the axis: quantiles 5 to 95 % (line), 25 to 75 % (box), the median (tick).",
)


def make_targets(
    table: Floats, selection: Selection, models: ModelNames, seed: int, how: Mapping[str, Any]
) -> Targets:
    """The targets of measured summaries; the same numbers always give the same targets.

    Args:
        table: (n, 5) metrics in the order of `METRICS`.
        selection: the pairs they were measured on.
        models: the models that measured.
        seed: of the bootstrap and of the selection.
        how: `split`, `subset` and `settings`, as in `serve_app.metrics.targets.Calibration`.

    Raises:
        ConfigError: a metric is the same for all summaries.
    """
    distributions = _distributions(table, seed)
    bootstrap = {"method": "BCa", "resamples": RESAMPLES, "confidence": CONFIDENCE, "seed": seed}
    details = {
        "format": FORMAT,
        "n": len(table),
        "corpus": Path(selection.corpus.source.name).name,
        **how,
        "seed": seed,
        "eval_mode": models.eval_mode,
        "version": __version__,
        "versions": {name: version(name) for name in _PACKAGES},
        "probe": [float(value) for value in models.probe],
        "fingerprint": selection.fingerprint,
        "bootstrap": bootstrap,
        "distributions": distributions,
    }
    mean, sigma = (
        tuple(distributions[metric][key] for metric in METRICS) for key in ("mean", "sd")
    )
    try:
        return Targets(mean, sigma, models.names, details)
    except ConfigError as error:
        raise ConfigError(
            f"{selection.corpus.source.name}: these {len(table)} summaries do not make targets, "
            f"{error.message}; calibrate on more, and more varied, texts"
        ) from error


def _distributions(table: Floats, seed: int) -> dict[str, dict[str, Any]]:
    found = intervals(table, seed=seed)
    distributions = {}
    for index, metric in enumerate(METRICS):
        column = table[:, index]
        quantiles = np.quantile(column, np.array(QUANTILES) / 100).tolist()
        distributions[metric] = {
            "n": len(column),
            "mean": float(column.mean()),
            "mean_interval": [float(f"{end:.{_DIGITS}g}") for end in found.mean[index]],
            "sd": float(column.std(ddof=1)),
            "sd_interval": [float(f"{end:.{_DIGITS}g}") for end in found.sd[index]],
            "quantiles": dict(zip(map(str, QUANTILES), quantiles, strict=True)),
        }
    return distributions


def draw(table: Floats, targets: Targets) -> str:
    """An SVG document: each metric's histogram, target band and quantiles.

    Args:
        table: (n, 5) metrics in the order of `METRICS`.
        targets: made of them; the band is mean ± sigma.

    Raises:
        ValueError: the targets have no calibration.
    """
    calibration = targets.calibration
    if calibration is None:
        raise ValueError("the targets must be those of a calibration")
    charts = []
    for index, metric in enumerate(METRICS):
        mean, sigma = targets.mean[index], targets.sigma[index]
        quantiles = getattr(calibration.distributions, metric).quantiles
        charts.append(
            histogram(
                table[:, index],
                METRIC_NAMES[metric],
                subtitle=f"mean {mean:.4g}, standard deviation {sigma:.4g}",
                band=Band(mean, mean - sigma, mean + sigma),
                quantiles=[quantiles[percent] for percent in ("5", "25", "50", "75", "95")],
                at=cell(index, len(_CAPTION)),
            )
        )
    title = f"{calibration.n} human summaries of {calibration.corpus}"
    return grid(charts, title, _CAPTION)
