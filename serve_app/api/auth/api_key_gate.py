"""The gate that asks every request for an API key, and how much each key may ask for.

Knows which paths are open and which service a path belongs to; not what a route does.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from starlette.datastructures import Headers
from starlette.types import Scope

from serve_app.api.auth.api_keys import KeyEntry
from serve_app.api.auth.key_source import KeySource
from serve_app.api.endpoints import ENDPOINTS
from serve_app.api.middleware.gate import CALLER_ID, Gate, Hooks, Refused, route_path
from serve_app.core.schemas import Service
from serve_app.core.settings import Settings

OPEN_PATHS = frozenset({"/healthz", "/livez", "/readyz", "/", ""})
"""Open to GET and HEAD: load balancers have no key, and the page asks its user for one."""
_OPEN_FOLDER = "/page/"

_CALLER = "plainmed.caller"


def access_gates(settings: Settings) -> list[Gate]:
    """The gate for the settings' keys; none without such settings.

    Raises:
        ConfigError: the keys cannot be read, or there is none.
    """
    if settings.api_keys_file is None and settings.api_keys is None:
        return []
    path = Path(settings.api_keys_file) if settings.api_keys_file is not None else None
    document = settings.api_keys.get_secret_value() if settings.api_keys is not None else None
    return [AccessGate(KeySource(path, document))]


class AccessGate:
    """401 without a good key, 403 for a service the key does not cover, 429 over its limits.

    Args:
        source: the live keys.
        quota: counts what each key asks for.
    """

    def __init__(self, source: KeySource, quota: Quota | None = None) -> None:
        self._source = source
        self._quota = quota or Quota()

    def admit(self, scope: Scope, headers: Headers) -> Hooks:
        """See `Gate`; notes the caller in the scope."""
        path = route_path(scope)
        if _is_open(path, scope["method"], headers):
            return Hooks()
        entry = self._source.ring().find(_given_key(headers))
        if entry is None:
            raise Refused(
                401,
                "invalid_api_key",
                "the API key is unknown or has expired; ask the operator of this server for one",
                {"www-authenticate": "Bearer"},
            )
        service = ENDPOINTS.get(path)
        if service is not None and not _allows(entry, service):
            raise Refused(
                403,
                "service_not_allowed",
                f"this key may not call the {service}; ask the operator of this server",
            )
        wait = self._quota.enter(entry)
        if wait is not None:
            raise Refused(
                429,
                "too_many_requests",
                f"this key may send {_limits(entry)}; try again later",
                {"retry-after": str(math.ceil(wait))},
            )
        scope[_CALLER], scope[CALLER_ID] = entry, entry.id
        return Hooks(on_answer=lambda status: self._quota.leave(entry))


def _is_open(path: str, method: str, headers: Headers) -> bool:
    """Whether it needs no key."""
    if method in ("GET", "HEAD"):
        return path in OPEN_PATHS or path.startswith(_OPEN_FOLDER)
    # A browser's preflight has no key; the request that follows has.
    preflight = "origin" in headers and "access-control-request-method" in headers
    return method == "OPTIONS" and preflight


def may_call(scope: Scope, service: Service) -> bool:
    """Whether the caller of a request that was let in may call `service`."""
    entry: KeyEntry | None = scope.get(_CALLER)
    return entry is None or _allows(entry, service)


def _allows(entry: KeyEntry, service: Service) -> bool:
    return entry.services is None or service in entry.services


def _given_key(headers: Headers) -> str:
    scheme, _, token = headers.get("authorization", "").partition(" ")
    given = token.strip() if scheme.lower() == "bearer" else headers.get("x-api-key", "").strip()
    if not given:
        raise Refused(
            401,
            "missing_api_key",
            "this server needs an API key: send `Authorization: Bearer KEY` or `X-API-Key: KEY`",
            {"www-authenticate": "Bearer"},
        )
    return given


def _limits(entry: KeyEntry) -> str:
    limits = []
    if entry.requests_per_minute is not None:
        limits.append(f"{entry.requests_per_minute} requests a minute")
    if entry.concurrency is not None:
        limits.append(f"{entry.concurrency} at once")
    return " and ".join(limits)


@dataclass
class _Bucket:
    tokens: float
    filled: float
    requests: int = 0


class Quota:
    """A token bucket and a count of concurrent requests for each key, in this process.

    The bucket holds a minute's requests: a client that was silent may send them at once; then they
    come back evenly.

    Args:
        clock: seconds, monotonic.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._buckets: dict[str, _Bucket] = {}

    def enter(self, entry: KeyEntry) -> float | None:
        """Counts a request in, which must `leave` later; over a limit, seconds to wait instead."""
        now = self._clock()
        rate = entry.requests_per_minute
        bucket = self._buckets.setdefault(entry.id, _Bucket(float(rate or 0), now))
        if entry.concurrency is not None and bucket.requests >= entry.concurrency:
            return 1.0
        if rate is not None:
            bucket.tokens = min(float(rate), bucket.tokens + (now - bucket.filled) * rate / 60)
            bucket.filled = now
            if bucket.tokens < 1:
                return (1 - bucket.tokens) * 60 / rate
            bucket.tokens -= 1
        bucket.requests += 1
        return None

    def leave(self, entry: KeyEntry) -> None:
        """Counts a request out."""
        self._buckets[entry.id].requests -= 1
