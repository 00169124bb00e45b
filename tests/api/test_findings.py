"""Findings and omissions in the answers of `/evaluate`."""

from __future__ import annotations

from typing import Any

import pytest

from serve_app import evidence
from serve_app.api import serializers
from serve_app.core.errors import Unavailable
from tests.support.backends import api_client
from tests.support.servers import LightBackend

SOURCE = (
    "We included 15 trials with 3490 women. Pregnant women with cerclage were less likely to have "
    "a preterm birth (24%) than women without it (10%). Persistent pain was more likely. "
    "Serious adverse events were more frequent with cerclage."
)


async def evaluated(summary: str, source: str = SOURCE, **more: Any) -> dict[str, Any]:
    """The result for one pair."""
    body = {"texts_original": [source], "texts_generated": [summary], **more}
    async with api_client(LightBackend()) as http:
        answer = await http.post("/evaluate", json=body)
    assert answer.status_code == 200, answer.text
    [result] = answer.json()["results"]
    return dict(result)


@pytest.mark.parametrize(
    ("summary", "kind", "here", "there"),
    [
        ("There were 15 trials with 349 women.", "number", "349", "3490"),
        (
            "Pregnant women with cerclage were more likely to have a preterm birth.",
            "direction",
            "more",
            "less",
        ),
        (
            "Women with cerclage had a preterm birth in 10%, women without it in 24%.",
            "number",
            "10%",
            "24%",
        ),
    ],
)
async def test_a_result_shows_what_differs_at_its_words_in_both_texts(
    summary: str, kind: str, here: str, there: str
) -> None:
    result = await evaluated(summary)
    severe = [one for one in result["findings"] if one["severity"] == "severe"]
    assert [one["kind"] for one in severe] == [kind]
    [finding] = severe

    def words(text: str, spans: list[dict[str, int]]) -> str:
        return " ".join(text[one["start"] : one["end"]] for one in spans)

    assert here in words(summary, finding["summary_spans"])
    assert there in words(SOURCE, finding["source_spans"])
    assert words(summary, [finding["sentence"]]) == summary
    assert finding["message"]


async def test_the_harms_that_are_left_out_are_named_with_their_place() -> None:
    result = await evaluated("There were 15 trials with 3490 women.")
    harms = [one for one in result["omissions"] if one["topic"] == "harms"]
    [omission] = harms
    span = omission["source_span"]
    assert SOURCE[span["start"] : span["end"]].startswith("Serious adverse events")
    mentioned = await evaluated("Serious side effects were more frequent with the stitch.")
    assert not [one for one in mentioned["omissions"] if one["topic"] == "harms"]


async def test_a_plain_word_for_a_term_is_no_finding() -> None:
    assert (await evaluated("Lasting pain was more likely."))["findings"] == []


async def test_findings_can_be_left_out() -> None:
    result = await evaluated("There were 349 women.", findings=False)
    assert result["findings"] == result["omissions"] == []


async def test_of_very_many_findings_the_severe_ones_are_shown_in_their_order() -> None:
    strange = " ".join(f"Zebras in zoo {name} like purple hats." for name in "ABCDEFGHIJKLM" * 10)
    result = await evaluated(strange + " There were 349 women in the trials.")
    assert len(result["findings"]) == serializers.MAX_FINDINGS
    assert result["findings_left_out"] > 0
    starts = [one["sentence"]["start"] for one in result["findings"]]
    assert starts == sorted(starts)
    assert result["findings"][-1]["severity"] == "severe"


def test_findings_nobody_waits_for_any_more_are_given_up() -> None:
    asked = 0

    def gone() -> bool:
        nonlocal asked
        asked += 1
        return asked > 3

    with pytest.raises(Unavailable):
        evidence.check("A cat sat. " * 500, "A cat sat. " * 500, gone)
    assert asked == 4


async def test_the_size_of_findings_counts_towards_that_of_the_answer() -> None:
    summary = " ".join(f"There were {number} women in the trials." for number in range(400, 600))
    found = evidence.check(SOURCE, summary)
    result = await evaluated(summary)
    shown = len(str(result["findings"])) + len(str(result["omissions"]))
    assert 0.5 < serializers.check_chars(found) / shown < 2.5


async def test_each_sentence_has_a_verdict_of_findings_and_score_together() -> None:
    [wrong] = (await evaluated("There were 349 women."))["sentences"]
    assert wrong["verdict"] == "contradicted"
    [true] = (await evaluated("Serious adverse events were more frequent."))["sentences"]
    assert true["verdict"] in ("supported", "check")
    without = await evaluated("There were 349 women.", findings=False)
    assert [one["verdict"] for one in without["sentences"]] == [None]


@pytest.mark.parametrize(
    ("severities", "score", "expected"),
    [
        ([], 0.9, "supported"),
        ([], 0.01, "check"),
        (["note"], 0.01, "supported"),
        (["minor"], 0.9, "check"),
        (["note", "minor"], 0.9, "check"),
        (["minor", "severe"], 0.99, "contradicted"),
    ],
)
def test_the_verdict_takes_the_worst_that_is_known(
    severities: list[Any], score: float, expected: str
) -> None:
    findings = [evidence.Finding("number", one, "m", (), ()) for one in severities]
    assert evidence.verdict(findings, score) == expected
