"""Takes the pictures of the page in docs/images from a running server.

    plainmed serve serve_config.yaml        # in another terminal
    python -m scripts.page_pictures         # from the repository's root

Knows what the pictures show and how wide they are; the browser is that of the tests.
"""

from __future__ import annotations

import argparse

from playwright.sync_api import Browser, Page, expect

from tests.support.browser import chromium, save_picture

# One sentence as the original has it, one said anew, one with another number, one that is not true.
SUMMARY = (
    "Home-based rehabilitation probably increases the six-minute walk distance compared with usual "
    "care. People may feel a little better too. We are uncertain about its effect on mortality, "
    "because only twelve small trials measured it. Nobody died in any of the studies."
)


def take(browser: Browser, url: str) -> None:
    """The three pictures: a wide page, its result in the dark, and a phone."""
    page = _open(browser, url, width=1100, height=900)
    page.locator("#original").evaluate("box => box.scrollTop = 0")
    page.locator("#sentences button").nth(2).focus()
    page.mouse.move(0, 0)
    save_picture(page, "page.png", height=2900)

    page = _open(browser, url, width=1100, height=900, scheme="dark")
    page.locator("#n").select_option("4")
    page.locator("#generate").click()
    expect(page.locator("#candidates > li")).to_have_count(4, timeout=120_000)
    page.mouse.move(0, 0)
    save_picture(page, "page-dark.png", height=1500, top="#candidates-part")

    page = _open(browser, url, width=360, height=740, locale="es-ES")
    page.locator("#findings button").first.click()
    save_picture(page, "page-phone.png", height=1500, top="#findings-part")


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


def main() -> None:
    """Reads the command line and takes the pictures."""
    parser = argparse.ArgumentParser(description="Takes the pictures of the page in docs/images.")
    parser.add_argument("--url", default="http://127.0.0.1:8000/", help="a running PlainMed")
    arguments = parser.parse_args()
    with chromium() as browser:
        take(browser, arguments.url)


if __name__ == "__main__":
    main()
