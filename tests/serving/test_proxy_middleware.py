"""Before Serve's proxy: a refusal is repeated for the requests that would get the same and for no
other, nobody gives Serve orders or forges its log, and no answer is taken for a page."""

from __future__ import annotations

import uuid
from typing import Any

import httpx
import pytest
from ray.serve._private.http_util import (
    RequestIdMiddleware,
    parse_disconnect_disabled_header,
    parse_request_timeout_header,
)
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from serve_app.core.headers import REFUSAL_TTL_HEADER, holds
from serve_app.serving.proxy.middleware import MAX_CACHED_REFUSALS, ProxyMiddleware


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
        # As Serve puts it: its own is innermost, and makes ids and puts them on answers.
        inner = RequestIdMiddleware(application)
        self.middleware = ProxyMiddleware(inner, clock=lambda: self.now)

    async def post(self, size: int, path: str = "/loss", **headers: str) -> httpx.Response:
        transport = httpx.ASGITransport(app=self.middleware)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as http:
            return await http.post(path, content=b"x" * size, headers=headers)


@pytest.fixture
def proxy() -> Proxy:
    return Proxy(Application(**{REFUSAL_TTL_HEADER: holds(1000, 4000)}))


async def test_what_would_be_refused_alike_is_refused_without_asking(proxy: Proxy) -> None:
    first = await proxy.post(1000)
    for size in (1000, 2500, 4000):
        again = await proxy.post(size)
        assert (again.status_code, again.content) == (503, first.content)
        assert again.headers["retry-after"] == "7"
    assert len(proxy.application.asked) == 1


async def test_the_hint_is_not_for_clients(proxy: Proxy) -> None:
    for _ in range(2):
        assert REFUSAL_TTL_HEADER not in (await proxy.post(1000)).headers


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
    for application in (Application(), Application(**{REFUSAL_TTL_HEADER: holds(0, 4000)})):
        proxy = Proxy(application)
        application.status = 503 if REFUSAL_TTL_HEADER not in application.headers else 200
        for _ in range(3):
            await proxy.post(1000)
        assert len(application.asked) == 3


async def test_strangers_do_not_fill_memory(proxy: Proxy) -> None:
    for number in range(MAX_CACHED_REFUSALS + 10):
        await proxy.post(1000, authorization=str(number))
    assert len(proxy.middleware._held) <= MAX_CACHED_REFUSALS


async def test_an_answer_in_parts_is_not_kept() -> None:
    async def parts(scope: Scope, receive: Receive, send: Send) -> None:
        await send(
            {
                "type": "http.response.start",
                "status": 503,
                "headers": [(REFUSAL_TTL_HEADER.encode(), holds(0, 4000).encode())],
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

    transport = httpx.ASGITransport(app=ProxyMiddleware(fine))
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as http:
        assert (await http.get("/healthz")).text == "fine"


async def test_a_repeated_refusal_has_the_id_of_its_own_request(proxy: Proxy) -> None:
    first = await proxy.post(1000, **{"x-request-id": "first"})
    assert first.headers.get_list("x-request-id") == ["first"]
    again = await proxy.post(1000, **{"x-request-id": "second"})
    assert again.headers.get_list("x-request-id") == ["second"]
    made = [(await proxy.post(1000)).headers.get_list("x-request-id") for _ in "ab"]
    assert made[0] != made[1]
    for (one,) in made:
        assert uuid.UUID(one).version == 4
    assert len(proxy.application.asked) == 1


class Seen:
    """Answers as Serve does by itself, and keeps the scope."""

    def __init__(self) -> None:
        self.scope: Scope = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.scope = scope
        await Response("busy", 503)(scope, receive, send)


async def seen(method: str, headers: Any) -> tuple[Seen, httpx.Response]:
    application = Seen()
    transport = httpx.ASGITransport(app=ProxyMiddleware(RequestIdMiddleware(application)))
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as http:
        return application, await http.request(method, "/loss", headers=headers)


@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
async def test_a_client_cannot_switch_off_serves_time_limit_or_its_notice_of_a_client_gone(
    method: str,
) -> None:
    orders = [("X-Request-Timeout-Seconds", "0"), ("X-Request-Disconnect-Disabled", "?1")]
    application, _ = await seen(method, [*orders, ("X-Request-Timeout", "5")])
    headers = dict(application.scope["headers"])
    assert parse_request_timeout_header(headers, 300.0) == 300.0
    assert not parse_disconnect_disabled_header(headers)
    assert headers[b"x-request-timeout"] == b"5"  # ours, by which it may ask for less


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize(
    "given",
    [[b"1 caller=0123"], [b"a" * 50_000], [b""], [b"\xff"], [b"bad id", b"fine"], [b"a\tb"]],
    ids=["a field", "long", "empty", "no UTF-8", "two", "a tab"],
)
async def test_an_id_that_would_forge_a_log_is_replaced_before_serve_sees_it(
    method: str, given: list[bytes]
) -> None:
    application, answer = await seen(method, [(b"x-request-id", one) for one in given])
    found = [value for name, value in application.scope["headers"] if name == b"x-request-id"]
    assert len(found) == 1
    assert uuid.UUID(found[0].decode()).version == 4
    assert answer.headers.get_list("x-request-id") == [found[0].decode()]


async def test_a_good_id_stays_and_a_second_one_goes() -> None:
    good = "run-7.a_b:c/d+e=f@g" + "x" * 109
    assert len(good) == 128
    application, answer = await seen("POST", [("x-request-id", good), ("x-request-id", "1 a=b")])
    found = [value for name, value in application.scope["headers"] if name == b"x-request-id"]
    assert found == [good.encode()]
    assert answer.headers.get_list("x-request-id") == [good]


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_what_serve_answers_by_itself_forbids_to_guess_its_type(method: str) -> None:
    _, answer = await seen(method, [])
    assert answer.text == "busy"
    assert answer.headers.get_list("x-content-type-options") == ["nosniff"]


async def test_a_repeated_refusal_forbids_it_once(proxy: Proxy) -> None:
    for _ in range(2):
        answer = await proxy.post(1000)
        assert answer.headers.get_list("x-content-type-options") == ["nosniff"]
