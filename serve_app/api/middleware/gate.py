"""Gates decide on a request by its head alone: their protocol, and those that know only the head.

Knows no routes and no keys: gates that need them are made elsewhere (`serve_app.api.auth`,
`admission`). `request_guard` asks all of them in turn.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from ipaddress import IPv6Address, ip_address
from typing import Protocol

from starlette.datastructures import Headers
from starlette.types import Scope

from serve_app.api.endpoints import OPENAI
from serve_app.core.errors import error_body

SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
"""Safe methods (RFC 9110): they need no model and have no body."""

LIVE_PATH = "/livez"
"""Answered while the server drains too: it is alive until its work is done."""

ERROR_CODE = "plainmed.error_code"
"""Key in a request's scope for the code of the error it was answered with."""

CALLER_ID = "plainmed.caller_id"
"""Key in a request's scope for a public id of its caller, for the log."""

ITEMS = "plainmed.items"
"""Key in a request's scope for how many texts an engine computes for it; 1 where absent."""

_HOST = re.compile(r"(\[[0-9a-fA-F:.]+\]|[^\[\]:]+)(:[0-9]*)?")


class Refused(Exception):
    """Ends a request before the application sees it.

    Args:
        status: of the answer.
        code: as in every error.
        message: what the client can do.
        headers: more headers of the answer, by lower-case name.
    """

    def __init__(
        self, status: int, code: str, message: str, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code, self.message = code, message
        self.headers = dict(headers or {})


def _nothing(_: int) -> None:
    return None


@dataclass(frozen=True, slots=True)
class Hooks:
    """What a gate is told later of a request that it let in.

    Attributes:
        on_body: called once the whole body is there, with its bytes; never if it does not arrive.
        on_answer: called once, with the status of the answer; 0 if the client was gone, 500 if a
            stream ended with an error.
    """

    on_body: Callable[[int], None] = _nothing
    on_answer: Callable[[int], None] = _nothing


class Gate(Protocol):
    """Decides on a request by its head, before any of its body is read."""

    def admit(self, scope: Scope, headers: Headers) -> Hooks:
        """Lets it in, and returns what to call later.

        Raises:
            Refused: it may not enter.
        """


def route_path(scope: Scope) -> str:
    """The path below the application's own prefix."""
    path: str = scope["path"]
    return path.removeprefix(scope.get("root_path", "").rstrip("/"))


def error_answer(
    scope: Scope, status: int, code: str, message: str, field: str | None = None
) -> dict[str, dict[str, str | None]]:
    """The body of an error answer; for OpenAI's clients with their own names beside ours."""
    body = error_body(code, message, field)
    if route_path(scope).startswith(OPENAI):
        kind = "server_error" if status >= 500 else "invalid_request_error"
        body["error"] |= {"param": field, "type": kind}
    return body


def declared_bytes(headers: Headers) -> int | None:
    """A request's Content-Length; None where it has none."""
    declared = headers.get("content-length", "")
    return int(declared) if declared.isdecimal() else None


def too_large(max_bytes: int) -> Refused:
    """The refusal of a body of more than `max_bytes`."""
    return Refused(
        413,
        "body_too_large",
        f"the body is over the limit of {max_bytes} bytes; send fewer or shorter texts, or raise "
        "MAX_BODY_BYTES on the server",
    )


class BodyGate:
    """Refuses bodies that can never be accepted, by their headers.

    It belongs after the gate for keys, and before admission: load does not matter to it.

    Args:
        max_bytes: of the largest body.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes

    def admit(self, scope: Scope, headers: Headers) -> Hooks:
        """See `Gate`: 400 for a body where none belongs, 413 over the limit, 415 if compressed."""
        declared = declared_bytes(headers)
        if scope["method"] in SAFE_METHODS and (declared or "transfer-encoding" in headers):
            raise Refused(
                400, "unexpected_body", f"{scope['method']} takes no body here; send it without one"
            )
        if declared is not None and declared > self._max_bytes:
            raise too_large(self._max_bytes)
        if headers.get("content-encoding", "identity").strip().lower() not in ("", "identity"):
            raise Refused(
                415, "unsupported_encoding", "send the body uncompressed, without Content-Encoding"
            )
        return Hooks()


class HostGate:
    """Refuses calls that name another host: for servers whose only protection is loopback.

    A page from elsewhere may have its name point to 127.0.0.1 once it is loaded (DNS rebinding);
    the browser then takes the API for a part of that page. Only the Host header tells.
    """

    def admit(self, scope: Scope, headers: Headers) -> Hooks:
        """See `Gate`: 403; requests without a Host, which no browser sends, are let in."""
        host = headers.get("host")
        if host is not None and not is_own_name(host):
            raise Refused(
                403,
                "host_not_allowed",
                "this server has no API keys, so it answers only to 127.0.0.1 and localhost: call "
                "it by these; or give it keys (API_KEYS_FILE); or, behind a proxy that "
                "authenticates callers, set ALLOW_NO_KEYS=true",
            )
        return Hooks()


def is_own_name(host: str) -> bool:
    """Whether a Host header, of any port, can only mean this machine, whatever DNS says.

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


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach `host`; no name but localhost counts.

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
