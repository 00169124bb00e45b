"""Python clients of the HTTP API: `PlainMedClient` and its asynchronous twin.

They only send and wait. What is sent and how answers are read is `serve_app.client.wire`; time
limits and what is repeated, `serve_app.client.retry_policy`.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Self, TypeVar, Unpack

import httpx
from tenacity import AsyncRetrying, Retrying

from serve_app.client import wire
from serve_app.client.errors import PlainMedAPIError, PlainMedConnectionError
from serve_app.client.retry_policy import ClientCore, cut_short, named
from serve_app.client.sse import EventParser
from serve_app.client.wire import Call, SamplingOptions, Texts
from serve_app.core.schemas import (
    EvaluateResponse,
    GenerateResponse,
    HealthResponse,
    ReadabilityResponse,
    Select,
    StatusResponse,
)

__all__ = [
    "AsyncPlainMedClient",
    "PlainMedAPIError",
    "PlainMedClient",
    "PlainMedConnectionError",
    "SamplingOptions",
]

T = TypeVar("T")


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

    def _connect(self) -> None:
        self._http = httpx.Client(**self._options)

    def relevance(
        self, originals: Texts, generated: Texts, *, request_id: str | None = None
    ) -> list[float]:
        """BERTScore F1 of each pair."""
        return self._send(wire.relevance(originals, generated), request_id)

    def factuality(
        self, originals: Texts, generated: Texts, *, request_id: str | None = None
    ) -> list[float]:
        """AlignScore of each pair."""
        return self._send(wire.factuality(originals, generated), request_id)

    def readability(self, texts: Texts, *, request_id: str | None = None) -> ReadabilityResponse:
        """FKGL, SMOG and Dale-Chall of each text."""
        return self._send(wire.readability(texts), request_id)

    def loss(
        self,
        originals: Texts,
        generated: Texts,
        humans: Texts | None = None,
        weights: Sequence[float] | None = None,
        *,
        request_id: str | None = None,
    ) -> list[float]:
        """The loss of each pair, in [0, 1]; a list even for one pair.

        `weights` are relevance, factuality, fkgl, smog, dale_chall, with sum 1.
        """
        call = wire.loss(originals, generated, humans, weights)
        return self._send(call, request_id)

    def evaluate(
        self,
        originals: Texts,
        generated: Texts | None = None,
        humans: Texts | None = None,
        weights: Sequence[float] | None = None,
        *,
        n: int | None = None,
        seed: int | None = None,
        explain: bool = False,
        request_id: str | None = None,
    ) -> EvaluateResponse:
        """All about each pair; without `generated` the server writes the summaries.

        It then writes `n` candidates of each (default 1) and evaluates the one of least loss.
        With `explain` each result has an `explanation`.
        """
        call = wire.evaluate(originals, generated, humans, weights, n, seed, explain)
        return self._send(call, request_id)

    def generate(
        self,
        text: str,
        *,
        n: int | None = None,
        select: Select | None = None,
        weights: Sequence[float] | None = None,
        request_id: str | None = None,
        **sampling: Unpack[SamplingOptions],
    ) -> GenerateResponse:
        """A summary of one text; with `n`, the answer's `candidates` has so many.

        With `select="loss"` they are scored, the best comes first, and the answer is that one's;
        `weights` are of that loss.
        """
        call = wire.generate(
            text, stream=False, sampling=sampling, n=n, select=select, weights=weights
        )
        return self._send(call, request_id)

    def generate_many(
        self,
        texts: Texts,
        *,
        n: int | None = None,
        select: Select | None = None,
        weights: Sequence[float] | None = None,
        request_id: str | None = None,
        **sampling: Unpack[SamplingOptions],
    ) -> list[GenerateResponse]:
        """What `generate` gives, for each text, in one request."""
        call = wire.generate_many(texts, sampling=sampling, n=n, select=select, weights=weights)
        return self._send(call, request_id)

    def generate_stream(
        self, text: str, *, request_id: str | None = None, **sampling: Unpack[SamplingOptions]
    ) -> Iterator[str | GenerateResponse]:
        """The summary's pieces as they are written, then the whole answer.

        Retried only until the stream begins; one that breaks off raises.
        """
        call = wire.generate(text, stream=True, sampling=sampling)
        return self._events(named(call, request_id))

    def health(self, *, request_id: str | None = None) -> HealthResponse:
        """The state of the server, ready or not; never retried."""
        return self._send(wire.health(), request_id)

    def status(self, *, request_id: str | None = None) -> StatusResponse:
        """Models, replicas and the rates of the last minutes, ready or not; never retried."""
        return self._send(wire.status(), request_id)

    def close(self) -> None:
        """Closes the connections."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _send(self, call: Call[T], request_id: str | None) -> T:
        call = named(call, request_id)
        answer: T = Retrying(**self._policy(call))(self._once, call, time.monotonic())
        return answer

    def _once(self, call: Call[T], started: float) -> T:
        with self._translated(call):
            response = self._http.request(**self._request(call, started))
        return wire.read_answer(call, response.status_code, response.headers, response.content)

    def _events(self, call: Call[GenerateResponse]) -> Iterator[str | GenerateResponse]:
        retrying = Retrying(**self._policy(call))
        response: httpx.Response = retrying(self._begin, call, time.monotonic())
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

    def _begin(self, call: Call[GenerateResponse], started: float) -> httpx.Response:
        """Sends the request and returns once the stream has begun."""
        with self._translated(call):
            request = self._http.build_request(**self._request(call, started, stream=True))
            response = self._http.send(request, stream=True)
            if response.status_code == 200:
                return response
            content = response.read()
        raise wire.error_of(call, response.status_code, response.headers, content)


class AsyncPlainMedClient(ClientCore):
    """As `PlainMedClient`, for asyncio: the same arguments, methods and errors, to be awaited.

    Use it with `async with`, or call `aclose`. `generate_stream` is for `async for`.
    """

    def _connect(self) -> None:
        self._http = httpx.AsyncClient(**self._options)

    async def relevance(
        self, originals: Texts, generated: Texts, *, request_id: str | None = None
    ) -> list[float]:
        """As `PlainMedClient.relevance`."""
        return await self._send(wire.relevance(originals, generated), request_id)

    async def factuality(
        self, originals: Texts, generated: Texts, *, request_id: str | None = None
    ) -> list[float]:
        """As `PlainMedClient.factuality`."""
        return await self._send(wire.factuality(originals, generated), request_id)

    async def readability(
        self, texts: Texts, *, request_id: str | None = None
    ) -> ReadabilityResponse:
        """As `PlainMedClient.readability`."""
        return await self._send(wire.readability(texts), request_id)

    async def loss(
        self,
        originals: Texts,
        generated: Texts,
        humans: Texts | None = None,
        weights: Sequence[float] | None = None,
        *,
        request_id: str | None = None,
    ) -> list[float]:
        """As `PlainMedClient.loss`."""
        call = wire.loss(originals, generated, humans, weights)
        return await self._send(call, request_id)

    async def evaluate(
        self,
        originals: Texts,
        generated: Texts | None = None,
        humans: Texts | None = None,
        weights: Sequence[float] | None = None,
        *,
        n: int | None = None,
        seed: int | None = None,
        explain: bool = False,
        request_id: str | None = None,
    ) -> EvaluateResponse:
        """As `PlainMedClient.evaluate`."""
        call = wire.evaluate(originals, generated, humans, weights, n, seed, explain)
        return await self._send(call, request_id)

    async def generate(
        self,
        text: str,
        *,
        n: int | None = None,
        select: Select | None = None,
        weights: Sequence[float] | None = None,
        request_id: str | None = None,
        **sampling: Unpack[SamplingOptions],
    ) -> GenerateResponse:
        """As `PlainMedClient.generate`."""
        call = wire.generate(
            text, stream=False, sampling=sampling, n=n, select=select, weights=weights
        )
        return await self._send(call, request_id)

    async def generate_many(
        self,
        texts: Texts,
        *,
        n: int | None = None,
        select: Select | None = None,
        weights: Sequence[float] | None = None,
        request_id: str | None = None,
        **sampling: Unpack[SamplingOptions],
    ) -> list[GenerateResponse]:
        """As `PlainMedClient.generate_many`."""
        call = wire.generate_many(texts, sampling=sampling, n=n, select=select, weights=weights)
        return await self._send(call, request_id)

    def generate_stream(
        self, text: str, *, request_id: str | None = None, **sampling: Unpack[SamplingOptions]
    ) -> AsyncIterator[str | GenerateResponse]:
        """As `PlainMedClient.generate_stream`."""
        call = wire.generate(text, stream=True, sampling=sampling)
        return self._events(named(call, request_id))

    async def health(self, *, request_id: str | None = None) -> HealthResponse:
        """As `PlainMedClient.health`."""
        return await self._send(wire.health(), request_id)

    async def status(self, *, request_id: str | None = None) -> StatusResponse:
        """As `PlainMedClient.status`."""
        return await self._send(wire.status(), request_id)

    async def aclose(self) -> None:
        """Closes the connections."""
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def _send(self, call: Call[T], request_id: str | None) -> T:
        call = named(call, request_id)
        answer: T = await AsyncRetrying(**self._policy(call))(self._once, call, time.monotonic())
        return answer

    async def _once(self, call: Call[T], started: float) -> T:
        with self._translated(call):
            response = await self._http.request(**self._request(call, started))
        return wire.read_answer(call, response.status_code, response.headers, response.content)

    async def _events(self, call: Call[GenerateResponse]) -> AsyncIterator[str | GenerateResponse]:
        retrying = AsyncRetrying(**self._policy(call))
        response: httpx.Response = await retrying(self._begin, call, time.monotonic())
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

    async def _begin(self, call: Call[GenerateResponse], started: float) -> httpx.Response:
        """Sends the request and returns once the stream has begun."""
        with self._translated(call):
            request = self._http.build_request(**self._request(call, started, stream=True))
            response = await self._http.send(request, stream=True)
            if response.status_code == 200:
                return response
            content = await response.aread()
        raise wire.error_of(call, response.status_code, response.headers, content)
