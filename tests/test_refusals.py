"""A refusal is repeated in the proxy for the requests that would get the same, and for no other."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from serve_app.refusals import HOLD_HEADER, MOST_HELD, RepeatRefusals, holds


class Application:
    """Refuses everything, and counts what reaches it."""

    def __init__(self, **headers: str) -> None:
        self.asked: list[str] = []
        self.headers = headers
        self.status = 503

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.asked.append(scope["path"])
        headers = {"retry-after": "7", **self.headers}
        answer = JSONResponse({"error": {"code": "overloaded"}}, self.status, headers)
        await answer(scope, receive, send)


class Proxy:
    """The middleware around an application, on a clock that the test turns."""

    def __init__(self, application: Any) -> None:
        self.now = 0.0
        self.application = application
        self.middleware = RepeatRefusals(application, clock=lambda: self.now)

    async def post(self, size: int, path: str = "/loss", **headers: str) -> httpx.Response:
        transport = httpx.ASGITransport(app=self.middleware)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as http:
            return await http.post(path, content=b"x" * size, headers=headers)


@pytest.fixture
def proxy() -> Proxy:
    return Proxy(Application(**{HOLD_HEADER: holds(1000, 4000)}))


async def test_what_would_be_refused_alike_is_refused_without_asking(proxy: Proxy) -> None:
    first = await proxy.post(1000)
    for size in (1000, 2500, 4000):
        again = await proxy.post(size)
        assert (again.status_code, again.content) == (503, first.content)
        assert again.headers["retry-after"] == "7"
    assert len(proxy.application.asked) == 1


async def test_the_hint_is_not_for_clients(proxy: Proxy) -> None:
    for _ in range(2):
        assert HOLD_HEADER not in (await proxy.post(1000)).headers


@pytest.mark.parametrize("size", [999, 4001])
async def test_what_may_be_let_in_is_asked_for(proxy: Proxy, size: int) -> None:
    await proxy.post(1000)
    await proxy.post(size)
    assert len(proxy.application.asked) == 2


async def test_another_path_or_caller_is_asked_for(proxy: Proxy) -> None:
    await proxy.post(1000)
    await proxy.post(1000, "/generate")
    await proxy.post(1000, authorization="Bearer a")
    await proxy.post(1000, **{"x-api-key": "b"})
    assert len(proxy.application.asked) == 4
    await proxy.post(1000, authorization="Bearer a")
    assert len(proxy.application.asked) == 4


async def test_a_refusal_holds_for_a_moment_only(proxy: Proxy) -> None:
    await proxy.post(1000)
    proxy.now += 0.19
    await proxy.post(1000)
    assert len(proxy.application.asked) == 1
    proxy.now += 0.02
    await proxy.post(1000)
    assert len(proxy.application.asked) == 2


async def test_only_a_refusal_that_says_so_is_repeated() -> None:
    for application in (Application(), Application(**{HOLD_HEADER: holds(0, 4000)})):
        proxy = Proxy(application)
        application.status = 503 if HOLD_HEADER not in application.headers else 200
        for _ in range(3):
            await proxy.post(1000)
        assert len(application.asked) == 3


async def test_strangers_do_not_fill_memory(proxy: Proxy) -> None:
    for number in range(MOST_HELD + 10):
        await proxy.post(1000, authorization=str(number))
    assert len(proxy.middleware._held) <= MOST_HELD


async def test_an_answer_in_parts_is_not_kept() -> None:
    async def parts(scope: Scope, receive: Receive, send: Send) -> None:
        await send(
            {
                "type": "http.response.start",
                "status": 503,
                "headers": [(HOLD_HEADER.encode(), holds(0, 4000).encode())],
            }
        )
        await send({"type": "http.response.body", "body": b"a", "more_body": True})
        await send({"type": "http.response.body", "body": b"b"})

    proxy = Proxy(parts)
    await proxy.post(1000)
    assert (await proxy.post(1000)).content == b"ab"
    assert not proxy.middleware._held


async def test_what_is_not_a_post_passes() -> None:
    async def fine(scope: Scope, receive: Receive, send: Send) -> None:
        await Response("fine")(scope, receive, send)

    transport = httpx.ASGITransport(app=RepeatRefusals(fine))
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as http:
        assert (await http.get("/healthz")).text == "fine"
