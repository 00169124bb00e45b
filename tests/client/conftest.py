"""Both clients as one: a test that uses `ask` runs with each of them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

from serve_app.client.clients import AsyncPlainMedClient, PlainMedClient
from serve_app.client.retry_policy import ClientCore
from tests.client.answers import FAST


class _Over:
    """What either client gets for its wait: it is over, whether it is awaited or not."""

    def __await__(self) -> Iterator[None]:
        return iter(())


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Seconds that a client waits before each repetition; with this no time passes."""
    seen: list[float] = []
    policy = ClientCore._policy

    def wait(seconds: float) -> _Over:
        seen.append(seconds)
        return _Over()

    def counted(self: ClientCore, call: Any) -> dict[str, Any]:
        return {**policy(self, call), "sleep": wait}

    monkeypatch.setattr(ClientCore, "_policy", counted)
    return seen


@pytest.fixture(params=["sync", "async"])
def ask(request: pytest.FixtureRequest) -> Any:
    """Calls a method of either client and gives its result; streams come as a list."""

    def sync_call(url: str, method: str, *args: Any, options: Any = FAST, **named: Any) -> Any:
        with PlainMedClient(url, **options) as client:
            result = getattr(client, method)(*args, **named)
            return list(result) if method == "generate_stream" else result

    async def async_call(url: str, method: str, args: Any, options: Any, named: Any) -> Any:
        async with AsyncPlainMedClient(url, **options) as client:
            result = getattr(client, method)(*args, **named)
            if method == "generate_stream":
                return [item async for item in result]
            return await result

    if request.param == "sync":
        return sync_call
    return lambda url, method, *args, options=FAST, **named: asyncio.run(
        async_call(url, method, args, options, named)
    )
