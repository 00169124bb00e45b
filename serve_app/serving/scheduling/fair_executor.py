"""Threads that work for several requests, in which every share has its turn.

Knows neither Ray nor models. Jobs that wait are begun in turns, one of each share, so a request of
a thousand jobs delays one of a single job by no more than one job for each thread. What nobody
waits for any longer is not begun.
"""

from __future__ import annotations

import threading
from collections import OrderedDict, deque
from collections.abc import Callable
from concurrent.futures import Executor, Future
from dataclasses import dataclass, field
from typing import Any, TypeVar

from serve_app.core.context import Ticket
from serve_app.core.errors import out_of_time

Result = TypeVar("Result")


@dataclass(eq=False)
class _Job:
    work: Callable[[], Any]
    ticket: Ticket
    done: Future[Any] = field(default_factory=Future)

    def begins(self) -> bool:
        """Marks it as begun; False where nobody waits for it any longer."""
        if not self.done.set_running_or_notify_cancel():
            return False
        if self.ticket.left() == 0:
            self.done.set_exception(out_of_time())
            return False
        return True

    def run(self) -> None:
        try:
            result = self.work()
        except BaseException as error:  # of whatever kind: whoever waits is told
            self.done.set_exception(error)
        else:
            self.done.set_result(result)


class Turns:
    """Gives the jobs of several shares to threads. May be used from any thread.

    Args:
        threads: runs what it is given, in the order it was given.
    """

    def __init__(self, threads: Executor) -> None:
        self._threads = threads
        self._lock = threading.Lock()
        self._shares: OrderedDict[str, deque[_Job]] = OrderedDict()

    def submit(self, work: Callable[[], Result], ticket: Ticket) -> Future[Result]:
        """Runs `work` when its share has its turn.

        Returns:
            What becomes of it: its result, what it raised, or `Unavailable` (`timeout`) where the
            ticket's deadline had passed before its turn. Cancelled before, it is not begun.
        """
        job = _Job(work, ticket)
        with self._lock:
            self._shares.setdefault(ticket.share, deque()).append(job)
        # Says only that there is one job more: a free thread takes the one whose turn it is.
        self._threads.submit(self._next)
        return job.done

    def _next(self) -> None:
        job = self._take()
        if job is not None:
            job.run()

    def _take(self) -> _Job | None:
        """The next job, begun; None where those that were left are not wanted any more."""
        with self._lock:
            while self._shares:
                share, jobs = next(iter(self._shares.items()))
                job = jobs.popleft()
                begins = job.begins()
                if not jobs:
                    del self._shares[share]
                elif begins:  # what was not begun was no turn
                    self._shares.move_to_end(share)
                if begins:
                    return job
        return None
