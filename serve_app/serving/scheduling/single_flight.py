"""Single-flight call with a TTL: concurrent callers share one call, later ones its fresh answer.

For questions that anybody may ask as often as they like.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextvars import Context
from typing import Generic, TypeVar

Answer = TypeVar("Answer")


class SingleFlight(Generic[Answer]):
    """A call shared by all its callers, for one event loop.

    Args:
        call: None means no answer; an exception reaches everyone who waits.
        fresh_s: how long an answer is reused, in seconds, >= 0.
    """

    def __init__(self, call: Callable[[], Awaitable[Answer | None]], fresh_s: float) -> None:
        self._call, self._fresh_s = call, fresh_s
        self._task: asyncio.Task[Answer | None] | None = None
        self._fresh_until = 0.0
        self.last: Answer | None = None
        """The last answer there was, however old."""

    def task(self) -> asyncio.Task[Answer | None]:
        """The call under way, the one whose answer is fresh, or a new one.

        Cancelling it cancels it for everyone: wait with `asyncio.wait`, or shielded.
        """
        fresh = time.monotonic() < self._fresh_until
        if self._task is None or (self._task.done() and not fresh):
            # In its own context: it must outlive the first caller's request, and not log its id.
            self._task = asyncio.create_task(self._run(), context=Context())
        return self._task

    async def get(self) -> Answer | None:
        """The answer; a caller cancelled meanwhile leaves the call to the others."""
        return await asyncio.shield(self.task())

    async def _run(self) -> Answer | None:
        answer = await self._call()
        if answer is not None:
            self.last = answer
            self._fresh_until = time.monotonic() + self._fresh_s
        return answer
