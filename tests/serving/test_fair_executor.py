"""Jobs in threads: every tenant has its turn, and what nobody waits for is not begun."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from concurrent.futures import Executor, Future
from functools import partial
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.core.context import RequestContext
from serve_app.core.errors import Unavailable
from serve_app.serving.deployments.generator import FairExecutor


class ByHand(Executor):
    """Threads that are free when a test says so."""

    def __init__(self) -> None:
        self.given: list[Callable[[], Any]] = []

    def submit(self, work: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        self.given.append(partial(work, *args, **kwargs))
        return Future()

    def free(self) -> None:
        """One more thread is free."""
        self.given.pop(0)()


@given(st.lists(st.sampled_from(["a", "b", "c", "d", None]), max_size=60))
def test_no_share_waits_for_more_than_one_job_of_each_other_for_each_free_thread(
    events: list[str | None],
) -> None:
    """A name: a job of that tenant comes. None: a thread is free."""
    threads, begun = ByHand(), list[str]()
    turns = FairExecutor(threads)
    waiting: Counter[str] = Counter()
    others: dict[str, Counter[str]] = {}
    for event in [*events, *[None] * len(events)]:
        if event is not None:
            turns.submit(partial(begun.append, event), RequestContext(event))
            if not waiting[event]:
                others[event] = Counter()
            waiting[event] += 1
        elif threads.given:
            threads.free()
            tenant = begun[-1]
            waiting[tenant] -= 1
            others[tenant] = Counter()
            for other, seen in others.items():
                if other != tenant and waiting[other]:
                    seen[tenant] += 1
                    assert seen[tenant] == 1, f"{other} waited for two of {tenant}: {begun}"
    assert Counter(begun) == Counter(event for event in events if event is not None)


def test_jobs_of_a_share_are_begun_in_their_order() -> None:
    threads, begun = ByHand(), list[int]()
    turns = FairExecutor(threads)
    for number in range(5):
        turns.submit(partial(begun.append, number), RequestContext("a"))
    for _ in range(5):
        threads.free()
    assert begun == list(range(5))


def test_what_is_cancelled_is_not_begun_and_is_no_turn() -> None:
    threads, begun = ByHand(), list[str]()
    turns = FairExecutor(threads)
    first, *_ = [
        turns.submit(partial(begun.append, name), RequestContext(name[0]))
        for name in ("a1", "a2", "b1")
    ]
    assert first.cancel()
    threads.free()
    assert begun == ["a2"]
    threads.free()
    threads.free()  # of the one that was cancelled: there is nothing left
    assert begun == ["a2", "b1"]


def test_past_its_deadline_a_job_is_not_begun_and_says_so() -> None:
    threads, begun = ByHand(), list[str]()
    turns = FairExecutor(threads)
    late = turns.submit(partial(begun.append, "late"), RequestContext(deadline=0.0))
    other = turns.submit(partial(begun.append, "other"), RequestContext())
    threads.free()
    with pytest.raises(Unavailable) as caught:
        late.result(0)
    assert caught.value.code == "timeout"
    assert begun == ["other"]
    assert other.done()


def test_what_a_job_raises_is_for_whoever_waits() -> None:
    threads = ByHand()
    turns = FairExecutor(threads)

    def fail() -> None:
        raise LookupError("a library quotes the patient")

    job = turns.submit(fail, RequestContext())
    threads.free()
    with pytest.raises(LookupError):
        job.result(0)
    again = turns.submit(lambda: 3, RequestContext())
    threads.free()
    assert again.result(0) == 3
