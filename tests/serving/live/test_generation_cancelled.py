"""A caller who is gone costs nothing more: the language model's replica stops computing."""

from __future__ import annotations

import time

import httpx
import psutil
import pytest

from tests.serving.live.conftest import WRITER, Server
from tests.support.texts import ORIGINALS

LONG = {"text": ORIGINALS[0], "max_new_tokens": 30_000, "temperature": 1.0}


def used_s(process: psutil.Process) -> float:
    """Processor seconds it has taken."""
    times = process.cpu_times()
    return times.user + times.system


def busy_s(process: psutil.Process, during_s: float) -> float:
    """Processor seconds it takes in that time."""
    before = used_s(process)
    time.sleep(during_s)
    return used_s(process) - before


def assert_it_stops(process: psutil.Process) -> None:
    deadline = time.monotonic() + 15
    # An idle replica takes a hundredth; one that computes takes more even on a busy machine.
    while busy_s(process, 2.0) > 0.1:
        assert time.monotonic() < deadline, "it goes on computing for a caller who is gone"


@pytest.fixture
def replica(server: Server) -> psutil.Process:
    return psutil.Process(server.replica_pid("Generator", WRITER))


def test_an_answer_nobody_waits_for_is_not_computed(
    server: Server, replica: psutil.Process
) -> None:
    before = used_s(replica)
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(f"{server.url}/{WRITER}/generate", json=LONG, timeout=3)
    assert used_s(replica) - before > 0.1, "nothing was computed in the first place"
    assert_it_stops(replica)


def test_a_stream_nobody_reads_is_not_computed(server: Server, replica: psutil.Process) -> None:
    body = {**LONG, "stream": True}
    url = f"{server.url}/{WRITER}/generate"
    with httpx.stream("POST", url, json=body, timeout=60) as response:
        assert response.status_code == 200
        lines = response.iter_lines()
        pieces = [next(lines) for _ in range(40)]
        assert not any("done" in piece for piece in pieces)
    assert_it_stops(replica)


def test_a_token_limit_over_the_servers_is_refused(server: Server) -> None:
    body = {"text": ORIGINALS[0], "max_new_tokens": 30_001}
    answer = httpx.post(f"{server.url}/{WRITER}/generate", json=body, timeout=60)
    assert answer.status_code == 422
    assert answer.json()["error"]["field"] == "max_new_tokens"


def test_usage_counts_tokens_read_and_written(server: Server) -> None:
    body = {"text": ORIGINALS[0], "max_new_tokens": 5, "seed": 1}
    answer = httpx.post(f"{server.url}/{WRITER}/generate", json=body, timeout=60).json()
    assert answer["finish_reason"] == "length"
    assert answer["usage"]["completion_tokens"] == 5
    assert answer["usage"]["prompt_tokens"] > 20
