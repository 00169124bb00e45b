"""What the pairs `alignscore-mini` is trained on promise: right labels, no leaks, no shortcuts."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random

import pytest

from serve_app.core.errors import ConfigError
from serve_app.text.edits import trial_edits
from serve_app.training.alignscore import (
    comparisons,
    consistency,
    data,
    development,
    evaluation,
    mirrored,
    pairs,
    relations,
)
from tests.support.texts import PASSAGE

SENTENCES = [
    "Compared with placebo, warfarin reduced the risk of stroke among adults with arrhythmia.",
    "Bleeding was more common with warfarin than with placebo.",
    "The infection rate was 24% in the treated group and 10% in the control group.",
    "Exercise may improve walking speed after 12 weeks of supervised training.",
    "In total, 3490 women with hypertension took part in the trials.",
    "We are uncertain about adverse events because the evidence was of low certainty.",
]


def judged(context: str, claim: str, label: str, source: str = "vitaminc") -> consistency.Judged:
    return consistency.Judged(context, claim, label, "kind", source)


def auc_of(made: list[pairs.Pair], scores: list[float]) -> float:
    return evaluation.auc(scores, [pair.binary for pair in made])


# --- judged claims ----------------------------------------------------------------------


def test_no_row_of_the_development_part_is_trained_on(shared_data: Path) -> None:
    train = consistency.load_judged(shared_data, "train")
    dev = consistency.load_judged(shared_data, "dev")
    assert {row.label for row in train} == set(consistency.LABELS)
    assert not {(row.context, row.claim) for row in train} & {(r.context, r.claim) for r in dev}
    assert not {row.context for row in train if row.group == "evidence_inference"} & {
        row.context for row in dev if row.group == "evidence_inference"
    }


def test_only_files_for_commercial_use_are_read(tmp_path: Path) -> None:
    folder = tmp_path / "consistency"
    folder.mkdir()
    row = {"context": "a", "claim": "b", "label": "supported", "kind": "k", "source": "s"}
    for name in (*consistency.FILES, "fine_nli_nc", "readability_clear"):
        text = json.dumps({**row, "source": name, "split": "train"})
        (folder / f"{name}.jsonl").write_text(text)
    found = {read.source for read in consistency.load_judged(tmp_path, "train")}
    assert found == set(consistency.FILES)
    (folder / "trials.jsonl").unlink()
    with pytest.raises(ConfigError, match=r"trials\.jsonl"):
        consistency.load_judged(tmp_path, "train")


def test_an_edit_of_a_held_out_pair_is_not_trained_on_and_the_other_way_round() -> None:
    held = [data.NliRow("A dog runs in the park.", "A dog is outside.", "entailment", "snli")]
    edits = [
        judged("A dog does not run.", "It is a dog.", "supported", "negation_snli"),
        judged("A dog runs not in the park.", "A cat runs.", "contradicted", "negation_snli"),
        judged("A bird sings.", "A dog is outside.", "unsupported", "cad_snli"),
        judged("A dog runs in the park.", "A dog runs.", "supported", "vitaminc"),
    ]
    kept = consistency.without_edits_of(edits, held)
    assert [row.claim for row in kept] == ["It is a dog.", "A dog runs."]
    assert consistency.without_originals_of(held, edits[1:2]) == []
    assert consistency.without_originals_of(held, edits[3:]) == held


def test_a_long_context_is_cut_to_the_part_that_has_the_claims_words() -> None:
    filler = [f"Sentence {n} speaks of gardens, rivers and mountains far away." for n in range(40)]
    evidence = "Warfarin reduced strokes among adults with atrial fibrillation."
    context = " ".join([*filler[:30], evidence, *filler[30:]])
    supported = judged(context, "Warfarin reduced strokes among adults.", "supported")
    denied = judged(context, "Warfarin increased strokes among adults.", "contradicted")
    other = judged(context, "Penicillin cured pneumonia among children.", "contradicted")
    for seed in range(30):
        kept = consistency.focus(supported, Random(seed))
        assert evidence in kept.context
        assert (kept.binary, kept.three_way) == (1, pairs.ALIGNED)
        assert consistency.focus(denied, Random(seed)).binary == 0
        strange = consistency.focus(other, Random(seed))
        # What the chunk does not speak of, it does not contradict.
        assert strange.binary == 0
    assert len(consistency.focus(supported, Random(1)).context) < len(context)


def test_an_edited_summary_is_read_by_the_sentence_where_the_false_one_is_known() -> None:
    context = "Sales rose. Costs fell. The board met twice. Nobody resigned from the board."
    good = judged(context, "Sales rose in the year. Costs fell in the year.", "supported")
    bad = judged(context, "Sales rose in the year. Costs went up in the year.", "not_supported")
    vague = judged(context, "Sales fell over the year. Costs went up that year.", "not_supported")
    made = consistency.by_sentence([good, bad, vague])
    assert [(row.claim, row.label) for row in made] == [
        (good.claim, "supported"),
        ("Sales rose in the year.", "supported"),
        ("Costs fell in the year.", "supported"),
        ("Costs went up in the year.", "not_supported"),
        (vague.claim, "not_supported"),
    ]


# --- findings said again ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("claim", "direction"),
    [
        ("Compared with placebo, warfarin led to lower stroke rate.", -1),
        ("There was an increase in bleeding with warfarin in comparison with placebo.", 1),
        ("People given warfarin had higher bleeding than people given placebo.", 1),
        ("Bleeding was smaller in the warfarin group than in the placebo group.", -1),
        ("Warfarin lowered bleeding relative to placebo.", -1),
        ("Warfarin was no different from placebo for bleeding.", 0),
        ("It made no clear difference to bleeding whether people got warfarin or placebo.", 0),
    ],
)
def test_a_templated_claim_is_read_as_who_had_more_of_what(claim: str, direction: int) -> None:
    finding = comparisons.read_finding(claim)
    assert finding is not None
    assert (finding.treatment.lower(), finding.comparator) == ("warfarin", "placebo")
    assert finding.direction == direction
    assert finding.turned().turned() == finding


def test_a_sentence_no_template_fits_has_no_finding() -> None:
    assert comparisons.read_finding("Warfarin was given to many people.") is None


def test_a_finding_is_denied_by_every_false_wording_and_by_no_true_one() -> None:
    finding = comparisons.Finding("warfarin", "placebo", "mortality", -1)
    true = {comparisons.say(finding, Random(seed)) for seed in range(300)}
    false = {comparisons.say_false(finding, Random(seed)) for seed in range(300)}
    assert "Fewer people died with warfarin than with placebo." in true
    assert "More people died with placebo than with warfarin." in true
    assert "Fewer people died with placebo than with warfarin." in false
    assert len(true) > 30
    assert not true & false


# --- edits ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("edit", "before", "after"),
    [
        (
            trial_edits.exchange_arms,
            "Bleeding was more common with warfarin than with placebo.",
            "Bleeding was more common with placebo than with warfarin.",
        ),
        (
            trial_edits.exchange_arms,
            "Compared with placebo, warfarin reduced strokes.",
            "Compared with warfarin, placebo reduced strokes.",
        ),
        (
            trial_edits.exchange_numbers,
            "The rate was 24% with warfarin and 10% with placebo.",
            "The rate was 10% with warfarin and 24% with placebo.",
        ),
        (
            trial_edits.overstate,
            "Coffee is associated with longer life.",
            "Coffee causes longer life.",
        ),
        (trial_edits.exchange_cause, "Smoking causes cancer.", "Cancer causes smoking."),
        (
            trial_edits.turn_comparison,
            "Pain was lower than fatigue.",
            "Fatigue was higher than pain.",
        ),
        (
            trial_edits.move_lead,
            "In adults, warfarin reduced the risk.",
            "Warfarin reduced the risk in adults.",
        ),
    ],
)
def test_an_edit_changes_the_one_thing_it_is_named_for(
    edit: trial_edits.corruptions.Edit, before: str, after: str
) -> None:
    assert {edit(before, [], Random(seed)) for seed in range(5)} == {after}


@pytest.mark.parametrize("edit", [edit for edit, _ in trial_edits.FALSE_EDITS.values()])
def test_an_edit_that_does_not_apply_says_so(edit: trial_edits.corruptions.Edit) -> None:
    assert edit("Yes", [], Random(0)) is None


def test_a_rescaled_number_is_another_number() -> None:
    seen = {
        trial_edits.rescale_number("3490 women took part.", [], Random(seed)) for seed in range(40)
    }
    assert "349 women took part." in seen
    assert "34900 women took part." in seen
    assert "3490 women took part." not in seen


# --- mirrored pairs -------------------------------------------------------------------------


def mirrored_pairs(count: int) -> list[pairs.Pair]:
    passages = [data.Passage(SENTENCES, "study"), data.Passage(PASSAGE, "test")]
    rng = Random(0)
    drawn = (mirrored.mirrored_pair(rng.choice(passages), rng) for _ in range(count))
    return [pair for pair in drawn if pair is not None]


def test_a_mirrored_edit_is_as_often_true_as_false() -> None:
    made = mirrored_pairs(3000)
    assert len(made) > 1000
    by_claim: dict[str, set[int]] = {}
    for pair in made:
        by_claim.setdefault(pair.claim, set()).add(pair.binary)
        assert pair.binary == int(pair.three_way == pairs.ALIGNED)
    share = sum(pair.binary for pair in made) / len(made)
    assert share == pytest.approx(0.5, abs=0.06)
    # The same claim occurs with either label, so it cannot tell its label.
    assert {0, 1} in by_claim.values()
    lengths = [float(len(pair.claim)) for pair in made]
    assert auc_of(made, lengths) == pytest.approx(0.5, abs=0.08)


def test_only_what_the_source_leaves_open_is_neutral() -> None:
    for pair in mirrored_pairs(1500):
        if pair.kind in ("mirrored certainty", "mirrored word"):
            assert pair.three_way in (pairs.ALIGNED, pairs.NEUTRAL)
        else:
            assert pair.three_way in (pairs.ALIGNED, pairs.CONTRADICTING)


def test_a_definition_that_the_abstract_lacks_is_neutral() -> None:
    explained = "Atrial fibrillation is a fast and uneven heartbeat that many older people have."
    passage = data.Passage(SENTENCES, "cochrane", summary=[explained, SENTENCES[1]])
    pair = mirrored.explanation_pair(passage, Random(0))
    assert pair is not None
    assert (pair.claim, pair.three_way, pair.binary) == (explained, pairs.NEUTRAL, 0)
    assert mirrored.explanation_pair(data.Passage(SENTENCES, "cochrane"), Random(0)) is None


# --- relations ------------------------------------------------------------------------------


def test_neither_the_claim_nor_shared_words_give_a_relation_away() -> None:
    rng = Random(0)
    drawn = [relations.relation_pair(rng) for _ in range(4000)]
    truth = [true for _, _, true, _ in drawn]
    assert sum(truth) / len(truth) == pytest.approx(0.5, abs=0.05)
    contexts, claims = [row[0] for row in drawn], [row[1] for row in drawn]
    for size in (1, 2):
        shared = evaluation.overlap(contexts, claims, size=size)
        assert evaluation.auc(shared, truth) == pytest.approx(0.5, abs=0.06)
    first = [claim.split()[0] for claim in claims]
    common = {word: [t for w, t in zip(first, truth, strict=True) if w == word] for word in first}
    big = {word: sum(of) / len(of) for word, of in common.items() if len(of) >= 60}
    assert all(share == pytest.approx(0.5, abs=0.2) for share in big.values())


# --- development sets -----------------------------------------------------------------------


def test_a_turned_plain_sentence_stands_beside_the_one_it_was() -> None:
    summary = ["Bleeding was more common with warfarin than with placebo treatment."]
    passage = data.Passage(SENTENCES, "cochrane", summary=summary)
    (flip,) = development.plain_flips([passage], Random(0))
    context, true, false = flip
    assert true == summary[0]
    assert false != true
    assert SENTENCES[0] in context
