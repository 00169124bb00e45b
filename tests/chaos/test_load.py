"""The load of the chaos runs tells right from wrong, refused, failed and lost answers."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator

import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from tests.chaos.load import Case, Load, same
from tests.chaos.patience import PatientClient
from tests.servers import Answer, ScriptedServer, wait_for


async def answer(request: Request) -> Response:
    kind = request.path_params["kind"]
    if kind == "lost":
        await asyncio.sleep(5)
    if kind == "failed":
        return JSONResponse({"error": {"code": "internal_error"}}, 500)
    if kind == "unexplained":  # a 503 that does not say when to come back
        return JSONResponse({"error": {"code": "overloaded"}}, 503)
    if kind == "plain":
        return Response("busy", 503, {"retry-after": "1"})
    if kind == "refused":
        return JSONResponse({"error": {"code": "overloaded"}}, 503, {"retry-after": "1"})
    return JSONResponse({"loss": 0.25 if kind == "right" else 0.26})


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    app = Starlette(routes=[Route("/{kind}", answer, methods=["POST"])])
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="error"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    wait_for(lambda: server.started)
    port = server.servers[0].sockets[0].getsockname()[1]
    yield f"http://127.0.0.1:{port}"
    server.should_exit = True
    thread.join(10)


@pytest.mark.parametrize(
    ("path", "outcome"),
    [
        ("/right", "right"),
        ("/wrong", "wrong"),
        ("/refused", "refused"),
        ("/unexplained", "failed"),
        ("/plain", "failed"),
        ("/failed", "failed"),
        ("/lost", "lost"),
    ],
)
def test_an_answer_is_what_it_is(url: str, path: str, outcome: str) -> None:
    with Load(url, [Case(path, {}, {"loss": 0.25})], clients=2, rate=20, timeout_s=0.3) as load:
        wait_for(lambda: len(load.answers) >= 3)
    assert {one.outcome for one in load.answers} == {outcome}


def test_a_server_that_is_not_there_is_a_failure() -> None:
    with Load("http://127.0.0.1:9", [Case("/x", {}, 1)], clients=1, rate=50) as load:
        wait_for(lambda: len(load.answers) >= 2)
    assert load.counts() == {"failed": len(load.answers)}


def test_the_pace_is_even_over_all_clients(url: str) -> None:
    start = time.monotonic()
    with Load(url, [Case("/right", {}, {"loss": 0.25})], clients=4, rate=40) as load:
        wait_for(lambda: len(load.answers) >= 40)
    assert time.monotonic() - start > 0.9  # 40 requests at 40 a second


def test_a_patient_client_repeats_and_tells_what_it_met_with() -> None:
    answers = [
        Answer(500, b"Internal Server Error"),
        Answer(hang_up=True),
        Answer(body=b'{"relevance": [0.5], "model": "another"}'),
        Answer(body=b'{"relevance": [0.6], "model": "one"}'),
    ]
    known = Case("/metrics/relevance", {}, {"relevance": [0.5], "model": "one"})

    async def ask(url: str) -> list[tuple[str, tuple[str, ...]]]:
        async with PatientClient(url, 10.0) as client:
            first, second = [await client.ask(known) for _ in range(2)]
        return [(first.outcome, first.seen), (second.outcome, second.seen)]

    with ScriptedServer(answers) as server:
        first, second = asyncio.run(ask(server.url))
    assert first == ("right", ("500 http_error", "connection"))
    assert second == ("wrong", ())


def test_a_patient_client_that_gives_up_says_what_it_was_told() -> None:
    busy = Answer(503, b'{"error": {"code": "unavailable", "message": "no", "field": null}}')

    async def ask(url: str) -> str:
        async with PatientClient(url, 10.0) as client:
            client._backoff = 0.01
            return (await client.ask(Case("/loss", {}, 0.5))).outcome

    with ScriptedServer([busy]) as server:
        assert asyncio.run(ask(server.url)) == "failed"  # it names no time to come back
    busy.headers["Retry-After"] = "0"
    with ScriptedServer([busy]) as server:
        assert asyncio.run(ask(server.url)) == "refused"


def test_numbers_are_compared_with_a_tolerance_and_everything_else_exactly() -> None:
    assert same({"a": [1, 2.00001]}, {"a": [1.0, 2.0]})
    assert not same({"a": 1.0, "b": None}, {"a": 1.0})
    assert not same([None], [0.0])
    assert not same("1", 1)
