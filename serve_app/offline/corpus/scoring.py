"""Scores the rows of a block: every row gets numbers, or the reason why it has none.

Knows a scorer only as a function of texts; which models are behind it, and on which machine,
makes no difference here. A row that cannot be scored never costs another row its score.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Protocol, get_args

from serve_app.core.errors import FAILURES, InvalidInput, MetricFailed, PlainMedError
from serve_app.core.schemas import EvaluationOut, FindingKind
from serve_app.evidence import Check, check

logger = logging.getLogger(__name__)

# Another processor rounds differently by 1e-6, bfloat16 by 1e-3; other weights differ by more.
_PROBE_TOLERANCE = 5e-3


@dataclass(frozen=True, slots=True)
class RowScores:
    """The five metrics of a row, in the order of `serve_app.metrics.loss.METRICS`; its loss
    (None where none was asked for: calibration makes the targets of a loss); the language of
    the summary (ISO 639; None: undetermined); and counts of findings, as `count_findings` gives
    them (None: not counted)."""

    values: tuple[float, ...]
    loss: float | None = None
    language: str | None = field(default=None, kw_only=True)
    findings: tuple[int, ...] | None = field(default=None, kw_only=True)


@dataclass(frozen=True, slots=True)
class RowError:
    """Why a row has no numbers: a stable code and a sentence for people."""

    code: str
    message: str


RowResult = RowScores | RowError
FINDINGS = tuple(f"findings_{one}" for one in ("severe", "minor", *get_args(FindingKind)))
FINDINGS += ("omissions",)
"""What is counted of a summary, as columns are named."""

Pair = tuple[str, str]
"""An original and its summary."""


def row_to_json(row: RowResult | Pair) -> Any:
    """A result, or a pair of texts, as JSON data; `result_from_json` reads a result back."""
    if isinstance(row, RowError):
        return asdict(row)
    if not isinstance(row, RowScores):
        return row
    if row.findings is not None:
        return [*row.values, row.loss, row.language, [*row.findings]]
    return [*row.values, row.loss, *([] if row.language is None else [row.language])]


def result_from_json(found: Any) -> RowResult:
    """Inverse of `row_to_json` for results."""
    if isinstance(found, dict):
        return RowError(**found)
    if isinstance(found[-1], list):
        *values, loss, language, findings = found
        return RowScores(tuple(values), loss, language=language, findings=tuple(findings))
    language = found[-1] if isinstance(found[-1], str) else None
    values = found[:-1] if language is None else found[:-2]
    return RowScores(tuple(values), found[len(values)], language=language)


def count_findings(found: Check | EvaluationOut) -> tuple[int, ...]:
    """Findings by severity and by kind, and omissions: as many numbers as `FINDINGS` has names."""
    severities = [one.severity for one in found.findings]
    kinds = [one.kind for one in found.findings]
    counts = [severities.count("severe"), severities.count("minor")]
    return (*counts, *map(kinds.count, get_args(FindingKind)), len(found.omissions))


@dataclass(frozen=True)
class ModelNames:
    """Which models scored.

    Attributes:
        names: by metric.
        probe: the metrics of one fixed pair of texts. Two workers whose probes differ run other
            weights or settings, whatever their names say.
        eval_mode: how factuality is computed, where known.
    """

    names: Mapping[str, str] = field(default_factory=dict)
    probe: tuple[float, ...] = ()
    eval_mode: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """As JSON data."""
        return {"names": dict(self.names), "probe": [*self.probe], "eval_mode": self.eval_mode}

    @classmethod
    def from_dict(cls, found: Mapping[str, Any]) -> ModelNames:
        """Inverse of `to_dict`."""
        return cls(dict(found["names"]), tuple(found["probe"]), found["eval_mode"])

    def differs(self, other: ModelNames) -> str | None:
        """The difference, as half a sentence; None where there is none, or nothing is known."""
        for metric, name in self.names.items():
            if other.names.get(metric, name) != name:
                return f"{metric} by {name} and by {other.names[metric]}"
        pairs = zip(self.probe, other.probe, strict=False)
        if any(abs(one - two) > _PROBE_TOLERANCE for one, two in pairs):
            return f"a fixed pair of texts measures {self.probe} and {other.probe}"
        return None


class Scorer(Protocol):
    """Scores pairs of texts."""

    @property
    def models(self) -> ModelNames:
        """The models, as far as they are known by now."""
        ...

    def __call__(
        self, originals: Sequence[str], generated: Sequence[str]
    ) -> Sequence[RowScores | RowError]:
        """One result per pair.

        Raises:
            InvalidInput, MetricFailed: these texts cannot be scored together; the rows are
                then scored in halves, down to the one at fault.
        """
        ...


@dataclass(frozen=True)
class Task:
    """How rows are scored: the columns of the two texts, how many pairs go together, and whether
    findings are counted."""

    original: str
    generated: str
    batch_size: int = 16
    findings: bool = False


@dataclass(frozen=True)
class BlockResult:
    """The results of a block's rows, in order."""

    number: int
    rows: tuple[RowResult, ...]
    models: ModelNames = ModelNames()

    @property
    def failed(self) -> int:
        """How many rows have no numbers."""
        return sum(isinstance(row, RowError) for row in self.rows)


def texts(rows: Sequence[Mapping[str, Any]], task: Task) -> list[Pair | RowError]:
    """The two texts of each row, or why it has none."""
    return [_texts(row, task) for row in rows]


def _texts(row: Mapping[str, Any], task: Task) -> Pair | RowError:
    for column in (task.original, task.generated):
        value = row.get(column)
        if value is None:
            return RowError("missing", f"column {column!r} is missing")
        if not isinstance(value, str):
            return RowError("not_text", f"column {column!r} is not text but {type(value).__name__}")
    return row[task.original], row[task.generated]


def score_block(
    scorer: Scorer, task: Task, number: int, rows: Sequence[Pair | RowError]
) -> BlockResult:
    """Scores a block's rows, `task.batch_size` at once.

    Raises:
        PlainMedError: the failure has nothing to do with the texts.
    """
    results: list[RowResult] = []
    for start in range(0, len(rows), task.batch_size):
        batch = rows[start : start + task.batch_size]
        pairs = [row for row in batch if not isinstance(row, RowError)]
        scored = iter(_bisect(scorer, task, pairs) if pairs else [])
        results += [row if isinstance(row, RowError) else next(scored) for row in batch]
    return BlockResult(number, tuple(results), scorer.models)


def _bisect(scorer: Scorer, task: Task, pairs: Sequence[Pair]) -> list[RowResult]:
    """Scores the pairs together; after a failure in halves, down to a single pair."""
    try:
        scored = scorer([pair[0] for pair in pairs], [pair[1] for pair in pairs])
        if not task.findings:
            return [*scored]
        return [
            one
            if isinstance(one, RowError) or one.findings is not None
            else replace(one, findings=count_findings(check(*pair)))
            for pair, one in zip(pairs, scored, strict=True)
        ]
    except (InvalidInput, MetricFailed) as error:
        if len(pairs) == 1:
            return [_row_error(error, task)]
    except PlainMedError:
        raise
    except FAILURES as error:
        if len(pairs) == 1:
            # Only the kind: the message of a library may quote the text.
            logger.warning("a row could not be scored: %s", type(error).__name__)
            return [RowError(MetricFailed.code, f"could not be computed: {type(error).__name__}")]
    middle = len(pairs) // 2
    return _bisect(scorer, task, pairs[:middle]) + _bisect(scorer, task, pairs[middle:])


def _row_error(error: PlainMedError, task: Task) -> RowError:
    where = error.field or ""
    for name, column in (("texts_original", task.original), ("texts_generated", task.generated)):
        if where.startswith(name):
            where = f"column {column!r}"
    return RowError(error.code, f"{where}: {error.message}" if where else error.message)
