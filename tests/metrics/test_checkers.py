"""Published checkers equal their own code on the same weights, and work wherever AlignScore does.

The expected values are in fixtures/checkers.json, made by scripts/make_checker_fixture.py with the
published code on the models of tests/support/tiny_checkers.py, which are drawn again here.
"""

from __future__ import annotations

import json
import math
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModel, AutoModelForSequenceClassification

from serve_app.core.errors import CheckpointError, ConfigError, InvalidInput, MetricFailed
from serve_app.core.settings import Settings, load_settings
from serve_app.generation.loading import load_generator
from serve_app.generation.protocol import GenerationParams
from serve_app.metrics.alignscore import ClaimScorer
from serve_app.metrics.checkers import factcg, minicheck
from serve_app.metrics.checkers.published import Classifier
from serve_app.metrics.encoders import load_encoder
from serve_app.metrics.evaluation import Evaluation, evaluate
from serve_app.metrics.explanation import explain
from serve_app.metrics.loss import LossFunction, Targets
from serve_app.metrics.suite import MetricSuite, load_factuality, load_relevance
from serve_app.models.encoder_runtime import EncoderRuntime
from serve_app.text.sentences import split_sentences
from tests.support.backends import api_client
from tests.support.command import plainmed, refused
from tests.support.paths import ROOT
from tests.support.servers import TARGETS, LightBackend
from tests.support.texts import GENERATED, ORIGINALS
from tests.support.tiny_checkers import digests, save_all, save_nli

RECORD: dict[str, Any] = json.loads(
    (ROOT / "tests" / "fixtures" / "checkers.json").read_text(encoding="utf-8")
)
CASES = {case["name"]: case for case in RECORD["cases"]}
NAMES = list(RECORD["checkers"])
KINDS = ["minicheck", "hhem", "factcg", "summac-zs", "summac-conv"]
pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return save_all(tmp_path_factory.mktemp("checkers"))


def options(name: str, made: dict[str, Path]) -> dict[str, str]:
    """The settings of a checker of the record, or of one of its kind."""
    kind = next(one for one in KINDS if name.startswith(one))
    size = name.removeprefix(kind).strip("-") or "roberta"
    model = {"hhem": "t5", "factcg": "factcg", "minicheck": f"minicheck-{size}"}.get(kind)
    found = {"factuality_checker": kind, "factuality_model": str(made[model or f"nli-{size}"])}
    own = {"hhem": "hhem", "summac-conv": "conv"}.get(kind)
    return found | ({"factuality_weights": str(made[own])} if own else {})


def settings_of(name: str, made: dict[str, Path], **changes: Any) -> Settings:
    return load_settings(**{**options(name, made), "device": "cpu", **changes})


@pytest.fixture(scope="module")
def scorers(made: dict[str, Path]) -> dict[str, ClaimScorer]:
    return {name: load_factuality(settings_of(name, made)) for name in NAMES}


def pairs(names: list[str]) -> tuple[list[str], list[str]]:
    return [CASES[name]["context"] for name in names], [CASES[name]["claim"] for name in names]


# --- equal to the published code ---------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_scores_equal_the_published_code(scorers: dict[str, ClaimScorer], name: str) -> None:
    expected = dict(RECORD["checkers"][name]["scores"])
    if name == "factcg":  # it scores an empty chunk there, which we leave out
        del expected["a long sentence first"]
    scores = scorers[name].score_published(*pairs(list(expected)))
    for case, result in zip(expected, scores, strict=True):
        assert abs(result.score - expected[case]) <= 1e-5, case
    assert torch.tensor(list(expected.values())).std() > 0.05, "scores must tell cases apart"


@pytest.mark.parametrize("name", [name for name in NAMES if RECORD["checkers"][name]["chunks"]])
@pytest.mark.parametrize("case", CASES)
def test_chunks_are_those_that_the_published_code_reads(
    scorers: dict[str, ClaimScorer], name: str, case: str
) -> None:
    expected = RECORD["checkers"][name]["chunks"][case]
    found = digests(scorers[name].chunks(CASES[case]["context"]))
    assert found == [one for one in expected if one not in digests([""])]


def test_the_cases_stand_on_the_borders() -> None:
    """What the cases are there for is really in them."""
    chunks = {name: RECORD["checkers"][name]["chunks"] for name in NAMES}
    assert digests([""])[0] in chunks["factcg"]["a long sentence first"]
    for name in ("minicheck-roberta", "minicheck-deberta", "minicheck-t5", "factcg"):
        assert {1, 3} <= {len(found) for found in chunks[name].values()}
    assert len(split_sentences(CASES["a source of 130"]["context"])) == 130
    assert len(split_sentences(CASES["a claim of 14"]["claim"])) == 14


@pytest.mark.parametrize("name", NAMES)
def test_what_was_not_read_is_said(scorers: dict[str, ClaimScorer], name: str) -> None:
    scorer = scorers[name]
    wanted = {
        "2 plain": False,
        "a long claim": name == "minicheck-roberta" or "summac" in name,  # 512 and 500 tokens
        "a claim of 14": "conv" in name,
        "80 plain": False,
    }
    found = [result.truncated for result in scorer.score(*pairs(list(wanted)))]
    assert found == list(wanted.values()) == scorer.truncates(*pairs(list(wanted)))
    if "summac" in name:
        assert scorer.score(*pairs(["a source of 130"]))[0].truncated


@pytest.mark.parametrize("name", NAMES)
def test_a_score_does_not_depend_on_the_rest_of_the_call(
    scorers: dict[str, ClaimScorer], name: str
) -> None:
    names = ["20 plain", "quotes", "1 plain", "40 lines"]
    together = scorers[name].score(*pairs(names))
    for one, result in zip(names, together, strict=True):
        (alone,) = scorers[name].score(*pairs([one]))
        assert alone.score == pytest.approx(result.score, abs=1e-5)


@pytest.mark.parametrize("name", [one for one in NAMES if one.startswith(("minicheck", "factcg"))])
def test_a_summary_scores_the_mean_of_its_sentences(
    scorers: dict[str, ClaimScorer], name: str
) -> None:
    context, claim = CASES["80 plain"]["context"], CASES["80 plain"]["claim"]
    (result,) = scorers[name].score([context], [claim])
    sentences = split_sentences(claim)
    assert [one.text for one in result.sentences] == sentences
    alone = scorers[name].score_published([context] * len(sentences), sentences)
    for one, other in zip(result.sentences, alone, strict=True):
        assert one.score == pytest.approx(other.score, abs=1e-5)
    assert len({one.score for one in result.sentences}) > 3
    mean = math.fsum(one.score for one in result.sentences) / len(sentences)
    assert result.score == pytest.approx(mean, abs=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_a_chunk_and_a_sentence_score_as_a_text_of_nothing_else(
    scorers: dict[str, ClaimScorer], name: str
) -> None:
    texts = ["Aspirin lowered pain in 14 trials."], ["Aspirin halved nausea."]
    (result,) = scorers[name].score(*texts)
    assert scorers[name].score_pieces(*texts) == [pytest.approx(result.score, abs=1e-6)]


@pytest.mark.parametrize("name", ["minicheck-roberta", "factcg", "hhem"])
def test_the_end_of_too_long_a_chunk_does_not_take_the_claim_with_it(
    scorers: dict[str, ClaimScorer], name: str
) -> None:
    scorer: Any = scorers[name]
    long = CASES["a source of 130"]["context"] * (4 if name == "hhem" else 1)
    claims = ["Aspirin halved nausea.", "The control group raised blood pressure."]
    if name == "hhem":
        with pytest.raises(InvalidInput, match="at most 4096"):
            scorer.score_pieces([long] * 2, claims)
        return
    scores = scorer.score_pieces([long] * 2, claims)
    assert abs(scores[0] - scores[1]) > 1e-3
    assert scores == [one.score for one in scorer.score_published([long] * 2, claims)]


@pytest.mark.parametrize("kind", ["roberta", "bert"])
def test_a_packed_classifier_equals_the_padded_one(tmp_path: Path, kind: str) -> None:
    folder = save_nli(kind, ["ENTAILMENT", "NEUTRAL", "CONTRADICTION"], tmp_path / kind)
    settings = load_settings(
        factuality_checker="summac-zs", factuality_model=str(folder), device="cpu"
    )
    scorer: Any = load_factuality(settings)
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    padded = EncoderRuntime(
        Classifier(model), pad_token_id=model.config.pad_token_id, device="cpu", packed=False
    )
    sentences = split_sentences(CASES["20 plain"]["context"])
    asked = [(one, other) for one in sentences[:6] for other in sentences[6:10]]
    sequences = [one for one, _ in scorer.inputs(asked)]
    packed = scorer._runtime.run(sequences, scorer.read)
    for one, other in zip(packed, padded.run(sequences, scorer.read), strict=True):
        assert one == pytest.approx(other, abs=1e-5)
    assert scorer._runtime._packed is not None


# --- wherever factuality is measured -----------------------------------------------------


@pytest.fixture(scope="module")
def relevance() -> Any:
    return load_relevance(load_settings(device="cpu"))


def targets_of(model: str, path: Path) -> Path:
    Targets(TARGETS.mean, TARGETS.sigma, {"factuality": model}).save(path)
    return path


class Evaluating(LightBackend):
    """Evaluates with real metrics."""

    def __init__(self, suite: MetricSuite) -> None:
        super().__init__()
        self.suite = suite

    async def evaluate(self, originals: Any, generated: Any, *rest: Any) -> list[Evaluation]:
        return evaluate(self.suite.measure(originals, generated), self.loss)

    async def models(self) -> dict[str, str]:
        return self.suite.models


@pytest.mark.parametrize("kind", KINDS)
async def test_evaluate_answers_with_the_checkers_sentences_and_its_name(
    made: dict[str, Path], relevance: Any, kind: str
) -> None:
    scorer = load_factuality(settings_of(kind, made))
    async with api_client(Evaluating(MetricSuite(relevance, scorer))) as http:
        body = {"texts_original": ORIGINALS[:2], "texts_generated": GENERATED[:2], "explain": True}
        answer = await http.post("/evaluate", json=body)
    assert answer.status_code == 200, answer.text
    found = answer.json()
    assert found["models"]["factuality"].startswith(f"{kind}:")
    for one, expected in zip(
        found["results"], scorer.score(ORIGINALS[:2], GENERATED[:2]), strict=True
    ):
        assert one["metrics"]["factuality"] == pytest.approx(expected.score)
        assert [part["text"] for part in one["sentences"]] == [
            part.text for part in expected.sentences
        ]


@pytest.mark.parametrize("kind", KINDS)
def test_plainmed_score_names_the_checker_and_refuses_other_targets(
    made: dict[str, Path],
    pair: list[object],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
) -> None:
    for setting, value in {**options(kind, made), "device": "cpu"}.items():
        monkeypatch.setenv(setting.upper(), value)
    assert f"FACTUALITY_CHECKER is {kind}" in refused("score", *pair)
    model = load_factuality(settings_of(kind, made)).name
    monkeypatch.setenv("TARGETS_FILE", str(targets_of(model, tmp_path / "t.json")))
    result = plainmed("score", *pair, "--json")
    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout)["models"]["factuality"] == model
    assert "were made with" not in result.stderr


def test_targets_of_a_checker_are_refused_by_alignscore_and_by_another(tmp_path: Path) -> None:
    ours = Targets.load(targets_of("minicheck:MiniCheck-RoBERTa-Large", tmp_path / "t.json"))
    assert LossFunction.of(load_settings(factuality_checker="minicheck"), ours).targets == ours
    for other in ("alignscore", "factcg", "summac-zs"):
        with pytest.raises(ConfigError, match=rf"minicheck:MiniCheck.*is {other}.*calibrate"):
            LossFunction.of(load_settings(factuality_checker=other), ours)
    # One model's two scores are of two checkers.
    nli = Targets.load(targets_of("summac-zs:albert", tmp_path / "t.json"))
    with pytest.raises(ConfigError, match="summac-conv"):
        LossFunction.of(load_settings(factuality_checker="summac-conv"), nli)
    # Earlier files name no model, or one with a colon in its name: AlignScore's.
    for name in ("AlignScore-base", "a:b"):
        LossFunction.of(load_settings(), Targets(TARGETS.mean, TARGETS.sigma, {"factuality": name}))
    nameless = Targets(TARGETS.mean, TARGETS.sigma)
    with pytest.raises(ConfigError, match="computed by alignscore"):
        LossFunction.of(load_settings(factuality_checker="hhem"), nameless)


@pytest.mark.parametrize("kind", KINDS)
def test_the_extractive_engine_selects_by_any_checker(
    made: dict[str, Path], tmp_path: Path, kind: str
) -> None:
    model = load_factuality(settings_of(kind, made)).name
    targets = str(targets_of(model, tmp_path / "t.json"))
    changes = {"extractive_max_words": 30, "generator": "extractive", "targets_file": targets}
    engine = load_generator(settings_of(kind, made, **changes))
    (summary,) = engine.generate([CASES["40 lines"]["context"]], [GenerationParams()])
    assert 0 < len(summary.text.split()) <= 30


@pytest.mark.parametrize("name", NAMES)
def test_the_passage_behind_a_sentence_is_found_in_the_original(
    scorers: dict[str, ClaimScorer], relevance: Any, name: str
) -> None:
    case = CASES["60 lines"]
    suite = MetricSuite(relevance, scorers[name])
    (measured,) = suite.measure([case["context"]], [case["claim"]])
    for one, part in zip(
        explain(case["context"], case["claim"], measured).sentences,
        measured.factuality.sentences,
        strict=True,
    ):
        assert one.passage is not None
        start, end = one.passage
        assert case["context"][start:end].split() == part.chunk.split()


# --- what is refused ---------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name in NAMES if "summac" in name])
def test_a_text_without_a_sentence_that_is_read_is_refused(
    scorers: dict[str, ClaimScorer], name: str
) -> None:
    long = "Aspirin lowered pain."
    for originals, generated, field in (
        ([long, long], [long, "It hurt. No."], "texts_generated[1]"),
        ([long, "It hurt."], [long, long], "texts_original[1]"),
    ):
        with pytest.raises(InvalidInput) as caught:
            scorers[name].score(originals, generated)
        assert (caught.value.code, caught.value.field) == ("no_sentences", field)


def test_hhem_refuses_what_it_cannot_read_whole(scorers: dict[str, ClaimScorer]) -> None:
    long = CASES["a source of 130"]["context"] * 4
    with pytest.raises(InvalidInput, match="at most 4096") as caught:
        scorers["hhem"].score(["Aspirin.", long], ["Aspirin."] * 2)
    assert (caught.value.code, caught.value.field) == ("too_many_tokens", "texts_generated[1]")


@pytest.mark.parametrize("name", NAMES)
def test_more_pairs_than_allowed_are_refused(made: dict[str, Path], name: str) -> None:
    scorer = load_factuality(settings_of(name, made, alignscore_max_pairs=1))
    assert len(scorer.score(*pairs(["1 plain"]))) == 1
    if name != "hhem":
        with pytest.raises(InvalidInput, match="ALIGNSCORE_MAX_PAIRS"):
            scorer.score(*pairs(["80 lines"]))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"factuality_model": None}, "FACTUALITY_MODEL is not set"),
        ({"factuality_model": "no-such-folder"}, "no-such-folder"),
        ({"alignscore_ckpt": "x.ckpt"}, "ALIGNSCORE_CKPT is for AlignScore"),
        ({"alignscore_eval_mode": "nli"}, "ALIGNSCORE_EVAL_MODE is for AlignScore"),
        ({"alignscore_chunk_words": 100}, "ALIGNSCORE_CHUNK_WORDS is for AlignScore"),
        ({"factuality_weights": "x.bin"}, "FACTUALITY_WEIGHTS is for hhem and summac-conv"),
        ({"factuality_checker": "summac-conv"}, "FACTUALITY_WEIGHTS is not set"),
        ({"factuality_checker": "alignscore"}, "set FACTUALITY_CHECKER too"),
        ({"factuality_checker": "hhem"}, r"hf://google/flan-t5-base, not to a roberta"),
        ({"factuality_checker": "summac-zs"}, "a classifier of 2 labels"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(
    made: dict[str, Path], changes: dict[str, Any], says: str
) -> None:
    with pytest.raises(ConfigError, match=says):
        load_factuality(settings_of("minicheck", made, **changes))


def test_another_model_than_the_checkers_is_refused(made: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="albert model; MiniCheck has roberta"):
        minicheck.load(made["nli-albert"], "x")
    with pytest.raises(CheckpointError, match="3 labels"):
        minicheck.load(made["nli-roberta"], "x")
    with pytest.raises(CheckpointError, match="3 labels"):
        factcg.load(made["nli-roberta"], "x")
    for labels in (["LABEL_0", "LABEL_1", "LABEL_2"], ["ENTAILMENT", "NOT_ENTAILMENT", "REFUTES"]):
        shutil.rmtree(tmp_path / "nli", ignore_errors=True)
        folder = save_nli("roberta", labels, tmp_path / "nli")
        with pytest.raises(CheckpointError, match=f"{labels[0].lower()}.*under id2label"):
            load_factuality(
                load_settings(factuality_checker="summac-zs", factuality_model=str(folder))
            )


def test_the_labels_of_summacs_own_models_are_known_by_name(
    scorers: dict[str, ClaimScorer], made: dict[str, Path], tmp_path: Path
) -> None:
    names = ["LABEL_0", "LABEL_1", "LABEL_2"]
    for kind, name in (
        ("albert", "albert-xlarge-vitaminc-mnli"),
        ("roberta", "roberta-large-mnli"),
    ):
        folder = save_nli(kind, names, tmp_path / name)
        settings = load_settings(
            factuality_checker="summac-zs", factuality_model=str(folder), device="cpu"
        )
        texts = pairs(["5 plain"])
        expected = scorers[f"summac-zs-{kind}"].score(*texts)[0].score
        assert load_factuality(settings).score(*texts)[0].score == expected


def test_a_tokenizer_that_needs_sentencepiece_says_what_to_install(
    made: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = copied(made["nli-albert"], tmp_path / "model")
    (folder / "tokenizer.json").rename(folder / "spiece.model")
    monkeypatch.setattr("serve_app.metrics.checkers.published.find_spec", lambda _: None)
    with pytest.raises(ConfigError, match=r"plainmed\[checkers\]"):
        load_factuality(settings_of("summac-zs", made, factuality_model=str(folder)))


def weights_in(folder: Path) -> Path:
    return next(path for path in folder.iterdir() if path.suffix in (".safetensors", ".bin"))


def copied(folder: Path, to: Path) -> Path:
    shutil.copytree(folder, to)
    return to


@pytest.mark.parametrize("change", ["missing", "nan"])
@pytest.mark.parametrize("kind", KINDS)
def test_weights_that_are_missing_or_no_numbers_are_refused(
    made: dict[str, Path], tmp_path: Path, kind: str, change: str
) -> None:
    setting = "factuality_weights" if kind in ("hhem", "summac-conv") else "factuality_model"
    source = Path(options(kind, made)[setting])
    if source.is_file():
        place = path = Path(shutil.copy(source, tmp_path / "conv.bin"))
    else:
        place = copied(source, tmp_path / "model")
        path = weights_in(place)
    safe = path.suffix == ".safetensors"
    state = load_file(path) if safe else torch.load(path, weights_only=True)
    name = next(name for name in reversed(list(state)) if name.endswith("weight"))
    if change == "missing":
        del state[name]
    else:
        state[name].view(-1)[0] = float("nan")
    if safe:
        save_file(state, path, metadata={"format": "pt"})
    else:
        torch.save(state, path)
    says = {"missing": "no weights for|Missing key|not hold the layers"}
    with pytest.raises(CheckpointError, match=says.get(change, "NaN or infinity")):
        load_factuality(settings_of(kind, made, **{setting: str(place)}))


class Bomb:
    """Makes a folder when unpickled by a loader that runs code."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.mkdir, (str(self.canary),))


@pytest.mark.parametrize("kind", ["minicheck", "factcg", "summac-zs", "summac-conv"])
def test_a_pickle_that_names_code_is_refused_and_not_run(
    made: dict[str, Path], tmp_path: Path, kind: str
) -> None:
    canary = tmp_path / "canary"
    changes = {}
    if kind == "summac-conv":
        path = tmp_path / "conv.bin"
        changes["factuality_weights"] = str(path)
    else:
        folder = copied(Path(options(kind, made)["factuality_model"]), tmp_path / "model")
        weights_in(folder).unlink()
        path = folder / "pytorch_model.bin"
        changes["factuality_model"] = str(folder)
    torch.save({"weight": torch.zeros(100_000), "bomb": Bomb(canary)}, path)
    with pytest.raises(CheckpointError, match=r"posix\.mkdir|nt\.mkdir"):
        load_factuality(settings_of(kind, made, **changes))
    assert not canary.exists()


@pytest.mark.parametrize("kind", KINDS)
def test_code_that_comes_with_a_model_is_not_run(
    made: dict[str, Path], tmp_path: Path, kind: str
) -> None:
    canary = tmp_path / "canary"
    folder = copied(Path(options(kind, made)["factuality_model"]), tmp_path / "model")
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    classes = (
        "AutoConfig",
        "AutoModelForSequenceClassification",
        "AutoModelForTokenClassification",
    )
    config["auto_map"] = dict.fromkeys(classes, "evil.Model")
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    (folder / "evil.py").write_text(f"import os\nos.mkdir({str(canary)!r})\nclass Model: pass\n")
    before = load_factuality(settings_of(kind, made))
    after = load_factuality(settings_of(kind, made, factuality_model=str(folder)))
    assert not canary.exists()
    texts = pairs(["5 plain"])
    assert after.score(*texts)[0].score == before.score(*texts)[0].score


def test_hhems_own_folder_says_where_its_backbone_is(made: dict[str, Path]) -> None:
    changes = {"factuality_model": str(made["hhem"]), "factuality_weights": None}
    with pytest.raises(CheckpointError, match="set FACTUALITY_MODEL to hf://google/flan-t5-base"):
        load_factuality(settings_of("hhem", made, **changes))


def test_factcg_says_what_to_install(
    made: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "nltk.tokenize.destructive", None)
    with pytest.raises(ConfigError, match=r"plainmed\[checkers\]"):
        factcg.load(made["factcg"], "x", device="cpu")


def test_a_model_that_gives_no_number_is_an_error(made: dict[str, Path]) -> None:
    scorer: Any = minicheck.load(made["minicheck-deberta"], "minicheck:x", device="cpu")
    with torch.no_grad():
        scorer._runtime._module.model.classifier.bias.fill_(float("nan"))
    with pytest.raises(MetricFailed, match="minicheck:x gave no finite number"):
        scorer.score(["It worked."], ["It worked."])


def test_deberta_is_an_encoder_of_the_relevance_metric_too(made: dict[str, Path]) -> None:
    """It has no SDPA attention, which was asked of every model."""
    loaded = load_encoder(made["factcg"])
    assert type(loaded) is type(AutoModel.from_pretrained(made["factcg"]))
