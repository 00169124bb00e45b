"""What is generated in docs/ is what the scripts write today."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from serve_app.core.settings import Settings
from serve_app.metrics.loss import METRICS, Targets
from serve_app.metrics.targets import EMBEDDED_TARGETS
from tests.docs.blocks import difference
from tests.support.paths import ROOT


@pytest.fixture
def scripts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))


@pytest.fixture
def loss_charts(scripts: None) -> ModuleType:
    import loss_charts

    return loss_charts


@pytest.fixture
def api_reference(scripts: None) -> ModuleType:
    import api_reference

    return api_reference


def test_the_api_reference_is_that_of_the_application(api_reference: ModuleType) -> None:
    page = api_reference.PAGE.read_text(encoding="utf-8")
    fresh = api_reference.put(page, "reference", api_reference.reference(api_reference.document()))
    assert page == fresh, "run python scripts/api_reference.py"


def test_the_api_reference_says_types_ranges_and_defaults(api_reference: ModuleType) -> None:
    text = api_reference.reference(api_reference.document())
    assert "| `temperature` | number, 0 to 2 or null | absent |" in text
    assert "| `top_p` | number, above 0, at most 1 or null | absent |" in text
    assert "| `texts_original` | list of text | required | The medical originals. |" in text
    assert "| `stream` | true or false | `false` |" in text
    assert "- 200: number or list of number" in text


def test_every_route_of_the_reference_has_an_example(api_reference: ModuleType) -> None:
    shown = {example.path for example in api_reference.EXAMPLES}
    assert set(api_reference.document()["paths"]) <= shown | {"/"}


def test_the_curves_of_the_loss_are_those_of_the_loss(
    loss_charts: ModuleType, tmp_path: Path
) -> None:
    for path in loss_charts.write(tmp_path):
        committed = (loss_charts.CHARTS / path.name).read_text(encoding="utf-8")
        assert difference(committed, path.read_text(encoding="utf-8")) is None, (
            f"{path.name}: run python scripts/loss_charts.py"
        )


@pytest.mark.parametrize("metric", METRICS[2:])
def test_a_drawn_curve_has_the_errors_that_the_page_names(
    loss_charts: ModuleType, metric: str
) -> None:
    targets = Targets.load(EMBEDDED_TARGETS)
    index = METRICS.index(metric)
    values, errors = loss_charts.curve(metric, targets, "calibrated", "two_sided")
    distance = np.abs(values - targets.mean[index]) / targets.sigma[index]
    assert errors[np.argmin(distance)] == pytest.approx(0, abs=1e-9)
    assert np.interp(1.0, distance[80:], errors[80:]) == pytest.approx(0.9, abs=2e-3)
    _, better_is_free = loss_charts.curve(metric, targets, "calibrated", "one_sided")
    assert not better_is_free[:80].any()


def test_every_setting_is_in_the_settings_page() -> None:
    page = (ROOT / "docs" / "settings.md").read_text(encoding="utf-8")
    missing = [name for name in Settings.model_fields if f"| `{name.upper()}` |" not in page]
    assert not missing
