"""One question at a time for all who ask, and its answer for a while.

For what anybody may ask for as often as they like. Knows neither what is asked nor whom.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextvars import Context
from typing import Generic, TypeVar

Answer = TypeVar("Answer")


class SingleFlight(Generic[Answer]):
    """Made for one event loop.

    Args:
        ask: asks; None is no answer, and what it raises reaches those who wait.
        fresh_s: for how long an answer is given again, >= 0.
    """

    def __init__(self, ask: Callable[[], Awaitable[Answer | None]], fresh_s: float) -> None:
        self._ask, self._fresh_s = ask, fresh_s
        self._asking: asyncio.Task[Answer | None] | None = None
        self._until = 0.0
        self.last: Answer | None = None
        """The last answer there was, however old."""

    def asked(self) -> asyncio.Task[Answer | None]:
        """The question under way, the one whose answer is fresh, or a new one.

        Whoever cancels it cancels it for all: wait with `asyncio.wait`, or shielded.
        """
        fresh = time.monotonic() < self._until
        if self._asking is None or (self._asking.done() and not fresh):
            # In a context of its own: it is no part of the request that came first, whose end would
            # end it and whose id would be in the log.
            self._asking = asyncio.create_task(self._answer(), context=Context())
        return self._asking

    async def get(self) -> Answer | None:
        """The answer; who is cancelled meanwhile leaves the question to the others."""
        return await asyncio.shield(self.asked())

    async def _answer(self) -> Answer | None:
        answer = await self._ask()
        if answer is not None:
            self.last = answer
            self._until = time.monotonic() + self._fresh_s
        return answer
