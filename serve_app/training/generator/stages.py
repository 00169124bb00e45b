"""The two stages of training a generator, run by TRL: supervised, then GRPO against the reward.

Knows TRL, PEFT and checkpoints; what is trained on and what it is for, others decide. TRL is
imported when a stage runs: nothing else needs it.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import accelerate
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import PrinterCallback, TrainerCallback, set_seed

from serve_app.core.errors import ConfigError
from serve_app.models.causal_lm import load_causal_model
from serve_app.models.verification import reason, refusing, require_sound_files
from serve_app.training.generator.data import Examples
from serve_app.training.generator.options import Stage, TrainOptions
from serve_app.training.rewards.reward import Reward, loss_reward, metric_rewards
from serve_app.training.rewards.scoring import PairScorer

OnLog = Callable[[str, int, int, dict[str, float]], None]
"""Told the stage, the step, the steps there are, and the numbers of that step."""

_NEEDED = {"none": ("trl",), "tensorboard": ("trl", "tensorboard"), "mlflow": ("trl", "mlflow")}


def require_libraries(options: TrainOptions) -> None:
    """Raises `ConfigError` where a library the run needs is not installed."""
    missing = [name for name in _NEEDED[options.log_to] if find_spec(name) is None]
    if missing:
        raise ConfigError(f"{', '.join(missing)} is missing: pip install 'plainmed[train]'")


def processes() -> accelerate.PartialState:
    """This process among those that train together, as the launcher's environment says."""
    return accelerate.PartialState(cpu=not torch.accelerator.is_available())


def uses_bf16(options: TrainOptions) -> bool:
    """Whether weights and arithmetic are in bfloat16."""
    if options.bf16 is not None:
        return options.bf16
    return torch.cuda.is_available() and torch.cuda.is_bf16_supported()


@dataclass(frozen=True)
class StagePlace:
    """Where a stage keeps what it makes."""

    folder: Path

    @property
    def adapter(self) -> Path:
        """Its finished adapter with the tokenizer; there only when the stage is done."""
        return self.folder / "adapter"

    @property
    def done(self) -> bool:
        """Whether the stage is finished."""
        return (self.adapter / "adapter_config.json").is_file()

    @property
    def checkpoint(self) -> Path | None:
        """The newest complete checkpoint, if there is one."""
        found = {
            int(match[1]): path
            for path in self.folder.glob("checkpoint-*")
            if (match := re.fullmatch(r"checkpoint-(\d+)", path.name))
            and (path / "trainer_state.json").is_file()
        }
        return found[max(found)] if found else None


def run_stage(
    stage: Stage,
    options: TrainOptions,
    *,
    base: Path,
    base_name: str,
    begin: Path | None,
    examples: Examples,
    scorer: PairScorer | None,
    place: StagePlace,
    on_log: OnLog | None = None,
) -> list[dict[str, float]]:
    """Trains one stage to its end, from its newest checkpoint if it has one.

    Args:
        stage: which.
        options: of the run.
        base: directory of the whole model.
        base_name: what the adapter's configuration calls it.
        begin: an adapter to go on from; None: a new one.
        examples: to train on.
        scorer: who scores completions; for `grpo`.
        place: where checkpoints and the finished adapter go.
        on_log: told of every logged step, in the first process alone.

    Returns:
        What was logged, oldest first.

    Raises:
        ConfigError: a model or adapter cannot be loaded, or an option does not fit them.
        PlainMedError: a reward failed.
    """
    from datasets import Dataset

    set_seed(options.seed)
    dtype = torch.bfloat16 if uses_bf16(options) else torch.float32
    loaded = load_causal_model(base, device=torch.device("cpu"), dtype=dtype)
    model = _adapted(loaded.model, options, begin)
    model.peft_config["default"].base_model_name_or_path = base_name
    common = _common(stage, options, place.folder)
    if stage == "sft":
        rows: list[dict[str, Any]] = examples.sft_rows()
        kind, own = _sft(options, common)
    else:
        rows = examples.grpo_rows()
        kind, own = _grpo(options, common, scorer)
    trainer = kind(
        model=model,
        train_dataset=Dataset.from_list(rows),
        processing_class=loaded.tokenizer,
        callbacks=[_Reporter(stage, on_log)],
        **own,
    )
    trainer.remove_callback(PrinterCallback)  # it prints every number there is
    checkpoint = place.checkpoint
    if checkpoint is not None:
        require_sound_files(checkpoint)
    try:
        trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    except UnpicklingError as error:
        raise ConfigError(f"cannot go on from {checkpoint}: {reason(error)}") from error
    if trainer.is_world_process_zero():
        trainer.state.save_to_json(str(place.folder / "trainer_state.json"))
        _save(trainer.accelerator.unwrap_model(trainer.model), loaded.tokenizer, place.adapter)
    trainer.accelerator.wait_for_everyone()
    if options.log_to == "mlflow":
        import mlflow

        mlflow.end_run()  # the next stage is a run of its own
    return list(trainer.state.log_history)


def _adapted(model: Any, options: TrainOptions, begin: Path | None) -> Any:
    if begin is not None:
        require_sound_files(begin)
        with refusing(f"the adapter {begin} does not fit the base"):
            return PeftModel.from_pretrained(model, str(begin), is_trainable=True)
    targets: str | list[str] = list(options.target_modules)
    if options.target_modules == ("all-linear",):
        targets = "all-linear"
    lora = LoraConfig(
        r=options.rank,
        lora_alpha=options.alpha,
        lora_dropout=options.dropout,
        target_modules=targets,
        task_type="CAUSAL_LM",
    )
    try:
        return get_peft_model(model, lora)
    except ValueError as error:
        raise ConfigError(f"--target-modules: {error}") from error


def _common(stage: Stage, options: TrainOptions, folder: Path) -> dict[str, Any]:
    """Arguments both trainers take."""
    return {
        "output_dir": str(folder),
        "run_name": f"{options.out.name}-{stage}",
        "seed": options.seed,
        "bf16": uses_bf16(options),
        "use_cpu": not torch.accelerator.is_available(),
        "gradient_checkpointing": options.gradient_checkpointing,
        "gradient_accumulation_steps": options.accumulation,
        "logging_steps": options.logging_steps,
        "logging_first_step": True,
        "save_steps": options.save_steps,
        "save_total_limit": 2,
        "report_to": [] if options.log_to == "none" else [options.log_to],
        "disable_tqdm": True,
    }


def _sft(options: TrainOptions, common: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """The trainer of the first stage, and its own arguments."""
    from trl import SFTConfig, SFTTrainer

    config = SFTConfig(
        **common,
        num_train_epochs=options.sft_epochs,
        learning_rate=options.sft_learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=0.03,
        per_device_train_batch_size=options.sft_batch,
        max_length=None,  # rows that are too long have been left out already
    )
    return SFTTrainer, {"args": config}


def _grpo(
    options: TrainOptions, common: dict[str, Any], scorer: PairScorer | None
) -> tuple[Any, dict[str, Any]]:
    """The trainer of the second stage, and its own arguments."""
    from trl import GRPOConfig, GRPOTrainer

    if scorer is None:
        raise ConfigError("GRPO needs a scorer")
    rewards, weights = _rewards(options, scorer)
    config = GRPOConfig(
        **common,
        max_steps=options.grpo_steps,
        learning_rate=options.grpo_learning_rate,
        lr_scheduler_type="constant_with_warmup",
        warmup_steps=0.03,
        per_device_train_batch_size=options.grpo_batch,
        num_generations=options.num_generations,
        max_completion_length=options.max_new_tokens,
        temperature=options.temperature,
        beta=options.beta,
        reward_weights=weights,
    )
    return GRPOTrainer, {"args": config, "reward_funcs": rewards}


def _rewards(options: TrainOptions, scorer: PairScorer) -> tuple[list[Reward], list[float]]:
    if options.reward == "loss":
        return [loss_reward(scorer, weights=options.weights, original="original")], [1.0]
    rewards = metric_rewards(scorer, original="original")
    return rewards, list(options.weights or [1 / len(rewards)] * len(rewards))


def _save(model: Any, tokenizer: Any, adapter: Path) -> None:
    """Writes the adapter beside its place and renames it, so that it is whole or absent."""
    partial = adapter.with_name("adapter.partial")
    shutil.rmtree(partial, ignore_errors=True)
    # GRPO with beta keeps a second, frozen adapter, which is nothing to serve.
    model.save_pretrained(str(partial), selected_adapters=["default"])
    tokenizer.save_pretrained(str(partial))
    shutil.rmtree(adapter, ignore_errors=True)
    partial.rename(adapter)


class _Reporter(TrainerCallback):  # type: ignore[misc]  # transformers is not typed here
    """Passes on what a trainer logs, in the first process."""

    def __init__(self, stage: Stage, on_log: OnLog | None) -> None:
        self._stage = stage
        self._on_log = on_log

    def on_log(
        self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any
    ) -> None:
        """Called by the trainer."""
        if self._on_log is None or not state.is_world_process_zero:
            return
        numbers = {name: float(value) for name, value in _numbers(logs or {})}
        self._on_log(self._stage, state.global_step, state.max_steps, numbers)


def _numbers(logs: dict[str, Any]) -> Sequence[tuple[str, float]]:
    return [(name, value) for name, value in logs.items() if isinstance(value, int | float)]
