"""Makes targets of what was measured, with all that their file says. Measures and reads nothing."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from serve_app import __version__
from serve_app.core.errors import ConfigError
from serve_app.metrics.loss import METRICS, Targets
from serve_app.metrics.targets_schema import FORMAT, QUANTILES
from serve_app.offline.bootstrap import CONFIDENCE, RESAMPLES, Floats, intervals
from serve_app.offline.calibration.pairs import Selection
from serve_app.offline.corpus.scoring import ModelNames

_PACKAGES = ("torch", "transformers", "tokenizers", "numpy")  # what the metrics are computed with
_DIGITS = 9  # of an interval's ends: far more than resampling settles


def make_targets(
    table: Floats, selection: Selection, models: ModelNames, seed: int, how: Mapping[str, Any]
) -> Targets:
    """The targets of measured summaries; the same for the same numbers, on any day.

    Args:
        table: (n, 5) metrics in the order of `METRICS`.
        selection: the pairs they are of.
        models: that measured.
        seed: of the bootstrap, and of the selection.
        how: `split`, `subset` and `settings`, as in `serve_app.metrics.targets_schema.Calibration`.

    Raises:
        ConfigError: the summaries do not differ in a metric.
    """
    distributions = _distributions(table, seed)
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
        "bootstrap": {
            "method": "BCa",
            "resamples": RESAMPLES,
            "confidence": CONFIDENCE,
            "seed": seed,
        },
        "distributions": distributions,
    }
    try:
        return Targets(
            mean=tuple(distributions[metric]["mean"] for metric in METRICS),
            sigma=tuple(distributions[metric]["sd"] for metric in METRICS),
            models=models.names,
            details=details,
        )
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
        shares = np.quantile(column, np.array(QUANTILES) / 100)
        distributions[metric] = {
            "n": len(column),
            "mean": float(column.mean()),
            "mean_interval": [float(f"{end:.{_DIGITS}g}") for end in found.mean[index]],
            "sd": float(column.std(ddof=1)),
            "sd_interval": [float(f"{end:.{_DIGITS}g}") for end in found.sd[index]],
            "quantiles": {
                str(percent): float(value) for percent, value in zip(QUANTILES, shares, strict=True)
            },
        }
    return distributions
