"""Fine-tunes a language model to write summaries: LoRA, supervised, then GRPO against the loss.

    python scripts/train_generator.py pairs.csv --base hf://org/model --dry-run
    python scripts/train_generator.py pairs.csv --base hf://org/model --eval-split test
    torchrun --nproc_per_node 4 scripts/train_generator.py pairs.csv --base hf://org/model

DATA has the columns source_text, target_text and split. The prompt is the one the server writes
(SYSTEM_PROMPT, USER_PREFIX); the reward, that of the settings' metrics and targets, or of the
server at --reward-url. scripts/merge_and_upload.py takes the folder that comes out. See
docs/training.md.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated, Literal

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import typer
from rich.console import Console
from rich.table import Table

from serve_app.cli.score import parse_weights
from serve_app.core.errors import PlainMedError
from serve_app.core.settings import load_settings
from serve_app.training.generator.options import LogTo, RewardKind, Stage, TrainOptions
from serve_app.training.generator.run import (
    Judged,
    TrainOutcome,
    TrainPlan,
    plan_training,
    train_generator,
)
from serve_app.training.generator.stages import uses_bf16
from serve_app.training.merge.naming import derive_model_name

app = typer.Typer(add_completion=False, help=__doc__, pretty_exceptions_show_locals=False)

Stages = Literal["both", "sft", "grpo"]
STAGES: dict[str, tuple[Stage, ...]] = {"both": ("sft", "grpo"), "sft": ("sft",), "grpo": ("grpo",)}
SHOWN = (
    "loss", "mean_token_accuracy", "reward", "reward_std", "kl", "completions/mean_length",
    "completions/clipped_ratio",
)  # fmt: skip
D = TrainOptions(data="", base="", out=Path())  # the defaults, once


@app.command()
def main(
    data: Annotated[str, typer.Argument(help="CSV, JSON lines or Parquet; a path or s3://")],
    base: Annotated[str, typer.Option(help="the whole model: a directory, hf:// or s3://")],
    out: Annotated[
        Path | None, typer.Option(help="unset: outputs/, named after base and stage")
    ] = None,
    stage: Annotated[Stages, typer.Option(help="which stages")] = "both",
    adapter: Annotated[Path | None, typer.Option(help="go on from this LoRA adapter")] = None,
    split: Annotated[str, typer.Option(help="rows to train on; 'all': every row")] = "train",
    eval_split: Annotated[
        str | None, typer.Option(help="rows summarised and scored before and after; unset: none")
    ] = None,
    eval_rows: Annotated[int, typer.Option(help="most of them")] = D.eval_rows,
    rank: Annotated[int, typer.Option(help="of the adapter")] = D.rank,
    alpha: Annotated[int, typer.Option(help="of the adapter")] = D.alpha,
    dropout: Annotated[float, typer.Option(help="of the adapter")] = D.dropout,
    target_modules: Annotated[
        str, typer.Option(help="names with commas; all-linear: all but the output")
    ] = ",".join(D.target_modules),
    sft_epochs: float = D.sft_epochs,
    sft_learning_rate: float = D.sft_learning_rate,
    sft_batch: Annotated[int, typer.Option(help="rows a device takes at once")] = D.sft_batch,
    grpo_steps: int = D.grpo_steps,
    grpo_learning_rate: float = D.grpo_learning_rate,
    grpo_batch: Annotated[
        int, typer.Option(help="completions a device takes at once")
    ] = D.grpo_batch,
    num_generations: Annotated[
        int, typer.Option(help="completions of a prompt")
    ] = D.num_generations,
    temperature: Annotated[float, typer.Option(help="completions are drawn at")] = D.temperature,
    beta: Annotated[float, typer.Option(help="weight of the KL divergence")] = D.beta,
    accumulation: Annotated[int, typer.Option(help="batches in a step")] = D.accumulation,
    max_length: Annotated[
        int, typer.Option(help="most tokens of prompt and summary; longer rows are left out")
    ] = D.max_length,
    max_new_tokens: Annotated[int, typer.Option(help="of a completion")] = D.max_new_tokens,
    reward: Annotated[
        RewardKind, typer.Option(help="loss: 1 - loss; metrics: one a metric")
    ] = D.reward,
    weights: Annotated[
        str | None, typer.Option(help="relevance,factuality,fkgl,smog,dale_chall; sum 1")
    ] = None,
    reward_url: Annotated[
        str | None, typer.Option(help="a PlainMed server that scores; unset: models in here")
    ] = None,
    gradient_checkpointing: Annotated[
        bool, typer.Option(help="less memory, slower")
    ] = D.gradient_checkpointing,
    bf16: Annotated[bool | None, typer.Option(help="unset: where a GPU can")] = D.bf16,
    seed: int = D.seed,
    save_steps: Annotated[int, typer.Option(help="steps between checkpoints")] = D.save_steps,
    logging_steps: int = D.logging_steps,
    log_to: Annotated[LogTo, typer.Option(help="none, tensorboard or mlflow")] = D.log_to,
    resume: Annotated[bool, typer.Option(help="go on with the run in --out")] = False,
    dry_run: Annotated[bool, typer.Option(help="check everything, say the plan, stop")] = False,
) -> None:
    """Train an adapter for --base on DATA."""
    # Of several processes the first speaks for all, but each of its own errors.
    console = Console(stderr=True, quiet=os.environ.get("RANK", "0") != "0")
    try:
        settings = load_settings()
        options = TrainOptions(
            data=data,
            base=base,
            out=out or Path("outputs") / default_name(base, stage),
            stages=STAGES[stage],
            adapter=adapter,
            split=None if split == "all" else split,
            eval_split=eval_split,
            eval_rows=eval_rows,
            rank=rank,
            alpha=alpha,
            dropout=dropout,
            target_modules=tuple(part.strip() for part in target_modules.split(",") if part),
            sft_epochs=sft_epochs,
            sft_learning_rate=sft_learning_rate,
            sft_batch=sft_batch,
            grpo_steps=grpo_steps,
            grpo_learning_rate=grpo_learning_rate,
            grpo_batch=grpo_batch,
            num_generations=num_generations,
            temperature=temperature,
            beta=beta,
            accumulation=accumulation,
            max_length=max_length,
            max_new_tokens=max_new_tokens,
            reward=reward,
            weights=parse_weights(weights),
            reward_url=reward_url,
            gradient_checkpointing=gradient_checkpointing,
            bf16=bf16,
            seed=seed,
            save_steps=save_steps,
            logging_steps=logging_steps,
            log_to=log_to,
        )
        plan = plan_training(settings, options, resume=resume)
        describe(console, plan)
        if dry_run:
            console.print("dry run: nothing was trained or written")
            return
        outcome = train_generator(
            settings,
            plan,
            on_event=lambda event: console.print(event, markup=False, soft_wrap=True),
            on_log=lambda *log: show(console, *log),
        )
    except PlainMedError as error:
        message = f"error: {error.message}"
        Console(stderr=True).print(message, style="red", markup=False, soft_wrap=True)
        sys.exit(1)
    report(console, outcome)


def default_name(base: str, stage: Stages) -> str:
    """What merge_and_upload takes for a name: organisation, model and run."""
    return f"{derive_model_name(base)}-{'sft-grpo' if stage == 'both' else stage}"


def describe(console: Console, plan: TrainPlan) -> None:
    options, examples = plan.options, plan.examples
    longest = max(len(one.prompt_ids) + len(one.target_ids) for one in examples.used)
    tokens = sum(len(one.target_ids) for one in examples.used)
    modules = ", ".join(options.target_modules)
    new = f"new: rank {options.rank}, alpha {options.alpha}, on {modules}"
    lines = {
        "base": options.base,
        "adapter": f"{options.adapter}, gone on with" if options.adapter else new,
        "data": f"{options.data}: {_count(len(examples.used), 'row')}, {tokens:,} tokens of "
        f"summaries, longest row {longest} of {plan.context or 'any number of'} tokens",
        "stages": ", ".join(f"{stage}, {count} steps" for stage, count in plan.steps.items()),
        "arithmetic": ("bfloat16" if uses_bf16(options) else "float32")
        + f", {_count(plan.processes, 'process', 'processes')}",
    }
    if "grpo" in options.stages:
        where = options.reward_url or "the models of the settings, in this process"
        lines["reward"] = f"{options.reward}, by {where}"
        lines["a GRPO step"] = (
            f"{_count(options.prompts_a_step(plan.processes), 'prompt')} x "
            f"{options.num_generations} "
            f"completions of up to {options.max_new_tokens} tokens"
        )
    if plan.to_judge:
        lines["judged"] = (
            f"{_count(len(plan.to_judge), 'row')} of {options.eval_split}, before and after"
        )
    lines["log"] = options.log_to
    lines["to"] = str(options.out)
    for name, line in lines.items():
        console.print(f"{name:<12}{line}", markup=False, highlight=False, soft_wrap=True)
    for reason, rows in examples.reasons.items():
        some = ", ".join(map(str, rows[:5])) + (", ..." if len(rows) > 5 else "")
        warn(console, f"left out, {_count(len(rows), 'row')}: {reason} (row {some})")
    if examples.duplicates:
        warn(console, f"in more than one row: {_count(examples.duplicates, 'original')}")


def _count(number: int, one: str, many: str | None = None) -> str:
    return f"{number} {one if number == 1 else many or f'{one}s'}"


def warn(console: Console, message: str) -> None:
    console.print(f"{'warning':<12}{message}", style="yellow", markup=False, soft_wrap=True)


def show(console: Console, stage: str, step: int, steps: int, numbers: dict[str, float]) -> None:
    """One line of numbers for each logged step."""
    shown = [f"{name} {numbers[name]:.4g}" for name in SHOWN if name in numbers]
    if shown:
        line = f"{stage} {step}/{steps}  {'  '.join(shown)}"
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def report(console: Console, outcome: TrainOutcome) -> None:
    if outcome.before is not None and outcome.after is not None:
        console.print(_table(outcome.before, outcome.after))
    console.print(f"adapter     {outcome.adapter}", markup=False, soft_wrap=True)
    console.print(
        f"next        python scripts/merge_and_upload.py {outcome.adapter} --bucket BUCKET",
        markup=False,
        soft_wrap=True,
    )


def _table(before: Judged, after: Judged) -> Table:
    table = Table("", "before", "after")
    for name in sorted(set(before.means) | set(after.means)):
        cells = [f"{one.means[name]:.4f}" if name in one.means else "-" for one in (before, after)]
        table.add_row(name, *cells)
    table.add_row("summaries without a word", str(before.wordless), str(after.wordless))
    return table


if __name__ == "__main__":
    app()
