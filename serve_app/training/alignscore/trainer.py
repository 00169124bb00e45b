"""Trains the AlignScore network on pairs: tokens, batches, loss, schedule, checkpoints.

Knows pairs and tensors; not where the pairs come from. The loss is the paper's: the
cross-entropies of the binary and the three-way head, each over the log of its classes, and the
squared error of the regression head, each only where the label exists.
"""

from __future__ import annotations

import math
import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from queue import Empty, Full
from random import Random
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional
from transformers import AutoModel, AutoTokenizer

from serve_app.core.atomic_write import atomic_write
from serve_app.core.errors import CheckpointError, ConfigError
from serve_app.metrics.align_model import AlignLogits, AlignModel
from serve_app.models.verification import refusing, require_finite, require_sound_files
from serve_app.storage.artifacts import resolve
from serve_app.training.alignscore.block_network import BlockNetwork
from serve_app.training.alignscore.data import BASE
from serve_app.training.alignscore.pairs import NO_LABEL, Pair

MAX_TOKENS = 512


@dataclass(frozen=True)
class TrainConfig:
    """What a run is; equal settings and seed give equal weights.

    Attributes:
        seed: of the data order, the edits and the heads' first weights.
        tokens: unpadded tokens to train on in all; the learning rate falls to 0 there.
        batch_tokens: padded tokens a step, in `blocks` blocks of pairs of like length.
        learning_rate: the highest, after `warmup` (a share of `tokens`).
        decay: share of `tokens` over which the rate falls, at the end.
        nli_share: share of the pairs that are NLI pairs as they are, from the third round on;
            the first rounds have more. Begun on passages, the encoder learns nothing.
        round_pairs: pairs drawn, sorted by length and batched at a time.
        average: decay a step of the moving average of the weights; 0 keeps none.
        ahead: steps that a process of their own prepares ahead; 0 prepares them in between.
    """

    seed: int = 0
    tokens: int = 5_000_000
    batch_tokens: int = 4096
    blocks: int = 2
    learning_rate: float = 3e-4
    warmup: float = 0.03
    decay: float = 1.0
    weight_decay: float = 0.01
    nli_share: float = 0.4
    round_pairs: int = 8000
    average: float = 0.0
    ahead: int = 0


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


def averaged(models: Sequence[tuple[AlignModel, float]]) -> AlignModel:
    """The weighted mean of the weights of models of one encoder.

    Runs that began at the same encoder lie in one basin, so that the mean often does what each of
    them does best (model soups: Wortsman et al., ICML 2022, https://arxiv.org/abs/2203.05482).

    Args:
        models: at least two, each with its share; the shares sum to 1.

    Raises:
        ConfigError: fewer than two models, or the shares do not sum to 1.
        CheckpointError: the models have different weights.
    """
    total = sum(share for _, share in models)
    if len(models) < 2 or not math.isclose(total, 1.0, abs_tol=1e-6):
        raise ConfigError(f"average at least two models, with shares that sum to 1, not {total:g}")
    states = [(model.state_dict(), share) for model, share in models]
    shapes = [{name: value.shape for name, value in state.items()} for state, _ in states]
    if any(one != shapes[0] for one in shapes):
        raise CheckpointError("models of different encoders have no average")
    mean = new_model(0)
    mean.load_state_dict(
        {name: sum(share * state[name].double() for state, share in states) for name in shapes[0]}
    )
    return mean.eval()


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


@dataclass(frozen=True)
class Block:
    """Pairs of like length: `ids` and `types` (pairs, longest), zeros behind a pair's `lengths`,
    and the labels of `align_loss`, (pairs,) each."""

    ids: NDArray[np.int64]
    types: NDArray[np.int64]
    lengths: NDArray[np.int64]
    binary: NDArray[np.int64]
    three_way: NDArray[np.int64]
    degree: NDArray[np.float32]

    @property
    def tokens(self) -> int:
        """Tokens without padding."""
        return int(self.lengths.sum())


# Few widths, each with one number of pairs, mean few shapes: oneDNN compiles its products anew for
# each shape, which costs more than a step, and keeps a thousand.
WIDTHS = (16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384, 448, 512)


class Batcher:
    """Turns pairs into blocks of like length under a budget of padded tokens."""

    def __init__(self, block_tokens: int) -> None:
        self.tokenizer = AutoTokenizer.from_pretrained(resolve(BASE))
        self.block_tokens = block_tokens

    def blocks(self, pairs: Sequence[Pair], rng: Random) -> list[Block]:
        """All pairs in blocks, in an order `rng` chooses."""
        encoded = self.tokenizer(
            [pair.context for pair in pairs],
            [pair.claim for pair in pairs],
            truncation="only_first",
            max_length=MAX_TOKENS,
        )
        rows = list(zip(encoded["input_ids"], encoded["token_type_ids"], strict=True))
        order = sorted(range(len(rows)), key=lambda index: -len(rows[index][0]))
        made = []
        at = 0
        while at < len(order):
            longest = len(rows[order[at]][0])
            width = next(width for width in WIDTHS if width >= longest)
            count = max(1, self.block_tokens // width)
            # The last block is filled up with its own pairs, so that no shape is new.
            members = (order[at : at + count] * count)[:count]
            made.append(_block(pairs, rows, members, width))
            at += count
        rng.shuffle(made)
        return made


def _block(
    pairs: Sequence[Pair],
    rows: Sequence[tuple[list[int], list[int]]],
    members: Sequence[int],
    width: int,
) -> Block:
    def padded(column: int) -> NDArray[np.int64]:
        table = np.zeros((len(members), width), dtype=np.int64)
        for row, index in enumerate(members):
            values = rows[index][column]
            table[row, : len(values)] = values
        return table

    chosen = [pairs[index] for index in members]
    return Block(
        ids=padded(0),
        types=padded(1),
        lengths=np.array([len(rows[index][0]) for index in members]),
        binary=np.array([pair.binary for pair in chosen]),
        three_way=np.array([pair.three_way for pair in chosen]),
        degree=np.array([pair.regression for pair in chosen], dtype=np.float32),
    )


def _rate(config: TrainConfig, tokens: int) -> float:
    share = tokens / config.tokens
    return max(0.0, min(1.0, share / config.warmup, (1 - share) / config.decay))


def _optimizer(model: AlignModel, config: TrainConfig) -> torch.optim.AdamW:
    parameters = trainable(model).values()
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": config.weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=config.learning_rate, betas=(0.9, 0.98), fused=True)


def save_checkpoint(
    path: Path,
    model: AlignModel,
    optimizer: torch.optim.Optimizer,
    progress: Progress,
    average: dict[str, Tensor] | None = None,
) -> None:
    """Writes all that `run` needs to go on, beside and renamed; plain tensors and numbers only."""
    document = {
        "weights": {name: p.detach() for name, p in trainable(model).items()},
        "optimizer": optimizer.state_dict(),
        "progress": asdict(progress),
        **({"average": average} if average else {}),
    }
    with atomic_write(path) as file:
        torch.save(document, file)


def load_checkpoint(
    path: Path,
    model: AlignModel,
    optimizer: torch.optim.Optimizer | None = None,
    average: dict[str, Tensor] | None = None,
) -> Progress:
    """Puts a checkpoint's weights (and optimiser state, and the weights' average) in place; says
    where the run was. A checkpoint without an average starts one from its weights.

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
        if average is not None:
            average.update(document.get("average") or {k: v.clone() for k, v in weights.items()})
        return Progress(**document["progress"])


def load_average(path: Path, model: AlignModel) -> Progress:
    """Puts a checkpoint's averaged weights in place, or its weights where it has no average.

    Raises:
        CheckpointError: the file is not a checkpoint of this model.
    """
    average: dict[str, Tensor] = {}
    progress = load_checkpoint(path, model, average=average)
    model.load_state_dict(average, strict=False)
    return progress


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
    parameters = trainable(model)
    average = {name: p.detach().clone() for name, p in parameters.items()} if config.average else {}
    progress = Progress()
    if resume and checkpoint is not None:
        progress = load_checkpoint(
            checkpoint, model, optimizer, average if config.average else None
        )
    network = BlockNetwork(model)
    model.train()
    for blocks, place in _prepared(source, config, progress):
        for group in optimizer.param_groups:
            group["lr"] = config.learning_rate * _rate(config, progress.tokens)
        loss = _step(network, optimizer, blocks)
        if average:
            with torch.no_grad():
                torch._foreach_lerp_(
                    list(average.values()), list(parameters.values()), 1 - config.average
                )
        progress = Progress(
            *place,
            tokens=progress.tokens + sum(block.tokens for block in blocks),
            steps=progress.steps + 1,
            loss=loss,
        )
        if on_step is not None:
            on_step(progress)
        finished = progress.tokens >= config.tokens
        if checkpoint is not None and (finished or progress.steps % save_every == 0):
            save_checkpoint(checkpoint, model, optimizer, progress, average)
        if finished:
            break
    model.eval()
    return progress


_Step = tuple[list[Block], tuple[int, int]]


def _steps(source: PairSource, config: TrainConfig, start: Progress) -> Iterator[_Step]:
    if start.tokens >= config.tokens:
        return
    batcher = Batcher(config.batch_tokens // config.blocks)
    number, skip = start.round, start.done
    while True:
        share = max(config.nli_share, 0.95 - 0.15 * number)
        pairs = source.round(config.seed, number, config.round_pairs, share)
        order = Random(f"{config.seed}/{number}/order")  # noqa: S311 - repeatable, not secret
        blocks = batcher.blocks(pairs, order)
        steps = [blocks[at : at + config.blocks] for at in range(0, len(blocks), config.blocks)]
        for done, step in enumerate(steps[skip:], start=skip + 1):
            yield step, (number, done)
        number, skip = number + 1, 0


def _prepared(source: PairSource, config: TrainConfig, start: Progress) -> Iterator[_Step]:
    """`_steps`, `config.ahead` of them made ahead by a process of their own, so that no step waits
    for text to be drawn and tokenised."""
    if not config.ahead:
        yield from _steps(source, config, start)
        return
    # Forked: the corpus is neither read nor sent again, and the child runs no torch.
    context = multiprocessing.get_context("fork")
    queue: Any = context.Queue(config.ahead)
    parent = os.getpid()

    def fill() -> None:
        for step in _steps(source, config, start):
            while True:
                with suppress(Full):
                    queue.put(step, timeout=5)
                    break
                if os.getppid() != parent:
                    return  # killed, so that nobody reads on

    worker = context.Process(target=fill, daemon=True)
    worker.start()
    try:
        while True:
            try:
                yield queue.get(timeout=5)
            except Empty:
                if not worker.is_alive():
                    raise RuntimeError(
                        "the process that prepares the pairs ended; see its error above"
                    ) from None
    finally:
        worker.terminate()
        worker.join()


def _step(
    network: BlockNetwork, optimizer: torch.optim.Optimizer, blocks: Sequence[Block]
) -> float:
    parameters = trainable(network.model)
    device = next(iter(parameters.values())).device
    total = 0.0
    for block in blocks:
        ids, types, lengths, *labels = (
            torch.from_numpy(getattr(block, name)).to(device)
            for name in ("ids", "types", "lengths", "binary", "three_way", "degree")
        )
        loss = align_loss(network(ids, types, lengths), *labels) / len(blocks)
        loss.backward()  # type: ignore[no-untyped-call]
        total += float(loss.detach())
    torch.nn.utils.clip_grad_norm_(parameters.values(), 1.0)
    optimizer.step()
    optimizer.zero_grad()
    return total
