"""Keeps texts out of the log: of an error, where it came from is told, not what it says.

The message of an error of a library, or of a bug of ours, may quote the text it stumbled over.
Knows Python's logging only; which errors there are is not its business.
"""

from __future__ import annotations

import logging
import traceback

LOGGERS = ("ray.serve", "asyncio", "uvicorn.error", "plainmed")
"""Those that may be given an error: Serve logs whatever leaves a replica's method."""

DEPTH = 40
"""Most frames shown of one error."""


def frames(error: BaseException) -> str:
    """The kinds of an error and its causes, and file, line and function of each frame.

    >>> try:
    ...     int("Jane Roe")
    ... except ValueError as error:
    ...     print(frames(error).splitlines()[0], "Jane" in frames(error))
    ValueError (its message may quote a text, so it is left out) False
    """
    lines = []
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        name = type(current).__name__
        lines.append(f"{name} (its message may quote a text, so it is left out)")
        lines += [
            f"  {frame.filename}:{frame.lineno} {frame.name}"
            for frame in traceback.extract_tb(current.__traceback__)[-DEPTH:]
        ]
        inner = current.__cause__
        if inner is None and not current.__suppress_context__:
            inner = current.__context__
        current = inner
    return "\n".join(lines)


class _FramesOnly(logging.Filter):
    """Puts `frames` in the place of a traceback, before any handler formats it."""

    def filter(self, record: logging.LogRecord) -> bool:
        if record.name == "asyncio":
            # Below the first line it shows futures and tasks with what they ended with.
            record.msg, record.args = record.getMessage().partition("\n")[0], None
        if record.exc_info and record.exc_info[1] is not None:
            record.exc_text = frames(record.exc_info[1])  # formatters take it as it is
        return True


_FILTER = _FramesOnly()


def keep_texts_out() -> None:
    """From now on no logger of `LOGGERS` writes an error's message; calling it again is free."""
    for name in LOGGERS:
        logger = logging.getLogger(name)
        if _FILTER not in logger.filters:
            logger.addFilter(_FILTER)
