"""Compares two sets of targets. Knows numbers and names; prints nothing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from serve_app.metrics.loss import CURVED, METRICS, Targets
from serve_app.metrics.targets import MEAN_KEYS, SIGMA_KEYS, same_model
from serve_app.offline.corpus.scoring import ModelNames

TOLERANCE = 1e-3  # of the first targets' deviations: rounding, not a change

Both = tuple[float, float]  # of the first targets and of the second


@dataclass(frozen=True)
class MetricChange:
    """One metric in both sets of targets.

    Attributes:
        metric: its name.
        mean: both targets.
        sd: both standard deviations.
        means_overlap: whether the confidence intervals of the means overlap; None where a file has
            none, or its number was edited by hand. Intervals apart are evidence of a difference;
            overlapping ones are no evidence against one.
        sds_overlap: the same for the standard deviations.
        k: steepness of the error curve in both; None for a metric without one.
    """

    metric: str
    mean: Both
    sd: Both
    means_overlap: bool | None
    sds_overlap: bool | None
    k: Both | None

    @property
    def change(self) -> float:
        """Second target minus first."""
        return self.mean[1] - self.mean[0]

    @property
    def change_in_sds(self) -> float:
        """The change in standard deviations of the first."""
        return self.change / self.sd[0]

    def within(self, tolerance: float) -> bool:
        """Whether mean and deviation moved by at most `tolerance` deviations of the first."""
        moved = max(abs(self.change), abs(self.sd[1] - self.sd[0]))
        return moved <= tolerance * self.sd[0]

    def to_dict(self) -> dict[str, Any]:
        """As JSON data."""
        return {
            "mean": dict(zip("ab", self.mean, strict=True)),
            "sd": dict(zip("ab", self.sd, strict=True)),
            "change": self.change,
            "change_in_sds": self.change_in_sds,
            "means_overlap": self.means_overlap,
            "sds_overlap": self.sds_overlap,
            "k": self.k and dict(zip("ab", self.k, strict=True)),
        }


@dataclass(frozen=True)
class TargetsDifference:
    """Two sets of targets side by side.

    Attributes:
        metrics: in the order of `METRICS`.
        other_models: sentences on models, weights and settings that differ.
        other_texts: a sentence where the texts differ or may differ; else None.
        remarks: what else a reader should know: versions, numbers edited by hand.
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
            "metrics": {one.metric: one.to_dict() for one in self.metrics},
            "other_models": list(self.other_models),
            "other_texts": self.other_texts,
            "remarks": list(self.remarks),
        }


def difference(a: Targets, b: Targets, factor: float) -> TargetsDifference:
    """What changes from targets `a` to targets `b`.

    `factor` is k * sigma of the curves (`serve_app.metrics.loss.steepness_factor`).
    """
    changes = []
    for index, metric in enumerate(METRICS):
        sd = (a.sigma[index], b.sigma[index])
        changes.append(
            MetricChange(
                metric=metric,
                mean=(a.mean[index], b.mean[index]),
                sd=sd,
                means_overlap=_overlap(a, b, index, "mean"),
                sds_overlap=_overlap(a, b, index, "sd"),
                k=(factor / sd[0], factor / sd[1]) if metric in CURVED else None,
            )
        )
    models, remarks = tuple(_models(a, b)), tuple(_remarks(a, b))
    return TargetsDifference(tuple(changes), models, _texts(a, b), remarks)


def changed_by_hand(targets: Targets) -> list[str]:
    """The keys of a targets file that no longer hold the measured number."""
    return [
        key
        for keys, used, kind in (
            (MEAN_KEYS, targets.mean, "mean"),
            (SIGMA_KEYS, targets.sigma, "sd"),
        )
        for index, key in enumerate(keys)
        if _measured(targets, index, kind) not in (None, used[index])
    ]


def _measured(targets: Targets, index: int, kind: str) -> Any:
    """A field of the metric's distribution; None where the file has no calibration."""
    calibration = targets.calibration
    return calibration and getattr(getattr(calibration.distributions, METRICS[index]), kind)


def _overlap(a: Targets, b: Targets, index: int, kind: str) -> bool | None:
    ends = []
    for targets in (a, b):
        used = (targets.mean if kind == "mean" else targets.sigma)[index]
        if _measured(targets, index, kind) != used:
            return None  # no interval, or one of another number
        ends.append(_measured(targets, index, f"{kind}_interval"))
    return bool(ends[0][0] <= ends[1][1] and ends[1][0] <= ends[0][1])


def _models(a: Targets, b: Targets) -> Iterator[str]:
    for metric in sorted({*a.models, *b.models}):
        one, other = a.models.get(metric), b.models.get(metric)
        if one is None or other is None or not same_model(one, other):
            unknown = "unknown model"
            yield f"{metric}: {one or unknown} and {other or unknown}"
    modes = (a.details.get("eval_mode"), b.details.get("eval_mode"))
    if modes[0] != modes[1]:
        yield f"eval_mode: {modes[0] or 'unknown'} and {modes[1] or 'unknown'}"
    first, second = a.calibration, b.calibration
    if first is None or second is None:
        return
    probes = ModelNames({}, tuple(first.probe)).differs(ModelNames({}, tuple(second.probe)))
    if probes is not None:
        yield f"other weights or settings: {probes}"
    if first.settings is not None and second.settings is not None:
        for name, one, other in _differing(first.settings, second.settings):
            yield f"{name}: {one} and {other}"


def _differing(a: Mapping[str, Any], b: Mapping[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    """Names with different values, each with both (None where there is none)."""
    for name in sorted({*a, *b}):
        if a.get(name) != b.get(name):
            yield name, a.get(name), b.get(name)


def _texts(a: Targets, b: Targets) -> str | None:
    one, other = a.calibration, b.calibration
    if one is None or other is None:
        return "a file has no fingerprint of its texts, so they may differ"
    if one.fingerprint == other.fingerprint:
        return None
    return (
        f"other texts: {one.n} pairs of {one.corpus} ({one.fingerprint[7:19]}) and "
        f"{other.n} of {other.corpus} ({other.fingerprint[7:19]})"
    )


def _remarks(a: Targets, b: Targets) -> Iterator[str]:
    for label, targets in (("A", a), ("B", b)):
        keys = changed_by_hand(targets)
        if keys:
            yield f"changed by hand in {label}, so without an interval: {', '.join(keys)}"
    if a.calibration is not None and b.calibration is not None:
        for name, one, other in _differing(a.calibration.versions, b.calibration.versions):
            yield f"{name} {one or 'unknown'} and {other or 'unknown'}"
