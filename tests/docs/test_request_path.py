"""A request enters no more files than docs/architecture.md says, and those that it lists."""

from __future__ import annotations

import re

import pytest

from tests.support.paths import ROOT
from tests.support.scripts import load_script
from tests.support.slow import slow

request_path = load_script("request_path")


def listed(way: str) -> list[str]:
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    line = next(line for line in page.splitlines() if line.startswith(f"**{way}**"))
    return re.findall(r"`([\w/]+\.py)`", line)


@pytest.mark.parametrize("way", sorted(request_path.MOST))
def test_the_page_lists_no_more_files_than_a_way_may_enter(way: str) -> None:
    files = listed(way)
    assert 0 < len(files) <= request_path.MOST[way]
    assert all((ROOT / "serve_app" / name).is_file() for name in files)


@slow(30)
@pytest.mark.parametrize("way", sorted(request_path.MOST))
def test_a_request_enters_the_files_that_the_page_lists(way: str) -> None:
    assert sorted(request_path.files_entered(way)) == sorted(listed(way))
