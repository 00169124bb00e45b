"""What a targets file says of its calibration: read strictly, and old files as ever."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from serve_app.core.errors import ConfigError
from serve_app.core.resources import RESOURCES
from serve_app.metrics.loss import METRICS, Targets
from serve_app.metrics.targets_schema import Distributions
from tests.support.calibration_corpus import calibrated, distribution


def without(document: dict[str, Any], key: str) -> dict[str, Any]:
    return {name: value for name, value in document.items() if name != key}


def test_what_was_saved_is_read_and_nothing_of_it_is_lost(tmp_path: Path) -> None:
    saved = calibrated(note="grade 12, as the house style asks")
    saved.save(tmp_path / "t.json")
    loaded = Targets.load(tmp_path / "t.json")
    assert loaded == saved
    assert loaded.calibration is not None
    assert loaded.calibration.distributions.fkgl.quantiles["50"] == 12.0
    assert loaded.calibration.bootstrap.resamples == 5000
    assert loaded.calibration.note == "grade 12, as the house style asks"


def test_the_distributions_are_those_of_the_metrics() -> None:
    assert tuple(Distributions.model_fields) == METRICS


@pytest.mark.parametrize("name", ["targets-earlier-system.json", "targets-embedded.json"])
def test_the_shipped_files_are_read_with_or_without_a_calibration(name: str) -> None:
    targets = Targets.load(RESOURCES / name)
    if "format" not in targets.details:
        assert targets.calibration is None
    assert set(targets.models) == {"relevance", "factuality"}


def test_a_file_without_a_format_may_say_what_it_likes() -> None:
    plain = {**Targets.load(RESOURCES / "targets-earlier-system.json").to_dict(), "date": "2024"}
    loaded = Targets.from_dict({**plain, "distributions": "none"})
    assert loaded.details["date"] == "2024"
    assert loaded.calibration is None


@pytest.mark.parametrize("version", [1, 3, "2", 2.5, None, True])
def test_another_format_is_refused_with_a_way_out(version: Any) -> None:
    with pytest.raises(ConfigError, match=r"format is .*reads 2.*calibrate again"):
        Targets.from_dict({**calibrated().to_dict(), "format": version})


def test_a_key_that_does_not_exist_is_named_and_a_remark_has_a_place() -> None:
    with pytest.raises(ConfigError, match=r"TARGET_FKLG: there is no such key.*under note"):
        Targets.from_dict({**calibrated().to_dict(), "TARGET_FKLG": 9.0})


@pytest.mark.parametrize("key", ["n", "fingerprint", "versions", "probe", "bootstrap"])
def test_a_missing_key_is_named(key: str) -> None:
    with pytest.raises(ConfigError, match=f"^{key}: "):
        Targets.from_dict(without(calibrated().to_dict(), key))


@pytest.mark.parametrize(
    ("change", "where"),
    [
        ({"n": 1}, "n: "),
        ({"n": 50.5}, "n: "),
        ({"n": True}, "n: "),
        ({"fingerprint": "sha256:abc"}, "fingerprint: "),
        ({"versions": {"torch": 2}}, "versions.torch: "),
        ({"probe": [1.0, 2.0]}, "probe: "),
        ({"probe": [1.0, 2.0, 3.0, 4.0, math.nan]}, "probe.4: "),
        ({"subset": 0.0}, "subset: "),
        (
            {"bootstrap": {"method": "BCa", "resamples": 0, "confidence": 0.95, "seed": 0}},
            "bootstrap.resamples: ",
        ),
        (
            {"bootstrap": {"method": "magic", "resamples": 9, "confidence": 0.95, "seed": 0}},
            "bootstrap.method: ",
        ),
    ],
)
def test_a_malformed_value_is_named(change: dict[str, Any], where: str) -> None:
    with pytest.raises(ConfigError, match=f"^{where}"):
        Targets.from_dict({**calibrated().to_dict(), **change})


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("mean", math.inf),
        ("mean", "12"),
        ("sd", -1.0),
        ("n", 0),
        ("mean_interval", [3.0]),
        ("mean_interval", [3.0, 2.0]),
        ("sd_interval", [1.0, math.nan]),
        ("quantiles", {"50": 1.0}),
        ("quantiles", dict.fromkeys(("5", "10", "25", "50", "75", "90"), 1.0)),
        ("quantiles", dict(zip(("5", "10", "25", "50", "75", "90", "95"), "abcdefg", strict=True))),
        (
            "quantiles",
            dict(zip(("5", "10", "25", "50", "75", "90", "95"), range(7, 0, -1), strict=True)),
        ),
        ("median", 3.0),
    ],
)
def test_a_malformed_distribution_is_named(tmp_path: Path, key: str, value: Any) -> None:
    document = calibrated().to_dict()
    document["distributions"]["smog"] = {**distribution(14.0, 3.0), key: value}
    path = tmp_path / "t.json"
    path.write_text(json.dumps(document))
    named = rf"t\.json: (distributions\.smog\.{key}|{key} is not a finite number)"
    with pytest.raises(ConfigError, match=named) as caught:
        Targets.load(path)
    assert "\n" not in caught.value.message


def test_a_distribution_that_is_missing_or_of_no_metric_is_named() -> None:
    document = calibrated().to_dict()
    document["distributions"] = without(document["distributions"], "smog")
    with pytest.raises(ConfigError, match=r"^distributions\.smog: "):
        Targets.from_dict(document)
    document = calibrated().to_dict()
    document["distributions"]["flesch"] = distribution(60.0, 5.0)
    with pytest.raises(ConfigError, match=r"^distributions\.flesch: there is no such key"):
        Targets.from_dict(document)


def test_a_target_set_by_hand_is_used_and_what_was_measured_stays() -> None:
    targets = Targets.from_dict({**calibrated().to_dict(), "TARGET_FKGL": 8.0})
    assert targets.mean[2] == 8.0
    assert targets.calibration is not None
    assert targets.calibration.distributions.fkgl.mean == 12.0
