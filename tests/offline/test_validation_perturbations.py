"""Edits of a summary: each changes what its name says and nothing else, alike for a seed."""

from __future__ import annotations

import re
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serve_app.evidence.claims import is_direction
from serve_app.offline.validation.perturbations import PERTURBATIONS, Material, names_in
from serve_app.text.edits.lexicon import OPPOSITES
from serve_app.text.glossary import Glossary
from tests.support.texts import GENERATED, ORIGINALS

BY_NAME = {kind.name: kind for kind in PERTURBATIONS}
SENTENCES = [
    "We found 15 trials with 3490 women.",
    "Fewer women had a preterm birth with cerclage than with bed rest.",
    "Pain was higher with metformin than with placebo.",
    "The tablets may help some people with high blood pressure.",
    "The treatment was not harmful.",
    "Of the children, 24 got better and 10 got worse.",
    "Participants with hypertension were given a diuretic.",
    "This suggests that arthritis improved.",
    "Babies were born later.",
    "Doctors used 2.5 mg a day, and 7.5 mg later.",
]
STRANGERS = ["Zinc lozenges taste bad.", "Most colds end by themselves."]
FOREIGN = names_in("Atorvastatin was given to men with dermatitis.")

summaries = st.lists(st.sampled_from(SENTENCES), min_size=2, max_size=8, unique=True)
gaps = st.sampled_from([" ", "\n", "\n\n", "  "])
kinds = pytest.mark.parametrize("kind", PERTURBATIONS, ids=lambda kind: kind.name)


def material(sentences: list[str], gap: str = " ", share: float = 0.5) -> Material:
    return Material(ORIGINALS[0], gap.join(sentences), STRANGERS, FOREIGN, share)


def words(text: str) -> list[str]:
    return re.findall(r"[\w.,%’'-]*\w", text)


def changed(before: str, after: str) -> list[tuple[str, str]]:
    """The words that differ, of two texts with as many words."""
    return [pair for pair in zip(words(before), words(after), strict=True) if pair[0] != pair[1]]


def test_eighteen_kinds_cover_the_four_aspects_of_appls() -> None:
    counts = Counter(kind.aspect for kind in PERTURBATIONS)
    assert {*counts} == {"informativeness", "simplification", "coherence", "faithfulness"}
    assert len(BY_NAME) == len(PERTURBATIONS) >= 11
    assert min(counts.values()) >= 3


@kinds
@settings(max_examples=20, deadline=None)
@given(sentences=summaries, gap=gaps, seed=st.integers(0, 99))
def test_an_edit_is_the_same_for_a_seed_and_never_no_edit(
    kind, sentences: list[str], gap: str, seed: int
) -> None:
    one = kind(material(sentences, gap), str(seed))
    assert one == kind(material(sentences, gap), str(seed))
    assert one != gap.join(sentences)


@pytest.mark.parametrize(
    "kind",
    [kind for kind in PERTURBATIONS if kind.aspect == "faithfulness"]
    + [BY_NAME[name] for name in ("technical words put in", "plain words put in")],
    ids=lambda kind: kind.name,
)
@settings(max_examples=20, deadline=None)
@given(sentences=summaries, gap=gaps, seed=st.integers(0, 99))
def test_edits_of_sentences_leave_the_others_and_the_space_between(
    kind, sentences: list[str], gap: str, seed: int
) -> None:
    edited = kind(material(sentences, gap), str(seed))
    whole = kind(material(sentences, gap, share=1.0), str(seed))
    assert (edited is None) == (whole is None)
    if edited is None or whole is None:
        return
    parts, every = (re.split(rf"(?<=[.!?]){gap}", text) for text in (edited, whole))
    assert len(parts) == len(every) == len(sentences)
    touched = sum(one != other for one, other in zip(parts, sentences, strict=True))
    applies = sum(one != other for one, other in zip(every, sentences, strict=True))
    assert touched == -(-applies // 2)


@kinds
def test_each_kind_applies_to_ordinary_texts(kind) -> None:
    assert kind(material(SENTENCES), "0") is not None


def test_deleted_sentences_leave_the_rest_in_order() -> None:
    kept = BY_NAME["sentences deleted"](material(SENTENCES), "1").split(". ")
    assert len(kept) == len(SENTENCES) // 2
    places = [SENTENCES.index(one.removesuffix(".") + ".") for one in kept]
    assert places == sorted(places)
    assert BY_NAME["sentences deleted"](material(SENTENCES[:1]), "1") is None


@pytest.mark.parametrize("name", ["foreign sentences added", "definitions added"])
def test_added_sentences_leave_the_summary_whole(name: str) -> None:
    edited = BY_NAME[name](material(SENTENCES), "2")
    rest = edited
    for sentence in SENTENCES:
        before, found, rest = rest.partition(sentence)
        assert found
        assert before.strip() == "" or before.strip() in " ".join(STRANGERS) or "means" in before
    assert len(edited) > len(" ".join(SENTENCES))


def test_a_definition_is_the_glossarys_of_a_term_in_the_source() -> None:
    edited = BY_NAME["definitions added"](material(SENTENCES), "2")
    found = re.findall(r"The term “(.+?)” means “(.+?)”\.", edited)
    assert found
    for term, plain in found:
        assert term in ORIGINALS[0]
        assert Glossary.load().lookup(term) == plain


def test_technical_words_are_those_that_the_glossary_makes_plain_again() -> None:
    edited = BY_NAME["technical words put in"](material(SENTENCES, share=1.0), "3")
    assert "hypertension" in edited
    simplify = Glossary.load().simplify
    assert simplify(edited)[0] == simplify(" ".join(SENTENCES))[0]


def test_plain_words_are_the_glossarys() -> None:
    edited = BY_NAME["plain words put in"](material(SENTENCES, share=1.0), "3")
    assert "Participants with hypertension" not in edited
    assert "People with high blood pressure" in edited


def test_copied_sentences_are_those_of_the_source_that_speak_of_the_same() -> None:
    said = "Cerclage reduced preterm birth (RR 0.8)."
    texts = Material(f"{said} Bed rest was not studied.", "Preterm birth was rarer with cerclage.")
    assert BY_NAME["copied from the source"](texts, "0") == said


@pytest.mark.parametrize("name", ["sentences joined", "sentences shuffled"])
def test_the_words_are_all_there_and_no_other(name: str) -> None:
    edited = BY_NAME[name](material(SENTENCES), "4")
    assert Counter(words(edited)) == Counter(words(" ".join(SENTENCES)))
    if name == "sentences joined":
        assert words(edited) == words(" ".join(SENTENCES))
        assert 0 < edited.count(";") == len(SENTENCES) - edited.count(". ") - 1


def test_repeated_sentences_stand_beside_themselves() -> None:
    edited = BY_NAME["sentences repeated"](material(SENTENCES), "5")
    twice = [one for one in SENTENCES if f"{one} {one}" in edited]
    assert len(twice) == len(SENTENCES) // 2
    for one in twice:
        edited = edited.replace(f"{one} {one}", one)
    assert edited == " ".join(SENTENCES)


def test_a_broken_end_is_the_beginning_of_the_summary() -> None:
    summary = " ".join(SENTENCES)
    edited = BY_NAME["end broken off"](material(SENTENCES), "6")
    assert summary.startswith(edited)
    assert edited.startswith(" ".join(SENTENCES[:-1]))


@settings(max_examples=30, deadline=None)
@given(sentences=summaries, seed=st.integers(0, 999))
def test_a_number_changes_into_another_number(sentences: list[str], seed: int) -> None:
    edited = BY_NAME["number changed"](material(sentences), str(seed))
    if edited is None:
        assert not re.search(r"\d", " ".join(sentences))
        return
    for old, new in changed(" ".join(sentences), edited):
        assert re.fullmatch(r"[\d.,]+", old)
        assert re.fullmatch(r"[\d.,]+", new)


def test_exchanged_numbers_are_the_same_numbers_elsewhere() -> None:
    edited = BY_NAME["numbers exchanged"](material(SENTENCES[:1]), "7")
    assert edited == "We found 3490 trials with 15 women."
    dated = ["We searched on 5 June in 14 databases.", "In 2016 there were 12 studies."]
    assert BY_NAME["numbers exchanged"](material(dated), "7") is None


@settings(max_examples=30, deadline=None)
@given(sentences=summaries, seed=st.integers(0, 999))
def test_a_turned_direction_is_an_opposite_of_a_direction(sentences: list[str], seed: int) -> None:
    edited = BY_NAME["direction turned"](material(sentences), str(seed))
    if edited is not None:
        for old, new in changed(" ".join(sentences), edited):
            assert is_direction(old)
            assert new.lower() in OPPOSITES[old.lower()]


def test_a_turned_negation_adds_or_takes_one_word() -> None:
    edited = BY_NAME["negation turned"](material(SENTENCES, share=1.0), "8")
    assert "The treatment was harmful." in edited
    assert "Pain was not higher" in edited or "Pain was never higher" in edited


def test_an_exchanged_name_is_one_of_the_same_kind_that_the_source_lacks() -> None:
    edited = BY_NAME["drug or group exchanged"](material(SENTENCES, share=1.0), "9")
    pairs = changed(" ".join(SENTENCES), edited)
    assert ("metformin", "atorvastatin") in pairs
    assert ("arthritis", "dermatitis") in pairs
    assert {new.lower() for _, new in pairs} <= {*FOREIGN}


def test_exchanged_sides_keep_the_words_and_turn_the_comparison() -> None:
    edited = BY_NAME["sides exchanged"](material(SENTENCES[2:3]), "10")
    assert edited == "Pain was higher with placebo than with metformin."


def test_a_hedge_becomes_certain() -> None:
    edited = BY_NAME["hedge made certain"](material(SENTENCES, share=1.0), "11")
    assert changed(" ".join(SENTENCES), edited) == [("may", "will"), ("suggests", "proves")]


def test_names_are_drugs_conditions_and_groups_and_no_other_words() -> None:
    found = names_in("Metformin and statins for arthritis in women, except where accepted.")
    assert found == {
        "metformin": "drug", "statins": "drug", "arthritis": "condition", "women": "group"
    }  # fmt: skip


def test_human_summaries_have_a_place_for_most_kinds() -> None:
    texts = [Material(*pair, STRANGERS, FOREIGN) for pair in zip(ORIGINALS, GENERATED, strict=True)]
    made = {kind.name: sum(kind(one, "0") is not None for one in texts) for kind in PERTURBATIONS}
    assert sum(count > 0 for count in made.values()) >= 14, made
