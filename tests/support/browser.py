"""A real browser for the tests of the page: Debian's Chromium, driven by Playwright.

Knows how to start it, what it must not do on any page of ours (ask another host, break the page's
own policy), how to run axe, and how a picture for the documentation is taken. Knows nothing of what
a page shows.
"""

from __future__ import annotations

import io
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from PIL import Image
from playwright.sync_api import Browser, Page, expect, sync_playwright

from tests.support.paths import ROOT

AXE = Path(__file__).resolve().parent / "vendor" / "axe-core" / "axe.min.js"
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
IMAGES = ROOT / "docs" / "images"
MOST_PICTURE_BYTES = 400_000
WAIT_MS = 60_000
"""How long a test waits for what it expects: the machine may be busy."""


def executable() -> str | None:
    """The browser to drive: CHROMIUM, else the first of the usual names."""
    names = ("chromium", "chromium-browser", "google-chrome")
    return os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, names)), None)


@contextmanager
def chromium() -> Iterator[Browser]:
    """A headless Chromium. Close it before any test of asyncio runs: Playwright has its loop."""
    expect.set_options(timeout=WAIT_MS)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable(), args=FLAGS)
        try:
            yield browser
        finally:
            browser.close()


class Pages:
    """Opens pages, each in a profile of its own, and remembers what they did wrong."""

    def __init__(self, browser: Browser) -> None:
        self._browser = browser
        self._contexts: list[Any] = []
        self.wrong: list[str] = []
        self.requests: list[str] = []
        """`METHOD path` of every request of every page, in order."""

    def open(self, url: str, *, before: str | None = None, **options: Any) -> Page:
        """The page at `url`, once its messages are there.

        `before` is a script that runs before the page's own; `options` are those of a context:
        locale, color_scheme, viewport, permissions and so on.
        """
        context = self._browser.new_context(**{"locale": "en-GB", **options})
        self._contexts.append(context)
        context.set_default_timeout(WAIT_MS)
        page = context.new_page()
        if before is not None:
            page.add_init_script(before)
        host = urlsplit(url).netloc

        def on_request(request: Any) -> None:
            parts = urlsplit(request.url)
            self.requests.append(f"{request.method} {parts.path}")
            if parts.scheme in ("http", "https", "ws") and parts.netloc != host:
                self.wrong.append(f"asked {request.url}")

        def on_console(message: Any) -> None:
            if "Content Security Policy" in message.text:
                self.wrong.append(message.text)

        page.on("request", on_request)
        page.on("console", on_console)
        page.on("pageerror", lambda error: self.wrong.append(str(error)))
        page.goto(url)
        expect(page.locator("#original-count")).not_to_be_empty()
        return page

    def close(self) -> None:
        """Closes every page."""
        for context in self._contexts:
            context.close()


def axe(page: Page) -> list[str]:
    """What axe finds wrong with the page as it is, one line an element."""
    page.evaluate(AXE.read_text(encoding="utf-8"))
    found = page.evaluate("axe.run(document, {resultTypes: ['violations']})")
    return [
        f"{rule['id']}: {node['html'][:200]} ({node['failureSummary']})"
        for rule in found["violations"]
        for node in rule["nodes"]
    ]


def save_picture(page: Page, name: str, *, height: int, top: str | None = None) -> None:
    """Writes docs/images/`name`: the page from the element `top` on, at most `height` pixels of it.

    Raises:
        ValueError: the picture is too large for the repository.
    """
    image = Image.open(io.BytesIO(page.screenshot(full_page=True))).convert("RGB")
    begin = 0
    if top is not None:
        begin = page.locator(top).evaluate("it => it.getBoundingClientRect().top + scrollY - 12")
    image = image.crop((0, int(begin), image.width, min(image.height, int(begin) + height)))
    path = IMAGES / name
    path.parent.mkdir(exist_ok=True)
    image.save(path, optimize=True)
    if path.stat().st_size > MOST_PICTURE_BYTES:
        image.quantize(256).save(path, optimize=True)
    size = path.stat().st_size
    if size > MOST_PICTURE_BYTES:
        raise ValueError(f"{path} has {size} bytes; at most {MOST_PICTURE_BYTES} are wanted")
    print(f"{path.name}: {image.width} x {image.height}, {size} bytes")
