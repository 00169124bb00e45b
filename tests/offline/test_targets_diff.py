"""`plainmed targets`: what changed from one file to another, and what a file holds."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.core.resources import RESOURCES
from serve_app.metrics.loss import METRICS, Targets, steepness_factor
from serve_app.metrics.targets import EMBEDDED_TARGETS
from serve_app.offline.calibration.diff import difference
from tests.support.calibration_corpus import calibrated
from tests.support.command import plainmed, refused

FACTOR = math.log(19)
MEANS, SDS = (0.7, 0.3, 12.0, 14.0, 10.0), (0.06, 0.15, 2.0, 3.0, 1.0)


def saved(path: Path, targets: Targets) -> Path:
    targets.save(path)
    return path


@pytest.fixture
def a(tmp_path: Path) -> Path:
    return saved(tmp_path / "a.json", calibrated())


def moved(**details: Any) -> Targets:
    """FKGL one deviation up (beyond both intervals) with twice its deviation; SMOG a little."""
    return calibrated((0.7, 0.3, 14.0, 14.3, 10.0), (0.06, 0.15, 4.0, 3.0, 1.0), **details)


# --- the difference -----------------------------------------------------------------------


def test_a_metric_that_moved_is_told_from_one_that_did_not() -> None:
    found = {one.metric: one for one in difference(calibrated(), moved(), FACTOR).metrics}
    fkgl, smog, factuality = found["fkgl"], found["smog"], found["factuality"]
    assert fkgl.change == pytest.approx(2.0)
    assert fkgl.change_in_sds == pytest.approx(1.0)  # of the first file's deviation, 2
    assert fkgl.means_overlap is False  # 11.6 to 12.4, and 13.2 to 14.8
    assert fkgl.sds_overlap is False  # 1.6 to 2.4, and 3.2 to 4.8
    assert fkgl.k == pytest.approx((FACTOR / 2, FACTOR / 4))
    assert smog.change_in_sds == pytest.approx(0.1)
    assert smog.means_overlap is True
    assert not smog.within(0.05)
    assert smog.within(0.2)
    assert factuality.k is None
    assert factuality.within(0.0)


def test_intervals_that_touch_have_a_common_point() -> None:
    document = calibrated().to_dict()
    document["distributions"]["fkgl"]["mean_interval"] = [12.4, 13.0]
    touching = Targets.from_dict(document)
    assert difference(calibrated(), touching, FACTOR).metrics[2].means_overlap is True
    document["distributions"]["fkgl"]["mean_interval"] = [12.4001, 13.0]
    assert (
        difference(calibrated(), Targets.from_dict(document), FACTOR).metrics[2].means_overlap
        is False
    )


@given(
    one=st.tuples(st.floats(1, 20), st.floats(0.1, 5)),
    other=st.tuples(st.floats(1, 20), st.floats(0.1, 5)),
)
def test_the_other_way_round_everything_is_turned(
    one: tuple[float, float], other: tuple[float, float]
) -> None:
    first = calibrated((0.7, 0.3, one[0], 14.0, 10.0), (0.06, 0.15, one[1], 3.0, 1.0))
    second = calibrated((0.7, 0.3, other[0], 14.0, 10.0), (0.06, 0.15, other[1], 3.0, 1.0))
    there, back = difference(first, second, FACTOR), difference(second, first, FACTOR)
    assert there.metrics[2].change == -back.metrics[2].change
    assert there.metrics[2].means_overlap == back.metrics[2].means_overlap
    assert there.metrics[2].sds_overlap == back.metrics[2].sds_overlap
    assert there.metrics[2].k == back.metrics[2].k[::-1]  # type: ignore[index]
    assert difference(first, first, FACTOR).same(0.0)


def test_an_interval_of_a_number_changed_by_hand_says_nothing() -> None:
    edited = Targets.from_dict({**calibrated().to_dict(), "TARGET_FKGL": 8.0, "SIGMA_SMOG": 1.0})
    found = difference(calibrated(), edited, FACTOR)
    assert found.metrics[2].means_overlap is None
    assert found.metrics[2].sds_overlap is True
    assert found.metrics[3].sds_overlap is None
    assert found.remarks == (
        "changed by hand in B, so without an interval: TARGET_FKGL, SIGMA_SMOG",
    )


@pytest.mark.parametrize(
    ("other", "says"),
    [
        (calibrated(models={"relevance": "large", "factuality": "aligner"}), "relevance: encoder"),
        (calibrated(models={"relevance": "encoder"}), "factuality: aligner and unknown model"),
        (calibrated(eval_mode="bin_sp"), "eval_mode: nli_sp and bin_sp"),
        (calibrated(probe=[0.9, 0.5, 9.0, 10.0, 8.0]), "other weights or settings"),
        (
            calibrated(settings={"bertscore_long_text": "window"}),
            "bertscore_long_text: truncate and window",
        ),
    ],
)
def test_other_models_are_never_the_same_targets(other: Targets, says: str) -> None:
    found = difference(calibrated(), other, FACTOR)
    assert [text for text in found.other_models if says in text]
    assert not found.same()
    assert found.other_texts is None


def test_probes_that_differ_by_rounding_are_of_the_same_models() -> None:
    other = calibrated(
        probe=[0.8004, 0.5, 9.0, 10.0, 8.0],
        models={"relevance": "org/encoder", "factuality": "aligner"},
    )
    assert difference(calibrated(), other, FACTOR).other_models == ()


def test_other_texts_and_versions_are_named_but_do_not_make_other_targets() -> None:
    other = calibrated(fingerprint="sha256:" + "cd" * 32, n=60, versions={"torch": "2.14.0"})
    found = difference(calibrated(), other, FACTOR)
    assert found.other_texts is not None
    assert "50 pairs of pairs.csv (abababababab) and 60" in found.other_texts
    assert found.remarks == ("torch 2.13.0 and 2.14.0",)
    assert found.same()


def test_files_without_a_calibration_are_compared_by_their_numbers() -> None:
    earlier = Targets.load(RESOURCES / "targets-earlier-system.json")
    found = difference(earlier, calibrated(), FACTOR)
    assert all(one.means_overlap is None for one in found.metrics)
    assert found.other_texts is not None
    assert "no fingerprint" in found.other_texts
    assert difference(earlier, earlier, FACTOR).same(0.0)


# --- the command --------------------------------------------------------------------------


def test_the_command_prints_both_and_ends_with_one_where_they_differ(
    a: Path, tmp_path: Path
) -> None:
    b = saved(tmp_path / "b.json", moved(eval_mode="bin_sp"))
    result = plainmed("targets", "diff", a, b)
    assert result.exit_code == 1
    lines = result.stdout.splitlines()
    (mean, deviation) = [line.split() for line in lines if line.split()[:1] == ["fkgl"]]
    assert mean == ["fkgl", "12.000", "14.000", "+2.000", "+1.00", "apart"]
    assert deviation == ["fkgl", "2.000", "4.000", "+2.000", "apart", "1.472", "0.736"]
    assert ["factuality", "0.150", "0.150", "+0.000", "overlap"] in [one.split() for one in lines]
    assert "other models: eval_mode: nli_sp and bin_sp" in lines
    assert max(map(len, lines)) <= 80


def test_the_status_is_zero_for_the_same_and_follows_the_tolerance(a: Path, tmp_path: Path) -> None:
    assert plainmed("targets", "diff", a, a).exit_code == 0
    b = saved(tmp_path / "b.json", calibrated((0.7, 0.3, 12.1, 14.0, 10.0)))
    assert plainmed("targets", "diff", a, b).exit_code == 1
    assert plainmed("targets", "diff", a, b, "--tolerance", 0.1).exit_code == 0


def test_json_says_the_same_as_data(a: Path, tmp_path: Path) -> None:
    b = saved(tmp_path / "b.json", moved())
    result = plainmed("targets", "diff", a, b, "--json")
    assert result.exit_code == 1
    found = json.loads(result.stdout)
    assert found["same"] is False
    assert list(found["metrics"]) == list(METRICS)
    assert found["metrics"]["fkgl"]["mean"] == {"a": 12.0, "b": 14.0}
    assert found["metrics"]["fkgl"]["means_overlap"] is False
    assert found["metrics"]["relevance"]["k"] is None


def test_k_is_that_of_the_steepness_that_serves(a: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOSS_STEEPNESS", "legacy")
    found = json.loads(plainmed("targets", "diff", a, a, "--json").stdout)
    assert found["metrics"]["fkgl"]["k"]["a"] == steepness_factor("legacy") / 2.0


def test_a_file_that_cannot_be_read_is_named(a: Path, tmp_path: Path) -> None:
    (tmp_path / "broken.json").write_text("{}")
    assert "broken.json" in refused("targets", "diff", a, tmp_path / "broken.json")
    assert "nowhere.json" in refused("targets", "show", tmp_path / "nowhere.json")


def test_show_prints_targets_intervals_and_quantiles(a: Path, tmp_path: Path) -> None:
    result = plainmed("targets", "show", a)
    assert result.exit_code == 0
    lines = [line.split() for line in result.stdout.splitlines()]
    assert ["fkgl", "12.000", "11.600", "to", "12.400", "2.000", "1.600", "to", "2.400"] in lines
    assert ["fkgl", "6.000", "8.000", "10.000", "12.000", "14.000", "16.000", "18.000"] in lines
    assert "models: relevance encoder, factuality aligner" in result.stdout
    assert "BCa bootstrap of 5000 resamples" in result.stdout
    assert max(map(len, result.stdout.splitlines())) <= 80
    edited = Targets.from_dict({**calibrated().to_dict(), "SIGMA_DALECHALL": 2.0})
    shown = plainmed("targets", "show", saved(tmp_path / "edited.json", edited)).stdout
    assert "changed by hand since: SIGMA_DALECHALL" in shown


def test_show_prints_any_file_that_serves() -> None:
    for path in (EMBEDDED_TARGETS, RESOURCES / "targets-earlier-system.json"):
        result = plainmed("targets", "show", path)
        assert result.exit_code == 0
        assert all(metric in result.stdout for metric in METRICS)
        document = json.loads(plainmed("targets", "show", path, "--json").stdout)
        assert Targets.from_dict(document) == Targets.load(path)
