"""What a targets file says about its calibration, beside its ten numbers; read strictly.

`plainmed calibrate` writes it under `format: 2`: how each metric is distributed, with which models
and versions, on which texts. Files without `format` (the earlier system's) say what they like.
Knows neither how the numbers were computed nor what they are used for.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from serve_app.core.errors import ConfigError

FORMAT = 2
QUANTILES = (5, 10, 25, 50, 75, 90, 95)  # in percent


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


Interval = Annotated[
    list[float], Field(min_length=2, max_length=2), AfterValidator(_ascending)
]  # a list, as in JSON: what is loaded equals what was saved


class Distribution(_Strict):
    """How one metric is distributed over the human summaries.

    Attributes:
        n: of how many summaries.
        mean: their mean.
        mean_interval: its bootstrap confidence interval.
        sd: their sample standard deviation (divided by n - 1).
        sd_interval: its bootstrap confidence interval.
        quantiles: by percent, `QUANTILES`.
    """

    n: Annotated[int, Field(ge=2)]
    mean: float
    mean_interval: Interval
    sd: Annotated[float, Field(ge=0)]
    sd_interval: Interval
    quantiles: Annotated[dict[str, float], AfterValidator(_all_quantiles)]


class Distributions(_Strict):
    """Of each metric; the fields are `serve_app.metrics.loss.METRICS`."""

    relevance: Distribution
    factuality: Distribution
    fkgl: Distribution
    smog: Distribution
    dale_chall: Distribution


class Bootstrap(_Strict):
    """How the confidence intervals were made."""

    method: Literal["BCa"]
    resamples: Annotated[int, Field(ge=1)]
    confidence: Annotated[float, Field(gt=0, lt=1)]
    seed: Annotated[int, Field(ge=0)]


class Calibration(_Strict):
    """What `format: 2` says.

    Attributes:
        format: 2.
        n: pairs measured.
        corpus: the name of their file, without its folder.
        split: the value of the column `split` that they have; None: all rows.
        subset: the share of those rows that was used.
        seed: of the random subset.
        eval_mode: how factuality is computed.
        version: of PlainMed.
        versions: of the packages that compute the metrics.
        settings: that change a metric by more than rounding; None where the models came from
            the caller, not from settings.
        probe: what the models measure for one fixed pair of texts: the five metrics. Models of
            one name whose probes differ have other weights or settings.
        fingerprint: of the pairs' texts, whatever the file's format and their order in it.
        bootstrap: how the intervals were made.
        distributions: of each metric, as measured, also where a TARGET_ was changed by hand.
        note: a remark of whoever keeps the file.
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
    """What a targets file says about its calibration; None for a file without `format`.

    Args:
        details: the file's keys besides its ten numbers and `models`.

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
                f"{where}: there is no such key in format {FORMAT}; a remark goes under note"
            ) from None
        raise ConfigError(f"{where}: {first['msg']}") from None
