"""The clients ask again, and wait, when that can help, and else do not."""

from __future__ import annotations

import threading
import time
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pytest
from tenacity import RetryCallState, Retrying

from serve_app.cli.demo import free_port
from serve_app.client.clients import PlainMedAPIError, PlainMedClient, PlainMedConnectionError
from tests.client.answers import FAST, RELEVANCE, busy, error_body
from tests.support.servers import Answer, ScriptedServer, wait_for


def test_retry_after_seconds_are_waited_for_and_the_same_request_is_sent_again(ask: Any) -> None:
    with ScriptedServer([busy(**{"Retry-After": "1"}), RELEVANCE]) as server:
        assert ask(server.url, "relevance", "a b", "a") == [0.5]
    first, second = server.received
    assert server.gaps[0] >= 1.0
    assert first.body == second.body
    assert first.headers["x-request-id"] == second.headers["x-request-id"]


def test_retry_after_may_be_a_date(ask: Any, waits: list[float]) -> None:
    now = datetime.now(UTC)
    moment = format_datetime(now + timedelta(hours=1), usegmt=True)
    options = {**FAST, "max_wait": 7200.0, "deadline": None}
    with ScriptedServer([busy(**{"Retry-After": moment}), RELEVANCE]) as server:
        assert ask(server.url, "relevance", "a b", "a", options=options) == [0.5]
    passed = (datetime.now(UTC) - now).total_seconds()
    assert 3599 - passed <= waits[0] <= 3600.01  # the date is of whole seconds


@pytest.mark.parametrize("value", ["86400", "Fri, 31 Dec 2100 23:59:59 GMT"])
def test_retry_after_is_capped(ask: Any, waits: list[float], value: str) -> None:
    with ScriptedServer([busy(**{"Retry-After": value}), RELEVANCE]) as server:
        ask(server.url, "relevance", "a", "a", options={"max_wait": 20.0})
    assert waits == [20.0]


@pytest.mark.parametrize("value", ["soon", "-5", "Fri, 31 Dec 1999 23:59:59 GMT"])
def test_a_retry_after_that_says_nothing_does_not_delay_or_break(
    ask: Any, waits: list[float], value: str
) -> None:
    with ScriptedServer([busy(**{"Retry-After": value}), RELEVANCE]) as server:
        assert ask(server.url, "relevance", "a", "a") == [0.5]
    assert waits[0] <= FAST["backoff"]


@pytest.mark.parametrize("status", [429, 502, 503, 504])
def test_gateway_statuses_are_repeated_until_the_retries_are_used_up(ask: Any, status: int) -> None:
    with (
        ScriptedServer([Answer(status, b"<html>Bad gateway</html>")]) as server,
        pytest.raises(PlainMedAPIError, match="3 attempts") as caught,
    ):
        ask(server.url, "relevance", "a", "a", options={**FAST, "retries": 2})
    assert len(server.received) == 3
    assert (caught.value.status, caught.value.attempts) == (status, 3)


@pytest.mark.parametrize("status", [400, 401, 403, 404, 413, 422, 500, 501])
def test_other_statuses_are_not_repeated(ask: Any, status: int) -> None:
    with (
        ScriptedServer([Answer(status, error_body())]) as server,
        pytest.raises(PlainMedAPIError) as caught,
    ):
        ask(server.url, "relevance", "a", "a")
    assert len(server.received) == 1
    assert caught.value.status == status


def test_a_500_of_the_proxy_is_repeated(ask: Any) -> None:
    died = Answer(500, b"Internal Server Error", {"Content-Type": "text/plain; charset=utf-8"})
    with ScriptedServer([died, RELEVANCE]) as server:
        assert ask(server.url, "relevance", "a", "a", options=FAST) == [0.5]
    assert len(server.received) == 2


def test_waits_double_with_jitter(ask: Any, waits: list[float]) -> None:
    with ScriptedServer([busy()]) as server, pytest.raises(PlainMedAPIError):
        ask(server.url, "relevance", "a", "a", options={"backoff": 2.0, "retries": 3})
    for wait, full in zip(waits, (2.0, 4.0, 8.0), strict=True):
        assert full / 2 <= wait <= full


def test_no_wait_is_longer_than_it_may_be() -> None:
    with PlainMedClient("http://127.0.0.1:1", backoff=0.2) as client:
        for attempt, full in enumerate((0.2, 0.4, 0.8), start=1):
            state = RetryCallState(Retrying(), None, (), {})
            state.attempt_number = attempt
            waits = {client._wait(state) for _ in range(50)}
            assert full / 2 <= min(waits) < max(waits) <= full


def test_a_refused_connection_is_tried_again_until_the_server_is_up(ask: Any) -> None:
    port = free_port()
    started: list[ScriptedServer] = []
    timer = threading.Timer(0.2, lambda: started.append(ScriptedServer([RELEVANCE], port)))
    timer.start()
    options = {"backoff": 0.1, "retries": 10}
    assert ask(f"http://127.0.0.1:{port}", "relevance", "a", "a", options=options) == [0.5]
    timer.join()
    started[0].__exit__()
    assert len(started[0].received) == 1


def test_nobody_listening_is_a_connection_error_that_says_where(ask: Any) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    with pytest.raises(PlainMedConnectionError) as caught:
        ask(url, "relevance", "a", "a", options={**FAST, "retries": 2}, request_id="mine")
    assert caught.value.attempts == 3
    assert url in str(caught.value)
    assert "request mine" in str(caught.value)


def test_a_connection_that_breaks_before_the_answer_is_tried_again(ask: Any) -> None:
    with ScriptedServer([Answer(hang_up=True), RELEVANCE]) as server:
        assert ask(server.url, "relevance", "a", "a") == [0.5]
    assert len(server.received) == 2


def test_an_answer_that_does_not_come_in_time_is_not_asked_for_twice(ask: Any) -> None:
    with ScriptedServer([Answer(delay=60)]) as server:
        began = time.monotonic()
        with pytest.raises(PlainMedConnectionError, match="did not answer in time") as caught:
            ask(server.url, "relevance", "a", "a", options={**FAST, "timeout": 0.3})
        assert time.monotonic() - began < 30
        wait_for(lambda: bool(server.received))  # which may be later than the client's patience
        assert len(server.received) == caught.value.attempts == 1


def test_the_deadline_ends_the_retries(ask: Any, waits: list[float]) -> None:
    options = {"backoff": 20.0, "max_wait": 1e6, "retries": 50, "deadline": 100.0}
    with ScriptedServer([busy()]) as server, pytest.raises(PlainMedAPIError) as caught:
        ask(server.url, "loss", "a", "a", options=options)
    # The wait after the last attempt would have been of 80 s to 160 s, or the one after that.
    assert len(server.received) == caught.value.attempts == 1 + len(waits)
    assert 4 <= caught.value.attempts <= 5
    assert max(waits) < 100


def test_the_deadline_cuts_a_slow_answer_short(ask: Any) -> None:
    with ScriptedServer([Answer(delay=60)]) as server:
        began = time.monotonic()
        with pytest.raises(PlainMedConnectionError):
            ask(server.url, "loss", "a", "a", options={"deadline": 0.2})
        assert time.monotonic() - began < 30
