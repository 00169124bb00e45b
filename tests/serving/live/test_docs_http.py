"""The documentation's blocks that call the API, against the session's server."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.docs.blocks import Block, documentation, read_page
from tests.docs.run import Runner, calls_the_api
from tests.serving.live.conftest import Server
from tests.support.paths import ROOT


def api_blocks(path: Path) -> list[Block]:
    return [
        block
        for block in read_page(path).blocks
        if block.runnable and block.reason is None and calls_the_api(block)
    ]


PAGES = [path for path in documentation() if path.is_file() and api_blocks(path)]


@pytest.mark.skipif(shutil.which("curl") is None, reason="the pages' examples call curl")
@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_what_a_page_sends_is_answered_as_it_says(
    path: Path, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("METRICS_API_URL", server.url)
    problems = Runner(tmp_path, server.url).run(api_blocks(path))
    assert not problems, "\n".join(problems)
