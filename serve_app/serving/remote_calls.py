"""Calls between deployments: in pieces, and what a dead replica, a full queue or a user's error
becomes.

Serve does not retry a handle call whose replica died; every call here is a pure function of
its arguments, so it is safe to ask another replica.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

from ray.exceptions import ObjectLostError, RayActorError, RayTaskError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError
from ray.serve.handle import DeploymentResponse

from serve_app.core.errors import PlainMedError, Unavailable, moved
from serve_app.core.observability.timings import Timed, note_all

Result = TypeVar("Result")

# A replacement replica with torch takes 30 to 60 s to start; Serve holds the retried call until
# one is there, so few attempts are enough and the request's own timeout bounds the wait.
ATTEMPTS = 5
PAUSE_S = 0.2

PIECE_CHARS = 16_000
"""Texts of one call, all together; one longer text is a call of its own. About a second's work of
one core, so that several replicas share a request and a death costs little."""

PIECES_AT_ONCE = 8
"""Pieces of one request that are under way: enough for as many replicas, too few to fill queues."""


async def call(send: Callable[[], Awaitable[Result]]) -> Result:
    """Awaits `send()`, again on another replica when the one that had it died.

    Cancelled, as when the request's time is over, it cancels the call as well.

    Raises:
        PlainMedError: as the replica raised it.
        Unavailable: the queue is full, no replica can be had, or replicas keep dying.
    """
    for attempt in range(1, ATTEMPTS + 1):
        answer = send()
        try:
            result = await answer
            note_all(result)
            return result
        except asyncio.CancelledError:
            # Out of time: the replica would go on computing for nobody.
            if isinstance(answer, DeploymentResponse):
                answer.cancel()
            raise
        except RayTaskError as error:
            raise cause_of(error) from None
        except (RayActorError, ObjectLostError):
            # The second: a large answer was computed, and its node died before it was fetched.
            if attempt == ATTEMPTS:
                break
            await asyncio.sleep(PAUSE_S * attempt)
        except (BackPressureError, DeploymentUnavailableError) as error:
            raise as_unavailable(error) from None
    raise Unavailable("the replicas that compute this keep failing; try again", code="unavailable")


async def all_of(works: Iterable[Awaitable[Result]]) -> list[Result]:
    """Awaits all of them at once; the results in order.

    Raises:
        Exception: of the first that failed; the others are cancelled and have ended.
    """
    tasks = [asyncio.ensure_future(work) for work in works]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        # Else asyncio would tell what they end with as something nobody asked for.
        await asyncio.gather(*tasks, return_exceptions=True)


async def in_pieces(
    send: Callable[[slice], Callable[[], Awaitable[Sequence[Result]]]], sizes: Sequence[int]
) -> Timed[Result]:
    """`call` for consecutive parts of a request, several at once; the results in order.

    They say which model and device gave them, where the replicas do: those of the last part, since
    during an update the parts may differ, and what comes is named rather than what goes. The
    stages of the parts are noted.

    Args:
        send: for a part of the texts, what asks a replica for its results.
        sizes: characters of each text.

    Raises:
        PlainMedError: as `call`, of the first piece that failed; the others are cancelled.
    """
    room = asyncio.Semaphore(PIECES_AT_ONCE)

    async def one(part: slice) -> Sequence[Result]:
        async with room:
            try:
                return await call(send(part))
            except PlainMedError as error:
                raise moved(error, part.start) from None

    parts = await all_of(one(part) for part in pieces(sizes))
    found: Timed[Result] = Timed(result for results in parts for result in results)
    for results in parts:
        # Not every answer is `Timed`, and one of an earlier version's replica has no model.
        found.model = getattr(results, "model", None) or found.model
        found.device = getattr(results, "device", None) or found.device
    return found


def pieces(sizes: Sequence[int], most: int = PIECE_CHARS) -> Iterator[slice]:
    """Consecutive parts of at most `most` in sum; what is larger alone stands alone.

    >>> [(part.start, part.stop) for part in pieces([3, 4, 9, 1, 1], most=8)]
    [(0, 2), (2, 3), (3, 5)]
    """
    start = total = 0
    for index, size in enumerate(sizes):
        if index > start and total + size > most:
            yield slice(start, index)
            start, total = index, 0
        total += size
    if start < len(sizes):
        yield slice(start, len(sizes))


def pair_sizes(originals: Sequence[str], generated: Sequence[str]) -> list[int]:
    """Characters of each pair."""
    return [len(one) + len(other) for one, other in zip(originals, generated, strict=True)]


def cause_of(error: RayTaskError) -> BaseException:
    """The exception a replica raised, as it was there where it is one of ours."""
    cause: Any = error.cause
    while isinstance(cause, RayTaskError):
        cause = cause.cause
    if isinstance(cause, PlainMedError):
        return cause
    if isinstance(cause, BackPressureError | DeploymentUnavailableError):
        return as_unavailable(cause)
    return error


def as_unavailable(error: Exception) -> Unavailable:
    """Overload in words a client can act on."""
    if isinstance(error, BackPressureError):
        return Unavailable("the server is busy and its queue is full; try again", code="overloaded")
    return Unavailable("a deployment is not available; try again", code="unavailable")
