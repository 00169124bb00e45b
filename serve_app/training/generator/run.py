"""A whole run: what it will do, its stages one after the other, and what came of it.

An interrupted run goes on where it was. Knows which file means what in the output folder; how a
stage is trained is `generator_stages`' business.
"""

from __future__ import annotations

import gc
import json
import math
import os
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
import transformers

from serve_app.core.errors import ConfigError
from serve_app.core.settings import Settings
from serve_app.generation.causal.engine import TransformersGenerator
from serve_app.generation.protocol import GenerationParams
from serve_app.models.causal_lm import context_of, load_config, load_tokenizer
from serve_app.offline.calibration import Pair, read_pairs
from serve_app.storage.artifacts import Downloads, resolve
from serve_app.text.validation import has_word
from serve_app.training.generator.data import Examples, prepare
from serve_app.training.generator.options import TrainOptions
from serve_app.training.generator.stages import (
    OnLog,
    StagePlace,
    processes,
    require_libraries,
    run_stage,
    uses_bf16,
)
from serve_app.training.merge.lora import require_adapter
from serve_app.training.rewards.adapters import NAMES, measure
from serve_app.training.rewards.scoring import PairScorer, local_scorer, remote_scorer

RECORD = "plainmed-train.json"
"""File in the output folder that says what the run is; a run is gone on with only by the same."""

# What may differ when a run is gone on with.
_FREE = {"out", "eval_split", "eval_rows", "reward_url", "save_steps", "logging_steps", "log_to"}

OnEvent = Callable[[str], None]


@dataclass(frozen=True)
class TrainPlan:
    """What a run will do.

    Attributes:
        options: of the run.
        base: directory of the base model.
        base_name: what the adapter's configuration will call it.
        examples: to train on.
        to_judge: pairs summarised and scored before and after.
        context: most tokens the model takes; None: no limit is known.
        processes: that train together.
        steps: of each stage.
    """

    options: TrainOptions
    base: Path
    base_name: str
    examples: Examples
    to_judge: tuple[Pair, ...]
    context: int | None
    processes: int
    steps: dict[str, int]

    def place(self, stage: str) -> StagePlace:
        """Where a stage keeps what it makes."""
        return StagePlace(self.options.out / stage)


@dataclass(frozen=True)
class Judged:
    """What a model's summaries score: means of `NAMES`, and how many have no word to score."""

    means: dict[str, float]
    scored: int
    wordless: int


@dataclass(frozen=True)
class TrainOutcome:
    """What came of a run: the adapter, each stage's log, and the scores before and after."""

    adapter: Path
    logs: dict[str, list[dict[str, float]]] = field(default_factory=dict)
    before: Judged | None = None
    after: Judged | None = None


def plan_training(settings: Settings, options: TrainOptions, *, resume: bool = False) -> TrainPlan:
    """Reads and checks all data; loads a tokenizer and no model, and writes nothing.

    Args:
        settings: SYSTEM_PROMPT, USER_PREFIX, CACHE_DIR, CACHE_MAX_GB and HF_TOKEN are used.
        options: of the run.
        resume: whether the output folder may hold a run, which is then gone on with.

    Raises:
        ConfigError: an option, a file or the output folder is wrong.
    """
    require_libraries(options)
    state = processes()
    prompts = options.prompts_a_step(state.num_processes) if "grpo" in options.stages else 0
    base = resolve(options.base, Downloads.of(settings))
    if (base / "adapter_config.json").is_file():
        raise ConfigError(
            f"--base {options.base} is a LoRA adapter; give the whole model it was trained on as "
            "--base, and it as --adapter"
        )
    if options.adapter is not None:
        require_adapter(options.adapter)
    tokenizer = load_tokenizer(base)
    context = context_of(load_config(base), tokenizer)
    # A completion needs room only where completions are drawn, and where a model is judged.
    room = options.max_new_tokens if "grpo" in options.stages else 1
    examples = _examples(settings, options, tokenizer, context, options.split, room)
    to_judge: tuple[Pair, ...] = ()
    if options.eval_split is not None:
        room = options.max_new_tokens
        judged = _examples(settings, options, tokenizer, context, options.eval_split, room)
        to_judge = tuple(
            Pair(one.row, one.original, "") for one in judged.used[: options.eval_rows]
        )
    steps = {"grpo": options.grpo_steps} if prompts else {}
    if "sft" in options.stages:
        batch = options.sft_batch * options.accumulation * state.num_processes
        epoch = math.ceil(len(examples.used) / batch)
        steps = {"sft": math.ceil(epoch * options.sft_epochs)} | steps
    plan = TrainPlan(
        options=options,
        base=base,
        base_name=options.base if "://" in options.base else str(base.resolve()),
        examples=examples,
        to_judge=to_judge,
        context=context,
        processes=state.num_processes,
        steps=steps,
    )
    if state.is_main_process:  # others may see what the first has begun
        _check_out(plan, resume)
    return plan


def train_generator(
    settings: Settings,
    plan: TrainPlan,
    *,
    scorer: PairScorer | None = None,
    on_event: OnEvent | None = None,
    on_log: OnLog | None = None,
) -> TrainOutcome:
    """Runs all stages that are not finished, and leaves the adapter in the output folder.

    Args:
        settings: as for `plan_training`; also the models and targets of the reward.
        plan: from `plan_training`.
        scorer: who scores; None: as the options say.
        on_event: told what is being done, in the first process alone.
        on_log: see `run_stage`.

    Raises:
        ConfigError: a model cannot be loaded.
        PlainMedError: a reward or a summary failed; checkpoints stay.
    """
    options, state = plan.options, processes()
    tell = on_event if on_event is not None and state.is_main_process else lambda event: None
    needs_scores = "grpo" in options.stages or plan.to_judge
    if scorer is None and needs_scores:
        scorer = remote_scorer(options.reward_url) if options.reward_url else local_scorer(settings)
    if state.is_main_process:
        options.out.mkdir(parents=True, exist_ok=True)
        (options.out / RECORD).write_text(json.dumps(_record(plan), indent=2) + "\n")
    if options.log_to == "mlflow" and "MLFLOW_TRACKING_URI" not in os.environ:
        os.environ["MLFLOW_TRACKING_URI"] = (options.out / "mlruns").resolve().as_uri()
        os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")  # without it, no folder will do
    state.wait_for_everyone()
    before = after = None
    if plan.to_judge and scorer is not None and state.is_main_process:
        tell("judging the model before training")
        before = judge(settings, plan, scorer, options.adapter or plan.base)
    logs: dict[str, list[dict[str, float]]] = {}
    begin = options.adapter
    for stage in options.stages:
        place = plan.place(stage)
        if place.done:
            tell(f"{stage}: finished before")
        else:
            tell(f"{stage}: from {place.checkpoint or begin or 'a new adapter'}")
            logs[stage] = run_stage(
                stage,
                options,
                base=plan.base,
                base_name=plan.base_name,
                begin=begin,
                examples=plan.examples,
                scorer=scorer,
                place=place,
                on_log=on_log,
            )
            _free_memory()
        begin = place.adapter
    if state.is_main_process:
        shutil.copytree(plan.place(options.stages[-1]).adapter, options.out, dirs_exist_ok=True)
        if plan.to_judge and scorer is not None:
            tell("judging the model after training")
            after = judge(settings, plan, scorer, options.out)
    state.wait_for_everyone()
    return TrainOutcome(options.out, logs, before, after)


def judge(settings: Settings, plan: TrainPlan, scorer: PairScorer, model: Path) -> Judged:
    """Summarises the pairs to judge with the engine that serves, greedily, and scores that.

    A summary without a word has a loss of 1, as its reward is 0, and no metrics.

    Raises:
        PlainMedError: the model cannot be loaded, or a text cannot be summarised or scored.
    """
    engine = TransformersGenerator.from_reference(
        str(model),
        system_prompt=settings.system_prompt,
        user_prefix=settings.user_prefix,
        device=settings.device,
        dtype="bfloat16" if uses_bf16(plan.options) else "float32",
        base_reference=str(plan.base),
        downloads=Downloads.of(settings),
    )
    params = GenerationParams(
        max_new_tokens=plan.options.max_new_tokens,
        temperature=0.0,
        repeat_penalty=settings.repeat_penalty,
        seed=plan.options.seed,
    )
    originals = [pair.source for pair in plan.to_judge]
    written = [one.text for one in engine.generate(originals, [params] * len(originals))]
    worded = [pair for pair in zip(originals, written, strict=True) if has_word(pair[1])]
    table = measure(scorer, [one for one, _ in worded], [one for _, one in worded])
    wordless = len(written) - len(worded)
    means = dict(zip(NAMES, table.mean(axis=0).tolist(), strict=True)) if worded else {}
    means["loss"] = (float(table[:, -1].sum()) + wordless) / len(written)
    del engine
    _free_memory()
    return Judged(means, len(worded), wordless)


def _examples(
    settings: Settings,
    options: TrainOptions,
    tokenizer: Any,
    context: int | None,
    split: str | None,
    room: int,
) -> Examples:
    pairs = read_pairs(options.data, split)
    limit = options.max_length if context is None else min(options.max_length, context)
    try:
        return prepare(
            pairs,
            tokenizer,
            system_prompt=settings.system_prompt,
            user_prefix=settings.user_prefix,
            max_length=limit,
            max_new_tokens=room,
        )
    except ConfigError as error:
        raise ConfigError(f"{options.data}: {error.message}") from error


def _record(plan: TrainPlan) -> dict[str, Any]:
    options = {name: value for name, value in asdict(plan.options).items() if name != "out"}
    return {
        "options": json.loads(json.dumps(options, default=str)),
        "examples": plan.examples.fingerprint,
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
    }


def _check_out(plan: TrainPlan, resume: bool) -> None:
    """Raises `ConfigError` unless the folder is empty, or holds this very run to go on with."""
    out = plan.options.out
    if not out.exists() or not any(out.iterdir()):
        return
    if not resume:
        raise ConfigError(
            f"{out} is not empty; --resume goes on with the run in it, or name another"
        )
    try:
        found = json.loads((out / RECORD).read_text(encoding="utf-8"))
        before, now = found["options"], _record(plan)
        changed = [
            name
            for name, value in now["options"].items()
            if name not in _FREE and before.get(name) != value
        ]
        if found["examples"] != now["examples"]:
            changed.append("the data, the prompt or the tokenizer")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(f"{out} holds no run that could be gone on with: {error}") from error
    if changed:
        raise ConfigError(
            f"the run in {out} was begun otherwise: {', '.join(changed)} changed; give the same "
            "options, or another --out"
        )


def _free_memory() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
