"""Whether a series grows is decided as the page says, also where readings hang together."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.reliability.processes import Usage
from benchmarks.reliability.trend import trend
from benchmarks.soak import growing, table, trends

TIMES = [10.0 * n for n in range(144)]


def wandering(seed: int, leak_per_hour: float = 0.0) -> list[float]:
    """Readings that stay near where the last one was, and a leak."""
    rng = np.random.default_rng(seed)
    level, found = 0.0, []
    for at in TIMES:
        level = 0.8 * level + rng.normal()
        found.append(500.0 + level + leak_per_hour * at / 3600)
    return found


def test_a_straight_line_is_found_exactly() -> None:
    found = trend(TIMES, [3.0 + 12.0 * at / 3600 for at in TIMES])
    assert (found.per_hour, found.low, found.high) == pytest.approx((12.0, 12.0, 12.0))
    assert found.over_run == pytest.approx(12.0 * TIMES[-1] / 3600)
    assert trend(TIMES, [7.0] * len(TIMES)).grows(0.0) is False


def test_readings_that_hang_together_and_do_not_grow_are_seldom_called_growth() -> None:
    found = [trend(TIMES, wandering(seed)) for seed in range(200)]
    # Some 87 %: blocks are short beside such memory. Of intervals by least squares it is half.
    assert sum(one.low <= 0 <= one.high for one in found) >= 0.85 * len(found)


def test_a_leak_among_them_is_found() -> None:
    found = [trend(TIMES, wandering(seed, leak_per_hour=20.0)) for seed in range(100)]
    assert sum(one.grows(1.0) for one in found) >= 95
    assert sum(one.low <= 20 <= one.high for one in found) >= 80


def test_what_is_gained_has_to_matter() -> None:
    slow = trend(TIMES, [500.0 + 1e-4 * n for n in range(144)])
    assert slow.low > 0
    assert not slow.grows(1.0)


@pytest.mark.parametrize("values", [[1.0] * 7, [1.0] * 9])
def test_too_few_readings_or_times_are_an_error(values: list[float]) -> None:
    with pytest.raises(ValueError, match="readings"):
        trend(TIMES[: 7 if len(values) == 7 else 8], values)


def test_the_table_names_what_grows_and_in_which_process() -> None:
    samples = [
        (
            at,
            {
                "Loss": Usage(1, 1, 400.0, 500.0, 80, 40, 0.0),
                "Gateway": Usage(1, 1, 400.0 + at / 60, 500.0, 80 + int(at) // 100, 40, 0.0),
            },
        )
        for at in TIMES
    ]
    found = trends(samples)
    assert growing(found) == [
        "Gateway: MiB", "Gateway: file descriptors", "all: MiB", "all: file descriptors",
    ]  # fmt: skip
    rows = table(samples, found).splitlines()
    assert "1 x Gateway | 400.0, 423.8 | +60.0 (" in rows[2]
    assert rows[2].endswith("| 80, 94 | 40, 40 | MiB, file descriptors grow |")
    assert rows[3].endswith("| 80, 80 | 40, 40 | no growth |")
    assert rows[4].startswith("| 2 x all |")
