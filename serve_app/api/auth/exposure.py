"""Whether the API may answer without keys at the address where it listens."""

from __future__ import annotations

import os

from serve_app.api.middleware.gate import Gate, HostGate, is_loopback
from serve_app.core.errors import ConfigError
from serve_app.core.settings import Settings


class Unprotected(ConfigError):
    """The API would answer everybody on an address that others can reach."""

    code = "unprotected"


def check_exposure(settings: Settings, host: str) -> None:
    """Raises `Unprotected` if other machines can reach `host` and nothing authenticates callers."""
    if not _authenticated(settings) and not is_loopback(host):
        raise Unprotected(
            f"{host or 'every address'} can be reached from other machines, and there are no API "
            "keys, so everybody there could call. Make one with `plainmed keys new keys.json` and "
            "set API_KEYS_FILE=keys.json; or listen on 127.0.0.1; or, behind a proxy that "
            "authenticates callers, set ALLOW_NO_KEYS=true"
        )


def host_gates(settings: Settings, host: str | None) -> list[Gate]:
    """The gate of a server that only loopback protects; none otherwise, or if `host` is None."""
    alone = host is not None and is_loopback(host) and not _authenticated(settings)
    return [HostGate()] if alone else []


def _authenticated(settings: Settings) -> bool:
    """Whether callers are authenticated: by keys, or, the operator says, by a proxy before us."""
    keys = settings.api_keys_file is not None or settings.api_keys is not None
    return keys or settings.allow_no_keys


def listened_on(host: str) -> str:
    """Where Serve listens when its `http_options` say `host`: HAProxy takes every address."""
    return "0.0.0.0" if os.environ.get("RAY_SERVE_ENABLE_HA_PROXY") == "1" else host  # noqa: S104
