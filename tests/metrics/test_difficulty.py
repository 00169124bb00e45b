"""The estimate of difficulty: what moves it, what does not, and how far it agrees with teachers."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import spearmanr

from scripts import fit_difficulty
from serve_app.core.errors import ConfigError, InvalidInput
from serve_app.metrics.difficulty import FEATURES, MODEL, Difficulty, features
from serve_app.metrics.readability import readability
from tests.support.paths import ROOT
from tests.support.texts import GENERATED, ORIGINALS

PLAIN = "The medicine helped most people. Some felt sick. We do not know if it works in children."
CLEAR = ROOT.parent / "shared" / "data" / "consistency" / "readability_clear.jsonl"
COCHRANE = ROOT.parent / "shared" / "data" / "cochrane_pls.csv"


def feature(text: str, name: str) -> float:
    return float(features(text)[FEATURES.index(name)])


@pytest.mark.parametrize(("original", "plain"), zip(ORIGINALS, GENERATED, strict=True))
def test_a_plain_summary_is_easier_than_its_original(original: str, plain: str) -> None:
    difficulty = Difficulty.load()
    assert difficulty(plain) < difficulty(original)


@pytest.mark.parametrize(
    ("name", "easy", "hard"),
    [
        ("rarity", "The people were sick.", "The proletariat were nauseated."),
        ("unlisted", "The people were ill today.", "The xerostomia was pruritic."),
        ("syllables", "The drug worked well.", "The medication operated efficiently."),
        ("nominals", "We studied how people moved.", "We did an examination of movement."),
        ("prepositions", "The doctors helped patients.", "Doctors in wards of care at night."),
        ("sentence_length", "It helped. It was safe.", "It helped and it was safe."),
        ("jargon", "High blood pressure is bad.", "Hypertension is bad."),
    ],
)
def test_each_feature_rises_with_what_it_names(name: str, easy: str, hard: str) -> None:
    assert feature(easy, name) < feature(hard, name)
    assert Difficulty.load().weights[name] > 0


@pytest.mark.parametrize("name", FEATURES)
def test_a_text_said_again_is_as_difficult(name: str) -> None:
    words = (GENERATED[0] + " ").replace("6 in 100", "six in a hundred")
    text = " ".join((words * 10).split()[:100])  # whole windows of words
    assert feature(f"{text}. {text}.", name) == pytest.approx(feature(f"{text}.", name), rel=0.02)


def test_numbers_and_marks_do_not_count() -> None:
    marked = PLAIN.replace("people", "people (12; 95%)")
    assert features(marked) == pytest.approx(features(PLAIN))


@pytest.mark.parametrize("text", ["", "  ", "12 34", "!?"])
def test_a_text_without_a_word_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput):
        Difficulty.load()(text)


def test_it_is_no_metric_of_the_loss() -> None:
    from serve_app.metrics.loss import METRICS

    assert METRICS == ("relevance", "factuality", "fkgl", "smog", "dale_chall")


@pytest.mark.parametrize(
    "content", ["", "[]", '{"intercept": 1}', '{"intercept": "x"}', '{"intercept": NaN}']
)
def test_a_file_that_is_no_model_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "model.json"
    if "NaN" in content:
        content = json.dumps({"intercept": float("nan"), **dict.fromkeys(FEATURES, 1.0)})
    path.write_text(content, encoding="utf-8")
    with pytest.raises(ConfigError, match="no difficulty model"):
        Difficulty.load(path)


def test_ratings_are_fitted_where_they_follow_the_features(tmp_path: Path) -> None:
    known = np.arange(1.0, 1 + len(FEATURES))
    table = np.random.default_rng(0).normal(size=(400, len(FEATURES)))
    intercept, weights = fit_difficulty.of_ratings(table, table @ known + 3.0)
    assert weights == pytest.approx(known, rel=0.01)
    assert intercept == pytest.approx(3.0, abs=0.05)
    rows = [{"text": text, "mark": at} for at, text in enumerate([*GENERATED, *ORIGINALS])]
    source, out = tmp_path / "rated.jsonl", tmp_path / "model.json"
    source.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    fit_difficulty.main([str(source), "--ratings", "mark", "--harder", "--out", str(out)])
    fitted = Difficulty.load(out)
    assert fitted(ORIGINALS[3]) > fitted(GENERATED[0])


@pytest.mark.skipif(not COCHRANE.exists(), reason="needs ../shared/data/cochrane_pls.csv")
def test_the_packaged_model_is_what_the_script_makes(tmp_path: Path) -> None:
    out = tmp_path / "model.json"
    fit_difficulty.main([str(COCHRANE), "--split", "train", "--out", str(out)])
    made, shipped = (json.loads(path.read_text(encoding="utf-8")) for path in (out, MODEL))
    assert made.pop("made") == shipped.pop("made")
    assert made == pytest.approx(shipped)


@pytest.mark.skipif(not CLEAR.exists(), reason="needs ../shared/data/consistency")
def test_it_agrees_with_teachers_better_than_fkgl() -> None:
    rows = [json.loads(line) for line in CLEAR.read_text(encoding="utf-8").splitlines()]
    held_out = [row for row in rows if row["split"] == "dev"]
    easiness = [row["easiness"] for row in held_out]
    difficulty = Difficulty.load()
    ours = spearmanr([difficulty(row["text"]) for row in held_out], easiness).statistic
    fkgl = spearmanr([readability(row["text"]).fkgl for row in held_out], easiness).statistic
    assert -ours >= -fkgl + 0.15
