"""The start of the openai engine: its settings, its package, a server that comes up later."""

from __future__ import annotations

import builtins
import importlib
import sys
import time
from collections.abc import Callable
from typing import Any

import pytest

from serve_app.core.errors import ConfigError, PlainMedError, Unavailable
from serve_app.core.settings import load_settings
from serve_app.generation.loading import load_generator
from serve_app.generation.openai.engine import OpenAIGenerator
from tests.support.servers import Answer, ScriptedServer


def test_the_start_waits_for_a_server_that_starts_too(
    engine: Callable[..., OpenAIGenerator],
) -> None:
    answers = [Answer(404), Answer(503), Answer(200, b'{"object": "list", "data": []}')]
    for answer in answers:
        answer.headers["Content-Type"] = "application/json"
    with ScriptedServer(answers) as scripted:
        engine(f"{scripted.url}/v1").wait_until_up(20)
        assert [request.path for request in scripted.received] == ["/v1/models"] * 3


def test_a_server_that_does_not_come_up_or_wants_another_key_ends_the_start(
    engine: Callable[..., OpenAIGenerator],
) -> None:
    with ScriptedServer([Answer(503)]) as scripted, pytest.raises(Unavailable, match="503"):
        engine(f"{scripted.url}/v1").wait_until_up(0)
    with ScriptedServer([Answer(401)]) as scripted:
        started = time.monotonic()
        with pytest.raises(PlainMedError, match="OPENAI_API_KEY"):
            engine(f"{scripted.url}/v1").wait_until_up(30)
        assert time.monotonic() - started < 5


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({}, "OPENAI_BASE_URL"),
        ({"openai_base_url": "http://127.0.0.1:1/v1"}, "OPENAI_MODEL"),
    ],
)
def test_the_engine_needs_a_server_and_a_model(values: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        load_generator(load_settings(generator="openai", **values))


@pytest.mark.parametrize(
    "url",
    ["127.0.0.1:8000/v1", "ftp://host/v1", "http://user:hunter2@host/v1", "http://h/v1?k=hunter2"],
)
def test_a_url_that_is_none_or_holds_a_secret_is_refused_without_repeating_it(url: str) -> None:
    with pytest.raises(ConfigError, match="OPENAI_BASE_URL") as caught:
        load_settings(openai_base_url=url)
    assert "hunter2" not in caught.value.message


def test_a_server_alone_does_not_make_auto_send_texts_away() -> None:
    settings = load_settings(openai_base_url="http://127.0.0.1:1/v1", openai_model="m")
    assert settings.generator_engine == "extractive"


def test_without_the_package_the_start_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    real = builtins.__import__

    def without_openai(name: str, *arguments: Any, **options: Any) -> Any:
        if name.partition(".")[0] == "openai":
            raise ImportError(name)
        return real(name, *arguments, **options)

    monkeypatch.delitem(sys.modules, "serve_app.generation.openai.engine")
    monkeypatch.setattr(builtins, "__import__", without_openai)
    with pytest.raises(ConfigError, match=r"pip install 'plainmed\[openai\]'"):
        importlib.import_module("serve_app.generation.openai.engine")
