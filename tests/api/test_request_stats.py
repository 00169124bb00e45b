"""The rates of the last minutes: what is counted, what is forgotten, how replicas add up."""

from __future__ import annotations

import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.api.endpoints import CALLS
from serve_app.api.request_stats import GROWTH, SLOT_S, WINDOW_S, RequestStats, Tally, together


class Clock:
    """Seconds as the test says."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_only_routes_that_compute_are_counted_by_how_they_ended() -> None:
    recent = RequestStats(Clock())
    for status in (200, 200, 422, 503, 0):
        recent.answered("/loss", status, 0.1)
    for route in ("/healthz", "/status", "other", "/"):
        recent.answered(route, 200, 0.1)
    [(route, tally)] = recent.window().routes.items()
    assert route == "/loss"
    assert (tally.answered, tally.refused, tally.failed, tally.gone) == (2, 1, 1, 1)
    assert tally.requests == 5
    assert sum(tally.times.values()) == 2


def test_what_is_old_is_forgotten_and_a_young_replica_says_how_young_it_is() -> None:
    clock = Clock()
    recent = RequestStats(clock)
    recent.answered("/loss", 200, 0.1)
    recent.wrote(7)
    clock.now += 20
    assert recent.window().seconds == 20
    recent.answered("/loss", 200, 0.1)
    clock.now += WINDOW_S - 15
    window = recent.window()
    assert window.seconds == WINDOW_S
    assert window.routes["/loss"].answered == 1
    assert window.tokens == 0
    clock.now += SLOT_S + 15
    assert recent.window().routes == {}


def test_memory_does_not_grow_with_requests() -> None:
    clock = Clock()
    recent = RequestStats(clock)
    for _ in range(5000):
        clock.now += 1
        for route in CALLS:
            recent.answered(route, 200, 0.1)
    assert len(recent._slots) <= WINDOW_S / SLOT_S + 1


@given(st.lists(st.floats(1e-3, 300), min_size=1, max_size=50), st.floats(0.01, 1))
def test_a_quantile_is_the_answers_time_or_five_percent_more(
    times: list[float], share: float
) -> None:
    tally = Tally()
    for seconds in times:
        tally.count(200, seconds)
    found = tally.quantile(share)
    assert found is not None
    within = [one for one in sorted(times) if one <= found * (1 + 1e-9)]
    assert len(within) >= share * len(times) - 1e-6
    assert found <= max(within) * GROWTH * (1 + 1e-9)


def test_nothing_answered_has_no_quantile() -> None:
    assert Tally().quantile(0.5) is None


def test_replicas_add_up_also_after_a_way_between_processes() -> None:
    clock = Clock()
    one, other = RequestStats(clock), RequestStats(clock)
    clock.now += 10
    one.answered("/loss", 200, 0.1)
    other.answered("/loss", 200, 10.0)
    other.answered("/generate", 503, 0.1)
    other.wrote(5)
    windows = [pickle.loads(pickle.dumps(recent.window())) for recent in (one, other)]
    window = together(windows)
    assert window.seconds == 10
    assert window.routes["/loss"].answered == 2
    assert window.routes["/loss"].quantile(1.0) == pytest.approx(10.0, rel=0.05)
    assert window.routes["/generate"].failed == 1
    assert window.tokens == 5
    assert one.window().routes["/loss"].answered == 1  # not changed by it
