"""How the gateway calls the generator: a stream nobody reads ends in its replica, too."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from serve_app.api.request_stats import RequestStats
from serve_app.generation.protocol import GenerationParams, Summary
from serve_app.serving.deployments.handle_backend import HandleBackend

DONE = Summary("It helps.", "fake", completion_tokens=7)


class Response:
    """As Serve's `DeploymentResponseGenerator`: gives these pieces, then none for ever."""

    def __init__(self, *pieces: str | Summary) -> None:
        self.pieces = list(pieces)
        self.cancelled = False

    def cancel(self) -> None:
        self.cancelled = True

    def __aiter__(self) -> Response:
        return self

    async def __anext__(self) -> str | Summary:
        if not self.pieces:
            await asyncio.Event().wait()
        piece = self.pieces.pop(0)
        if isinstance(piece, Summary):
            self.pieces = []
        return piece


class Handle:
    """As Serve's handle of the generator."""

    def __init__(self, response: Response) -> None:
        self.response = response
        self.stream = self

    def options(self, **_: Any) -> Handle:
        return self

    def remote(self, *_: Any) -> Response:
        return self.response


def stream_of(response: Response) -> Any:
    handle: Any = Handle(response)
    backend = HandleBackend({"Generator": handle}, "plainmed", RequestStats())
    return backend.stream("A cat sat.", GenerationParams())


async def test_a_first_piece_that_is_too_late_ends_the_replicas_work() -> None:
    response = Response()
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(anext(stream_of(response)), 0.01)
    assert response.cancelled


async def test_a_later_piece_that_is_too_late_ends_the_replicas_work() -> None:
    response = Response("It ")
    pieces = stream_of(response)
    assert await anext(pieces) == "It "
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(anext(pieces), 0.01)
    assert response.cancelled


async def test_a_stream_that_is_closed_between_two_pieces_ends_the_replicas_work() -> None:
    response = Response("It ", "helps.")
    pieces = stream_of(response)
    assert await anext(pieces) == "It "
    await pieces.aclose()
    assert response.cancelled


async def test_a_stream_that_is_read_on_is_left_alone() -> None:
    response = Response("It ", "helps.", DONE)
    pieces = stream_of(response)
    assert [await anext(pieces) for _ in range(3)] == ["It ", "helps.", DONE]
    assert not response.cancelled
    await pieces.aclose()
