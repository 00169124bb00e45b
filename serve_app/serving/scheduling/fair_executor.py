"""Threads that work for several requests, in which every tenant has its turn.

Knows neither Ray nor models. Jobs that wait are begun in turns, one of each tenant, so a request of
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

from serve_app.core.context import RequestContext
from serve_app.core.errors import out_of_time

Result = TypeVar("Result")


@dataclass(eq=False)
class _Job:
    work: Callable[[], Any]
    context: RequestContext
    done: Future[Any] = field(default_factory=Future)

    def begins(self) -> bool:
        """Marks it as begun; False where nobody waits for it any longer."""
        if not self.done.set_running_or_notify_cancel():
            return False
        if self.context.left() == 0:
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


class FairExecutor:
    """Gives the jobs of several tenants to threads. May be used from any thread.

    Args:
        threads: runs what it is given, in the order it was given.
    """

    def __init__(self, threads: Executor) -> None:
        self._threads = threads
        self._lock = threading.Lock()
        self._tenants: OrderedDict[str, deque[_Job]] = OrderedDict()

    def submit(self, work: Callable[[], Result], context: RequestContext) -> Future[Result]:
        """Runs `work` when its tenant has its turn.

        Returns:
            What becomes of it: its result, what it raised, or `Unavailable` (`timeout`) where the
            context's deadline had passed before its turn. Cancelled before, it is not begun.
        """
        job = _Job(work, context)
        with self._lock:
            self._tenants.setdefault(context.tenant, deque()).append(job)
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
            while self._tenants:
                tenant, jobs = next(iter(self._tenants.items()))
                job = jobs.popleft()
                begins = job.begins()
                if not jobs:
                    del self._tenants[tenant]
                elif begins:  # what was not begun was no turn
                    self._tenants.move_to_end(tenant)
                if begins:
                    return job
        return None
