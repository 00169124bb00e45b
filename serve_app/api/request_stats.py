"""What one gateway replica has answered in the last minutes: counts and times, nothing of a text.

Small enough to keep in memory and to send, so that several replicas' can be put together. Knows no
HTTP framework, no Ray and no metrics system.
"""

from __future__ import annotations

import math
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from serve_app.api.endpoints import ENDPOINTS

WINDOW_S = 300.0
"""How far back is remembered."""
SLOT_S = 10.0
"""Older requests are forgotten in steps of this."""
GROWTH = 1.05
"""Times are rounded up to a power of this, so quantiles are up to 5 % too high."""


@dataclass
class Tally:
    """Counts of some requests.

    Attributes:
        answered: with 2xx or 3xx.
        refused: with 4xx.
        failed: with 5xx.
        gone: whose client went away.
        times: of those answered, how many took at most `GROWTH ** key` seconds, and more than the
            power below.
    """

    answered: int = 0
    refused: int = 0
    failed: int = 0
    gone: int = 0
    times: Counter[int] = field(default_factory=Counter)

    @property
    def requests(self) -> int:
        """All of them."""
        return self.answered + self.refused + self.failed + self.gone

    def count(self, status: int, seconds: float) -> None:
        """Counts one more; status 0: the client was gone."""
        if 200 <= status < 400:
            self.answered += 1
            self.times[math.ceil(math.log(max(seconds, 1e-4), GROWTH))] += 1
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
        self.times.update(other.times)

    def quantile(self, share: float) -> float | None:
        """Seconds within which that share of the answers came; None where there was none."""
        left = share * self.times.total()
        for power in sorted(self.times):
            left -= self.times[power]
            if left <= 1e-9:
                return float(GROWTH**power)
        return None


@dataclass
class StatsWindow:
    """The last minutes of one gateway replica, or of several.

    Attributes:
        seconds: its length; less than WINDOW_S for a young replica.
        routes: requests by route.
        tokens: written by the generator.
    """

    seconds: float
    routes: dict[str, Tally] = field(default_factory=dict)
    tokens: int = 0

    def add(self, other: StatsWindow) -> None:
        """Counts those of `other` too; as long as the longer, so a young replica weighs less."""
        self.seconds = max(self.seconds, other.seconds)
        for route, tally in other.routes.items():
            self.routes.setdefault(route, Tally()).add(tally)
        self.tokens += other.tokens


def together(windows: Iterable[StatsWindow]) -> StatsWindow:
    """Several replicas as one."""
    found = StatsWindow(0.0)
    for window in windows:
        found.add(window)
    return found


class RequestStats:
    """Remembers for WINDOW_S, in slots of SLOT_S. Made for one event loop.

    Args:
        clock: seconds, monotonic.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._began = clock()
        self._slots: deque[tuple[float, StatsWindow]] = deque()

    def answered(self, route: str, status: int, seconds: float) -> None:
        """Counts one request of an endpoint; others are not counted."""
        if route in ENDPOINTS:
            self._slot().routes.setdefault(route, Tally()).count(status, seconds)

    def wrote(self, tokens: int) -> None:
        """Counts tokens of summaries."""
        self._slot().tokens += tokens

    def window(self) -> StatsWindow:
        """What is remembered now."""
        found = StatsWindow(min(WINDOW_S, self._forget() - self._began))
        for _, slot in self._slots:
            found.add(slot)
        return found

    def _slot(self) -> StatsWindow:
        now = self._forget()
        if not self._slots or now - self._slots[-1][0] >= SLOT_S:
            self._slots.append((now, StatsWindow(0.0)))
        return self._slots[-1][1]

    def _forget(self) -> float:
        now = self._clock()
        while self._slots and now - self._slots[0][0] > WINDOW_S:
            self._slots.popleft()
        return now
