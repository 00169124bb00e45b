"""Python clients of the HTTP API: `PlainMedClient` and its asynchronous twin.

They only send and wait. `serve_app.client.wire` has what is sent, how answers are read, and what
each method does; `serve_app.client.retry_policy`, time limits and what is repeated.
"""

from __future__ import annotations

import inspect
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from functools import update_wrapper
from typing import Any, Concatenate, ParamSpec, Self, TypeVar, Unpack

import httpx
from tenacity import AsyncRetrying, Retrying

from serve_app.client import wire
from serve_app.client.errors import PlainMedAPIError, PlainMedConnectionError
from serve_app.client.retry_policy import ClientCore, cut_short
from serve_app.client.sse import EventParser
from serve_app.client.wire import Call
from serve_app.core.sampling import SamplingOptions
from serve_app.core.schemas import GenerateResponse

__all__ = [
    "AsyncPlainMedClient",
    "PlainMedAPIError",
    "PlainMedClient",
    "PlainMedConnectionError",
    "SamplingOptions",
]

P = ParamSpec("P")
T = TypeVar("T")


def _documented(method: Any, build: Callable[..., Any]) -> Any:
    """`method` with the name, docstring and (after `self`) parameters of `build`."""
    own = inspect.signature(build)
    first = inspect.Parameter("self", inspect.Parameter.POSITIONAL_ONLY)
    method.__signature__ = own.replace(parameters=[first, *own.parameters.values()])
    return update_wrapper(method, build)


def _blocking(build: Callable[P, Call[T]]) -> Callable[Concatenate[PlainMedClient, P], T]:
    def method(self: PlainMedClient, *args: P.args, **kwargs: P.kwargs) -> T:
        return self._send(build(*args, **kwargs))

    made: Callable[Concatenate[PlainMedClient, P], T] = _documented(method, build)
    return made


def _awaited(
    build: Callable[P, Call[T]],
) -> Callable[Concatenate[AsyncPlainMedClient, P], Coroutine[Any, Any, T]]:
    async def method(self: AsyncPlainMedClient, *args: P.args, **kwargs: P.kwargs) -> T:
        return await self._send(build(*args, **kwargs))

    made: Callable[Concatenate[AsyncPlainMedClient, P], Coroutine[Any, Any, T]] = _documented(
        method, build
    )
    return made


class PlainMedClient(ClientCore):
    """A blocking client; threads may share one. Use it with `with`, or call `close`.

    The arguments are those of `ClientCore`: base_url, timeout, connect_timeout, retries, deadline,
    backoff, max_wait, headers. Every method takes a `request_id` to be found by in the server's
    log (one is made where none is given). Where several texts are expected, a str stands for a
    list of one.

    Raises (each method):
        PlainMedAPIError: the answer is an error.
        PlainMedConnectionError: no answer came.
        InvalidInput: an argument no server would accept, such as a text that is no str.
    """

    relevance = _blocking(wire.relevance)
    factuality = _blocking(wire.factuality)
    readability = _blocking(wire.readability)
    loss = _blocking(wire.loss)
    evaluate = _blocking(wire.evaluate)
    generate = _blocking(wire.generate)
    generate_many = _blocking(wire.generate_many)
    health = _blocking(wire.health)
    status = _blocking(wire.status)

    def _connect(self) -> None:
        self._http = httpx.Client(**self._options)

    def generate_stream(
        self, text: str, *, request_id: str | None = None, **sampling: Unpack[SamplingOptions]
    ) -> Iterator[str | GenerateResponse]:
        """The summary's pieces as they are written, then the whole answer.

        Retried only until the stream begins; one that breaks off raises.
        """
        return self._events(wire.generate_stream(text, request_id=request_id, **sampling))

    def close(self) -> None:
        """Closes the connections."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _send(self, call: Call[T]) -> T:
        answer: T = Retrying(**self._policy(call))(self._attempt, call, time.monotonic())
        return answer

    def _attempt(self, call: Call[Any], started: float, stream: bool = False) -> Any:
        """The call's value; of a stream that has begun, the open response."""
        with self._translated(call):
            request = self._http.build_request(**self._request(call, started, stream=stream))
            response = self._http.send(request, stream=stream)
            if stream and response.status_code == 200:
                return response
            content = response.read()
        return wire.read_answer(call, response.status_code, response.headers, content)

    def _events(self, call: Call[GenerateResponse]) -> Iterator[str | GenerateResponse]:
        retrying = Retrying(**self._policy(call))
        response: httpx.Response = retrying(self._attempt, call, time.monotonic(), True)
        parser = EventParser()
        try:
            with self._translated(call):
                for chunk in response.iter_bytes():
                    for event in parser.feed(chunk):
                        item = wire.read_event(call, *event)
                        yield item
                        if isinstance(item, GenerateResponse):
                            return
        finally:
            response.close()
        raise cut_short(call)


class AsyncPlainMedClient(ClientCore):
    """As `PlainMedClient`, for asyncio: the same arguments, methods and errors, to be awaited.

    Use it with `async with`, or call `aclose`. `generate_stream` is for `async for`.
    """

    relevance = _awaited(wire.relevance)
    factuality = _awaited(wire.factuality)
    readability = _awaited(wire.readability)
    loss = _awaited(wire.loss)
    evaluate = _awaited(wire.evaluate)
    generate = _awaited(wire.generate)
    generate_many = _awaited(wire.generate_many)
    health = _awaited(wire.health)
    status = _awaited(wire.status)

    def _connect(self) -> None:
        self._http = httpx.AsyncClient(**self._options)

    def generate_stream(
        self, text: str, *, request_id: str | None = None, **sampling: Unpack[SamplingOptions]
    ) -> AsyncIterator[str | GenerateResponse]:
        """As `PlainMedClient.generate_stream`."""
        return self._events(wire.generate_stream(text, request_id=request_id, **sampling))

    async def aclose(self) -> None:
        """Closes the connections."""
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def _send(self, call: Call[T]) -> T:
        answer: T = await AsyncRetrying(**self._policy(call))(self._attempt, call, time.monotonic())
        return answer

    async def _attempt(self, call: Call[Any], started: float, stream: bool = False) -> Any:
        """The call's value; of a stream that has begun, the open response."""
        with self._translated(call):
            request = self._http.build_request(**self._request(call, started, stream=stream))
            response = await self._http.send(request, stream=stream)
            if stream and response.status_code == 200:
                return response
            content = await response.aread()
        return wire.read_answer(call, response.status_code, response.headers, content)

    async def _events(self, call: Call[GenerateResponse]) -> AsyncIterator[str | GenerateResponse]:
        retrying = AsyncRetrying(**self._policy(call))
        response: httpx.Response = await retrying(self._attempt, call, time.monotonic(), True)
        parser = EventParser()
        try:
            with self._translated(call):
                async for chunk in response.aiter_bytes():
                    for event in parser.feed(chunk):
                        item = wire.read_event(call, *event)
                        yield item
                        if isinstance(item, GenerateResponse):
                            return
        finally:
            await response.aclose()
        raise cut_short(call)
