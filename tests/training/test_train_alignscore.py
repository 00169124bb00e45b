"""What training `alignscore-mini` promises: splits without leaks, repeatable runs."""

from __future__ import annotations

import importlib.util
import json
import math
from dataclasses import replace
from pathlib import Path
from random import Random

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

from serve_app.core.errors import CheckpointError, ConfigError
from serve_app.metrics.align_model import AlignLogits, CompactConfig, load_compact, save_compact
from serve_app.metrics.alignscore import AlignScorer
from serve_app.storage.artifacts import resolve
from serve_app.training.alignscore import data, evaluation, pairs, trainer
from serve_app.training.alignscore.block_network import BlockNetwork
from tests.support.paths import ROOT
from tests.support.texts import PASSAGE

SHIPPED = resolve("embedded:alignscore-mini")


# --- data -------------------------------------------------------------------------------


def test_one_premise_is_in_one_part_whatever_its_spelling() -> None:
    assert data.part_of(data.normalised("A man, eating.")) == data.part_of(
        data.normalised("a man eating")
    )
    shares = [data.part_of(f"premise {number}") for number in range(4000)]
    assert shares.count("test") / 4000 == pytest.approx(0.10, abs=0.015)
    assert shares.count("dev") / 4000 == pytest.approx(0.03, abs=0.01)


def test_no_premise_or_abstract_is_in_two_parts(shared_data: Path) -> None:
    nli = data.load_nli(shared_data)
    seen = {part: {data.normalised(row.premise) for row in rows} for part, rows in nli.items()}
    assert not seen["train"] & seen["test"]
    assert not seen["train"] & seen["dev"]
    assert len(nli["test"]) / sum(map(len, nli.values())) == pytest.approx(0.1, abs=0.02)
    cochrane = data.load_cochrane(shared_data)
    assert len(cochrane["test"]) == 103
    extra = data.load_abstracts(shared_data, [*cochrane["test"], *cochrane["dev"]])
    kept = {
        data.normalised(text)
        for passage in (*cochrane["train"], *extra)
        for text in passage.sentences
        if len(text.split()) >= 12
    }
    held_out = {data.normalised(text) for passage in extra for text in passage.sentences} & {
        data.normalised(text)
        for passage in (*cochrane["test"], *cochrane["dev"])
        for text in (*passage.sentences, *passage.summary)
        if len(text.split()) >= 5
    }
    assert kept
    assert not held_out


def test_a_missing_file_or_column_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nli_train\.jsonl"):
        data.load_nli(tmp_path)
    (tmp_path / "nli_train.jsonl").write_text('{"premise": "a"}\n')
    with pytest.raises(ConfigError, match="hypothesis"):
        data.load_nli(tmp_path)
    (tmp_path / "cochrane_pls.csv").write_text("source_text,split\nx,train\n")
    with pytest.raises(ConfigError, match="target_text"):
        data.load_cochrane(tmp_path)


def test_claims_against_passages_have_the_labels_of_their_kind() -> None:
    elsewhere = ["Clouds are made of very small drops of water."]
    maker = pairs.ClaimMaker(elsewhere, elsewhere, ["warfarin"])
    passage = data.Passage(PASSAGE, "test")
    retold = data.Passage(PASSAGE, "cochrane", summary=[f"In short: {PASSAGE[0]}"])
    made = [maker.make(text, 60, Random(seed)) for text in (passage, retold) for seed in range(400)]
    kinds = {pair.kind for pair in made if pair is not None}
    expected = {"copy", "shorten", "two", "summary", "fusion", "absent", "elsewhere", "number"}
    assert expected <= kinds
    for pair in made:
        if pair is None:
            continue
        assert pair.binary == int(pair.three_way == pairs.ALIGNED)
        assert pair.binary == int(pair.kind in {*pairs.POSITIVE, "summary"})
        assert pair.regression == (0.5 if pair.kind == "half" else pair.binary)
        if pair.kind == "copy":
            assert data.normalised(pair.claim) in data.normalised(pair.context)


def test_not_entailment_has_no_three_way_label() -> None:
    pair = pairs.nli_pair(data.NliRow("a b", "c d", "not_entailment", "rte"))
    assert (pair.binary, pair.three_way, pair.regression) == (0, pairs.NO_LABEL, 0.0)


# --- training ---------------------------------------------------------------------------


class Toy:
    """Twelve pairs a round: a claim equal to its context, or one about something else."""

    def round(self, seed: int, number: int, size: int, nli_share: float) -> list[pairs.Pair]:
        rng = Random(f"{seed}/{number}")
        made = []
        for _ in range(size):
            context, other = rng.sample(PASSAGE, 2)
            true = rng.random() < 0.5
            label = pairs.ALIGNED if true else pairs.NEUTRAL
            made.append(
                pairs.Pair(
                    context, context if true else other, int(true), label, float(true), "toy"
                )
            )
        return made


TOY = trainer.TrainConfig(
    tokens=8000,
    batch_tokens=512,
    blocks=1,
    learning_rate=2e-4,
    weight_decay=0.0,
    round_pairs=24,
    average=0.5,
)


def test_the_loss_is_the_sum_of_the_paper_and_skips_missing_labels() -> None:
    even = AlignLogits(torch.zeros(2, 2), torch.zeros(2, 3), torch.zeros(2, 1))
    labels = torch.tensor([1, 0]), torch.tensor([0, pairs.NO_LABEL]), torch.tensor([1.0, 0.0])
    assert float(trainer.align_loss(even, *labels)) == pytest.approx(1 + 1 + 0.5)
    none = torch.full((2,), pairs.NO_LABEL)
    assert float(trainer.align_loss(even, labels[0], none, labels[2])) == pytest.approx(1.5)


def test_the_training_forward_pass_is_the_modules_own() -> None:
    model = trainer.new_model(0)
    lengths = torch.tensor([9, 16, 4])
    ids = torch.randint(1000, 2000, (3, 16), generator=torch.Generator().manual_seed(0))
    types = (torch.arange(16) > 5).long().expand(3, 16)
    mask = (torch.arange(16) < lengths[:, None]).long()
    parameters = list(trainer.trainable(model).values())

    def gradients(logits: AlignLogits) -> list[torch.Tensor]:
        return list(torch.autograd.grad(sum(part.square().sum() for part in logits), parameters))

    wanted = model(input_ids=ids, token_type_ids=types, attention_mask=mask)
    exact = BlockNetwork(model, torch.float32)(ids, types, lengths)
    fast = BlockNetwork(model)(ids, types, lengths)
    for mine, low, own in zip(exact, fast, wanted, strict=True):
        assert torch.allclose(mine, own, atol=1e-5)
        assert torch.allclose(low, own, atol=0.02)
    for mine, own in zip(gradients(exact), gradients(wanted), strict=True):
        assert torch.allclose(mine, own, atol=1e-5)
    # What stands behind a pair's end changes nothing.
    other = torch.where(mask.bool(), ids, 999)
    again = BlockNetwork(model, torch.float32)(other, types, lengths)
    assert torch.allclose(again.three_way, exact.three_way, atol=1e-6)


def test_blocks_have_few_shapes_and_hold_every_pair() -> None:
    rng = Random(0)
    made = [
        pairs.Pair("word " * rng.randint(1, 400), f"claim {n}", n % 2, n % 3, n / 9, "k")
        for n in range(300)
    ]
    batcher = trainer.Batcher(1024)
    blocks = batcher.blocks(made, Random(1))
    assert len({block.ids.shape for block in blocks}) <= len(trainer.WIDTHS)
    assert all(block.ids.size <= 1024 or len(block.ids) == 1 for block in blocks)
    seen = {
        batcher.tokenizer.decode(ids[:length]).split("[SEP]")[1].strip()
        for block in blocks
        for ids, length in zip(block.ids, block.lengths, strict=True)
    }
    assert seen == {pair.claim for pair in made}


@pytest.mark.usefixtures("one_thread")
def test_pairs_prepared_ahead_are_those_prepared_in_between() -> None:
    config = replace(TOY, tokens=1500)
    states = []
    for ahead in (0, 3):
        model = trainer.new_model(0)
        trainer.run(model, Toy(), replace(config, ahead=ahead))
        states.append(trainer.trainable(model))
    for name, value in states[0].items():
        assert torch.equal(value, states[1][name]), name


def test_a_preparing_process_that_fails_ends_the_run() -> None:
    class Broken:
        """A source without pairs."""

        def round(self, seed: int, number: int, size: int, nli_share: float) -> list[pairs.Pair]:
            raise ValueError("no pairs")

    with pytest.raises(RuntimeError, match="prepares the pairs"):
        trainer.run(trainer.new_model(0), Broken(), replace(TOY, ahead=1))


@pytest.mark.usefixtures("one_thread")
def test_a_short_run_lowers_the_loss_and_a_stopped_one_resumes_to_the_same_weights(
    tmp_path: Path,
) -> None:
    losses: list[float] = []
    whole = trainer.new_model(0)
    end = trainer.run(whole, Toy(), TOY, on_step=lambda progress: losses.append(progress.loss))
    assert end.tokens >= TOY.tokens
    assert np.mean(losses[-5:]) < 0.75 * np.mean(losses[:5])

    class Stopped(Exception):
        """Stands for a killed process."""

    def stop(progress: trainer.Progress) -> None:
        if progress.steps == 5:
            raise Stopped

    path = tmp_path / "checkpoint.pt"
    with pytest.raises(Stopped):
        trainer.run(trainer.new_model(0), Toy(), TOY, checkpoint=path, save_every=4, on_step=stop)
    resumed = trainer.new_model(1)
    trainer.run(resumed, Toy(), TOY, checkpoint=path, resume=True)
    for name, value in trainer.trainable(whole).items():
        assert torch.equal(value, trainer.trainable(resumed)[name]), name

    averaged = trainer.new_model(1)
    trainer.load_average(path, averaged)
    last = trainer.trainable(whole)["base_model.encoder.layer.0.output.dense.weight"]
    mean = trainer.trainable(averaged)["base_model.encoder.layer.0.output.dense.weight"]
    assert torch.allclose(mean, last, atol=1e-3)
    assert not torch.equal(mean, last)

    frozen = whole.base_model.embeddings.state_dict()
    for name, value in trainer.new_model(2).base_model.embeddings.state_dict().items():
        assert torch.equal(value, frozen[name]), name

    config = CompactConfig("toy", data.BASE, 48, 100, "nli_sp")
    save_compact(whole, tmp_path / "toy", config)
    loaded, read, _ = load_compact(tmp_path / "toy")
    assert read == config
    scorers = [evaluation.ModelScorer(model) for model in (whole, loaded)]
    first, second = (scorer.logits(PASSAGE, PASSAGE[::-1]).three_way for scorer in scorers)
    assert torch.allclose(first.softmax(-1), second.softmax(-1), atol=0.05)


def test_a_file_that_is_no_checkpoint_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pt"
    torch.save({"weights": {}}, path)
    with pytest.raises(CheckpointError, match="another model"):
        trainer.load_checkpoint(path, trainer.new_model(0))
    path.write_bytes(b"not a checkpoint")
    with pytest.raises(CheckpointError, match=r"checkpoint\.pt"):
        trainer.load_checkpoint(path, trainer.new_model(0))


def test_the_average_of_models_is_that_of_their_weights() -> None:
    first, second = trainer.new_model(0), trainer.new_model(1)
    mean = trainer.averaged([(first, 0.25), (second, 0.75)])
    for name, value in mean.state_dict().items():
        expected = 0.25 * first.state_dict()[name] + 0.75 * second.state_dict()[name]
        assert torch.allclose(value, expected, atol=1e-6), name
    assert not torch.equal(first.bin_layer.weight, second.bin_layer.weight)


@pytest.mark.parametrize("shares", [[1.0], [0.5, 0.4], [0.7, 0.7]])
def test_shares_that_do_not_sum_to_one_are_refused(shares: list[float]) -> None:
    with pytest.raises(ConfigError, match="sum to 1"):
        trainer.averaged([(trainer.new_model(0), share) for share in shares])


# --- evaluation -------------------------------------------------------------------------


def test_auc_counts_ties_as_half_and_wants_both_sides() -> None:
    assert evaluation.auc([1, 2, 3, 4], [False, False, True, True]) == 1.0
    assert evaluation.auc([1, 1], [True, False]) == 0.5
    assert math.isclose(evaluation.auc([3, 1, 2], [True, True, False]), 0.5)
    with pytest.raises(ValueError, match="both"):
        evaluation.auc([1, 2], [True, True])


def test_the_training_scorer_equals_the_served_metric(
    shipped: tuple[evaluation.ModelScorer, CompactConfig],
) -> None:
    scorer, config = shipped
    claim = "Exercise reduced pain. Nobody died."
    mine = scorer.aligned_all([TRIAL], [claim], chunk_words=20)
    served = AlignScorer.from_reference("embedded:alignscore-mini", device="cpu", chunk_words=20)
    assert served.eval_mode == config.eval_mode
    result = served.score([TRIAL], [claim])[0]
    assert mine[config.eval_mode][0] == pytest.approx(result.score, abs=1e-6)


def test_overlap_is_the_share_of_known_ngrams() -> None:
    assert evaluation.overlap(["a b c d"], ["a b x d"], size=1)[0] == 0.75
    assert evaluation.overlap(["a b c d"], ["a b x d"], size=2)[0] == pytest.approx(1 / 3)


def test_the_command_line_says_what_it_takes(tmp_path: Path) -> None:
    script = ROOT / "scripts" / "train_alignscore.py"
    spec = importlib.util.spec_from_file_location("train_alignscore", script)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    shown = CliRunner().invoke(module.app, ["--help"])
    assert shown.exit_code == 0
    assert all(
        name in shown.output for name in ("train", "export", "average", "tune", "kinds", "evaluate")
    )
    missing = CliRunner().invoke(module.app, ["train", str(tmp_path / "no"), "--out", "x"])
    assert missing.exit_code == 2


# --- the shipped model ------------------------------------------------------------------


def test_the_shipped_model_is_small_and_says_what_it_is() -> None:
    files = {path.name: path.stat().st_size for path in SHIPPED.iterdir()}
    assert {"config.json", "model.safetensors", "README.md"} <= files.keys()
    assert files["model.safetensors"] <= 10 * 2**20
    config = json.loads((SHIPPED / "config.json").read_text())
    assert config["name"] == "alignscore-mini"
    tensors = load_file(SHIPPED / "model.safetensors")
    assert not any("embeddings.weight" in name for name in tensors)
    assert all(bool(torch.isfinite(tensor).all()) for tensor in tensors.values())


@pytest.fixture(scope="module")
def shipped() -> tuple[evaluation.ModelScorer, CompactConfig]:
    model, config, _ = load_compact(SHIPPED)
    return evaluation.ModelScorer(model), config


TRIAL = (
    "We included nine trials with 1204 adults who had knee osteoarthritis. Compared with usual "
    "care, supervised exercise reduced pain after 12 weeks. It also improved walking speed. "
    "Adverse events were rare and mild. No trial reported deaths. The certainty of the evidence "
    "was moderate because several trials were not blinded."
)


@pytest.mark.parametrize(
    ("supported", "contradicted"),
    [
        (
            "Supervised exercise reduced pain after 12 weeks.",
            "Supervised exercise increased pain after 12 weeks.",
        ),
        (
            "Nine trials with 1204 adults were included.",
            "Nine trials with 3871 adults were included.",
        ),
        ("Adverse events were rare.", "Adverse events were common."),
        (
            "The trials looked at adults with knee osteoarthritis.",
            "The trials looked at infants with cystic fibrosis.",
        ),
    ],
)
def test_the_shipped_model_ranks_supported_over_contradicted(
    shipped: tuple[evaluation.ModelScorer, CompactConfig], supported: str, contradicted: str
) -> None:
    scorer, config = shipped
    scores = scorer.aligned_all(
        [TRIAL, TRIAL], [supported, contradicted], chunk_words=config.chunk_words
    )[config.eval_mode]
    assert scores[0] > scores[1]
