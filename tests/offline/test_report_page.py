"""The page of a report: hostile text, and what a real browser makes of it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from serve_app.offline.report.analysis import Choices, analyse
from serve_app.offline.report.reader import read_systems
from serve_app.offline.report.render import to_html
from tests.support.report_files import LOSS, failed, scored, write

HOSTILE = (
    '<script>window.ran = 1</script><img src="http://127.0.0.1:9/x" onerror="window.ran = 2">'
    " & \" ' </div></main> {{ 7 * 7 }} hypertension persisted in people. "
)


def make(folder: Path) -> Path:
    """A report of two systems with everything on it, and hostile texts and names."""
    rows = [*scored(40), failed("x")]
    for row in rows[:40]:
        row["generated"] = HOSTILE + row["generated"]
        row["sentences"] = [{"text": HOSTILE.strip(), "score": 0.01, "support": HOSTILE}]
        row["truncated"] = dict.fromkeys(
            ("relevance_original", "relevance_generated", "factuality"), True
        )
    rows[3]["doc_id"] = HOSTILE
    files = [
        write(folder / "a.jsonl", rows),
        write(folder / "b.jsonl", scored(40, seed=1, shift=0.5)),
    ]
    names = ["<svg onload=window.ran=3>", "a system with a name that is too long for a chart"]
    systems = read_systems(files, names)
    page = folder / "report.html"
    html = to_html(analyse(systems, Choices(LOSS, worst=3, resamples=100, check=True)))
    page.write_text(html, encoding="utf-8")
    return page


@pytest.fixture(scope="module")
def page_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("report"))


def test_hostile_text_stays_text(page_file: Path) -> None:
    html = page_file.read_text(encoding="utf-8")
    assert "<script" not in html
    assert "<img" not in html
    assert "<svg onload" not in html
    assert "&lt;svg onload=window.ran=3&gt;" in html
    assert "{{ 7 * 7 }}" in html


def test_the_page_names_no_other_file(page_file: Path) -> None:
    html = page_file.read_text(encoding="utf-8")
    assert "default-src 'none'" in html
    assert not re.search(r"<link|@import|url\(|<iframe|<object", html)
    assert all(one.startswith("#") for one in re.findall(r'<a[^>]* href="([^"]*)"', html))


def test_every_table_has_a_caption_and_every_drawing_a_text(page_file: Path) -> None:
    html = page_file.read_text(encoding="utf-8")
    tables = re.findall(r"<table>.*?</table>", html, re.DOTALL)
    assert len(tables) >= 8
    assert all("<caption>" in table and 'scope="col"' in table for table in tables)
    drawings = re.findall(r"<svg [^>]*>", html)
    assert len(drawings) == 6 * 2 + 1 + 2
    assert all('role="img"' in one and re.search('aria-label="[^"]{10,}', one) for one in drawings)


class TestInABrowser:
    """With Chromium; skipped with a reason where there is none."""

    @pytest.fixture
    def opened(self, browser: Any, page_file: Path) -> Any:
        asked: list[str] = []

        def open_page(**options: Any) -> Any:
            context = browser.new_context(**options)
            contexts.append(context)
            page = context.new_page()
            page.on("request", lambda request: asked.append(request.url))
            page.goto(page_file.as_uri())
            return page

        contexts: list[Any] = []
        yield open_page
        for context in contexts:
            context.close()
        assert {urlsplit(url).scheme for url in asked} == {"file"}
        assert len(asked) == len(contexts)

    def test_nothing_runs_and_nothing_is_asked_for(self, opened: Any) -> None:
        page = opened()
        page.wait_for_load_state("networkidle")
        assert page.evaluate("window.ran") is None
        assert page.locator(".summary mark").count() >= 1
        assert "<script>window.ran = 1</script>" in page.locator(".summary").first.inner_text()
        assert page.locator(".summary u.difficult", has_text="hypertension").count() >= 1
        assert page.locator(".summary .found").count() >= 1
        assert page.locator("#findings table").count() == 2

    @pytest.mark.parametrize("scheme", ["light", "dark"])
    def test_axe_finds_nothing_in_light_and_dark(self, opened: Any, scheme: str) -> None:
        from tests.support.browser import axe

        page = opened(color_scheme=scheme, bypass_csp=True)
        ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert ground == {"light": "rgb(246, 247, 245)", "dark": "rgb(17, 22, 26)"}[scheme]
        assert axe(page) == []

    def test_on_a_phone_only_tables_scroll_sideways(self, opened: Any) -> None:
        page = opened(viewport={"width": 360, "height": 740})
        assert page.evaluate("document.documentElement.scrollWidth") <= 360
        wide = page.locator(".scroll").first
        assert wide.get_attribute("tabindex") == "0"

    def test_the_first_tab_leads_to_the_content(self, opened: Any) -> None:
        page = opened()
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.textContent") == "Skip to the report"
        page.keyboard.press("Enter")
        assert page.evaluate("document.activeElement.id") == "content"

    def test_it_prints_in_light_without_its_navigation(self, opened: Any) -> None:
        page = opened(color_scheme="dark")
        page.emulate_media(media="print")
        assert not page.locator("nav").is_visible()
        assert page.locator("#differences table").first.is_visible()
        ink = page.evaluate("getComputedStyle(document.body).color")
        assert ink == "rgb(27, 35, 40)"
