"""Error curves and the combined loss. Knows numbers only: no text, no model.

A text's five metrics are compared with targets (see `targets`). Each metric gives an error in
[0, 1]; the loss is their weighted sum, so it is in [0, 1] too, and 0 exactly at the targets.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from serve_app.core.errors import ConfigError, InvalidInput
from serve_app.core.settings import Settings
from serve_app.metrics.targets import METRIC_NAMES as METRIC_NAMES
from serve_app.metrics.targets import METRICS as METRICS
from serve_app.metrics.targets import Targets as Targets
from serve_app.metrics.targets import load_targets

WEIGHT_TOLERANCE = 1e-6

# Metrics where more is better; of the others (grade levels) less is.
_LARGER_IS_BETTER = np.array([True, True, False, False, False])
CURVED = METRICS[2:]
"""Metrics whose error is a curve of steepness k = `steepness_factor` / sigma."""

Direction = Literal["two_sided", "one_sided"]
Floats = NDArray[np.float64]


def check_weights(weights: Sequence[float] | None) -> Floats:
    """Five weights in the order of `METRICS`; None gives 0.2 each.

    Raises:
        InvalidInput: not five finite, non-negative numbers that sum to 1 within 1e-6.
    """
    if weights is None:
        return np.full(len(METRICS), 0.2)
    if len(weights) != len(METRICS):
        raise InvalidInput(
            f"weights must be {len(METRICS)} numbers in the order {', '.join(METRICS)}; "
            f"there are {len(weights)}",
            field="weights",
        )
    try:
        values = np.array([float(weight) for weight in weights])
    except (TypeError, ValueError):
        raise InvalidInput("weights must be numbers", field="weights") from None
    if not np.isfinite(values).all():
        raise InvalidInput("weights must be finite numbers", field="weights")
    if (values < 0).any():
        raise InvalidInput("weights must not be negative", field="weights")
    if abs(float(values.sum()) - 1.0) > WEIGHT_TOLERANCE:
        raise InvalidInput(
            f"weights must sum to 1 (within {WEIGHT_TOLERANCE:g}); they sum to {values.sum():g}",
            field="weights",
        )
    return values


def steepness_factor(steepness: str | float) -> float:
    """k * sigma of the readability curves.

    `calibrated` is ln(0.95 / 0.05), so that S(mu + sigma) = 0.95; `legacy` is the 15 of the
    earlier service.

    Raises:
        ConfigError: neither of these nor a finite number above 0.
    """
    try:
        named = {"calibrated": math.log(0.95 / 0.05), "legacy": 15.0}
        factor = float(named.get(str(steepness), steepness))
    except ValueError:
        factor = math.nan
    if not 0 < factor < math.inf:
        raise ConfigError(
            "LOSS_STEEPNESS must be calibrated, legacy or a finite number above 0 (k * sigma), "
            f"not {steepness!r}"
        )
    return factor


@dataclass(frozen=True)
class LossFunction:
    """The loss for one set of targets.

    Attributes:
        targets: means and standard deviations.
        steepness: `calibrated`, `legacy`, or k * sigma.
        direction: `two_sided`, or `one_sided` where being simpler, more relevant or more
            factual than the target costs nothing.

    Raises:
        ConfigError: the steepness or the direction is not one of those.
    """

    targets: Targets
    steepness: str | float = "calibrated"
    direction: Direction = "two_sided"

    @classmethod
    def of(cls, settings: Settings, targets: Targets | None = None) -> LossFunction:
        """The loss that the settings name, on their targets or the given ones.

        Raises:
            ConfigError: the targets file is missing or malformed, or its factuality is another
                checker's.
        """
        targets = targets or load_targets(settings)
        targets.require_checker(settings.factuality_checker)
        return cls(targets, settings.loss_steepness, settings.loss_direction)

    def __post_init__(self) -> None:
        steepness_factor(self.steepness)
        if self.direction not in get_args(Direction):
            raise ConfigError(
                f"LOSS_DIRECTION must be two_sided or one_sided, not {self.direction!r}"
            )

    def errors(self, values: ArrayLike, mean: ArrayLike | None = None) -> Floats:
        """The error of each metric.

        With x a metric and mu its target: (x - mu)^2 for relevance and factuality, at most 1;
        2 |S(x) - 1/2| with S(x) = 1 / (1 + exp(-k (x - mu))) for the grade levels, which is
        |tanh(k (x - mu) / 2)|.

        Args:
            values: (n, 5) metrics in the order of `METRICS`.
            mean: (5,) or (n, 5) targets in place of the corpus means; sigmas stay.

        Returns:
            (n, 5) errors in [0, 1].

        Raises:
            InvalidInput: a value or a target is not finite, or there are not five for each text.
        """
        x = np.atleast_2d(np.asarray(values, dtype=np.float64))
        mu = np.asarray(self.targets.mean if mean is None else mean, dtype=np.float64)
        if x.ndim != 2 or x.shape[1] != len(METRICS) or mu.shape not in (x.shape[1:], x.shape):
            raise InvalidInput(
                f"the loss needs {len(METRICS)} metrics and targets for each text, in the order "
                f"{', '.join(METRICS)}; got shapes {x.shape} and {mu.shape}"
            )
        if not (np.isfinite(x).all() and np.isfinite(mu).all()):
            raise InvalidInput("the loss needs finite metrics and targets")
        factor = steepness_factor(self.steepness)
        # Far from the target the error is 1, also where the distance overflows.
        with np.errstate(over="ignore"):
            difference = x - mu
            squared = np.minimum(np.square(difference), 1.0)
            curved = np.abs(np.tanh(factor * (difference / np.asarray(self.targets.sigma)) / 2.0))
        errors = np.where(_LARGER_IS_BETTER, squared, curved)
        if self.direction == "one_sided":
            better = np.where(_LARGER_IS_BETTER, difference > 0, difference < 0)
            errors = np.where(better, 0.0, errors)
        return np.asarray(errors, dtype=np.float64)

    def __call__(
        self,
        values: ArrayLike,
        weights: Sequence[float] | None = None,
        mean: ArrayLike | None = None,
    ) -> Floats:
        """The loss of each row of `values`: (n,) numbers in [0, 1]."""
        return combine(self.errors(values, mean), weights)


def combine(errors: ArrayLike, weights: Sequence[float] | None = None) -> Floats:
    """Weighted sum of (n, 5) errors: (n,) losses."""
    # A weight sum within the tolerance above 1 must not push the loss out of [0, 1].
    return np.minimum(np.asarray(errors) @ check_weights(weights), 1.0)
