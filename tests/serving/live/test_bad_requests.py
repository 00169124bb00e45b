"""Every bad request is a 4xx in the one error shape, naming the field; none gets a score."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest

ORIGINAL = "Aspirin lowered the risk of stroke."
GENERATED = "Aspirin makes a stroke less likely."
PAIR = {"texts_original": [ORIGINAL], "texts_generated": [GENERATED]}


def body(**changes: Any) -> bytes:
    return json.dumps({**PAIR, **changes}).encode()


REL, FACT, READ, LOSS = "/metrics/relevance", "/metrics/factuality", "/metrics/readability", "/loss"

# (name, method, path, body, status, code, field)
TABLE: list[tuple[str, str, str, bytes, int, str, str | None]] = [
    ("no body", "POST", REL, b"", 422, "missing_body", None),
    ("not JSON", "POST", REL, b"{", 400, "invalid_json", None),
    ("invalid UTF-8", "POST", REL, b'{"texts_original": ["\xff"]}', 400, "invalid_utf8", None),
    ("a JSON list", "POST", REL, b"[]", 422, "invalid_input", None),
    ("a JSON string", "POST", REL, b'"x"', 422, "invalid_input", None),
    ("null", "POST", LOSS, b"null", 422, "invalid_input", None),
    ("deep nesting", "POST", REL, b"[" * 100_000, 400, "invalid_json", None),
    (
        "missing generated",
        "POST",
        REL,
        b'{"texts_original": ["a"]}',
        422,
        "missing_field",
        "texts_generated",
    ),
    (
        "missing original",
        "POST",
        FACT,
        b'{"texts_generated": ["a"]}',
        422,
        "missing_field",
        "texts_original",
    ),
    ("unknown field", "POST", REL, body(extra=1), 422, "unknown_field", "extra"),
    (
        "weights where there are none",
        "POST",
        REL,
        body(weights=[0.2] * 5),
        422,
        "unknown_field",
        "weights",
    ),
    (
        "a string for a list",
        "POST",
        REL,
        body(texts_original=ORIGINAL),
        422,
        "invalid_input",
        "texts_original",
    ),
    (
        "a number for a text",
        "POST",
        REL,
        body(texts_original=[1]),
        422,
        "invalid_input",
        "texts_original[0]",
    ),
    (
        "null for a text",
        "POST",
        FACT,
        body(texts_generated=[None]),
        422,
        "invalid_input",
        "texts_generated[0]",
    ),
    (
        "null for a list",
        "POST",
        FACT,
        body(texts_generated=None),
        422,
        "invalid_input",
        "texts_generated",
    ),
    (
        "lists of different lengths",
        "POST",
        REL,
        body(texts_generated=[GENERATED, GENERATED]),
        422,
        "length_mismatch",
        "texts_generated",
    ),
    (
        "different lengths, loss",
        "POST",
        LOSS,
        body(texts_original=[ORIGINAL, ORIGINAL]),
        422,
        "length_mismatch",
        "texts_generated",
    ),
    (
        "empty lists",
        "POST",
        REL,
        body(texts_original=[], texts_generated=[]),
        422,
        "empty_list",
        "texts_original",
    ),
    (
        "empty text",
        "POST",
        REL,
        body(texts_generated=[""]),
        422,
        "empty_text",
        "texts_generated[0]",
    ),
    (
        "blank text",
        "POST",
        FACT,
        body(texts_original=[" \n\t"]),
        422,
        "empty_text",
        "texts_original[0]",
    ),
    (
        "only punctuation",
        "POST",
        FACT,
        body(texts_generated=["... !? --"]),
        422,
        "no_words",
        "texts_generated[0]",
    ),
    (
        "only an emoji",
        "POST",
        LOSS,
        body(texts_generated=["\U0001f600"]),
        422,
        "no_words",
        "texts_generated[0]",
    ),
    (
        "second text empty",
        "POST",
        LOSS,
        body(texts_original=[ORIGINAL, ORIGINAL], texts_generated=[GENERATED, ""]),
        422,
        "empty_text",
        "texts_generated[1]",
    ),
    (
        "a lone surrogate",
        "POST",
        REL,
        b'{"texts_original": ["a \\ud800 b"], "texts_generated": ["x"]}',
        422,
        "invalid_unicode",
        "texts_original[0]",
    ),
    ("four weights", "POST", LOSS, body(weights=[0.25] * 4), 422, "invalid_input", "weights"),
    ("six weights", "POST", LOSS, body(weights=[0.2] * 5 + [0.0]), 422, "invalid_input", "weights"),
    ("weights over one", "POST", LOSS, body(weights=[0.3] * 5), 422, "invalid_input", "weights"),
    (
        "a negative weight",
        "POST",
        LOSS,
        body(weights=[-0.2, 0.4, 0.4, 0.2, 0.2]),
        422,
        "invalid_input",
        "weights",
    ),
    (
        "a NaN weight",
        "POST",
        LOSS,
        body(weights=[float("nan"), 0.25, 0.25, 0.25, 0.25]),
        422,
        "invalid_input",
        "weights[0]",
    ),
    (
        "an infinite weight",
        "POST",
        LOSS,
        body(weights=[float("inf"), 0.2, 0.2, 0.2, 0.2]),
        422,
        "invalid_input",
        "weights[0]",
    ),
    (
        "a text for a weight",
        "POST",
        LOSS,
        body(weights=["0.2"] * 5),
        422,
        "invalid_input",
        "weights[0]",
    ),
    (
        "humans of another length",
        "POST",
        LOSS,
        body(texts_human=[ORIGINAL, ORIGINAL]),
        422,
        "length_mismatch",
        "texts_human",
    ),
    (
        "an empty human text",
        "POST",
        LOSS,
        body(texts_human=[""]),
        422,
        "empty_text",
        "texts_human[0]",
    ),
    (
        "too many texts",
        "POST",
        READ,
        json.dumps({"texts": [GENERATED] * 41}).encode(),
        413,
        "too_many_texts",
        "texts",
    ),
    (
        "a text too long",
        "POST",
        READ,
        json.dumps({"texts": ["a " * 30_001]}).encode(),
        413,
        "text_too_long",
        "texts[0]",
    ),
    (
        "a body too large",
        "POST",
        READ,
        b'{"texts": ["' + b"a " * 200_001 + b'"]}',
        413,
        "body_too_large",
        None,
    ),
    ("readability of nothing", "POST", READ, b'{"texts": []}', 422, "empty_list", "texts"),
    (
        "readability of an empty text",
        "POST",
        READ,
        b'{"texts": [""]}',
        422,
        "empty_text",
        "texts[0]",
    ),
    ("readability without texts", "POST", READ, b"{}", 422, "missing_field", "texts"),
    ("nothing to generate from", "POST", "/generate", b'{"text": ""}', 422, "empty_text", "text"),
    (
        "a list to generate from",
        "POST",
        "/generate",
        b'{"text": ["a"]}',
        422,
        "invalid_input",
        "text",
    ),
    (
        "temperature over 2",
        "POST",
        "/generate",
        b'{"text": "a", "temperature": 3}',
        422,
        "invalid_input",
        "temperature",
    ),
    (
        "top_p of 0",
        "POST",
        "/generate",
        b'{"text": "a", "top_p": 0}',
        422,
        "invalid_input",
        "top_p",
    ),
    (
        "a fractional seed",
        "POST",
        "/generate",
        b'{"text": "a", "seed": 1.5}',
        422,
        "invalid_input",
        "seed",
    ),
    (
        "too many new tokens",
        "POST",
        "/generate",
        b'{"text": "a", "max_new_tokens": 9999}',
        422,
        "invalid_input",
        "max_new_tokens",
    ),
    (
        "stream as text",
        "POST",
        "/generate",
        b'{"text": "a", "stream": "yes"}',
        422,
        "invalid_input",
        "stream",
    ),
    (
        "evaluate an empty text",
        "POST",
        "/evaluate",
        b'{"texts_original": [""]}',
        422,
        "empty_text",
        "texts_original[0]",
    ),
    (
        "evaluate nothing",
        "POST",
        "/evaluate",
        b'{"texts_original": []}',
        422,
        "empty_list",
        "texts_original",
    ),
    ("unknown route", "GET", "/nowhere", b"", 404, "not_found", None),
    ("unknown POST route", "POST", "/metrics/bleu", b"{}", 404, "not_found", None),
    ("wrong method", "GET", LOSS, b"", 405, "method_not_allowed", None),
    ("wrong method on health", "POST", "/healthz", b"{}", 405, "method_not_allowed", None),
    ("DELETE", "DELETE", "/generate", b"", 405, "method_not_allowed", None),
]


@pytest.mark.parametrize("case", TABLE, ids=[case[0] for case in TABLE])
def test_bad_request_is_refused_in_the_one_shape(
    http: httpx.Client, case: tuple[str, str, str, bytes, int, str, str | None]
) -> None:
    _, method, path, content, status, code, field = case
    response = http.request(
        method, path, content=content, headers={"content-type": "application/json"}
    )
    assert response.status_code == status, response.text
    answer = response.json()
    assert set(answer) == {"error"}
    assert set(answer["error"]) == {"code", "message", "field"}
    assert answer["error"]["code"] == code
    assert answer["error"]["field"] == field
    assert answer["error"]["message"]
    assert len(response.headers.get_list("x-request-id")) == 1


def test_bad_content_type_is_refused(http: httpx.Client) -> None:
    response = http.post(LOSS, content=body(), headers={"content-type": "text/plain"})
    assert response.status_code == 422
    assert set(response.json()["error"]) == {"code", "message", "field"}


def test_a_chunked_body_over_the_limit_is_refused(http: httpx.Client) -> None:
    chunks = (b"x" * 10_000 for _ in range(60))
    response = http.post(READ, content=chunks)
    assert response.status_code == 413
    assert response.json()["error"]["code"] == "body_too_large"


def test_an_error_never_repeats_the_text(http: httpx.Client) -> None:
    secret = "Patient Jane Roe has lupus"
    response = http.post(REL, json={"texts_original": [secret], "texts_generated": [{"a": secret}]})
    assert response.status_code == 422
    assert "Jane Roe" not in response.text
