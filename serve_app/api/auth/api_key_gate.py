"""The gate that asks every request for an API key. Knows which paths are open and which service a
path belongs to; what a route does is not its business."""

from __future__ import annotations

import math
from pathlib import Path

from starlette.datastructures import Headers
from starlette.types import Scope

from serve_app.api.auth.api_keys import KeyEntry, Service
from serve_app.api.auth.key_source import KeySource
from serve_app.api.auth.rate_limit import Quota
from serve_app.api.middleware.gate import CALLER_ID, Admitted, Gate, Refused, route_path
from serve_app.core.settings import Settings

OPEN_PATHS = frozenset({"/healthz", "/livez", "/readyz", "/", ""})
"""Whoever asks (GET, HEAD) is answered: load balancers have no key, and the page asks its user for
one."""
_OPEN_FOLDER = "/page/"

_PREFLIGHT = "access-control-request-method"

_CALLER = "plainmed.caller"

_SERVICES: dict[str, Service] = {
    "/metrics/": "metrics",
    "/loss": "metrics",
    "/evaluate": "metrics",
    "/generate": "generator",
}


def access_gates(settings: Settings) -> list[Gate]:
    """The gate of the settings' keys; none where there are no such settings.

    Raises:
        ConfigError: the keys cannot be read, or there is none.
    """
    if settings.api_keys_file is None and settings.api_keys is None:
        return []
    path = Path(settings.api_keys_file) if settings.api_keys_file is not None else None
    document = settings.api_keys.get_secret_value() if settings.api_keys is not None else None
    return [AccessGate(KeySource(path, document))]


class AccessGate:
    """A `gates.Gate`: 401 without a good key, 403 for what the key may not, 429 for too much.

    Args:
        source: the live keys.
        quota: counts what each key asks for.
    """

    def __init__(self, source: KeySource, quota: Quota | None = None) -> None:
        self._source = source
        self._quota = quota or Quota()

    def enter(self, scope: Scope, headers: Headers) -> Admitted:
        """Lets the request in and notes its caller in the scope.

        Raises:
            Refused: as above.
        """
        path = route_path(scope)
        if _open(path, scope["method"], headers):
            return Admitted()
        entry = self._source.ring().find(_given(headers))
        if entry is None:
            raise Refused(
                401,
                "invalid_api_key",
                "the API key is unknown or has expired; ask the operator of this server for one",
                {"www-authenticate": "Bearer"},
            )
        for start, service in _SERVICES.items():
            if path.startswith(start) and not _allows(entry, service):
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
        return Admitted(answered=lambda status: self._quota.leave(entry))


def _open(path: str, method: str, headers: Headers) -> bool:
    """Whether it takes no key."""
    if method in ("GET", "HEAD"):
        return path in OPEN_PATHS or path.startswith(_OPEN_FOLDER)
    # A browser asks so without the key, before it sends the request that has it.
    return method == "OPTIONS" and "origin" in headers and _PREFLIGHT in headers


def may_call(scope: Scope, service: Service) -> bool:
    """Whether the caller of a request that was let in may call `service`."""
    entry: KeyEntry | None = scope.get(_CALLER)
    return entry is None or _allows(entry, service)


def _allows(entry: KeyEntry, service: Service) -> bool:
    return entry.services is None or service in entry.services


def _given(headers: Headers) -> str:
    scheme, _, token = headers.get("authorization", "").partition(" ")
    given = token.strip() if scheme.lower() == "bearer" else headers.get("x-api-key", "").strip()
    if not given:
        raise Refused(
            401,
            "missing_api_key",
            "this server wants an API key: send `Authorization: Bearer KEY` or `X-API-Key: KEY`",
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
