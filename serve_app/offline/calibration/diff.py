"""What changed from one set of targets to another. Knows numbers and names; prints nothing."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from serve_app.metrics.loss import CURVED, METRICS, Targets, same_model
from serve_app.metrics.targets_schema import Calibration
from serve_app.offline.corpus.scoring import ModelNames

TOLERANCE = 1e-3  # of the first targets' deviations: rounding, not a change

Both = tuple[float, float]  # of the first targets and of the second


@dataclass(frozen=True)
class MetricChange:
    """One metric in both.

    Attributes:
        metric: its name.
        mean: both targets.
        sd: both standard deviations.
        means_overlap: whether the confidence intervals of the means have a common point; None
            where a file has none, or its number was changed by hand. Intervals apart are
            evidence of a difference; intervals that overlap are no evidence of none.
        sds_overlap: the same of the standard deviations.
        k: the steepness of the error's curve in both; None where it has none.
    """

    metric: str
    mean: Both
    sd: Both
    means_overlap: bool | None
    sds_overlap: bool | None
    k: Both | None

    @property
    def change(self) -> float:
        """By how much the target rose."""
        return self.mean[1] - self.mean[0]

    @property
    def change_in_sds(self) -> float:
        """The same in standard deviations of the first."""
        return self.change / self.sd[0]

    def within(self, tolerance: float) -> bool:
        """Whether mean and deviation moved by no more than so many deviations of the first."""
        moved = max(abs(self.change), abs(self.sd[1] - self.sd[0]))
        return moved <= tolerance * self.sd[0]


@dataclass(frozen=True)
class TargetsDifference:
    """Two sets of targets side by side.

    Attributes:
        metrics: in the order of `METRICS`.
        other_models: sentences on models, weights and settings that are not the same.
        other_texts: a sentence on the texts where they are not known to be the same; else None.
        remarks: what else a reader should know: versions, numbers changed by hand.
    """

    metrics: tuple[MetricChange, ...]
    other_models: tuple[str, ...]
    other_texts: str | None
    remarks: tuple[str, ...]

    def same(self, tolerance: float = TOLERANCE) -> bool:
        """Whether the models are the same and no number moved by more than the tolerance."""
        return not self.other_models and all(one.within(tolerance) for one in self.metrics)

    def to_dict(self, tolerance: float = TOLERANCE) -> dict[str, Any]:
        """As JSON data."""
        return {
            "same": self.same(tolerance),
            "tolerance": tolerance,
            "metrics": {one.metric: _metric_out(one) for one in self.metrics},
            "other_models": list(self.other_models),
            "other_texts": self.other_texts,
            "remarks": list(self.remarks),
        }


def _metric_out(one: MetricChange) -> dict[str, Any]:
    return {
        "mean": {"a": one.mean[0], "b": one.mean[1]},
        "sd": {"a": one.sd[0], "b": one.sd[1]},
        "change": one.change,
        "change_in_sds": one.change_in_sds,
        "means_overlap": one.means_overlap,
        "sds_overlap": one.sds_overlap,
        "k": None if one.k is None else {"a": one.k[0], "b": one.k[1]},
    }


def difference(a: Targets, b: Targets, factor: float) -> TargetsDifference:
    """What changed from `a` to `b`.

    Args:
        a: the targets that were.
        b: those that are to be.
        factor: k * sigma of the curves (`serve_app.metrics.loss.steepness_factor`).
    """
    found = (a.calibration, b.calibration)
    changes = []
    for index, metric in enumerate(METRICS):
        sd = (a.sigma[index], b.sigma[index])
        means, sds = (
            _overlap(*(_interval(targets, metric, kind) for targets in (a, b)))
            for kind in ("mean", "sd")
        )
        changes.append(
            MetricChange(
                metric=metric,
                mean=(a.mean[index], b.mean[index]),
                sd=sd,
                means_overlap=means,
                sds_overlap=sds,
                k=(factor / sd[0], factor / sd[1]) if metric in CURVED else None,
            )
        )
    return TargetsDifference(
        tuple(changes),
        tuple(_models(a, b, *found)),
        _texts(*found),
        tuple(_remarks(a, b, *found)),
    )


def changed_by_hand(targets: Targets) -> list[str]:
    """The keys of a targets file that no longer hold what was measured."""
    calibration = targets.calibration
    if calibration is None:
        return []
    document = targets.to_dict()
    keys = list(document)[: 2 * len(METRICS)]  # the numbers come first, means before deviations
    measured = [
        getattr(getattr(calibration.distributions, metric), kind)
        for kind in ("mean", "sd")
        for metric in METRICS
    ]
    return [key for key, value in zip(keys, measured, strict=True) if document[key] != value]


def _interval(targets: Targets, metric: str, kind: str) -> list[float] | None:
    calibration = targets.calibration
    if calibration is None:
        return None
    index = METRICS.index(metric)
    distribution = getattr(calibration.distributions, metric)
    used = (targets.mean if kind == "mean" else targets.sigma)[index]
    if used != getattr(distribution, kind):
        return None  # the interval is of another number
    return getattr(distribution, f"{kind}_interval")


def _overlap(a: list[float] | None, b: list[float] | None) -> bool | None:
    if a is None or b is None:
        return None
    return a[0] <= b[1] and b[0] <= a[1]


def _models(
    a: Targets, b: Targets, one: Calibration | None, other: Calibration | None
) -> Iterator[str]:
    for metric in sorted({*a.models, *b.models}):
        names = (a.models.get(metric), b.models.get(metric))
        if names[0] is None or names[1] is None:
            yield f"{metric}: {names[0] or 'unknown model'} and {names[1] or 'unknown model'}"
        elif not same_model(names[0], names[1]):
            yield f"{metric}: {names[0]} and {names[1]}"
    modes = (a.details.get("eval_mode"), b.details.get("eval_mode"))
    if modes[0] != modes[1]:
        yield f"eval_mode: {modes[0] or 'unknown'} and {modes[1] or 'unknown'}"
    if one is None or other is None:
        return
    probes = ModelNames({}, tuple(one.probe)).differs(ModelNames({}, tuple(other.probe)))
    if probes is not None:
        yield f"other weights or settings: {probes}"
    settings = (one.settings or {}, other.settings or {})
    if one.settings is not None and other.settings is not None:
        for name in sorted({*settings[0], *settings[1]}):
            values = (settings[0].get(name), settings[1].get(name))
            if values[0] != values[1]:
                yield f"{name}: {values[0]} and {values[1]}"


def _texts(one: Calibration | None, other: Calibration | None) -> str | None:
    if one is None or other is None:
        return "a file has no fingerprint of its texts, so they may be others"
    if one.fingerprint == other.fingerprint:
        return None
    return (
        f"other texts: {one.n} pairs of {one.corpus} ({one.fingerprint[7:19]}) and "
        f"{other.n} of {other.corpus} ({other.fingerprint[7:19]})"
    )


def _remarks(
    a: Targets, b: Targets, one: Calibration | None, other: Calibration | None
) -> Iterator[str]:
    for label, targets in (("A", a), ("B", b)):
        keys = changed_by_hand(targets)
        if keys:
            yield f"changed by hand in {label}, so without an interval: {', '.join(keys)}"
    if one is not None and other is not None:
        for name in sorted({*one.versions, *other.versions}):
            values = (one.versions.get(name), other.versions.get(name))
            if values[0] != values[1]:
                yield f"{name} {values[0] or 'unknown'} and {values[1] or 'unknown'}"
