"""What the page shows when things go wrong or are not there, in a real browser.

The server is the application's own gateway over light metrics; what goes wrong, a proxy in
front of it does, over HTTP. How the page works when all is well is tested in serve/test_page.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest

from serve_app.api.auth.api_keys import dump_keys, new_key
from tests.support.servers import Answer, ScriptedProxy, api_server
from tests.support.texts import GENERATED, ORIGINALS

expect = pytest.importorskip("playwright.sync_api").expect

JSON = {"Content-Type": "application/json"}


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with api_server() as running:
        yield running


def failing(status: int, code: str, message: str, field: str | None = None, **headers: str) -> Any:
    body = {"error": {"code": code, "message": message, "field": field}}
    return Answer(status, json.dumps(body).encode(), {**JSON, **headers})


def fill(page: Any, original: str = ORIGINALS[0], summary: str = GENERATED[0]) -> None:
    page.get_by_label("Medical text").fill(original)
    page.get_by_label("Plain-language summary").fill(summary)


def score(page: Any) -> None:
    page.get_by_role("button", name="Score").click()


def test_before_anything_is_scored_it_says_what_to_do(pages: Any, url: str) -> None:
    page = pages.open(url)
    expect(page.locator("#empty")).to_contain_text("Paste an original")
    for part in ("gauges", "loss", "findings", "sentences", "candidates", "copy"):
        expect(page.locator(f"#{part}-part")).to_be_hidden()


def test_a_refused_text_is_told_in_the_servers_words_and_marked(pages: Any, url: str) -> None:
    page = pages.open(url)
    fill(page, summary="...")
    score(page)
    summary = page.get_by_label("Plain-language summary")
    expect(page.get_by_role("alert")).to_contain_text("HTTP 422, no_words, texts_generated[0]")
    expect(summary).to_have_attribute("aria-invalid", "true")
    expect(summary).to_be_focused()
    expect(page.locator("#summary-problem")).to_be_visible()
    assert page.locator("#summary-problem").inner_text() in page.get_by_role("alert").inner_text()
    expect(page.get_by_label("Medical text")).not_to_have_attribute("aria-invalid", "true")
    summary.fill("It lowers the risk.")
    expect(summary).not_to_have_attribute("aria-invalid", "true")
    score(page)
    expect(page.locator("#failure")).to_be_hidden()
    expect(page.get_by_role("meter")).to_have_count(5)


def test_a_busy_server_is_asked_again_after_the_time_it_names(pages: Any, url: str) -> None:
    busy = failing(503, "overloaded", "the queue is full", **{"Retry-After": "2"})
    with ScriptedProxy(url, {"/evaluate": [busy]}) as proxy:
        page = pages.open(proxy.url)
        fill(page)
        score(page)
        expect(page.get_by_role("alert")).to_contain_text("the queue is full")
        expect(page.locator("#countdown")).to_have_text("Retrying in 2 s.")
        expect(page.locator("#countdown")).to_have_text("Retrying in 1 s.")
        expect(page.get_by_role("meter")).to_have_count(5)
        expect(page.locator("#failure")).to_be_hidden()
        first, second = (one.at for one in proxy.received if one.path == "/evaluate")
    assert second - first >= 1.9


def test_a_server_that_stays_busy_is_left_alone_in_the_end(pages: Any, url: str) -> None:
    busy = failing(503, "overloaded", "the queue is full", **{"Retry-After": "60"})
    with ScriptedProxy(url, {"/evaluate": [busy] * 4}) as proxy:
        page = pages.open(proxy.url)
        fill(page)
        score(page)
        for left in range(3):
            expect(page.locator("#countdown")).to_contain_text("60 s")
            page.get_by_role("button", name="Retry now").click()
            page.wait_for_timeout(50 + left)
        # Asked four times; from now on only when the user says so.
        expect(page.get_by_role("alert")).to_contain_text("the queue is full")
        expect(page.locator("#countdown")).to_be_hidden()
        page.get_by_role("button", name="Dismiss").click()
        expect(page.locator("#failure")).to_be_hidden()
        asked = [one for one in proxy.received if one.path == "/evaluate"]
    assert len(asked) == 4


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (Answer(hang_up=True), "cannot be reached"),
        (Answer(502, b"<h1>Bad gateway</h1>", {"Content-Type": "text/html"}), "HTTP 502"),
        (
            Answer(200, b"<h1>Sign in</h1>", {"Content-Type": "text/html"}),
            "does not understand",
        ),
        (Answer(200, b'{"results": []}', JSON), "does not understand"),
        (failing(500, "metric_failed", "no finite number"), "no finite number"),
    ],
    ids=["no answer", "a proxy's page", "a sign-in page", "another shape", "a failed metric"],
)
def test_what_is_no_answer_is_an_error_and_keeps_the_last_result(
    pages: Any, url: str, answer: Answer, said: str
) -> None:
    with ScriptedProxy(url, {}) as proxy:
        page = pages.open(proxy.url)
        fill(page)
        score(page)
        expect(page.get_by_role("meter")).to_have_count(5)
        before = page.locator("#loss").inner_text()
        # A browser may send a request again whose connection was closed without an answer.
        proxy.scripted["/evaluate"] = [answer] * (20 if answer.hang_up else 1)
        score(page)
        expect(page.get_by_role("alert")).to_contain_text(said)
        expect(page.locator("#loss")).to_have_text(before)
        proxy.scripted.clear()
        page.get_by_role("button", name="Retry now").click()
        expect(page.locator("#failure")).to_be_hidden()


def test_a_long_wait_shows_its_stage_and_can_be_cancelled(pages: Any, url: str) -> None:
    with ScriptedProxy(url, {"/evaluate": [Answer(delay=30.0)]}) as proxy:
        page = pages.open(proxy.url)
        fill(page)
        score(page)
        expect(page.locator("#stage")).to_have_text("scoring the summary")
        expect(page.get_by_role("progressbar")).to_be_visible()
        expect(page.locator("#elapsed")).to_have_text(re.compile(r"[1-9]\d* s"))
        page.get_by_role("button", name="Cancel").click()
        expect(page.locator("#progress")).to_be_hidden()
        expect(page.locator("#live")).to_have_text("Cancelled.")
        expect(page.locator("#failure")).to_be_hidden()
        score(page)
        expect(page.get_by_role("meter")).to_have_count(5)


def test_a_server_that_starts_is_waited_for(pages: Any, url: str) -> None:
    state = {
        "status": "unavailable", "version": "0", "services": ["metrics"], "targets": None,
        "components": {"Relevance": {"ready": False, "model": None}}, "warnings": [],
    }  # fmt: skip
    starting = Answer(503, json.dumps(state).encode(), {**JSON, "Retry-After": "1"})
    away = Answer(502, b"nobody here", {"Content-Type": "text/plain", "Retry-After": "1"})
    with ScriptedProxy(url, {"/healthz": [away, starting]}) as proxy:
        page = pages.open(proxy.url)
        expect(page.locator("#server")).to_contain_text("does not answer")
        expect(page.locator("#server")).to_contain_text("Not ready yet: Relevance")
        expect(page.locator("#server")).to_be_hidden()
        expect(page.get_by_role("button", name="Generate")).to_be_visible()


def test_metrics_alone_hide_the_generator(pages: Any) -> None:
    with api_server(services=["metrics"]) as running:
        page = pages.open(running)
        expect(page.get_by_role("button", name="Score")).to_be_visible()
        expect(page.get_by_role("button", name="Generate")).to_be_hidden()
        expect(page.locator("#empty")).to_contain_text("does not write summaries")
        fill(page)
        score(page)
        expect(page.get_by_role("meter")).to_have_count(5)


def test_a_generator_alone_shows_sources_and_no_scores(pages: Any) -> None:
    with api_server(services=["generator"]) as running:
        page = pages.open(running)
        expect(page.get_by_role("button", name="Score")).to_be_hidden()
        page.get_by_label("Medical text").fill(ORIGINALS[0])
        page.get_by_label("Number of summaries to choose from", exact=True).select_option("2")
        page.get_by_role("button", name="Generate").click()
        expect(page.locator("#candidates > li")).to_have_count(2)
        expect(page.locator("#candidates-hint")).to_contain_text("choose by reading")
        expect(page.locator("#support")).to_contain_text(ORIGINALS[0][:40])
        expect(page.get_by_role("meter")).to_have_count(0)
        for part in ("loss", "findings"):
            expect(page.locator(f"#{part}-part")).to_be_hidden()
        shorter = page.locator("#candidates > li").nth(1)
        shorter.get_by_role("button").click()
        expect(shorter.get_by_role("button")).to_be_focused()
        expect(page.get_by_label("Plain-language summary")).to_have_value(
            shorter.locator(".summary").inner_text()
        )
    assert not [asked for asked in pages.requests if "evaluate" in asked]


def test_a_server_with_keys_is_given_one(pages: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    made = new_key("somebody")
    monkeypatch.setenv("API_KEYS", dump_keys([made.entry]))
    with api_server() as running:
        page = pages.open(running, permissions=["clipboard-read", "clipboard-write"])
        expect(page.get_by_label("API key")).to_be_hidden()
        fill(page)
        score(page)
        expect(page.get_by_role("alert")).to_contain_text("HTTP 401, missing_api_key")
        expect(page.get_by_label("API key")).to_be_focused()
        page.get_by_label("API key").fill(made.key)
        page.get_by_role("button", name="Retry now").click()
        expect(page.get_by_role("meter")).to_have_count(5)
        page.get_by_role("button", name="Copy the request as curl").click()
        expect(page.locator("#live")).to_have_text("Copied.")
        copied = page.evaluate("navigator.clipboard.readText()")
    assert made.key not in copied
    assert '"authorization: Bearer $PLAINMED_API_KEY"' in copied


def test_where_a_page_may_not_copy_the_text_is_there_to_be_copied(pages: Any, url: str) -> None:
    # What a browser gives a page that came over plain HTTP from another machine.
    without = "Object.defineProperty(navigator, 'clipboard', {value: undefined})"
    page = pages.open(url, before=without)
    fill(page)
    score(page)
    page.get_by_role("button", name="Copy the request as curl").click()
    box = page.get_by_label("does not let the page copy")
    expect(box).to_be_focused()
    selected = box.evaluate("it => it.value.slice(it.selectionStart, it.selectionEnd)")
    assert selected.startswith(f"curl -sS '{url}/evaluate'")
    assert selected == box.input_value()


HOSTILE = "<img src=x onerror=window.hacked=1>\"'><script>window.hacked=1</script>&lt;b&gt;"


def test_hostile_texts_stay_texts(pages: Any, url: str) -> None:
    page = pages.open(url)
    fill(page, f"{HOSTILE} Hypertension fell. {ORIGINALS[0]}", f"{HOSTILE} Hypertension fell.")
    score(page)
    expect(page.locator("#sentences")).to_contain_text(HOSTILE)
    page.get_by_role("button", name="Generate").click()
    expect(page.locator("#live")).to_contain_text("Scored")
    assert page.evaluate("window.hacked") is None
    assert page.locator("main img, main script, main b").count() == 0


def test_a_hostile_answer_stays_text(pages: Any, url: str) -> None:
    texts = {"texts_original": [ORIGINALS[0]], "texts_generated": [GENERATED[0]], "explain": True}
    with ScriptedProxy(url, {}) as proxy:
        page = pages.open(proxy.url)
        answer = page.evaluate(
            "body => fetch('evaluate', {method: 'POST', body: JSON.stringify(body),"
            " headers: {'content-type': 'application/json'}}).then(answer => answer.json())",
            texts,
        )
        result = answer["results"][0]
        result["generated"] = HOSTILE
        result["sentences"][0].update(text=HOSTILE, support=HOSTILE)
        explanation = result["explanation"]
        explanation["sentences"][0] = {"sentence": None, "passage": None, "closest": None}
        explanation["plain_words"] = [{"term": HOSTILE, "plain": HOSTILE, "start": 0, "end": 9}]
        scores = {key: result[key] for key in ("loss", "metrics", "errors")}
        candidate = {"summary": HOSTILE, "variant": HOSTILE, "scores": scores}
        result["candidates"] = [candidate, {**candidate, "variant": 1}]
        answer["models"] = {"relevance": HOSTILE}
        proxy.scripted["/evaluate"] = [Answer(200, json.dumps(answer).encode(), JSON)]
        page.get_by_label("Medical text").fill(ORIGINALS[0])
        page.get_by_label("Number of summaries to choose from", exact=True).select_option("2")
        page.get_by_role("button", name="Generate").click()
        expect(page.locator("#candidates")).to_contain_text(HOSTILE)
        expect(page.locator("#sentences")).to_contain_text(HOSTILE)
        proxy.scripted["/evaluate"] = [failing(422, HOSTILE, HOSTILE, "texts_original[0]")]
        score(page)
        expect(page.get_by_role("alert")).to_contain_text(HOSTILE)
        assert page.evaluate("window.hacked") is None
        assert page.locator("main img, main script, main b").count() == 0


def test_texts_that_are_not_english_are_warned_of_in_the_language_of_the_page(
    pages: Any, url: str
) -> None:
    spanish = "La aspirina redujo el riesgo de infarto, pero aumentó las hemorragias."
    page = pages.open(url)
    fill(page, summary=spanish)
    score(page)
    expect(page.locator("#warnings")).to_contain_text("another language (Spanish)")
    expect(page.locator("#warnings li")).to_have_count(1)
    page.locator("#language").select_option("es")
    expect(page.locator("#warnings")).to_contain_text("otro idioma (español)")
