"""Scores (original, completion) pairs for rewards, in this process or on a PlainMed server.

Each pair gets its five metrics and their errors, or the reason why it has none. `PairScorer` keeps
the scores of recent pairs, so several rewards that share one cost no more than one; the relevance
model keeps the embeddings of originals (BERTSCORE_CACHE_MB of the process or of the server's
replica). Knows no trainer, and not what a reward is made of.
"""

from __future__ import annotations

import logging
import os
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from threading import Lock
from typing import Any, cast

import numpy as np

from serve_app.client.clients import PlainMedAPIError, PlainMedClient
from serve_app.core.errors import ConfigError, InvalidInput, MetricFailed
from serve_app.core.schemas import ProfileName
from serve_app.core.settings import Settings, load_settings
from serve_app.metrics.evaluation import Term
from serve_app.metrics.loss import METRICS
from serve_app.metrics.profiles import check_profile, load_profile, weights_of
from serve_app.metrics.suite import MetricSuite
from serve_app.offline.corpus.scoring import (
    ModelNames,
    Pair,
    RowError,
    RowScores,
    Scorer,
    Task,
    score_block,
)

logger = logging.getLogger(__name__)

NAMES = (*METRICS, "loss")
_NOT_SCORABLE = {400: InvalidInput, 413: InvalidInput, 422: InvalidInput, 500: MetricFailed}


@dataclass(frozen=True, slots=True)
class PairScores(RowScores):
    """The numbers of one pair: `values`, and `errors` in [0, 1], in the order of `METRICS`; and the
    terms of the profile beside them."""

    errors: tuple[float, ...] = ()
    terms: tuple[Term, ...] = ()


class LocalMetrics:
    """Scores with models in this process, loaded when first used.

    Args:
        settings: models, targets and curves; None: those of the environment. LOSS_TARGETS is
            ignored: targets are the corpus' means.
        suite: loaded models; the object then cannot be sent to another process.
        profile: whom the texts are for; None: `cochrane`.

    Raises:
        ConfigError: the targets are wrong; when first used, a model cannot be loaded.
        InvalidInput: there is no such profile.
    """

    def __init__(
        self,
        settings: Settings | None = None,
        suite: MetricSuite | None = None,
        profile: ProfileName | None = None,
    ) -> None:
        self.settings = settings or load_settings()
        self.profile = load_profile(profile, self.settings)
        self.loss, self.weights = self.profile.loss, self.profile.weights
        self._given = suite
        self._loaded: MetricSuite | None = suite

    @property
    def suite(self) -> MetricSuite:
        """The models."""
        if self._loaded is None:
            self._loaded = MetricSuite.from_settings(self.settings)
            for warning in self.loss.targets.made_with_other_models(self._loaded.models):
                logger.warning(warning)
        return self._loaded

    @property
    def models(self) -> ModelNames:
        """Their names."""
        return ModelNames(self.suite.models)

    def __call__(self, originals: Sequence[str], generated: Sequence[str]) -> list[PairScores]:
        """One result a pair; see `serve_app.offline.corpus.scoring.Scorer`."""
        measured = self.suite.measure(originals, generated)
        found = self.profile.evaluate(measured, originals, generated)
        return [PairScores(one.measured.values, one.loss, one.errors, one.terms) for one in found]

    def __getstate__(self) -> dict[str, Any]:
        if self._given is not None:
            raise ConfigError(
                "a reward with models that are loaded already cannot be sent to another process; "
                "make it with settings instead of a suite"
            )
        return self.__dict__ | {"_loaded": None}  # each process loads its own


class ServerMetrics:
    """Scores on a PlainMed server. Each process that uses it has connections of its own.

    Args:
        url: of the server; None: METRICS_API_URL, else http://127.0.0.1:8000.
        profile: as in `LocalMetrics`.
        options: of `PlainMedClient`: timeout, retries, deadline, headers and the like.

    Raises:
        ConfigError: the URL or an option is wrong.
    """

    def __init__(
        self, url: str | None = None, profile: ProfileName | None = None, **options: Any
    ) -> None:
        self.weights = tuple(weights_of(check_profile(profile)))
        self._profile = profile
        self._url = url
        self._options = options
        self._connect()
        self.models = ModelNames()

    def _connect(self) -> None:
        self._client = PlainMedClient(self._url, **self._options)
        self._process = os.getpid()

    def __call__(self, originals: Sequence[str], generated: Sequence[str]) -> list[PairScores]:
        """One result a pair; see `serve_app.offline.corpus.scoring.Scorer`.

        Raises:
            PlainMedAPIError, PlainMedConnectionError: the server cannot answer, after the
                client's retries.
        """
        if self._process != os.getpid():  # sockets must not be shared after a fork
            self._connect()
        try:
            answer = self._client.evaluate(originals, generated, profile=self._profile)
        except PlainMedAPIError as error:
            kind = _NOT_SCORABLE.get(error.status)
            if kind is None:
                raise
            raise kind(str(error), field=error.field, code=error.code) from error
        self.models = ModelNames(answer.models)
        return [
            PairScores(
                tuple(getattr(result.metrics, name) for name in METRICS),
                result.loss,
                tuple(getattr(result.errors, name) for name in METRICS),
                tuple(Term(name, one.error, one.weight) for name, one in result.terms.items()),
            )
            for result in answer.results
        ]

    def __getstate__(self) -> dict[str, Any]:
        kept = ("_url", "_options", "_profile", "weights", "models")
        return {name: self.__dict__[name] for name in kept}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._connect()


class PairScorer:
    """Scores pairs in batches and keeps the most recent scores.

    Args:
        metrics: `LocalMetrics`, `ServerMetrics`, or another `Scorer` that returns `PairScores`.
        batch_size: most pairs in one call or request, >= 1.
        connections: batches in flight at once, >= 1; above 1 only for a server.
        remember: most pairs whose scores are kept, >= 0.

    Attributes:
        scored: pairs that had to be scored.
        remembered: pairs whose scores were known.

    Raises:
        ConfigError: a number is out of range.
    """

    def __init__(
        self,
        metrics: Scorer,
        *,
        batch_size: int = 32,
        connections: int = 1,
        remember: int = 4096,
    ) -> None:
        if batch_size < 1 or connections < 1 or remember < 0:
            raise ConfigError(
                "reward: batch_size and connections must be at least 1, remember at least 0"
            )
        self.metrics = metrics
        self.batch_size = batch_size
        self.connections = connections
        self.remember = remember
        self.scored = self.remembered = 0
        self._known: OrderedDict[Pair, PairScores] = OrderedDict()
        self._lock = Lock()

    def score(self, pairs: Sequence[Pair]) -> list[PairScores | RowError]:
        """The scores of each (original, completion), or why it has none; duplicates scored once.

        Raises:
            PlainMedError: nothing can be scored: no server, or a model that cannot be loaded.
        """
        with self._lock:
            found: dict[Pair, PairScores | RowError] = {
                pair: self._known[pair] for pair in pairs if pair in self._known
            }
            for pair in found:
                self._known.move_to_end(pair)
        self.remembered += sum(pair in found for pair in pairs)
        new = [pair for pair in dict.fromkeys(pairs) if pair not in found]
        found.update(zip(new, self._score(new), strict=True))
        self.scored += len(new)
        with self._lock:
            for pair in new:
                if isinstance(scores := found[pair], PairScores):
                    self._known[pair] = scores
            while len(self._known) > self.remember:
                self._known.popitem(last=False)
        return [found[pair] for pair in pairs]

    def _score(self, pairs: Sequence[Pair]) -> list[PairScores | RowError]:
        batches = [
            pairs[start : start + self.batch_size]
            for start in range(0, len(pairs), self.batch_size)
        ]
        if self.connections == 1 or len(batches) < 2:
            results = [self._batch(batch) for batch in batches]
        else:
            with ThreadPoolExecutor(self.connections) as pool:
                results = list(pool.map(self._batch, batches))
        return [scores for batch in results for scores in batch]

    def _batch(self, pairs: Sequence[Pair]) -> list[PairScores | RowError]:
        task = Task("original", "completion", self.batch_size)
        return cast(
            list[PairScores | RowError], list(score_block(self.metrics, task, 0, pairs).rows)
        )

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_lock": None, "_known": OrderedDict()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _lock=Lock())


def local_scorer(
    settings: Settings | None = None,
    *,
    suite: MetricSuite | None = None,
    profile: ProfileName | None = None,
    **batching: int,
) -> PairScorer:
    """Scores with models in this process; see `LocalMetrics`, and `PairScorer` for `batching`."""
    return PairScorer(LocalMetrics(settings, suite, profile), **batching)


def remote_scorer(
    url: str | None = None,
    *,
    profile: ProfileName | None = None,
    batch_size: int = 32,
    connections: int = 2,
    remember: int = 4096,
    **options: Any,
) -> PairScorer:
    """Scores on a PlainMed server; see `PairScorer`, and `ServerMetrics` for the rest."""
    metrics = ServerMetrics(url, profile, **options)
    return PairScorer(metrics, batch_size=batch_size, connections=connections, remember=remember)


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


def averages(table: np.ndarray[Any, np.dtype[np.float64]]) -> dict[str, float]:
    """The column means of a `measure` table, by name."""
    return dict(zip(NAMES, table.mean(axis=0).tolist(), strict=True))
