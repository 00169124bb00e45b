"""How much each key may ask for: requests a minute, and requests under way.

Counts in this process: with several gateway replicas each one counts for itself.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from serve_app.api.auth.api_keys import KeyEntry


@dataclass
class _Use:
    tokens: float
    filled: float
    under_way: int = 0


class Quota:
    """A token bucket and a counter for each key.

    The bucket holds a minute's requests, so a client that was silent may send them at once; then
    they come back evenly.

    Args:
        clock: seconds, monotonic.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._uses: dict[str, _Use] = {}

    def enter(self, entry: KeyEntry) -> float | None:
        """Counts a request in and gives None; or, over a limit, seconds until it may succeed.

        What is given None must be followed by `leave`.
        """
        now = self._clock()
        rate = entry.requests_per_minute
        use = self._uses.setdefault(entry.id, _Use(float(rate or 0), now))
        if entry.concurrency is not None and use.under_way >= entry.concurrency:
            return 1.0
        if rate is not None:
            use.tokens = min(float(rate), use.tokens + (now - use.filled) * rate / 60)
            use.filled = now
            if use.tokens < 1:
                return (1 - use.tokens) * 60 / rate
            use.tokens -= 1
        use.under_way += 1
        return None

    def leave(self, entry: KeyEntry) -> None:
        """Ends what `enter` began."""
        self._uses[entry.id].under_way -= 1
