"""Keeps texts out of the log: of an error, where it came from is told, not what it says.

The message of an error of a library, or of a bug of ours, may quote the text it stumbled over.
Knows Python's logging only; which errors there are is not its business.
"""

from __future__ import annotations

import logging
import traceback
from typing import Any

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


class LeftOut(Exception):
    """Stands in a record for its error, whose `frames` it says."""


class _FramesOnly:
    """Makes records that have `frames` in the place of a traceback.

    Where they are made, so that no logger, handler or formatter gets to see the error itself.
    """

    def __init__(self, make: Any) -> None:
        self._make = make

    def __call__(self, *arguments: Any, **named: Any) -> logging.LogRecord:
        record: logging.LogRecord = self._make(*arguments, **named)
        if record.name == "asyncio":
            # Below the first line it shows futures and tasks with what they ended with.
            record.msg, record.args = record.getMessage().partition("\n")[0], None
        error = record.exc_info[1] if record.exc_info else None
        if error is not None and not isinstance(error, LeftOut):
            record.exc_text = frames(error)  # formatters take it as it is
            record.exc_info = (LeftOut, LeftOut(record.exc_text), None)  # for those that do not
        return record


def keep_texts_out() -> None:
    """From now on no logger of this process writes an error's message; calling it again is free."""
    make = logging.getLogRecordFactory()
    if not isinstance(make, _FramesOnly):
        logging.setLogRecordFactory(_FramesOnly(make))
