"""Tiny models on disk: without and with a chat template, and an adapter."""

from __future__ import annotations

from pathlib import Path

import pytest

from serve_app.generation.causal.engine import TransformersGenerator
from tests.generation.causal.engines import engine
from tests.support.tiny_models import CHAT_TEMPLATE, save_adapter, save_model


@pytest.fixture(autouse=True)
def _threads(one_thread: None) -> None:
    """For every test of this folder."""


@pytest.fixture(scope="package")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("models")
    save_model(root / "plain")
    save_model(root / "chat", chat_template=CHAT_TEMPLATE)
    save_adapter(root / "adapter", root / "plain")
    return root


@pytest.fixture(scope="package")
def plain(folder: Path) -> TransformersGenerator:
    return engine(folder / "plain")
