"""An adapter merged and uploaded to S3 is what the served generator then writes with."""

from __future__ import annotations

from pathlib import Path

import httpx

from serve_app.core.settings import load_settings
from serve_app.generation.loading import load_generator
from serve_app.generation.protocol import GenerationParams
from tests.serving.live.conftest import MODEL_NAME, WRITER, Server
from tests.support.texts import ORIGINALS


def test_the_server_writes_what_the_adapter_on_its_base_writes(
    server: Server, adapter: Path
) -> None:
    body = {"text": ORIGINALS[0], "max_new_tokens": 40, "temperature": 0, "seed": 1}
    answer = httpx.post(f"{server.url}/{WRITER}/generate", json=body, timeout=60).json()
    engine = load_generator(load_settings(model_path=str(adapter)))
    params = GenerationParams(max_new_tokens=40, temperature=0.0, seed=1)
    [expected] = engine.generate([ORIGINALS[0]], [params])
    assert answer["summary"] == expected.text
    base = load_generator(load_settings(model_path=str(adapter.parent / "base")))
    assert base.generate([ORIGINALS[0]], [params])[0].text != expected.text


def test_health_names_the_merged_model(server: Server) -> None:
    health = httpx.get(f"{server.url}/{WRITER}/healthz", timeout=60).json()
    assert health["components"]["Generator"]["model"] == MODEL_NAME
