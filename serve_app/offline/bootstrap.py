"""Bootstrap confidence intervals of means and standard deviations. Knows numbers only.

The interval is BCa (bias-corrected and accelerated; Efron, 1987): the percentile interval, its
ends moved by the bias of the resampled statistic and by how its spread depends on its value. A
standard deviation needs that: its resampled values are skewed and too small.
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

RESAMPLES = 5000
CONFIDENCE = 0.95

_SLICE = 1 << 16  # rows whose draws are counted at once
_CELLS = 1 << 20  # draws held at once, about
_NORMAL = NormalDist()


@dataclass(frozen=True)
class Intervals:
    """Ends of the intervals: (columns, 2) for the means and for the standard deviations."""

    mean: Floats
    sd: Floats


def intervals(
    table: Floats,
    *,
    resamples: int = RESAMPLES,
    confidence: float = CONFIDENCE,
    seed: int = 0,
) -> Intervals:
    """BCa intervals of each column's mean and sample standard deviation.

    Args:
        table: (rows, columns), at least 2 rows, finite. A resample draws whole rows.
        resamples: how many, >= 1. The time is that of `resamples` passes over the table; the
            memory does not grow with the rows but for a few columns of numbers.
        confidence: the share of the intervals that hold the true value, in (0, 1).
        seed: of the draws; the same gives the same intervals.
    """
    rng = np.random.default_rng(seed)
    means, sds = resampled(table, resamples, rng)
    ends: tuple[list[Floats], list[Floats]] = ([], [])
    for column in range(table.shape[1]):
        values = table[:, column]
        for found, theta, drawn, acceleration in (
            (ends[0], values.mean(), means[:, column], acceleration_of_mean(values)),
            (ends[1], values.std(ddof=1), sds[:, column], acceleration_of_sd(values)),
        ):
            found.append(bca(float(theta), drawn, acceleration, confidence))
    return Intervals(np.array(ends[0]), np.array(ends[1]))


def resampled(table: Floats, resamples: int, rng: np.random.Generator) -> tuple[Floats, Floats]:
    """Means and sample standard deviations of resampled tables: two (resamples, columns).

    How often each row is drawn is counted slice by slice: first how many draws fall into each
    slice (multinomial), then on which of its rows. That is the same as drawing from all rows,
    without a list of all draws. Sums are then a matrix product of counts and values.
    """
    rows, columns = table.shape
    starts = range(0, rows, _SLICE)
    sizes = np.array([min(_SLICE, rows - start) for start in starts])
    # Around the mean, so that the difference of squares loses no digits.
    centre = table.mean(axis=0)
    means = np.empty((resamples, columns))
    sds = np.empty((resamples, columns))
    step = max(1, _CELLS // rows)
    for first in range(0, resamples, step):
        count = min(step, resamples - first)
        draws = rng.multinomial(rows, sizes / rows, size=count)
        sums = np.zeros((count, 2 * columns))
        for at, (start, size) in enumerate(zip(starts, sizes.tolist(), strict=True)):
            part = table[start : start + size] - centre
            owner = np.repeat(np.arange(count), draws[:, at])
            picked = owner * size + rng.integers(0, size, size=owner.size)
            times = np.bincount(picked, minlength=count * size).reshape(count, size)
            sums += times.astype(np.float64) @ np.hstack([part, part * part])
        shift = sums[:, :columns] / rows
        squares = sums[:, columns:] - rows * shift * shift
        means[first : first + count] = centre + shift
        sds[first : first + count] = np.sqrt(np.maximum(squares, 0.0) / (rows - 1))
    return means, sds


def bca(theta: float, drawn: Floats, acceleration: float, confidence: float) -> Floats:
    """The ends of one interval.

    Args:
        theta: the statistic of the rows themselves.
        drawn: of each resample.
        acceleration: of the statistic on these rows.
        confidence: in (0, 1).
    """
    # Ties count half. Of all or no resamples below, no more is known than one in them all.
    below = ((drawn < theta).mean() + (drawn <= theta).mean()) / 2
    least = 1 / (2 * len(drawn))
    bias = _NORMAL.inv_cdf(float(np.clip(below, least, 1 - least)))
    tail = (1 - confidence) / 2
    shares = []
    for share in (tail, 1 - tail):
        z = bias + _NORMAL.inv_cdf(share)
        divisor = 1 - acceleration * z
        # An acceleration this large is that of a handful of rows with an outlier.
        moved = bias + z / divisor if divisor > 0 else np.copysign(np.inf, z)
        shares.append(_NORMAL.cdf(float(moved)))
    return np.asarray(np.quantile(drawn, sorted(shares)))


def acceleration_of_mean(values: Floats) -> float:
    """How fast the standard error of the mean changes with it, from the rows' influence."""
    # The mean without row i is the mean less (x_i - mean) / (n - 1).
    return _acceleration(values - values.mean())


def acceleration_of_sd(values: Floats) -> float:
    """The same of the sample standard deviation; 0 for two rows."""
    rows = len(values)
    if rows < 3:
        return 0.0  # without one of two rows there is no deviation
    squares = np.square(values - values.mean())
    without = np.sqrt(np.maximum(squares.sum() - squares * (rows / (rows - 1)), 0.0) / (rows - 2))
    return _acceleration(without.mean() - without)


def _acceleration(influence: Floats) -> float:
    """A sixth of the skewness of the rows' influence on the statistic (from the jackknife)."""
    spread = float(np.square(influence).sum())
    if spread == 0.0:
        return 0.0
    return float((influence**3).sum() / (6 * spread**1.5))
