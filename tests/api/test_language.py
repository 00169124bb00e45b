"""Texts that are not English: named, warned of or refused, as LANGUAGE_CHECK says."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.backends import api_client

ENGLISH = "Aspirin makes a heart attack less likely, but it makes bleeding more likely."
SPANISH = "La aspirina redujo el riesgo de infarto, pero aumentó las hemorragias en los pacientes."
GERMAN = "Die Behandlung senkte das Risiko für Schlaganfälle, aber es kam öfter zu Blutungen."
LIST = "Aspirin, metformin, simvastatin, ramipril, bisoprolol, furosemide"


async def asked(path: str, body: dict[str, Any], **settings: Any) -> Any:
    async with api_client(**settings) as http:
        return await http.post(path, json=body)


def pair(original: str, generated: str) -> dict[str, Any]:
    return {"texts_original": [ENGLISH, original], "texts_generated": [ENGLISH, generated]}


async def test_results_name_the_language_of_their_texts() -> None:
    answer = await asked("/evaluate", pair(GERMAN, SPANISH))
    first, second = answer.json()["results"]
    assert (first["language"], first["original_language"]) == ("en", "en")
    assert (second["language"], second["original_language"]) == ("es", "de")
    answer = await asked("/metrics/readability", {"texts": [SPANISH, ENGLISH, LIST]})
    assert answer.json()["language"] == ["es", "en", None]


async def test_a_summary_that_the_generator_writes_has_a_language_too() -> None:
    answer = await asked("/evaluate", {"texts_original": [SPANISH]})
    [result] = answer.json()["results"]
    assert (result["language"], result["original_language"]) == ("es", "es")


@pytest.mark.parametrize(
    "path", ["/metrics/relevance", "/metrics/factuality", "/loss", "/evaluate"]
)
@pytest.mark.parametrize(
    ("original", "generated", "field"),
    [(ENGLISH, SPANISH, "texts_generated[1]"), (GERMAN, ENGLISH, "texts_original[1]")],
)
async def test_another_language_is_refused_where_the_operator_wants_it(
    path: str, original: str, generated: str, field: str
) -> None:
    answer = await asked(path, pair(original, generated), language_check="refuse")
    assert answer.status_code == 422
    error = answer.json()["error"]
    assert (error["code"], error["field"]) == ("not_english", field)
    assert "aspirina" not in error["message"]
    assert (await asked(path, pair(original, generated))).status_code == 200


async def test_readability_refuses_it_too_and_lists_of_names_are_no_other_language() -> None:
    answer = await asked("/metrics/readability", {"texts": [SPANISH]}, language_check="refuse")
    assert answer.json()["error"]["field"] == "texts[0]"
    body = {"texts": [LIST, ENGLISH]}
    answer = await asked("/metrics/readability", body, language_check="refuse")
    assert answer.status_code == 200


async def test_with_the_check_off_nothing_is_named_or_refused() -> None:
    answer = await asked("/evaluate", pair(GERMAN, SPANISH), language_check="off")
    assert [result["language"] for result in answer.json()["results"]] == [None, None]
