"""Between two passes of a model a computation can be stopped, or made to wait for another one.

Whoever starts a computation says by `PAUSE` what happens there; whoever runs a model calls `pause`.
Knows neither requests nor models. A thread started by `asyncio.to_thread` keeps what was set.
"""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar


class Stopped(Exception):
    """Nobody wants the result any longer. No error of a text, so nothing is tried again."""


def _go_on() -> None:
    return None


PAUSE: ContextVar[Callable[[], None]] = ContextVar("plainmed_pause", default=_go_on)
"""Called between passes, in the thread that computes; it may take its time, or raise `Stopped`."""


def pause() -> None:
    """Does what the running computation was told to do between two passes.

    Raises:
        Stopped: it shall end.
    """
    PAUSE.get()()
