"""A thread pool shared fairly: waiting jobs start in turn, one of each tenant.

So a request of a thousand jobs delays one of a single job by no more than one job per thread. Jobs
nobody waits for any longer are not started. Knows neither Ray nor models.
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
        """Marks the job as begun; False where nobody waits for it any longer."""
        if not self.done.set_running_or_notify_cancel():
            return False
        if self.context.left() == 0:
            self.done.set_exception(out_of_time())
            return False
        return True

    def run(self) -> None:
        try:
            self.done.set_result(self.work())
        except BaseException as error:  # any kind: whoever waits must learn of it
            self.done.set_exception(error)


class FairExecutor:
    """Runs the jobs of several tenants in `threads`, any pool that starts work in order of arrival.

    May be used from any thread.
    """

    def __init__(self, threads: Executor) -> None:
        self._threads = threads
        self._lock = threading.Lock()
        self._tenants: OrderedDict[str, deque[_Job]] = OrderedDict()

    def submit(self, work: Callable[[], Result], context: RequestContext) -> Future[Result]:
        """Runs `work` when its tenant has its turn, unless the future is cancelled before.

        Returns:
            The result, what `work` raised, or `Unavailable` (`timeout`) where the context's
            deadline passed before its turn.
        """
        job = _Job(work, context)
        with self._lock:
            self._tenants.setdefault(context.tenant, deque()).append(job)
        # Only adds one more call: a free thread takes the job whose turn it is.
        self._threads.submit(self._run_next)
        return job.done

    def _run_next(self) -> None:
        if job := self._take():
            job.run()

    def _take(self) -> _Job | None:
        """The next job, begun; None where nobody waits for those that are left."""
        with self._lock:
            while self._tenants:
                tenant, jobs = next(iter(self._tenants.items()))
                job = jobs.popleft()
                begins = job.begins()
                if not jobs:
                    del self._tenants[tenant]
                elif begins:  # a job that was not begun takes no turn
                    self._tenants.move_to_end(tenant)
                if begins:
                    return job
        return None
