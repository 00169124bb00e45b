"""Threads that compute have the least CPU priority."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Sequence

import pytest

from serve_app.serving.scheduling.compute_thread import NICENESS, lower_priority
from serve_app.serving.scheduling.fair_batcher import run_batch

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="threads have no niceness there")


def niceness() -> int:
    return os.getpriority(os.PRIO_PROCESS, 0)


def measured(items: Sequence[int]) -> list[int]:
    return [niceness() for _ in items]


def in_thread(work: Callable[[], None]) -> None:
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()


@pytest.mark.parametrize("items", [[1], [1, 2]], ids=["one", "several"])
async def test_a_batch_has_the_least_priority_and_its_event_loop_keeps_its_own(
    items: list[int],
) -> None:
    before = niceness()
    assert await run_batch(measured, items) == [NICENESS] * len(items)
    assert niceness() == before


def test_threads_that_a_computing_one_starts_have_its_priority() -> None:
    found: list[int] = []

    def compute() -> None:
        lower_priority()
        in_thread(lambda: found.append(niceness()))

    in_thread(compute)
    assert found == [NICENESS]


def test_where_the_system_refuses_it_computes_all_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refused(*_: int) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "setpriority", refused)
    found: list[str] = []

    def compute() -> None:
        lower_priority()
        found.append("computed")

    in_thread(compute)
    assert found == ["computed"]
