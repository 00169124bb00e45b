"""A replica killed while it works: the client gets the right answer or a 503, never a 500.

No client here repeats anything.

Named to run last in this folder, since it costs the shared server a replica.
"""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from tests.serving.live.conftest import WRITER, Server
from tests.support.texts import GENERATED, ORIGINALS

BODY = {
    "texts_original": [f"{text} Case {index}." for index in range(6) for text in ORIGINALS],
    "texts_generated": [f"{text} Case {index}." for index in range(6) for text in GENERATED],
}


@pytest.mark.parametrize(
    ("deployment", "path"), [("Factuality", "/loss"), ("Relevance", "/metrics/relevance")]
)
def test_a_replica_killed_in_mid_request_costs_no_answer(
    server: Server, deployment: str, path: str
) -> None:
    expected = httpx.post(server.url + path, json=BODY, timeout=180).json()
    answers: list[httpx.Response] = []

    def ask() -> None:
        answers.append(httpx.post(server.url + path, json=BODY, timeout=280))

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    time.sleep(0.3)
    os.kill(server.replica_pid(deployment), signal.SIGKILL)
    for thread in threads:
        thread.join()
    assert len(answers) == 4
    right = 0
    for answer in answers:
        if answer.status_code == 503:
            assert int(answer.headers["retry-after"]) >= 1
            assert answer.json()["error"]["code"]
            continue
        assert answer.status_code == 200, answer.text
        got = answer.json()
        if path == "/loss":
            assert got == pytest.approx(expected, abs=1e-5)
        else:
            assert got["relevance"] == pytest.approx(expected["relevance"], abs=1e-5)
        right += 1
    assert right > 0


def test_a_gateway_killed_with_requests_in_it_costs_no_answer(server: Server) -> None:
    expected = httpx.post(f"{server.url}/loss", json=BODY, timeout=180).json()
    names = [f"killed-{number}" for number in range(4)]

    def ask(name: str) -> httpx.Response:
        headers = {"X-Request-ID": name}
        return httpx.post(f"{server.url}/loss", json=BODY, headers=headers, timeout=280)

    with ThreadPoolExecutor(len(names)) as threads:
        held = server.replica_pid("Loss")  # which has one replica
        os.kill(held, signal.SIGSTOP)  # so that no machine is too fast
        try:
            asked = [threads.submit(ask, name) for name in names]
            time.sleep(1)  # by now they are the gateway's
            early = [one.result() for one in asked if one.done()]
            assert [(one.status_code, one.text) for one in early] == []
            os.kill(server.replica_pid("Gateway"), signal.SIGKILL)
        finally:
            os.kill(held, signal.SIGCONT)
        answers = [one.result() for one in asked]
    for answer, name in zip(answers, names, strict=True):
        assert answer.status_code == 200, answer.text
        assert answer.json() == pytest.approx(expected, abs=1e-5)
        assert answer.headers["x-request-id"] == name
    logs = (server.session_folder() / "logs" / "serve").glob("proxy_*.log")
    said = "".join(log.read_text(encoding="utf-8") for log in logs)
    for name in names:  # else they were not in it
        assert f"id={name} was not answered; asking again" in said


def test_a_stream_whose_gateway_dies_ends_with_an_error(server: Server) -> None:
    body = {"text": ORIGINALS[0], "stream": True}
    url = f"{server.url}/{WRITER}/generate"
    with httpx.stream("POST", url, json=body, timeout=180) as answer:
        lines = answer.iter_lines()
        assert answer.status_code == 200
        assert next(lines).startswith("data: ")
        os.kill(server.replica_pid("Gateway", WRITER), signal.SIGKILL)
        rest = list(lines)  # read to its end: the connection has not just broken
    at = rest.index("event: error")
    assert json.loads(rest[at + 1].removeprefix("data: "))["error"]["code"] == "unavailable"
    assert rest[at + 2 :] == [""]


def test_health_recovers_after_the_kill(server: Server) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        if httpx.get(f"{server.url}/healthz", timeout=30).status_code == 200:
            return
        time.sleep(1)
    pytest.fail("the server did not get ready again")
