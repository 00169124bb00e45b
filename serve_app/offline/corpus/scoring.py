"""RowScores the rows of a block: every row gets numbers or the reason why it has none.

Knows a scorer only as a function of texts; which models are behind it, and on which machine,
makes no difference here. A row that cannot be scored never costs another row its score.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from serve_app.core.errors import FAILURES, InvalidInput, MetricFailed, PlainMedError

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class RowScores:
    """The numbers of one row: five in the order of `serve_app.metrics.loss.METRICS`, and the loss.

    The loss is None where none was asked for (calibration makes the targets of a loss).
    """

    values: tuple[float, ...]
    loss: float | None = None


@dataclass(frozen=True, slots=True)
class RowError:
    """Why a row has no numbers: a stable code and a sentence for people."""

    code: str
    message: str


RowResult = RowScores | RowError
Pair = tuple[str, str]  # an original and its summary


@dataclass(frozen=True)
class ModelNames:
    """Which models scored.

    Attributes:
        names: by metric.
        probe: what they measure for one fixed pair of texts. Two workers whose probes differ
            do not run the same weights or settings, whatever their names say.
        eval_mode: how factuality is computed, where that is known.
    """

    names: Mapping[str, str] = field(default_factory=dict)
    probe: tuple[float, ...] = ()
    eval_mode: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """As JSON data."""
        return {"names": dict(self.names), "probe": [*self.probe], "eval_mode": self.eval_mode}

    @classmethod
    def from_dict(cls, found: Mapping[str, Any]) -> ModelNames:
        """Of `to_dict`."""
        return cls(dict(found["names"]), tuple(found["probe"]), found["eval_mode"])

    def differs(self, other: ModelNames) -> str | None:
        """What is not the same, as half a sentence; None where all is, or nothing is known."""
        for metric, name in self.names.items():
            if other.names.get(metric, name) != name:
                return f"{metric} by {name} and by {other.names[metric]}"
        pairs = zip(self.probe, other.probe, strict=False)
        if any(abs(one - two) > _PROBE_TOLERANCE for one, two in pairs):
            return f"a fixed pair of texts measures {self.probe} and {other.probe}"
        return None


# Another processor rounds differently by 1e-6, bfloat16 by 1e-3; other weights differ by more.
_PROBE_TOLERANCE = 5e-3


class Scorer(Protocol):
    """RowScores pairs of texts."""

    @property
    def models(self) -> ModelNames:
        """What is known of the models by now."""
        ...

    def __call__(
        self, originals: Sequence[str], generated: Sequence[str]
    ) -> Sequence[RowScores | RowError]:
        """One result a pair.

        Raises:
            InvalidInput, MetricFailed: these texts cannot be scored together; the rows are
                then scored in halves, down to the one it is about.
        """
        ...


@dataclass(frozen=True)
class Task:
    """How rows are scored: which columns hold the texts, and how many go together."""

    original: str
    generated: str
    batch_size: int = 16


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
    found = []
    for column in (task.original, task.generated):
        value = row.get(column)
        if value is None:
            return RowError("missing", f"column {column!r} is missing")
        if not isinstance(value, str):
            return RowError("not_text", f"column {column!r} is not text but {type(value).__name__}")
        found.append(value)
    return found[0], found[1]


def score_block(
    scorer: Scorer, task: Task, number: int, rows: Sequence[Pair | RowError]
) -> BlockResult:
    """RowScores a block's rows, `task.batch_size` at once.

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
    """RowScores the pairs together; where that fails, halves until alone."""
    try:
        return [*scorer([pair[0] for pair in pairs], [pair[1] for pair in pairs])]
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
    for field_name, column in (
        ("texts_original", task.original),
        ("texts_generated", task.generated),
    ):
        if where.startswith(field_name):
            where = f"column {column!r}"
    return RowError(error.code, f"{where}: {error.message}" if where else error.message)
