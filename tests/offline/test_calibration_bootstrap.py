"""Bootstrap intervals against scipy's, and against distributions whose truth is known."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy import stats

from serve_app.offline import bootstrap
from serve_app.offline.bootstrap import intervals, resampled


def sample(kind: str, rows: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    draws = {
        "normal": rng.normal(12, 2.5, (rows, 2)),
        "skewed": rng.gamma(1.5, 2.0, (rows, 2)),
        "share": rng.beta(2, 5, (rows, 2)),
    }
    return draws[kind]


def sd(values: np.ndarray, axis: int = -1) -> np.ndarray:
    return np.std(values, axis=axis, ddof=1)


KINDS = pytest.mark.parametrize("kind", ["normal", "skewed", "share"])


@KINDS
@pytest.mark.parametrize("rows", [3, 8, 60])
def test_of_the_same_resamples_the_ends_are_those_of_scipy(kind: str, rows: int) -> None:
    values = sample(kind, rows)[:, 0]
    for statistic, acceleration in (
        (np.mean, bootstrap.acceleration_of_mean(values)),
        (sd, bootstrap.acceleration_of_sd(values)),
    ):
        theirs = stats.bootstrap(
            (values,), statistic, n_resamples=2000, rng=np.random.default_rng(2)
        )
        ours = bootstrap.bca(
            float(statistic(values)), theirs.bootstrap_distribution, acceleration, 0.95
        )
        assert ours == pytest.approx([*theirs.confidence_interval], rel=1e-9)


@KINDS
@pytest.mark.parametrize("rows", [60, 400])
def test_intervals_are_those_of_scipy(kind: str, rows: int) -> None:
    table = sample(kind, rows)
    ours = intervals(table, resamples=20_000, seed=1)
    for column in range(2):
        values = table[:, column]
        for ends, statistic in ((ours.mean, np.mean), (ours.sd, sd)):
            theirs = stats.bootstrap(
                (values,), statistic, n_resamples=20_000, rng=np.random.default_rng(2)
            ).confidence_interval
            # Two sets of resamples: the ends differ by what 20,000 draws leave open.
            width = theirs.high - theirs.low
            assert ends[column] == pytest.approx([theirs.low, theirs.high], abs=0.04 * width)


@pytest.mark.parametrize("confidence", [0.8, 0.95])
def test_as_many_intervals_hold_the_truth_as_they_say(confidence: float) -> None:
    rng = np.random.default_rng(3)
    means = sds = 0
    runs = 400
    for run in range(runs):
        table = rng.normal(5.0, 2.0, (80, 1))
        found = intervals(table, resamples=400, confidence=confidence, seed=run)
        means += found.mean[0, 0] <= 5.0 <= found.mean[0, 1]
        sds += found.sd[0, 0] <= 2.0 <= found.sd[0, 1]
    # Three standard errors of a share of 400, and what n = 80 costs a bootstrap.
    room = 3 * (confidence * (1 - confidence) / runs) ** 0.5 + 0.02
    assert means / runs == pytest.approx(confidence, abs=room)
    assert sds / runs == pytest.approx(confidence, abs=room)


def test_resamples_spread_as_the_theory_says() -> None:
    table = sample("normal", 200)
    means, sds = resampled(table, 20_000, np.random.default_rng(0))
    plain = table.std(axis=0)
    assert means.mean(axis=0) == pytest.approx(table.mean(axis=0), abs=0.01)
    assert means.std(axis=0) == pytest.approx(plain / 200**0.5, rel=0.02)
    # The variance of a resample, divided by n - 1, is that of the table divided by n.
    assert (sds**2).mean(axis=0) == pytest.approx(plain**2, rel=0.02)


def test_a_table_counted_in_slices_has_the_same_distribution(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    table = sample("skewed", 500)
    whole = intervals(table, resamples=10_000, seed=4)
    monkeypatch.setattr(bootstrap, "_SLICE", 64)
    sliced = intervals(table, resamples=10_000, seed=5)
    width = whole.mean[:, 1] - whole.mean[:, 0]
    assert np.abs(sliced.mean - whole.mean).max() < 0.05 * width.max()
    width = whole.sd[:, 1] - whole.sd[:, 0]
    assert np.abs(sliced.sd - whole.sd).max() < 0.05 * width.max()


def test_slices_leave_no_row_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bootstrap, "_SLICE", 3)
    # A table of equal rows has one possible resample, if each takes as many rows as there are.
    means, sds = resampled(np.full((10, 1), 7.0), 50, np.random.default_rng(0))
    assert (means == 7.0).all()
    assert (sds == 0.0).all()
    # And the last row, alone in its slice, is drawn as often as any: once, on average.
    marked = np.zeros((10, 1))
    marked[9] = 10.0
    means, _ = resampled(marked, 4000, np.random.default_rng(0))
    assert means.mean() == pytest.approx(1.0, abs=0.06)


def test_the_same_seed_gives_the_same_intervals() -> None:
    table = sample("normal", 90)
    one, again, other = (intervals(table, resamples=500, seed=seed) for seed in (1, 1, 2))
    assert (one.mean == again.mean).all()
    assert (one.sd == again.sd).all()
    assert (one.mean != other.mean).any()


tables = arrays.arrays(
    np.float64,
    st.tuples(st.integers(2, 12), st.integers(1, 3)),
    elements=st.floats(-1e6, 1e6, allow_subnormal=False).map(lambda x: round(x, 6)),
)


@given(table=tables, seed=st.integers(0, 5))
def test_intervals_are_ordered_and_within_what_resamples_can_reach(
    table: np.ndarray, seed: int
) -> None:
    found = intervals(table, resamples=200, seed=seed)
    for ends in (found.mean, found.sd):
        assert np.isfinite(ends).all()
        assert (ends[:, 0] <= ends[:, 1]).all()
    room = 1e-6 * (1 + np.abs(table).max(axis=0))
    assert (found.mean[:, 0] >= table.min(axis=0) - room).all()
    assert (found.mean[:, 1] <= table.max(axis=0) + room).all()
    assert (found.sd >= 0).all()


@given(table=tables, factor=st.sampled_from([0.5, 4.0]), shift=st.sampled_from([-8.0, 0.0, 100.0]))
def test_intervals_move_and_stretch_with_the_values(
    table: np.ndarray, factor: float, shift: float
) -> None:
    plain = intervals(table, resamples=200, seed=0)
    moved = intervals(table * factor + shift, resamples=200, seed=0)
    room = 1e-5 * (1 + np.abs(table).max())
    assert moved.mean == pytest.approx(plain.mean * factor + shift, abs=room)
    assert moved.sd == pytest.approx(plain.sd * factor, abs=room)
