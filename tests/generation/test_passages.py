"""Cutting an original into sentences that can be copied."""

from __future__ import annotations

import csv
import re
import textwrap
from pathlib import Path

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


# --- what Punkt splits, and a reader would not -------------------------------------------------

AFTER = "It was safe for most adults."


@pytest.mark.parametrize(
    "sentence",
    [
        "As shown in Fig. 2 attacks were less frequent with the drug.",
        "As shown in Figs. 2 and 3 attacks were less frequent.",
        "Smith et al. 2004 found less pain with the drug.",
        "Adults took max. 40 mg daily of the drug.",
        "Adults took at least min. 5 and approx. 30 tablets a day.",
        "The rate was vs. 12 per cent in all the controls.",
        "The details are in vol. 3 p. 12 and in No. 5 of the journal.",
        "The drug was given i.v. 5 times and p.o. 3 times a day.",
        "The dose was 0. 5 mg a day in both of the groups.",
        "They drank conc. 30 mmol per day of the liquid.",
        "The species was P. vivax in most of the children.",
        "Dr. Smith and Prof. Jones treated all of the patients.",
        "Symptoms (e.g. 3 headaches a week) were less common (i.e. 20% less).",
        "The trial of Tbc. 9 months long had too few patients.",
        "See Ref. Smith for how the trials were found.",
        "The N. Engl. J. Med. 2004 reported less pain with it.",
        "The dose was 2.5 mg/kg/d. 14 days long in both groups.",
        "In 1. January 2004 the trial began with the adults.",
    ],
)
def test_an_abbreviation_keeps_the_number_and_the_words_that_follow_it(sentence: str) -> None:
    for original in (f"{sentence} {AFTER}", f"{AFTER} {sentence} {AFTER}"):
        found = split_passages(original)
        assert sentence in [one.text for one in found]
        assert all(one.text in (sentence, AFTER) and one.usable for one in found)


@pytest.mark.parametrize(
    "original",
    [
        "The mean difference was\n- 5.2 points lower with the drug.",
        "The dose in the trials was 5\n- 10 mg of the drug.",
        "The score was lower by 3 points\n– 4 points in the adults.",
        "Pain was less frequent in 20\npatients\nwith severe disease.",
        "Pain was less common.\nPatients\nwith severe disease were few.",
        "There were fewer deaths in group\n2. Attacks were less common.",
        "Interventions - mostly exercise - improved pain in adults.",
        "Patients - Most of them women - had less pain than before.",
        "Outcomes - 5 of them in all - improved in both groups.",
        "Outcomes 1 and 2 were better with the drug.",
        "Patients Know Best is a record that patients keep.",
    ],
)
def test_no_line_break_or_dash_makes_a_list_or_heading_of_a_sentence(original: str) -> None:
    found = " ".join(texts(original))
    assert found == " ".join(original.split())


@pytest.mark.parametrize(
    "original",
    [
        "The mean difference was\n\n- 5.2 points lower with the drug.",
        "Pain was lower with at most\n\n40 mg of the drug a day.",
        "Pain was lower in the group that took the\n\nAspirin was given every day.",
        "which was far less than in the other group.",
        "Aspirin against placebo in adults with pain\nTwo studies of it were found in all, and both"
        " of them were\nsmall ones.",
        "We found:\n- less pain in many adults\n- fewer deaths\nThe drug is safe for adults.",
        "Pain was less. Then it\n\nrose in both groups of the trial.",
        "- 5.2 points was the mean difference in pain.",
        "Patients With pain had the drug for a week.",
        "It took place in five. Search methods We searched five databases.",
    ],
)
def test_a_piece_without_its_beginning_is_not_used(original: str) -> None:
    whole = "Most of the adults had less pain."
    used = [one.text for one in split_passages(f"{original}\n\n{whole}") if one.usable]
    assert used[-1] == whole
    assert all(
        text in ("Pain was less.", "It took place in five.", whole)
        or text == "We searched five databases."
        for text in used
    )


@pytest.mark.parametrize(
    "original",
    [
        "<p>We found 4 small trials.</p><p>Nobody died of it.</p>",
        "<ul>\n<li>We found <b>4</b> small trials.</li>\n<li>Nobody died of it.</li></ul>",
        '<h2 class="x">Main results</h2>We found 4 small trials.<br/>Nobody died of it.',
        "<AbstractText Label='RESULTS'>We found 4 small trials.</AbstractText> Nobody died of it.",
        "1) We found 4 small trials. 2) Nobody died of it.",
        "(1) We found 4 small trials. (2) Nobody died of it.",
        "1. We found 4 small trials. 2. Nobody died of it.",
        "a) We found 4 small trials. b) Nobody died of it.",
        "# Results\nWe found 4 small trials.\n## Conclusion\nNobody died of it.",
        "**Results** We found 4 small trials. **Conclusion** Nobody died of it.",
        "We found 4 small trials.[1] Nobody died of it.[2,3]",
        "We found 4 small trials. &nbsp; Nobody died of it.",
        "We found 4 small trials. 🎉🎉 Nobody died of it. 😀",
        "✅ We found 4 small trials.\n✅ Nobody died of it.",
        "RESULTS We found 4 small trials. CONCLUSION Nobody died of it.",
        "Main results We found 4 small trials. Authors' conclusions Nobody died of it.",
        "Key messages\n\nWe found 4 small trials.\n\nWhat it means\n\nNobody died of it.",
        "What the trials found in all\nWe found 4 small trials. Nobody died of it."
        "\nWhat comes next\n" + "Nobody died of it. " * 4,
    ],
)
def test_tags_list_numbers_emoji_and_headings_are_no_part_of_a_sentence(original: str) -> None:
    used = [one for one in split_passages(original) if one.usable]
    assert [one.text for one in used][:2] == ["We found 4 small trials.", "Nobody died of it."]
    assert {one.text for one in used} == {"We found 4 small trials.", "Nobody died of it."}
    for one in used:
        bare = re.sub("<[^<>]*>", "", original[one.start : one.end])
        assert bare == one.text


def test_a_sentence_whose_tag_carries_meaning_is_not_used() -> None:
    """Without the tag 10<sup>3</sup> would read 103."""
    found = split_passages(f"The dose was 10<sup>3</sup> units of the drug. {AFTER}")
    assert [one.usable for one in found] == [False, True]


def test_a_sign_of_less_or_more_is_no_tag() -> None:
    sentence = "Pain was less (p<0.05 and n>30) in the group with a<b or b>c."
    assert texts(sentence) == [sentence]


# --- all abstracts at hand ---------------------------------------------------------------------


def abstracts(shared_data: Path) -> list[str]:
    with (shared_data / "cochrane_pls.csv").open(encoding="utf-8", newline="") as file:
        return [row["source_text"] for row in csv.DictReader(file)]


def wrapped(text: str, width: int) -> str:
    """Each paragraph hard-wrapped, between words only."""
    return "\n".join(
        textwrap.fill(line, width, break_long_words=False, break_on_hyphens=False)
        for line in text.splitlines()
    )


@pytest.mark.parametrize("width", [30, 44, 60, 72, 79, 100])
def test_a_hard_wrapped_abstract_has_the_same_sentences_at_any_width(
    shared_data: Path, width: int
) -> None:
    for text in abstracts(shared_data)[width % 7 :: 7]:
        flat = " ".join(text.split())
        expected = [(one.text, one.usable) for one in split_passages(flat)]
        found = split_passages(wrapped(flat, width))
        assert [(one.text, one.usable) for one in found] == expected


@pytest.mark.parametrize("width", [60, 79])
def test_wrapping_at_hyphens_changes_no_sentence(shared_data: Path, width: int) -> None:
    for text in abstracts(shared_data)[::9]:
        flat = re.sub(r"(\w-) (?=\w)", r"\1", " ".join(text.split()))
        found = split_passages(textwrap.fill(flat, width))
        assert [one.text for one in found] == texts(flat)


def test_every_usable_passage_of_the_abstracts_is_a_whole_sentence(shared_data: Path) -> None:
    """It follows a sentence end, a heading or a list marker, and ends at a sentence end."""
    heading = re.compile(r"(?:^|\n|[.!?]\s)[^.!?\n]{0,80}(?::|\s[–—-]|\n)?$")
    number = re.compile(r"\S*\d\S*(?:\s+\S+)?")
    for text in abstracts(shared_data):
        flat = " ".join(text.split())
        for one in split_passages(text):
            if one.usable:
                before = text[: one.start].rstrip()
                assert (
                    not before or re.search(r"[.!?]['\")\]’”]*$", before) or heading.search(before)
                ), one.text
                assert re.search(r"[.!?]['\")\]’”]*$", one.text)
                assert all(pair in flat for pair in number.findall(one.text)), one.text


def test_where_nothing_looks_like_a_sentence_everything_is_usable() -> None:
    passages = split_passages("no full stop here")
    assert [(one.text, one.usable) for one in passages] == [("no full stop here", True)]
    assert all(one.usable for one in split_passages("Group 1. Group 2."))
    assert [one.usable for one in split_passages("Group 1. Pain fell in all groups.")] == [
        False,
        True,
    ]


@pytest.mark.parametrize("number", ["0.84", "(RR 0.68, 95% CI 0.55 to 0.84)", "P = 0.05", "12.5%"])
def test_a_sentence_may_end_in_a_decimal(number: str) -> None:
    text = f"Aspirin reduced stroke, {number}. Major bleeding was more frequent with aspirin."
    assert [one.text for one in split_passages(text)] == [
        f"Aspirin reduced stroke, {number}.",
        "Major bleeding was more frequent with aspirin.",
    ]
