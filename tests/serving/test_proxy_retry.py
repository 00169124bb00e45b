"""Around Serve's proxy: what it leaves unanswered is asked again with the same body, and where that
does not help it is answered in the usual shape."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ray import serve
from starlette.responses import JSONResponse, PlainTextResponse
from starlette.types import Message, Receive, Scope, Send

from serve_app.core.context import AGE_HEADER
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


async def test_a_body_over_the_byte_budget_is_not_sent_again() -> None:
    proxy = Dying(ATTEMPTS)
    app = RetryUnanswered(proxy, max_buffered=10)
    assert refused(await post(app, b"x" * 11))
    assert refused(await post(app, parts(b"x" * 6, b"x" * 6)))
    assert len(proxy.ages) == 2


async def test_the_byte_budget_is_freed_by_every_end() -> None:
    app = RetryUnanswered(Dying(0), max_buffered=10)
    for _ in range(3):
        assert (await post(app, b"x" * 10)).status_code == 200
    # Of a body too large, of attempts that all died: one that fits is repeated afterwards.
    for deaths, body in ((1, b"x" * 11), (ATTEMPTS, b"x" * 10)):
        proxy = Dying(deaths)
        app = RetryUnanswered(proxy, max_buffered=10)
        assert refused(await post(app, body))
        proxy.deaths = len(proxy.ages) + 1
        assert (await post(app, b"x" * 10)).status_code == 200


async def test_a_body_is_freed_once_its_answer_has_begun() -> None:
    other = Dying(1)

    async def proxy(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/other":
            await other(scope, receive, send)
            return
        await whole(receive)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        # It died once and was repeated, so its bytes fitted.
        assert (await post(app, b"y" * 10, path="/other")).status_code == 200
        await send({"type": "http.response.body", "body": b""})

    app = RetryUnanswered(proxy, max_buffered=10)
    assert (await post(app, b"x" * 10)).status_code == 200
    assert len(other.ages) == 2


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


async def not_found(scope: Scope, receive: Receive, send: Send) -> None:
    """As Serve's proxy, where no application has this path."""
    await PlainTextResponse("Path not found. Ping http://.../-/routes", 404)(scope, receive, send)


async def test_where_no_application_runs_any_path_says_why_instead_of_not_found() -> None:
    async def why() -> str:
        return "the application cannot start (ConfigError)"

    answer = await post(RetryUnanswered(not_found, why_nothing_runs=why))
    assert refused(answer, "not_ready")
    assert answer.json()["error"]["message"] == "the application cannot start (ConfigError)"
    own = await post(RetryUnanswered(not_found, why_nothing_runs=why), path="/-/healthz")
    assert own.status_code == 404  # a route of the proxy itself


async def test_a_path_beside_a_running_application_stays_not_found() -> None:
    async def why() -> str:
        return ""

    answer = await post(RetryUnanswered(not_found, why_nothing_runs=why))
    assert answer.status_code == 404
    assert answer.text.startswith("Path not found")


@pytest.mark.parametrize(
    ("states", "said"),
    [
        ({"a": "RUNNING"}, ""),
        ({"a": "RUNNING", "b": "DEPLOY_FAILED"}, ""),
        ({"a": "UNHEALTHY"}, ""),
        ({"a": "DEPLOYING"}, "the application is still starting; try again"),
        ({}, "the application is still starting; try again"),
        ({"a": "DEPLOY_FAILED"}, "the application cannot start (KeyError); "),
    ],
)
async def test_why_nothing_runs_is_what_serve_says(
    monkeypatch: pytest.MonkeyPatch, states: dict[str, str], said: str
) -> None:
    applications = {
        name: SimpleNamespace(status=status, message="Traceback\nKeyError: 'x'")
        for name, status in states.items()
    }
    monkeypatch.setattr(serve, "status", lambda: SimpleNamespace(applications=applications))
    found = await retry.why_nothing_runs()
    assert found.startswith(said)
    assert bool(found) == bool(said)


async def test_a_controller_that_does_not_answer_leaves_what_the_proxy_said(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def broken() -> Any:
        raise RuntimeError("no controller")

    monkeypatch.setattr(serve, "status", broken)
    answer = await post(RetryUnanswered(not_found))
    assert answer.status_code == 404
