"""What `explain` adds to /evaluate: spans that lead back into both texts, and plain words."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.api.app import create_app
from serve_app.api.middleware.request_guard import Traffic
from serve_app.client.clients import PlainMedClient
from serve_app.core.settings import load_settings
from serve_app.metrics.alignscore import context_chunks
from serve_app.metrics.explanation import Evidence, explain
from serve_app.metrics.readability import readability
from serve_app.metrics.results import AlignScoreResult, BertScoreResult, ClaimSentence, Measured
from serve_app.text.sentences import split_sentences
from tests.support.servers import TARGETS, LightBackend, api_server
from tests.support.texts import GENERATED, ORIGINALS

ORIGINAL = (
    "Aspirin was compared with placebo.\n\nStroke fell by 20% in 14 trials.  "
    "Bleeding 😀 was more common. Nobody measured sleep."
)


def measured(generated: str, chunks: list[str]) -> Measured:
    """A measurement whose sentences are supported by the chunks, one after the other."""
    sentences = tuple(
        ClaimSentence(text, 0.5, 0, chunks[at % len(chunks)])
        for at, text in enumerate(split_sentences(generated))
    )
    return Measured(
        BertScoreResult(0.5, 0.5, 0.5, False, False),
        AlignScoreResult(0.5, sentences, False),
        readability(generated),
    )


def evidence(generated: str, chunk: str, original: str = ORIGINAL) -> Evidence:
    return explain(original, generated, measured(generated, [chunk])).sentences[0]


def cut(text: str, span: tuple[int, int] | None) -> str | None:
    return None if span is None else text[span[0] : span[1]]


@given(
    st.lists(st.sampled_from(split_sentences(ORIGINAL)), min_size=1, max_size=12),
    st.sampled_from([" ", "\n", "\n\n", " \t "]),
    st.integers(1, 30),
)
def test_every_chunk_is_found_again_whatever_stands_between_its_sentences(
    sentences: list[str], gap: str, chunk_words: int
) -> None:
    original = gap.join(sentences)
    for chunk in context_chunks(original, chunk_words):
        found = cut(original, evidence("It helped.", chunk, original).passage)
        assert found is not None
        assert " ".join(split_sentences(found)) == chunk


def test_a_chunk_that_is_the_whole_original_is_found() -> None:
    found = evidence("Strokes fell by 20%.", ORIGINAL)
    assert cut(ORIGINAL, found.passage) == ORIGINAL
    assert cut(ORIGINAL, found.closest) == "Stroke fell by 20% in 14 trials."


def test_a_chunk_of_another_text_has_no_place() -> None:
    found = evidence("Strokes fell.", "Stroke fell by 20% in 14 trials, we think.")
    assert (found.passage, found.closest) == (None, None)


def test_the_closest_sentence_is_of_the_passage_and_shares_the_rarest_words() -> None:
    chunk = "Bleeding 😀 was more common. Nobody measured sleep."
    assert cut(ORIGINAL, evidence("Sleep was not measured.", chunk).closest) == (
        "Nobody measured sleep."
    )
    assert evidence("Strokes fell by 20%.", chunk).closest is None


def test_a_long_sentence_is_not_closest_for_its_length_alone() -> None:
    long = "Aspirin lowered fever, stroke, death and pain in men, women and children."
    original = f"{long} Aspirin lowered pain."
    found = evidence("Aspirin lowered pain.", original, original)
    assert cut(original, found.closest) == "Aspirin lowered pain."


def test_equal_sentences_of_a_summary_have_places_of_their_own() -> None:
    text = "😀 It helped. It helped. It helped."
    found = explain(ORIGINAL, text, measured(text, [ORIGINAL])).sentences
    spans = [one.sentence for one in found]
    assert len({span for span in spans if span is not None}) == len(spans) == 3
    assert [cut(text, span) for span in spans] == split_sentences(text)


@pytest.mark.parametrize("text", GENERATED)
def test_plain_words_are_the_glossarys_and_do_not_overlap(text: str) -> None:
    words = explain(ORIGINAL, text, measured(text, [ORIGINAL])).plain_words
    at = 0
    for word in words:
        assert text[word.start : word.end] == word.term
        assert word.start >= at
        at = word.end


def test_a_difficult_word_in_a_name_is_explained_though_never_replaced() -> None:
    text = "The Cochrane Hypertension Group counted RCTs and myocardial infarctions."
    words = explain(ORIGINAL, text, measured(text, [ORIGINAL])).plain_words
    plain = {word.term: word.plain for word in words}
    assert plain["Hypertension"] == "high blood pressure"
    assert plain["myocardial infarctions"] == "heart attacks"
    assert "Cochrane" not in plain


def client(backend: LightBackend) -> Any:
    app = create_app(backend, load_settings(), Traffic())
    transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
    return httpx.AsyncClient(transport=transport, base_url="http://test")


@pytest.mark.parametrize(
    "body",
    [
        {"texts_original": ORIGINALS[:2], "texts_generated": GENERATED[:2]},
        {"texts_original": ORIGINALS[:2], "n": 3, "seed": 1},
    ],
)
async def test_explain_adds_to_an_answer_and_changes_nothing(body: dict[str, Any]) -> None:
    async with client(LightBackend()) as http:
        plain = (await http.post("/evaluate", json=body)).json()
        off = (await http.post("/evaluate", json={**body, "explain": False})).json()
        told = (await http.post("/evaluate", json={**body, "explain": True})).json()
    assert plain == off
    for original, result in zip(body["texts_original"], told["results"], strict=True):
        explanation = result.pop("explanation")
        assert list(explanation["sigmas"].values()) == list(TARGETS.sigma)
        assert len(explanation["sentences"]) == len(result["sentences"])
        for place, sentence in zip(explanation["sentences"], result["sentences"], strict=True):
            found = place["sentence"]
            assert result["generated"][found["start"] : found["end"]] == sentence["text"]
            assert original[place["passage"]["start"] : place["passage"]["end"]]
    assert told == plain


async def test_explain_must_be_true_or_false() -> None:
    body = {"texts_original": ORIGINALS[:1], "texts_generated": GENERATED[:1], "explain": "yes"}
    async with client(LightBackend()) as http:
        answer = await http.post("/evaluate", json=body)
    assert answer.status_code == 422
    assert answer.json()["error"]["field"] == "explain"


async def test_the_api_document_describes_the_explanation() -> None:
    async with client(LightBackend()) as http:
        schemas = (await http.get("/openapi.json")).json()["components"]["schemas"]
    assert "explain" in schemas["EvaluateRequest"]["properties"]
    assert set(schemas["ExplanationOut"]["properties"]) == {"sigmas", "sentences", "plain_words"}


def test_the_python_client_asks_for_it() -> None:
    with api_server() as url, PlainMedClient(url) as plainmed:
        [told] = plainmed.evaluate(ORIGINALS[0], GENERATED[0], explain=True).results
        [plain] = plainmed.evaluate(ORIGINALS[0], GENERATED[0]).results
    assert plain.explanation is None
    assert told.explanation is not None
    assert told.explanation.sentences[0].passage is not None
