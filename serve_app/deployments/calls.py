"""Calls between deployments: what a dead replica, a full queue or a user's error becomes.

Serve does not retry a handle call whose replica died; every call here is a pure function of
its arguments, so it is safe to ask another replica.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from ray.exceptions import RayActorError, RayTaskError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError
from ray.serve.handle import DeploymentResponse

from serve_app.errors import PlainMedError, Unavailable

Result = TypeVar("Result")

# A replacement replica with torch takes 30 to 60 s to start; Serve holds the retried call until
# one is there, so few attempts are enough and the request's own timeout bounds the wait.
ATTEMPTS = 5
PAUSE_S = 0.2


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
            return await answer
        except asyncio.CancelledError:
            # Out of time: the replica would go on computing for nobody.
            if isinstance(answer, DeploymentResponse):
                answer.cancel()
            raise
        except RayTaskError as error:
            raise cause_of(error) from None
        except RayActorError:
            if attempt == ATTEMPTS:
                break
            await asyncio.sleep(PAUSE_S * attempt)
        except (BackPressureError, DeploymentUnavailableError) as error:
            raise as_unavailable(error) from None
    raise Unavailable("the replicas that compute this keep failing; try again", code="unavailable")


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
