"""Runs coroutines in an event loop of its own thread, for callers that have none.

Knows neither HTTP nor models. A caller waits in its own thread, and asks meanwhile whether its
work is still wanted; what is not is cancelled where it awaits.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import CancelledError, Future, wait
from typing import Any, TypeVar

Result = TypeVar("Result")

POLL_S = 0.05
"""Longest time between two questions whether the work is still wanted."""


class AsyncCalls:
    """An event loop in a daemon thread; safe to use from several threads."""

    def __init__(self, name: str) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name=name, daemon=True)
        self._thread.start()

    def submit(self, work: Coroutine[Any, Any, Result]) -> Future[Result]:
        """Starts `work`; cancelling the future cancels it where it awaits."""
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    def gather(
        self,
        works: Sequence[Coroutine[Any, Any, Result]],
        cancelled: Callable[[int], bool] | None = None,
    ) -> list[Result | None]:
        """Runs all of `works` at once and waits for them.

        Args:
            works: what to run.
            cancelled: asked every `POLL_S` seconds with the position of what still runs; True
                cancels it.

        Returns:
            One result for each, None for a cancelled one.

        Raises:
            Exception: the error of the first in order that failed; the others are cancelled.
        """
        futures = [self.submit(work) for work in works]
        running = dict(zip(futures, range(len(futures)), strict=True))
        failed = False
        try:
            while running and not failed:
                ended, _ = wait(
                    running, POLL_S if cancelled else None, return_when="FIRST_COMPLETED"
                )
                for future in ended:
                    del running[future]
                    failed = failed or (not future.cancelled() and future.exception() is not None)
                for future, position in running.items():
                    if cancelled is not None and cancelled(position):
                        future.cancel()
        finally:
            for future in running:
                future.cancel()
        if failed:
            for future in futures:
                if future.done() and not future.cancelled():
                    future.result()
        return [_result(future) for future in futures]

    def close(self) -> None:
        """Cancels what runs and ends the thread."""

        async def end() -> None:
            others = asyncio.all_tasks() - {asyncio.current_task()}
            for task in others:
                task.cancel()
            await asyncio.gather(*others, return_exceptions=True)

        if not self._thread.is_alive():
            return
        self.submit(end()).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


def _result(future: Future[Result]) -> Result | None:
    try:
        return future.result()
    except CancelledError:
        return None
