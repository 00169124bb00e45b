"""ASGI middleware around the API: gates, the body's size and time, UTF-8, drain, the access log and
the span of a request.

Pure ASGI, so that a refused body is never read into memory whole and streamed answers are
not buffered. Knows nothing of routes; who may pass is decided by the gates it is given.
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

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serve_app.api.middleware.gate import (
    CALLER_ID,
    ERROR_CODE,
    LIVE_PATH,
    SAFE_METHODS,
    Admitted,
    Gate,
    Refused,
    route_path,
    too_large,
)
from serve_app.api.request_stats import RequestStats
from serve_app.core.context import CURRENT_CONTEXT, RequestContext
from serve_app.core.headers import (
    AGE_HEADER,
    REQUEST_ID_HEADER,
    TIMEOUT_HEADER,
    TRACE_HEADER,
    good_request_id,
)
from serve_app.core.observability.instruments import Telemetry, Unrecorded
from serve_app.core.observability.log_redaction import frames
from serve_app.core.observability.timings import gather, stage
from serve_app.core.observability.tracing import Span, Tracer, Untraced, handed_on

# Serve gives every record of this logger the replica and request id as fields.
logger = logging.getLogger("ray.serve")


@dataclass
class Traffic:
    """Requests under way in this replica, and whether new ones are refused."""

    in_flight: int = 0
    draining: bool = False


class BrokenOff(Exception):
    """An answer ended in the middle. Only the kind of the error is told: messages quote texts."""


@dataclass
class _Exchange:
    """One request and what has been answered so far.

    Attributes:
        route: what metrics, logs and spans call its path.
        noted: seconds of its stages.
        received, sent: bytes of the bodies.
        ended: whether the whole answer was sent.
    """

    scope: Scope
    headers: Headers
    send: Send
    route: str
    noted: dict[str, float]
    started: float = field(default_factory=time.perf_counter)
    entered: list[Admitted] = field(default_factory=list)
    status: int = 0
    received: int = 0
    sent: int = 0
    ended: bool = False

    @property
    def request_id(self) -> str:
        """Serve's proxy passes the caller's id on, or makes one, and puts it on the answer.

        What may not stand in a log is replaced there (`serve_app.serving.proxy.middleware`); where
        that is turned off it is left out here.
        """
        given = self.headers.get(REQUEST_ID_HEADER, "")
        return given if good_request_id(given) else "-"

    @property
    def outcome(self) -> int:
        """The status that tells what became of it: 0 where its client was gone before the whole
        answer was sent, 500 where an answer that had begun well ended with an error."""
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
            self.sent += len(message.get("body", b""))
            self.ended = not message.get("more_body", False)
        await self.send(message)


class RequestGuard:
    """Outermost middleware: what leaves it is an answer, never an error that Serve would log.

    Args:
        app: what it wraps.
        max_body_bytes: of a body that does not say its size (`BodyGate` asks the others); larger
            ones are answered 413.
        retry_after_s: named in the 503 given while draining.
        timeout_s: longest time of a request, the arrival of its body included; its client may ask
            for less.
        traffic: counts requests under way.
        gates: asked in this order.
        telemetry: is told of every request.
        recent: keeps the last minutes of them.
        tracer: makes the span of what computes (POST).
        routes: paths that metrics, logs and spans name; others, which a client makes up, are
            `other`.
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
        recent: RequestStats | None = None,
        tracer: Tracer | None = None,
        routes: Container[str] = (),
    ) -> None:
        self.app = app
        self.max_body_bytes = max_body_bytes
        self.retry_after_s = retry_after_s
        self.timeout_s = timeout_s
        self.traffic = traffic
        self.gates = gates
        self.telemetry = telemetry or Unrecorded()
        self.recent = recent or RequestStats()
        self.tracer = tracer or Untraced()
        self.routes = routes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one request; anything but HTTP passes through."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        path = route_path(scope)
        route = path if path in self.routes else "other"
        exchange = _Exchange(scope, Headers(scope=scope), send, route, gather())
        self._count(1)
        try:
            with self._span(exchange) as span:
                try:
                    await self._serve(exchange, receive, span)
                finally:
                    span.set(_outcome(exchange))
        finally:
            for admitted in reversed(exchange.entered):
                admitted.answered(exchange.outcome)
            self._count(-1)
            self._tell(exchange)

    async def _serve(self, exchange: _Exchange, receive: Receive, span: Span) -> None:
        scope, headers = exchange.scope, exchange.headers
        try:
            with stage("admission"):
                if self.traffic.draining and exchange.route != LIVE_PATH:
                    raise Refused(503, "shutting_down", "the server is shutting down; try again")
                for gate in self.gates:
                    exchange.entered.append(gate.enter(scope, headers))
                context = handed_on(self._context(exchange), span)
                CURRENT_CONTEXT.set(context)
            with stage("body"):
                # Nothing of a method that only asks: `BodyGate` has refused what brings a body.
                body = (
                    b"" if scope["method"] in SAFE_METHODS else await self._read(receive, context)
                )
            exchange.received = len(body)
            for admitted in exchange.entered:
                admitted.arrived(len(body))
            await self.app(scope, _replay(body, receive), exchange.answer)
        except Refused as refused:
            await self._refuse(refused, exchange)
        except Exception as error:  # of whatever kind: Serve would log its message
            await self._fail(error, exchange)

    async def _fail(self, error: Exception, exchange: _Exchange) -> None:
        """Answers what nobody has answered; Starlette hands on what it has answered itself."""
        if exchange.status == 0:
            logger.error("unexpected %s", frames(error))
            await self._refuse(
                Refused(500, "internal_error", "an internal error; see the server's log by its id"),
                exchange,
            )
        elif not exchange.ended:
            raise BrokenOff(f"an answer ended in the middle: {type(error).__name__}") from None

    def _span(self, exchange: _Exchange) -> AbstractContextManager[Span]:
        method = exchange.scope["method"]
        # What only asks, such as a load balancer, would bury what computes.
        tracer = self.tracer if method == "POST" else _UNTRACED
        return tracer.span(
            f"{method} {exchange.route}",
            exchange.headers.get(TRACE_HEADER),
            {
                "http.request.method": method,
                "http.route": exchange.route,
                "plainmed.request_id": exchange.request_id,
            },
        )

    def _count(self, more: int) -> None:
        self.traffic.in_flight += more
        self.telemetry.record("plainmed_requests_under_way", self.traffic.in_flight)

    def _tell(self, exchange: _Exchange) -> None:
        """One line of the access log, and the metrics of one request."""
        scope, route, status = exchange.scope, exchange.route, exchange.outcome
        seconds = time.perf_counter() - exchange.started
        record, code = self.telemetry.record, scope.get(ERROR_CODE)
        record("plainmed_requests", route=route, status=str(status))
        if 200 <= status < 400:  # refusals are fast, and would hide how long answers take
            record("plainmed_request_seconds", seconds, route=route)
        if exchange.received:
            record("plainmed_request_bytes", exchange.received, route=route)
            for name, value in exchange.noted.items():
                record("plainmed_stage_seconds", value, stage=name)
        if code is not None:
            record("plainmed_errors", code=code)
        self.recent.answered(route, status, seconds)
        caller = scope.get(CALLER_ID, "-")
        # A path that no route has may hold anything; the client has it in its answer.
        path = scope.get("root_path", "").rstrip("/") + route if route != "other" else route
        logger.info(
            "http %s %s %d %.1fms id=%s caller=%s",
            scope["method"],
            path,
            status,
            seconds * 1000,
            exchange.request_id,
            caller,
            # Fields of their own where the log is JSON.
            extra={
                "method": scope["method"],
                "path": path,
                "status": status,
                "seconds": round(seconds, 4),
                "bytes": exchange.received,
                "bytes_sent": exchange.sent,
                "stages": {name: round(value, 4) for name, value in exchange.noted.items()},
                "caller": caller,
                "code": code,
            },
        )

    def _context(self, exchange: _Exchange) -> RequestContext:
        timeout = self.timeout_s
        wanted = exchange.headers.get(TIMEOUT_HEADER)
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
        timeout -= _age(exchange.headers)
        if timeout <= 0:
            raise Refused(503, "timeout", "the request's time is over; try again")
        tenant = exchange.scope.get(CALLER_ID)
        context = RequestContext(deadline=time.time() + timeout, request_id=exchange.request_id)
        return context if tenant is None else replace(context, tenant=tenant)

    async def _read(self, receive: Receive, context: RequestContext) -> bytes:
        """The whole body, or a refusal once it is known to be too large or comes too late."""
        seconds = context.left()
        try:
            async with asyncio.timeout(seconds):
                body = await self._parts(receive)
        except TimeoutError:
            raise Refused(
                503,
                "timeout",
                f"the body did not arrive within {seconds:.3g} s; send fewer texts a request, or "
                "try again",
            ) from None
        try:
            body.decode("utf-8")
        except UnicodeDecodeError as error:
            raise Refused(
                400, "invalid_utf8", f"the body is not valid UTF-8 at byte {error.start}"
            ) from None
        return body

    async def _parts(self, receive: Receive) -> bytes:
        parts: list[bytes] = []
        size = 0
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                break
            parts.append(message.get("body", b""))
            size += len(parts[-1])
            if size > self.max_body_bytes:
                raise too_large(self.max_body_bytes)
            if not message.get("more_body", False):
                break
        return b"".join(parts)

    async def _refuse(self, refused: Refused, exchange: _Exchange) -> None:
        exchange.scope[ERROR_CODE] = refused.body["error"]["code"]
        body = json.dumps(refused.body).encode()
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(body)).encode()),
        ]
        further = dict(refused.headers)
        if refused.status == 503:
            further.setdefault("retry-after", str(self.retry_after_s))
        headers += [(name.encode(), value.encode()) for name, value in further.items()]
        start = {"type": "http.response.start", "status": refused.status, "headers": headers}
        await exchange.answer(start)
        await exchange.answer({"type": "http.response.body", "body": body})


_UNTRACED = Untraced()


def _age(headers: Headers) -> float:
    """Seconds since the request came, where it was repeated on its way here; who says so of an own
    request only has less time for it."""
    try:
        seconds = float(headers.get(AGE_HEADER, "0"))
    except ValueError:
        return 0.0
    return max(0.0, seconds) if math.isfinite(seconds) else 0.0


def _outcome(exchange: _Exchange) -> dict[str, str | bool | int | float]:
    """What a span says of the answer."""
    said: dict[str, str | bool | int | float] = {
        "http.response.status_code": exchange.status,
        "http.request.body.size": exchange.received,
        "http.response.body.size": exchange.sent,
    }
    code = exchange.scope.get(ERROR_CODE)
    return said if code is None else {**said, "plainmed.error_code": code}


def _replay(body: bytes, receive: Receive) -> Receive:
    """A `receive` that gives the body once, then what the connection says (a disconnect)."""
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
