"""How long the parts of one request took: noted where they happen, gathered where it is answered.

Knows no HTTP, no Ray and no text: names come from the code, values are seconds. From another
process they come with the results (`Timed`).
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeVar

T = TypeVar("T")

QUEUE = "_queue"
"""What the names of waiting times end with. Of several the longest counts; other stages add up."""

_CURRENT: ContextVar[dict[str, float] | None] = ContextVar("plainmed_stages", default=None)


class Timed(list[T]):
    """Results, the seconds of the stages they went through, and what computed them.

    Attributes:
        seconds: by stage.
        model, device: of the replica that gave the results; None where it does not say.
    """

    def __init__(
        self,
        results: Iterable[T] = (),
        seconds: Mapping[str, float] | None = None,
        model: str | None = None,
        device: str | None = None,
    ) -> None:
        super().__init__(results)
        self.seconds = dict(seconds or {})
        self.model, self.device = model, device


def gather() -> dict[str, float]:
    """What the running request notes from here on, also in the tasks it starts."""
    noted: dict[str, float] = {}
    _CURRENT.set(noted)
    return noted


def note(name: str, seconds: float) -> None:
    """Adds to a stage of the running request; nothing where no request gathers."""
    noted = _CURRENT.get()
    if noted is None:
        return
    before = noted.get(name, 0.0)
    noted[name] = max(before, seconds) if name.endswith(QUEUE) else before + seconds


@contextmanager
def stage(name: str) -> Iterator[None]:
    """Notes how long the block takes, also one that raises."""
    started = time.perf_counter()
    try:
        yield
    finally:
        note(name, time.perf_counter() - started)


async def timed(name: str, work: Awaitable[T]) -> T:
    """Awaits `work` as a stage."""
    with stage(name):
        return await work


def note_all(answer: object) -> None:
    """Notes the stages of an answer that came from another process, if it tells any."""
    if isinstance(answer, Timed):
        for name, seconds in answer.seconds.items():
            note(name, seconds)
