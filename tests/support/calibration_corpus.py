"""Small corpora for calibration: pairs of a study's report and its plain summary."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from serve_app.metrics.loss import METRICS, Targets

HEADER = ["source_text", "target_text", "split"]


def make_pair(number: int, split: str) -> list[str]:
    """A pair whose five metrics depend on its number."""
    return [
        f"We included {number} randomised trials of drug {number}. Mortality did not differ "
        "between groups. The certainty of the evidence was low because of imprecision.",
        f"We found {number} studies. "
        f"{'People lived as long with the drug as without it. ' * (number % 7)}"
        f"We are {'un' * (number % 2)}certain about this result"
        f"{' because trials were small' * (number % 5)}.",
        split,
    ]


ROWS = [
    make_pair(number, split)
    for number, split in [(1, "train"), (2, "test"), (3, "train"), (4, "train"), (5, "train")]
]


def write_pairs(path: Path, rows: Sequence[Sequence[str]], header: list[str] | None = None) -> Path:
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([HEADER if header is None else header, *rows])
    return path


def distribution(mean: float, sd: float, wide: float = 0.2) -> dict[str, Any]:
    """What a file says of a metric; the intervals are `wide` deviations to each side."""
    return {
        "n": 50,
        "mean": mean,
        "mean_interval": [mean - wide * sd, mean + wide * sd],
        "sd": sd,
        "sd_interval": [sd * (1 - wide), sd * (1 + wide)],
        "quantiles": {
            str(percent): mean + sd * at
            for percent, at in zip((5, 10, 25, 50, 75, 90, 95), range(-3, 4), strict=True)
        },
    }


def calibrated(
    mean: Sequence[float] = (0.7, 0.3, 12.0, 14.0, 10.0),
    sigma: Sequence[float] = (0.06, 0.15, 2.0, 3.0, 1.0),
    **details: Any,
) -> Targets:
    """Targets as a calibration makes them, with numbers of the test's own."""
    found = {
        "format": 2,
        "n": 50,
        "corpus": "pairs.csv",
        "split": "train",
        "subset": 1.0,
        "seed": 0,
        "eval_mode": "nli_sp",
        "version": "0.1.0",
        "versions": {"torch": "2.13.0"},
        "settings": {"bertscore_long_text": "truncate"},
        "probe": [0.8, 0.5, 9.0, 10.0, 8.0],
        "fingerprint": "sha256:" + "ab" * 32,
        "bootstrap": {"method": "BCa", "resamples": 5000, "confidence": 0.95, "seed": 0},
        "distributions": {
            metric: distribution(*both)
            for metric, both in zip(METRICS, zip(mean, sigma, strict=True), strict=True)
        },
    }
    models = {"relevance": "encoder", "factuality": "aligner"}
    return Targets(tuple(mean), tuple(sigma), details.pop("models", models), {**found, **details})
