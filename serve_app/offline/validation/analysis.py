"""What the measurements say: how far each measure moves under each edit, with intervals.

Two numbers each: the mean paired difference, in standard deviations of the measure over the
unedited summaries; and the share of summaries in which it moved the way the edit should move it, a
tie counting half, so that 50 % is a measure that does not see the edit. The intervals of the first
are bootstrapped (BCa) over the texts. Those of the shares are Wilson's, since resamples of texts
that all agree have no spread (Wilson, "Probable inference, the law of succession, and statistical
inference", JASA 22, 1927). Knows numbers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from serve_app.offline.bootstrap import CONFIDENCE, Floats, intervals
from serve_app.offline.report.statistics import TIE
from serve_app.offline.validation.measuring import BETTER_UP, MEASURES, Measurements
from serve_app.offline.validation.perturbations import Aspect, Wanted

RESAMPLES = 2000
Interval = tuple[float, float]


@dataclass(frozen=True)
class Effect:
    """One measure under one edit.

    Attributes:
        moved: share of texts in which the measure moved as wanted, in [0, 1]; a tie counts half.
            Where nothing should change, the share in which it got worse.
        moved_interval: its interval.
        change: mean change of the measure in its own units.
        effect: mean change towards worse (better, where that is wanted), in standard deviations of
            the measure; None where it has none.
        effect_interval: its interval, or None.
    """

    moved: float
    moved_interval: Interval
    change: float
    effect: float | None
    effect_interval: Interval | None

    @property
    def seen(self) -> bool | None:
        """Whether it moved as wanted (True) or the other way (False), as far as the interval says;
        None where it cannot be told from chance."""
        low, high = self.moved_interval
        return None if low <= 0.5 <= high else self.moved > 0.5


@dataclass(frozen=True)
class KindEffects:
    """All measures under one edit; `n` texts have a place for it, and no effect is without one."""

    name: str
    aspect: Aspect
    wanted: Wanted
    n: int
    effects: dict[str, Effect]


def effects(found: Measurements, seed: int = 0) -> list[KindEffects]:
    """The effects of each kind of edit on each measure."""
    spread = found.base.std(axis=0, ddof=1) if len(found.base) > 1 else np.zeros(len(MEASURES))
    worse = np.array([-1.0 if name in BETTER_UP else 1.0 for name in MEASURES])
    rows = []
    for kind, perturbed in found.perturbed.items():
        there = ~np.isnan(perturbed).any(axis=1)
        change = perturbed[there] - found.base[there]
        towards = change * (-worse if kind.wanted == "better" else worse)
        n = int(there.sum())
        named = (
            dict(zip(MEASURES, _effects(change, towards, spread, seed), strict=True)) if n else {}
        )
        rows.append(KindEffects(kind.name, kind.aspect, kind.wanted, n, named))
    return rows


def _effects(change: Floats, towards: Floats, spread: Floats, seed: int) -> Sequence[Effect]:
    moved = np.where(np.abs(towards) <= TIE, 0.5, (towards > 0).astype(float)).mean(axis=0)
    ends: list[list[float] | None] = [None] * len(MEASURES)
    if len(towards) > 1:
        drawn = intervals(towards, resamples=RESAMPLES, confidence=CONFIDENCE, seed=seed)
        ends = drawn.mean.tolist()
    found = []
    for at, sd in enumerate(spread.tolist()):
        scaled = sd > TIE
        interval = ends[at] if scaled else None
        found.append(
            Effect(
                moved=float(moved[at]),
                moved_interval=wilson(float(moved[at]), len(towards)),
                change=float(change[:, at].mean()),
                effect=float(towards[:, at].mean()) / sd if scaled else None,
                effect_interval=None if interval is None else (interval[0] / sd, interval[1] / sd),
            )
        )
    return found


def wilson(share: float, n: int) -> Interval:
    """Wilson's score interval of a share of `n` (at least one).

    >>> [round(end, 3) for end in wilson(1.0, 4)]
    [0.51, 1.0]
    """
    z = NormalDist().inv_cdf((1 + CONFIDENCE) / 2)
    middle = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return max(0.0, middle - half), min(1.0, middle + half)
