"""Rank correlation of measures with human ratings, with bootstrap intervals. Knows numbers only.

Spearman's rho and Kendall's tau-b (Kendall, "The treatment of ties in ranking problems",
Biometrika 33, 1945). Intervals are percentiles of both over resampled rows. All measures share the
draws, so that two correlations can be compared.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from serve_app.offline.bootstrap import CONFIDENCE, Floats
from serve_app.offline.report.statistics import ranks, spearman

RESAMPLES = 2000
MOST_ROWS_OF_KENDALL = 5000  # it compares each row with each other

Interval = tuple[float, float]


@dataclass(frozen=True)
class Correlation:
    """One measure beside the ratings.

    Attributes:
        n: texts.
        spearman, kendall: in [-1, 1]; None where the measure or the ratings are constant, and for
            Kendall above `MOST_ROWS_OF_KENDALL` texts.
        spearman_interval, kendall_interval: of the resamples in which there is a number.
        beyond: |spearman| less that of the reference measure, with its interval; None for the
            reference and where there is none.
    """

    n: int
    spearman: float | None
    spearman_interval: Interval | None
    kendall: float | None
    kendall_interval: Interval | None
    beyond: float | None = None
    beyond_interval: Interval | None = None


def correlations(
    measures: Mapping[str, ArrayLike],
    ratings: ArrayLike,
    *,
    reference: str | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> dict[str, Correlation]:
    """The correlation of each measure with the ratings.

    Args:
        measures: by name, a finite number a text, at least three.
        ratings: one a text.
        reference: the measure with which the others are compared.
        resamples: of the intervals.
        seed: of the draws.
    """
    table = np.column_stack([*map(np.asarray, measures.values()), np.asarray(ratings)])
    table = np.column_stack([ranks(column) for column in table.T])
    rows = len(table)
    rng = np.random.default_rng(seed)
    draws = rng.integers(0, rows, (resamples, rows))
    rho = spearman(table)[-1, :-1]
    with np.errstate(invalid="ignore"):
        drawn = np.array([spearman(table[draw])[-1, :-1] for draw in draws])
    tau = np.full(len(measures), np.nan)
    taus = np.full((resamples, len(measures)), np.nan)
    if rows <= MOST_ROWS_OF_KENDALL:
        counts = np.array([np.bincount(draw, minlength=rows) for draw in draws], dtype=np.float32)
        every = np.vstack([np.ones((1, rows), dtype=np.float32), counts])
        found = _kendall(table, every)
        tau, taus = found[0], found[1:]
    names = list(measures)
    base = names.index(reference) if reference is not None and reference in names else None
    results = {}
    for at, name in enumerate(names):
        beyond = ends = None
        if base is not None and at != base and np.isfinite(rho[[at, base]]).all():
            beyond = float(abs(rho[at]) - abs(rho[base]))
            ends = _ends(np.abs(drawn[:, at]) - np.abs(drawn[:, base]))
        results[name] = Correlation(
            rows, _number(rho[at]), _ends(drawn[:, at]), _number(tau[at]), _ends(taus[:, at]),
            beyond, ends,
        )  # fmt: skip
    return results


def _kendall(table: Floats, counts: Floats) -> Floats:
    """Tau-b of each column with the last one, for each row of `counts`: how often a text is drawn.

    Concordant less discordant pairs are counts' S counts, with S the product of both columns' signs
    of differences; so are the pairs that are not tied, with the signs' squares.
    """

    def signs(column: Floats) -> Floats:
        return np.sign(column[:, None] - column[None, :]).astype(np.float32)

    def pairs(of: Floats) -> Floats:
        return np.asarray(((counts @ of) * counts).sum(axis=1, dtype=np.float64))

    last = signs(table[:, -1])
    untied = pairs(np.abs(last))
    found = []
    for column in table[:, :-1].T:
        own = signs(column)
        both = np.sqrt(pairs(np.abs(own)) * untied)
        with np.errstate(invalid="ignore", divide="ignore"):
            found.append(np.where(both > 0, pairs(own * last) / both, np.nan))
    return np.column_stack(found)


def _number(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def _ends(drawn: Floats) -> Interval | None:
    there = drawn[np.isfinite(drawn)]
    if len(there) < len(drawn) / 2:
        return None
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(there, [tail, 1 - tail]).tolist()
    return low, high
