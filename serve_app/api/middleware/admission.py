"""Lets in what can be answered in time, and refuses the rest at once, before it costs anything.

A `gates.Gate`. It measures how many bytes of requests a route gets done a second while it is busy,
and from that how long a new request would wait for others; over MAX_WAIT_S it is answered 503. As
the deployments give every tenant its turn, a request waits for as much of another tenant's work as
it brings itself, and no more: a client with a thousand texts under way does not keep others out.

A long queue is for bursts. Where requests have to be refused, it would only make everyone wait, and
last on after the load; so from a refusal on it is kept short, until a while has passed without one.

What computes many texts at once is slow while it has few: by its speed alone it would be given
fewer and fewer. So a route of such an engine (`at_once`) is filled before anything has to wait.
Counts in this process: each gateway replica measures what it gets done itself.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial

from starlette.datastructures import Headers
from starlette.types import Scope

from serve_app.api.middleware.gate import (
    CALLER_ID,
    ITEMS,
    SAFE_METHODS,
    Admitted,
    Refused,
    declared_bytes,
    route_path,
)
from serve_app.core.headers import REFUSAL_TTL_HEADER, holds
from serve_app.core.settings import Settings

LEARNT_AFTER = 4
"""Answers after which a route's speed is trusted."""

UNLEARNT_REQUESTS = 32
"""Most requests under way on a route until then."""

MAX_RETRY_S = 60.0
"""Most that Retry-After says: by then replicas may have been added."""

CALM_S = 10.0
"""Without a refusal for so long, a burst may queue again."""

MEMORY_S = 120.0
"""Busy seconds after which a measurement counts 1/e."""


@dataclass
class _Route:
    """What is under way on a route, and how fast it gets done.

    Attributes:
        now: when it was looked at last.
        pending: bytes under way, by tenant.
        requests: under way, those too whose body is still arriving.
        computing: those of them whose body is there.
        answered: ever, with 200.
        bytes_done, items_done, busy_s: of the last while.
        crowded_until: a refusal keeps its queue short until then.
    """

    now: float
    pending: dict[str, int] = field(default_factory=dict)
    requests: int = 0
    computing: int = 0
    answered: int = 0
    bytes_done: float = 0.0
    items_done: float = 0.0
    busy_s: float = 0.0
    crowded_until: float = -math.inf

    def advance(self, now: float) -> None:
        """Counts the time since the last call as busy where something was being computed."""
        if self.computing:
            passed = now - self.now
            kept = math.exp(-passed / MEMORY_S)
            self.bytes_done *= kept
            self.items_done *= kept
            self.busy_s = self.busy_s * kept + passed
        self.now = now

    def wait_s(self, tenant: str, size: int) -> float:
        """Seconds that a request of `size` bytes would wait for others.

        While that cannot be known, 0 for the first few requests and infinity for more.
        """
        if not self._known():
            return 0.0 if self.requests < UNLEARNT_REQUESTS else math.inf
        own = self.pending.get(tenant, 0)
        before = sum(
            min(bytes_, own + size) for other, bytes_ in self.pending.items() if other != tenant
        )
        return self._seconds(own + before)

    def items_with(self, size: int) -> float:
        """Texts under way with a request of `size` bytes, by how many others had in so many bytes;
        infinity while that cannot be known."""
        if not self._known():
            return math.inf
        return (sum(self.pending.values()) + size) * self.items_done / self.bytes_done

    def own_s(self, size: int) -> float:
        """Seconds that a request of `size` bytes takes itself; 0 while that cannot be known."""
        return self._seconds(size) if self._known() else 0.0

    def bytes_in(self, seconds: float) -> float:
        """Bytes that get done in so many seconds; infinity while that cannot be known."""
        return seconds * self.bytes_done / self.busy_s if self._known() else math.inf

    def _known(self) -> bool:
        return self.answered >= LEARNT_AFTER and self.bytes_done > 0

    def _seconds(self, size: int) -> float:
        return size * self.busy_s / self.bytes_done


@dataclass(eq=False, slots=True)
class _Entered:
    """A request under way, and what it counts: `size` bytes, the real ones once it `is_there`."""

    scope: Scope
    route: _Route
    tenant: str
    size: int
    is_there: bool = False


class LoadGate:
    """Refuses with 503 what would wait too long, or what there is no room for.

    Args:
        max_requests: most requests under way, >= 1.
        max_bytes: most bytes of bodies under way; one larger body is let in alone.
        max_body_bytes: of the largest body, which is what one counts that does not say its size,
            until it is there.
        max_wait_s: longest expected wait for others, in seconds.
        crowded_wait_s: the same since a refusal; a request may also wait for as long as it takes
            itself.
        retry_after_s: least that Retry-After says.
        at_once: by path, texts under way up to which nothing is refused for its wait.
        clock: seconds, monotonic.
    """

    def __init__(
        self,
        *,
        max_requests: int,
        max_bytes: int,
        max_body_bytes: int,
        max_wait_s: float,
        crowded_wait_s: float,
        retry_after_s: int,
        at_once: Mapping[str, int] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._max_requests, self._max_bytes = max_requests, max_bytes
        self._max_body_bytes, self._at_once = max_body_bytes, dict(at_once or {})
        self._max_wait_s, self._retry_after_s = max_wait_s, retry_after_s
        self._crowded_wait_s = min(crowded_wait_s, max_wait_s)
        self._clock = clock
        self._routes: dict[str, _Route] = {}
        self._requests = self._bytes = self._numbered = 0

    def enter(self, scope: Scope, headers: Headers) -> Admitted:
        """Lets a request in; what only asks (GET, HEAD, OPTIONS) always.

        Raises:
            Refused: 503, with Retry-After.
        """
        if scope["method"] in SAFE_METHODS:
            return Admitted()
        declared = declared_bytes(headers)
        size = self._max_body_bytes if declared is None else declared
        self._numbered += 1
        tenant = scope.get(CALLER_ID) or f"request {self._numbered}"
        now = self._clock()
        path = route_path(scope)
        route = self._routes.get(path)
        if route is not None:
            route.advance(now)
        wait = self._wait_s(path, route, tenant, size)
        full = self._requests >= self._max_requests or (
            self._requests > 0 and self._bytes + size > self._max_bytes
        )
        longest = self._longest(route, size, now)
        if full or wait > longest:
            if route is not None:
                route.crowded_until = now + CALM_S
            # What is larger waits longer, up to what may wait for as long as it takes itself.
            largest: float = self._max_body_bytes  # beyond it the answer is another
            if not full and route is not None:
                largest = max(size, min(largest, route.bytes_in(longest)))
            later = max(self._retry_after_s, math.ceil(min(wait - longest, MAX_RETRY_S)))
            raise Refused(
                503,
                "overloaded",
                "the server has as much work as it can do in time; try again later, or send "
                "fewer texts at once",
                {"retry-after": str(later), REFUSAL_TTL_HEADER: holds(size, largest)},
            )
        if route is None:
            # Only of routes that were asked for: what a client may invent must not fill memory.
            route = self._routes.setdefault(path, _Route(now))
        entered = _Entered(scope, route, tenant, size)
        self._count(entered, size, 1)
        return Admitted(partial(self._arrived, entered), partial(self._answered, entered))

    def _wait_s(self, path: str, route: _Route | None, tenant: str, size: int) -> float:
        """Seconds that a request would wait for others; 0 while the engine has not enough to do."""
        if route is None or route.items_with(size) <= self._at_once.get(path, 0):
            return 0.0
        return route.wait_s(tenant, size)

    def _longest(self, route: _Route | None, size: int, now: float) -> float:
        """Seconds that a request may wait for others now."""
        if route is None or now >= route.crowded_until:
            return self._max_wait_s
        # As long as its own work: else two large ones would never follow each other without a gap.
        return min(self._max_wait_s, max(self._crowded_wait_s, route.own_s(size)))

    def _count(self, entered: _Entered, more_bytes: int, more_requests: int) -> None:
        route, tenant = entered.route, entered.tenant
        left = route.pending.get(tenant, 0) + more_bytes
        route.requests += more_requests
        if left > 0:
            route.pending[tenant] = left
        else:
            route.pending.pop(tenant, None)
        self._requests += more_requests
        self._bytes += more_bytes

    def _arrived(self, entered: _Entered, received: int) -> None:
        entered.route.advance(self._clock())
        entered.route.computing += 1
        self._count(entered, received - entered.size, 0)
        entered.size, entered.is_there = received, True

    def _answered(self, entered: _Entered, status: int) -> None:
        route = entered.route
        route.advance(self._clock())
        route.computing -= entered.is_there
        self._count(entered, -entered.size, -1)
        if status == 200:
            route.answered += 1
            route.bytes_done += entered.size
            route.items_done += entered.scope.get(ITEMS, 1)
        elif not route.requests and not route.answered:
            # A path that a client made up, whatever it was answered, must not fill memory.
            self._routes.pop(route_path(entered.scope), None)


def load_gate(settings: Settings) -> LoadGate:
    """The gate that the settings describe."""
    return LoadGate(
        max_requests=settings.max_pending_requests,
        max_bytes=settings.max_pending_mb << 20,
        max_body_bytes=settings.max_body_bytes,
        max_wait_s=settings.max_wait_s,
        crowded_wait_s=settings.crowded_wait_s,
        retry_after_s=settings.retry_after_s,
        # Twice, as the Generator has threads: the next texts are at hand when some end.
        at_once={"/generate": 2 * settings.generator_at_once},
    )
