"""The page in a real browser over the real application: its numbers and texts are the API's."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from typing import Any

import httpx
import pytest

from serve_app.core.resources import sample_abstract
from serve_app.metrics.loss import METRICS
from serve_app.text.sentences import split_sentences
from tests.serving.live.conftest import WRITER, Server
from tests.support.texts import GENERATED, ORIGINALS

expect = pytest.importorskip("playwright.sync_api").expect

CLIPBOARD = {"permissions": ["clipboard-read", "clipboard-write"]}
DECIMALS = {"relevance": 3, "factuality": 3, "fkgl": 1, "smog": 1, "dale_chall": 2}
# More than one chunk of the factuality model, characters that take two units in a script, and
# everything a shell or a JSON reader could trip over.
ORIGINAL = "\n\n".join([*ORIGINALS, sample_abstract(), 'It\'s "50 %" of $HOME; `no` \\n 😀 ½.'])
SUMMARY = f'It\'s about 😀 "zinc". {GENERATED[3]} {GENERATED[0]}'


def written(metric: str, value: float) -> str:
    return f"{value:.{DECIMALS[metric]}f}"


def near(page: Any, selector: str, value: float) -> None:
    """The number on the page is the value as far as it is written out."""
    assert float(page.locator(selector).inner_text()) == pytest.approx(value, abs=5.1e-4)


@pytest.fixture
def page(pages: Any, server: Server) -> Any:
    return pages.open(server.url, **CLIPBOARD)


def score(page: Any, original: str = ORIGINAL, summary: str = SUMMARY) -> None:
    page.get_by_label("Medical text").fill(original)
    page.get_by_label("Plain-language summary").fill(summary)
    page.get_by_role("button", name="Score").click()
    expect(page.locator("#live")).to_contain_text("Scored")


def asked(http: httpx.Client, original: str = ORIGINAL, summary: str = SUMMARY) -> Any:
    body = {"texts_original": [original], "texts_generated": [summary], "explain": True}
    return http.post("/evaluate", json=body).json()["results"][0]


def test_explain_finds_each_sentence_and_its_chunk(http: httpx.Client) -> None:
    result = asked(http)
    chunks = set()
    for place, sentence in zip(
        result["explanation"]["sentences"], result["sentences"], strict=True
    ):
        own, passage = place["sentence"], place["passage"]
        assert SUMMARY[own["start"] : own["end"]] == sentence["text"]
        found = ORIGINAL[passage["start"] : passage["end"]]
        assert " ".join(split_sentences(found)) == sentence["support"]
        chunks.add(sentence["support"])
        if place["closest"] is not None:
            assert passage["start"] <= place["closest"]["start"] < passage["end"]
    assert len(chunks) > 1


def test_typed_texts_are_scored_and_shown_as_the_api_scores_them(
    page: Any, http: httpx.Client
) -> None:
    score(page)
    result = asked(http)
    for metric in METRICS:
        gauge = page.get_by_role("meter", name=re.compile(f"^{metric.replace('_', '-')}$", re.I))
        value = result["metrics"][metric]
        assert float(gauge.get_attribute("aria-valuenow")) == pytest.approx(value, abs=1e-5)
        low, high = (
            result["targets"][metric] + side * result["explanation"]["sigmas"][metric]
            for side in (-1, 1)
        )
        place = "below" if value < low else "above" if value > high else "inside"
        card = page.locator(".gauge", has=gauge)
        expect(card).to_contain_text(f"{written(metric, value)} {place} the band")
        expect(card).to_contain_text(f"band {written(metric, low)} to {written(metric, high)}")
        near(page, f"#part-{metric}", 0.2 * result["errors"][metric])
    near(page, "#loss", result["loss"])
    for row, sentence in zip(
        page.locator("#sentences button").all(), result["sentences"], strict=True
    ):
        expect(row).to_contain_text(f"{sentence['score']:.2f}")
        expect(row).to_contain_text(sentence["text"])
    assert page.locator("#marked-summary").inner_text() == SUMMARY
    expect(page.locator("#findings > li")).to_have_count(len(result["findings"]))
    expect(page.locator("#omissions > li")).to_have_count(len(result["omissions"]))
    expect(page.locator("#warnings")).to_contain_text("relevance covers only its beginning")
    expect(page.locator("#models")).to_contain_text("alignscore-mini")


def test_hover_and_focus_show_what_supports_a_sentence(page: Any, http: httpx.Client) -> None:
    score(page)
    result = asked(http)
    closest = [
        place["closest"] and ORIGINAL[place["closest"]["start"] : place["closest"]["end"]]
        for place in result["explanation"]["sentences"]
    ]
    rows = page.locator("#sentences button")
    first, other = _two(closest)
    rows.nth(other).focus()  # not the one that is shown at first
    expect(page.locator("#support-short")).to_contain_text(closest[other])
    expect(page.locator("#support-whole mark")).to_have_text(closest[other], use_inner_text=False)
    rows.nth(first).hover()
    expect(page.locator("#support-short")).to_contain_text(closest[first])
    page.locator("h1").hover()
    expect(page.locator("#support-short")).to_contain_text(closest[other])
    words = result["explanation"]["plain_words"]
    assert words
    known = page.locator("#sentences .word.known")
    assert known.all_inner_texts() == [word["term"] for word in words]
    assert words[0]["plain"] in known.first.get_attribute("title")


def _two(closest: list[str | None]) -> tuple[int, int]:
    """Two sentences with different support."""
    first = next(index for index, text in enumerate(closest) if text)
    return first, next(
        index for index, text in enumerate(closest) if text and text != closest[first]
    )


def test_sliders_weigh_the_parts_without_asking_again(
    pages: Any, page: Any, http: httpx.Client
) -> None:
    score(page)
    result = asked(http)
    sent = len(pages.requests)
    for metric in ("fkgl", "relevance"):
        page.get_by_label(re.compile(f"Weight of {metric}", re.I)).focus()
        page.keyboard.press("End")
        near(page, "#loss", result["errors"][metric])
    for presses in (1, 30):
        for _ in range(presses):
            page.keyboard.press("ArrowLeft")
        percents = [
            int(page.locator(f"#percent-{metric}").inner_text().rstrip("%")) for metric in METRICS
        ]
        assert sum(percents) == 100
    weights = [percent / 100 for percent in percents]
    near(page, "#loss", sum(w * result["errors"][m] for w, m in zip(weights, METRICS, strict=True)))
    page.keyboard.press("End")
    page.keyboard.press("Home")
    assert page.locator("#percent-relevance").inner_text() == "0%"
    page.get_by_role("button", name="Equal weights").click()
    near(page, "#loss", result["loss"])
    assert len(pages.requests) == sent


def test_a_summary_is_generated_and_scored(page: Any, http: httpx.Client) -> None:
    page.get_by_role("button", name="Use a sample text").click()
    expect(page.get_by_label("Medical text")).to_have_value(sample_abstract())
    page.get_by_role("button", name="Generate").click()
    expect(page.locator("#live")).to_contain_text("Scored")
    summary = http.post("/generate", json={"text": sample_abstract()}).json()["summary"]
    expect(page.get_by_label("Plain-language summary")).to_have_value(summary)
    near(page, "#loss", asked(http, sample_abstract(), summary)["loss"])
    expect(page.locator("#candidates-part")).to_be_hidden()
    page.get_by_label("Plain-language summary").press("a")
    expect(page.locator("#stale")).to_be_visible()


def test_of_several_candidates_one_is_chosen(page: Any, http: httpx.Client) -> None:
    page.get_by_label("Medical text").fill(ORIGINALS[0])
    page.get_by_label("Number of summaries to choose from", exact=True).select_option("4")
    page.get_by_role("button", name="Generate").click()
    cards = page.locator("#candidates > li")
    expect(cards).to_have_count(4)
    texts = [card.inner_text() for card in cards.all()]
    losses = [float(re.search(r"Loss (\S+)", text)[1]) for text in texts]  # type: ignore[index]
    assert losses == sorted(losses)
    near(page, "#loss", losses[0])
    expect(cards.first).to_contain_text("lowest")
    other = next(index for index, loss in enumerate(losses) if loss > losses[0])
    summary = cards.nth(other).locator(".summary").inner_text()
    cards.nth(other).get_by_role("button").click()
    expect(cards.nth(other).get_by_role("button")).to_have_text("Chosen")
    expect(cards.nth(other).get_by_role("button")).to_be_focused()
    expect(page.get_by_label("Plain-language summary")).to_have_value(summary)
    near(page, "#loss", losses[other])
    near(page, "#loss", asked(http, ORIGINALS[0], summary)["loss"])


@pytest.mark.skipif(shutil.which("curl") is None, reason="the page gives a curl command")
def test_the_copied_command_gives_the_copied_result(page: Any) -> None:
    score(page)
    page.get_by_label("Weight of Factuality").focus()
    page.keyboard.press("PageUp")
    copied = {}
    for kind, name in (("json", "the result as JSON"), ("curl", "the request as curl")):
        page.get_by_role("button", name=f"Copy {name}").click()
        expect(page.locator("#live")).to_have_text("Copied.")
        copied[kind] = page.evaluate("navigator.clipboard.readText()")
        page.evaluate("document.getElementById('live').textContent = ''")
    # A shell reads it as a user's would; the text holds quotes, $, backquotes and an emoji.
    done = subprocess.run(
        ["bash", "-c", copied["curl"]], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    answered, shown = json.loads(done.stdout), json.loads(copied["json"])
    assert answered["results"][0]["generated"] == SUMMARY
    assert sum(answered["weights"]) == pytest.approx(1)
    assert answered["weights"] != [0.2] * 5
    assert answered["weights"] == shown["weights"]
    theirs, ours = answered["results"][0], shown["results"][0]
    assert theirs["loss"] == pytest.approx(ours["loss"], abs=1e-5)
    assert set(theirs) == set(ours)
    assert theirs["explanation"] == ours["explanation"]


def test_under_a_prefix_a_generator_alone_can_be_stopped(pages: Any, server: Server) -> None:
    # The language model of this application writes for minutes unless it is stopped.
    page = pages.open(f"{server.url}/{WRITER}")
    assert page.url == f"{server.url}/{WRITER}/"
    expect(page.locator("#empty")).to_contain_text("does not score summaries")
    page.get_by_label("Medical text").fill(ORIGINALS[0])
    page.get_by_role("button", name="Generate").click()
    expect(page.get_by_label("Plain-language summary")).not_to_have_value("")
    expect(page.locator("#stage")).to_have_text("writing a summary")
    page.get_by_role("button", name="Cancel").click()
    expect(page.locator("#live")).to_have_text("Cancelled.")
    expect(page.locator("#progress")).to_be_hidden()


def test_the_page_and_its_head_over_the_real_proxy(http: httpx.Client) -> None:
    got, head = http.get("/"), http.head("/")
    assert got.status_code == head.status_code == 200
    assert head.content == b""
    assert head.headers["content-length"] == str(len(got.content))
    again = http.get("/", headers={"If-None-Match": got.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
