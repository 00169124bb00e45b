"""The gate that lets in what can be answered in time, on a clock the tests turn."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import httpx
import pytest
from starlette.datastructures import Headers

from serve_app.api.app import create_app
from serve_app.api.middleware.admission import UNLEARNT_REQUESTS, LoadGate, load_gate
from serve_app.api.middleware.gate import CALLER_ID, ITEMS, Admitted, Refused
from serve_app.api.middleware.request_guard import Traffic
from serve_app.core.headers import REFUSAL_TTL_HEADER
from serve_app.core.settings import load_settings
from serve_app.metrics.readability import Readability
from tests.support.servers import LightBackend

BODY = 10**6
"""The largest body."""


class Door:
    """A gate with its clock."""

    def __init__(self, **limits: Any) -> None:
        self.now = 0.0
        given = {"max_requests": 100, "max_bytes": 10**9, "max_wait_s": 10.0, "retry_after_s": 2}
        given |= {"crowded_wait_s": 10.0, "max_body_bytes": BODY}
        self.gate = LoadGate(**{**given, **limits}, clock=lambda: self.now)

    def head(
        self, size: int | None, path: str = "/loss", method: str = "POST", **more: Any
    ) -> Admitted:
        """A request whose body is still to come; None: it does not say how long that is."""
        scope: dict[str, Any] = {"method": method, "path": path, **more}
        return self.gate.enter(
            scope, Headers({} if size is None else {"content-length": str(size)})
        )

    def enter(
        self, size: int, path: str = "/loss", caller: str | None = None, items: int = 1
    ) -> Callable[[int], None]:
        """A request with its body; called with the status of its answer, it leaves."""
        more = {ITEMS: items} if caller is None else {ITEMS: items, CALLER_ID: caller}
        admitted = self.head(size, path, **more)
        admitted.arrived(size)
        return admitted.answered

    def learn(self, bytes_per_s: float, path: str = "/loss") -> None:
        """Four requests, each a second long."""
        for _ in range(4):
            leave = self.enter(int(bytes_per_s), path)
            self.now += 1.0
            leave(200)


def test_what_would_wait_too_long_is_refused_and_told_when_to_come_back() -> None:
    door = Door(max_wait_s=10.0)
    door.learn(100)
    for _ in range(10):
        door.enter(100)
    held = door.enter(100)  # ten seconds' work before it, exactly the limit
    with pytest.raises(Refused) as caught:
        door.enter(100)
    assert caught.value.status == 503
    assert 2 <= int(caught.value.headers["retry-after"]) <= 60
    held(200)
    door.enter(10)


def test_a_large_request_keeps_no_small_one_out() -> None:
    door = Door(max_wait_s=10.0)
    door.learn(100)
    door.enter(100_000)  # 1,000 s of work
    door.enter(100)  # waits for 100 bytes of it: a second
    with pytest.raises(Refused):
        door.enter(50_000)  # would wait for as much of the first


def test_a_caller_waits_for_all_its_own_requests_and_others_do_not() -> None:
    door = Door(max_wait_s=10.0)
    door.learn(100)
    for _ in range(10):
        door.enter(100, caller="greedy")
    door.enter(100, caller="greedy")
    with pytest.raises(Refused):
        door.enter(100, caller="greedy")
    door.enter(100, caller="other")


def test_routes_have_speeds_of_their_own() -> None:
    door = Door(max_wait_s=10.0)
    door.learn(10, "/generate")
    door.learn(100_000, "/metrics/readability")
    for _ in range(12):
        door.enter(1000, "/metrics/readability")
    door.enter(200, "/generate")
    with pytest.raises(Refused):
        door.enter(200, "/generate")


def test_a_burst_may_queue_but_lasting_overload_has_a_short_queue() -> None:
    door = Door(max_wait_s=10.0, crowded_wait_s=2.5)
    door.learn(100)
    burst = [door.enter(100) for _ in range(11)]  # ten seconds of work before the last
    with pytest.raises(Refused):
        door.enter(100)
    for leave in burst[:8]:
        door.now += 1.0
        leave(200)
    with pytest.raises(Refused):
        door.enter(100)  # three seconds of work are left: enough, as others were refused
    door.now += 1.0
    burst[8](200)
    door.enter(100)


def test_a_burst_may_queue_again_once_nobody_was_refused_for_a_while() -> None:
    door = Door(max_wait_s=10.0, crowded_wait_s=2.5, max_requests=12)
    door.learn(100)
    burst = [door.enter(100) for _ in range(11)]
    with pytest.raises(Refused):
        door.enter(100)
    for leave in burst:
        door.now += 1.0
        leave(200)
    for _ in range(8):
        door.enter(100)


def test_in_overload_a_large_request_may_still_wait_for_as_long_as_it_takes_itself() -> None:
    door = Door(max_wait_s=10.0, crowded_wait_s=2.5)
    door.learn(100)
    first = door.enter(900)
    door.enter(900)
    with pytest.raises(Refused):
        door.enter(900)
    first(200)
    door.enter(900)  # waits nine seconds for the other one


def test_a_refusal_says_for_which_sizes_it_holds() -> None:
    door = Door(max_wait_s=10.0, crowded_wait_s=2.5, max_requests=14)
    door.learn(100)
    for _ in range(11):
        door.enter(100)

    def refused(size: int) -> tuple[float, float]:
        with pytest.raises(Refused) as caught:
            door.enter(size)
        _, smallest, largest = map(float, caught.value.headers[REFUSAL_TTL_HEADER].split())
        return smallest, largest

    assert refused(100) == (100, pytest.approx(1000, abs=1))  # ten seconds' work: MAX_WAIT_S
    smallest, largest = refused(100)
    assert (smallest, largest) == (100, pytest.approx(250, abs=1))
    refused(int(largest))
    for size in (10, 10, 10):  # small enough to be let in, until there is no room at all
        door.enter(size)
    assert refused(1) == (1, BODY)  # what is larger is answered 413


def test_overload_of_one_route_is_that_routes_own() -> None:
    door = Door(max_wait_s=10.0, crowded_wait_s=2.5)
    door.learn(100, "/loss")
    door.learn(100, "/metrics/relevance")
    for path in ("/loss", "/metrics/relevance"):
        for _ in range(5):
            door.enter(100, path)
    for _ in range(6):
        door.enter(100, "/loss")
    with pytest.raises(Refused):
        door.enter(100, "/loss")
    door.enter(100, "/metrics/relevance")  # five seconds' wait, no overload there


def test_until_a_speed_is_known_a_few_are_let_in() -> None:
    door = Door()
    for _ in range(UNLEARNT_REQUESTS):
        door.enter(100)
    with pytest.raises(Refused):
        door.enter(100)


def test_a_speed_is_learnt_anew() -> None:
    door = Door(max_wait_s=10.0)
    door.learn(100)
    for _ in range(600):  # slower now, for ten minutes
        leave = door.enter(10)
        door.now += 1.0
        leave(200)
    door.enter(150)
    with pytest.raises(Refused):
        door.enter(150)


def test_requests_and_bytes_have_a_limit_and_one_large_body_is_let_in_alone() -> None:
    door = Door(max_requests=2, max_bytes=1000)
    alone = door.enter(5000)
    with pytest.raises(Refused):
        door.enter(1)
    alone(200)
    first, _ = door.enter(10), door.enter(10)
    with pytest.raises(Refused):
        door.enter(10)
    first(0)
    door.enter(10)


def test_what_only_asks_is_always_let_in() -> None:
    door = Door(max_requests=1)
    door.enter(10)
    for method in ("GET", "HEAD", "OPTIONS"):
        door.head(None, "/healthz", method=method)


@pytest.mark.parametrize("status", [400, 404, 413])
def test_paths_that_do_not_exist_take_no_memory(status: int) -> None:
    door = Door()
    for number in range(1000):
        door.enter(10, f"/nothing/{number}")(status)
    assert not door.gate._routes


def test_only_what_was_answered_counts_as_done() -> None:
    door = Door(max_wait_s=10.0)
    door.learn(100)
    for _ in range(50):  # refused further on, in no time at all
        door.enter(100_000)(422)
    door.enter(2000)
    with pytest.raises(Refused):
        door.enter(2000)


def test_a_slow_upload_does_not_make_a_route_look_slow() -> None:
    door = Door(max_wait_s=10.0)
    door.learn(5600)
    upload = door.head(1400)
    door.now += 600.0  # ten minutes on the way, nothing else to do
    upload.arrived(1400)
    door.now += 0.25
    upload.answered(200)
    for _ in range(41):
        door.enter(1400)  # ten seconds' work before the last one, by the speed of before
    with pytest.raises(Refused):
        door.enter(1400)


def test_an_upload_that_never_ends_leaves_no_trace_in_the_speed() -> None:
    door = Door(max_wait_s=10.0)
    door.learn(100)
    upload = door.head(100_000)
    door.now += 300.0
    upload.answered(503)
    for _ in range(11):
        door.enter(100)
    with pytest.raises(Refused):
        door.enter(100)


def test_a_body_of_unknown_length_counts_as_the_largest_until_it_is_there() -> None:
    door = Door(max_bytes=8 * BODY)
    arriving = [door.head(None) for _ in range(8)]
    with pytest.raises(Refused):
        door.head(None)
    with pytest.raises(Refused):
        door.enter(1)
    arriving[0].arrived(100)
    door.enter(BODY - 100)
    with pytest.raises(Refused):
        door.enter(1)


def test_a_speed_is_learnt_from_the_bytes_that_came_not_from_the_largest_body() -> None:
    door = Door(max_wait_s=10.0)
    for _ in range(4):
        request = door.head(None)
        request.arrived(100)
        door.now += 1.0
        request.answered(200)
    for _ in range(11):
        door.enter(100)
    with pytest.raises(Refused):
        door.enter(100)


class Engine:
    """Computes some rows at once, each for ten seconds, and the rest in turn; overloaded."""

    ROWS, SECONDS, OFFERED_PER_S = 16, 10.0, 8

    def __init__(self, door: Door, items: int = 1) -> None:
        self.door, self.items = door, items
        self.waiting: deque[Callable[[int], None]] = deque()
        self.running: deque[tuple[float, Callable[[int], None]]] = deque()
        self.most_under_way = 0

    def answered_by_minute(self, minutes: int = 10) -> list[int]:
        """How many requests it has answered in each minute."""
        return [sum(self._tick() for _ in range(60 * self.OFFERED_PER_S)) for _ in range(minutes)]

    def _tick(self) -> int:
        self.door.now += 1 / self.OFFERED_PER_S
        ended = 0
        while self.running and self.running[0][0] <= self.door.now:
            self.running.popleft()[1](200)
            ended += 1
        with suppress(Refused):
            self.waiting.append(self.door.enter(1500, "/generate", items=self.items))
        while self.waiting and (len(self.running) + 1) * self.items <= self.ROWS:
            self.running.append((self.door.now + self.SECONDS, self.waiting.popleft()))
        self.most_under_way = max(self.most_under_way, len(self.running) + len(self.waiting))
        return ended


def _overloaded(at_once: int) -> Door:
    return Door(
        max_requests=256, max_wait_s=60.0, crowded_wait_s=5.0, at_once={"/generate": at_once}
    )


def test_lasting_overload_does_not_starve_an_engine_that_computes_many_at_once() -> None:
    answered = Engine(_overloaded(2 * Engine.ROWS)).answered_by_minute()[1:]
    assert max(answered) == 96  # sixteen each ten seconds
    assert min(answered) >= 0.9 * max(answered)


def test_requests_that_fill_the_engine_alone_do_not_queue_as_if_they_were_one_text_each() -> None:
    door = _overloaded(2 * Engine.ROWS)
    engine = Engine(door, items=Engine.ROWS)
    engine.answered_by_minute(6)  # those let in while nothing was known are gone
    engine.most_under_way = 0
    assert min(engine.answered_by_minute(5)) >= 5  # one each ten seconds
    assert engine.most_under_way <= 3


@pytest.mark.parametrize(
    ("settings", "most"),
    [
        ({"generator": "extractive"}, 1),
        ({"generator": "transformers", "model_path": "m", "generator_batch": 24}, 24),
        ({"generator": "openai", "openai_concurrency": 40}, 40),
        ({"model_path": "m"}, 16),
    ],
)
def test_the_queue_of_generate_is_for_twice_what_the_engine_computes_at_once(
    settings: dict[str, Any], most: int
) -> None:
    found = load_settings(**settings)
    assert found.generator_at_once == most
    assert load_gate(found)._at_once == {"/generate": 2 * most}


class Held(LightBackend):
    """Answers readability when told to."""

    def __init__(self) -> None:
        super().__init__()
        self.go = asyncio.Event()
        self.under_way = 0

    async def readability(self, texts: Sequence[str]) -> list[Readability]:
        self.under_way += 1
        try:
            await self.go.wait()
        finally:
            self.under_way -= 1
        return await super().readability(texts)


async def test_over_http_the_refusal_is_json_with_retry_after_and_room_comes_back() -> None:
    backend = Held()
    app = create_app(backend, load_settings(max_pending_requests=3), Traffic())
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(app=app), base_url="http://test"
    ) as http:
        body = {"texts": ["A text."]}
        asked = [asyncio.create_task(http.post("/metrics/readability", json=body)) for _ in "abc"]
        while backend.under_way < 3:
            await asyncio.sleep(0.001)
        refused = await http.post("/metrics/readability", json=body)
        assert refused.status_code == 503
        assert refused.json()["error"]["code"] == "overloaded"
        assert int(refused.headers["retry-after"]) >= 2
        assert (await http.get("/healthz")).status_code == 200
        backend.go.set()
        assert [answer.status_code for answer in await asyncio.gather(*asked)] == [200] * 3
        assert (await http.post("/metrics/readability", json=body)).status_code == 200


async def test_a_client_says_how_long_it_waits() -> None:
    backend = Held()
    app = create_app(backend, load_settings(), Traffic())
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(app=app), base_url="http://test"
    ) as http:
        body = {"texts": ["A text."]}
        late = await http.post(
            "/metrics/readability", json=body, headers={"X-Request-Timeout": "0.05"}
        )
        assert late.status_code == 503
        assert late.json()["error"]["code"] == "timeout"
        assert backend.under_way == 0
        for wrong in ("soon", "0", "-1", "nan", "inf"):
            answer = await http.post(
                "/metrics/readability", json=body, headers={"X-Request-Timeout": wrong}
            )
            assert answer.status_code == 400
            assert answer.json()["error"]["code"] == "invalid_timeout"
