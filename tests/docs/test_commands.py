"""The commands and Python of the documentation do what the pages say, where they need no server.

The others are in tests/serving/live/test_docs_http.py, beside the server.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.docs.blocks import Block, documentation, read_page
from tests.docs.run import Runner, calls_the_api
from tests.support.paths import ROOT


def local_blocks(path: Path) -> list[Block]:
    return [
        block
        for block in read_page(path).blocks
        if block.runnable and block.reason is None and not calls_the_api(block)
    ]


PAGES = [path for path in documentation() if path.is_file() and local_blocks(path)]


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_the_blocks_of_a_page_do_what_it_says(path: Path, tmp_path: Path) -> None:
    problems = Runner(tmp_path).run(local_blocks(path))
    assert not problems, "\n".join(problems)


def test_a_block_that_does_not_do_what_its_page_says_is_noticed(tmp_path: Path) -> None:
    blocks = [
        Block("page.md", 1, "python", "print(1 / 3)", output="0.3333\n"),
        Block("page.md", 2, "python", "print(1 / 3)", output="0.25\n"),
        Block("page.md", 3, "python", "1 / 0"),
        Block("page.md", 4, "bash", "wc -l < pairs.csv", output="5"),
        Block("page.md", 5, "bash", "false | cat"),
        Block("page.md", 6, "console", "$ plainmed version\nplainmed 0.0.0\n"),
        Block("page.md", 7, "console", "$ plainmed score\n...\n", annotations={"exit": "2"}),
    ]
    problems = Runner(tmp_path).run(blocks)
    assert [problem.split(":")[1] for problem in problems] == ["2", "3", "5", "6"]
