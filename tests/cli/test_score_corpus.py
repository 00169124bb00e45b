"""`plainmed score` on whole files: what the command adds to `serve_app.offline.corpus`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from serve_app.cli.options import Engine
from serve_app.cli.score import with_models
from serve_app.core.settings import load_settings
from serve_app.metrics.evaluation import evaluate
from serve_app.metrics.loss import LossFunction
from serve_app.metrics.profiles import load_profile
from serve_app.metrics.suite import MetricSuite
from serve_app.metrics.targets import load_targets
from serve_app.offline.corpus import ScoreJob
from serve_app.offline.corpus.job import RAY_ROWS, LocalEngine
from serve_app.offline.corpus.ray_engine import RayEngine, RayOptions
from serve_app.offline.corpus.scorer import LossTerms, SuiteRecipe, SuiteScorer
from tests.support.command import plainmed
from tests.support.corpus_tools import make_rows, read_rows, write_rows
from tests.support.texts import GENERATED, ORIGINALS
from tests.support.tiny_suite import make_suite


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> tuple[MetricSuite, Path]:
    folder = tmp_path_factory.mktemp("align") / "tiny"
    return make_suite(folder), folder


@pytest.fixture
def settings_of_tiny(tiny: tuple[MetricSuite, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALIGNSCORE_MODEL", str(tiny[1]))
    monkeypatch.setenv("DEVICE", "cpu")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    rows = [
        {"original": one, "summary": other} for one, other in zip(ORIGINALS, GENERATED, strict=True)
    ]
    return write_rows(tmp_path / "in.parquet", [*rows, {"original": "A b.", "summary": "..."}])


def test_a_suite_scorer_gives_metrics_and_loss_of_the_library(
    tiny: tuple[MetricSuite, Path],
) -> None:
    loss = LossFunction(load_targets(load_settings()))
    weights = (1.0, 0.0, 0.0, 0.0, 0.0)
    profile = load_profile(None, load_settings())
    found = SuiteScorer(tiny[0], LossTerms(profile, weights))(ORIGINALS, GENERATED)
    wanted = evaluate(tiny[0].measure(ORIGINALS, GENERATED), loss, weights=weights)
    assert [one.values for one in found] == [one.measured.values for one in wanted]
    assert [one.loss for one in found] == [one.loss for one in wanted]
    plain = SuiteScorer(tiny[0], None)
    assert [one.loss for one in plain(ORIGINALS, GENERATED)] == [None] * 4
    assert plain.models.names == tiny[0].models
    assert plain.models.eval_mode == "nli_sp"
    assert len(plain.models.probe) == 5


@pytest.mark.usefixtures("settings_of_tiny")
def test_parquet_is_scored_by_the_command(source: Path, tmp_path: Path) -> None:
    result = plainmed("score", source, "--out", tmp_path / "out.parquet", "--prefix", "x_")
    assert result.exit_code == 1
    assert "4 of 5 rows scored" in result.stderr
    assert "1 rows have no score; see their column x_error" in result.stderr
    rows = read_rows(tmp_path / "out.parquet")
    assert [row["x_error_code"] for row in rows] == [None] * 4 + ["no_words"]
    assert all(0 <= row["x_loss"] <= 1 for row in rows[:4])
    assert [path.name for path in tmp_path.iterdir() if "parts" in path.name] == []


@pytest.mark.usefixtures("settings_of_tiny")
def test_the_command_goes_on_refuses_other_settings_and_restarts(
    source: Path, tmp_path: Path, tiny: tuple[MetricSuite, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out.jsonl"
    job = ScoreJob.prepare(source, out, batch_size=2, findings=True)
    scoring = with_models(job, None, Engine("local"), None, None).scoring
    loss = LossTerms(load_profile(None, load_settings()))
    engine = LocalEngine(SuiteScorer(tiny[0], loss))
    job.run(lambda: engine, scoring)
    whole = out.read_bytes()

    def killed_after_two_blocks() -> None:
        out.unlink(missing_ok=True)
        seen: list[int] = []

        def stop(count: int) -> None:
            seen.append(count)
            if len(seen) == 2:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            job.run(lambda: engine, scoring, on_rows=stop)

    killed_after_two_blocks()
    said = plainmed("score", source, "--out", out, "--batch-size", "2", "--weights", "1,0,0,0,0")
    assert said.exit_code == 2
    assert "scoring.weights was [0.2, 0.2, 0.2, 0.2, 0.2], now [1.0" in said.stderr
    monkeypatch.setenv("BERTSCORE_LONG_TEXT", "window")
    said = plainmed("score", source, "--out", out, "--batch-size", "2")
    assert 'bertscore_long_text was "truncate", now "window"' in said.stderr
    monkeypatch.delenv("BERTSCORE_LONG_TEXT")
    manifest = json.loads((tmp_path / "out.jsonl.parts" / "manifest.json").read_text())
    assert manifest["models"]["names"]["factuality"] == "tiny"
    result = plainmed("score", source, "--out", out, "--batch-size", "2")
    assert "4 of 5 rows were finished by an earlier run and are kept" in result.stderr
    assert out.read_bytes() == whole
    killed_after_two_blocks()
    again = plainmed("score", source, "--out", out, "--restart", "--batch-size", "3")
    assert again.exit_code == 1
    assert "finished by an earlier run" not in again.stderr


def test_options_that_do_not_go_together_are_refused(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.csv"
    for options in (["--address", "auto"], ["--workers", "2"]):
        for command in (["score", source, "--out", out], ["calibrate", source, "--out", out]):
            said = plainmed(*command, "--engine", "local", *options)
            assert said.exit_code == 2
            assert "for Ray" in said.stderr
    said = plainmed("score", source, "--out", out, "--url", "http://x", "--engine", "ray")
    assert said.exit_code == 2
    assert "without --url" in " ".join(said.stderr.split())
    assert not out.exists()


@pytest.mark.parametrize(
    ("rows", "options", "engine"),
    [
        (10, ("auto", None, None), "local"),
        (RAY_ROWS, ("auto", None, None), "ray"),
        (RAY_ROWS, ("local", None, None), "local"),
        (10, ("ray", None, None), "ray"),
        (10, ("auto", "auto", None), "ray"),
        (10, ("auto", None, 2), "ray"),
    ],
)
@pytest.mark.usefixtures("settings_of_tiny")
def test_small_files_are_scored_here_and_large_ones_on_ray(
    tmp_path: Path, rows: int, options: tuple[str, str | None, int | None], engine: str
) -> None:
    job = ScoreJob.prepare(write_rows(tmp_path / "in.csv", make_rows(rows)), tmp_path / "out.csv")
    where, *cluster = options
    assert with_models(job, None, Engine(where), *cluster).make_engine().name == engine


def test_workers_take_threads_and_device_from_the_settings(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert RayOptions.of(load_settings(), None, None) == RayOptions(threads=1)
    monkeypatch.setenv("TORCH_NUM_THREADS", "4")
    monkeypatch.setenv("DEVICE", "cpu")
    assert RayOptions.of(load_settings(), "auto", 3) == RayOptions("auto", 3, 4, 0.0)
    assert RayEngine(SuiteRecipe(load_settings()), RayOptions()).name == "ray"
