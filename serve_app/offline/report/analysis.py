"""Puts a report together: every number that the page, the Markdown and the JSON show.

Knows systems, targets and weights; knows no format of its input or output.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

import numpy as np

from serve_app import __version__
from serve_app.metrics.loss import METRICS, LossFunction, check_weights, combine
from serve_app.offline.report.evidence import Reader
from serve_app.offline.report.examples import Example, Truncated, examples, lengths, truncation
from serve_app.offline.report.matching import Pairing, choose_column, pair
from serve_app.offline.report.rouge import SuiteScores
from serve_app.offline.report.statistics import (
    CONFIDENCE,
    RESAMPLES,
    Difference,
    MetricSummary,
    Wins,
    differences,
    pearson,
    spearman,
    summaries,
    wins,
)
from serve_app.offline.report.systems import Floats, System

NUMBERS = (*METRICS, "loss")
WORST = 5


@dataclass(frozen=True)
class OtherLoss:
    """Where the file's own loss is not that of the report: rows, and the largest difference."""

    rows: int
    largest: float


@dataclass(frozen=True)
class SystemReport:
    """What is said of one system.

    Attributes:
        name, file, sha256, rows, failures: see `System`.
        scored: rows with numbers; all that follows is of these.
        numbers: by `NUMBERS`; empty where no row has numbers, as are the next three.
        in_band: by metric, the share of rows within target ± sigma.
        parts: by metric, weight times mean error. They add up to the mean loss.
        pearson, spearman: correlations among `NUMBERS`, None where a column is constant.
        lengths: by `texts.LENGTHS`, as far as there are texts.
        truncation: None where unknown.
        other_loss: None where the file's loss is the same, or it says none.
        worst: the rows with the highest loss.
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
    other_loss: OtherLoss | None
    worst: tuple[Example, ...]
    table: Floats = field(repr=False)


@dataclass(frozen=True)
class Comparison:
    """Two systems on the rows that both have.

    Attributes:
        one, other: their names.
        column: what matches rows.
        pairs: rows compared.
        unpaired, failed, repeated: see `Pairing`.
        differences: by `NUMBERS`, the one's less the other's; empty without pairs, as `wins`.
        wins: by `NUMBERS`, how often the one is nearer the target (has the smaller error).
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


@dataclass(frozen=True)
class Report:
    """Everything there is to show.

    Attributes:
        made: when, in UTC, to the second.
        version: of PlainMed.
        targets, sigmas: by metric.
        targets_models: which models made the targets, by metric.
        steepness, direction: of the loss.
        weights: by metric.
        confidence, resamples: of the intervals.
        systems: in the order given.
        column: what matches rows; None where nothing does.
        comparisons: each two systems.
        models: which models read texts for this report; empty where none did.
        suite: what a shared task reports; None without one.
        notes: what the reader must know besides.
    """

    made: str
    version: str
    targets: dict[str, float]
    sigmas: dict[str, float]
    targets_models: dict[str, str]
    steepness: str
    direction: str
    weights: dict[str, float]
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
        id: the column that matches rows; None: a known one.
        worst: examples a system.
        reader: the models; None: texts are read by no model.
        suite: scores of a shared task.
        notes: remarks of whoever read the files.
        resamples: of the bootstrap.
    """

    loss: LossFunction
    weights: Sequence[float] | None = None
    id: str | None = None
    worst: int = WORST
    reader: Reader | None = None
    suite: SuiteScores | None = None
    notes: tuple[str, ...] = ()
    resamples: int = RESAMPLES


def analyse(systems: Sequence[System], choices: Choices) -> Report:
    """The report on the systems.

    Raises:
        InvalidInput: bad weights, or the column to match by is not there.
    """
    weights = check_weights(choices.weights)
    targets = choices.loss.targets
    column = choose_column(systems, choices.id) if systems else None
    scored = [_Scored.of(system, choices.loss, weights) for system in systems]
    reports = tuple(_system(one, column, choices) for one in scored)
    comparisons = []
    if column is not None:
        comparisons = [
            _compare(one, other, pair(one.system, other.system, column), choices.resamples)
            for one, other in itertools.combinations(scored, 2)
        ]
    return Report(
        made=datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S UTC"),
        version=__version__,
        targets=dict(zip(METRICS, targets.mean, strict=True)),
        sigmas=dict(zip(METRICS, targets.sigma, strict=True)),
        targets_models=dict(targets.models),
        steepness=str(choices.loss.steepness),
        direction=choices.loss.direction,
        weights=dict(zip(METRICS, weights.tolist(), strict=True)),
        confidence=CONFIDENCE,
        resamples=choices.resamples,
        systems=reports,
        column=column,
        comparisons=tuple(comparisons),
        models={} if choices.reader is None else choices.reader.names,
        suite=choices.suite,
        notes=choices.notes,
    )


@dataclass(frozen=True)
class _Scored:
    """A system with its errors and losses; NaN in rows without numbers."""

    system: System
    errors: Floats
    parts: Floats
    losses: Floats

    @classmethod
    def of(cls, system: System, loss: LossFunction, weights: Floats) -> _Scored:
        errors = np.full(system.values.shape, math.nan)
        losses = np.full(system.rows, math.nan)
        if system.scored.any():
            errors[system.scored] = loss.errors(system.values[system.scored])
            losses[system.scored] = combine(errors[system.scored], weights.tolist())
        return cls(system, errors, errors * weights, losses)

    @property
    def table(self) -> Floats:
        """(rows, 6) metrics and loss."""
        return np.column_stack([self.system.values, self.losses])

    @property
    def costs(self) -> Floats:
        """(rows, 6) errors and loss: less is better in each."""
        return np.column_stack([self.errors, self.losses])


def _system(one: _Scored, column: str | None, choices: Choices) -> SystemReport:
    system = one.system
    there = system.scored
    table = one.table[there]
    some = len(table) > 0
    targets = choices.loss.targets
    near = np.abs(system.values[there] - targets.mean) <= np.asarray(targets.sigma)
    found = summaries(table, resamples=choices.resamples) if some else []
    return SystemReport(
        name=system.name,
        file=system.file,
        sha256=system.sha256,
        rows=system.rows,
        scored=len(table),
        failures=dict(system.failures),
        numbers=dict(zip(NUMBERS, found, strict=True)) if some else {},
        in_band=dict(zip(METRICS, near.mean(axis=0).tolist(), strict=True)) if some else {},
        parts=(
            dict(zip(METRICS, one.parts[there].mean(axis=0).tolist(), strict=True)) if some else {}
        ),
        pearson=_known(pearson(table)) if some else [],
        spearman=_known(spearman(table)) if some else [],
        lengths=lengths(system),
        truncation=truncation(system, choices.reader),
        other_loss=_other_loss(one),
        worst=tuple(examples(system, one.losses, one.parts, choices.worst, column, choices.reader)),
        table=table,
    )


def _known(matrix: Floats) -> list[list[float | None]]:
    return [[None if math.isnan(value) else value for value in row] for row in matrix.tolist()]


def _other_loss(one: _Scored) -> OtherLoss | None:
    apart = np.abs(one.system.file_loss - one.losses)
    # A file written with fewer digits is no other loss.
    differs = apart[np.isfinite(apart) & (apart > 1e-4)]
    return OtherLoss(len(differs), float(differs.max())) if len(differs) else None


def _compare(one: _Scored, other: _Scored, pairing: Pairing, resamples: int) -> Comparison:
    found: list[Difference] = []
    won: list[Wins] = []
    if pairing.count:
        first, second = pairing.first, pairing.second
        found = differences(one.table[first], other.table[second], resamples=resamples)
        won = wins(one.costs[first], other.costs[second])
    return Comparison(
        one=one.system.name,
        other=other.system.name,
        column=pairing.column,
        pairs=pairing.count,
        unpaired=pairing.unpaired,
        failed=pairing.failed,
        repeated=pairing.repeated,
        differences=dict(zip(NUMBERS, found, strict=False)),
        wins=dict(zip(NUMBERS, won, strict=False)),
    )
