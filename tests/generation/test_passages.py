"""Cutting an original into sentences that can be copied."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serve_app.generation.extractive.passages import split_passages, stands_alone
from serve_app.text.validation import has_word

PIECES = [
    "Pain fell. ",
    "(i.e. ",
    "12 trials ",
    "95% CI 1 to 3).",
    "METHODS: ",
    "RESULTS\n",
    "\n\n",
]
PIECES += ["- ", "Was it? ", "a)", "1) ", "[", "]", "no ", "Études ", "\t", "...", "P < 0.05", "; "]
pieces = st.sampled_from(PIECES)


def texts(original: str) -> list[str]:
    return [passage.text for passage in split_passages(original)]


@settings(deadline=None, derandomize=True)
@given(st.one_of(st.lists(pieces, max_size=30).map("".join), st.text(max_size=60)))
def test_passages_are_slices_in_order_that_do_not_overlap(original: str) -> None:
    passages = split_passages(original)
    assert bool(passages) == has_word(original)
    assert [passage.index for passage in passages] == list(range(len(passages)))
    end = 0
    for passage in passages:
        assert end <= passage.start < passage.end <= len(original)
        assert passage.text == " ".join(original[passage.start : passage.end].split())
        assert has_word(passage.text)
        end = passage.end
    assert not passages or any(passage.usable for passage in passages)


@settings(deadline=None, derandomize=True)
@given(st.lists(st.sampled_from(["Pain fell.", "No one died.", "Was it safe?"]), min_size=1))
def test_plain_sentences_come_back_whole(sentences: list[str]) -> None:
    assert texts(" ".join(sentences)) == sentences


@pytest.mark.parametrize(
    "original",
    [
        "MAIN RESULTS: We found 4 trials. AUTHORS' CONCLUSIONS: Nothing is certain.",
        "Main results: We found 4 trials. Authors’ conclusions: Nothing is certain.",
        "MAIN RESULTS\nWe found 4 trials.\n\nAUTHORS' CONCLUSIONS\nNothing is certain.",
        "Main results\nWe found 4\ntrials.\nConclusion:\nNothing is certain.",
        "RESULTS - We found 4 trials. CONCLUSIONS - Nothing is certain.",
        "EFFECTS OF SURGERY: We found 4 trials. Interpretation: Nothing is certain.",
        "- We found 4 trials.\n- Nothing is certain.",
        "1. We found 4 trials.\n2. Nothing is certain.",
        "• We found 4 trials.\n• Nothing is certain.",
    ],
)
def test_headings_and_bullets_are_left_out(original: str) -> None:
    assert texts(original) == ["We found 4 trials.", "Nothing is certain."]


@pytest.mark.parametrize(
    "sentence",
    [
        "OCS: these were no better than placebo.",
        "Results were the same in both groups.",
        "Participants: seven in one group and six in the other were lost.",
        "Design and conduct of the trials were poor.",
    ],
)
def test_what_only_looks_like_a_heading_stays(sentence: str) -> None:
    assert sentence.endswith(texts(sentence)[0])
    assert len(texts(sentence)) == 1
    if not sentence.startswith("Participants:"):
        assert texts(sentence) == [sentence]


@pytest.mark.parametrize(
    "sentence",
    [
        "Bias was high in 48 studies (i.e. fewer than 50 people per arm).",
        "Large doses (e.g. naltrexone) could be harmful to some patients.",
        "Drugs (e.g. opioids) or heat (vs. cold or none) made no difference.",
        "There were 1) trials of drugs, 2) trials of diets and 3) others.",
    ],
)
def test_a_sentence_end_in_brackets_ends_no_sentence(sentence: str) -> None:
    before, after = "We searched well.", "Pain fell in both groups."
    assert texts(f"{before} {sentence} {after}") == [before, sentence, after]


@pytest.mark.parametrize(
    "sentence",
    [
        "Pain was less with the drug (2 trials; 95% CI 1 to 3).",
        "9 of the 12 trials showed an effect.",
        '"No effect" was the usual result.',
        "Risk of bias varied.",
        "Was the drug safe to take?",
    ],
)
def test_sentences_stand_alone(sentence: str) -> None:
    assert stands_alone(sentence)


@pytest.mark.parametrize(
    "fragment",
    [
        "95% CI 0.7 to 1.2).",
        "(95% CI 0.71 to 0.89, P = 0.04; I2 = 30%).",
        "One study compared it (2.5 mg with placebo in adults.",
        "Group 1.",
        "1.",
        "RESULTS OF THE TRIALS",
        "The trial is registered as NCT01234567 in the usual place.",
        "See https://example.org for all of the results.",
        "The trials compared the drug with",
        "RR 1.07, 95% CI 0.81 to 1.41; 12 RCTs, N = 3,402, I2 = 0%, P = 0.6 for all.",
    ],
)
def test_fragments_do_not(fragment: str) -> None:
    assert not stands_alone(fragment)


def test_where_nothing_looks_like_a_sentence_everything_is_usable() -> None:
    passages = split_passages("no full stop here")
    assert [(one.text, one.usable) for one in passages] == [("no full stop here", True)]
    assert all(one.usable for one in split_passages("Group 1. Group 2."))
    assert [one.usable for one in split_passages("Group 1. Pain fell in all groups.")] == [
        False,
        True,
    ]
