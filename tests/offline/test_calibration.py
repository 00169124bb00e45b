"""Calibration on CSV files written here, with the real metrics on the embedded encoder."""

from __future__ import annotations

import csv
import statistics
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from xml.etree import ElementTree as ET

import numpy as np
import pytest
from scipy import stats

from serve_app import __version__
from serve_app.core.errors import ConfigError
from serve_app.core.settings import load_settings
from serve_app.metrics.loss import METRICS, LossFunction, Targets
from serve_app.metrics.suite import MetricSuite
from serve_app.metrics.targets import EMBEDDED_TARGETS, load_targets
from serve_app.offline.calibration import calibrate_targets, choose, read_pairs, run
from serve_app.offline.calibration.pairs import select
from serve_app.offline.corpus.scorer import _PROBE
from tests.support.calibration_corpus import HEADER, ROWS, make_pair, write_pairs


def sample_sd(values: np.ndarray, axis: int = -1) -> np.ndarray:
    return np.std(values, axis=axis, ddof=1)


WriteCsv = Callable[..., Path]


@pytest.fixture
def write_csv(tmp_path: Path) -> WriteCsv:
    def write(rows: list[list[str]], header: list[str] | None = None, name: str = "p.csv") -> Path:
        return write_pairs(tmp_path / name, rows, header)

    return write


@pytest.fixture
def suite(tiny_suite: MetricSuite) -> MetricSuite:
    return tiny_suite


def test_targets_are_mean_and_sample_deviation_of_the_train_rows(write_csv, suite) -> None:
    targets = calibrate_targets(write_csv(ROWS), suite=suite, progress=False, chunk_size=3)
    train = [row for row in ROWS if row[2] == "train"]
    measured = suite.measure([row[0] for row in train], [row[1] for row in train])
    for index in range(5):
        column = [item.values[index] for item in measured]
        assert targets.mean[index] == pytest.approx(statistics.mean(column), abs=1e-6)
        assert targets.sigma[index] == pytest.approx(statistics.stdev(column), abs=1e-6)
    assert targets.models == {"relevance": "all-MiniLM-L6-v2", "factuality": "tiny"}
    assert targets.details["n"] == 4
    assert targets.details["corpus"] == "p.csv"
    assert targets.details["split"] == "train"
    assert targets.details["eval_mode"] == "nli_sp"


def test_each_metric_has_its_quantiles_and_intervals(write_csv, suite) -> None:
    pairs = [make_pair(number, "train") for number in range(20)]
    targets = calibrate_targets(write_csv(pairs), suite=suite, progress=False)
    measured = suite.measure([row[0] for row in pairs], [row[1] for row in pairs])
    for index, metric in enumerate(METRICS):
        column = np.array([item.values[index] for item in measured])
        found = getattr(targets.calibration.distributions, metric)
        assert (found.n, found.mean, found.sd) == (20, targets.mean[index], targets.sigma[index])
        for percent, value in found.quantiles.items():
            assert value == pytest.approx(np.percentile(column, int(percent)), abs=1e-6)
        for ends, statistic in ((found.mean_interval, np.mean), (found.sd_interval, sample_sd)):
            # Two sets of resamples: the ends agree to a part of the interval's length.
            wanted = stats.bootstrap(
                (column,), statistic, n_resamples=5000, rng=np.random.default_rng(1)
            ).confidence_interval
            room = 0.12 * (wanted.high - wanted.low)
            assert ends == pytest.approx([wanted.low, wanted.high], abs=room)


def test_the_file_says_what_it_was_made_with(write_csv, suite, tmp_path: Path) -> None:
    path = write_csv(ROWS)
    calibrate_targets(path, tmp_path / "a.json", suite=suite, progress=False, seed=7)
    calibrate_targets(path, tmp_path / "b.json", suite=suite, progress=False, seed=7)
    content = (tmp_path / "a.json").read_text()
    assert content == (tmp_path / "b.json").read_text()  # no date, nothing random
    assert str(tmp_path) not in content
    found = Targets.load(tmp_path / "a.json").calibration
    assert found is not None
    assert found.versions["torch"] == version("torch")
    assert found.version == __version__
    assert found.fingerprint == select(path, "train", 1.0, 7).fingerprint
    assert found.bootstrap.model_dump() == {
        "method": "BCa",
        "resamples": 5000,
        "confidence": 0.95,
        "seed": 7,
    }
    (probe,) = suite.measure([_PROBE[0]], [_PROBE[1]])
    assert found.probe == pytest.approx(probe.values, abs=1e-6)


def test_a_plot_shows_the_targets_that_were_made(write_csv, suite, tmp_path: Path) -> None:
    drawing = tmp_path / "d.svg"
    targets = calibrate_targets(
        write_csv(ROWS), tmp_path / "t.json", suite=suite, progress=False, plot=drawing
    )
    text = drawing.read_text(encoding="utf-8")
    assert ET.fromstring(text).tag.endswith("svg")
    for mean in targets.mean:
        assert f"mean {mean:.4g}," in text


def test_a_plot_that_cannot_be_written_is_refused_before_the_work(write_csv, tmp_path) -> None:
    for place in (tmp_path / "no-folder" / "d.svg", "s3://bucket/d.svg", tmp_path / "t.json"):
        with pytest.raises(ConfigError, match=r"cannot (write|both be)"):
            calibrate_targets(write_csv(ROWS), tmp_path / "t.json", plot=place)


def test_texts_in_many_blocks_are_on_ray_where_auto_says_so(write_csv, monkeypatch) -> None:
    made: list[tuple[bool, object]] = []

    def noted(on_ray: bool, address: str | None, workers: int | None):
        made.append((on_ray, address))
        raise ConfigError("far enough")

    monkeypatch.setattr(run, "_on_settings", noted)
    monkeypatch.setattr(run, "RAY_ROWS", 4)
    for path in (write_csv(ROWS), write_csv(ROWS[:4], name="few.csv")):
        for engine in ("auto", "local", "ray"):
            with pytest.raises(ConfigError, match="far enough"):
                calibrate_targets(path, engine=engine)
    assert [on_ray for on_ray, _ in made] == [True, False, True, False, False, True]


def test_the_saved_file_is_what_was_returned_and_can_serve(write_csv, suite, tmp_path) -> None:
    path = tmp_path / "targets.json"
    targets = calibrate_targets(write_csv(ROWS), path, suite=suite, progress=False)
    assert Targets.load(path) == targets
    assert load_targets(load_settings(targets_file=str(path))) == targets
    assert targets.made_with_other_models(suite.models) == []
    assert LossFunction(targets)([targets.mean])[0] == 0


@pytest.mark.parametrize("chunk_size", [1, 100])
def test_chunk_size_changes_no_target(write_csv, suite, chunk_size: int) -> None:
    path = write_csv(ROWS)
    one = calibrate_targets(path, suite=suite, progress=False, chunk_size=chunk_size)
    other = calibrate_targets(path, suite=suite, progress=False, chunk_size=3)
    assert one.mean == pytest.approx(other.mean, abs=1e-6)
    assert one.sigma == pytest.approx(other.sigma, abs=1e-6)


def test_without_a_split_every_row_is_used(write_csv, suite) -> None:
    path = write_csv([row[:2] for row in ROWS], HEADER[:2])
    targets = calibrate_targets(path, suite=suite, progress=False, split=None)
    assert (targets.details["n"], targets.details["split"]) == (5, None)


def test_a_subset_is_random_in_order_and_the_same_for_a_seed(write_csv) -> None:
    pairs = read_pairs(write_csv(ROWS * 20))
    assert len(pairs) == 80
    half = choose(pairs, 0.5, seed=3)
    assert len(half) == 40
    assert half == choose(pairs, 0.5, seed=3)
    assert half != choose(pairs, 0.5, seed=4)
    assert half != pairs[:40]
    assert [pair.row for pair in half] == sorted({pair.row for pair in half})
    assert choose(pairs, 1.0, seed=9) == pairs
    assert len(choose(pairs, 1e-6, seed=0)) == 2


def test_the_progress_bar_goes_to_stderr_and_can_be_turned_off(write_csv, suite, capsys) -> None:
    path = write_csv(ROWS)
    calibrate_targets(path, suite=suite)
    shown = capsys.readouterr()
    assert "4/4" in shown.err
    assert shown.out == ""
    calibrate_targets(path, suite=suite, progress=False)
    assert capsys.readouterr().err == ""


def test_texts_longer_than_the_csv_modules_limit_are_read(write_csv) -> None:
    before = csv.field_size_limit()
    long = "A trial found no difference. " * 10_000
    pairs = read_pairs(write_csv([[long, "No difference.", "train"], *ROWS]))
    assert pairs[0].source == long
    assert csv.field_size_limit() == before


def test_line_breaks_quotes_and_a_byte_order_mark_are_read(tmp_path: Path) -> None:
    path = tmp_path / "bom.csv"
    text = '\ufeffsplit,target_text,source_text\r\ntrain,"a ""b""\nc","d, é"\r\n'
    path.write_bytes(text.encode())
    (pair,) = read_pairs(path)
    assert (pair.row, pair.source, pair.target) == (1, "d, é", 'a "b"\nc')


@pytest.mark.parametrize("column", HEADER)
def test_a_missing_column_is_named(write_csv, column: str) -> None:
    kept = [index for index, name in enumerate(HEADER) if name != column]
    path = write_csv([[row[i] for i in kept] for row in ROWS], [HEADER[i] for i in kept])
    with pytest.raises(ConfigError, match=rf"p\.csv has no column {column}") as caught:
        calibrate_targets(path)
    assert ("split=None" in caught.value.message) == (column == "split")


def test_a_column_that_is_there_twice_is_named(write_csv) -> None:
    path = write_csv([], [*HEADER, "source_text"])
    with pytest.raises(ConfigError, match="names a column twice"):
        read_pairs(path)


@pytest.mark.parametrize("index", [0, 1])
@pytest.mark.parametrize("empty", ["", "  \n", "...", "\u2014"])
def test_a_cell_without_text_is_named_by_column_and_row(write_csv, index: int, empty: str) -> None:
    rows = [list(row) for row in ROWS]
    rows[3][index] = empty
    with pytest.raises(ConfigError, match=rf"p\.csv: column {HEADER[index]}, row 4: the text"):
        read_pairs(write_csv(rows))


def test_an_empty_cell_in_a_row_not_used_does_no_harm(write_csv) -> None:
    rows = [list(row) for row in ROWS]
    rows[1][0] = ""
    assert len(read_pairs(write_csv(rows))) == 4


def test_a_short_row_is_named(write_csv) -> None:
    with pytest.raises(
        ConfigError, match=r"row 6 \(up to line 7\) does not have the 3 fields.* but 1;"
    ):
        read_pairs(write_csv([*ROWS, ["only a source"]]))


def test_a_row_with_unquoted_commas_is_named(tmp_path: Path) -> None:
    path = tmp_path / "p.csv"
    path.write_text("source_text,target_text,split\na,b,train\na, b, c, d,train\n")
    with pytest.raises(
        ConfigError, match=r"row 2 .* the 3 fields of the header, but 5; put quotes around"
    ):
        read_pairs(path)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "no column source_text .its columns: none"),
        (b"source_text,target_text,split\n", "header but no rows"),
        (b"\x00\x01\x02\xff", r"the header is not UTF-8 text \(byte 3\)"),
        ("source_text,target_text,split\na,b,train\n".encode("utf-16"), "not UTF-8 text"),
        (b'{"source_text": 1}', "no column source_text"),
        (b"source_text\ttarget_text\tsplit\na\tb\ttrain\n", "no column source_text"),
        (b'source_text,target_text,split\na,"b,train\n', "row 1 is not CSV"),
        (b'source_text,target_text,split\na,b,train\na,"b"x,train\n', "row 2 is not CSV"),
        (b"source_text,target_text,split\na,b\xe9,train\n", r"row 1 is not UTF-8 text \(byte 33\)"),
        (b"source_text,target_text,split\na,b,test\n", "column split is 'train' in none of its 1"),
    ],
)
def test_a_wrong_file_is_named_with_what_is_wrong(tmp_path: Path, content: bytes, says: str):
    path = tmp_path / "wrong.csv"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=says) as caught:
        calibrate_targets(path)
    assert str(path) in caught.value.message


def test_a_missing_file_and_a_folder_are_named(tmp_path: Path) -> None:
    for path in (tmp_path / "nowhere.csv", tmp_path):
        with pytest.raises(ConfigError, match="cannot read") as caught:
            calibrate_targets(path)
        assert str(path) in caught.value.message


def test_one_pair_has_no_deviation(write_csv) -> None:
    with pytest.raises(ConfigError, match="at least 2 pairs; there is 1"):
        calibrate_targets(write_csv(ROWS[:2]))


def test_equal_summaries_make_no_targets(write_csv, suite) -> None:
    path = write_csv([ROWS[0]] * 3)
    with pytest.raises(ConfigError, match=r"p\.csv: these 3 summaries.*SIGMA_RELEVANCE"):
        calibrate_targets(path, suite=suite, progress=False)


@pytest.mark.parametrize("subset", [0, -0.5, 1.01, float("nan")])
def test_a_subset_must_be_a_share(write_csv, subset: float) -> None:
    with pytest.raises(ConfigError, match="subset"):
        calibrate_targets(write_csv(ROWS), subset=subset)


def test_chunk_size_must_be_positive(write_csv) -> None:
    with pytest.raises(ConfigError, match="chunk_size"):
        calibrate_targets(write_csv(ROWS), chunk_size=0)


def test_an_unwritable_place_is_refused_before_the_work(write_csv, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no-folder"):
        calibrate_targets(write_csv(ROWS), tmp_path / "no-folder" / "t.json")


def test_a_missing_targets_file_is_named() -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.json"):
        load_targets(load_settings(targets_file="nowhere.json"))


def test_the_shipped_targets_are_those_of_the_embedded_models() -> None:
    targets = load_targets(load_settings())
    assert targets == Targets.load(EMBEDDED_TARGETS)
    serving = {"relevance": "all-MiniLM-L6-v2", "factuality": "alignscore-mini"}
    assert targets.models == serving
    assert targets.details["split"] == "train"
    assert targets.details["n"] == 308
