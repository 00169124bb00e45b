"""Computes a report: every number that the page, the Markdown and the JSON show.

Knows systems, targets and weights; knows no format of its input or output.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TypeVar

import numpy as np

from serve_app import __version__
from serve_app.core.schemas import ProfileName, TermName
from serve_app.metrics.loss import METRICS, LossFunction, check_weights, combine
from serve_app.offline.report.examples import (
    Example,
    SuiteReader,
    Truncated,
    examples,
    lengths,
    truncation,
)
from serve_app.offline.report.findings import (
    found_differences,
    found_summaries,
    term_errors,
    too_large,
    with_findings,
)
from serve_app.offline.report.rouge import SuiteScores
from serve_app.offline.report.statistics import (
    CONFIDENCE,
    RESAMPLES,
    Difference,
    Floats,
    MetricSummary,
    Wins,
    differences,
    pearson,
    spearman,
    summaries,
    wins,
)
from serve_app.offline.report.systems import Pairing, System, choose_column, pair

NUMBERS = (*METRICS, "loss")
WORST = 5

Item = TypeVar("Item")


@dataclass(frozen=True)
class OtherLoss:
    """In how many rows the file's own loss is not the report's, and the largest difference."""

    rows: int
    largest: float


@dataclass(frozen=True)
class SystemReport:
    """The numbers of one system.

    Attributes:
        name, file, sha256, rows, failures: see `System`.
        scored: rows with numbers; everything below is of these.
        numbers: by `NUMBERS`; empty where no row has numbers, as are the next three.
        in_band: by metric, the share of rows within target ± sigma.
        parts: by metric, weight times mean error. They add up to the mean loss.
        pearson, spearman: correlations among `NUMBERS`, None where a column is constant.
        lengths: by `examples.LENGTHS`, of the rows with texts.
        truncation: None where unknown.
        findings: by `findings.COUNTED`, a summary; empty where nothing is known.
        findings_source: `file`, `rules` (they read the texts for this report), `too large` (for
            that) or `none`.
        other_loss: None where the file has the same loss, or none.
        worst: the rows with the highest loss.
        column: the column of its summaries, "" without texts.
        by_plainmed: whether its file says that PlainMed scored it.
        languages: summaries by language, as in `System`.
        table: (scored, 6) the numbers themselves, for drawings.
    """

    name: str
    file: str
    sha256: str
    rows: int
    scored: int
    failures: dict[str, int]
    numbers: dict[str, MetricSummary]
    in_band: dict[str, float]
    parts: dict[str, float]
    pearson: list[list[float | None]]
    spearman: list[list[float | None]]
    lengths: dict[str, MetricSummary]
    truncation: Truncated | None
    findings: dict[str, MetricSummary]
    findings_source: str
    other_loss: OtherLoss | None
    worst: tuple[Example, ...]
    column: str
    by_plainmed: bool
    languages: dict[str, int]
    table: Floats = field(repr=False)


@dataclass(frozen=True)
class Comparison:
    """Two systems on the rows that both have.

    Attributes:
        one, other: their names.
        column: that matches rows.
        pairs: rows compared.
        unpaired, failed, repeated: see `Pairing`.
        differences: by `NUMBERS`, the one's less the other's; empty without pairs, as `wins`.
        wins: by `NUMBERS`, how often the one is nearer the target (has the smaller error).
        findings: by `findings.COUNTED`, the one's counts less the other's; empty where they are not
            known of both.
        fewer: by `findings.COUNTED`, how often the one has fewer.
    """

    one: str
    other: str
    column: str
    pairs: int
    unpaired: tuple[int, int]
    failed: int
    repeated: tuple[int, int]
    differences: dict[str, Difference]
    wins: dict[str, Wins]
    findings: dict[str, Difference]
    fewer: dict[str, Wins]


@dataclass(frozen=True)
class Report:
    """Everything the page shows.

    Attributes:
        made: the time, in UTC, to the second.
        version: of PlainMed.
        targets, sigmas: by metric.
        targets_models: which models made the targets, by metric.
        steepness, direction: of the loss.
        weights: by metric, and by the profile's terms beside them; they sum to 1.
        profile: whose loss it is; None: that of the settings or of a targets file.
        confidence, resamples: of the intervals.
        systems: in the order given.
        column: that matches rows; None where nothing does.
        comparisons: each two systems.
        models: which models read texts for this report; empty where none did.
        suite: the scores of a shared task; None without one.
        notes: further remarks for the reader.
    """

    made: str
    version: str
    targets: dict[str, float]
    sigmas: dict[str, float]
    targets_models: dict[str, str]
    steepness: str
    direction: str
    weights: dict[str, float]
    profile: str | None
    confidence: float
    resamples: int
    systems: tuple[SystemReport, ...]
    column: str | None
    comparisons: tuple[Comparison, ...]
    models: dict[str, str]
    suite: SuiteScores | None
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Choices:
    """How a report is made.

    Attributes:
        loss: the targets and curves.
        weights: five; None: equal ones.
        profile: whose loss it is, where it is a profile's; its terms need the texts.
        terms: of that profile.
        id: the column that matches rows; None: a known one.
        worst: examples per system.
        reader: the models; None: texts are read by no model.
        check: whether rules read the texts for findings that a file does not count.
        suite: scores of a shared task.
        notes: remarks on the files.
        resamples: of the bootstrap.
    """

    loss: LossFunction
    weights: Sequence[float] | None = None
    profile: ProfileName | None = None
    terms: Mapping[TermName, float] = field(default_factory=dict)
    id: str | None = None
    worst: int = WORST
    reader: SuiteReader | None = None
    check: bool = False
    suite: SuiteScores | None = None
    notes: tuple[str, ...] = ()
    resamples: int = RESAMPLES


def analyse(systems: Sequence[System], choices: Choices) -> Report:
    """The report on the systems.

    Raises:
        InvalidInput: bad weights, the column to match by is not there, or a profile with terms has
            no texts to read.
    """
    weights = check_weights(choices.weights)
    targets = choices.loss.targets
    column = choose_column(systems, choices.id) if systems else None
    if choices.check:
        systems = [with_findings(system) for system in systems]
    scored = [_Scored(system, choices.loss, weights, choices.terms) for system in systems]
    whole = [*weights * (1.0 - sum(choices.terms.values())), *choices.terms.values()]
    comparisons = [
        _compare(one, other, pair(one.system, other.system, column), choices.resamples)
        for one, other in itertools.combinations(scored, 2)
        if column is not None
    ]
    return Report(
        made=datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S UTC"),
        version=__version__,
        targets=_by(METRICS, targets.mean),
        sigmas=_by(METRICS, targets.sigma),
        targets_models=dict(targets.models),
        steepness=str(choices.loss.steepness),
        direction=choices.loss.direction,
        weights=_by((*METRICS, *choices.terms), map(float, whole)),
        profile=choices.profile,
        confidence=CONFIDENCE,
        resamples=choices.resamples,
        systems=tuple(_system(one, column, choices) for one in scored),
        column=column,
        comparisons=tuple(comparisons),
        models={} if choices.reader is None else choices.reader.names,
        suite=choices.suite,
        notes=choices.notes,
    )


class _Scored:
    """A system with its errors and losses; NaN in rows without numbers."""

    def __init__(
        self,
        system: System,
        loss: LossFunction,
        weights: Floats,
        terms: Mapping[TermName, float],
    ) -> None:
        errors = np.full(system.values.shape, math.nan)
        self.losses = np.full(system.rows, math.nan)
        if system.scored.any():
            errors[system.scored] = loss.errors(system.values[system.scored])
            self.losses[system.scored] = combine(errors[system.scored], weights.tolist())
        self.system = system
        self.parts = errors * weights
        if terms:
            beside = term_errors(system, list(terms)) * [*terms.values()]
            self.parts = np.column_stack([self.parts * (1.0 - sum(terms.values())), beside])
            self.losses = np.minimum(self.parts.sum(axis=1), 1.0)
        self.names = (*METRICS, *terms)
        """What the columns of `parts` are."""
        self.table = np.column_stack([system.values, self.losses])
        """(rows, 6) metrics and loss."""
        self.costs = np.column_stack([errors, self.losses])
        """(rows, 6) errors and loss: less is better in each."""


def _by(names: Sequence[str], values: Iterable[Item]) -> dict[str, Item]:
    """Values by name; empty where there are none."""
    return dict(zip(names, values, strict=False))


def _system(one: _Scored, column: str | None, choices: Choices) -> SystemReport:
    system = one.system
    scored = system.scored
    table = one.table[scored]
    targets = choices.loss.targets
    numbers: list[MetricSummary] = []
    in_band: list[float] = []
    parts: list[float] = []
    if len(table):
        numbers = summaries(table, resamples=choices.resamples)
        near = np.abs(system.values[scored] - targets.mean) <= np.asarray(targets.sigma)
        in_band, parts = near.mean(axis=0).tolist(), one.parts[scored].mean(axis=0).tolist()
    return SystemReport(
        name=system.name,
        file=system.file,
        sha256=system.sha256,
        rows=system.rows,
        scored=len(table),
        failures=dict(system.failures),
        numbers=_by(NUMBERS, numbers),
        in_band=_by(METRICS, in_band),
        parts=_by(one.names, parts),
        pearson=_known(pearson(table)) if len(table) else [],
        spearman=_known(spearman(table)) if len(table) else [],
        lengths=lengths(system),
        truncation=truncation(system, choices.reader),
        findings=found_summaries(system, choices.resamples),
        findings_source=_findings_source(system, choices),
        other_loss=_other_loss(one),
        worst=tuple(_worst(one, choices, column)),
        column=system.column,
        by_plainmed=system.by_plainmed,
        languages={code or "undetermined": count for code, count in system.languages.items()},
        table=table,
    )


def _worst(one: _Scored, choices: Choices, column: str | None) -> list[Example]:
    return examples(
        one.system, one.losses, one.parts, one.names, choices.worst, column, choices.reader
    )


def _known(matrix: Floats) -> list[list[float | None]]:
    return [[None if math.isnan(value) else value for value in row] for row in matrix.tolist()]


def _findings_source(system: System, choices: Choices) -> str:
    if system.found:
        return "rules" if system.found_by_rules else "file"
    return "too large" if choices.check and too_large(system) else "none"


def _other_loss(one: _Scored) -> OtherLoss | None:
    apart = np.abs(one.system.file_loss - one.losses)
    # A file written with fewer digits is no other loss.
    differs = apart[np.isfinite(apart) & (apart > 1e-4)]
    return OtherLoss(len(differs), float(differs.max())) if len(differs) else None


def _compare(one: _Scored, other: _Scored, pairing: Pairing, resamples: int) -> Comparison:
    first, second = pairing.first, pairing.second
    found: list[Difference] = []
    if pairing.count:
        found = differences(one.table[first], other.table[second], resamples=resamples)
    won = wins(one.costs[first], other.costs[second]) if found else []
    told, fewer = found_differences(one.system, other.system, pairing, resamples)
    return Comparison(
        one=one.system.name,
        other=other.system.name,
        column=pairing.column,
        pairs=pairing.count,
        unpaired=pairing.unpaired,
        failed=pairing.failed,
        repeated=pairing.repeated,
        differences=_by(NUMBERS, found),
        wins=_by(NUMBERS, won),
        findings=told,
        fewer=fewer,
    )
