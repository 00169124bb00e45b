"""The metrics in the shapes of other libraries: torchmetrics, and Hugging Face `evaluate`.

Both average the five metrics and the loss over (original, summary) pairs, scored by a `PairScorer`.
A pair that cannot be scored is an error here, as everywhere but in a reward: no average leaves
one out in silence. The `evaluate` package is not needed: its call is imitated, not subclassed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from serve_app.core.errors import ConfigError, InvalidInput, MetricFailed
from serve_app.metrics.loss import METRICS
from serve_app.offline.corpus.scoring import RowError
from serve_app.training.rewards.scoring import PairScorer

if TYPE_CHECKING:
    from torchmetrics import Metric
else:
    try:
        from torchmetrics import Metric
    except ImportError:

        class Metric:
            """Stands where torchmetrics is not installed."""

            def __init__(self, **_: Any) -> None:
                raise ConfigError("torchmetrics is not installed: pip install 'plainmed[train]'")


NAMES = (*METRICS, "loss")


def measure(
    scorer: PairScorer, originals: Sequence[str], summaries: Sequence[str]
) -> np.ndarray[Any, np.dtype[np.float64]]:
    """The metrics and the loss of each pair: (n, 6), in the order of NAMES.

    Raises:
        InvalidInput: the lists differ in length, or a text has nothing to score.
        MetricFailed: a metric could not be computed.
    """
    if len(originals) != len(summaries):
        raise InvalidInput(f"{len(originals)} originals but {len(summaries)} summaries")
    rows = []
    for index, scores in enumerate(scorer.score(list(zip(originals, summaries, strict=True)))):
        if isinstance(scores, RowError):
            kind = MetricFailed if scores.code == MetricFailed.code else InvalidInput
            raise kind(f"pair {index} cannot be scored: {scores.message}", code=scores.code)
        rows.append((*scores.values, scores.loss))
    return np.array(rows, dtype=np.float64).reshape(-1, len(NAMES))


class PlainMedEvaluation:
    """`compute(predictions=..., sources=...)`, as metrics of the `evaluate` package are called.

    >>> metric = PlainMedEvaluation(local_scorer())               # doctest: +SKIP
    >>> metric.compute(predictions=summaries, sources=originals)  # doctest: +SKIP
    {'relevance': 0.71, ..., 'loss': 0.12, 'losses': [0.1, 0.14]}
    """

    name = "plainmed"

    def __init__(self, scorer: PairScorer) -> None:
        self._scorer = scorer
        self._originals: list[str] = []
        self._summaries: list[str] = []

    def add_batch(
        self,
        *,
        predictions: Sequence[str],
        sources: Sequence[str] | None = None,
        references: Sequence[str] | None = None,
    ) -> None:
        """Keeps pairs for `compute`. The originals are the sources; `references` also says so.

        Raises:
            InvalidInput: neither or both are given, or not one a prediction.
        """
        originals = sources if references is None else references
        if originals is None or (sources is not None and references is not None):
            raise InvalidInput("give the originals once: as sources, or as references")
        if len(originals) != len(predictions):
            raise InvalidInput(f"{len(originals)} originals but {len(predictions)} predictions")
        self._originals += originals
        self._summaries += predictions

    def add(
        self, *, prediction: str, source: str | None = None, reference: str | None = None
    ) -> None:
        """Keeps one pair for `compute`."""
        self.add_batch(
            predictions=[prediction],
            sources=None if source is None else [source],
            references=None if reference is None else [reference],
        )

    def compute(
        self,
        *,
        predictions: Sequence[str] | None = None,
        sources: Sequence[str] | None = None,
        references: Sequence[str] | None = None,
    ) -> dict[str, float | list[float]]:
        """The mean of each metric and of the loss, and the `losses`, of all that was added.

        Raises:
            InvalidInput: nothing was added, or a text has nothing to score.
            MetricFailed: a metric could not be computed.
        """
        if predictions is not None:
            self.add_batch(predictions=predictions, sources=sources, references=references)
        originals, summaries = self._originals, self._summaries
        if not originals:
            raise InvalidInput("there is nothing to compute: add predictions and sources")
        self._originals, self._summaries = [], []
        table = measure(self._scorer, originals, summaries)
        means: dict[str, float | list[float]] = dict(
            zip(NAMES, table.mean(axis=0).tolist(), strict=True)
        )
        return means | {"losses": table[:, -1].tolist()}


class PlainMedMetric(Metric):  # type: ignore[misc]  # torchmetrics is not typed here
    """A `torchmetrics.Metric`: means over all updates of all processes.

    Args:
        scorer: who scores.
        options: of `torchmetrics.Metric`, such as sync_on_compute.

    Raises:
        ConfigError: torchmetrics is not installed.
    """

    is_differentiable = False
    higher_is_better = None  # the loss wants less, relevance more, grade levels their target
    full_state_update = False

    total: torch.Tensor
    count: torch.Tensor

    def __init__(self, scorer: PairScorer, **options: Any) -> None:
        super().__init__(**options)
        self._scorer = scorer
        zeros = torch.zeros(len(NAMES), dtype=torch.float64)
        self.add_state("total", default=zeros, dist_reduce_fx="sum")
        self.add_state("count", default=torch.tensor(0), dist_reduce_fx="sum")

    def update(self, preds: Sequence[str], target: Sequence[str]) -> None:
        """Adds summaries (`preds`) of originals (`target`).

        Raises:
            InvalidInput, MetricFailed: see `measure`.
        """
        table = torch.from_numpy(measure(self._scorer, target, preds))
        self.total += table.sum(dim=0).to(self.total)
        self.count += len(table)

    def compute(self) -> dict[str, torch.Tensor]:
        """The mean of each metric and of the loss.

        Raises:
            InvalidInput: there was no update.
        """
        if not int(self.count):
            raise InvalidInput("there is nothing to compute: call update first")
        return dict(zip(NAMES, self.total / self.count, strict=True))
