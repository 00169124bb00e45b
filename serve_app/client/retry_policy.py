"""What both Python clients share: where the server is, time limits, what is worth repeating.

Sends nothing itself. Every call only computes, so repeating one is safe: connection errors,
the statuses 429, 502, 503 and 504, and a 500 that is not PlainMed's own (a Serve without our
middlewares gives it for a gateway that died with the request) are retried with jittered
exponential backoff, and Retry-After is honoured up to `max_wait`. A call that was sent but not
answered within `timeout` is not repeated: the server may still be busy with it.
"""

from __future__ import annotations

import math
import os
import random
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, NoReturn, TypeVar

import httpx
from tenacity import RetryCallState, retry_if_exception, stop_after_attempt
from tenacity.stop import stop_before_delay

from serve_app import __version__
from serve_app.client.errors import PlainMedAPIError, PlainMedConnectionError
from serve_app.client.wire import NO_CODE, Call
from serve_app.core.errors import ConfigError

DEFAULT_URL = "http://127.0.0.1:8000"
RETRIED_STATUSES = frozenset({429, 502, 503, 504})

T = TypeVar("T")


class ClientCore(ABC):
    """Configuration, the arguments of each attempt, and the retry policy.

    Args:
        base_url: where the server is; default METRICS_API_URL, else http://127.0.0.1:8000.
        timeout: longest silence while waiting for an answer or the next piece of a stream, in
            seconds. The default is a little over the server's own REQUEST_TIMEOUT_S, so that
            its explanation arrives first.
        connect_timeout: longest wait for a connection, in seconds.
        retries: how often a call is repeated, >= 0.
        deadline: longest time from the call to its answer, retries included, in seconds; None: no
            limit. A stream must begin within it, and the server ends one that takes longer.
        backoff: first wait before a retry, in seconds; it doubles each time. Half is random.
        max_wait: longest single wait, Retry-After included, in seconds.
        api_key: where the server asks for one; default PLAINMED_API_KEY, else none is sent.
        headers: sent with every request.

    Raises:
        ConfigError: the URL is not an http or https URL, or a limit makes no sense.
    """

    def __init__(
        self,
        base_url: str | None = None,
        *,
        timeout: float = 310.0,
        connect_timeout: float = 5.0,
        retries: int = 4,
        deadline: float | None = 900.0,
        backoff: float = 0.5,
        max_wait: float = 30.0,
        api_key: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self.base_url = base_url or os.environ.get("METRICS_API_URL") or DEFAULT_URL
        try:
            url = httpx.URL(self.base_url)
        except httpx.InvalidURL as error:
            raise ConfigError(f"METRICS_API_URL: {self.base_url!r} is no URL: {error}") from error
        if url.scheme not in ("http", "https") or not url.host:
            raise ConfigError(f"METRICS_API_URL: {self.base_url!r} is not like {DEFAULT_URL}")
        limits = (timeout, connect_timeout, max_wait, 1.0 if deadline is None else deadline)
        if not all(0 < limit < math.inf for limit in limits) or retries < 0 or backoff < 0:
            raise ConfigError(
                "client: timeouts must be finite and above 0, retries and backoff at least 0"
            )
        self._timeout = timeout
        self._connect_timeout = connect_timeout
        self._retries = retries
        self._deadline = deadline
        self._backoff = backoff
        self._max_wait = max_wait
        # A proxy named by the environment cannot reach this machine's own loopback.
        loopback = url.host in ("localhost", "::1") or url.host.startswith("127.")
        key = api_key or os.environ.get("PLAINMED_API_KEY", "").strip()
        if key and not (key.isascii() and key.isprintable()):
            raise ConfigError("PLAINMED_API_KEY: this is no API key; it has characters none has")
        own = {"User-Agent": f"plainmed/{__version__}"}
        if key:
            own["Authorization"] = f"Bearer {key}"
        self._options: dict[str, Any] = {
            "base_url": url,
            "headers": {**own, **(headers or {})},
            "trust_env": not loopback,
        }
        self._connect()

    @abstractmethod
    def _connect(self) -> None:
        """Makes the httpx client."""

    def _request(self, call: Call[T], started: float, *, stream: bool = False) -> dict[str, Any]:
        """Arguments of httpx's `build_request` for one attempt, with what is left of the time."""
        left = float("inf")
        if self._deadline is not None:
            left = max(0.001, self._deadline - (time.monotonic() - started))
        patience = min(self._timeout, left)
        timeout = httpx.Timeout(patience, connect=min(self._connect_timeout, left))
        # The server then computes for nobody who has given up. A stream, all of it, may take longer
        # than any silence in it.
        limit = left if stream else patience
        told = {"X-Request-Timeout": f"{limit:.3f}"} if limit < math.inf else {}
        headers = {**call.headers, **told}
        arguments = {"headers": headers, "content": call.body, "timeout": timeout}
        return {"method": call.method, "url": call.path, **arguments}

    @contextmanager
    def _translated(self, call: Call[T]) -> Iterator[None]:
        """httpx's transport errors as ours."""
        try:
            yield
        except (httpx.ReadTimeout, httpx.WriteTimeout) as error:
            message = f"{self.base_url}{call.path} did not answer in time"
            raise PlainMedConnectionError(message, call.request_id, retryable=False) from error
        except httpx.RequestError as error:
            reason = str(error) or type(error).__name__
            message = f"cannot reach PlainMed at {self.base_url}: {reason}"
            raise PlainMedConnectionError(message, call.request_id) from error

    def _policy(self, call: Call[T]) -> dict[str, Any]:
        """Arguments of tenacity's `Retrying` and `AsyncRetrying`."""
        stop: Any = stop_after_attempt(1 + (self._retries if call.retried else 0))
        if self._deadline is not None:
            stop |= stop_before_delay(self._deadline)
        return {
            "retry": retry_if_exception(_worth_repeating),
            "wait": self._wait,
            "stop": stop,
            "retry_error_callback": _give_up,
        }

    def _wait(self, state: RetryCallState) -> float:
        """Seconds before the next attempt."""
        backoff = min(self._max_wait, self._backoff * 2.0 ** (state.attempt_number - 1))
        backoff *= random.uniform(0.5, 1.0)  # noqa: S311 - spreads clients, hides nothing
        error = state.outcome.exception() if state.outcome else None
        asked = error.retry_after if isinstance(error, PlainMedAPIError) else None
        # Never earlier than asked; the jitter keeps clients told the same second apart.
        return backoff if asked is None else min(self._max_wait, asked + backoff)


def _worth_repeating(error: BaseException) -> bool:
    if isinstance(error, PlainMedAPIError):
        foreign = error.status == 500 and error.code == NO_CODE
        return foreign or error.status in RETRIED_STATUSES
    return isinstance(error, PlainMedConnectionError) and error.retryable


def _give_up(state: RetryCallState) -> NoReturn:
    error = state.outcome.exception() if state.outcome else None
    if isinstance(error, PlainMedAPIError | PlainMedConnectionError):
        error.attempts = state.attempt_number
    raise error or RuntimeError("a retry ended without an outcome")


def named(call: Call[T], request_id: str | None) -> Call[T]:
    """The call under the caller's own request id, where there is one."""
    return call if request_id is None else replace(call, request_id=request_id)


def cut_short(call: Call[T]) -> PlainMedConnectionError:
    """The error of a stream that ended without its last event."""
    message = f"{call.path}: the stream ended before the summary was complete"
    return PlainMedConnectionError(message, call.request_id)
