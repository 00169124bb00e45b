"""Threads that compute: how many torch uses, their CPU priority, how failures are reported."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Sequence
from contextlib import suppress

from serve_app.core.errors import MetricFailed
from serve_app.core.observability.log_redaction import frames
from serve_app.core.settings import Settings

NICENESS = 19
"""Of a thread that computes. Ray's own processes have 15: where there are fewer cores than threads,
a proxy or a gateway can refuse a request without waiting for a model."""

logger = logging.getLogger("ray.serve")


def set_threads(settings: Settings) -> None:
    """Limits torch to TORCH_NUM_THREADS; unset, Ray's OMP_NUM_THREADS (its num_cpus) holds."""
    if settings.torch_num_threads:
        import torch  # here: a process without a model need not load it

        torch.set_num_threads(settings.torch_num_threads)


def lower_priority() -> None:
    """Lowers this thread's CPU priority, on Linux, where each thread has its own niceness."""
    if sys.platform == "linux":
        with suppress(OSError):  # a sandbox that does not know it
            os.setpriority(os.PRIO_PROCESS, 0, NICENESS)


def failure(error: BaseException, request_ids: Sequence[str] = ()) -> MetricFailed:
    """Logs an error and returns the one for the caller. Neither holds its message: a library may
    quote the text in it.

    Args:
        error: what was raised.
        request_ids: of the requests it is about; none: the running one, which Serve knows.
    """
    logger.error("a computation failed: %s", frames(error), extra=log_fields(request_ids))
    return MetricFailed(f"could not be computed: {type(error).__name__}")


def log_fields(request_ids: Sequence[str]) -> dict[str, str]:
    """The field by which Serve's own log lines name their request, with each id once."""
    return {"request_id": ",".join(dict.fromkeys(request_ids))} if request_ids else {}
