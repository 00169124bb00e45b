"""The statistics of a report, against scipy and by their properties."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy import stats

from serve_app.offline.report.statistics import (
    differences,
    pearson,
    ranks,
    spearman,
    summaries,
    wins,
)

numbers = st.floats(-1e3, 1e3, allow_subnormal=False).map(lambda x: round(x, 3))


def tables(columns: int = 3, least: int = 3) -> st.SearchStrategy[np.ndarray]:
    shapes = st.tuples(st.integers(least, 25), st.just(columns))
    return arrays.arrays(np.float64, shapes, elements=numbers)


def sample(seed: int, rows: int = 80) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(rows, 3)) @ [[1, 0.4, 0], [0, 1, 2], [0, 0, 1]]


@given(values=arrays.arrays(np.float64, st.integers(1, 40), elements=numbers))
def test_ranks_are_those_of_scipy_with_ties(values: np.ndarray) -> None:
    assert ranks(values).tolist() == stats.rankdata(values).tolist()


@given(table=tables())
def test_correlations_are_those_of_scipy_or_none_for_a_constant(table: np.ndarray) -> None:
    for ours, theirs in ((pearson(table), stats.pearsonr), (spearman(table), stats.spearmanr)):
        for i in range(3):
            for j in range(3):
                if np.ptp(table[:, i]) == 0 or np.ptp(table[:, j]) == 0:
                    assert math.isnan(ours[i, j])
                else:
                    expected = theirs(table[:, i], table[:, j]).statistic
                    assert ours[i, j] == pytest.approx(expected, abs=1e-6)


def test_a_constant_that_is_no_binary_fraction_is_still_constant() -> None:
    table = np.column_stack([np.full(7, 0.1), np.arange(7.0)])
    assert math.isnan(pearson(table)[0, 1])


def test_one_row_correlates_with_nothing() -> None:
    assert np.isnan(pearson(np.ones((1, 2)))).all()


def test_the_effect_size_is_that_of_the_paired_t_test() -> None:
    one, other = sample(0), sample(1) + 0.3
    for at, found in enumerate(differences(one, other, resamples=50)):
        t = stats.ttest_rel(one[:, at], other[:, at]).statistic
        assert found.d_z == pytest.approx(t / math.sqrt(len(one)))
        assert found.n == len(one)
        assert found.mean == pytest.approx((one - other)[:, at].mean())


def test_the_interval_is_the_bca_interval_of_the_mean_difference() -> None:
    one, other = sample(2), sample(3)
    found = differences(one, other, resamples=4000)[1]
    reference = stats.bootstrap(
        ((one - other)[:, 1],), np.mean, n_resamples=4000, method="BCa", rng=5
    ).confidence_interval
    assert found.interval == pytest.approx((reference.low, reference.high), abs=0.06)
    assert found.interval[0] < found.mean < found.interval[1]


@given(one=tables(), factor=st.sampled_from([0.5, 2.0, 8.0]))
def test_the_effect_size_has_no_unit_and_changes_sign_with_the_order(
    one: np.ndarray, factor: float
) -> None:
    other = np.flip(one, axis=0) * 0.5
    forth = differences(one, other, resamples=2)
    back = differences(other, one, resamples=2)
    scaled = differences(one * factor, other * factor, resamples=2)
    for a, b, c in zip(forth, back, scaled, strict=True):
        assert a.mean == pytest.approx(-b.mean)
        if a.d_z is None:
            assert b.d_z is None
        else:
            assert b.d_z == pytest.approx(-a.d_z)
            assert c.d_z == pytest.approx(a.d_z)


def test_differences_that_are_all_alike_have_no_effect_size() -> None:
    one = np.array([[0.1], [0.4], [0.7]])
    (found,) = differences(one + 0.1, one, resamples=10)
    assert found.d_z is None
    assert found.interval == pytest.approx((0.1, 0.1))


def test_one_pair_has_a_difference_but_no_interval() -> None:
    (found,) = differences(np.array([[2.0]]), np.array([[0.5]]))
    assert (found.mean, found.interval, found.sd, found.d_z) == (1.5, None, None, None)


def test_tables_of_other_shapes_are_not_paired() -> None:
    with pytest.raises(ValueError, match="not paired"):
        differences(np.ones((3, 1)), np.ones((2, 1)))


@given(one=tables(), other=tables())
def test_every_pair_is_won_tied_or_lost_and_turns_around(
    one: np.ndarray, other: np.ndarray
) -> None:
    rows = min(len(one), len(other))
    forth, back = wins(one[:rows], other[:rows]), wins(other[:rows], one[:rows])
    for at, (a, b) in enumerate(zip(forth, back, strict=True)):
        assert a.n == rows
        assert (a.won, a.tied, a.lost) == (b.lost, b.tied, b.won)
        assert a.won == sum(one[:rows, at] < other[:rows, at])
        assert a.rate + b.rate == pytest.approx(1)


def test_a_difference_of_rounding_is_a_tie() -> None:
    (found,) = wins(np.array([[0.1 + 0.2]]), np.array([[0.3]]))
    assert (found.tied, found.rate) == (1, 0.5)


def test_a_summary_has_mean_deviation_and_quantiles() -> None:
    table = np.arange(101.0)[:, None]
    (found,) = summaries(table, resamples=500)
    assert (found.n, found.mean) == (101, 50)
    assert found.sd == pytest.approx(stats.tstd(table[:, 0]))
    assert found.quantiles == pytest.approx((5, 25, 50, 75, 95))
    assert found.interval is not None
    assert 43 < found.interval[0] < 50 < found.interval[1] < 57


def test_one_row_is_summarised_without_an_interval() -> None:
    (found,) = summaries(np.array([[3.0]]))
    assert (found.n, found.mean, found.interval, found.sd) == (1, 3, None, None)
