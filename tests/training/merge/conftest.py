"""A base model, an adapter of it, and an empty bucket."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.tiny_models import CHAT_TEMPLATE, save_adapter, save_model


@pytest.fixture(autouse=True)
def _threads(one_thread: None) -> None:
    """For every test of this folder."""


@pytest.fixture(scope="package")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("models")
    save_model(root / "base", chat_template=CHAT_TEMPLATE, context=512)
    save_adapter(root / "org__model-run", root / "base")
    return root


@pytest.fixture
def bucket(new_bucket: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    """MODEL_S3_BUCKET, an empty one; CACHE_DIR is the test's own."""
    monkeypatch.setenv("MODEL_S3_BUCKET", new_bucket)
    monkeypatch.setenv("CACHE_DIR", str(tmp_path / "cache"))
    return new_bucket
