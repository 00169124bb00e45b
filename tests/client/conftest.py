"""Both clients as one: a test that uses `ask` runs with each of them."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from serve_app.client.clients import AsyncPlainMedClient, PlainMedClient
from tests.client.answers import FAST


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
