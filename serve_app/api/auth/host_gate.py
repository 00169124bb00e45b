"""Whether the API may answer without keys where it listens, and by which names it may be called.

Knows addresses and the settings; who listens, and when that is known, is not its business.
"""

from __future__ import annotations

import os
import re
from ipaddress import IPv6Address, ip_address

from starlette.datastructures import Headers
from starlette.types import Scope

from serve_app.api.middleware.gate import Admitted, Gate, Refused
from serve_app.core.errors import ConfigError
from serve_app.core.settings import Settings

_HOST = re.compile(r"(\[[0-9a-fA-F:.]+\]|[^\[\]:]+)(:[0-9]*)?")


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
    if _asks(settings) or is_loopback(host):
        return
    raise Unprotected(
        f"{host or 'every address'} can be reached from other machines, and there are no API keys, "
        "so everybody there could call. Make one by `plainmed keys new keys.json` and set "
        "API_KEYS_FILE=keys.json; or listen on 127.0.0.1; or, where something else asks who "
        "calls, set ALLOW_NO_KEYS=true"
    )


def _asks(settings: Settings) -> bool:
    """Whether somebody asks who calls: we by keys, or, says the operator, something before us."""
    keys = settings.api_keys_file is not None or settings.api_keys is not None
    return keys or settings.allow_no_keys


def host_gates(settings: Settings, host: str | None) -> list[Gate]:
    """The gate of a server whose only guard is that it listens on loopback; else none.

    Args:
        settings: say whether there are keys.
        host: the address listened on; None: unknown, and so no gate.
    """
    return [HostGate()] if host is not None and is_loopback(host) and not _asks(settings) else []


class HostGate:
    """A `gates.Gate`: 403 for what calls this machine by a name that is not its own.

    A page from elsewhere may have its name point to 127.0.0.1 once it is loaded (DNS rebinding).
    Then the browser takes the API for a part of that page; only the name it calls tells.
    """

    def enter(self, scope: Scope, headers: Headers) -> Admitted:
        """Lets the request in.

        Raises:
            Refused: as above; what names no host, as no browser does, is let in.
        """
        host = headers.get("host")
        if host is not None and not is_own_name(host):
            raise Refused(
                403,
                "host_not_allowed",
                "this server has no API keys, so it answers to 127.0.0.1 and localhost alone: call "
                "it so; or give it keys (API_KEYS_FILE); or, where something before it asks who "
                "calls, set ALLOW_NO_KEYS=true",
            )
        return Admitted()


def is_own_name(host: str) -> bool:
    """Whether a Host header can only mean this machine, whoever answers for names; of any port.

    >>> [is_own_name(one) for one in ("localhost:8000", "a.localhost", "127.0.0.1", "[::1]:80")]
    [True, True, True, True]
    >>> [is_own_name(one) for one in ("example.org", "127.0.0.1.example.org", "10.0.0.1:8000")]
    [False, False, False]
    """
    found = _HOST.fullmatch(host.strip())
    if found is None:
        return False
    name = found[1].strip("[]").lower().rstrip(".")
    return name.endswith(".localhost") or is_loopback(name)


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
