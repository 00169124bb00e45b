"""Whether the API may answer without keys where it listens.

Knows addresses and the settings; who listens, and when that is known, is not its business.
"""

from __future__ import annotations

import os
from ipaddress import IPv6Address, ip_address

from serve_app.errors import ConfigError
from serve_app.settings import Settings


class Unprotected(ConfigError):
    """The API would answer everybody on an address that others can reach."""

    code = "unprotected"


def check_exposure(settings: Settings, host: str) -> None:
    """Does nothing where keys are set, nobody else can reach `host`, or it was asked for.

    Args:
        settings: say whether there are keys.
        host: the address listened on.

    Raises:
        Unprotected: none of these; the message says what to do.
    """
    if settings.api_keys_file is not None or settings.api_keys is not None:
        return
    if settings.allow_no_keys or is_loopback(host):
        return
    raise Unprotected(
        f"{host or 'every address'} can be reached from other machines, and there are no API keys, "
        "so everybody there could call. Make one by `plainmed keys new keys.json` and set "
        "API_KEYS_FILE=keys.json; or listen on 127.0.0.1; or, where something else asks who "
        "calls, set ALLOW_NO_KEYS=true"
    )


def listened_on(host: str) -> str:
    """Where Serve listens when its `http_options` say `host`: HAProxy takes every address."""
    return "0.0.0.0" if os.environ.get("RAY_SERVE_ENABLE_HA_PROXY") == "1" else host  # noqa: S104


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach `host`; names but localhost count as reachable.

    >>> [is_loopback(one) for one in ("127.0.0.1", "::1", "localhost")]
    [True, True, True]
    >>> [is_loopback(one) for one in ("0.0.0.0", "::", "", "10.0.0.1", "example.org")]
    [False, False, False, False, False]
    """
    if host.lower().rstrip(".") == "localhost":
        return True
    try:
        address = ip_address(host)
    except ValueError:
        return False
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    return address.is_loopback
