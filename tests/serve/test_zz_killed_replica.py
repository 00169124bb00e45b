"""A replica killed while it works: the client gets the right answer or a 503, never a 500.

Named to run last in this folder, since it costs the shared server a replica.
"""

from __future__ import annotations

import os
import signal
import threading
import time

import httpx
import pytest

from tests.serve.conftest import Server
from tests.texts import GENERATED, ORIGINALS

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


def test_health_recovers_after_the_kill(server: Server) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        if httpx.get(f"{server.url}/healthz", timeout=30).status_code == 200:
            return
        time.sleep(1)
    pytest.fail("the server did not get ready again")
