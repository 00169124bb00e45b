"""AlignScore equals the published inference code on the same weights, pair by pair.

The expected values are in fixtures/alignscore, made by scripts/make_alignscore_fixture.py
with the real reference: three tiny checkpoints that Lightning wrote, and for each case the
chunks and sentences the reference fed its model and its score in each mode.
"""

from __future__ import annotations

import json
import math
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer

from serve_app.core.errors import CheckpointError, ConfigError, InvalidInput, MetricFailed
from serve_app.metrics.align_checkpoint import load_checkpoint
from serve_app.metrics.align_model import AlignModel, CompactConfig, save_compact
from serve_app.metrics.alignscore import EVAL_MODES, AlignScorer, context_chunks
from serve_app.metrics.results import AlignScoreResult
from serve_app.text.sentences import split_sentences
from tests.support.paths import ALIGNSCORE

RECORD: dict[str, Any] = json.loads((ALIGNSCORE / "cases.json").read_text(encoding="utf-8"))
CASES = {case["name"]: case for case in RECORD["cases"]}
SCORED = [name for name, case in CASES.items() if case["context"].strip() and case["claim"].strip()]
REFUSED = [name for name in CASES if name not in SCORED]
KINDS = ("roberta", "bert", "albert")
pytestmark = pytest.mark.usefixtures("one_thread")


def make(kind: str = "roberta", **options: Any) -> AlignScorer:
    return AlignScorer.from_reference(
        str(ALIGNSCORE / f"tiny-{kind}"),
        ckpt=str(ALIGNSCORE / f"tiny-{kind}.ckpt"),
        device="cpu",
        **options,
    )


@pytest.fixture(scope="module")
def scorers() -> dict[str, AlignScorer]:
    return {kind: make(kind) for kind in KINDS}


@pytest.fixture(scope="module")
def scorer(scorers: dict[str, AlignScorer]) -> AlignScorer:
    return scorers["roberta"]


FEW = ["2w_2s", "50w_3s", "351w_3s", "fewer_sentences_than_chunks", "quotes", "claim_over_limit"]


@pytest.fixture(scope="module")
def results(scorer: AlignScorer) -> dict[str, AlignScoreResult]:
    """Every case in one call, in the default mode."""
    return dict(zip(SCORED, scorer.score(*texts(SCORED)), strict=True))


def texts(names: list[str]) -> tuple[list[str], list[str]]:
    return [CASES[name]["context"] for name in names], [CASES[name]["claim"] for name in names]


@pytest.mark.parametrize("mode", EVAL_MODES)
@pytest.mark.parametrize("kind", KINDS)
def test_scores_equal_the_published_code(
    scorers: dict[str, AlignScorer], kind: str, mode: Any
) -> None:
    expected = (
        {name: CASES[name]["scores"] for name in SCORED}
        if kind == "roberta"
        else RECORD["others"][f"tiny-{kind}"]
    )
    names = [name for name in SCORED if name in expected]
    assert len(names) >= 15
    results = scorers[kind].score(*texts(names), eval_mode=mode)
    for name, result in zip(names, results, strict=True):
        assert abs(result.score - expected[name][mode]) <= 1e-5, name
    spread = torch.tensor([result.score for result in results]).std()
    assert spread > 0.05, "the fixture's scores must tell cases apart"


@pytest.mark.parametrize("name", SCORED)
def test_chunks_and_sentences_are_what_the_reference_fed_its_model(name: str) -> None:
    case = CASES[name]
    # The record keeps distinct chunks; none of the cases has the same chunk twice.
    assert context_chunks(case["context"]) == case["chunks"]
    assert split_sentences(case["claim"]) == case["sentences"]


def test_the_cases_stand_on_the_borders() -> None:
    """What the cases are there for is really in them."""
    words = {len(case["context"].split()) for case in CASES.values()}
    assert {1, 349, 350, 351, 700, 2000} <= words
    assert max(len(CASES[name]["sentences"]) for name in SCORED) >= 40
    counts = [len(CASES[f"{n}w_{s}s"]["chunks"]) for n, s in ((349, 1), (350, 2), (2000, 40))]
    assert counts[0] == 1
    assert counts[1] >= 2
    assert counts[2] >= 6
    few = CASES["fewer_sentences_than_chunks"]
    assert len(few["chunks"]) == 3 == len(split_sentences(few["context"]))
    assert len(few["context"].split()) // 350 + 1 == 3


@pytest.mark.parametrize("name", [n for n in SCORED if len(CASES[n].get("chunks", [])) > 1])
def test_each_sentence_names_the_chunk_that_supports_it_best(
    results: dict[str, AlignScoreResult], name: str
) -> None:
    case = CASES[name]
    matrix = torch.tensor(case["matrix"]).view(len(case["chunks"]), len(case["sentences"]))
    result = results[name]
    assert [sentence.text for sentence in result.sentences] == case["sentences"]
    for column, sentence in enumerate(result.sentences):
        assert sentence.score == pytest.approx(float(matrix[:, column].max()), abs=1e-5)
        assert sentence.chunk == case["chunks"][sentence.chunk_index]
        # Chunks within rounding of the best may take its place.
        assert matrix[sentence.chunk_index, column] >= matrix[:, column].max() - 1e-5
    mean = math.fsum(sentence.score for sentence in result.sentences) / len(result.sentences)
    assert result.score == pytest.approx(mean, abs=1e-12)


def test_the_best_chunk_is_not_always_the_same(results: dict[str, AlignScoreResult]) -> None:
    assert len({sentence.chunk_index for sentence in results["2000w_40s"].sentences}) > 2


@pytest.mark.parametrize("mode", ["nli", "bin", "reg"])
def test_plain_modes_score_the_whole_claim_once(scorer: AlignScorer, mode: Any) -> None:
    case = CASES["700w_4s"]
    (result,) = scorer.score([case["context"]], [case["claim"]], eval_mode=mode)
    (only,) = result.sentences
    assert (only.text, only.chunk, only.chunk_index) == (case["claim"], case["context"], 0)
    assert only.score == result.score


@pytest.mark.parametrize("mode", EVAL_MODES)
def test_a_score_does_not_depend_on_the_rest_of_the_call(scorer: AlignScorer, mode: Any) -> None:
    together = scorer.score(*texts(FEW), eval_mode=mode)
    for name, in_batch in zip(FEW, together, strict=True):
        (alone,) = scorer.score(*texts([name]), eval_mode=mode)
        # A regression output is no probability: it is ten times as large, and so its rounding.
        assert abs(alone.score - in_batch.score) <= (1e-5 if "reg" in mode else 1e-6)
        assert [s.chunk_index for s in alone.sentences] == [
            s.chunk_index for s in in_batch.sentences
        ]


@pytest.mark.parametrize("options", [{"max_rows": 1}, {"max_rows": 3}, {"token_budget": 600}])
def test_order_and_batch_shape_change_nothing(
    results: dict[str, AlignScoreResult], options: dict[str, int]
) -> None:
    names = FEW[:]
    random.Random(3).shuffle(names)
    for name, other in zip(names, make(**options).score(*texts(names)), strict=True):
        assert abs(results[name].score - other.score) <= 1e-6
        assert results[name].truncated == other.truncated


def test_identical_pairs_are_computed_once(
    scorer: AlignScorer, monkeypatch: pytest.MonkeyPatch
) -> None:
    runtime = scorer._runtime
    seen: list[int] = []
    run = runtime.run

    def counting(sequences: Any, consume: Any) -> Any:
        seen.append(len(sequences))
        return run(sequences, consume)

    monkeypatch.setattr(runtime, "run", counting)
    case = CASES["351w_3s"]
    pairs = len(case["chunks"]) * len(set(case["sentences"]))
    doubled = f"{case['claim']} {case['claim']}"
    results = scorer.score([case["context"]] * 3, [case["claim"], doubled, case["claim"]])
    assert seen == [pairs]
    assert results[0] == results[2]
    assert results[1].score == pytest.approx(results[0].score, abs=1e-9)
    assert len(results[1].sentences) == 2 * len(results[0].sentences)


def test_truncation_is_flagged_and_only_where_text_was_lost(
    results: dict[str, AlignScoreResult],
) -> None:
    assert not results["1w_1s"].truncated
    assert not results["50w_3s"].truncated
    for name in ("claim_over_limit", "both_over_limit", "one_sentence_900w"):
        assert results[name].truncated, name


def test_an_over_long_sentence_scores_as_its_pair_alone(
    results: dict[str, AlignScoreResult],
) -> None:
    """The reference cuts every pair of a batch otherwise once one sentence is too long."""
    case = CASES["claim_over_limit_with_mates"]
    assert abs(case["batched"]["nli_sp"] - case["scores"]["nli_sp"]) > 1e-4
    result = results["claim_over_limit_with_mates"]
    assert abs(result.score - case["scores"]["nli_sp"]) <= 1e-5


@pytest.mark.parametrize("name", REFUSED)
def test_texts_without_a_word_are_refused(scorer: AlignScorer, name: str) -> None:
    case = CASES[name]
    field = "claims" if not case["claim"].strip() else "contexts"
    with pytest.raises(InvalidInput) as error:
        scorer.score(["Fine.", case["context"]], ["Fine.", case["claim"]])
    assert error.value.field == f"{field}[1]"


def test_the_reference_breaks_off_on_a_claim_without_sentences() -> None:
    """Recorded, so that our refusal is known not to hide a score the reference has."""
    for name in ("empty_claim", "blank_claim"):
        for mode in ("nli_sp", "bin_sp", "reg_sp"):
            assert "non-empty list of Tensors" in CASES[name]["scores"][mode]["error"]


@pytest.mark.parametrize(
    ("contexts", "claims"), [(["A."], ["A.", "B."]), ([], []), (["..."], ["A"])]
)
def test_bad_lists_are_refused(scorer: AlignScorer, contexts: Any, claims: Any) -> None:
    with pytest.raises(InvalidInput):
        scorer.score(contexts, claims)


def test_an_unknown_mode_is_refused(scorer: AlignScorer) -> None:
    with pytest.raises(InvalidInput, match="nli_sp"):
        scorer.score(["A."], ["A."], eval_mode="nli_xx")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="nli_sp"):
        make(eval_mode="smart")
    with pytest.raises(ConfigError, match="chunk_words"):
        make(chunk_words=0)


@pytest.mark.parametrize("mode", EVAL_MODES)
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_model_that_gives_no_number_is_an_error(mode: Any, value: float) -> None:
    model, _ = load_checkpoint(ALIGNSCORE / "tiny-roberta.ckpt", ALIGNSCORE / "tiny-roberta")
    with torch.no_grad():
        for head in (model.bin_layer, model.tri_layer, model.reg_layer):
            head.bias.fill_(value)
    tokenizer = AutoTokenizer.from_pretrained(ALIGNSCORE / "tiny-roberta")
    broken = AlignScorer(model, tokenizer, name="broken", device="cpu")
    with pytest.raises(MetricFailed) as error:
        broken.score(["One. Two."], ["One. Two."], eval_mode=mode)
    assert error.value.field == "claims[0]"


def test_from_reference_labels_a_checkpoint_by_its_file(scorer: AlignScorer) -> None:
    assert scorer.name == "tiny-roberta"
    assert scorer.device == "cpu"
    assert (scorer.eval_mode, scorer.chunk_words) == ("nli_sp", 350)


def test_chunk_words_is_an_option_of_the_scorer() -> None:
    case = CASES["200w_5s"]
    (result,) = make(chunk_words=50).score([case["context"]], [case["claim"]])
    used = {sentence.chunk for sentence in result.sentences}
    assert used <= set(context_chunks(case["context"], 50))
    assert len(context_chunks(case["context"], 50)) > 3


def test_a_backbone_without_heads_is_refused_with_what_to_set() -> None:
    with pytest.raises(CheckpointError, match="set ALIGNSCORE_CKPT"):
        AlignScorer.from_reference(str(ALIGNSCORE / "tiny-roberta"))
    with pytest.raises(ConfigError, match="no-such-folder"):
        AlignScorer.from_reference("no-such-folder")


@pytest.fixture
def compact(tmp_path: Path) -> tuple[Path, AlignModel]:
    """A compact model on the fixture's own BERT, whose weights are written first."""
    base = tmp_path / "base"
    model, _ = load_checkpoint(ALIGNSCORE / "tiny-bert.ckpt", ALIGNSCORE / "tiny-bert")
    model.base_model.save_pretrained(base)
    AutoTokenizer.from_pretrained(ALIGNSCORE / "tiny-bert").save_pretrained(base)
    with torch.no_grad():
        for name, value in model.base_model.named_parameters():
            if value.ndim == 1:
                value.add_(0.05)
            elif "attention" in name:
                value.add_(torch.outer(value[:, 0], value[0]) * 0.1)
    config = CompactConfig("tiny-mini", str(base), 8, 40, "bin_sp")
    save_compact(model, tmp_path / "mini", config)
    return tmp_path / "mini", model


def test_a_compact_model_brings_its_own_name_mode_and_chunks(
    compact: tuple[Path, AlignModel],
) -> None:
    directory, model = compact
    own = AlignScorer.from_reference(str(directory), device="cpu")
    assert (own.name, own.eval_mode, own.chunk_words) == ("tiny-mini", "bin_sp", 40)
    set_here = AlignScorer.from_reference(
        str(directory), eval_mode="reg", chunk_words=80, device="cpu"
    )
    assert (set_here.eval_mode, set_here.chunk_words) == ("reg", 80)
    tokenizer = AutoTokenizer.from_pretrained(ALIGNSCORE / "tiny-bert")
    whole = AlignScorer(model, tokenizer, name="whole", chunk_words=40, device="cpu")
    case = CASES["200w_5s"]
    (stored,) = own.score([case["context"]], [case["claim"]])
    (expected,) = whole.score([case["context"]], [case["claim"]], eval_mode="bin_sp")
    assert stored.score == pytest.approx(expected.score, abs=0.02)


def test_a_compact_model_and_a_checkpoint_exclude_each_other(
    compact: tuple[Path, AlignModel],
) -> None:
    with pytest.raises(CheckpointError, match="backbone"):
        AlignScorer.from_reference(str(compact[0]), ckpt=str(ALIGNSCORE / "tiny-bert.ckpt"))


def plainly(model: AlignModel, tokenizer: Any, context: str, claim: str, mode: str) -> float:
    """The published procedure said again, slowly: one pair at a time, padded to the limit."""

    def encoded(premise: str, hypothesis: str) -> Any:
        def attempt(truncation: str | bool) -> Any:
            return tokenizer(
                premise,
                hypothesis,
                truncation=truncation,
                padding="max_length",
                max_length=512,
                return_tensors="pt",
            )

        try:
            return attempt("only_first")
        except Exception as error:  # the backend's error has no class of its own
            if "too short" not in str(error):
                raise
            return attempt(True)

    def one(premise: str, hypothesis: str) -> float:
        with torch.no_grad():
            logits = model(**encoded(premise, hypothesis))
        if mode.startswith("nli"):
            return float(logits.three_way.softmax(-1)[0, 0])
        if mode.startswith("bin"):
            return float(logits.binary.softmax(-1)[0, 1])
        return float(logits.regression[0, 0])

    if not mode.endswith("_sp"):
        return one(context, claim)
    sentences = split_sentences(context)
    size = max(len(sentences) // (len(context.split()) // 350 + 1), 1)
    chunks = [" ".join(sentences[at : at + size]) for at in range(0, len(sentences), size)]
    best = [max(one(chunk, part) for chunk in chunks) for part in split_sentences(claim)]
    return sum(best) / len(best)


@pytest.mark.parametrize("seed", range(4))
def test_random_texts_score_as_the_procedure_said_plainly(
    scorers: dict[str, AlignScorer], seed: int
) -> None:
    rng = random.Random(seed)
    kind = KINDS[seed % 2]
    model, _ = load_checkpoint(ALIGNSCORE / f"tiny-{kind}.ckpt", ALIGNSCORE / f"tiny-{kind}")
    tokenizer = AutoTokenizer.from_pretrained(ALIGNSCORE / f"tiny-{kind}")
    pool = [part for name in SCORED for part in split_sentences(CASES[name]["context"])]
    contexts, claims = [], []
    for _ in range(2):
        contexts.append(rng.choice([" ", "\n", "  "]).join(rng.sample(pool, rng.randint(1, 40))))
        claims.append(" ".join(rng.sample(pool, rng.randint(1, 3))))
    for mode in EVAL_MODES:
        results = scorers[kind].score(contexts, claims, eval_mode=mode)  # type: ignore[arg-type]
        for context, claim, result in zip(contexts, claims, results, strict=True):
            assert abs(result.score - plainly(model, tokenizer, context, claim, mode)) <= 1e-5
