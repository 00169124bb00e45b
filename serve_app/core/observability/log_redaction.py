"""Keeps texts out of the log: errors are logged with their kind and origin, without their message.

The message of a library's error, or of a bug of ours, may quote the text that caused it. Knows
Python's logging only.
"""

from __future__ import annotations

import logging
import traceback
from typing import Any

DEPTH = 40
"""Most frames of one error."""


def frames(error: BaseException) -> str:
    """Kinds of an error and its causes, with file, line and function of each frame.

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


class LeftOut(Exception):
    """Replaces an error in a log record; its message is the error's `frames`."""


class _FramesOnly:
    """A record factory that replaces tracebacks by `frames`, before any logger or handler sees
    them."""

    def __init__(self, make: Any) -> None:
        self._make = make

    def __call__(self, *arguments: Any, **named: Any) -> logging.LogRecord:
        record: logging.LogRecord = self._make(*arguments, **named)
        if record.name == "asyncio":
            # Further lines show futures and tasks with their results.
            record.msg, record.args = record.getMessage().partition("\n")[0], None
        error = record.exc_info[1] if record.exc_info else None
        if error is not None and not isinstance(error, LeftOut):
            record.exc_text = frames(error)  # formatters use it as it is
            record.exc_info = (LeftOut, LeftOut(record.exc_text), None)  # for others
        return record


def keep_texts_out() -> None:
    """Stops all loggers of this process from writing error messages; may be called again."""
    make = logging.getLogRecordFactory()
    if not isinstance(make, _FramesOnly):
        logging.setLogRecordFactory(_FramesOnly(make))
