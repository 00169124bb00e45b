"""Measuring edited summaries, what is said of it, and correlation with ratings."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import kendalltau, spearmanr

from serve_app.core.errors import InvalidInput
from serve_app.core.resources import RESOURCES
from serve_app.evidence import check
from serve_app.metrics.difficulty import Difficulty
from serve_app.metrics.loss import METRICS, LossFunction, Targets
from serve_app.metrics.readability import readability
from serve_app.metrics.suite import MetricSuite
from serve_app.offline.validation.analysis import KindEffects, effects
from serve_app.offline.validation.measuring import (
    MEASURES,
    Measurements,
    Suite,
    materials,
    measure_perturbed,
    measure_rated,
    measure_readability,
)
from serve_app.offline.validation.page import (
    Sample,
    Validation,
    correlations_table,
    effects_table,
    to_html,
    to_json,
)
from serve_app.offline.validation.perturbations import PERTURBATIONS, names_in
from serve_app.offline.validation.ratings import correlations
from serve_app.offline.validation.texts import Texts, read_rated, read_summaries
from tests.support.texts import GENERATED, ORIGINALS
from tests.support.tiny_suite import make_suite

NAMES = list(MEASURES)
LOSS = LossFunction(Targets.load(RESOURCES / "targets-earlier-system.json"))
HOSTILE = '<script>window.ran = 1</script><img src="http://127.0.0.1:9/x">'


@pytest.fixture(scope="module")
def suite(tmp_path_factory: pytest.TempPathFactory) -> Suite:
    return Suite(make_suite(tmp_path_factory.mktemp("align")), LOSS, None, Difficulty.load())


def write_rows(path: Path, rows: list[dict[str, Any]]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def pairs(**more: Any) -> list[dict[str, Any]]:
    return [
        {"original": original, "generated": generated, **more}
        for original, generated in zip(ORIGINALS, GENERATED, strict=True)
    ]


@pytest.fixture
def texts(tmp_path: Path) -> Texts:
    return read_summaries(write_rows(tmp_path / "pairs.csv", pairs()))


# --- reading --------------------------------------------------------------------------------


def test_rows_are_drawn_by_seed_and_named_as_in_the_file(tmp_path: Path) -> None:
    rows = [
        {"original": f"original {at} was long", "generated": f"summary {at}"} for at in range(50)
    ]
    path = write_rows(tmp_path / "rows.csv", rows)
    drawn = read_summaries(path, limit=7, seed=3)
    assert drawn == read_summaries(path, limit=7, seed=3)
    assert drawn.numbers != read_summaries(path, limit=7, seed=4).numbers
    assert list(drawn.numbers) == sorted({*drawn.numbers})
    assert [rows[number - 1]["generated"] for number in drawn.numbers] == list(drawn.summaries)
    assert read_summaries(path).summaries == [row["generated"] for row in rows]


def test_rows_without_a_text_are_counted_and_left_out(tmp_path: Path) -> None:
    rows = [
        *pairs(),
        {"original": "", "generated": "Text."},
        {"original": "A b.", "generated": "1"},
    ]
    found = read_summaries(write_rows(tmp_path / "rows.csv", rows))
    assert (found.rows, found.left_out, len(found.numbers)) == (6, 2, 4)


def test_a_split_takes_its_rows_alone_and_must_be_there(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "rows.csv", [*pairs(split="train"), *pairs(split="test")])
    assert list(read_summaries(path, split="test").numbers) == [5, 6, 7, 8]
    with pytest.raises(InvalidInput, match="'dev'"):
        read_summaries(path, split="dev")
    with pytest.raises(InvalidInput, match="leave --split out"):
        read_summaries(write_rows(tmp_path / "plain.csv", pairs()), split="test")


def test_columns_that_could_be_meant_are_named(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "rows.csv", pairs(summary="Another summary of it."))
    with pytest.raises(InvalidInput, match="--generated-column"):
        read_summaries(path)
    assert read_summaries(path, generated="summary").columns["generated"] == "summary"


def test_ratings_are_numbers_and_rows_without_one_are_left_out(tmp_path: Path) -> None:
    rows = [{"text": one, "rating": at} for at, one in enumerate(GENERATED)]
    rows += [{"text": "One more text.", "rating": cell} for cell in ("", "good", "nan", "inf")]
    path = tmp_path / "rated.jsonl"
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    found = read_rated(path, limit=2)
    assert (list(found.ratings), found.left_out) == ([0.0, 1.0, 2.0, 3.0], 4)
    assert found.originals == []
    with pytest.raises(InvalidInput, match="at least 3 rows"):
        read_rated(write_rows(tmp_path / "few.csv", rows[:2]))


def test_a_corpus_in_another_language_is_refused_unless_the_check_is_off(tmp_path: Path) -> None:
    spanish = "Los participantes del ensayo tuvieron menos dolor después de tres meses."
    rows = [{"original": spanish, "generated": spanish}] * 4
    path = write_rows(tmp_path / "rows.csv", rows)
    with pytest.raises(InvalidInput, match="not English"):
        read_summaries(path)
    assert len(read_summaries(path, language_check=False).numbers) == 4


# --- measuring ------------------------------------------------------------------------------


def test_a_text_lends_what_others_have_and_its_source_has_not(texts: Texts) -> None:
    for at, one in enumerate(materials(texts, 0.5)):
        others = [text for place, text in enumerate(texts.summaries) if place != at]
        assert one.strangers
        assert all(any(sentence in other for other in others) for sentence in one.strangers)
        assert not {*one.names} & {*names_in(f"{one.source} {one.summary}")}


def test_measures_are_those_of_the_metrics_the_loss_and_the_findings(
    suite: Suite, texts: Texts
) -> None:
    found = measure_perturbed(texts, suite)
    assert found.base.shape == (4, len(NAMES))
    measured = suite.metrics.measure(texts.originals, texts.summaries)
    values = np.array([one.values for one in measured])
    assert found.base[:, : len(METRICS)] == pytest.approx(values, abs=1e-6)
    assert found.base[:, NAMES.index("loss")] == pytest.approx(LOSS(values), abs=1e-6)
    for at, pair in enumerate(zip(texts.originals, texts.summaries, strict=True)):
        checked = check(*pair)
        row = dict(zip(NAMES, found.base[at], strict=True))
        assert (row["severe"], row["omissions"]) == (checked.severe, len(checked.omissions))
        assert row["difficulty"] == suite.difficulty(pair[1])
    for kind, values in found.perturbed.items():
        for at, one in enumerate(materials(texts, 0.5)):
            edited = kind(one, f"0/{texts.numbers[at]}")
            assert (edited is None) == bool(np.isnan(values[at]).all())
            if edited is not None:
                assert values[at, NAMES.index("fkgl")] == readability(edited).fkgl


def test_a_measurement_is_the_same_for_a_seed_and_counts_the_texts(
    suite: Suite, texts: Texts
) -> None:
    kinds = PERTURBATIONS[:1]
    counted: list[int] = []
    one = measure_perturbed(texts, suite, kinds=kinds, seed=1, on_text=lambda: counted.append(1))
    two = measure_perturbed(texts, suite, kinds=kinds, seed=1)
    assert np.array_equal(one.perturbed[kinds[0]], two.perturbed[kinds[0]], equal_nan=True)
    assert len(counted) == 4


def test_each_source_is_encoded_once_for_all_forms_of_its_summary(
    suite: Suite, texts: Texts, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[tuple[int, int]] = []
    score = MetricSuite.measure

    def counted(self: MetricSuite, originals: Any, generated: Any) -> Any:
        calls.append((len({*originals}), len(generated)))
        return score(self, originals, generated)

    monkeypatch.setattr(MetricSuite, "measure", counted)
    measure_perturbed(texts, suite)
    assert [sources for sources, _ in calls] == [1] * 4
    assert all(forms > 10 for _, forms in calls)


def test_a_share_out_of_range_is_refused_before_the_work(suite: Suite, texts: Texts) -> None:
    for share in (0.0, -1.0, 1.01, float("nan")):
        with pytest.raises(InvalidInput, match="share"):
            measure_perturbed(texts, suite, share=share)


def test_a_text_that_the_models_refuse_is_named_by_its_row(
    suite: Suite, texts: Texts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(suite.metrics.factuality, "max_pairs", 1)
    with pytest.raises(InvalidInput, match=r"pairs\.csv: row 1: .*pairs to compare"):
        measure_perturbed(texts, suite)


def test_rated_texts_get_all_measures_with_originals_and_four_without(
    suite: Suite, tmp_path: Path
) -> None:
    rows = [{**row, "rating": at} for at, row in enumerate(pairs())]
    rated = read_rated(write_rows(tmp_path / "rated.csv", rows))
    assert list(measure_rated(rated, suite)) == NAMES
    alone = measure_readability(rated, suite.difficulty)
    assert list(alone) == ["fkgl", "smog", "dale_chall", "difficulty"]
    assert alone["fkgl"].tolist() == [readability(text).fkgl for text in GENERATED]


# --- what is said of it ---------------------------------------------------------------------


def simulated(
    moves: dict[str, float], kind_at: int = 0, spread: float = 1.0, seed: int = 0
) -> KindEffects:
    """Effects of one kind whose edit moves measures by known amounts, with noise."""
    rng = np.random.default_rng(seed)
    base = rng.normal(size=(60, len(NAMES)))
    change = np.array([moves.get(name, 0.0) for name in NAMES])
    noise = rng.normal(scale=spread, size=base.shape) * (change != 0)
    kind = PERTURBATIONS[kind_at]
    return effects(Measurements(base, {kind: base + change + noise}))[0]


def test_the_effect_is_the_mean_change_in_standard_deviations_towards_worse() -> None:
    found = simulated({"relevance": -2.0, "factuality": 2.0, "fkgl": 2.0}, spread=0.1).effects
    assert found["relevance"].effect == pytest.approx(2.0, abs=0.4)
    assert found["factuality"].effect == pytest.approx(-2.0, abs=0.4)
    assert found["fkgl"].effect == pytest.approx(2.0, abs=0.4)
    assert found["relevance"].change == pytest.approx(-2.0, abs=0.1)
    assert [found[name].seen for name in ("relevance", "factuality", "fkgl")] == [True, False, True]
    low, high = found["relevance"].effect_interval
    assert low < found["relevance"].effect < high


def test_a_measure_that_does_not_move_is_at_one_half_and_unseen() -> None:
    found = simulated({"relevance": -2.0}).effects["smog"]
    assert (found.moved, found.seen, found.effect) == (0.5, None, 0.0)


def test_noise_is_taken_for_an_effect_one_time_in_twenty() -> None:
    runs = [simulated({"relevance": 1e-3}, seed=seed).effects["relevance"] for seed in range(60)]
    assert sum(one.seen is not None for one in runs) <= 8
    assert sum(not one.effect_interval[0] < 0 < one.effect_interval[1] for one in runs) <= 8


def test_where_better_is_wanted_the_way_is_turned() -> None:
    better = next(at for at, kind in enumerate(PERTURBATIONS) if kind.wanted == "better")
    found = simulated({"fkgl": -2.0, "relevance": -2.0}, better, spread=0.1).effects
    assert (found["fkgl"].seen, found["relevance"].seen) == (True, False)


def test_texts_without_a_place_for_the_edit_do_not_count() -> None:
    base = np.zeros((3, len(NAMES)))
    kind = PERTURBATIONS[0]
    values = base + 1.0
    values[1] = np.nan
    found = effects(Measurements(base, {kind: values}))[0]
    assert found.n == 2
    assert found.effects["fkgl"].effect is None  # no spread to measure it by
    nowhere = effects(Measurements(base, {kind: np.full(base.shape, np.nan)}))[0]
    assert (nowhere.n, nowhere.effects) == (0, {})


def test_two_texts_that_agree_are_no_proof() -> None:
    base = np.arange(2.0 * len(NAMES)).reshape(2, -1)
    found = effects(Measurements(base, {PERTURBATIONS[0]: base + 5.0}))[0].effects["loss"]
    assert found.moved == 1.0
    assert found.seen is None


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), min_size=3, max_size=40))
def test_correlations_are_scipys(rows: list[tuple[int, int]]) -> None:
    one, other = (np.array(column, dtype=float) for column in zip(*rows, strict=True))
    found = correlations({"x": one}, other, resamples=20)["x"]
    if len({*one}) == 1 or len({*other}) == 1:
        assert (found.spearman, found.kendall) == (None, None)
        return
    assert found.spearman == pytest.approx(spearmanr(one, other).statistic)
    assert found.kendall == pytest.approx(kendalltau(one, other).statistic)


def test_intervals_of_correlations_hold_them_and_narrow_with_texts() -> None:
    rng = np.random.default_rng(0)

    def made(count: int) -> Any:
        truth = rng.normal(size=count)
        measures = {"noisy": truth + rng.normal(size=count), "near": truth + 0.1}
        return correlations(measures, truth, reference="noisy", resamples=300)

    few, many = made(40), made(400)
    for one in (few, many):
        assert one["near"].spearman == pytest.approx(1.0)
        assert one["near"].beyond == pytest.approx(1 - abs(one["noisy"].spearman))
        assert one["near"].beyond_interval[0] > 0
        assert one["noisy"].beyond is None
        for value, (low, high) in (
            (one["noisy"].spearman, one["noisy"].spearman_interval),
            (one["noisy"].kendall, one["noisy"].kendall_interval),
        ):
            assert low < value < high
    wide, narrow = (one["noisy"].kendall_interval for one in (few, many))
    assert narrow[1] - narrow[0] < wide[1] - wide[0]


def test_kendall_is_left_out_where_it_would_take_too_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serve_app.offline.validation.ratings.MOST_ROWS_OF_KENDALL", 5)
    found = correlations({"x": np.arange(6.0)}, np.arange(6.0), resamples=10)["x"]
    assert found.spearman == pytest.approx(1.0)
    assert (found.kendall, found.kendall_interval) == (None, None)


# --- shown ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def validation() -> Validation:
    rng = np.random.default_rng(1)
    base = rng.normal(size=(20, len(NAMES)))
    perturbed = {kind: base + rng.normal(size=base.shape) for kind in PERTURBATIONS}
    perturbed[PERTURBATIONS[0]] = np.full(base.shape, np.nan)
    ratings = rng.normal(size=20)
    rated = correlations(
        {"fkgl": ratings + 0.5, "smog": np.ones(20), "difficulty": -ratings},
        ratings,
        reference="fkgl",
        resamples=50,
    )
    sample = Sample(HOSTILE, "0" * 64, 20, 20, 0, {"generated": HOSTILE, "rating": HOSTILE})
    return Validation(
        version="0",
        made="2026-01-01",
        models={"relevance": HOSTILE},
        seed=0,
        share=0.5,
        seconds=1.0,
        tokens=1,
        perturbed=sample,
        kinds=effects(Measurements(base, perturbed)),
        rated=sample,
        correlations=rated,
    )


def test_the_page_runs_nothing_and_asks_for_nothing(validation: Validation) -> None:
    html = to_html(validation)
    assert "<script" not in html
    assert "<img" not in html
    assert "&lt;script&gt;" in html
    assert "default-src 'none'" in html
    assert not re.search(r"""(?:src|href)=["'](?!#)""", html)
    assert "url(" not in html
    assert "@import" not in html


def test_the_page_has_each_kind_each_measure_and_a_chart_each(validation: Validation) -> None:
    html = to_html(validation)
    for kind in PERTURBATIONS:
        assert html.count(f">{kind.name}") >= 1
    assert html.count("<svg") == len(MEASURES)
    assert html.count("<h3>") == len(MEASURES)


def test_json_has_all_numbers_and_null_where_there_is_none(validation: Validation) -> None:
    document = json.loads(to_json(validation))
    assert [kind["name"] for kind in document["kinds"]] == [kind.name for kind in PERTURBATIONS]
    assert document["kinds"][0] == {**document["kinds"][0], "n": 0, "effects": {}}
    second = document["kinds"][1]["effects"]
    assert list(second) == NAMES
    assert {*second["loss"]} == {
        *("moved", "moved_interval", "change", "effect", "effect_interval", "seen")
    }
    assert document["correlations"]["smog"]["spearman"] is None
    assert document["correlations"]["difficulty"]["spearman"] == pytest.approx(-1.0)


def test_terminal_tables_fit_a_hundred_columns_whole(validation: Validation) -> None:
    from rich.console import Console

    console = Console(width=100, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(effects_table(validation.kinds))
    console.print(correlations_table(validation.correlations))
    text = console.export_text()
    assert "…" not in text
    for kind in PERTURBATIONS:
        assert kind.name in text
