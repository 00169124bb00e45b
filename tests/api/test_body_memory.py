"""The gateway keeps nothing of a request that is answered, refused or wrong."""

from __future__ import annotations

import asyncio
import gc
import json
from typing import Any

import httpx
import pytest

from serve_app.api.app import create_app
from serve_app.api.middleware.request_guard import Traffic, logger
from serve_app.core.settings import load_settings
from tests.support.servers import LightBackend
from tests.support.texts import GENERATED, ORIGINALS

PAIR = {"texts_original": ORIGINALS[:1], "texts_generated": GENERATED[:1]}
ASKED: list[tuple[str, Any]] = [
    ("/loss", PAIR),
    ("/evaluate", {**PAIR, "explain": True}),
    ("/generate", {"text": ORIGINALS[0], "seed": 1}),
    ("/generate", {"text": ORIGINALS[0], "seed": 1, "stream": True}),
    ("/metrics/readability", {"texts": GENERATED[:1]}),
    ("/loss", {"wrong": 1}),
    ("/no/such/route", {}),
]


@pytest.mark.parametrize("refused", [False, True], ids=["answered", "refused before it is read"])
async def test_objects_do_not_grow_with_requests(
    refused: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logger, "disabled", True)  # pytest keeps what is logged
    backend = LightBackend()
    app = create_app(backend, load_settings(), Traffic())
    transport = httpx.ASGITransport(app=app)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as http:

        async def ask(rounds: int) -> int:
            for number in range(rounds):
                for path, body in ASKED:
                    headers = {"x-request-id": f"{rounds} {number}"}
                    if refused:
                        headers["x-request-timeout"] = "never"
                    await http.post(path, content=json.dumps(body), headers=headers)
            backend.scored.clear()  # what the backend of the tests remembers
            await asyncio.sleep(0)  # a loop drops timers that were cancelled when it comes round
            gc.collect()
            return len(gc.get_objects())

        before = await ask(10)
        assert await ask(40) - before < 40
