"""What computes lets what answers go first."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from collections.abc import Sequence

import pytest

from serve_app.serving.scheduling.compute_thread import NICENESS, lower_priority, run_batch

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="threads have no niceness there")


def niceness() -> int:
    return os.getpriority(os.PRIO_PROCESS, 0)


def measured(items: Sequence[int]) -> list[int]:
    return [niceness() for _ in items]


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
        inner = threading.Thread(target=lambda: found.append(niceness()))
        inner.start()
        inner.join()

    thread = threading.Thread(target=compute)
    thread.start()
    thread.join()
    assert found == [NICENESS]


async def test_where_the_system_refuses_it_computes_all_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refused(*_: int) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "setpriority", refused)
    assert await asyncio.create_task(run_batch(lambda items: list(items), [1, 2])) == [1, 2]
