"""Ends a text before a stop sequence, also while it arrives in pieces. Knows no engine."""

from __future__ import annotations

from collections.abc import Sequence


class StopCutter:
    """Cuts at the stop sequence that is complete first, as an engine writing token by token would.

    >>> cutter = StopCutter(["END"])
    >>> [cutter.push(piece) for piece in ("One. E", "N", "ough. E", "ND two")]
    ['One. ', '', 'ENough. ', '']
    >>> cutter.found, cutter.rest()
    (True, '')

    Args:
        stops: none of them empty.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = stops
        self._held = ""
        self.found = False
        """Whether a stop sequence was there; nothing may be pushed afterwards."""

    def push(self, piece: str) -> str:
        """What may be sent now: no part of it can belong to a stop sequence."""
        text = self._held + piece
        found = [(at + len(one), at) for one in self._stops if (at := text.find(one)) >= 0]
        if found:
            self.found, self._held = True, ""
            return text[: min(found)[1]]
        keep = max((_begun(text, one) for one in self._stops), default=0)
        ready, self._held = text[: len(text) - keep], text[len(text) - keep :]
        return ready

    def rest(self) -> str:
        """What was held back, once no piece follows."""
        held, self._held = self._held, ""
        return held


def _begun(text: str, stop: str) -> int:
    """How many characters at the end of `text` are the beginning of `stop`."""
    longest = min(len(text), len(stop) - 1)
    return next((size for size in range(longest, 0, -1) if text.endswith(stop[:size])), 0)
