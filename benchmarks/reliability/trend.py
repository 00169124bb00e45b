"""Does a measured series grow? A slope with its confidence, and the rule that decides.

Memory is no row of independent readings: it stays where it is, and jumps. So residuals are drawn
in blocks (moving block bootstrap; Künsch, 1989), which keeps what follows each other together;
an interval of ordinary least squares would be several times too narrow.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

RESAMPLES = 2000
CONFIDENCE = 0.95
HOUR_S = 3600.0


@dataclass(frozen=True, slots=True)
class Trend:
    """A fitted line.

    Attributes:
        per_hour: its slope.
        low, high: ends of the 95 % interval of the slope.
        over_run: what the line gains from the first reading to the last.
    """

    per_hour: float
    low: float
    high: float
    over_run: float

    def grows(self, negligible: float) -> bool:
        """Whether the interval lies above 0 and the run gained `negligible` or more."""
        return self.low > 0 and self.over_run >= negligible


def trend(seconds: Sequence[float], values: Sequence[float], *, seed: int = 0) -> Trend:
    """The least-squares line through readings, and the interval of its slope.

    Args:
        seconds: when each was taken, ascending.
        values: the readings; at least 8, finite.
        seed: of the draws.

    Raises:
        ValueError: fewer than 8 readings, or lists of different lengths.
    """
    if len(values) < 8 or len(seconds) != len(values):
        raise ValueError("a trend needs 8 readings or more, and the time of each")
    hours = (np.asarray(seconds, dtype=np.float64) - seconds[0]) / HOUR_S
    measured = np.asarray(values, dtype=np.float64)
    slope, residuals = _fit(hours, measured)
    rng = np.random.default_rng(seed)
    count = len(measured)
    # The square root of their number: two minutes of readings ten seconds apart.
    block = int(np.ceil(np.sqrt(count)))
    starts = rng.integers(0, count - block + 1, size=(RESAMPLES, -(-count // block)))
    drawn = (starts[:, :, None] + np.arange(block)).reshape(RESAMPLES, -1)[:, :count]
    centred = hours - hours.mean()
    errors = residuals[drawn] @ centred / (centred @ centred)
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(slope + errors - errors.mean(), [tail, 1 - tail])
    return Trend(slope, float(low), float(high), slope * float(hours[-1]))


def _fit(hours: Floats, values: Floats) -> tuple[float, Floats]:
    """Slope and residuals of the least-squares line."""
    centred = hours - hours.mean()
    around = values - values.mean()
    slope = float(centred @ around / (centred @ centred))
    return slope, around - slope * centred
