"""Targets: what human-written summaries score, and the file that says so. Knows numbers only.

A targets file holds five means and five standard deviations under the earlier system's keys.
`plainmed calibrate` adds, under `format: 2`, how each metric is distributed, with which models and
versions, on which texts: read strictly. Files without `format` may hold anything else.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from serve_app.core.atomic_write import write_text
from serve_app.core.documents import read_json
from serve_app.core.errors import ConfigError
from serve_app.core.resources import RESOURCES
from serve_app.core.settings import FactualityChecker, Settings

EMBEDDED_TARGETS = RESOURCES / "targets-embedded.json"
METRICS = ("relevance", "factuality", "fkgl", "smog", "dale_chall")
METRIC_NAMES = {  # for people
    "relevance": "Relevance (BERTScore F1)",
    "factuality": "Factuality",
    "fkgl": "Flesch-Kincaid grade",
    "smog": "SMOG grade",
    "dale_chall": "Dale-Chall score",
}
_FILE_KEYS = ("RELEVANCE", "FACTUALITY", "FKGL", "SMOG", "DALECHALL")
MEAN_KEYS, SIGMA_KEYS = ([f"{label}_{key}" for key in _FILE_KEYS] for label in ("TARGET", "SIGMA"))
FORMAT = 2
QUANTILES = (5, 10, 25, 50, 75, 90, 95)  # in percent


@dataclass(frozen=True)
class Targets:
    """What human-written summaries score.

    Attributes:
        mean: five means in the order of `METRICS`.
        sigma: their standard deviations, each > 0.
        models: the models that made them: keys `relevance` and `factuality`.
        details: everything else in the file (n, corpus, date), unchanged; see `calibration`.
    """

    mean: tuple[float, ...]
    sigma: tuple[float, ...]
    models: Mapping[str, str] = field(default_factory=dict)
    details: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for keys, values in ((MEAN_KEYS, self.mean), (SIGMA_KEYS, self.sigma)):
            if len(values) != len(METRICS):
                raise ConfigError(
                    f"targets need {len(METRICS)} {keys[0].partition('_')[0]}_ values"
                )
            for key, value in zip(keys, values, strict=True):
                if not math.isfinite(value):
                    raise ConfigError(f"{key} is not a finite number")
                if keys is SIGMA_KEYS and value <= 0:
                    raise ConfigError(f"{key} must be above 0, not {value}")

    @cached_property
    def calibration(self) -> Calibration | None:
        """Distributions, model versions and texts; None where the file does not give them.

        Raises:
            ConfigError: the details do not follow their format.
        """
        return read_calibration(self.details)

    def to_dict(self) -> dict[str, Any]:
        """The targets file as JSON data: `TARGET_*`, `SIGMA_*`, `models` and the details."""
        numbers: dict[str, Any] = dict(zip(MEAN_KEYS, self.mean, strict=True))
        numbers |= zip(SIGMA_KEYS, self.sigma, strict=True)
        numbers["models"] = dict(self.models)
        # Twice, so that the numbers come first in the file and no detail can replace one.
        return {**numbers, **self.details, **numbers}

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> Targets:
        """Reads what `to_dict` wrote.

        Raises:
            ConfigError: a key is missing, a value is not a usable number, or the calibration does
                not follow its format; the key is named.
        """
        rest = dict(document)
        values: dict[str, float] = {}
        for key in (*MEAN_KEYS, *SIGMA_KEYS):
            if key not in rest:
                raise ConfigError(f"{key} is missing from the targets")
            value = rest.pop(key)
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise ConfigError(f"{key} must be a number, not {value!r}")
            try:
                values[key] = float(value)
            except OverflowError:
                raise ConfigError(f"{key} is too large a number") from None
        models = rest.pop("models", {})
        if not isinstance(models, dict) or not all(isinstance(v, str) for v in models.values()):
            raise ConfigError("models must map each metric to a model name")
        read_calibration(rest)
        mean, sigma = (tuple(values[key] for key in keys) for keys in (MEAN_KEYS, SIGMA_KEYS))
        return cls(mean, sigma, models, rest)

    @classmethod
    def load(cls, path: Path) -> Targets:
        """Reads a targets file.

        Raises:
            ConfigError: the file cannot be read, is not JSON, or is no targets file; it is named.
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
        try:
            write_text(path, json.dumps(self.to_dict(), indent=2, ensure_ascii=False) + "\n")
        except OSError as error:
            raise ConfigError(f"cannot write targets file {path}: {error}") from error

    def made_with_other_models(self, serving: Mapping[str, str]) -> list[str]:
        """A warning for each metric whose serving model did not make the targets (`same_model`)."""
        return [
            f"targets for {metric} were made with {self.models[metric]}, but {model} is serving"
            for metric, model in serving.items()
            if metric in self.models and not same_model(self.models[metric], model)
        ]

    def require_checker(self, checker: str) -> None:
        """Refuses targets whose factuality another checker computed: their scales differ.

        Raises:
            ConfigError: `models.factuality` is not of `checker`, as FACTUALITY_CHECKER names it.
        """
        model = self.models.get("factuality", "")
        made_by = model.partition(":")[0]
        made_by = made_by if made_by in get_args(FactualityChecker) else "alignscore"
        if made_by != checker:
            raise ConfigError(
                f"the targets' factuality was computed by {model or made_by}, and "
                f"FACTUALITY_CHECKER is {checker}, whose numbers mean something else; run plainmed "
                "calibrate with this checker, and set TARGETS_FILE to what it writes"
            )


def checker_model(checker: str, name: str) -> str:
    """What results call a model that is not AlignScore's: CHECKER:NAME, without organisation.

    >>> checker_model("minicheck", "lytang/MiniCheck-RoBERTa-Large")
    'minicheck:MiniCheck-RoBERTa-Large'
    """
    return f"{checker}:{name.rpartition('/')[2]}"


def same_model(one: str, other: str) -> bool:
    """Whether two names mean one model: `FacebookAI/roberta-large` and `roberta-large` do."""
    if "/" in one and "/" in other:
        return one == other
    return one.rpartition("/")[2] == other.rpartition("/")[2]


def load_targets(settings: Settings) -> Targets:
    """The targets file of the settings; where none is set, the one of the embedded models.

    Raises:
        ConfigError: the file is missing or is no targets file; the message names it.
    """
    path = settings.targets_file
    return Targets.load(EMBEDDED_TARGETS if path is None else Path(path).expanduser())


# --- format 2 ---------------------------------------------------------------------------


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


def _ascending(values: list[float]) -> list[float]:
    if values != sorted(values):
        raise ValueError("the numbers must not descend")
    return values


def _all_quantiles(values: dict[str, float]) -> dict[str, float]:
    if list(values) != [str(percent) for percent in QUANTILES]:
        raise ValueError(f"the quantiles must be {', '.join(map(str, QUANTILES))}, in this order")
    _ascending(list(values.values()))
    return values


# A list, as in JSON: what is loaded equals what was saved.
Interval = Annotated[list[float], Field(min_length=2, max_length=2), AfterValidator(_ascending)]


class Distribution(_Strict):
    """How one metric is distributed over `n` human summaries.

    `sd` is the sample standard deviation (divided by n - 1), the intervals are bootstrap confidence
    intervals, and `quantiles` go by percent, as in `QUANTILES`.
    """

    n: Annotated[int, Field(ge=2)]
    mean: float
    mean_interval: Interval
    sd: Annotated[float, Field(ge=0)]
    sd_interval: Interval
    quantiles: Annotated[dict[str, float], AfterValidator(_all_quantiles)]


class Distributions(_Strict):
    """One distribution for each of `METRICS`."""

    relevance: Distribution
    factuality: Distribution
    fkgl: Distribution
    smog: Distribution
    dale_chall: Distribution


class Bootstrap(_Strict):
    """How the confidence intervals were computed."""

    method: Literal["BCa"]
    resamples: Annotated[int, Field(ge=1)]
    confidence: Annotated[float, Field(gt=0, lt=1)]
    seed: Annotated[int, Field(ge=0)]


class Calibration(_Strict):
    """The content of `format: 2`.

    Attributes:
        n: number of pairs measured.
        corpus: file name of the pairs, without its folder.
        split: value of the column `split` in the rows used; None: all rows.
        subset: share of those rows that was used.
        seed: seed of the random subset.
        eval_mode: AlignScore's mode.
        version: PlainMed's version.
        versions: versions of the packages that compute the metrics.
        settings: settings that change a metric by more than rounding; None where the caller passed
            its own models.
        probe: the five metrics of one fixed pair of texts. Two models of one name whose probes
            differ have different weights or settings.
        fingerprint: hash of the pairs' texts, independent of file format and row order.
        bootstrap: how the intervals were computed.
        distributions: as measured, even where a TARGET_ was edited by hand.
        note: free text for whoever keeps the file.
    """

    format: Literal[2]
    n: Annotated[int, Field(ge=2)]
    corpus: str
    split: str | None
    subset: Annotated[float, Field(gt=0, le=1)]
    seed: int
    eval_mode: str | None
    version: str
    versions: dict[str, str]
    settings: dict[str, str | int | float | None] | None
    probe: Annotated[list[float], Field(min_length=5, max_length=5)]
    fingerprint: Annotated[str, Field(pattern=r"^sha256:[0-9a-f]{64}$")]
    bootstrap: Bootstrap
    distributions: Distributions
    note: str | None = None


def read_calibration(details: Mapping[str, Any]) -> Calibration | None:
    """The calibration in a targets file's `details`; None for a file without `format`.

    Raises:
        ConfigError: the format is unknown, or a key is missing, unknown or malformed; it is named.
    """
    if "format" not in details:
        return None
    found = details["format"]
    if found != FORMAT or isinstance(found, bool):
        raise ConfigError(
            f"format is {found!r}, but this version of PlainMed reads {FORMAT} (and files "
            "without it); use the version that wrote the file, or calibrate again"
        )
    try:
        return Calibration.model_validate(dict(details))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        if first["type"] == "extra_forbidden":
            raise ConfigError(
                f"{where}: there is no such key in format {FORMAT}; put a remark under note"
            ) from None
        raise ConfigError(f"{where}: {first['msg']}") from None
