"""Targets, error curves and the combined loss. Knows numbers only: no text, no model.

A text's five metrics are compared with targets, the mean and standard deviation of the same
metrics over human-written summaries. Each metric gives an error in [0, 1] and the loss is
their weighted sum, so it is in [0, 1] as well and 0 exactly at the targets.
"""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from serve_app.core.documents import read_json
from serve_app.core.errors import ConfigError, InvalidInput
from serve_app.metrics.targets_schema import Calibration, read_calibration

METRICS = ("relevance", "factuality", "fkgl", "smog", "dale_chall")
METRIC_NAMES = {  # for people
    "relevance": "Relevance (BERTScore F1)",
    "factuality": "Factuality (AlignScore)",
    "fkgl": "Flesch-Kincaid grade",
    "smog": "SMOG grade",
    "dale_chall": "Dale-Chall score",
}
DEFAULT_WEIGHTS = (0.2,) * len(METRICS)
WEIGHT_TOLERANCE = 1e-6

# Metrics where more is better; of the others (grade levels) less is.
_LARGER_IS_BETTER = np.array([True, True, False, False, False])
CURVED = METRICS[2:]
"""Metrics whose error is a curve of steepness k = `steepness_factor` / sigma."""
_FILE_KEYS = ("RELEVANCE", "FACTUALITY", "FKGL", "SMOG", "DALECHALL")

Direction = Literal["two_sided", "one_sided"]
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Targets:
    """What human-written summaries score.

    Attributes:
        mean: five means in the order of `METRICS`.
        sigma: their standard deviations, each > 0.
        models: which models made them: keys `relevance` and `factuality`.
        details: whatever else the file holds (n, corpus, date), kept as it is; `calibration`
            is what it says.
    """

    mean: tuple[float, ...]
    sigma: tuple[float, ...]
    models: Mapping[str, str] = field(default_factory=dict)
    details: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for label, values in (("TARGET", self.mean), ("SIGMA", self.sigma)):
            if len(values) != len(METRICS):
                raise ConfigError(f"targets need {len(METRICS)} {label}_ values")
            for key, value in zip(_FILE_KEYS, values, strict=True):
                if not math.isfinite(value):
                    raise ConfigError(f"{label}_{key} is not a finite number")
                if label == "SIGMA" and value <= 0:
                    raise ConfigError(f"SIGMA_{key} must be above 0, not {value}")

    @property
    def calibration(self) -> Calibration | None:
        """Distributions, models' versions and texts; None where the file does not say them.

        Raises:
            ConfigError: the details are not what their format asks for.
        """
        return read_calibration(self.details)

    def to_dict(self) -> dict[str, Any]:
        """The document of a targets file: `TARGET_*`, `SIGMA_*`, `models` and the details."""
        document: dict[str, Any] = {}
        for key, mean in zip(_FILE_KEYS, self.mean, strict=True):
            document[f"TARGET_{key}"] = mean
        for key, sigma in zip(_FILE_KEYS, self.sigma, strict=True):
            document[f"SIGMA_{key}"] = sigma
        # Twice, so that the numbers come first in the file and no detail can replace one.
        numbers = {**document, "models": dict(self.models)}
        return {**numbers, **self.details, **numbers}

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> Targets:
        """Reads such a document.

        Raises:
            ConfigError: a key is missing or a value is not a usable number, or what the file
                says of its calibration is not what its format asks for; the key is named.
        """
        rest = dict(document)
        values: dict[str, list[float]] = {"TARGET": [], "SIGMA": []}
        for label, numbers in values.items():
            for metric in _FILE_KEYS:
                key = f"{label}_{metric}"
                if key not in rest:
                    raise ConfigError(f"{key} is missing from the targets")
                value = rest.pop(key)
                if isinstance(value, bool) or not isinstance(value, int | float):
                    raise ConfigError(f"{key} must be a number, not {value!r}")
                try:
                    numbers.append(float(value))
                except OverflowError:
                    raise ConfigError(f"{key} is too large a number") from None
        models = rest.pop("models", {})
        if not isinstance(models, dict) or not all(isinstance(v, str) for v in models.values()):
            raise ConfigError("models must map each metric to a model name")
        read_calibration(rest)
        return cls(tuple(values["TARGET"]), tuple(values["SIGMA"]), models, rest)

    @classmethod
    def load(cls, path: Path) -> Targets:
        """Reads a targets file.

        Raises:
            ConfigError: the file cannot be read, is not JSON, or lacks a key.
        """
        try:
            document = read_json(path)
        except (OSError, ValueError) as error:
            raise ConfigError(f"cannot read targets file {path}: {error}") from error
        if not isinstance(document, dict):
            raise ConfigError(f"targets file {path} must hold a JSON object")
        try:
            return cls.from_dict(document)
        except ConfigError as error:
            raise ConfigError(f"targets file {path}: {error.message}") from error

    def save(self, path: Path) -> None:
        """Writes the targets file, complete or not at all.

        Raises:
            ConfigError: the folder is missing or cannot be written.
        """
        text = json.dumps(self.to_dict(), indent=2, ensure_ascii=False) + "\n"
        try:
            # A folder of our own beside the file: two writers never share a temporary file.
            with tempfile.TemporaryDirectory(dir=path.parent, prefix=".targets-") as folder:
                temporary = Path(folder) / path.name
                temporary.write_text(text, encoding="utf-8")
                temporary.replace(path)
        except OSError as error:
            raise ConfigError(f"cannot write targets file {path}: {error}") from error

    def made_with_other_models(self, serving: Mapping[str, str]) -> list[str]:
        """One sentence for each metric whose serving model is not the one that made the targets.

        `FacebookAI/roberta-large` and plain `roberta-large` count as the same model.
        """
        return [
            f"targets for {metric} were made with {self.models[metric]}, but {model} is serving"
            for metric, model in serving.items()
            if metric in self.models and not same_model(self.models[metric], model)
        ]


def same_model(one: str, other: str) -> bool:
    """True if two names are of one model, where only one of them may name the organisation."""
    if "/" in one and "/" in other:
        return one == other
    return one.rpartition("/")[2] == other.rpartition("/")[2]


def check_weights(weights: Sequence[float] | None) -> Floats:
    """Five weights in the order of `METRICS`; the default where None is given.

    Raises:
        InvalidInput: not five finite, non-negative numbers that sum to 1 within 1e-6.
    """
    if weights is None:
        return np.array(DEFAULT_WEIGHTS)
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
    if steepness == "calibrated":
        return math.log(0.95 / 0.05)
    if steepness == "legacy":
        return 15.0
    try:
        factor = float(steepness)
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
