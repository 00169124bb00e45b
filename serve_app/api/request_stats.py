"""What one gateway replica has answered in the last minutes: counts and times, nothing of a text.

Small enough to keep in memory and to send to whoever asks, so that the rates of several replicas
can be put together (`together`). Knows no HTTP framework, no Ray and no metrics system.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from serve_app.api.endpoints import CALLS

WINDOW_S = 300.0
"""How far back is remembered."""
SLOT_S = 10.0
"""What is older than WINDOW_S is forgotten by so much at once."""
GROWTH = 1.05
"""A time is kept as the power of this above it, so quantiles are up to 5 % too high."""


@dataclass
class Tally:
    """Some requests.

    Attributes:
        answered: with 200.
        refused: with 4xx.
        failed: with 5xx.
        gone: whose client went away.
        times: of those answered with 200, how many took at most `GROWTH ** key` seconds, and more
            than the power before.
    """

    answered: int = 0
    refused: int = 0
    failed: int = 0
    gone: int = 0
    times: dict[int, int] = field(default_factory=dict)

    @property
    def requests(self) -> int:
        """All of them."""
        return self.answered + self.refused + self.failed + self.gone

    def count(self, status: int, seconds: float) -> None:
        """One more; status 0: the client was gone."""
        if 200 <= status < 400:
            self.answered += 1
            power = math.ceil(math.log(max(seconds, 1e-4), GROWTH))
            self.times[power] = self.times.get(power, 0) + 1
        elif 400 <= status < 500:
            self.refused += 1
        elif status >= 500:
            self.failed += 1
        else:
            self.gone += 1

    def add(self, other: Tally) -> None:
        """Counts those of `other` too."""
        self.answered += other.answered
        self.refused += other.refused
        self.failed += other.failed
        self.gone += other.gone
        for power, count in other.times.items():
            self.times[power] = self.times.get(power, 0) + count

    def quantile(self, share: float) -> float | None:
        """Seconds within which that share of the answers came; None where there was none."""
        left = share * sum(self.times.values())
        for power in sorted(self.times):
            left -= self.times[power]
            if left <= 1e-9:
                return float(GROWTH**power)
        return None


@dataclass
class StatsWindow:
    """The last minutes of one gateway replica, or of several.

    Attributes:
        seconds: how long it is; less than WINDOW_S for a replica younger than that.
        routes: what was asked of each.
        tokens: that the generator wrote.
    """

    seconds: float
    routes: dict[str, Tally]
    tokens: int = 0


@dataclass
class _Slot:
    began: float
    routes: dict[str, Tally] = field(default_factory=dict)
    tokens: int = 0


class RequestStats:
    """Remembers for WINDOW_S. Made for one event loop.

    Args:
        clock: seconds, monotonic.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._began = clock()
        self._slots: deque[_Slot] = deque()

    def answered(self, route: str, status: int, seconds: float) -> None:
        """Counts one request; only those of `CALLS`."""
        if route in CALLS:
            self._slot().routes.setdefault(route, Tally()).count(status, seconds)

    def wrote(self, tokens: int) -> None:
        """Counts tokens of summaries."""
        self._slot().tokens += tokens

    def window(self) -> StatsWindow:
        """What is remembered now."""
        now = self._forget()
        found = StatsWindow(min(WINDOW_S, now - self._began), {})
        for slot in self._slots:
            _put(found, slot.routes, slot.tokens)
        return found

    def _slot(self) -> _Slot:
        now = self._forget()
        if not self._slots or now - self._slots[-1].began >= SLOT_S:
            self._slots.append(_Slot(now))
        return self._slots[-1]

    def _forget(self) -> float:
        now = self._clock()
        while self._slots and now - self._slots[0].began > WINDOW_S:
            self._slots.popleft()
        return now


def _put(window: StatsWindow, routes: Mapping[str, Tally], tokens: int) -> None:
    for route, tally in routes.items():
        window.routes.setdefault(route, Tally()).add(tally)
    window.tokens += tokens


def together(windows: Iterable[StatsWindow]) -> StatsWindow:
    """Several replicas as one; as long as the longest, so a young replica's rate counts less."""
    found = StatsWindow(0.0, {})
    for window in windows:
        found.seconds = max(found.seconds, window.seconds)
        _put(found, window.routes, window.tokens)
    return found
