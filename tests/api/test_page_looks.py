"""How the page looks and reads: languages, colours, a phone, the keyboard, and what axe says."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.servers import api_server
from tests.support.texts import GENERATED, ORIGINALS

expect = pytest.importorskip("playwright.sync_api").expect

PHONE = {"width": 360, "height": 740}
# Long words, and a text that could push a page wider than a phone.
WIDE = f"{'Immunoelectrophoresis' * 12} {'https://example.org/' + 'x' * 200} {ORIGINALS[0]}"


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with api_server() as running:
        yield running


def scored(pages: Any, url: str, original: str = ORIGINALS[0], **options: Any) -> Any:
    """A page with a result on it."""
    page = pages.open(url, **options)
    page.locator("#original").fill(original)
    page.locator("#summary").fill(GENERATED[0])
    page.locator("#score").click()
    expect(page.get_by_role("meter")).to_have_count(5)
    return page


def test_the_language_is_the_browsers_until_another_is_chosen(pages: Any, url: str) -> None:
    page = scored(pages, url, locale="es-ES")
    expect(page.locator("html")).to_have_attribute("lang", "es")
    expect(page.get_by_role("heading", name="Cinco métricas")).to_be_visible()
    assert re.fullmatch(r"0,\d{3}", page.locator("#loss").inner_text())
    page.get_by_label("Idioma").select_option("en")
    expect(page.locator("html")).to_have_attribute("lang", "en")
    expect(page.get_by_role("heading", name="Five metrics")).to_be_visible()
    assert re.fullmatch(r"0\.\d{3}", page.locator("#loss").inner_text())
    expect(page.locator("#original")).to_have_value(ORIGINALS[0])
    page.reload()
    expect(page.get_by_role("heading", name="Original", exact=True)).to_be_visible()
    expect(page.get_by_label("Language", exact=True)).to_have_value("en")


def test_another_language_of_the_browser_is_english(pages: Any, url: str) -> None:
    page = pages.open(url, locale="fi-FI")
    expect(page.locator("html")).to_have_attribute("lang", "en")


def test_what_is_under_way_and_what_failed_follow_the_language(pages: Any, url: str) -> None:
    page = pages.open(url)
    page.locator("#score").click()
    expect(page.get_by_role("alert")).to_contain_text("The server refused the request")
    page.get_by_label("Language", exact=True).select_option("es")
    expect(page.get_by_role("alert")).to_contain_text("El servidor ha rechazado la petición")
    # The server's own words are English, and a screen reader must be told.
    expect(page.get_by_role("alert").locator("[lang=en]")).to_be_visible()


GROUND = "getComputedStyle(document.body).backgroundColor"
# Notes the ground of every frame from the first one that has a body.
FRAMES = """
  window.grounds = [];
  const note = () => {
    if (document.body && document.styleSheets.length) {
      const ground = getComputedStyle(document.body).backgroundColor;
      if (!window.grounds.includes(ground)) window.grounds.push(ground);
    }
    requestAnimationFrame(note);
  };
  note();
"""


def test_colours_are_the_devices_until_others_are_chosen_and_never_flash(
    pages: Any, url: str
) -> None:
    page = pages.open(url, color_scheme="light", before=FRAMES)
    light = page.evaluate(GROUND)
    page.emulate_media(color_scheme="dark")
    dark = page.evaluate(GROUND)
    assert dark != light
    page.get_by_label("Colours").select_option("light")
    assert page.evaluate(GROUND) == light
    page.reload()
    expect(page.get_by_label("Colours")).to_have_value("light")
    expect(page.locator("#original-count")).not_to_be_empty()
    assert page.evaluate("window.grounds") == [light]
    page.get_by_label("Colours").select_option("system")
    assert page.evaluate(GROUND) == dark


def test_a_browser_without_storage_still_has_the_page(pages: Any, url: str) -> None:
    refuse = "Object.defineProperty(window, 'localStorage', {get() { throw new Error('no'); }})"
    page = pages.open(url, before=refuse)
    page.get_by_label("Language", exact=True).select_option("es")
    expect(page.get_by_role("button", name="Evaluar")).to_be_visible()


@pytest.mark.parametrize("language", ["en", "es"])
def test_a_phone_shows_everything_without_scrolling_sideways(
    pages: Any, url: str, language: str
) -> None:
    page = scored(pages, url, WIDE, viewport=PHONE, has_touch=True, is_mobile=True, locale=language)
    page.locator("#n").select_option("2")
    page.locator("#generate").tap()
    expect(page.locator("#candidates > li")).to_have_count(2)
    page.locator("#words-summary").tap()
    too_wide = page.evaluate(
        """() => [...document.querySelectorAll("body *")].filter((node) =>
             node.getBoundingClientRect().right > innerWidth + 1 &&
             !node.closest(".scroll, .visually-hidden, .skip, svg")).map((it) => it.outerHTML)"""
    )
    assert not too_wide
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
    table = page.locator("#loss-part .scroll")
    assert table.evaluate("it => it.scrollWidth <= it.clientWidth")
    for head in page.locator("#parts th").all():
        assert (head.bounding_box() or {})["height"] < 50  # its word in one line
    # What supports a sentence stands below it, where a finger can reach it.
    page.locator("#sentences button").first.tap()
    expect(page.locator("#sentences li #support")).to_be_visible()


@pytest.mark.parametrize("language", ["en", "es"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing(pages: Any, url: str, language: str, scheme: str) -> None:
    from tests.support.browser import axe

    page = pages.open(url, locale=language, color_scheme=scheme)
    assert axe(page) == []
    page.locator("#summary").fill("...")
    page.locator("#score").click()
    expect(page.locator("#failure")).to_be_visible()
    assert axe(page) == []
    page.locator("#original").fill(ORIGINALS[0])
    page.locator("#n").select_option("2")
    page.locator("#generate").click()
    expect(page.locator("#candidates > li")).to_have_count(2)
    page.locator("#words-summary").click()
    page.locator("#sentences button").first.hover()
    assert axe(page) == []


def test_the_keyboard_alone_is_enough(pages: Any, url: str) -> None:
    page = pages.open(url)

    def tab_to(selector: str) -> None:
        for _ in range(40):
            page.keyboard.press("Tab")
            if page.evaluate("sought => document.activeElement.matches(sought)", selector):
                return
        raise AssertionError(f"the Tab key never reaches {selector}")

    page.keyboard.press("Tab")
    expect(page.locator(".skip")).to_be_focused()
    expect(page.locator(".skip")).to_be_in_viewport()
    page.keyboard.press("Enter")
    tab_to("#original")
    page.keyboard.type("Aspirin reduced hypertension in 14 trials.")
    tab_to("#summary")
    page.keyboard.type("Aspirin lowered hypertension. It was safe.")
    page.keyboard.press("Control+Enter")
    expect(page.get_by_role("meter")).to_have_count(5)
    expect(page.locator("#results-heading")).to_be_focused()
    tab_to("#weight-fkgl")
    page.keyboard.press("End")
    expect(page.locator("#percent-fkgl")).to_have_text("100%")
    tab_to(".sentence")
    expect(page.locator("#support")).to_contain_text("high blood pressure")
    tab_to("#copy-json")


def test_state_is_never_told_by_colour_alone(pages: Any, url: str) -> None:
    page = scored(pages, url)
    for gauge in page.locator(".gauge").all():
        expect(gauge).to_contain_text(re.compile("(inside|below|above) the band"))
        said = gauge.get_by_role("meter").get_attribute("aria-valuetext")
        assert re.search(r"\d, (inside|below|above) the band", said or "")
    for sentence in page.locator(".sentence").all():
        expect(sentence).to_contain_text(re.compile(r"[01]\.\d\d (partly |hardly )?supported"))
    patterns = page.evaluate(
        """() => ["high", "middle", "low"].map((level) => {
             const sample = document.querySelector(`.legend .${level}`);
             return getComputedStyle(sample).borderLeftStyle;
           })"""
    )
    assert len(set(patterns)) == 3
