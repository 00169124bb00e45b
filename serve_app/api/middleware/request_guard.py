"""The outermost ASGI middleware: gates, size and time of the body, UTF-8, drain, access log, span.

Pure ASGI, so that a refused body is never read whole and streamed answers are not buffered. Knows
no routes; the gates it is given decide who may pass.
"""

from __future__ import annotations

import asyncio
import json
import logging
import math
import time
from collections.abc import Container, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace

from opentelemetry.trace import Span, SpanKind, StatusCode
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serve_app.api.middleware.gate import (
    CALLER_ID,
    ERROR_CODE,
    LIVE_PATH,
    SAFE_METHODS,
    Gate,
    Hooks,
    Refused,
    error_answer,
    route_path,
    too_large,
)
from serve_app.api.request_stats import RequestStats
from serve_app.core.context import (
    AGE_HEADER,
    CURRENT_CONTEXT,
    REQUEST_ID_HEADER,
    TIMEOUT_HEADER,
    TRACE_HEADER,
    RequestContext,
    good_request_id,
)
from serve_app.core.errors import RETRY_AFTER_S
from serve_app.core.observability.instruments import Telemetry, Unrecorded
from serve_app.core.observability.log_redaction import frames
from serve_app.core.observability.tracing import RequestTracer, gather, handed_on, stage

# Serve adds the replica and request id to every record of this logger.
logger = logging.getLogger("ray.serve")

_UNTRACED = RequestTracer()


@dataclass
class Traffic:
    """Concurrent requests of this replica, and whether new ones are refused."""

    in_flight: int = 0
    draining: bool = False


class BrokenOff(Exception):
    """An answer ended midway. Its message has only the error's kind, as messages quote texts."""


@dataclass
class _Exchange:
    """One request and its answer so far.

    Attributes:
        route: its path in metrics, logs and spans.
        stages: seconds of its stages.
        method: as sent; HEAD is GET in the scope.
        received, sent: bytes of the bodies.
        ended: whether the whole answer was sent.
    """

    scope: Scope
    headers: Headers
    send: Send
    route: str
    stages: dict[str, float]
    method: str
    started: float = field(default_factory=time.perf_counter)
    hooks: list[Hooks] = field(default_factory=list)
    status: int = 0
    received: int = 0
    sent: int = 0
    ended: bool = False

    @property
    def request_id(self) -> str:
        """The id that Serve's proxy has passed on or made; `-` if it may not stand in a log.

        The proxy's middleware replaces such ids; without it they get here.
        """
        given = self.headers.get(REQUEST_ID_HEADER, "")
        return given if good_request_id(given) else "-"

    @property
    def outcome(self) -> int:
        """The status, but 0 if the client was gone before the whole answer was sent, and 500 if an
        answer that had begun well ended with an error."""
        if not self.ended:
            return 0
        return 500 if self.status < 400 and ERROR_CODE in self.scope else self.status

    async def answer(self, message: Message) -> None:
        """Sends a part of the answer and notes it."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            # A browser must not take an answer for a page, whatever a text in it looks like.
            MutableHeaders(scope=message).setdefault("x-content-type-options", "nosniff")
        elif message["type"] == "http.response.body":
            if self.method == "HEAD":
                message = {**message, "body": b""}
            self.sent += len(message.get("body", b""))
            self.ended = not message.get("more_body", False)
        await self.send(message)

    def describe(self, span: Span) -> None:
        """Writes the answer's status, sizes and error code on its span."""
        code = self.scope.get(ERROR_CODE)
        span.set_attributes(
            {
                "http.response.status_code": self.status,
                "http.request.body.size": self.received,
                "http.response.body.size": self.sent,
                **({} if code is None else {"plainmed.error_code": code}),
            }
        )
        if self.status >= 500:  # a 4xx is the client's error (OpenTelemetry's rule for servers)
            span.set_status(StatusCode.ERROR, code or "")


class RequestGuard:
    """Outermost middleware: what leaves it is an answer, never an error that Serve would log.

    Args:
        app: what it wraps.
        max_body_bytes: of bodies of undeclared size (`BodyGate` checks the others); larger ones are
            answered 413.
        timeout_s: longest time of a request, with the arrival of its body; its client may ask for
            less.
        traffic: counts concurrent requests.
        gates: asked in this order.
        telemetry, recent: record every request.
        tracer: makes the spans of POST requests.
        routes: paths that metrics, logs and spans name; others, which clients invent, are `other`.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        max_body_bytes: int,
        timeout_s: float,
        traffic: Traffic,
        gates: Sequence[Gate] = (),
        telemetry: Telemetry | None = None,
        recent: RequestStats | None = None,
        tracer: RequestTracer | None = None,
        routes: Container[str] = (),
    ) -> None:
        self.app = app
        self.max_body_bytes = max_body_bytes
        self.timeout_s = timeout_s
        self.traffic = traffic
        self.gates = gates
        self.telemetry = telemetry or Unrecorded()
        self.recent = recent or RequestStats()
        self.tracer = tracer or _UNTRACED
        self.routes = routes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one request; anything but HTTP passes through."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        path = route_path(scope)
        if path[:-1] in self.routes and path.endswith("/"):  # served, not redirected
            path, scope["path"] = path[:-1], scope["path"][:-1]
        route = path if path in self.routes else "other"
        exchange = _Exchange(scope, Headers(scope=scope), send, route, gather(), scope["method"])
        if exchange.method == "HEAD":  # answered as GET without the body (RFC 9110)
            scope["method"] = "GET"
        self._count(1)
        try:
            with self._span(exchange) as span:
                try:
                    await self._serve(exchange, receive, span)
                finally:
                    exchange.describe(span)
        finally:
            for hooks in reversed(exchange.hooks):
                hooks.on_answer(exchange.outcome)
            self._count(-1)
            self._log(exchange)

    async def _serve(self, exchange: _Exchange, receive: Receive, span: Span) -> None:
        scope, headers = exchange.scope, exchange.headers
        try:
            with stage("admission"):
                if self.traffic.draining and exchange.route != LIVE_PATH:
                    raise Refused(503, "shutting_down", "the server is shutting down; try again")
                for gate in self.gates:
                    exchange.hooks.append(gate.admit(scope, headers))
                context = handed_on(self._context(exchange), span)
                CURRENT_CONTEXT.set(context)
            body = b""
            with stage("body"):
                if scope["method"] not in SAFE_METHODS:
                    body = await self._read(receive, context.left())
            exchange.received = len(body)
            for hooks in exchange.hooks:
                hooks.on_body(len(body))
            await self.app(scope, _replay(body, receive), exchange.answer)
        except Refused as refused:
            await self._refuse(refused, exchange)
        except Exception as error:  # of any kind: Serve would log its message
            if exchange.status == 0:  # Starlette raises again what it has answered
                logger.error("unexpected %s", frames(error))
                message = "an internal error; see the server's log by its id"
                await self._refuse(Refused(500, "internal_error", message), exchange)
            elif not exchange.ended:
                raise BrokenOff(f"an answer ended midway: {type(error).__name__}") from None

    def _span(self, exchange: _Exchange) -> AbstractContextManager[Span]:
        method = exchange.method
        # Load balancers' GETs would bury the requests that compute.
        tracer = self.tracer if method == "POST" else _UNTRACED
        return tracer.span(
            f"{method} {exchange.route}",
            exchange.headers.get(TRACE_HEADER),
            {
                "http.request.method": method,
                "http.route": exchange.route,
                "plainmed.request_id": exchange.request_id,
            },
            SpanKind.SERVER,
        )

    def _count(self, more: int) -> None:
        self.traffic.in_flight += more
        self.telemetry.record("plainmed_requests_under_way", self.traffic.in_flight)

    def _log(self, exchange: _Exchange) -> None:
        """Writes the access log's line and the metrics of one request."""
        scope, route, status = exchange.scope, exchange.route, exchange.outcome
        seconds = time.perf_counter() - exchange.started
        record, code = self.telemetry.record, scope.get(ERROR_CODE)
        record("plainmed_requests", route=route, status=str(status))
        if 200 <= status < 400:  # refusals are fast, and would hide how long answers take
            record("plainmed_request_seconds", seconds, route=route)
        if exchange.received:
            record("plainmed_request_bytes", exchange.received, route=route)
            for name, value in exchange.stages.items():
                record("plainmed_stage_seconds", value, stage=name)
        if code is not None:
            record("plainmed_errors", code=code)
        self.recent.answered(route, status, seconds)
        caller = scope.get(CALLER_ID, "-")
        # An unknown path may hold anything; the client has it in its answer.
        path = scope.get("root_path", "").rstrip("/") + route if route != "other" else route
        logger.info(
            "http %s %s %d %.1fms id=%s caller=%s",
            exchange.method,
            path,
            status,
            seconds * 1000,
            exchange.request_id,
            caller,
            extra={  # fields of their own where the log is JSON
                "method": exchange.method,
                "path": path,
                "status": status,
                "seconds": round(seconds, 4),
                "bytes": exchange.received,
                "bytes_sent": exchange.sent,
                "stages": {name: round(value, 4) for name, value in exchange.stages.items()},
                "caller": caller,
                "code": code,
            },
        )

    def _context(self, exchange: _Exchange) -> RequestContext:
        timeout = self.timeout_s
        wanted = exchange.headers.get(TIMEOUT_HEADER)
        if wanted is not None:
            seconds = _seconds(wanted)
            if not 0 < seconds < math.inf:
                raise Refused(
                    400, "invalid_timeout", f"{TIMEOUT_HEADER} must be a number of seconds above 0"
                )
            timeout = min(timeout, seconds)
        # A client that sends an age itself only shortens its own time.
        age = _seconds(exchange.headers.get(AGE_HEADER, "0"))
        timeout -= max(0.0, age) if math.isfinite(age) else 0.0
        if timeout <= 0:
            raise Refused(503, "timeout", "the request's time is over; try again")
        tenant = exchange.scope.get(CALLER_ID)
        context = RequestContext(deadline=time.time() + timeout, request_id=exchange.request_id)
        return context if tenant is None else replace(context, tenant=tenant)

    async def _read(self, receive: Receive, seconds: float) -> bytes:
        """The whole body; refused once it is known to be too large, too late or not UTF-8."""
        parts: list[bytes] = []
        size, more = 0, True
        try:
            async with asyncio.timeout(seconds):
                while more:
                    message = await receive()
                    more = message.get("more_body", False)  # none after a disconnect
                    parts.append(message.get("body", b""))
                    size += len(parts[-1])
                    if size > self.max_body_bytes:
                        raise too_large(self.max_body_bytes)
        except TimeoutError:
            raise Refused(
                503,
                "timeout",
                f"the body did not arrive within {seconds:.3g} s; send fewer texts a request, or "
                "try again",
            ) from None
        body = b"".join(parts)
        try:
            body.decode("utf-8")
        except UnicodeDecodeError as error:
            raise Refused(
                400, "invalid_utf8", f"the body is not valid UTF-8 at byte {error.start}"
            ) from None
        return body

    async def _refuse(self, refused: Refused, exchange: _Exchange) -> None:
        exchange.scope[ERROR_CODE] = refused.code
        answer = error_answer(exchange.scope, refused.status, refused.code, refused.message)
        body = json.dumps(answer).encode()
        headers = {"content-type": "application/json", "content-length": str(len(body))}
        if refused.status == 503:
            headers["retry-after"] = str(RETRY_AFTER_S)
        headers |= refused.headers
        raw = [(name.encode(), value.encode()) for name, value in headers.items()]
        start = {"type": "http.response.start", "status": refused.status, "headers": raw}
        await exchange.answer(start)
        await exchange.answer({"type": "http.response.body", "body": body})


def _seconds(text: str) -> float:
    """The number in a header; NaN if it is none."""
    try:
        return float(text)
    except ValueError:
        return math.nan


def _replay(body: bytes, receive: Receive) -> Receive:
    """A `receive` that gives the body once, then the connection's own messages (a disconnect)."""
    given = False

    async def replay() -> Message:
        nonlocal given
        if given:
            message = await receive()
            while message["type"] == "http.request":  # of a body that was not read
                message = await receive()
            return message
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replay
