"""`plainmed serve` as a process on every address: who may call, what others reach, how it ends.

The generator half, alone, with API keys; `serve run` without keys is the server of conftest.py.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from typer.testing import CliRunner

from serve_app.api.auth.api_keys import NewKey, dump_keys, new_key
from serve_app.cli.main import app
from tests.serving.live.conftest import Server, free_port
from tests.support.texts import ORIGINALS

BIN = Path(sys.executable).parent
COUNT = 8
READ_KEYS = """
import sys
from ray._raylet import GcsClient
assert GcsClient(address=sys.argv[1]).internal_kv_keys(b"", None, 5)
print("read")
"""
READ_CHECKPOINT = """
import sys
from ray._raylet import GcsClient
store = GcsClient(address=sys.argv[1])
for key in store.internal_kv_keys(b"", b"serve", 5):
    sys.stdout.buffer.write(store.internal_kv_get(key, b"serve", 5))
"""
MARKED = "no-process-but-its-own-may-have-this"
ANSWER_S = 5.0
"""Within which a change of the keys file is seen."""
LOOPBACK = {"127.0.0.1", "::ffff:127.0.0.1", "::1"}


@pytest.mark.parametrize("host", ["0.0.0.0", "::"])
def test_it_ends_at_once_on_a_public_address_without_keys(host: str) -> None:
    command = [str(BIN / "plainmed"), "serve", "--host", host]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 2
    assert "API_KEYS_FILE" in done.stderr
    assert "ALLOW_NO_KEYS" in done.stderr
    assert "Traceback" not in done.stderr


@dataclass
class Keys:
    """The keys file, and keys in it."""

    file: Path
    good: NewKey
    limited: NewKey

    def run(self, *arguments: str) -> str:
        """`plainmed keys ...`; what it prints."""
        result = CliRunner().invoke(app, ["keys", arguments[0], str(self.file), *arguments[1:]])
        assert result.exit_code == 0, result.output
        return result.stdout.strip()


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Keys:
    file = tmp_path_factory.mktemp("keys") / "keys.json"
    made = Keys(file, new_key("all"), new_key("limited", requests_per_minute=2))
    file.write_text(dump_keys([made.good.entry, made.limited.entry]), encoding="utf-8")
    return made


@pytest.fixture(scope="module")
def generator(tmp_path_factory: pytest.TempPathFactory, keys: Keys) -> Iterator[Server]:
    """`HOST=0.0.0.0 plainmed serve --services generator`; the last test here ends it."""
    folder = tmp_path_factory.mktemp("generator")
    port = free_port()
    command = [str(BIN / "plainmed"), "serve", "--port", str(port), "--services", "generator"]
    running = Server(
        port, folder / "serve.log", command,
        HOST="0.0.0.0", API_KEYS_FILE=str(keys.file), HF_TOKEN=MARKED,
    )  # fmt: skip
    try:
        running.wait_until_ready()
        yield running
    finally:
        running.stop()


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def ask(server: Server, headers: dict[str, str]) -> httpx.Response:
    body = {"text": ORIGINALS[0]}
    return httpx.post(f"{server.url}/generate", json=body, headers=headers, timeout=60)


def test_only_who_has_a_key_is_answered(generator: Server, keys: Keys) -> None:
    wrong = keys.good.key[:-1] + ("A" if keys.good.key[-1] != "A" else "B")
    for headers, code in (
        ({}, "missing_api_key"),
        (bearer(wrong), "invalid_api_key"),
        (bearer(new_key().key), "invalid_api_key"),
    ):
        refused = ask(generator, headers)
        assert refused.status_code == 401
        assert refused.headers["www-authenticate"] == "Bearer"
        error = refused.json()["error"]
        assert set(error) == {"code", "message", "field"}
        assert error["code"] == code
    for headers in (bearer(keys.good.key), {"X-API-Key": keys.good.key}):
        answer = ask(generator, headers)
        assert answer.status_code == 200, answer.text[:500]
        assert answer.json()["summary"]


def test_all_processes_of_ray_keep_their_memory_in_two_heaps(generator: Server) -> None:
    """With as many as glibc would make they grow for hours (docs/reliability.md)."""
    family = psutil.Process(generator.process.pid).children(recursive=True)
    started = [one for one in family if one.name() in ("raylet", "gcs_server", "ray::ProxyActor")]
    assert len(started) >= 2
    assert {one.environ().get("MALLOC_ARENA_MAX") for one in started} == {"2"}


def test_what_ray_serve_answers_itself_is_no_page(generator: Server) -> None:
    """These ask for no key (docs/security.md); the middleware before the proxy is turned on."""
    for path in ("/-/healthz", "/-/routes", "/healthz"):
        answer = httpx.get(generator.url + path, timeout=30)
        assert answer.status_code == 200
        assert answer.headers["x-content-type-options"] == "nosniff"


def test_a_key_over_its_rate_is_told_when_to_come_back(generator: Server, keys: Keys) -> None:
    statuses = [ask(generator, bearer(keys.limited.key)) for _ in range(3)]
    assert [one.status_code for one in statuses] == [200, 200, 429]
    assert 1 <= int(statuses[-1].headers["retry-after"]) <= 60
    assert statuses[-1].json()["error"]["code"] == "too_many_requests"
    assert ask(generator, bearer(keys.good.key)).status_code == 200  # the other is not held up


def test_keys_come_and_go_without_a_restart(generator: Server, keys: Keys) -> None:
    def status_becomes(key: str, wanted: int) -> bool:
        deadline = time.monotonic() + ANSWER_S
        while time.monotonic() < deadline:
            if ask(generator, bearer(key)).status_code == wanted:
                return True
            time.sleep(0.2)
        return False

    added = keys.run("new", "--name", "added")
    assert status_becomes(added, 200)
    keys.run("remove", added.split("_")[1])
    assert status_becomes(added, 401)
    assert ask(generator, bearer(keys.good.key)).status_code == 200


def listening(server: Server) -> list[tuple[psutil.Process, str, int]]:
    """The processes of a server that listen, with address and port."""
    main = psutil.Process(server.process.pid)
    return [
        (process, connection.laddr.ip, connection.laddr.port)
        for process in [main, *main.children(recursive=True)]
        for connection in process.net_connections("tcp")
        if connection.status == psutil.CONN_LISTEN
    ]


def test_the_api_alone_is_public_but_for_a_port_of_each_replica(generator: Server) -> None:
    found: dict[str, set[tuple[str, int]]] = {}
    for process, address, port in listening(generator):
        found.setdefault(process.name(), set()).add((address, port))
    assert {"gcs_server", "raylet"} <= set(found)  # those that hold Ray's control
    outside = {
        (name, address, port)
        for name, places in found.items()
        for address, port in places
        if address not in LOOPBACK
    }
    api = int(generator.url.rpartition(":")[2])
    assert ("0.0.0.0", api) in {(address, port) for _, address, port in outside}
    # Ray 2.60 has this one address written into its code: docs/security.md, Ports.
    assert [
        (name, address, port)
        for name, address, port in sorted(outside)
        if (address, port) != ("0.0.0.0", api)
        and not (name.startswith("ray::ServeReplica") and address == "::")
    ] == []


def control_store(server: Server, program: str, **environment: str) -> Any:
    """What a program prints that is given the address of the control store."""
    (port,) = {port for process, _, port in listening(server) if process.name() == "gcs_server"}
    return subprocess.run(
        [sys.executable, "-c", program, f"127.0.0.1:{port}"],
        env={**os.environ, **environment},
        capture_output=True, check=False, timeout=60,
    )  # fmt: skip


def test_ray_keeps_the_settings_and_no_secret(generator: Server) -> None:
    """With a Redis behind the control store this is what would lie there."""
    done = control_store(generator, READ_CHECKPOINT, RAY_AUTH_MODE="token")
    assert b"max_new_tokens" in done.stdout, done.stderr[-500:]
    assert MARKED.encode() not in done.stdout


def test_ray_lets_nobody_in_without_its_token(generator: Server) -> None:
    """The job API would run programs, and the control store would let a driver in."""
    allowed = control_store(generator, READ_KEYS, RAY_AUTH_MODE="token")
    assert allowed.stdout.strip() == b"read", allowed.stderr  # with the token of this user
    for wrong in ({"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0" * 64}, {}):
        done = control_store(generator, READ_KEYS, **wrong)
        assert done.returncode != 0
        assert b"read" not in done.stdout
        assert b"authentication" in done.stderr
    answers = []
    for process, _, port in listening(generator):
        if "dashboard" not in " ".join(process.cmdline()):
            continue
        try:
            answers.append(httpx.get(f"http://127.0.0.1:{port}/api/jobs/", timeout=10))
        except httpx.HTTPError:
            continue  # it speaks gRPC
    assert 401 in [answer.status_code for answer in answers]
    for answer in answers:  # the exporter of metrics answers every path alike
        assert answer.status_code != 200 or answer.text.startswith("# HELP"), answer.text[:200]


def test_the_generator_alone_refuses_metrics_and_drains_at_sigterm(
    generator: Server, keys: Keys
) -> None:
    health = httpx.get(f"{generator.url}/healthz").json()
    assert health["services"] == ["generator"]
    assert "Factuality" not in health["components"]
    headers = bearer(keys.good.key)
    refused = httpx.post(
        f"{generator.url}/loss", json={"texts_original": ORIGINALS}, headers=headers
    )
    assert refused.status_code == 404
    assert refused.json()["error"]["code"] == "not_served"

    answers: list[httpx.Response] = []
    long = " ".join(ORIGINALS * 400)
    body = {"texts": [f"{long} Case {index}." for index in range(COUNT)]}

    def ask_long() -> None:
        answers.append(
            httpx.post(f"{generator.url}/generate", json=body, headers=headers, timeout=120)
        )

    slow = threading.Thread(target=ask_long)
    slow.start()
    time.sleep(1.0)
    assert slow.is_alive(), "the request must still be under way when the signal comes"
    generator.process.send_signal(signal.SIGTERM)
    slow.join()
    assert answers[0].status_code == 200, answers[0].text[:500]
    assert len(answers[0].json()["results"]) == COUNT
    assert generator.process.wait(timeout=90) == 0
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{generator.url}/healthz")
