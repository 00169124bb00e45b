"""Each rule of the plain engine on real sentences: what it writes, and what it must leave alone."""

from __future__ import annotations

import pytest

from serve_app.core.errors import ConfigError
from serve_app.generation.plain import (
    abbreviations,
    certainty,
    clutter,
    headings,
    pointers,
    splitting,
    statistics,
    terms,
    voice,
    wording,
)
from serve_app.generation.plain.facts import Facts, definitions
from serve_app.generation.plain.grammar import capitalised, doubled, is_clause, lowered
from serve_app.generation.plain.rules import NAMES, changes, check_names, rewritten
from serve_app.text.glossary import Glossary

NONE = Facts("")
REVIEW = Facts("This review looked at trials. We included twelve trials. turkey was studied.")


@pytest.mark.parametrize(
    ("sentence", "plain"),
    [
        (
            "It lowered blood pressure (RR 0.98, 95% CI 0.71 to 1.35; 2 trials, 602 participants).",
            "It lowered blood pressure.",
        ),
        (
            "Pain was lower [WMD -13, 95%CI -19,-7] after a week.",
            "Pain was lower after a week.",
        ),
        (
            "We included four studies (171 patients) that met our criteria.",
            "We included four studies (171 patients) that met our criteria.",
        ),
        (
            "More pain was felt (mean difference (MD) 3.1, 95% confidence interval (CI) 1 to 5).",
            "More pain was felt.",
        ),
        (
            "Fewer people died (69/296 versus 82/283, risk ratio (RR) 0.80, 95% CI 0.61 to 1.06).",
            "Fewer people died (about 23 in every 100 versus about 29 in every 100).",
        ),
        (
            "Few people died (1/1200 versus 3/1180; RR 0.33).",
            "Few people died (about 1 in every 1,000 versus about 3 in every 1,000).",
        ),
        ("Few people fell (1/12 versus 3/14; RR 0.4).", "Few people fell (1 of 12 versus 3 of "
                                                        "14)."),
        ("Growths were seen in 12/19 women in the drug group.",
         "Growths were seen in 12 of 19 women in the drug group."),
        ("Doses of >= 5 mg worked (P < 0.05).", "Doses of at least 5 mg worked."),
        ("There was less pain (low-certainty evidence; I2 = 43%).",
         "There was less pain (low-certainty evidence)."),
        ("The drug was used in men (not in women) with pain.",
         "The drug was used in men (not in women) with pain."),
    ],
)  # fmt: skip
def test_statistics_go_and_what_they_stand_beside_stays(sentence: str, plain: str) -> None:
    assert statistics.plain_statistics(sentence, NONE) == plain


@pytest.mark.parametrize(
    "sentence",
    [
        "The risk ratio was 1.07 (95% confidence interval 0.81 to 1.41).",
        "Sores (three trials) with an RR of 1.37 (95% CI 1.05 to 1.79) were more common than "
        "without.",
        "Six trials demonstrated a relative risk (RR) of 0.84 (95% CI 0.7 to 1.0) in favour of it.",
        "Statistical heterogeneity was high (I2 = 58%) for most analyses.",
        "Remission took 12 months: 0.84 (95% CI 0.71 to 0.99).",
        "We calculated odds ratios with 95% confidence intervals.",
    ],
)
def test_a_sentence_about_a_statistic_is_dropped_whole(sentence: str) -> None:
    assert statistics.plain_statistics(sentence, NONE) is None


def test_no_share_is_made_from_a_ratio_or_from_one_arm() -> None:
    for inside in ("RR 0.80, 95% CI 0.61 to 1.06", "69/296", "90/60 versus 12/100"):
        said = statistics.plain_statistics(f"Fewer people died early ({inside}).", NONE)
        assert said == "Fewer people died early."


@pytest.mark.parametrize(
    ("sentence", "plain"),
    [
        ("There were no statistically significant differences in pain.",
         "There were no clear differences in pain."),
        ("There was a small but statistically significant benefit with caffeine.",
         "There was a small but clear benefit with caffeine."),
        ("The effect did not reach statistical "
         "significance.", "The effect could be due to chance."),
        ("Deaths were not significantly different.", "Deaths were not clearly different."),
        ("There was a non-significant trend towards harm.", "There was an unclear trend towards "
                                                            "harm."),
        ("Rates were significantly lower with salt.", "Rates were lower with salt."),
        ("This is of significant interest.", "This is of significant interest."),
    ],
)  # fmt: skip
def test_significance_says_chance_or_clear_and_keeps_its_negation(
    sentence: str, plain: str
) -> None:
    assert statistics.plain_significance(sentence, NONE) == plain


@pytest.mark.parametrize(
    ("sentence", "said"),
    [
        ("Pain was less (low-quality evidence).",
         ["Pain was less.", certainty.SURE["low"][0]]),
        ("Pain was less (very low-certainty evidence).",
         ["Pain was less.", certainty.SURE["very low"][0]]),
        ("Pain was less (high-certainty evidence).", ["Pain was less.", certainty.SURE["high"][0]]),
        # No result, so nothing that "this result" could mean.
        ("One trial compared salt with sugar (high-quality evidence).",
         ["One trial compared salt with sugar (high-quality evidence)."]),
        # Said already: not twice.
        ("Steroids probably reduce deaths (moderate-certainty evidence).",
         ["Steroids probably reduce deaths."]),
        # Two levels: each stays with its words.
        ("Pain was less (low-quality evidence) and sleep better (moderate-quality evidence).",
         "Pain was less (low-quality evidence) and sleep better (moderate-quality evidence)."),
        ("Very low-certainty evidence suggests that pain is less.",
         "We are not sure whether pain is less."),
        ("Low to moderate quality evidence suggests that pain is less.",
         "Low to moderate quality evidence suggests that pain is less."),
    ],
)  # fmt: skip
def test_certainty_is_said_as_grade_says_it(sentence: str, said: str | list[str]) -> None:
    assert certainty.plain_certainty(sentence, NONE) == said


@pytest.mark.parametrize(
    ("sentence", "plain"),
    [
        ("One trial (NCT01234567) was small [3, 4].", "One trial was small."),
        ("Pain was less (Smith 2004; Jones 2010).", "Pain was less."),
        ("Pain was less (see Figure 2).", "Pain was less."),
        ("The search identified 13 trials with 2653 "
         "people.", "We found 13 trials with 2653 people."),
        ("We included trials published up to March 2021.", "We included trials."),
        ("We searched MEDLINE and EMBASE.", None),
        ("The search identified 7880 records.", None),
        ("It grew in Central Asia (since 2004).", "It grew in Central Asia (since 2004)."),
    ],
)  # fmt: skip
def test_what_serves_librarians_goes(sentence: str, plain: str | None) -> None:
    assert clutter.without_clutter(sentence, NONE) == plain


@pytest.mark.parametrize(
    ("sentence", "plain"),
    [
        ("Early versus delayed enteral nutrition Six trials assessed nutrition.",
         "Six trials assessed nutrition."),
        ("Cerclage versus no cerclage Overall, cerclage was safe.", "Overall, cerclage was safe."),
        ("Primary outcomes: There was no difference.", "There was no difference."),
        ("secondary outcomes A meta-analysis of two trials found harm.",
         "A meta-analysis of two trials found harm."),
        ("Salt reduction versus no reduction Salt reduction lowered pressure.",
         "Salt reduction lowered pressure."),
        ("Patients in The Gambia were treated early.", "Patients in The Gambia were treated "
                                                       "early."),
        ("Supplements of vitamin A Were given.", "Supplements of vitamin A Were given."),
        ("We compared three drugs: A, B and C.", "We compared three drugs: A, B and C."),
    ],
)  # fmt: skip
def test_only_a_heading_is_cut_off(sentence: str, plain: str) -> None:
    assert headings.without_heading(sentence, Facts("the salt of it")) == plain


@pytest.mark.parametrize(
    ("sentence", "plain"),
    [
        ("Eleven studies (794 participants) were included.",
         "We included eleven studies (794 participants)."),
        ("Fifteen trials met the inclusion criteria.", "We included fifteen trials."),
        ("We identified four studies (171 patients) that met our inclusion criteria.",
         "We identified four studies (171 patients)."),
        ("No trials of day centres were found.", "We found no trials of day centres."),
        ("The review authors judged the risk as low.", "We judged the risk as low."),
        # Whose agent is not known, or where a name would lose its capital.
        ("No deaths were reported.", "No deaths were reported."),
        ("Cochrane trials were included.", "Cochrane trials were included."),
        ("This is, in the view of the authors, fair.", "This is, in the view of the authors, "
                                                       "fair."),
        ("Trials that were small were included.", "Trials that were small were included."),
    ],
)  # fmt: skip
def test_a_passive_becomes_active_where_the_agent_is_sure(sentence: str, plain: str) -> None:
    assert voice.active(sentence, REVIEW) == plain


def test_outside_a_review_no_agent_is_guessed() -> None:
    assert voice.active("Eleven patients were included.", NONE) == "Eleven patients were included."


@pytest.mark.parametrize(
    "sentence",
    [
        "To assess the effects of salt.",
        "The objective of this review was to assess the effects of salt.",
        "This review aims to assess the effects of salt.",
    ],
)
def test_the_aim_is_a_question_of_ours(sentence: str) -> None:
    assert voice.asked(sentence, NONE) == "We wanted to assess the effects of salt."


def test_an_infinitive_that_is_no_aim_stays() -> None:
    assert voice.asked("To date, none is known.", NONE) == "To date, none is known."


@pytest.mark.parametrize(
    ("sentence", "parts"),
    [
        ("The death rate was lower in the naloxone group, but this was consistent with chance.",
         ["The death rate was lower in the naloxone group.", "But this was consistent with "
                                                             "chance."]),
        ("Two studies were at low risk of bias, and two studies were at an unclear risk of it.",
         ["Two studies were at low risk of bias.", "Two studies were at an unclear risk of it."]),
        ("We included one study of calcium in 1355 women, which took place at four hospital sites.",
         ["We included one study of calcium in 1355 women, which took place at four hospital "
          "sites."]),
        ("Accuracy may have been overestimated by the design, which is a limit of the evidence "
         "base.",
         ["Accuracy may have been overestimated by the "
          "design.", "This is a limit of the evidence base."]),
        ("Although the trials were small in most cases, the results were clear for all of the "
         "outcomes.",
         ["The trials were small in most cases.", "But the results were clear for all of the "
                                                  "outcomes."]),
        ("At 12 months, pain was lower in most of the women; function was better in some of them.",
         ["At 12 months, pain was lower in most of the "
          "women.", "Function was better in some of them."]),
        ("No conclusion is possible from these few small trials, because the data were very poor "
         "there.",
         ["No conclusion is possible from these few small trials, because the data were very poor "
          "there."]),
        ("The trials were small in most of the cases, because the data were very poor in these.",
         ["The trials were small in most of the cases.", "This is because the data were very poor "
                                                         "in these."]),
    ],
)  # fmt: skip
def test_two_clauses_become_two_sentences(sentence: str, parts: list[str]) -> None:
    assert splitting.split(sentence, NONE) == parts


@pytest.mark.parametrize(
    "sentence",
    [
        # Under "that", "whether" and "if" the second half would become a claim of its own.
        "There is no evidence that pain was lower in the group, and the risk was higher with the "
        "drug.",
        "It is unclear whether the risk was lower with salt, and the benefit was larger in all "
        "women.",
        # "In one trial" holds for both halves.
        "In one trial of 115 women, pain was lower with the drug, and the risk was higher in the "
        "men.",
        # A list of clauses is no pair.
        "One study was in India, one study was in Kenya, and one study was in the north of Brazil.",
        # A list, and a subject of two parts.
        "Two trials compared salt, sugar, and the usual care of the hospital was the comparator "
        "there.",
        "The number of deaths from stroke, and the number of strokes in women and men were both "
        "lower.",
    ],
)
def test_what_might_lose_its_meaning_is_not_split(sentence: str) -> None:
    assert splitting.split(sentence, NONE) == [sentence]


@pytest.mark.parametrize(
    ("sentence", "points"),
    [
        ("These trials were small.", True),
        ("Other individual studies found harm.", True),
        ("The remaining study found harm.", True),
        ("None of these five trials were blinded.", True),
        ("We are uncertain about this effect.", True),
        ("They were small.", True),
        ("It was not found to reduce the volume.", True),
        ("The difference could be due to chance.", True),
        ("It was not possible to tell.", False),
        ("Three compared warfarin with aspirin.", True),
        ("The rate of births was also higher.", True),
        ("It is unclear whether salt helps.", False),
        ("This review found two trials.", False),
        ("Those treated with salt were well.", False),
        ("Salt, such as sea salt, was used.", False),
        ("Late harm might be reduced, but we are uncertain about this effect.", False),
    ],
)
def test_a_sentence_that_needs_the_one_before_is_known(sentence: str, points: bool) -> None:
    assert pointers.points_back(sentence, REVIEW) is points


def test_connectors_go_and_words_that_only_look_like_them_stay() -> None:
    assert pointers.without_connector("However, in addition, pain was less.", NONE) == (
        "Pain was less."
    )
    for sentence in ("In addition to salt, sugar was used.", "However small, it was used."):
        assert pointers.without_connector(sentence, NONE) == sentence


def test_definitions_are_the_words_whose_letters_they_are() -> None:
    text = (
        "post-thrombotic syndrome (PTS), number of women (n = 3), low-density lipoprotein (LDL), "
        "BMI "
        "(body mass index), selective serotonin reuptake inhibitors (SSRIs), the trial (RR)"
    )
    assert dict(definitions(text)) == {
        "PTS": "post-thrombotic syndrome",
        "LDL": "low-density lipoprotein",
        "BMI": "body mass index",
        "SSRIs": "selective serotonin reuptake inhibitors",
    }


def test_an_abbreviation_is_written_out_or_explained_at_its_first_use() -> None:
    facts = Facts("Post-thrombotic leg syndrome (PTS) is rare. An intraocular lens (IOL) is used.")
    often = ["A PTS was seen.", "PTS was rare.", "PTS-free legs were more.", "An IOL helped."]
    assert abbreviations.explained(often, facts) == [
        "A Post-thrombotic leg syndrome (PTS) was seen.",
        "PTS was rare.",
        "PTS-free legs were more.",
        "An intraocular lens helped.",
    ]
    assert abbreviations.explained(["The IOL group met."], facts) == [
        "The intraocular lens group met."
    ]


def test_an_abbreviation_that_nothing_explains_drops_its_sentence() -> None:
    assert abbreviations.without_needless("QZX was rare.", NONE) is None
    assert abbreviations.without_needless("Harm not named (QZX) was rare.", NONE) == (
        "Harm not named was rare."
    )
    assert abbreviations.without_needless("HIV in the UK was rare.", NONE) == (
        "HIV in the UK was rare."
    )


def test_an_abbreviation_with_several_senses_needs_its_context() -> None:
    assert abbreviations.meaning("AF", Facts("Atrial fibrillation is common.")) == (
        "atrial fibrillation"
    )
    assert abbreviations.meaning("AF", Facts("The annulus was torn.")) is None
    assert abbreviations.meaning("CIN", Facts("contrast-induced nephropathy (CIN) and cervix")) == (
        "contrast-induced nephropathy"
    )


def test_the_same_term_is_said_the_same_way_everywhere() -> None:
    glossary = Glossary.load()
    said = terms.in_plain_words(
        ["Otalgia was less.", "Otalgia's cause (otalgia-like pain) is known; otalgia is rare."],
        glossary,
    )
    words = " ".join(said).lower()
    assert words.count("ear pain") <= 1 or "otalgia " not in words


def test_short_phrases_and_brackets() -> None:
    assert wording.shorter("A total of 12 trials compared it in order to learn.", NONE) == (
        "12 trials compared it to learn."
    )
    assert wording.without_asides("It (a, b, c, d, e and f) helped.", NONE) == "It helped."
    limited = "It helped (except for the women with severe disease there)."
    assert wording.without_asides(limited, NONE) == limited


@pytest.mark.parametrize("name", [name for name in NAMES if name not in ("terms", "order")])
def test_a_rule_that_is_off_does_nothing(name: str) -> None:
    sentence = (
        "Early versus late feeding However, eleven studies were included (RR 0.8; low-quality "
        "evidence) [3]."
    )
    done = rewritten(sentence, REVIEW, [name])
    assert done is None or name not in {step.rule for step in done[1]}
    assert rewritten(sentence, REVIEW, NAMES) == ([sentence], [])


def test_a_sentence_that_no_reader_would_finish_is_left_out() -> None:
    assert rewritten(f"Pain was {'very ' * 500}bad.", NONE) is None


def test_an_unknown_rule_is_refused_with_the_names_of_all() -> None:
    with pytest.raises(ConfigError, match=r"PLAIN_RULES_OFF.*'statistic'.*statistics"):
        check_names(["statistic"])


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("Pain was less (RR 0.71).", "Pain was less."),
        ("However, a b a b c.", "A b a c."),
        ("one two", "zero one two three"),
        ("a a a a", "a a"),
        ("x", "y z"),
    ],
)
def test_changes_taken_back_give_the_source(source: str, text: str) -> None:
    rest, at = text, 0
    for there, here in changes(source, text):
        at = rest.index(here, at)
        rest = rest[:at] + there + rest[at + len(here) :]
        at += len(there)
    assert rest == source


def test_grammar_knows_clauses_names_and_doubled_words() -> None:
    assert is_clause("there was no difference")
    assert not is_clause("which was no difference")
    assert not is_clause("the trials in women and men")
    assert lowered("Turkey was hot.", "") is None
    assert lowered("Two trials ended.", "") == "two trials ended."
    assert capitalised("mRNA vaccines") == "mRNA vaccines"
    assert doubled("It had had the the effect that that one had.") == ["the"]
