"""Trains the AlignScore network on pairs: tokens, batches, loss, schedule, checkpoints.

Knows pairs and tensors; not where the pairs come from. The loss is the paper's: the
cross-entropies of the binary and the three-way head, each over the log of its classes, and the
squared error of the regression head, each only where the label exists.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional
from transformers import AutoModel, AutoTokenizer

from serve_app.core.atomic_write import atomic_write
from serve_app.core.errors import CheckpointError
from serve_app.metrics.align_model import AlignLogits, AlignModel
from serve_app.models.encoder_runtime import plan_batches
from serve_app.models.verification import refusing, require_finite, require_sound_files
from serve_app.storage.artifacts import resolve
from serve_app.training.alignscore.data import BASE
from serve_app.training.alignscore.pairs import NO_LABEL, Pair

MAX_TOKENS = 512


@dataclass(frozen=True)
class TrainConfig:
    """What a run is; equal settings and seed give equal weights.

    Attributes:
        seed: of the data order, the edits and the heads' first weights.
        tokens: unpadded tokens to train on in all; the learning rate falls to 0 there.
        batch_tokens: padded tokens a step.
        learning_rate: the highest, after `warmup` (a share of `tokens`).
        nli_share: share of the pairs that are NLI pairs as they are, from the third round on;
            the first rounds have more. Begun on passages, the encoder learns nothing.
        round_pairs: pairs drawn, sorted by length and batched at a time.
    """

    seed: int = 0
    tokens: int = 5_000_000
    batch_tokens: int = 2048
    learning_rate: float = 1.5e-4
    warmup: float = 0.03
    weight_decay: float = 0.01
    nli_share: float = 0.6
    round_pairs: int = 4000


@dataclass(frozen=True)
class Progress:
    """Where a run is. `done` steps of round `round` have been taken."""

    round: int = 0
    done: int = 0
    tokens: int = 0
    steps: int = 0
    loss: float = math.nan


class PairSource(Protocol):
    """Anything that draws the same pairs for the same arguments, as `Corpus` does."""

    def round(self, seed: int, number: int, size: int, nli_share: float) -> list[Pair]:
        """The `number`th block of pairs."""


def new_model(seed: int) -> AlignModel:
    """The embedded encoder with fresh heads, its embeddings frozen.

    No dropout: with each pair seen at most about twice it costs a third of the speed and gains
    nothing.
    """
    torch.manual_seed(seed)
    base = AutoModel.from_pretrained(
        resolve(BASE),
        # On CPUs its backward pass is a third faster than that of fused attention.
        attn_implementation="eager",
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    model = AlignModel(base)
    model.base_model.embeddings.requires_grad_(False)
    return model


def trainable(model: AlignModel) -> dict[str, Tensor]:
    """The parameters a run changes, by name."""
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def align_loss(logits: AlignLogits, binary: Tensor, three_way: Tensor, degree: Tensor) -> Tensor:
    """The paper's loss for a batch: labels (n,), `three_way` NO_LABEL where unknown."""
    loss = functional.cross_entropy(logits.binary.float(), binary) / math.log(2)
    if bool((three_way != NO_LABEL).any()):
        loss = loss + functional.cross_entropy(
            logits.three_way.float(), three_way, ignore_index=NO_LABEL
        ) / math.log(3)
    return loss + functional.mse_loss(logits.regression.float().squeeze(-1), degree)


class Batcher:
    """Turns pairs into padded batches of like length under a budget of padded tokens."""

    def __init__(self, batch_tokens: int) -> None:
        self.tokenizer = AutoTokenizer.from_pretrained(resolve(BASE))
        self.batch_tokens = batch_tokens

    def batches(self, pairs: Sequence[Pair], rng: Random) -> list[dict[str, Tensor]]:
        """All pairs in batches, in an order `rng` chooses."""
        encoded = self.tokenizer(
            [pair.context for pair in pairs],
            [pair.claim for pair in pairs],
            truncation="only_first",
            max_length=MAX_TOKENS,
        )
        plans = list(plan_batches([len(ids) for ids in encoded["input_ids"]], self.batch_tokens))
        rng.shuffle(plans)
        made = []
        for plan in plans:
            rows = {
                name: [encoded[name][index] for index in plan]
                for name in ("input_ids", "attention_mask", "token_type_ids")
            }
            batch = dict(self.tokenizer.pad(rows, return_tensors="pt"))
            batch["binary"] = torch.tensor([pairs[index].binary for index in plan])
            batch["three_way"] = torch.tensor([pairs[index].three_way for index in plan])
            batch["degree"] = torch.tensor([pairs[index].regression for index in plan])
            made.append(batch)
        return made


def _rate(config: TrainConfig, tokens: int) -> float:
    share = tokens / config.tokens
    if share < config.warmup:
        return share / config.warmup
    return max(0.0, (1 - share) / (1 - config.warmup))


def _optimizer(model: AlignModel, config: TrainConfig) -> torch.optim.AdamW:
    parameters = trainable(model).values()
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": config.weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=config.learning_rate, fused=True)


def save_checkpoint(
    path: Path, model: AlignModel, optimizer: torch.optim.Optimizer, progress: Progress
) -> None:
    """Writes all that `run` needs to go on, beside and renamed; plain tensors and numbers only."""
    document = {
        "weights": {name: p.detach() for name, p in trainable(model).items()},
        "optimizer": optimizer.state_dict(),
        "progress": asdict(progress),
    }
    with atomic_write(path) as file:
        torch.save(document, file)


def load_checkpoint(
    path: Path, model: AlignModel, optimizer: torch.optim.Optimizer | None = None
) -> Progress:
    """Puts a checkpoint's weights (and optimiser state) in place; says where the run was.

    Raises:
        CheckpointError: the file is not a checkpoint of this model.
    """
    with refusing(f"{path} is not a training checkpoint", CheckpointError):
        require_sound_files(path, CheckpointError)
        document: dict[str, Any] = torch.load(path, weights_only=True)
        weights = document["weights"]
        if weights.keys() != trainable(model).keys():
            raise CheckpointError(f"{path} holds the weights of another model; start afresh")
        require_finite(weights, path, "start afresh", CheckpointError)
        model.load_state_dict(weights, strict=False)
        if optimizer is not None:
            optimizer.load_state_dict(document["optimizer"])
        return Progress(**document["progress"])


def run(
    model: AlignModel,
    source: PairSource,
    config: TrainConfig,
    *,
    checkpoint: Path | None = None,
    resume: bool = False,
    save_every: int = 200,
    on_step: Callable[[Progress], None] | None = None,
) -> Progress:
    """Trains `model` in place until `config.tokens` are used; gives where it ended.

    With `checkpoint`, state is written there every `save_every` steps and at the end, and
    `resume` goes on from it: the same weights as a run that was never stopped.
    """
    optimizer = _optimizer(model, config)
    progress = Progress()
    if resume and checkpoint is not None:
        progress = load_checkpoint(checkpoint, model, optimizer)
    model.train()
    for batch, place in _steps(source, config, progress):
        for group in optimizer.param_groups:
            group["lr"] = config.learning_rate * _rate(config, progress.tokens)
        loss = _step(model, optimizer, batch)
        progress = Progress(
            *place,
            tokens=progress.tokens + int(batch["attention_mask"].sum()),
            steps=progress.steps + 1,
            loss=loss,
        )
        if on_step is not None:
            on_step(progress)
        finished = progress.tokens >= config.tokens
        if checkpoint is not None and (finished or progress.steps % save_every == 0):
            save_checkpoint(checkpoint, model, optimizer, progress)
        if finished:
            break
    model.eval()
    return progress


def _steps(
    source: PairSource, config: TrainConfig, start: Progress
) -> Iterator[tuple[dict[str, Tensor], tuple[int, int]]]:
    if start.tokens >= config.tokens:
        return
    batcher = Batcher(config.batch_tokens)
    number, skip = start.round, start.done
    while True:
        share = max(config.nli_share, 0.95 - 0.15 * number)
        pairs = source.round(config.seed, number, config.round_pairs, share)
        order = Random(f"{config.seed}/{number}/order")  # noqa: S311 - repeatable, not secret
        batches = batcher.batches(pairs, order)
        for done, batch in enumerate(batches[skip:], start=skip + 1):
            yield batch, (number, done)
        number, skip = number + 1, 0


def _step(model: AlignModel, optimizer: torch.optim.Optimizer, batch: dict[str, Tensor]) -> float:
    device = next(model.parameters()).device
    batch = {name: tensor.to(device) for name, tensor in batch.items()}
    labels = [batch.pop(name) for name in ("binary", "three_way", "degree")]
    with torch.autocast(device.type, torch.bfloat16):
        logits = model(**batch)
    loss = align_loss(logits, *labels)
    loss.backward()  # type: ignore[no-untyped-call]
    torch.nn.utils.clip_grad_norm_(trainable(model).values(), 1.0)
    optimizer.step()
    optimizer.zero_grad()
    return float(loss.detach())
