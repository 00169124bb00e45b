"""What a training run of a generator is: one immutable set of options, checked when it is made.

Knows no model, no data and no trainer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from serve_app.core.errors import ConfigError
from serve_app.metrics.loss import check_weights

Stage = Literal["sft", "grpo"]
RewardKind = Literal["loss", "metrics"]
LogTo = Literal["none", "tensorboard", "mlflow"]


@dataclass(frozen=True, kw_only=True)
class TrainOptions:
    """A run: which data, which base, which stages, how.

    Attributes:
        data: CSV, JSON lines or Parquet with `source_text`, `target_text` and `split`.
        base: a reference to the whole model that gets an adapter.
        out: where the adapter goes, and each stage's checkpoints below it.
        stages: in this order; `sft` on the human summaries, `grpo` against the reward.
        adapter: an adapter directory to go on from; None: a new one.
        split: rows with this value in `split` are trained on; None: all rows.
        eval_split: rows summarised and scored before and after; None: none are.
        eval_rows: most of them, the first ones.
        rank, alpha, dropout, target_modules: of a new LoRA adapter; `all-linear` is all but the
            output.
        sft_epochs, sft_learning_rate, sft_batch: of the first stage; the batch is a device's.
        grpo_steps, grpo_learning_rate: of the second.
        grpo_batch: completions a device takes at once.
        num_generations: completions of a prompt, which are compared, >= 2.
        temperature: completions are drawn at, > 0.
        beta: weight of the divergence from the model the stage began with; 0 keeps no such model.
        accumulation: batches of a device in one step of either stage.
        max_length: most tokens of a prompt and its summary; longer rows are left out, and said.
        max_new_tokens: most tokens of a completion.
        reward: `loss` (one reward, 1 - loss) or `metrics` (five, weighted).
        weights: of the five metrics; None: equal ones.
        reward_url: a PlainMed server that scores; None: the models of the settings, here.
        bf16: weights and arithmetic in bfloat16; None: where a GPU can.
        seed: of everything drawn.
        save_steps, logging_steps: how often.
        log_to: where the curves go besides the terminal.

    Raises:
        ConfigError, InvalidInput: an option is out of range; the message names it.
    """

    data: str
    base: str
    out: Path
    stages: tuple[Stage, ...] = ("sft", "grpo")
    adapter: Path | None = None
    split: str | None = "train"
    eval_split: str | None = None
    eval_rows: int = 32
    rank: int = 16
    alpha: int = 32
    dropout: float = 0.0
    target_modules: tuple[str, ...] = ("all-linear",)
    sft_epochs: float = 2.0
    sft_learning_rate: float = 2e-4
    sft_batch: int = 4
    grpo_steps: int = 200
    grpo_learning_rate: float = 1e-5
    grpo_batch: int = 8
    num_generations: int = 8
    temperature: float = 1.0
    beta: float = 0.0
    accumulation: int = 4
    max_length: int = 4096
    max_new_tokens: int = 512
    reward: RewardKind = "loss"
    weights: Sequence[float] | None = None
    reward_url: str | None = None
    gradient_checkpointing: bool = True
    bf16: bool | None = None
    seed: int = 0
    save_steps: int = 100
    logging_steps: int = 5
    log_to: LogTo = "none"

    def __post_init__(self) -> None:
        check_weights(self.weights)
        if not self.stages or not set(self.stages) <= set(get_args(Stage)):
            raise ConfigError(f"stages must be sft, grpo or both, not {self.stages!r}")
        for name, value, allowed in (
            ("reward", self.reward, get_args(RewardKind)),
            ("log-to", self.log_to, get_args(LogTo)),
        ):
            if value not in allowed:
                raise ConfigError(f"--{name} must be {', '.join(allowed)}, not {value!r}")
        at_least_one = (
            "eval_rows", "rank", "alpha", "sft_batch", "grpo_steps", "grpo_batch", "accumulation",
            "max_new_tokens", "save_steps", "logging_steps",
        )  # fmt: skip
        for name in at_least_one:
            if getattr(self, name) < 1:
                raise ConfigError(f"{_option(name)} must be at least 1, not {getattr(self, name)}")
        for name in ("sft_epochs", "sft_learning_rate", "grpo_learning_rate", "temperature"):
            if not 0 < getattr(self, name) < float("inf"):
                raise ConfigError(f"{_option(name)} must be above 0, not {getattr(self, name)}")
        if not 0 <= self.dropout < 1 or not 0 <= self.beta < float("inf"):
            raise ConfigError("--dropout must be in [0, 1) and --beta at least 0")
        if self.num_generations < 2:
            raise ConfigError("--num-generations must be at least 2: completions are compared")
        if self.max_new_tokens >= self.max_length:
            raise ConfigError(
                f"--max-new-tokens {self.max_new_tokens} leaves no room for a prompt in "
                f"--max-length {self.max_length}"
            )
        if not self.target_modules:
            raise ConfigError("--target-modules names no module")

    def prompts_a_step(self, processes: int) -> int:
        """How many prompts one step of GRPO has.

        Raises:
            ConfigError: the completions of a step are no whole groups.
        """
        completions = self.grpo_batch * self.accumulation * processes
        if completions % self.num_generations:
            raise ConfigError(
                f"a step has {completions} completions (--grpo-batch x --accumulation x "
                f"processes), no multiple of --num-generations {self.num_generations}"
            )
        return completions // self.num_generations


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"
