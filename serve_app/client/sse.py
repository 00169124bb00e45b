"""Parses server-sent events (WHATWG HTML, section 9.2.6) from bytes; knows no routes."""

from __future__ import annotations

import re
from collections.abc import Iterator

_LINE_END = re.compile(rb"\r\n|\n|\r(?!\Z)")  # a last \r may be half of a \r\n


class EventParser:
    """Server-sent events from bytes as they arrive.

    Works on bytes because splitting decoded text, as httpx does, would also split at U+2028
    and its like, which JSON may hold unescaped.
    """

    def __init__(self) -> None:
        self._buffer = b""
        self._event = ""
        self._data: list[str] = []

    def feed(self, chunk: bytes) -> Iterator[tuple[str, str]]:
        """Yields (event, data) for each event that `chunk` completes.

        >>> list(EventParser().feed(b"event: done" + bytes([10]) + b"data: {}" + bytes([10, 10])))
        [('done', '{}')]
        """
        *lines, self._buffer = _LINE_END.split(self._buffer + chunk)
        for line in lines:
            if not line:
                if self._data:
                    yield self._event or "message", "\n".join(self._data)
                self._event, self._data = "", []
                continue
            name, _, value = line.decode(errors="replace").partition(":")
            value = value.removeprefix(" ")
            if name == "data":
                self._data.append(value)
            elif name == "event":
                self._event = value
