"""What differs and what is left out, as the page shows it in a real browser, over light metrics.

What the server finds is tested in test_findings and tests/evidence.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any, get_args

import httpx
import pytest

from serve_app.core.schemas import FindingKind, OmissionOut
from tests.support.servers import Answer, ScriptedProxy, api_server

expect = pytest.importorskip("playwright.sync_api").expect

PHONE = {"width": 360, "height": 740}
KINDS = get_args(FindingKind)
TOPICS = get_args(OmissionOut.model_fields["topic"].annotation)
# Characters that take two units in a script stand before, between and behind the words.
ORIGINAL = (
    "😀 We included 15 trials with 3490 women 😀. Pregnant women with cerclage were less likely to "
    "have a preterm birth (24%) than women without it (10%). 😀 Persistent pain was more likely. "
    "Serious adverse events were more frequent with cerclage.\n\n"
    "The trials were funded by the manufacturer."
)
SUMMARY = (
    "😀😀 There were 15 trials with 349 women. 😀 Pregnant women with cerclage were more likely to "
    "have a preterm birth. Zebras in zoos like purple hats."
)


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with api_server() as running:
        yield running


def asked(url: str, original: str = ORIGINAL, summary: str = SUMMARY) -> dict[str, Any]:
    """The server's answer for the pair."""
    body = {"texts_original": [original], "texts_generated": [summary], "explain": True}
    found: dict[str, Any] = httpx.post(f"{url}/evaluate", json=body).json()
    return found


def scored(
    pages: Any, url: str, original: str = ORIGINAL, summary: str = SUMMARY, **options: Any
) -> Any:
    """A page with a result on it."""
    page = pages.open(url, **options)
    page.locator("#original").fill(original)
    page.locator("#summary").fill(summary)
    page.locator("#score").click()
    expect(page.get_by_role("meter")).to_have_count(5)
    return page


def answering(url: str, pages: Any, change: Any, **options: Any) -> Any:
    """A page that shows the server's result as `change` leaves it."""
    answer = asked(url)
    change(answer["results"][0])
    scripted = Answer(200, json.dumps(answer).encode(), {"Content-Type": "application/json"})
    with ScriptedProxy(url, {"/evaluate": [scripted]}) as proxy:
        return scored(pages, proxy.url, **options)


def words(text: str, spans: list[dict[str, int]]) -> list[str]:
    return [text[one["start"] : one["end"]] for one in spans]


def test_each_finding_is_marked_at_its_words_in_both_texts(pages: Any, url: str) -> None:
    page = scored(pages, url)
    found = asked(url)["results"][0]["findings"]
    assert {"number", "direction", "unsupported"} <= {one["kind"] for one in found}
    marks = page.locator("#marked-summary .at")
    assert marks.all_inner_texts() == [
        text for one in found for text in words(SUMMARY, one["summary_spans"])
    ]
    assert page.locator("#marked-summary").inner_text() == SUMMARY
    rows = page.locator("#findings > li")
    expect(rows).to_have_count(len(found))
    for row, one in zip(rows.all(), found, strict=True):
        expect(row.locator("button")).to_contain_text(one["message"])
        expect(row.locator(".badge")).to_contain_text(one["severity"].capitalize())
        assert row.locator("mark").all_inner_texts() == words(ORIGINAL, one["source_spans"])
        row.locator("button").click()
        expect(row.locator("button")).to_have_attribute("aria-current", "true")
        expect(page.locator("#findings [aria-current]")).to_have_count(1)
        active = page.locator("#marked-summary .active").all_inner_texts()
        assert active == words(SUMMARY, one["summary_spans"])
        there = page.locator("#marked-original mark").all_inner_texts()
        assert there == words(ORIGINAL, one["source_spans"])
        assert page.locator("#marked-original").inner_text() == ORIGINAL


def test_the_whole_sentence_of_the_original_stands_beside_a_finding(pages: Any, url: str) -> None:
    page = scored(pages, url)
    quoted = page.locator("#findings > li", has_text="349").locator("q").all_inner_texts()
    assert quoted == ["😀 We included 15 trials with 3490 women 😀."]
    [direction] = page.locator("#findings > li", has_text="direction").locator("q").all()
    expect(direction).to_have_text(re.compile(r"^Pregnant women .* without it \(10%\)\.$"))


def test_what_is_left_out_is_listed_with_its_place_in_the_original(pages: Any, url: str) -> None:
    page = scored(pages, url)
    left_out = asked(url)["results"][0]["omissions"]
    assert {one["topic"] for one in left_out} == {"harms", "funding"}
    rows = page.locator("#omissions > li")
    expect(rows).to_have_count(2)
    for row, one in zip(rows.all(), left_out, strict=True):
        place = words(ORIGINAL, [one["source_span"]])
        assert row.locator("q").all_inner_texts() == place
        row.locator("button").click()
        assert page.locator("#marked-original mark").all_inner_texts() == place
        expect(page.locator("#marked-summary .active")).to_have_count(0)


def test_choosing_one_scrolls_both_texts_and_not_the_page(pages: Any, url: str) -> None:
    filler = "Cats are mammals that live with people in houses. " * 60
    page = scored(pages, url, filler + ORIGINAL + filler, filler + SUMMARY)
    button = page.locator("#findings button", has_text="direction")
    page.locator("#omissions button").last.click()
    button.scroll_into_view_if_needed()
    before = page.evaluate("scrollY")
    button.click()
    assert page.evaluate("scrollY") == before
    inside = """([box, place]) => {
        const [outer, inner] = [box, place].map((it) =>
            document.querySelector(it).getBoundingClientRect());
        return inner.top >= outer.top && inner.bottom <= outer.bottom; }"""
    assert page.evaluate(inside, ["#marked-summary", "#marked-summary .active"])
    assert page.evaluate(inside, ["#marked-original", "#marked-original mark"])
    assert page.evaluate("document.querySelector('#marked-original').scrollTop") > 0


def test_the_keyboard_leads_from_the_words_to_the_finding(pages: Any, url: str) -> None:
    page = scored(pages, url)
    for _ in range(60):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.matches('#marked-summary .at.severe')"):
            break
    word = page.locator("#marked-summary .at:focus")
    expect(word).to_have_text("349")
    expect(word).to_have_accessible_description("1. Severe: number")
    word.evaluate("it => it.nextElementSibling.focus()")
    page.keyboard.press("Enter")
    expect(page.locator("#findings button").nth(1)).to_be_focused()
    expect(page.locator("#findings button").nth(1)).to_have_attribute("aria-current", "true")
    assert page.evaluate("location.hash") == ""


def test_severity_is_told_in_words_and_by_lines_not_by_colour_alone(pages: Any, url: str) -> None:
    page = scored(pages, url)
    lines = page.locator("#findings-legend .at").evaluate_all(
        "all => all.map((it) => getComputedStyle(it).textDecorationStyle)"
    )
    assert len(set(lines)) == len(lines) == 3
    expect(page.locator("#findings-legend")).to_contain_text("Severe: it misleads a reader")
    for button in page.locator("#findings button").all():
        expect(button.locator(".badge")).to_have_text(re.compile(r"^\d+\. (Severe|Minor|Note): "))
    drawn = "it => getComputedStyle(it, '::after').content"
    assert '"1"' in page.locator("#marked-summary .at").first.evaluate(drawn)


def test_a_severe_finding_is_said_at_the_top_and_to_a_screen_reader(pages: Any, url: str) -> None:
    page = scored(pages, url)
    expect(page.locator("#live")).to_contain_text("Severe differences from the original: 2")
    link = page.locator("#warnings a", has_text="Severe differences from the original: 2")
    link.click()
    expect(page.locator("#findings-heading")).to_be_in_viewport()


def test_where_nothing_is_found_the_page_says_that_this_proves_nothing(
    pages: Any, url: str
) -> None:
    page = scored(pages, url, "Persistent pain was more likely.", "Lasting pain was more likely.")
    expect(page.locator("#findings-hint")).to_contain_text("does not prove")
    expect(page.locator("#findings-body")).to_be_hidden()
    expect(page.locator("#findings-legend")).to_be_hidden()
    expect(page.locator("#warnings")).to_be_hidden()


def test_the_list_follows_the_next_result(pages: Any, url: str) -> None:
    page = scored(pages, url)
    page.locator("#omissions button").last.click()
    page.locator("#summary").fill("We included 15 trials with 3490 women.")
    page.locator("#score").click()
    expect(page.locator("#findings > li")).to_have_count(0)
    expect(page.locator("#differences-part")).to_be_hidden()
    expect(page.locator("#omissions button").first).to_have_attribute("aria-current", "true")
    expect(page.locator("#marked-summary")).to_have_text("We included 15 trials with 3490 women.")


def every_kind(result: dict[str, Any]) -> None:
    """A finding of each kind and an omission of each topic, and more that are not listed."""
    first = result["findings"][0]
    result["findings"] = [
        {**first, "kind": kind, "severity": severity, "message": "English words."}
        for kind, severity in zip(KINDS, ["severe", "minor", "note"] * 3, strict=False)
    ]
    place = result["omissions"][0]
    result["omissions"] = [{**place, "topic": topic, "message": "English."} for topic in TOPICS]
    result["findings_left_out"] = 7


def test_spanish_says_every_kind_and_topic_in_spanish(pages: Any, url: str) -> None:
    page = answering(url, pages, every_kind, locale="es-ES")
    part = page.locator("#findings-part")
    rows = part.locator("#findings button").all_inner_texts()
    assert len({text.split(". ", 1)[1] for text in rows}) == len(KINDS)
    assert all(text.endswith(": 349.") for text in rows)  # the words themselves stay
    quotes = part.locator("button q").first.evaluate("it => getComputedStyle(it).quotes")
    assert quotes.startswith('"«" "»"')
    assert len(set(part.locator("#omissions button").all_inner_texts())) == len(TOPICS)
    shown = part.inner_text()
    assert not re.search(r"English|\b(kind|topic|severity|finding)s?_|[Ss]evere|[Mm]inor", shown)
    expect(page.locator("#findings-more")).to_have_text("Otras diferencias que no se muestran: 7")
    for quote in part.locator("button q").all():
        expect(quote).to_have_attribute("lang", "en")
    page.get_by_label("Idioma").select_option("en")
    expect(part.locator("#findings button").first).to_contain_text("English words.")


def test_findings_at_the_same_or_overlapping_words_are_all_reached(pages: Any, url: str) -> None:
    def change(result: dict[str, Any]) -> None:
        one = result["findings"][0]
        start = one["summary_spans"][0]["start"]
        spans = ((start - 7, start + 3), (start, start + 3), (start, start + 3), (start, start + 9))
        result["findings"] = [
            {**one, "severity": level, "summary_spans": [{"start": first, "end": last}]}
            for (first, last), level in zip(
                spans, ("minor", "severe", "severe", "note"), strict=True
            )
        ]

    page = answering(url, pages, change)
    assert page.locator("#marked-summary").inner_text() == SUMMARY
    marks = page.locator("#marked-summary .at")
    assert marks.all_inner_texts() == ["s with ", "349", " women"]
    expect(marks.nth(1)).to_have_class(re.compile("severe"))
    assert marks.nth(1).get_attribute("data-n") == "1, 2, 3"
    for index, active in enumerate((["s with ", "349"], ["349"], ["349"], ["349", " women"])):
        page.locator("#findings button").nth(index).click()
        assert page.locator("#marked-summary .active").all_inner_texts() == active


def test_words_that_the_summary_lacks_are_shown_at_their_sentence(pages: Any, url: str) -> None:
    def change(result: dict[str, Any]) -> None:
        result["findings"] = [{**result["findings"][0], "summary_spans": [{"start": 0, "end": 0}]}]

    page = answering(url, pages, change)
    marks = page.locator("#marked-summary .at").all_inner_texts()
    assert [text.strip() for text in marks] == ["😀😀 There were 15 trials with 349 women."]


def test_hostile_findings_stay_text_and_break_nothing(pages: Any, url: str) -> None:
    hostile = "<img src=x onerror=window.hacked=1>"

    def change(result: dict[str, Any]) -> None:
        result["generated"] = hostile + result["generated"]
        result["findings"][0].update(message=hostile, kind=hostile, severity=hostile)
        outside, backwards = {"start": 9, "end": 10**9}, {"start": 5, "end": 1}
        result["findings"][1]["summary_spans"] = [outside, backwards]
        result["findings"][1]["source_spans"] = [{"start": 10**9, "end": 10**9 + 5}]
        result["omissions"][0]["topic"] = hostile

    page = answering(url, pages, change)
    expect(page.locator("#findings")).to_contain_text(hostile)
    page.locator("#findings button").nth(1).click()
    assert page.locator("#marked-summary").inner_text() == hostile + SUMMARY
    assert page.evaluate("window.hacked") is None
    assert page.locator("#findings-part img").count() == 0


@pytest.mark.parametrize("language", ["en", "es"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_among_findings(pages: Any, url: str, language: str, scheme: str) -> None:
    from tests.support.browser import axe

    page = answering(url, pages, every_kind, locale=language, color_scheme=scheme)
    page.locator("#findings button").nth(1).click()
    assert axe(page) == []


@pytest.mark.parametrize("language", ["en", "es"])
def test_on_a_phone_the_texts_stand_in_the_list_below_what_was_chosen(
    pages: Any, url: str, language: str
) -> None:
    options = {"viewport": PHONE, "has_touch": True, "is_mobile": True, "locale": language}
    page = answering(url, pages, every_kind, **options)
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
    page.locator("#findings button").nth(2).tap()
    expect(page.locator("#findings > li").nth(2).locator("#marked")).to_be_visible()
    page.locator("#omissions button").first.tap()
    expect(page.locator("#omissions > li").first.locator("#marked-original mark")).to_be_visible()
    page.locator("#marked-summary .at").first.tap()
    expect(page.locator("#findings button").first).to_be_focused()
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
