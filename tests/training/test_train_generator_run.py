"""A generator trained, merged, uploaded and served: what was taught is what is written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from serve_app.core.errors import ConfigError
from serve_app.core.settings import load_settings
from serve_app.generation.loading import load_generator
from serve_app.generation.protocol import GenerationParams
from serve_app.training.generator.run import plan_training, train_generator
from serve_app.training.generator.stages import StagePlace
from serve_app.training.merge import merge_and_upload, plan_merge
from serve_app.training.rewards.reward import local_scorer
from serve_app.training.rewards.scoring import PairScores
from tests.support.generator_runs import PAIRS, options, save_base, save_corpus
from tests.support.slow import slow

GREEDY = GenerationParams(max_new_tokens=24, temperature=0.0)
LEARNT = {"sft_epochs": 60.0}  # one step each: enough to know two summaries by heart


@pytest.fixture(autouse=True)
def _small(in_process: None, one_thread: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Small metrics, a short prompt, one thread."""
    monkeypatch.setenv("SYSTEM_PROMPT", "Be plain.")
    monkeypatch.setenv("USER_PREFIX", "Text: ")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_base(tmp_path)
    save_corpus(tmp_path / "pairs.csv")
    return tmp_path


def train(folder: Path, *, resume: bool = False, on_log: Any = None, **changed: Any) -> Any:
    settings = load_settings()
    plan = plan_training(settings, options(folder, **changed), resume=resume)
    return train_generator(settings, plan, on_log=on_log)


def weights(adapter: Path) -> dict[str, torch.Tensor]:
    return load_file(adapter / "adapter_model.safetensors")


def test_what_is_taught_is_merged_uploaded_served_and_scored(
    folder: Path, new_bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    outcome = train(folder, eval_split="train", **LEARNT)
    assert {"sft", "grpo"} == set(outcome.logs)
    assert [log["reward"] for log in outcome.logs["grpo"] if "reward" in log]
    assert outcome.after.wordless == 0
    assert outcome.after.means["relevance"] > outcome.before.means.get("relevance", 0.0) + 0.05

    monkeypatch.setenv("MODEL_S3_BUCKET", new_bucket)
    monkeypatch.setenv("CACHE_DIR", str(folder / "cache"))
    done = merge_and_upload(load_settings(), plan_merge(load_settings(), str(outcome.adapter)))
    assert done.plan.model_name == "org__base-run"
    assert done.merge.warnings == ()

    monkeypatch.setenv("MODEL_NAME", "org__base-run")
    engine = load_generator(load_settings())
    assert engine.name == "org__base-run"
    taught = PAIRS[:2]
    written = engine.generate([source for source, _, _ in taught], [GREEDY] * 2)
    assert [(one.text, one.finish_reason) for one in written] == [
        (target, "stop") for _, target, _ in taught
    ]
    scores = local_scorer().score(
        [(source, one.text) for (source, _, _), one in zip(taught, written, strict=True)]
    )
    losses = [one.loss for one in scores if isinstance(one, PairScores)]
    assert sum(losses) / 2 == pytest.approx(outcome.after.means["loss"], abs=1e-4)


class Killed(BaseException):
    """Stands for a process that ends: no handler of ours may take it for an error."""


@slow(12)
def test_a_run_that_was_killed_goes_on_and_comes_to_the_same(folder: Path) -> None:
    straight = train(folder, out=folder / "straight", sft_epochs=12.0)
    out = folder / "killed"
    seen: list[tuple[str, int]] = []

    def kill(stage: str, step: int, steps: int, numbers: dict[str, float]) -> None:
        seen.append((stage, step))
        if (stage, step) == ("sft", 7):
            raise Killed

    changed: dict[str, Any] = {"out": out, "sft_epochs": 12.0}
    with pytest.raises(Killed):
        train(folder, on_log=kill, **changed)
    assert not (out / "adapter_config.json").exists()
    assert StagePlace(out / "sft").checkpoint == out / "sft" / "checkpoint-5"

    with pytest.raises(ConfigError, match="not empty"):
        train(folder, **changed)
    with pytest.raises(ConfigError, match=r"begun otherwise: rank changed"):
        train(folder, resume=True, **changed, rank=4)

    seen.clear()
    resumed = train(folder, resume=True, on_log=kill_never(seen), **changed)
    assert seen[0] == ("sft", 6)
    one, other = weights(straight.adapter), weights(resumed.adapter)
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        torch.testing.assert_close(tensor, other[name], atol=1e-5, rtol=1e-4)

    again = train(folder, resume=True, **changed)
    assert again.logs == {}


def kill_never(seen: list[tuple[str, int]]) -> Any:
    return lambda stage, step, steps, numbers: seen.append((stage, step))


def test_grpo_goes_on_from_an_adapter_and_leaves_no_second_one(folder: Path) -> None:
    taught = train(folder, out=folder / "org__base-sft", stages=("sft",))
    outcome = train(
        folder,
        out=folder / "org__base-grpo",
        stages=("grpo",),
        adapter=taught.adapter,
        beta=0.1,
        grpo_learning_rate=1e-3,
        reward="metrics",
        weights=[0.4, 0.3, 0.1, 0.1, 0.1],
    )
    logged = [log for log in outcome.logs["grpo"] if "reward" in log]
    assert all("kl" in log and "rewards/smog/mean" in log for log in logged)
    assert not (outcome.adapter / "ref").exists()
    before, after = weights(taught.adapter), weights(outcome.adapter)
    assert before.keys() == after.keys()
    assert any(not torch.equal(before[name], after[name]) for name in before)


def test_a_checkpoint_is_an_adapter_that_can_be_merged(folder: Path, new_bucket: str) -> None:
    train(folder, stages=("sft",), sft_epochs=6.0)
    checkpoint = folder / "org__base-run" / "sft" / "checkpoint-5"
    plan = plan_merge(load_settings(), str(checkpoint), bucket=new_bucket, out=folder / "merged")
    assert plan.base == str((folder / "org__base").resolve())
    done = merge_and_upload(load_settings(), plan)
    assert done.merge.effect > 0


def test_the_curve_goes_to_tensorboard(folder: Path) -> None:
    train(folder, stages=("sft",), log_to="tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    (file,) = (folder / "org__base-run" / "sft").rglob("events.out.tfevents.*")
    events = EventAccumulator(str(file))
    events.Reload()
    assert len(events.Scalars("train/loss")) == 2


@slow(8)
def test_the_curve_goes_to_mlflow_a_run_a_stage(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_ALLOW_FILE_STORE", "MLFLOW_EXPERIMENT_NAME"):
        monkeypatch.setenv(name, "")  # so that what the run sets is taken back
        monkeypatch.delenv(name)
    outcome = train(folder, log_to="mlflow")
    import mlflow

    runs = mlflow.search_runs(output_format="list")
    names = {run.info.run_name: run.data.metrics for run in runs}
    assert set(names) == {"org__base-run-sft", "org__base-run-grpo"}
    last = [log["reward"] for log in outcome.logs["grpo"] if "reward" in log][-1]
    assert names["org__base-run-grpo"]["reward"] == pytest.approx(last)
    assert (folder / "org__base-run" / "mlruns").is_dir()


def test_a_module_that_is_not_there_is_named(folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"--target-modules: .*no_such_module"):
        train(folder, target_modules=("no_such_module",))
