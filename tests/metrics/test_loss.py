"""The loss against its definition, computed here with the plain formulas of design.md."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serve_app.core.errors import ConfigError, InvalidInput
from serve_app.core.resources import RESOURCES
from serve_app.metrics.loss import (
    METRICS,
    LossFunction,
    Targets,
    check_weights,
    combine,
    steepness_factor,
)

EARLIER = Targets(
    mean=(0.8556, 0.4481, 13.567, 14.966, 11.637), sigma=(0.0162, 0.1253, 2.079, 1.688, 0.791)
)
KEYS = ("RELEVANCE", "FACTUALITY", "FKGL", "SMOG", "DALECHALL")

shares = st.floats(-0.5, 1.5)
grades = st.floats(-10, 40)
metrics = st.tuples(shares, shares, grades, grades, grades)
anything = st.tuples(*[st.floats(allow_nan=False, allow_infinity=False)] * 5)
steepnesses = st.one_of(st.sampled_from(["calibrated", "legacy"]), st.floats(0.01, 50))
directions = st.sampled_from(["two_sided", "one_sided"])
sigmas = st.tuples(*[st.floats(1e-3, 10)] * 5)
targets = st.builds(Targets, mean=metrics, sigma=sigmas)
functions = st.builds(LossFunction, targets, steepnesses, directions)


def for_all(*strategies: st.SearchStrategy[Any]) -> Callable[[Callable[..., None]], Any]:
    """`given`, the same examples at every run and however slow the machine is."""
    return lambda test: settings(deadline=None, derandomize=True)(given(*strategies)(test))


@st.composite
def weightings(draw: st.DrawFn) -> list[float]:
    raw = draw(st.lists(st.floats(0, 1), min_size=5, max_size=5).filter(lambda w: sum(w) > 1e-3))
    return [value / sum(raw) for value in raw]


def by_hand(x: float, mu: float, sigma: float, factor: float) -> float:
    k = factor / sigma
    s = 1 / (1 + math.exp(-k * (x - mu)))
    return 2 * abs(s - 0.5)


# --- against the plain formula ------------------------------------------------------------


def test_an_example_worked_by_hand() -> None:
    errors = LossFunction(EARLIER)([[0.9, 0.7, 10.0, 12.0, 11.637]])
    k_fkgl, k_smog = math.log(19) / 2.079, math.log(19) / 1.688
    expected = 0.2 * (
        (0.9 - 0.8556) ** 2
        + (0.7 - 0.4481) ** 2
        + 2 * abs(1 / (1 + math.exp(-k_fkgl * (10.0 - 13.567))) - 0.5)
        + 2 * abs(1 / (1 + math.exp(-k_smog * (12.0 - 14.966))) - 0.5)
        + 0.0
    )
    assert errors == pytest.approx([expected], abs=1e-15)
    assert expected == pytest.approx(0.4083, abs=1e-4)


@pytest.mark.parametrize(("steepness", "factor"), [("calibrated", math.log(19)), ("legacy", 15.0)])
def test_each_metric_follows_its_formula(steepness: str, factor: float) -> None:
    x = (0.80, 0.60, 12.1, 15.5, 11.0)
    errors = LossFunction(EARLIER, steepness).errors([x])[0]
    mu, sigma = EARLIER.mean, EARLIER.sigma
    expected = [(x[0] - mu[0]) ** 2, (x[1] - mu[1]) ** 2]
    expected += [by_hand(x[i], mu[i], sigma[i], factor) for i in (2, 3, 4)]
    assert errors == pytest.approx(expected, abs=1e-12)


@for_all(st.floats(0.1, 20), st.floats(-3, 3), st.floats(0.1, 5))
def test_a_number_as_steepness_is_k_times_sigma(factor: float, distance: float, sigma: float):
    function = LossFunction(Targets((0.5, 0.5, 9.0, 9.0, 9.0), (sigma,) * 5), factor)
    errors = function.errors([(0.5, 0.5, 9.0 + distance * sigma, 9.0, 9.0)])[0]
    assert errors[2] == pytest.approx(by_hand(9.0 + distance * sigma, 9.0, sigma, factor), abs=1e-9)
    assert list(errors[[0, 1, 3, 4]]) == [0, 0, 0, 0]


def test_calibrated_reaches_ninety_five_percent_one_sigma_away() -> None:
    function = LossFunction(EARLIER, "calibrated")
    for sign in (1, -1):
        x = [mu + sign * sigma for mu, sigma in zip(EARLIER.mean, EARLIER.sigma, strict=True)]
        assert function.errors([x])[0][2:] == pytest.approx([0.9] * 3, abs=1e-12)
    k = steepness_factor("calibrated")
    assert 1 / (1 + math.exp(-k)) == pytest.approx(0.95, abs=1e-15)


def test_legacy_steepness_is_fifteen() -> None:
    assert steepness_factor("legacy") == 15.0
    x = [EARLIER.mean[0], EARLIER.mean[1], EARLIER.mean[2] + 0.1 * EARLIER.sigma[2], 14.966, 11.637]
    expected = 2 * (1 / (1 + math.exp(-1.5)) - 0.5)
    assert LossFunction(EARLIER, "legacy").errors([x])[0][2] == pytest.approx(expected, abs=1e-12)


# --- properties ---------------------------------------------------------------------------


@for_all(functions, anything, weightings())
def test_errors_and_loss_stay_in_the_unit_interval(function, values, weights) -> None:
    errors = function.errors([values])
    assert ((errors >= 0) & (errors <= 1)).all()
    assert 0 <= function([values], weights)[0] <= 1


@for_all(functions, weightings())
def test_zero_at_the_target(function, weights) -> None:
    assert function([function.targets.mean], weights)[0] == 0


@for_all(targets, steepnesses, st.tuples(*[st.floats(0, 30)] * 5))
def test_two_sided_is_symmetric_about_the_target(target, steepness, distance) -> None:
    function = LossFunction(target, steepness)
    mean = np.array(target.mean)
    above, below = function.errors([mean + distance, mean - distance])
    assert above == pytest.approx(below, abs=1e-6)


@for_all(functions, st.integers(0, 4), st.sampled_from([-1, 1]), st.floats(0, 20), st.floats(0, 20))
def test_error_never_falls_as_a_metric_leaves_its_target(function, which, sign, one, two) -> None:
    near, far = np.array([function.targets.mean] * 2)
    near[which] += sign * min(one, two)
    far[which] += sign * max(one, two)
    errors = function.errors([near, far])
    assert errors[0, which] <= errors[1, which] + 1e-12


@for_all(st.integers(0, 4), st.floats(0.01, 0.9), st.sampled_from([-1, 1]))
def test_a_clear_step_from_the_target_costs_something(which, step, sign) -> None:
    x = list(EARLIER.mean)
    x[which] += sign * step
    assert LossFunction(EARLIER)([x])[0] > 0


@for_all(functions, metrics, weightings(), weightings(), st.floats(0, 1))
def test_loss_is_linear_in_the_weights(function, values, one, two, share) -> None:
    mixed = share * np.array(one) + (1 - share) * np.array(two)
    expected = share * function([values], one)[0] + (1 - share) * function([values], two)[0]
    assert function([values], list(mixed))[0] == pytest.approx(expected, abs=1e-9)


@for_all(functions, metrics)
def test_weight_on_one_metric_gives_its_error(function, values) -> None:
    errors = function.errors([values])[0]
    for index in range(5):
        weights = [0.0] * 5
        weights[index] = 1.0
        assert function([values], weights)[0] == errors[index]


@for_all(targets, steepnesses, metrics)
def test_one_sided_forgives_the_better_side_only(target, steepness, values) -> None:
    two = LossFunction(target, steepness, "two_sided").errors([values])[0]
    one = LossFunction(target, steepness, "one_sided").errors([values])[0]
    for index, (x, mu) in enumerate(zip(values, target.mean, strict=True)):
        better = x > mu if METRICS[index] in ("relevance", "factuality") else x < mu
        assert one[index] == (0 if better else two[index])


@for_all(functions, st.lists(metrics, min_size=1, max_size=6))
def test_a_batch_gives_each_row_what_it_gets_alone(function, rows) -> None:
    together = function(rows)
    assert together.shape == (len(rows),)
    assert list(together) == pytest.approx([function([row])[0] for row in rows], abs=1e-12)


@for_all(st.lists(st.tuples(metrics, metrics), min_size=1, max_size=5))
def test_each_sample_can_have_its_own_target_means(pairs) -> None:
    function = LossFunction(EARLIER)
    values, human = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    expected = [
        LossFunction(Targets(own, EARLIER.sigma))([x])[0]
        for x, own in zip(values, human, strict=True)
    ]
    assert list(function(values, mean=human)) == pytest.approx(expected, abs=1e-12)
    assert list(function(human, mean=human)) == [0] * len(pairs)


def test_a_tiny_sigma_does_not_divide_by_zero() -> None:
    function = LossFunction(Targets(EARLIER.mean, (5e-324,) * 5))
    assert function([EARLIER.mean])[0] == 0
    assert list(function.errors([(0.8556, 0.4481, 13.6, 15.0, 11.7)])[0][2:]) == [1, 1, 1]


# --- weights ------------------------------------------------------------------------------


def test_default_weights_are_a_fifth_each() -> None:
    assert list(check_weights(None)) == [0.2] * 5
    assert combine([[0.1, 0.2, 0.3, 0.4, 0.5]])[0] == pytest.approx(0.3)


def test_weights_may_miss_one_by_the_tolerance_and_the_loss_stays_below_one() -> None:
    weights = [0.2, 0.2, 0.2, 0.2, 0.2 + 9e-7]
    assert combine([[1.0] * 5], weights)[0] == 1.0


@pytest.mark.parametrize(
    ("weights", "says"),
    [
        ([], "there are 0"),
        ([0.25] * 4, "there are 4"),
        ([0.2] * 6, "there are 6"),
        ([0.2, 0.2, 0.2, 0.2, math.nan], "finite"),
        ([0.2, 0.2, 0.2, 0.2, math.inf], "finite"),
        ([-math.inf, math.inf, 0.5, 0.25, 0.25], "finite"),
        ([1.2, -0.2, 0, 0, 0], "negative"),
        ([0.3] * 5, "sum to 1"),
        ([0.0] * 5, "sum to 1"),
        ([0.2, 0.2, 0.2, 0.2, 0.2 + 2e-6], "sum to 1"),
        ([0.2, 0.2, 0.2, 0.2, None], "numbers"),
        ("12345", "sum to 1"),
        ([[0.2], [0.2], [0.2], [0.2], [0.2, 0.1]], "numbers"),
    ],
)
def test_bad_weights_are_refused(weights: Any, says: str) -> None:
    with pytest.raises(InvalidInput, match=says) as caught:
        check_weights(weights)
    assert caught.value.field == "weights"


# --- bad values and settings --------------------------------------------------------------


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("index", range(5))
def test_a_metric_that_is_no_number_has_no_loss(bad: float, index: int) -> None:
    values = list(EARLIER.mean)
    values[index] = bad
    with pytest.raises(InvalidInput, match="finite"):
        LossFunction(EARLIER)([values])
    with pytest.raises(InvalidInput, match="finite"):
        LossFunction(EARLIER)([EARLIER.mean], mean=values)


@pytest.mark.parametrize(
    ("values", "mean"),
    [([[0.5]], None), ([[0.5] * 4], None), ([[0.5] * 5], [0.5]), ([[0.5] * 5], [[0.5] * 5] * 2)],
)
def test_wrong_shapes_are_refused_rather_than_broadcast(values: Any, mean: Any) -> None:
    with pytest.raises(InvalidInput, match="needs 5 metrics"):
        LossFunction(EARLIER).errors(values, mean)


@pytest.mark.parametrize("steepness", ["steep", 0, -1, math.inf, math.nan])
def test_bad_steepness_is_refused_when_the_function_is_made(steepness: Any) -> None:
    with pytest.raises(ConfigError, match="LOSS_STEEPNESS"):
        LossFunction(EARLIER, steepness)


def test_bad_direction_is_refused_when_the_function_is_made() -> None:
    with pytest.raises(ConfigError, match="LOSS_DIRECTION"):
        LossFunction(EARLIER, "calibrated", "upwards")  # type: ignore[arg-type]


# --- targets files ------------------------------------------------------------------------


def document() -> dict[str, Any]:
    return {**EARLIER.to_dict(), "models": {"relevance": "a", "factuality": "b"}, "n": 12}


def test_the_earlier_systems_file_holds_its_published_numbers() -> None:
    loaded = Targets.load(RESOURCES / "targets-earlier-system.json")
    assert (loaded.mean, loaded.sigma) == (EARLIER.mean, EARLIER.sigma)
    assert dict(loaded.models) == {"relevance": "roberta-large", "factuality": "AlignScore-base"}
    assert loaded.details["n"] == 358


@for_all(targets)
def test_a_file_brings_back_exactly_what_was_saved(tmp_path_factory, target) -> None:
    path = tmp_path_factory.mktemp("targets") / "targets.json"
    saved = Targets(target.mean, target.sigma, {"relevance": "é"}, {"n": 3, "split": None})
    saved.save(path)
    assert Targets.load(path) == saved
    assert [entry.name for entry in path.parent.iterdir()] == ["targets.json"]


def test_details_cannot_replace_a_target() -> None:
    saved = Targets(EARLIER.mean, EARLIER.sigma, {}, {"TARGET_FKGL": 1.0, "models": {"x": "y"}})
    assert Targets.from_dict(saved.to_dict()) == Targets(EARLIER.mean, EARLIER.sigma)


def test_saving_replaces_the_file_or_says_which_cannot_be_written(tmp_path: Path) -> None:
    path = tmp_path / "t.json"
    path.write_text("old")
    EARLIER.save(path)
    assert Targets.load(path).mean == EARLIER.mean
    with pytest.raises(ConfigError, match=r"no-folder.*t\.json"):
        EARLIER.save(tmp_path / "no-folder" / "t.json")


@pytest.mark.parametrize("key", [f"{kind}_{name}" for kind in ("TARGET", "SIGMA") for name in KEYS])
@pytest.mark.parametrize("bad", ["0.5", None, True, [1], math.nan, math.inf, 10**400])
def test_a_bad_value_is_an_error_naming_its_key(tmp_path: Path, key: str, bad: Any) -> None:
    path = tmp_path / "targets.json"
    path.write_text(json.dumps({**document(), key: bad}))
    with pytest.raises(ConfigError, match=key) as caught:
        Targets.load(path)
    assert str(path) in caught.value.message


@pytest.mark.parametrize("key", [f"{kind}_{name}" for kind in ("TARGET", "SIGMA") for name in KEYS])
def test_a_missing_value_is_an_error_naming_its_key(key: str) -> None:
    incomplete = {name: value for name, value in document().items() if name != key}
    with pytest.raises(ConfigError, match=key):
        Targets.from_dict(incomplete)


@pytest.mark.parametrize("sigma", [0, -1.0])
def test_a_deviation_must_be_above_zero(sigma: float) -> None:
    with pytest.raises(ConfigError, match="SIGMA_SMOG must be above 0"):
        Targets.from_dict({**document(), "SIGMA_SMOG": sigma})


@pytest.mark.parametrize("models", [["a"], "a", {"relevance": 3}])
def test_models_must_be_names(models: Any) -> None:
    with pytest.raises(ConfigError, match="models"):
        Targets.from_dict({**document(), "models": models})


@pytest.mark.parametrize("content", [b"", b"{", b"[1, 2]", b"3", b"\xff\xfe{}"])
def test_a_file_that_is_no_json_object_is_an_error_naming_it(tmp_path: Path, content: bytes):
    path = tmp_path / "broken.json"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"broken\.json"):
        Targets.load(path)


def test_a_missing_file_is_an_error_naming_it(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.json"):
        Targets.load(tmp_path / "nowhere.json")


def test_too_few_numbers_are_refused() -> None:
    with pytest.raises(ConfigError, match="5 SIGMA_"):
        Targets((0.5,) * 5, (0.5,) * 4)


# --- targets of other models --------------------------------------------------------------


def test_targets_say_which_serving_models_did_not_make_them() -> None:
    made = Targets.load(RESOURCES / "targets-earlier-system.json")
    assert made.made_with_other_models(made.models) == []
    assert made.made_with_other_models({"relevance": "FacebookAI/roberta-large"}) == []
    warnings = made.made_with_other_models(
        {
            "relevance": "all-MiniLM-L6-v2",
            "factuality": "AlignScore-base",
            "readability": "textstat",
        }
    )
    assert len(warnings) == 1
    for name in ("relevance", "roberta-large", "all-MiniLM-L6-v2"):
        assert name in warnings[0]


def test_models_of_two_organisations_are_not_the_same() -> None:
    made = Targets(EARLIER.mean, EARLIER.sigma, {"relevance": "one/encoder"})
    assert len(made.made_with_other_models({"relevance": "two/encoder"})) == 1


def test_targets_that_name_no_models_warn_of_nothing() -> None:
    assert EARLIER.made_with_other_models({"relevance": "x"}) == []
