"""What decides over a request by its head alone, and how a refusal looks.

Knows no routes and no keys: those gates are made where those things are known
(`serve_app.api.auth`, `admission`), and `request_guard` asks them in turn.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from starlette.datastructures import Headers
from starlette.types import Scope

from serve_app.core.errors import error_body

SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
"""Methods that only ask: they cost no model and bring no body, so none of theirs is read."""


class Refused(Exception):
    """Ends a request before the application sees it.

    Args:
        status: of the answer.
        code: as in every error.
        message: what the client can do.
        headers: further ones of the answer, by lower-case name.
    """

    def __init__(
        self, status: int, code: str, message: str, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.body = error_body(code, message)
        self.headers = dict(headers or {})


def declared_bytes(headers: Headers) -> int | None:
    """How long a request says that its body is; None where it does not say."""
    declared = headers.get("content-length", "")
    return int(declared) if declared.isdecimal() else None


def _nothing(_: int) -> None:
    return None


@dataclass(frozen=True, slots=True)
class Admitted:
    """What a gate wants to be told of a request that it let in.

    Attributes:
        arrived: called once its whole body is there, with the bytes of it; never where that does
            not happen.
        answered: called once, with the status of the answer; 0 where its client was gone, 500 where
            a stream ended with an error.
    """

    arrived: Callable[[int], None] = _nothing
    answered: Callable[[int], None] = _nothing


class Gate(Protocol):
    """Decides over a request by its head, before any of its body is read."""

    def enter(self, scope: Scope, headers: Headers) -> Admitted:
        """Lets it in, and says what to call later.

        Raises:
            Refused: it may not.
        """
        ...


class BodyGate:
    """A `Gate`: refuses what says of its body that it can never be taken.

    It belongs after the gate that asks who calls, and before the one that counts what is under way:
    a server that is full has nothing to do with it.

    Args:
        max_bytes: of the largest body.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes

    def enter(self, scope: Scope, headers: Headers) -> Admitted:
        """Lets the request in.

        Raises:
            Refused: 400 for a body where none belongs, 413 for one over the limit.
        """
        declared = declared_bytes(headers)
        if scope["method"] in SAFE_METHODS and (declared or "transfer-encoding" in headers):
            raise Refused(
                400, "unexpected_body", f"{scope['method']} takes no body here; send it without one"
            )
        if declared is not None and declared > self._max_bytes:
            raise too_large(self._max_bytes)
        return Admitted()


def too_large(max_bytes: int) -> Refused:
    """What a body over the limit of bytes is told."""
    return Refused(
        413,
        "body_too_large",
        f"the body is over the limit of {max_bytes} bytes; send fewer or shorter texts, or raise "
        "MAX_BODY_BYTES on the server",
    )


LIVE_PATH = "/livez"
"""Answered while the server drains as well: what finishes its work is alive."""


ERROR_CODE = "plainmed.error_code"
"""Where a request's scope holds the code of the error it was answered with."""


CALLER_ID = "plainmed.caller_id"
"""Where a request's scope may hold a public id of its caller, for the log."""


ITEMS = "plainmed.items"
"""Where a request's scope may hold how many texts it has an engine compute; else that is one."""


def route_path(scope: Scope) -> str:
    """The path below the application's own prefix."""
    path: str = scope["path"]
    return path.removeprefix(scope.get("root_path", "").rstrip("/"))
