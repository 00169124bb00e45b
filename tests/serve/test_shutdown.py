"""SIGTERM finishes what was accepted; one half of the services runs alone."""

from __future__ import annotations

import signal
import sys
import threading
import time
from pathlib import Path

import httpx
import pytest

from tests.serve.conftest import Server, free_port
from tests.texts import GENERATED, ORIGINALS

COUNT = 60


def test_metrics_alone_refuse_the_generator_and_drain_at_sigterm(tmp_path: Path) -> None:
    port = free_port()
    command = [sys.executable, "-m", "serve_app.cli", "serve"]
    server = Server(
        port, tmp_path / "serve.log", [*command, "--port", str(port), "--services", "metrics"]
    )
    try:
        server.wait_until_ready()
        health = httpx.get(f"{server.url}/healthz").json()
        assert health["services"] == ["metrics"]
        assert "Generator" not in health["components"]
        refused = httpx.post(f"{server.url}/generate", json={"text": ORIGINALS[0]})
        assert refused.status_code == 404
        assert refused.json()["error"]["code"] == "not_served"
        without = httpx.post(f"{server.url}/evaluate", json={"texts_original": ORIGINALS})
        assert without.status_code == 422
        assert without.json()["error"]["field"] == "texts_generated"

        answers: list[httpx.Response] = []
        body = {
            "texts_original": [f"{ORIGINALS[0]} Case {index}." for index in range(COUNT)],
            "texts_generated": [f"{GENERATED[0]} Case {index}." for index in range(COUNT)],
        }

        def ask() -> None:
            answers.append(httpx.post(f"{server.url}/loss", json=body, timeout=120))

        slow = threading.Thread(target=ask)
        slow.start()
        time.sleep(1.0)
        assert slow.is_alive(), "the request must still be under way when the signal comes"
        server.process.send_signal(signal.SIGTERM)
        slow.join()
        assert answers[0].status_code == 200, answers[0].text
        assert len(answers[0].json()) == COUNT
        assert server.process.wait(timeout=90) == 0
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"{server.url}/healthz")
    finally:
        server.stop()
