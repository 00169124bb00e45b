"""What a writer must be told is found, at its words; what is true is left alone."""

from __future__ import annotations

import csv
from pathlib import Path
from random import Random

import pytest

from serve_app.core.errors import InvalidInput
from serve_app.evidence import Finding, check

SOURCE = (
    "This review includes 15 studies involving 3490 women. Women with cerclage were less likely to "
    "have a preterm birth than women without cerclage (24% with cerclage, 30% without cerclage). "
    "There was no clear difference in perinatal mortality between groups. Persistent pain may be "
    "reduced by ibuprofen compared with paracetamol (low-certainty evidence). High salt intake was "
    "associated with hypertension. Adverse events were more frequent with cerclage."
)


def severe(summary: str, source: str = SOURCE) -> list[Finding]:
    return [one for one in check(source, summary).findings if one.severity == "severe"]


def words(text: str, finding: Finding) -> list[str]:
    return [text[start:end] for start, end in finding.summary_spans]


@pytest.mark.parametrize(
    ("summary", "kind", "word"),
    [
        ("This review includes 15 studies involving 349 women.", "number", "349"),
        ("The 3490 studies were of good quality in this review of women.", "number", "3490"),
        (
            "Women with cerclage were more likely to have a preterm birth than women without.",
            "direction",
            "more",
        ),
        (
            "Preterm birth was more common in women with cerclage: more likely to happen.",
            "direction",
            "more",
        ),
        ("There was a clear difference in perinatal mortality between groups.", "negation", None),
        ("Fewer babies died: perinatal mortality was reduced.", "negation", None),
        (
            "Persistent pain will be reduced by ibuprofen compared with paracetamol.",
            "certainty",
            "will",
        ),
        ("High salt intake causes hypertension.", "certainty", "causes"),
        (
            "Persistent pain may be reduced by paracetamol compared with ibuprofen.",
            "roles",
            None,
        ),
        ("Adverse events were not more frequent with cerclage.", "negation", "not"),
    ],
)  # fmt: skip
def test_what_misleads_is_found_at_its_words(summary: str, kind: str, word: str | None) -> None:
    found = severe(summary)
    assert kind in {one.kind for one in found}
    if word is not None:
        assert any(word in words(summary, one) for one in found)


ALIKE = (
    "Preterm birth was rarer (RR 0.92, 95% CI 0.61 to 1.46; 3 studies, 100 women; I2 = 0%). "
    "Physical function was better (MD 13.12, 95% CI 1 to 25.5; 1 study, 42 women; 95% follow-up). "
    "Pain at 6 months was lower in exercisers (MD 0.19, 95% CI 0.1 to 2.0; 52 people, 40 other). "
    "Pain at 12 months was lower in exercisers (MD 0.81, 95% CI 0.6 to 1.0; 81 people, 60 other)."
)


@pytest.mark.parametrize("source", [SOURCE, ALIKE])
def test_a_copy_says_nothing_otherwise(source: str) -> None:
    assert severe(source, source) == []


def test_no_sentence_of_an_abstract_contradicts_its_abstract(shared_data: Path) -> None:
    with (shared_data / "cochrane_pls.csv").open(encoding="utf-8", newline="") as file:
        texts = [row["source_text"] for row in csv.DictReader(file)]
    for text in Random(3).sample(texts, 60):
        assert severe(text, text) == []


def test_exchanged_numbers_are_found() -> None:
    summary = (
        "Women with cerclage were less likely to have a preterm birth than women without cerclage "
        "(30% with cerclage, 24% without cerclage)."
    )
    [found] = severe(summary)
    assert set(words(summary, found)) & {"30", "24", "30%", "24%"}


@pytest.mark.parametrize(
    "summary",
    [
        SOURCE,
        "We found 15 studies with 3490 women.",
        "Lasting pain may be reduced by ibuprofen compared with paracetamol.",
        "Fewer women with cerclage had their baby too early.",
        "Cerclage made little or no difference to how many babies died around birth.",
        "About a quarter of the women with cerclage (24 in 100) had a preterm birth.",
        "Side effects were more common with cerclage.",
        "A cerclage is a stitch that keeps the neck of the womb closed.",
    ],
)
def test_what_is_true_or_explained_is_left_alone(summary: str) -> None:
    assert not severe(summary)


def test_nothing_in_the_source_speaks_of_it_and_an_explanation_is_told_apart() -> None:
    kinds = [
        check(SOURCE, text).findings[0].kind
        for text in (
            "Robots repaired bridges across northern Norway quickly.",
            "Asthma is a disease of the airways, which often starts early.",
        )
    ]
    assert kinds == ["unsupported", "explanation"]


def test_places_lie_in_their_texts_and_in_their_sentence() -> None:
    summary = "We studied women.  This review includes 15 studies involving 349 women."
    [found] = severe(summary)
    start, end = found.sentence_span
    assert summary[start:end].startswith("This review")
    assert found.sentence == 1
    assert all(start <= first < last <= end for first, last in found.summary_spans)
    assert all(0 <= first < last <= len(SOURCE) for first, last in found.source_spans)


def test_the_same_texts_give_the_same_findings() -> None:
    summary = "Women with cerclage were more likely to have a preterm birth. 349 women took part."
    assert check(SOURCE, summary) == check(SOURCE, summary)


@pytest.mark.parametrize(("source", "summary"), [("", "a word"), ("a word", " ... ")])
def test_a_text_without_words_is_refused(source: str, summary: str) -> None:
    with pytest.raises(InvalidInput):
        check(source, summary)


def test_omissions_name_what_is_missing() -> None:
    def topics(summary: str) -> set[str]:
        return {one.topic for one in check(SOURCE, summary).omissions}

    whole = "We are not sure. Side effects were more common. 3490 women took part."
    assert topics(whole) == set()
    assert topics("We are not sure. 3490 women took part.") == {"harms"}
    assert topics("Side effects were more common. 3490 women took part.") == {"certainty"}
    assert topics("We are not sure. Side effects were more common.") == {"population"}


def test_a_result_with_statistics_that_nobody_mentions_is_left_out() -> None:
    source = (
        "Exercise reduced fatigue (MD -0.5, 95% CI -0.9 to -0.1). Yoga improved sleep (RR 1.4, "
        "95% CI 1.1 to 1.8)."
    )
    [found] = check(source, "People who exercised had less fatigue.").omissions
    start, end = found.source_span
    assert found.topic == "result"
    assert source[start:end].startswith("Yoga")


FRONTED = "Compared with usual care, home rehabilitation probably increases walking distance a lot."
BEHIND = "Home rehabilitation probably increases walking distance a lot compared with usual care."


@pytest.mark.parametrize(("source", "summary"), [(FRONTED, BEHIND), (BEHIND, FRONTED)])
def test_a_comparison_may_stand_before_or_behind(source: str, summary: str) -> None:
    assert severe(summary, source) == []


@pytest.mark.parametrize(
    "summary",
    [
        "Usual care probably increases walking distance a lot compared with home rehabilitation.",
        "Compared with home rehabilitation, usual care probably increases walking distance a lot.",
    ],
)
def test_sides_that_changed_places_are_found_wherever_the_comparison_stands(summary: str) -> None:
    assert {one.kind for one in severe(summary, BEHIND)} == {"roles"}


def test_without_a_treatment_is_no_negation() -> None:
    source = "Women with a stitch had fewer early births (24%) than women without it (30%)."
    assert severe("Women with a stitch had fewer early births.", source) == []
