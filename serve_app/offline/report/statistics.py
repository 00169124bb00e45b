"""The statistics of a report, of numbers alone: summaries, differences, wins, correlations.

Bootstrap intervals are those of `serve_app.offline.bootstrap` (BCa). Cohen's d_z is that of
Lakens, "Calculating and reporting effect sizes", Frontiers in Psychology 4:863, 2013.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from serve_app.offline.bootstrap import intervals

Floats = NDArray[np.float64]

RESAMPLES = 2000
CONFIDENCE = 0.95
SHARES = (0.05, 0.25, 0.5, 0.75, 0.95)
TIE = 1e-9  # errors this near are a tie: what rounding alone makes different is no win

Interval = tuple[float, float]


@dataclass(frozen=True)
class MetricSummary:
    """One number over the rows of a system.

    Attributes:
        n: rows.
        mean: their mean, with its interval (None for one row, as `sd`).
        sd: sample standard deviation (divided by n - 1).
        quantiles: at `SHARES`.
    """

    n: int
    mean: float
    interval: Interval | None
    sd: float | None
    quantiles: tuple[float, float, float, float, float]


def summaries(table: Floats, *, resamples: int = RESAMPLES, seed: int = 0) -> list[MetricSummary]:
    """One summary a column of (rows, columns) finite numbers, at least one row."""
    rows = len(table)
    ends = _mean_intervals(table, resamples, seed)
    found = []
    for at, column in enumerate(table.T):
        low, q1, middle, q3, high = np.quantile(column, SHARES).tolist()
        sd = float(column.std(ddof=1)) if rows > 1 else None
        quantiles = (low, q1, middle, q3, high)
        found.append(MetricSummary(rows, float(column.mean()), ends[at], sd, quantiles))
    return found


def _mean_intervals(table: Floats, resamples: int, seed: int) -> list[Interval | None]:
    if len(table) < 2:
        return [None] * table.shape[1]
    found = intervals(table, resamples=resamples, confidence=CONFIDENCE, seed=seed).mean
    # What the sums of a resample leave of a zero is no side of it.
    return [(float(low), float(high)) for low, high in np.round(found, 12) + 0.0]


@dataclass(frozen=True)
class Difference:
    """A paired difference, the one system's number less the other's.

    Attributes:
        n: pairs.
        mean: mean difference, with its interval (None for one pair).
        sd: standard deviation of the differences (divided by n - 1), None for one pair.
        d_z: mean / sd; None where all differences are alike, and the effect so without a scale.
    """

    n: int
    mean: float
    interval: Interval | None
    sd: float | None
    d_z: float | None


def differences(
    one: Floats, other: Floats, *, resamples: int = RESAMPLES, seed: int = 0
) -> list[Difference]:
    """One difference a column of two (pairs, columns) tables, at least one pair.

    Raises:
        ValueError: the tables are not of one shape.
    """
    if one.shape != other.shape:
        raise ValueError(f"tables of shapes {one.shape} and {other.shape} are not paired")
    table = one - other
    ends = _mean_intervals(table, resamples, seed)
    found = []
    for at, column in enumerate(table.T):
        mean = float(column.mean())
        sd = float(column.std(ddof=1)) if len(column) > 1 else None
        found.append(Difference(len(column), mean, ends[at], sd, _effect(mean, sd, column)))
    return found


def _effect(mean: float, sd: float | None, column: Floats) -> float | None:
    # Alike but for rounding is alike: a quotient of two roundings says nothing.
    scale = float(np.abs(column).max(initial=0.0))
    if sd is None or sd <= 1e-12 * scale or sd == 0.0:
        return None
    return mean / sd


@dataclass(frozen=True)
class Wins:
    """How often the one system has the smaller error of a pair."""

    won: int
    tied: int
    lost: int

    @property
    def n(self) -> int:
        """Pairs."""
        return self.won + self.tied + self.lost

    @property
    def rate(self) -> float:
        """Share won, a tie counting half, in [0, 1]."""
        return (self.won + self.tied / 2) / self.n


def wins(one: Floats, other: Floats) -> list[Wins]:
    """One count a column of two (pairs, columns) tables of errors: the smaller one wins."""
    apart = one - other
    return [
        Wins(
            int((column < -TIE).sum()),
            int((np.abs(column) <= TIE).sum()),
            int((column > TIE).sum()),
        )
        for column in apart.T
    ]


def ranks(values: ArrayLike) -> Floats:
    """Ranks from 1; equal values share the mean of theirs.

    >>> ranks([3.0, 1.0, 3.0, 2.0]).tolist()
    [3.5, 1.0, 3.5, 2.0]
    """
    _, inverse, counts = np.unique(
        np.asarray(values, dtype=np.float64), return_inverse=True, return_counts=True
    )
    ends = np.cumsum(counts)
    return np.asarray((ends - (counts - 1) / 2)[inverse], dtype=np.float64)


def pearson(table: Floats) -> Floats:
    """(columns, columns) linear correlations; NaN where a column is constant or has one row."""
    rows, columns = table.shape
    if rows < 2:
        return np.full((columns, columns), math.nan)
    # Scaled first: squares of very large or small numbers would leave the range.
    largest = np.abs(table).max(axis=0)
    scaled = table / np.where(largest > 0, largest, 1.0)
    centred = scaled - scaled.mean(axis=0)
    lengths = np.sqrt(np.square(centred).sum(axis=0))
    # Constant, but for the rounding of the mean.
    lengths = np.where(lengths <= 1e-12 * math.sqrt(rows), math.nan, lengths)
    unit = centred / lengths
    return np.asarray(np.clip(unit.T @ unit, -1.0, 1.0))


def spearman(table: Floats) -> Floats:
    """(columns, columns) rank correlations, ties sharing ranks; NaN as in `pearson`."""
    return pearson(np.column_stack([ranks(column) for column in table.T]))
