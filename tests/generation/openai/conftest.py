"""`transformers serve` on a tiny model, a proxy that breaks it, and engines that ask them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from serve_app.generation.openai.engine import OpenAIGenerator
from tests.generation.openai.answers import PREFIX, SYSTEM
from tests.generation.openai.server import FaultyProxy, transformers_serve
from tests.support.tiny_models import CHAT_TEMPLATE, save_model


@pytest.fixture(autouse=True)
def _threads(one_thread: None) -> None:
    """For every test of this folder."""


@pytest.fixture(scope="package")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("tiny"), chat_template=CHAT_TEMPLATE, context=512)


@pytest.fixture(scope="package")
def server(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with pytest.MonkeyPatch.context() as patch:
        # It lists the models of the hub's cache, and fails where there is no such folder.
        patch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path_factory.mktemp("hub")))
        with transformers_serve(model) as url:
            yield url


@pytest.fixture
def proxy(server: str) -> Iterator[FaultyProxy]:
    with FaultyProxy(server) as proxy:
        yield proxy


@pytest.fixture
def engine(model: Path) -> Iterator[Callable[..., OpenAIGenerator]]:
    made = []

    def make(url: str, **options: Any) -> OpenAIGenerator:
        options = {"model": str(model), "timeout_s": 30.0, "max_retries": 2, **options}
        made.append(OpenAIGenerator(url, system_prompt=SYSTEM, user_prefix=PREFIX, **options))
        return made[-1]

    yield make
    for one in made:
        one.close()
