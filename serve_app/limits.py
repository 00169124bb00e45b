"""ASGI middleware around the API: gates, the body limit, UTF-8, drain and the access log.

Pure ASGI, so that a refused body is never read into memory whole and streamed answers are
not buffered. Knows nothing of routes; who may pass is decided by the gates it is given.
"""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serve_app.telemetry import Telemetry, Unrecorded
from serve_app.ticket import CURRENT, Ticket

REQUEST_ID_HEADER = "x-request-id"

TIMEOUT_HEADER = "x-request-timeout"
"""Seconds after which the client no longer waits."""

ERROR_CODE = "plainmed.error_code"
"""Where a request's scope holds the code of the error it was answered with."""

CALLER_ID = "plainmed.caller_id"
"""Where a request's scope may hold a public id of its caller, for the log."""

# Serve gives every record of this logger the replica and request id as fields.
logger = logging.getLogger("ray.serve")


@dataclass
class Traffic:
    """Requests under way in this replica, and whether new ones are refused."""

    in_flight: int = 0
    draining: bool = False


def route_path(scope: Scope) -> str:
    """The path below the application's own prefix."""
    path: str = scope["path"]
    return path.removeprefix(scope.get("root_path", "").rstrip("/"))


def error_body(
    code: str, message: str, field: str | None = None
) -> dict[str, dict[str, str | None]]:
    """The one JSON shape of every error."""
    return {"error": {"code": code, "message": message, "field": field}}


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


Leave = Callable[[int], None]
"""Called once with the status that a request was answered with; 0 where its client was gone."""


class Gate(Protocol):
    """Decides over a request by its head, before any of its body is read."""

    def enter(self, scope: Scope, headers: Headers) -> Leave:
        """Lets it in, and says what to call once it is answered.

        Raises:
            Refused: it may not.
        """
        ...


class RequestGuard:
    """Outermost middleware.

    Args:
        app: what it wraps.
        max_body_bytes: larger bodies are answered 413.
        retry_after_s: named in the 503 given while draining.
        timeout_s: longest time of a request; its client may ask for less.
        traffic: counts requests under way.
        gates: asked in this order.
        telemetry: is told of every request.
        routes: paths that metrics name; others count as `other`.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        max_body_bytes: int,
        retry_after_s: int,
        timeout_s: float,
        traffic: Traffic,
        gates: Sequence[Gate] = (),
        telemetry: Telemetry | None = None,
        routes: Container[str] = (),
    ) -> None:
        self.app = app
        self.max_body_bytes = max_body_bytes
        self.retry_after_s = retry_after_s
        self.timeout_s = timeout_s
        self.traffic = traffic
        self.gates = gates
        self.telemetry = telemetry or Unrecorded()
        self.routes = routes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one request; anything but HTTP passes through."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        # Serve's proxy passes the caller's id on, or makes one, and puts it on the answer.
        request_id = headers.get(REQUEST_ID_HEADER, "-")
        started = time.perf_counter()
        status = size = 0
        entered: list[Leave] = []

        async def send_noting_status(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        self._count(1)
        try:
            if self.traffic.draining:
                raise Refused(503, "shutting_down", "the server is shutting down; try again")
            for gate in self.gates:
                entered.append(gate.enter(scope, headers))
            CURRENT.set(self._ticket(scope, headers))
            body = await self._read(headers, receive)
            size = len(body)
            await self.app(scope, _replay(body, receive), send_noting_status)
        except Refused as refused:
            scope[ERROR_CODE] = refused.body["error"]["code"]
            await self._refuse(refused, send_noting_status)
        finally:
            for leave in reversed(entered):
                leave(status)
            self._count(-1)
            self._tell(scope, status, size, time.perf_counter() - started, request_id)

    def _count(self, more: int) -> None:
        self.traffic.in_flight += more
        self.telemetry.record("plainmed_requests_under_way", self.traffic.in_flight)

    def _tell(self, scope: Scope, status: int, size: int, seconds: float, request_id: str) -> None:
        """One line of the access log, and the metrics of one request."""
        path = route_path(scope)
        route = path if path in self.routes else "other"
        record, code = self.telemetry.record, scope.get(ERROR_CODE)
        record("plainmed_requests", route=route, status=str(status))
        record("plainmed_request_seconds", seconds, route=route)
        if size:
            record("plainmed_request_bytes", size, route=route)
        if code is not None:
            record("plainmed_errors", code=code)
        caller = scope.get(CALLER_ID, "-")
        logger.info(
            "http %s %s %d %.1fms id=%s caller=%s",
            scope["method"],
            scope["path"],
            status,
            seconds * 1000,
            request_id,
            caller,
            # Fields of their own where the log is JSON.
            extra={
                "method": scope["method"],
                "path": scope["path"],
                "status": status,
                "seconds": round(seconds, 4),
                "bytes": size,
                "caller": caller,
                "code": code,
            },
        )

    def _ticket(self, scope: Scope, headers: Headers) -> Ticket:
        timeout = self.timeout_s
        wanted = headers.get(TIMEOUT_HEADER)
        if wanted is not None:
            try:
                seconds = float(wanted)
            except ValueError:
                seconds = math.nan
            if not 0 < seconds < math.inf:
                raise Refused(
                    400, "invalid_timeout", f"{TIMEOUT_HEADER} must be a number of seconds above 0"
                )
            timeout = min(timeout, seconds)
        share = scope.get(CALLER_ID)
        deadline = time.time() + timeout
        return Ticket(deadline=deadline) if share is None else Ticket(share, deadline)

    async def _read(self, headers: Headers, receive: Receive) -> bytes:
        """The whole body, or a refusal as soon as it is known to be too large."""
        declared = headers.get("content-length", "")
        if declared.isdecimal() and int(declared) > self.max_body_bytes:
            raise self._too_large()
        parts: list[bytes] = []
        size = 0
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                break
            parts.append(message.get("body", b""))
            size += len(parts[-1])
            if size > self.max_body_bytes:
                raise self._too_large()
            if not message.get("more_body", False):
                break
        body = b"".join(parts)
        try:
            body.decode("utf-8")
        except UnicodeDecodeError as error:
            raise Refused(
                400, "invalid_utf8", f"the body is not valid UTF-8 at byte {error.start}"
            ) from None
        return body

    def _too_large(self) -> Refused:
        return Refused(
            413,
            "body_too_large",
            f"the body is over the limit of {self.max_body_bytes} bytes; send fewer or "
            "shorter texts, or raise MAX_BODY_BYTES on the server",
        )

    async def _refuse(self, refused: Refused, send: Send) -> None:
        body = json.dumps(refused.body).encode()
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(body)).encode()),
        ]
        further = dict(refused.headers)
        if refused.status == 503:
            further.setdefault("retry-after", str(self.retry_after_s))
        headers += [(name.encode(), value.encode()) for name, value in further.items()]
        await send({"type": "http.response.start", "status": refused.status, "headers": headers})
        await send({"type": "http.response.body", "body": body})


def _replay(body: bytes, receive: Receive) -> Receive:
    """A `receive` that gives the body once, then whatever the connection says (a disconnect)."""
    given = False

    async def replay() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replay
