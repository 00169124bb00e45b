"""Puts measurements, targets and loss together into one evaluation of each pair.

Pure assembly of what the metrics and the loss computed, shared by the served graph and by
anyone who uses the library in process.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from serve_app.metrics.loss import LossFunction, combine
from serve_app.metrics.results import Measured


@dataclass(frozen=True, slots=True)
class Evaluation:
    """One pair: what was measured, the targets it was held against, errors and loss.

    `targets`, `errors` and `sigmas` (the targets' standard deviations) have five numbers in the
    order of `serve_app.metrics.loss.METRICS`.
    """

    measured: Measured
    targets: tuple[float, ...]
    errors: tuple[float, ...]
    loss: float
    sigmas: tuple[float, ...]


def evaluate(
    measured: Sequence[Measured],
    loss: LossFunction,
    *,
    weights: Sequence[float] | None = None,
    human: Sequence[Measured] | None = None,
) -> list[Evaluation]:
    """Evaluates each measured pair; `human`, one a pair, replaces the corpus means as targets.

    Raises:
        InvalidInput: bad weights.
    """
    if not measured:
        return []
    values = np.array([item.values for item in measured])
    corpus = np.broadcast_to(np.asarray(loss.targets.mean), values.shape)
    means = corpus if human is None else np.array([item.values for item in human])
    errors = loss.errors(values, means)
    losses = combine(errors, weights)
    sigmas = tuple(loss.targets.sigma)
    return [
        Evaluation(item, tuple(mean.tolist()), tuple(error.tolist()), float(total), sigmas)
        for item, mean, error, total in zip(measured, means, errors, losses, strict=True)
    ]
