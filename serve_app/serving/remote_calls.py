"""Calls between deployments: split into pieces, retried, and with errors a client can act on.

Serve does not retry a handle call whose replica died. Every call here is a pure function of its
arguments, so another replica may be asked.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

from ray.exceptions import ObjectLostError, RayActorError, RayTaskError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError
from ray.serve.handle import DeploymentResponse

from serve_app.core.errors import PlainMedError, Unavailable, moved
from serve_app.core.observability.tracing import Timed, note_all

Result = TypeVar("Result")

# A replacement replica with torch takes 30 to 60 s to start. Serve holds the retried call until
# then, so few attempts are enough, and the request's timeout bounds the wait.
ATTEMPTS = 5
PAUSE_S = 0.2

PIECE_CHARS = 16_000
"""Longest texts of one call together; a longer text is a call of its own. About a second's work of
one core, so that several replicas share a request and a death costs little."""

PIECES_AT_ONCE = 8
"""Pieces of one request under way: enough for as many replicas, too few to fill queues."""


# The last line of a traceback: an exception's class, and what it says. Names of settings, which may
# begin a line of our messages, have no small letter.
_RAISED = re.compile(r"^(?:\w+\.)*([A-Z]+[a-z]\w*)(?=:|$)", re.MULTILINE)


async def call(send: Callable[[], Awaitable[Result]]) -> Result:
    """Awaits `send()`, again on another replica where its replica died; cancelled, cancels it.

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
            # Else the replica would go on computing for nobody.
            if isinstance(answer, DeploymentResponse):
                answer.cancel()
            raise
        except RayTaskError as error:
            raise cause_of(error) from None
        except (RayActorError, ObjectLostError):
            # ObjectLostError: the node of a large answer died before it was fetched.
            if attempt == ATTEMPTS:
                break
            await asyncio.sleep(PAUSE_S * attempt)
        except (BackPressureError, DeploymentUnavailableError) as error:
            raise as_unavailable(error) from None
    raise Unavailable("the replicas that compute this keep failing; try again", code="unavailable")


async def all_of(works: Iterable[Awaitable[Result]]) -> list[Result]:
    """Awaits all at once; the results in order.

    Raises:
        Exception: of the first that failed; the others are then cancelled and have ended.
    """
    tasks = [asyncio.ensure_future(work) for work in works]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        # Else asyncio would log what they end with as never retrieved.
        await asyncio.gather(*tasks, return_exceptions=True)


async def in_pieces(
    send: Callable[[slice], Callable[[], Awaitable[Sequence[Result]]]], sizes: Sequence[int]
) -> Timed[Result]:
    """`call` for consecutive parts of a request, several at once; the results in order.

    Model and device are those of the last part whose replica names them: parts may differ during
    an update, and the new model is the one to name.

    Args:
        send: gives for a part of the texts the function that asks a replica for its results.
        sizes: characters of each text.

    Raises:
        PlainMedError: as `call`, of the first piece that failed; the others are cancelled.
    """
    slots = asyncio.Semaphore(PIECES_AT_ONCE)

    async def one(part: slice) -> Sequence[Result]:
        async with slots:
            try:
                return await call(send(part))
            except PlainMedError as error:
                raise moved(error, part.start) from None

    parts = await all_of(one(part) for part in pieces(sizes))
    found: Timed[Result] = Timed(result for results in parts for result in results)
    for results in parts:
        # Not every answer is `Timed`, and a replica of an earlier version names no model.
        found.model = getattr(results, "model", None) or found.model
        found.device = getattr(results, "device", None) or found.device
    return found


def pieces(sizes: Sequence[int], most: int = PIECE_CHARS) -> Iterator[slice]:
    """Consecutive parts of at most `most` in sum; a larger one stands alone.

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
    """The exception that a replica raised where it is ours, else `error`."""
    cause: Any = error.cause
    while isinstance(cause, RayTaskError):
        cause = cause.cause
    if isinstance(cause, PlainMedError):
        return cause
    if isinstance(cause, BackPressureError | DeploymentUnavailableError):
        return as_unavailable(cause)
    return error


def as_unavailable(error: Exception) -> Unavailable:
    """Overload, in words that a client can act on."""
    if isinstance(error, BackPressureError):
        return Unavailable("the server is busy and its queue is full; try again", code="overloaded")
    return Unavailable("a deployment is not available; try again", code="unavailable")


def raised_in(message: str) -> str | None:
    """The last exception of the tracebacks in a message, without its module; None without one.

    >>> raised_in('Error:\\n  File "x", line 1\\nKeyError: 1\\na.b.ConfigError: no /x\\nor /y')
    'ConfigError: no /x\\nor /y'
    >>> raised_in("Updating")
    """
    found = list(_RAISED.finditer(message)) if '  File "' in message else []
    return message[found[-1].start(1) :].strip() if found else None


def cannot_start(what: str, message: str) -> str:
    """Says what does not run and will not: a deployment, or the application.

    Of Serve's message only the class of the exception is said, since its text may name paths.

    >>> cannot_start("Generator", "Traceback\\nserve_app.core.errors.ConfigError: no /x")
    'Generator cannot start (ConfigError); `plainmed status` and the server log say why'
    """
    kinds = _RAISED.findall(message) or ["no reason given"]
    return f"{what} cannot start ({kinds[-1]}); `plainmed status` and the server log say why"
