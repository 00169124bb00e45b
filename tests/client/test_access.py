"""API keys over a real server, and how long a client says it waits."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest
import uvicorn

from serve_app.api.app import create_app
from serve_app.api.auth.api_keys import NewKey, dump_keys, new_key
from serve_app.api.middleware.request_guard import Traffic
from serve_app.client.clients import PlainMedAPIError
from serve_app.core.errors import ConfigError
from serve_app.core.settings import load_settings
from tests.client.answers import FAST
from tests.support.servers import LightBackend, wait_for

KEY = new_key()


@pytest.fixture(scope="module")
def seen() -> list[dict[str, str]]:
    """The headers of every request."""
    return []


@pytest.fixture(scope="module")
def url(seen: list[dict[str, str]]) -> Iterator[str]:
    """The gateway with one live key."""
    inner = create_app(LightBackend(), load_settings(api_keys=dump_keys([KEY.entry])), Traffic())

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            seen.append({name.decode(): value.decode() for name, value in scope["headers"]})
        await inner(scope, receive, send)

    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="warning"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    wait_for(lambda: server.started)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    server.should_exit = True
    thread.join(10)


def test_a_key_given_or_in_the_environment_is_sent(
    ask: Any, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PLAINMED_API_KEY", raising=False)
    assert ask(url, "readability", "A text.", options={**FAST, "api_key": KEY.key}).fkgl
    with pytest.raises(PlainMedAPIError) as caught:
        ask(url, "readability", "A text.")
    assert (caught.value.status, caught.value.code) == (401, "missing_api_key")
    assert caught.value.attempts == 1
    monkeypatch.setenv("PLAINMED_API_KEY", f" {KEY.key}\n")
    assert ask(url, "readability", "A text.").fkgl


@pytest.mark.parametrize("other", [new_key(), NewKey("pm_x", KEY.entry)])
def test_a_wrong_key_is_told_and_not_tried_again(ask: Any, url: str, other: NewKey) -> None:
    with pytest.raises(PlainMedAPIError) as caught:
        ask(url, "readability", "A text.", options={**FAST, "api_key": other.key})
    assert (caught.value.status, caught.value.attempts) == (401, 1)
    assert other.key not in str(caught.value)


def test_what_cannot_be_a_key_is_refused_before_it_is_sent(ask: Any, url: str) -> None:
    with pytest.raises(ConfigError, match="PLAINMED_API_KEY"):
        ask(url, "readability", "A text.", options={**FAST, "api_key": "schlüssel"})


def test_the_server_is_told_how_long_the_client_waits(
    ask: Any, url: str, seen: list[dict[str, str]]
) -> None:
    options = {**FAST, "api_key": KEY.key, "timeout": 40.0, "deadline": 12.5}
    ask(url, "readability", "A text.", options=options)
    assert 11 < float(seen[-1]["x-request-timeout"]) <= 12.5
    ask(url, "readability", "A text.", options={**options, "deadline": None})
    assert float(seen[-1]["x-request-timeout"]) == 40.0


def test_a_stream_may_take_longer_than_any_silence_in_it(
    ask: Any, url: str, seen: list[dict[str, str]]
) -> None:
    options = {**FAST, "api_key": KEY.key, "timeout": 5.0, "deadline": 60.0}
    ask(url, "generate_stream", "A text.", options=options)
    assert 50 < float(seen[-1]["x-request-timeout"]) <= 60
    ask(url, "generate_stream", "A text.", options={**options, "deadline": None})
    assert "x-request-timeout" not in seen[-1]
