"""Admission by expected wait: refuses at once, before any work, what cannot be answered in time.

A `Gate` that measures how many bytes of requests each route completes per busy second, and so how
long a new request would wait for others; over MAX_WAIT_S it gets 503. As deployments serve tenants
in turn, a request waits for as much of another tenant's work as it brings itself, and no more: a
client with a thousand texts does not keep others out.

A long queue is for bursts. Under lasting overload it would only delay everyone, and outlast the
load, so after a refusal the queue is kept short until a while has passed without one.

Batch engines look slow when idle, so a route of such an engine (`at_once`) is filled before its
speed counts. Every gateway replica measures for itself.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial

from starlette.datastructures import Headers
from starlette.types import Scope

from serve_app.api.endpoints import ENDPOINTS, SAME_QUEUE
from serve_app.api.middleware.gate import (
    CALLER_ID,
    ITEMS,
    SAFE_METHODS,
    Hooks,
    Refused,
    declared_bytes,
    route_path,
)
from serve_app.core.context import REFUSAL_TTL_HEADER, holds
from serve_app.core.errors import RETRY_AFTER_S
from serve_app.core.settings import Settings

LEARNT_AFTER = 4
"""Answers after which a route's measured speed is trusted alone."""

FIRST_GUESS = (1000.0, 0.05)
"""Bytes done in busy seconds, added to what is measured until then. It lets a burst on a fresh
server in, and yields to a slow route's own time within the first second."""

MAX_RETRY_S = 60.0
"""Longest Retry-After: by then replicas may have been added."""

CROWDED_WAIT_S = 5.0
"""Longest wait for others from a refusal until CALM_S without one: the queue is kept short."""

CALM_S = 10.0
"""Time without a refusal after which bursts may queue again."""

MEMORY_S = 120.0
"""Busy seconds after which a measurement counts 1/e."""


@dataclass
class _RouteLoad:
    """A route's concurrent requests and measured speed.

    Attributes:
        updated: time of the last `advance`.
        pending: bytes of its requests, by tenant.
        requests: how many there are, with those whose body is still arriving.
        computing: those whose body has arrived.
        answered: ever, with 200.
        bytes_done, items_done, busy_s: recently, decaying with MEMORY_S.
        crowded_until: the queue is kept short until then.
    """

    updated: float
    pending: dict[str, int] = field(default_factory=dict)
    requests: int = 0
    computing: int = 0
    answered: int = 0
    bytes_done: float = 0.0
    items_done: float = 0.0
    busy_s: float = 0.0
    crowded_until: float = -math.inf

    def advance(self, now: float) -> None:
        """Counts the time since the last call as busy if something was being computed."""
        if self.computing:
            passed = now - self.updated
            kept = math.exp(-passed / MEMORY_S)
            self.bytes_done *= kept
            self.items_done *= kept
            self.busy_s = self.busy_s * kept + passed
        self.updated = now

    def wait_s(self, tenant: str, size: int) -> float:
        """Seconds that a request of `size` bytes would wait for others."""
        own = self.pending.get(tenant, 0)
        before = sum(
            min(bytes_, own + size) for other, bytes_ in self.pending.items() if other != tenant
        )
        return self._seconds(own + before)

    def items_with(self, size: int) -> float:
        """Estimated concurrent texts with `size` more bytes; infinity before it is known."""
        if not self.learnt or not self.bytes_done:
            return math.inf
        return (sum(self.pending.values()) + size) * self.items_done / self.bytes_done

    def own_s(self, size: int) -> float:
        """Seconds that a request of `size` bytes takes itself."""
        return self._seconds(size)

    def bytes_in(self, seconds: float) -> float:
        """Bytes completed in so many seconds."""
        done, busy_s = self._measured()
        return seconds * done / busy_s if busy_s else math.inf

    @property
    def learnt(self) -> bool:
        """Whether enough answers were measured to trust their speed."""
        return self.answered >= LEARNT_AFTER

    def _measured(self) -> tuple[float, float]:
        if self.learnt and self.bytes_done:
            return self.bytes_done, self.busy_s
        return self.bytes_done + FIRST_GUESS[0], self.busy_s + FIRST_GUESS[1]

    def _seconds(self, size: int) -> float:
        done, busy_s = self._measured()
        return size * busy_s / done


@dataclass(eq=False, slots=True)
class _Admitted:
    """A concurrent request: `size` is its declared bytes, the real ones once it has `arrived`."""

    scope: Scope
    load: _RouteLoad
    tenant: str
    size: int
    arrived: bool = False


class LoadGate:
    """Refuses with 503 what would wait too long, or would exceed the limits on all requests.

    Args:
        max_requests: most concurrent requests, >= 1.
        max_bytes: most bytes of their bodies; one larger body is let in alone.
        max_body_bytes: of the largest body; a body of unknown length counts so until it is there.
        max_wait_s: longest expected wait for others, in seconds.
        crowded_wait_s: the same after a refusal; a request may also wait for as long as it takes
            itself.
        at_once: by path, concurrent texts up to which nothing is refused for its wait.
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
        at_once: Mapping[str, int] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._max_requests, self._max_bytes = max_requests, max_bytes
        self._max_body_bytes, self._at_once = max_body_bytes, dict(at_once or {})
        self._max_wait_s = max_wait_s
        self._crowded_wait_s = min(crowded_wait_s, max_wait_s)
        self._clock = clock
        self._loads: dict[str, _RouteLoad] = {}
        self._requests = self._bytes = self._numbered = 0

    def admit(self, scope: Scope, headers: Headers) -> Hooks:
        """See `Gate`: 503 with Retry-After; safe methods are always let in."""
        if scope["method"] in SAFE_METHODS:
            return Hooks()
        declared = declared_bytes(headers)
        size = self._max_body_bytes if declared is None else declared
        self._numbered += 1
        tenant = scope.get(CALLER_ID) or f"request {self._numbered}"
        now = self._clock()
        path = route_path(scope)
        path = SAME_QUEUE.get(path, path)
        if path not in ENDPOINTS:
            path = "other"  # paths that clients invent must not fill memory
        load = self._loads.setdefault(path, _RouteLoad(now))
        load.advance(now)
        batched = load.items_with(size) <= self._at_once.get(path, 0)
        # The largest body is too bad a guess on top of a guessed speed.
        guessed = declared is None and not load.learnt
        wait = 0.0 if batched or guessed else load.wait_s(tenant, size)
        limit = self._wait_limit(load, size, now)
        full = self._requests >= self._max_requests or (
            self._requests > 0 and self._bytes + size > self._max_bytes
        )
        if full or wait > limit:
            if load.learnt or full:
                load.crowded_until = now + CALM_S
            # Larger ones wait longer too, up to the size that may wait for its own time.
            largest: float = self._max_body_bytes  # above it the answer is another
            if not full:
                largest = max(size, min(largest, load.bytes_in(limit)))
            # A guess is soon replaced by a measurement.
            longest = MAX_RETRY_S if load.learnt else RETRY_AFTER_S
            later = max(RETRY_AFTER_S, math.ceil(min(wait - limit, longest)))
            raise Refused(
                503,
                "overloaded",
                "the server has as much work as it can do in time; try again later, or send "
                "fewer texts at once",
                {"retry-after": str(later), REFUSAL_TTL_HEADER: holds(size, largest)},
            )
        admitted = _Admitted(scope, load, tenant, size)
        self._count(admitted, size, 1)
        return Hooks(partial(self._on_body, admitted), partial(self._on_answer, admitted))

    def _wait_limit(self, load: _RouteLoad, size: int, now: float) -> float:
        """Seconds that a request may wait for others now."""
        if now >= load.crowded_until:
            return self._max_wait_s
        # As long as its own work: else two large ones could never follow each other directly.
        return min(self._max_wait_s, max(self._crowded_wait_s, load.own_s(size)))

    def _count(self, admitted: _Admitted, more_bytes: int, more_requests: int) -> None:
        load, tenant = admitted.load, admitted.tenant
        left = load.pending.pop(tenant, 0) + more_bytes
        if left > 0:
            load.pending[tenant] = left
        load.requests += more_requests
        self._requests += more_requests
        self._bytes += more_bytes

    def _on_body(self, admitted: _Admitted, received: int) -> None:
        admitted.load.advance(self._clock())
        admitted.load.computing += 1
        self._count(admitted, received - admitted.size, 0)
        admitted.size, admitted.arrived = received, True

    def _on_answer(self, admitted: _Admitted, status: int) -> None:
        load = admitted.load
        load.advance(self._clock())
        load.computing -= admitted.arrived
        self._count(admitted, -admitted.size, -1)
        if status == 200:
            load.answered += 1
            load.bytes_done += admitted.size
            load.items_done += admitted.scope.get(ITEMS, 1)


def load_gate(settings: Settings) -> LoadGate:
    """The gate that the settings describe."""
    return LoadGate(
        max_requests=settings.max_pending_requests,
        max_bytes=settings.max_pending_mb << 20,
        max_body_bytes=settings.max_body_bytes,
        max_wait_s=settings.max_wait_s,
        crowded_wait_s=CROWDED_WAIT_S,
        # Twice, as the Generator has threads: the next texts are at hand when some end.
        at_once={
            path: 2 * settings.generator_at_once
            for path, service in ENDPOINTS.items()
            if service == "generator" and path not in SAME_QUEUE
        },
    )
