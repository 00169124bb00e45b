"""Around Serve's proxy: what it leaves unanswered is asked again with the same body, and where that
does not help it is answered in the usual shape."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.responses import JSONResponse, PlainTextResponse
from starlette.types import Message, Receive, Scope, Send

from serve_app.core.headers import AGE_HEADER
from serve_app.serving.proxy import retry
from serve_app.serving.proxy.middleware import middlewares
from serve_app.serving.proxy.retry import ATTEMPTS, RetryUnanswered

App = Callable[[Scope, Receive, Send], Awaitable[None]]


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retry, "PAUSE_S", 0.001)


async def whole(receive: Receive) -> bytes:
    body = b""
    while True:
        message = await receive()
        assert message["type"] == "http.request"
        body += message.get("body", b"")
        if not message.get("more_body", False):
            return body


class Dying:
    """Says nothing the first times, as Serve's proxy where a gateway dies; then says what it got.

    Args:
        deaths: how often it dies.
        reads: messages of the body it has read by then; None: all of it.
    """

    def __init__(self, deaths: int, reads: int | None = None) -> None:
        self.deaths, self.reads = deaths, reads
        self.ages: list[str | None] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = {name.decode(): value.decode() for name, value in scope["headers"]}
        self.ages.append(headers.get(AGE_HEADER))
        if len(self.ages) > self.deaths:
            await JSONResponse({"got": (await whole(receive)).decode()})(scope, receive, send)
        elif self.reads is None:
            await whole(receive)
        else:
            for _ in range(self.reads):
                await receive()


async def post(app: Any, content: Any = b"a text", path: str = "/loss") -> httpx.Response:
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(app=app), base_url="http://test"
    ) as http:
        return await http.post(path, content=content, headers={"x-request-id": "mine"})


async def parts(*content: bytes) -> AsyncIterator[bytes]:
    for one in content:
        yield one


def refused(answer: httpx.Response, code: str = "unavailable") -> bool:
    assert answer.status_code == 503
    assert int(answer.headers["retry-after"]) >= 1
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["x-request-id"] == "mine"
    assert set(answer.json()["error"]) == {"code", "message", "field"}
    return bool(answer.json()["error"]["code"] == code)


@pytest.mark.parametrize("deaths", range(1, ATTEMPTS))
async def test_what_is_not_answered_is_asked_again_with_the_same_body(deaths: int) -> None:
    proxy = Dying(deaths)
    answer = await post(RetryUnanswered(proxy))
    assert (answer.status_code, answer.json()) == (200, {"got": "a text"})
    assert len(proxy.ages) == deaths + 1


@given(content=st.lists(st.text(max_size=8).map(str.encode), max_size=5), reads=st.integers(0, 6))
def test_the_body_is_whole_however_it_came_and_however_much_was_read(
    content: list[bytes], reads: int
) -> None:
    sent = [{"type": "http.request", "body": one, "more_body": True} for one in content]
    sent.append({"type": "http.request", "body": b"", "more_body": False})
    proxy = Dying(1, reads=min(reads, len(sent)))
    answer = asyncio.run(talk(RetryUnanswered(proxy), sent))
    assert answer[0]["status"] == 200
    assert JSONResponse({"got": b"".join(content).decode()}).body == answer[1]["body"]


async def talk(app: App, sent: Sequence[Message], **scope: Any) -> list[Message]:
    """What an application sends to a client that sends so much and then waits."""
    left, got = list(sent), []

    async def receive() -> Message:
        if left:
            return left.pop(0)
        await asyncio.Event().wait()
        raise AssertionError

    async def send(message: Message) -> None:
        got.append(message)

    whole_scope = {"type": "http", "method": "POST", "path": "/loss", "headers": [], **scope}
    await app(whole_scope, receive, send)
    return got


async def test_a_repetition_says_how_old_the_request_is() -> None:
    now = iter([100.0, 102.5])
    proxy = Dying(1)
    await post(RetryUnanswered(proxy, clock=lambda: next(now)))
    assert proxy.ages == [None, "2.500"]


async def test_a_client_cannot_say_how_old_its_request_is() -> None:
    proxy = Dying(0)
    app: Any = proxy
    for one in middlewares():  # the innermost first, as Serve puts them
        app = one.cls(app, *one.args, **one.kwargs)
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(app=app), base_url="http://test"
    ) as http:
        await http.post("/loss", content=b"a", headers={AGE_HEADER: "1000"})
    assert proxy.ages == [None]


async def test_what_is_never_answered_is_a_503_and_goes_round_few_gateways(
    caplog: pytest.LogCaptureFixture,
) -> None:
    proxy = Dying(ATTEMPTS)
    with caplog.at_level(logging.WARNING, "ray.serve"):
        assert refused(await post(RetryUnanswered(proxy), path="/a text"))
    assert len(proxy.ages) == ATTEMPTS
    assert len(caplog.messages) == ATTEMPTS
    for line in caplog.messages:
        assert "id=mine" in line
        assert "text" not in line


async def test_a_body_for_which_there_is_no_room_is_not_sent_again() -> None:
    proxy = Dying(ATTEMPTS)
    app = RetryUnanswered(proxy, most_kept=10)
    assert refused(await post(app, b"x" * 11))
    assert refused(await post(app, parts(b"x" * 6, b"x" * 6)))
    assert len(proxy.ages) == 2


async def test_room_is_given_back_by_every_end() -> None:
    app = RetryUnanswered(Dying(0), most_kept=10)
    for _ in range(3):
        assert (await post(app, b"x" * 10)).status_code == 200
    app = RetryUnanswered(Dying(1), most_kept=10)
    assert refused(await post(app, b"x" * 11))
    assert app._room.taken == 0
    app = RetryUnanswered(Dying(ATTEMPTS), most_kept=10)
    assert refused(await post(app, b"x" * 10))
    assert app._room.taken == 0


async def test_nothing_is_kept_once_an_answer_has_begun() -> None:
    taken = []

    async def proxy(scope: Scope, receive: Receive, send: Send) -> None:
        await whole(receive)
        taken.append(app._room.taken)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        taken.append(app._room.taken)
        await send({"type": "http.response.body", "body": b""})

    app = RetryUnanswered(proxy)
    await post(app, b"x" * 10)
    assert taken == [10, 0]


async def test_who_is_gone_is_neither_asked_for_again_nor_answered() -> None:
    asked = []

    async def proxy(scope: Scope, receive: Receive, send: Send) -> None:
        asked.append(scope)
        while (await receive())["type"] != "http.disconnect":
            pass

    sent = [{"type": "http.request", "body": b"a"}, {"type": "http.disconnect"}]
    assert await talk(RetryUnanswered(proxy), sent) == []
    assert len(asked) == 1


async def test_a_proxy_that_is_told_to_end_is_not_kept_busy() -> None:
    asked = []

    async def proxy(scope: Scope, receive: Receive, send: Send) -> None:
        asked.append(scope)
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:  # as Serve's takes it
            return

    task = asyncio.create_task(talk(RetryUnanswered(proxy), []))
    await asyncio.sleep(0.01)
    task.cancel()
    assert await task == []
    assert len(asked) == 1


@pytest.mark.parametrize(
    ("status", "code", "retry"), [(503, "unavailable", None), (503, "unavailable", "9"),
                                  (408, "timeout", None)],
)  # fmt: skip
async def test_serves_own_refusals_have_the_usual_shape(
    status: int, code: str, retry: str | None
) -> None:
    headers = {} if retry is None else {"retry-after": retry}
    answer = await post(RetryUnanswered(PlainTextResponse("Serve says no.", status, headers)))
    assert refused(answer, code)
    assert answer.headers["retry-after"] == (retry or "1")
    assert "Serve says" not in answer.text


async def test_serves_own_routes_answer_in_serves_words() -> None:
    app = RetryUnanswered(PlainTextResponse("DRAINING", 503))
    assert (await post(app, path="/-/healthz")).text == "DRAINING"


async def test_our_own_refusals_pass_as_they_are() -> None:
    ours = {"error": {"code": "overloaded", "message": "later", "field": None}}
    answer = await post(RetryUnanswered(JSONResponse(ours, 503, {"retry-after": "7"})))
    assert (answer.json(), answer.headers["retry-after"]) == (ours, "7")


@pytest.mark.parametrize("kind", ["text/event-stream; charset=utf-8", "application/json"])
async def test_only_a_stream_of_events_that_breaks_off_is_ended(kind: str) -> None:
    async def proxy(scope: Scope, receive: Receive, send: Send) -> None:
        headers = [(b"content-type", kind.encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"data: {}\n\n", "more_body": True})

    got = await talk(RetryUnanswered(proxy), [{"type": "http.request"}])
    if kind.startswith("text"):
        assert got[-1]["body"].startswith(b"event: error\ndata: {")
        assert got[-1]["body"].endswith(b"\n\n")
        assert not got[-1].get("more_body", False)
    else:  # its client sees that it is too short
        assert got[-1]["more_body"]
        assert len(got) == 2


async def test_a_stream_that_ends_well_is_left_alone() -> None:
    async def proxy(scope: Scope, receive: Receive, send: Send) -> None:
        headers = [(b"content-type", b"text/event-stream")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"event: done\n\n", "more_body": False})

    assert len(await talk(RetryUnanswered(proxy), [{"type": "http.request"}])) == 2
