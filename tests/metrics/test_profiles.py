"""Profiles: what they ask, that `cochrane` is the loss as ever, and that easier costs nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serve_app.core.errors import InvalidInput
from serve_app.core.resources import RESOURCES
from serve_app.core.schemas import TermName
from serve_app.core.settings import load_settings
from serve_app.evidence import Source, check
from serve_app.evidence.reader import reader_errors
from serve_app.metrics.evaluation import Term, evaluate, with_terms
from serve_app.metrics.loss import METRICS, LossFunction, Targets
from serve_app.metrics.profiles import PROFILES, Profile, load_profile, weights_of
from serve_app.text.jargon import unexplained
from tests.support.servers import measure
from tests.support.texts import GENERATED, ORIGINALS

OTHERS = [name for name in PROFILES if name != "cochrane"]
SOURCE = (
    "We included 20 trials with 500 people. Fewer people died with aspirin (RR 0.5, 95% CI 0.3 to "
    "0.8)."
)
READABLE = "We found 20 trials with 500 people. Fewer people died with aspirin."


def for_all(*strategies: st.SearchStrategy[Any]) -> Callable[[Callable[..., None]], Any]:
    return lambda test: settings(deadline=None, derandomize=True)(given(*strategies)(test))


def errors_of(source: str, summary: str) -> dict[TermName, float]:
    return reader_errors(summary, check(source, summary).findings)


def loaded(name: str, **options: Any) -> Profile:
    return load_profile(name, load_settings(**options))


def loss_of(profile: Profile, summary: str, source: str = SOURCE, **more: Any) -> float:
    [found] = profile.evaluate([measure(source, summary)], [source], [summary], **more)
    return found.loss


def test_cochrane_is_the_loss_of_the_settings_to_the_last_bit() -> None:
    measured = [measure(*pair) for pair in zip(ORIGINALS, GENERATED, strict=True)]
    for direction in ("two_sided", "one_sided"):
        options = load_settings(loss_direction=direction)
        wanted = evaluate(measured, LossFunction.of(options))
        for name in (None, "cochrane"):
            profile = load_profile(name, options)
            assert profile.evaluate(measured, ORIGINALS, GENERATED) == wanted


def test_an_unknown_profile_is_refused_with_those_there_are() -> None:
    with pytest.raises(InvalidInput, match="cochrane, public or patient") as error:
        loaded("children")
    assert error.value.field == "profile"


def test_patients_are_asked_for_easier_texts_than_the_public_and_both_than_cochrane() -> None:
    cochrane, public, patient = (loaded(name).loss.targets.mean[2:] for name in PROFILES)
    for hard, middle, easy in zip(cochrane, public, patient, strict=True):
        assert hard > middle > easy
    assert public[:2] == (8.0, 8.0)
    assert patient[:2] == (7.0, 7.0)


@pytest.mark.parametrize("name", OTHERS)
def test_a_profile_cites_where_its_targets_come_from(name: str) -> None:
    file = Targets.load(RESOURCES / f"targets-{name}.json")
    assert len(file.details["sources"]) >= 3
    for source in file.details["sources"]:
        assert source["says"]
        assert source["cite"]
        assert source["url"].startswith("https://")


@pytest.mark.parametrize("name", OTHERS)
def test_the_average_cochrane_summary_has_nine_tenths_of_the_error_in_each_grade(name: str) -> None:
    """So that the curves tell apart the texts there are: at a sigma of one grade all would be 1."""
    humans = loaded("cochrane").loss.targets.mean
    errors = loaded(name).loss.errors([humans])[0]
    assert errors[2:] == pytest.approx([0.9] * 3, abs=1e-3)


@pytest.mark.parametrize("name", OTHERS)
def test_relevance_and_factuality_keep_the_targets_of_the_models_that_are_served(
    name: str, tmp_path: Any
) -> None:
    own = Targets((0.9, 0.8, 12.0, 12.0, 9.0), (0.1, 0.2, 1.0, 1.0, 1.0), {"relevance": "mine"})
    own.save(tmp_path / "t.json")
    found = loaded(name, targets_file=str(tmp_path / "t.json")).loss.targets
    assert (found.mean[:2], found.sigma[:2]) == ((0.9, 0.8), (0.1, 0.2))
    assert found.models == {"relevance": "mine"}
    assert found.mean[2:] == loaded(name).loss.targets.mean[2:]
    shipped = Targets.load(RESOURCES / f"targets-{name}.json")
    embedded = Targets.load(RESOURCES / "targets-embedded.json")
    assert (shipped.mean[:2], shipped.sigma[:2]) == (embedded.mean[:2], embedded.sigma[:2])


grades = st.floats(-5, 40)


@pytest.mark.parametrize("name", OTHERS)
def test_easier_than_the_target_costs_nothing_and_harder_costs_more(name: str) -> None:
    loss = loaded(name).loss
    targets = loss.targets.mean

    @for_all(st.sampled_from(METRICS[2:]), grades, st.floats(0, 10))
    def holds(metric: str, grade: float, more: float) -> None:
        at = METRICS.index(metric)
        values = list(targets)
        values[at] = grade
        harder = [*values[:at], grade + more, *values[at + 1 :]]
        errors, harder_errors = loss.errors([values, harder])[:, at]
        assert (errors == 0) == (grade <= targets[at])
        assert harder_errors >= errors

    holds()


@pytest.mark.parametrize("name", OTHERS)
def test_more_relevant_or_more_factual_than_people_write_costs_nothing(name: str) -> None:
    loss = loaded(name).loss
    better = [1.0, 1.0, *loss.targets.mean[2:]]
    assert loss([better])[0] == 0.0


# --- the terms beside the five --------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "plainness"),
    [
        ("Fewer people died with aspirin (RR 0.5, 95% CI 0.3 to 0.8).", 0.5),
        ("Fewer people died with aspirin, P = 0.01.", 0.5),
        ("Fewer people died with ASA.", 0.5),
        ("Fewer people died with acetylsalicylic acid (ASA).", 0.0),
        ("Fewer people with HIV died in the UK.", 0.0),
        ("Fewer people died: 6 in every 100.", 0.0),
    ],
)
def test_a_sentence_with_a_statistic_or_an_unexplained_short_name_is_not_plain(
    said: str, plainness: float
) -> None:
    assert errors_of(SOURCE, f"We found 20 trials. {said}")["plainness"] == plainness


def test_an_abbreviation_explained_once_is_plain_everywhere() -> None:
    text = "Acetylsalicylic acid (ASA) helped. ASA was safe. ASA is cheap."
    assert errors_of(SOURCE, text)["plainness"] == 0.0
    assert errors_of(SOURCE, text.replace(" (ASA)", ""))["plainness"] == pytest.approx(2 / 3)


def test_the_term_findings_is_the_share_of_sentences_with_a_severe_finding() -> None:
    wrong = "We found 20 trials with 5000 people. More people died with aspirin."
    found = check(SOURCE, wrong).findings
    severe = {one.sentence for one in found if one.severity == "severe"}
    assert errors_of(SOURCE, wrong)["findings"] == len(severe) / 2 > 0
    assert errors_of(SOURCE, READABLE)["findings"] == 0.0


@pytest.mark.parametrize("name", OTHERS)
def test_what_a_reader_cannot_read_and_what_misleads_cost_and_cochrane_sees_neither(
    name: str,
) -> None:
    profile = loaded(name)
    [good] = profile.evaluate([measure(SOURCE, READABLE)], [SOURCE], [READABLE])
    assert {one.name: one.error for one in good.terms} == {"plainness": 0.0, "findings": 0.0}
    # The same metrics, other words: only the terms can tell.
    wrong = READABLE.replace("Fewer", "More")
    short = READABLE.replace("aspirin", "ASA")
    same = measure(SOURCE, READABLE)
    for text in (wrong, short):
        [bad] = profile.evaluate([same], [SOURCE], [text])
        assert bad.loss > good.loss
        [plain] = loaded("cochrane").evaluate([same], [SOURCE], [text])
        assert plain.terms == ()


@pytest.mark.parametrize("name", OTHERS)
def test_weights_of_the_caller_are_for_the_five_and_the_terms_keep_theirs(name: str) -> None:
    profile = loaded(name)
    same = measure(SOURCE, "We saw p < 0.05 and RR 2.")
    texts = [SOURCE], ["We saw p < 0.05 and RR 2."]
    weights = [0.0, 0.0, 1.0, 0.0, 0.0]
    [found] = profile.evaluate([same], *texts, weights=weights)
    left = 1 - sum(profile.terms.values())
    assert {one.name: one.weight for one in found.terms} == dict(profile.terms)
    assert found.loss == pytest.approx(
        left * found.errors[2] + sum(one.weight * one.error for one in found.terms)
    )
    with pytest.raises(InvalidInput):
        profile.evaluate([same], *texts, weights=[1.0, 1.0, 0.0, 0.0, 0.0])
    assert weights_of(profile.name) == list(profile.weights)


shares = st.floats(0, 1)
some_terms = st.lists(st.builds(Term, st.just("plainness"), shares, st.floats(0, 0.5)), max_size=2)


@for_all(shares, some_terms)
def test_with_terms_the_loss_stays_in_its_range_and_without_them_it_stays_the_same(
    loss: float, terms: list[Term]
) -> None:
    assert -1e-12 <= with_terms(loss, terms) <= 1.0
    assert with_terms(loss, []) == loss


def test_candidates_of_one_original_read_it_once(monkeypatch: pytest.MonkeyPatch) -> None:
    profile, other = loaded("public"), "Of 30 people 4 fell ill."
    originals, texts = [SOURCE, SOURCE, SOURCE, other], [READABLE, "A.", READABLE, "4 fell ill."]
    measured = [measure(*pair) for pair in zip(originals, texts, strict=True)]
    pairs = zip(measured, originals, texts, strict=True)
    alone = [profile.evaluate([one], [original], [text])[0] for one, original, text in pairs]
    read = []
    monkeypatch.setattr(
        "serve_app.metrics.profiles.read", lambda *args: read.append(args[0]) or Source(*args)
    )
    found = profile.evaluate(measured, originals, texts)
    assert [(one.terms, one.check) for one in found] == [(one.terms, one.check) for one in alone]
    assert [one.loss for one in found] == pytest.approx([one.loss for one in alone], abs=1e-12)
    assert read == [SOURCE, other]


def test_hostile_texts_are_read_in_linear_time() -> None:
    """A million characters each; read in time quadratic in that, they would take hours."""
    for text in (
        "a" * 10**6,
        "-" + "A" * 10**6 + "é",
        "AB " * 330_000,
        "(" * 10**6,
        "II " * 330_000,
    ):
        assert isinstance(unexplained(text), list)
