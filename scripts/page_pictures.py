"""Takes the pictures of the page in docs/images from a running server.

    plainmed serve serve_config.yaml        # in another terminal
    python -m scripts.page_pictures         # from the repository's root

Knows what the pictures show and how wide they are; the browser is that of the tests.
"""

from __future__ import annotations

import argparse
import io
from pathlib import Path

from PIL import Image
from playwright.sync_api import Browser, Page, expect

from tests.browser import chromium

IMAGES = Path(__file__).resolve().parent.parent / "docs" / "images"
MOST_BYTES = 400_000
_TOP = "it => document.querySelector(it).getBoundingClientRect().top"
# One sentence as the original has it, one said anew, one with a hard word, one that is not true.
SUMMARY = (
    "Home-based rehabilitation probably increases the six-minute walk distance compared with usual "
    "care. People may feel a little better too. We are uncertain about its effect on mortality, "
    "because only two small trials measured it. Nobody died in any of the studies."
)


def take(browser: Browser, url: str) -> None:
    """The three pictures: a wide page, its result in the dark, and a phone."""
    page = _open(browser, url, width=1100, height=900)
    page.locator("#original").evaluate("box => box.scrollTop = 0")
    page.locator("#sentences button").nth(2).focus()
    page.mouse.move(0, 0)
    save(page, "page.png", height=2600)

    page = _open(browser, url, width=1100, height=900, scheme="dark")
    page.locator("#n").select_option("4")
    page.locator("#generate").click()
    expect(page.locator("#candidates > li")).to_have_count(4, timeout=120_000)
    page.mouse.move(0, 0)
    save(page, "page-dark.png", height=1500, top="#candidates-part")

    page = _open(browser, url, width=360, height=740, locale="es-ES")
    page.locator("#sentences button").nth(1).click()
    save(page, "page-phone.png", height=1500, top="#loss-part")


def _open(
    browser: Browser,
    url: str,
    *,
    width: int,
    height: int,
    scheme: str = "light",
    locale: str = "en-GB",
) -> Page:
    """A page with the sample text and a summary of it, scored."""
    page = browser.new_page(
        viewport={"width": width, "height": height},
        color_scheme="dark" if scheme == "dark" else "light",
        locale=locale,
    )
    page.goto(url)
    page.locator("#sample").click()
    expect(page.locator("#original")).not_to_have_value("")
    page.locator("#summary").fill(SUMMARY)
    page.locator("#score").click()
    expect(page.get_by_role("meter")).to_have_count(5, timeout=120_000)
    return page


def save(page: Page, name: str, *, height: int, top: str | None = None) -> None:
    """Writes the page from `top` on, at most `height` pixels of it."""
    image = Image.open(io.BytesIO(page.screenshot(full_page=True))).convert("RGB")
    begin = 0
    if top is not None:
        begin = int(page.evaluate(_TOP, top))
        begin = max(0, begin + int(page.evaluate("scrollY")) - 12)
    image = image.crop((0, begin, image.width, min(image.height, begin + height)))
    path = IMAGES / name
    image.save(path, optimize=True)
    if path.stat().st_size > MOST_BYTES:
        image.quantize(256).save(path, optimize=True)
    size = path.stat().st_size
    if size > MOST_BYTES:
        raise SystemExit(f"{path} has {size} bytes; at most {MOST_BYTES} are wanted")
    print(f"{path.name}: {image.width} x {image.height}, {size} bytes")


def main() -> None:
    """Reads the command line and takes the pictures."""
    parser = argparse.ArgumentParser(description="Takes the pictures of the page in docs/images.")
    parser.add_argument("--url", default="http://127.0.0.1:8000/", help="a running PlainMed")
    arguments = parser.parse_args()
    IMAGES.mkdir(exist_ok=True)
    with chromium() as browser:
        take(browser, arguments.url)


if __name__ == "__main__":
    main()
