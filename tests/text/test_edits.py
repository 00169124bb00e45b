"""The edits that make false claims of true ones: each changes what it says, and no more."""

from __future__ import annotations

import re
from random import Random

from serve_app.text.edits import corruptions as edits
from serve_app.training.alignscore import data
from tests.support.texts import PASSAGE


def _words(text: str) -> list[str]:
    return data.normalised(text).split()


def _apply(edit: edits.Edit, sentence: int, draws: int = 40) -> set[str]:
    """Everything the edit makes of one sentence over many draws."""
    made = {edit(PASSAGE[sentence], PASSAGE, Random(seed)) for seed in range(draws)}
    return {text for text in made if text is not None}


def test_a_changed_number_changes_one_number_and_no_word() -> None:
    for text in _apply(edits.change_number, 0):
        before, after = _words(PASSAGE[0]), _words(text)
        changed = [pair for pair in zip(before, after, strict=True) if pair[0] != pair[1]]
        assert len(changed) == 1
        assert all(word.isdigit() for word in changed[0])


def test_a_flipped_direction_replaces_one_word_by_its_opposite() -> None:
    assert "Aspirin was less effective than placebo for headache in adults." in _apply(
        edits.flip_direction, 1
    )
    for text in _apply(edits.flip_direction, 1):
        changed = [(a, b) for a, b in zip(PASSAGE[1].split(), text.split(), strict=True) if a != b]
        assert len(changed) == 1


def test_a_flipped_negation_adds_or_removes_the_negation_alone() -> None:
    assert _apply(edits.flip_negation, 2) == {PASSAGE[2].replace("was not", "was")}
    for text in _apply(edits.flip_negation, 1):
        assert re.sub(r" (not|never)\b", "", text) == PASSAGE[1]
    assert edits.flip_negation("Cures every cold.", [], Random(0)) is None


def test_an_exchanged_word_comes_from_the_passage_and_replaces_one_word() -> None:
    known = {word for text in PASSAGE for word in _words(text)}
    made = _apply(edits.exchange_word, 2)
    assert made
    for text in made:
        changed = [(a, b) for a, b in zip(_words(PASSAGE[2]), _words(text), strict=True) if a != b]
        assert len(changed) == 1
        assert changed[0][1] in known


def test_an_exchanged_name_is_another_name_of_the_passage() -> None:
    assert any(
        "Peter Vance" in text or "Oxford University" in text
        for text in _apply(edits.exchange_name, 0)
    )
    for text in _apply(edits.exchange_name, 0):
        assert text.endswith("that 45 patients (30 women) were treated.")


def test_swapped_pronouns_change_no_other_word() -> None:
    made = edits.swap_pronoun("He said his team won.", [], Random(0))
    assert made == "She said her team won."
    assert edits.swap_pronoun("The team won.", [], Random(0)) is None


def test_a_swapped_subject_keeps_the_predicate() -> None:
    for text in _apply(edits.swap_subject, 1):
        assert text.endswith("was more effective than placebo for headache in adults.")
        assert not text.startswith("Aspirin")


def test_a_fusion_begins_as_the_claim_and_ends_as_another_sentence() -> None:
    made = _apply(edits.fuse, 1)
    assert made
    for text in made:
        assert text not in PASSAGE
        words = _words(text)
        assert words[:3] == _words(PASSAGE[1])[:3]
        assert any(_words(other)[-2:] == words[-2:] for other in PASSAGE if other != PASSAGE[1])


def test_swapped_roles_turn_a_comparison_round() -> None:
    made = edits.swap_roles("Aspirin was more effective than placebo.", [], Random(0))
    assert made == "Placebo was more effective than Aspirin."
    named = edits.swap_roles("Vance beat Marsh in the final.", [], Random(0))
    assert named is None  # one word between: no room to tell a relation from a double name
    assert (
        edits.swap_roles("Vance wrote to Marsh about it.", [], Random(0))
        == "Marsh wrote to Vance about it."
    )


def test_an_exchanged_term_replaces_every_mention() -> None:
    made = edits.exchange_term(
        "Warfarin is safe, and warfarin is cheap.", ["warfarin", "insulin"], Random(0)
    )
    assert made == "Insulin is safe, and insulin is cheap."
    assert edits.exchange_term("Rest is cheap.", ["warfarin", "insulin"], Random(0)) is None


def test_shortening_only_drops_words_and_never_touches_negated_claims() -> None:
    made = _apply(edits.shorten, 0)
    assert len(made) >= 2
    for text in made:
        rest = iter(_words(PASSAGE[0]))
        assert all(word in rest for word in _words(text)), text
    assert not _apply(edits.shorten, 2)


def test_joining_keeps_both_sentences_whole() -> None:
    made = edits.join(PASSAGE[1], PASSAGE[1:3], Random(1))
    assert made is not None
    assert [w for w in _words(made) if w not in {"and", "while"}] == [
        *_words(PASSAGE[1]),
        *_words(PASSAGE[2]),
    ]


def test_rewording_uses_equal_words() -> None:
    made = edits.reword("The trials assessed efficacy.", [], Random(0))
    assert made is not None
    assert made != "The trials assessed efficacy."


def test_format_noise_says_the_same() -> None:
    for seed in range(30):
        assert _words(edits.roughen(PASSAGE[0], Random(seed))) == _words(PASSAGE[0])


def test_edits_are_equal_for_equal_seeds() -> None:
    for edit in edits.FLIPS.values():
        assert edit(PASSAGE[0], PASSAGE, Random(5)) == edit(PASSAGE[0], PASSAGE, Random(5))
