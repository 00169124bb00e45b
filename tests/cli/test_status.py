"""`plainmed status`: one screen of a server, and an exit status for scripts."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from types import SimpleNamespace

import httpx
import pytest

from serve_app import __version__
from serve_app.api.backend import Component, Health, Replicas
from serve_app.cli import status
from tests.support.command import plainmed
from tests.support.servers import TARGETS, Answer, LightBackend, ScriptedServer, api_server

TEXTS = {"texts": ["Aspirin makes a stroke less likely."]}


class Served(LightBackend):
    """With replicas; `ready` says whether all deployments are."""

    def __init__(self, ready: bool = True) -> None:
        super().__init__()
        self.ready = ready

    async def health(self) -> Health:
        components = {"Factuality": Component(True, "align", "cpu"), "Loss": Component(self.ready)}
        replicas = {"Factuality": Replicas(1, 2), "Loss": Replicas(int(self.ready), 1)}
        targets = {**TARGETS.to_dict(), "file": "mine.json", "corpus": "pairs.csv", "n": 308}
        return Health(components, targets, ["made with other models"], replicas)


@pytest.fixture
def url() -> Iterator[str]:
    with api_server(Served()) as address:
        yield address


def test_a_ready_server_is_one_screen_and_status_zero(url: str) -> None:
    for body in (TEXTS, TEXTS, {"texts": [""]}):
        httpx.post(f"{url}/metrics/readability", json=body)
    result = plainmed("status", url)
    assert result.exit_code == 0
    lines = [" ".join(line.split()) for line in result.stdout.splitlines()]
    assert lines[0].startswith(f"ready PlainMed {__version__} at {url}")
    assert any(line.startswith("targets: mine.json (pairs.csv, n = 308, sha256:") for line in lines)
    assert "warning: made with other models" in lines
    assert "Factuality 1/2 align cpu" in lines
    assert any(line.startswith("/metrics/readability 3 ") for line in lines)
    assert any(line.startswith("all 3 ") for line in lines)


def test_a_server_that_is_not_ready_is_shown_and_status_one() -> None:
    with api_server(Served(ready=False)) as url:
        result = plainmed("status", url)
    assert result.exit_code == 1
    assert result.stdout.startswith("unavailable")
    assert "Loss 0/1" in " ".join(result.stdout.split())


def test_json_is_the_servers_answer(url: str) -> None:
    result = plainmed("status", url, "--json")
    answer = json.loads(result.stdout)
    assert answer["deployments"]["Factuality"]["replicas_wanted"] == 2
    assert answer.keys() == httpx.get(f"{url}/status").json().keys()


def test_no_server_is_status_two_and_says_what_to_do() -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        result = plainmed("status", f"http://127.0.0.1:{nobody.getsockname()[1]}")
    assert result.exit_code == 2
    assert "cannot reach PlainMed" in result.stderr
    assert "plainmed serve" in result.stderr


@pytest.mark.parametrize(
    ("status", "said"), [(401, "PLAINMED_API_KEY"), (404, "older"), (500, "log")]
)
def test_a_refusal_is_status_two_and_says_what_to_do(status: int, said: str) -> None:
    body = json.dumps({"error": {"code": "c", "message": "m", "field": None}}).encode()
    with ScriptedServer([Answer(status, body)]) as server:
        result = plainmed("status", server.url)
    assert result.exit_code == 2
    assert said in result.stderr


def test_the_key_of_the_environment_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLAINMED_API_KEY", "pm_id_secret")
    with ScriptedServer([Answer(401)]) as server:
        plainmed("status", server.url)
        assert server.received[0].headers["authorization"] == "Bearer pm_id_secret"


def test_watching_asks_again_also_of_a_server_that_is_away(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    waits: list[float] = []

    def wait(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(status, "time", SimpleNamespace(sleep=wait))
    with ScriptedServer([Answer(503), Answer(hang_up=True), Answer(401)]) as server:
        result = plainmed("status", server.url, "--watch", "2")
        assert len(server.received) == 3
    assert waits == [2.0] * 3
    assert result.exit_code not in (0, 2)


def test_watching_prints_no_json() -> None:
    assert plainmed("status", "http://127.0.0.1:1", "--watch", "2", "--json").exit_code == 2
