"""The drawing of a calibration: valid SVG, with bars, bands and quantiles where they belong."""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree as ET

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from serve_app.metrics.loss import METRIC_NAMES, METRICS, Targets
from serve_app.offline.calibration.plot import draw
from serve_app.offline.svg_charts import WIDTH, Band, Quantiles, histogram, ticks
from tests.support.calibration_corpus import calibrated

SVG = "{http://www.w3.org/2000/svg}"


def table(rows: int = 400) -> np.ndarray:
    targets = calibrated()
    return np.random.default_rng(0).normal(targets.mean, targets.sigma, (rows, 5))


def parts(drawing: ET.Element, name: str) -> list[dict[str, str]]:
    return [one.attrib for one in drawing.iter() if one.get("class") == name]


def axis(drawing: ET.Element) -> tuple[float, float]:
    """Value = offset + scale * place, from the labels of the ticks."""
    places = [float(one["x1"]) for one in parts(drawing, "tick")]
    texts = [one for one in drawing.iter(f"{SVG}text") if one.get("text-anchor") == "middle"]
    values = [float(one.text or "") for one in texts]
    assert len(places) == len(values) >= 2
    scale, offset = np.polyfit(places, values, 1)
    assert offset + scale * np.array(places) == pytest.approx(values, abs=0.01)
    return float(offset), float(scale)


def test_a_drawing_has_one_histogram_a_metric_and_asks_for_nothing() -> None:
    text = draw(table(), calibrated(corpus="a & b <c>.csv"))
    document = ET.fromstring(text)
    assert document.tag == f"{SVG}svg"
    assert document.findtext(f"{SVG}title") == "50 human summaries of a & b <c>.csv"
    labels = [one.get("aria-label", "") for one in document.findall(f"{SVG}svg")]
    assert [label.split(".")[0] for label in labels] == [*METRIC_NAMES.values()]
    assert not re.search(r"href|url\(|<script|<style|@import|<image", text)
    assert set(re.findall(r"https?://[^\"]+", text)) == {"http://www.w3.org/2000/svg"}


def test_each_metric_has_its_own_place() -> None:
    drawings = ET.fromstring(draw(table(), calibrated())).findall(f"{SVG}svg")
    places = {(one.get("x", "0"), one.get("y", "0")) for one in drawings}
    assert len(places) == len(METRICS)


def test_band_line_and_quantiles_are_where_the_axis_says() -> None:
    targets = calibrated()
    drawings = ET.fromstring(draw(table(), targets)).findall(f"{SVG}svg")
    for drawing, metric, mean, sigma in zip(
        drawings, METRICS, targets.mean, targets.sigma, strict=True
    ):
        offset, scale = axis(drawing)

        def value(place: float, offset: float = offset, scale: float = scale) -> float:
            return offset + scale * place

        room = 0.02 * sigma
        (band,) = parts(drawing, "band")
        left = float(band["x"])
        assert value(left) == pytest.approx(mean - sigma, abs=room)
        assert value(left + float(band["width"])) == pytest.approx(mean + sigma, abs=room)
        (centre,) = parts(drawing, "centre")
        assert value(float(centre["x1"])) == pytest.approx(mean, abs=room)
        (box,) = parts(drawing, "box")
        (median,) = parts(drawing, "median")
        quantiles = getattr(targets.calibration.distributions, metric).quantiles  # type: ignore[union-attr]
        assert value(float(box["x"])) == pytest.approx(quantiles["25"], abs=room)
        assert value(float(median["x1"])) == pytest.approx(quantiles["50"], abs=room)


def test_bars_are_as_high_as_there_are_values_and_cover_them_all() -> None:
    values = [1.0] * 30 + [2.0] * 10 + [9.0]
    drawing = ET.fromstring(histogram(values, "x", span=(0, 10)))
    offset, scale = axis(drawing)
    bars = parts(drawing, "bar")
    heights = [float(bar["height"]) for bar in bars]
    assert [height / max(heights) for height in heights] == pytest.approx(
        [1, 1 / 3, 1 / 30], abs=0.01
    )
    for bar, value in zip(bars, (1.0, 2.0, 9.0), strict=True):
        low = offset + scale * float(bar["x"])
        high = low + scale * float(bar["width"])
        assert low - 0.1 <= value <= high + 0.1


finite = st.floats(-1e6, 1e6, allow_subnormal=False).map(lambda x: round(x, 4))


@given(values=arrays.arrays(np.float64, st.integers(1, 30), elements=finite), width=finite)
def test_any_values_make_valid_svg_inside_its_frame(values: np.ndarray, width: float) -> None:
    mean = float(values.mean())
    band = Band(mean, mean - abs(width), mean + abs(width))
    five = np.quantile(values, [0.05, 0.25, 0.5, 0.75, 0.95]).tolist()
    text = histogram(values, "<&>", band=band, quantiles=Quantiles(tuple(five)))
    drawing = ET.fromstring(text)
    assert "nan" not in text
    for one in drawing.iter():
        for key in ("x", "x1", "x2"):
            assert -0.5 <= float(one.get(key, "0")) <= WIDTH + 0.5
    assert parts(drawing, "bar")


@pytest.mark.parametrize("values", [[], [1.0, float("nan")], [float("inf")]])
def test_what_cannot_be_counted_is_refused(values: list[float]) -> None:
    with pytest.raises(ValueError, match="finite"):
        histogram(values, "x")


@given(low=st.floats(-1e5, 1e5), length=st.floats(1e-3, 1e5))
def test_ticks_are_few_round_and_inside(low: float, length: float) -> None:
    found = ticks(low, low + length)
    assert 2 <= len(found) <= 7
    assert all(low - 1e-6 * length <= value <= low + length * (1 + 1e-6) for value in found)
    steps = np.diff(found)
    assert steps == pytest.approx(steps[0], rel=1e-6)


def test_targets_that_are_no_calibration_cannot_be_drawn(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="calibration"):
        draw(table(), Targets(calibrated().mean, calibrated().sigma))
