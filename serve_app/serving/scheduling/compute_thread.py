"""Runs blocking model work beside a replica's event loop, batched across requests.

A replica's event loop must stay free to answer health checks, so each batch runs in a thread, and
that thread goes after those that answer. One poisonous request must not fail its batch mates, so a
failed batch is redone one by one. What several requests share runs in the context of none of them,
so whoever asks for it says whose it is, for the log.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TypeVar

from serve_app.core.errors import FAILURES, MetricFailed, PlainMedError
from serve_app.core.observability.log_redaction import frames
from serve_app.core.settings import Settings

Item = TypeVar("Item")
Result = TypeVar("Result")

logger = logging.getLogger("ray.serve")


def set_threads(settings: Settings) -> None:
    """Limits torch to TORCH_NUM_THREADS; unset, Ray's OMP_NUM_THREADS (its num_cpus) holds."""
    if settings.torch_num_threads:
        import torch  # here: what computes without a model need not load it

        torch.set_num_threads(settings.torch_num_threads)


NICENESS = 19
"""Of a thread that computes. Ray's own processes have 15: where there are fewer cores than threads,
a proxy or a gateway need not wait for a model's turn to end before it can refuse a request."""

_thread = threading.local()


def lower_priority() -> None:
    """Lets the running thread compute when those that answer need no processor.

    On Linux, where a thread has a niceness of its own; elsewhere nothing is changed.
    """
    if sys.platform == "linux" and not getattr(_thread, "last", False):
        _thread.last = True
        with suppress(OSError):  # a sandbox that does not know it
            os.setpriority(os.PRIO_PROCESS, 0, NICENESS)


def _compute(
    work: Callable[[Sequence[Item]], Sequence[Result]], items: Sequence[Item]
) -> Sequence[Result]:
    lower_priority()
    return work(items)


async def run_batch(
    work: Callable[[Sequence[Item]], Sequence[Result]],
    items: Sequence[Item],
    request_ids: Sequence[str] = (),
) -> list[Result | PlainMedError]:
    """`work(items)` in a thread; when it raises, each item alone, its error in its place.

    Args:
        work: gives one result for each item.
        items: of one request or several.
        request_ids: of each item's request, for the log; none: all are of the one that is running,
            which Serve knows.
    """
    if len(items) > 1:
        try:
            return [*await asyncio.to_thread(_compute, work, items)]
        except (PlainMedError, *FAILURES) as error:
            logger.warning(
                "a batch of %d failed (%s); one by one",
                len(items),
                type(error).__name__,
                extra=_of(request_ids),
            )
    return [
        await _run_one(work, item, request_ids[index : index + 1])
        for index, item in enumerate(items)
    ]


async def _run_one(
    work: Callable[[Sequence[Item]], Sequence[Result]], item: Item, request_ids: Sequence[str]
) -> Result | PlainMedError:
    try:
        return (await asyncio.to_thread(_compute, work, [item]))[0]
    except PlainMedError as error:
        return error
    except FAILURES as error:
        return failure(error, request_ids)


def failure(error: BaseException, request_ids: Sequence[str] = ()) -> MetricFailed:
    """Logs an error; what the caller is told of it. The message of a library may quote the text, so
    neither has it.

    Args:
        error: what was raised.
        request_ids: whose it is; none: as in `run_batch`.
    """
    logger.error("a computation failed: %s", frames(error), extra=_of(request_ids))
    return MetricFailed(f"could not be computed: {type(error).__name__}")


def _of(request_ids: Sequence[str]) -> dict[str, str]:
    """The field by which Serve's own lines name their request, with each id once."""
    return {"request_id": ",".join(dict.fromkeys(request_ids))} if request_ids else {}
