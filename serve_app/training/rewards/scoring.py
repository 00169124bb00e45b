"""RowScores (original, completion) pairs for a reward: in this process, or on a PlainMed server.

Each pair gets its five metrics and their errors, or the reason why it has none. Pairs scored
lately are not scored again. Knows no trainer, and not what a reward is made of.

What is kept between calls, and where:
- the scores of the last pairs, here (`PairScorer`): several rewards that share a scorer cost one;
- the embeddings of originals, with the relevance model (BERTSCORE_CACHE_MB of the process or of
  the server's replica): a new completion of a known original costs no second reading of it for
  relevance.
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

from serve_app.client.clients import PlainMedAPIError, PlainMedClient
from serve_app.core.errors import ConfigError, InvalidInput, MetricFailed
from serve_app.core.settings import Settings, load_settings
from serve_app.metrics.evaluation import evaluate
from serve_app.metrics.loss import METRICS, LossFunction
from serve_app.metrics.suite import MetricSuite
from serve_app.metrics.targets import load_targets
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

_NOT_SCORABLE = {400: InvalidInput, 413: InvalidInput, 422: InvalidInput, 500: MetricFailed}


@dataclass(frozen=True, slots=True)
class PairScores(RowScores):
    """The numbers of one pair: `values`, and `errors` in [0, 1], in the order of `METRICS`."""

    errors: tuple[float, ...] = ()


class LocalMetrics:
    """RowScores with models in this process, loaded when first used.

    Args:
        settings: models, targets and curves; None: those of the environment. LOSS_TARGETS is not
            used: targets are the corpus' means.
        suite: models that are loaded already; then it cannot be sent to another process.

    Raises:
        ConfigError: the targets are wrong; when first used, a model cannot be loaded.
    """

    def __init__(self, settings: Settings | None = None, suite: MetricSuite | None = None) -> None:
        self.settings = settings or load_settings()
        self.loss = LossFunction(
            load_targets(self.settings), self.settings.loss_steepness, self.settings.loss_direction
        )
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
        found = evaluate(self.suite.measure(originals, generated), self.loss)
        return [PairScores(one.measured.values, one.loss, one.errors) for one in found]

    def __getstate__(self) -> dict[str, Any]:
        if self._given is not None:
            raise ConfigError(
                "a reward with models that are loaded already cannot be sent to another process; "
                "make it with settings instead of a suite"
            )
        return self.__dict__ | {"_loaded": None}  # each process loads its own


class ServerMetrics:
    """RowScores on a PlainMed server. Each process that uses it has connections of its own.

    Args:
        url: of the server; None: METRICS_API_URL, else http://127.0.0.1:8000.
        options: of `PlainMedClient`: timeout, retries, deadline, headers and the like.

    Raises:
        ConfigError: the URL or an option is wrong.
    """

    def __init__(self, url: str | None = None, **options: Any) -> None:
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
            answer = self._client.evaluate(originals, generated)
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
            )
            for result in answer.results
        ]

    def __getstate__(self) -> dict[str, Any]:
        return {"_url": self._url, "_options": self._options, "models": self.models}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._connect()


class PairScorer:
    """RowScores pairs in batches and remembers the last ones.

    Args:
        metrics: who scores: `LocalMetrics`, `ServerMetrics`, or another `Scorer` whose results
            are `PairScores`.
        batch_size: most pairs given to it (sent in one request) at once, >= 1.
        connections: batches under way at once, >= 1; above 1 for a server alone.
        remember: most pairs whose scores are kept, >= 0.

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
        self.scored = 0
        """Pairs that had to be scored."""
        self.remembered = 0
        """Pairs whose scores were known."""
        self._known: OrderedDict[Pair, PairScores] = OrderedDict()
        self._lock = Lock()

    def score(self, pairs: Sequence[Pair]) -> list[PairScores | RowError]:
        """The scores of each (original, completion), or why it has none; equal ones scored once.

        Raises:
            PlainMedError: the failure has nothing to do with the texts: a server that is gone, a
                model that cannot be loaded.
        """
        with self._lock:
            found: dict[Pair, PairScores | RowError] = {}
            for pair in pairs:
                if pair in self._known:
                    self._known.move_to_end(pair)
                    found[pair] = self._known[pair]
        self.remembered += sum(pair in found for pair in pairs)
        new = [pair for pair in dict.fromkeys(pairs) if pair not in found]
        found.update(zip(new, self._score(new), strict=True))
        self.scored += len(new)
        with self._lock:
            for pair in new:
                scores = found[pair]
                if isinstance(scores, PairScores):
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
    batch_size: int = 32,
    remember: int = 4096,
) -> PairScorer:
    """RowScores with models in this process; the arguments are those of `LocalMetrics`.

    Raises:
        ConfigError: see `LocalMetrics` and `PairScorer`.
    """
    metrics = LocalMetrics(settings, suite)
    return PairScorer(metrics, batch_size=batch_size, remember=remember)


def remote_scorer(
    url: str | None = None,
    *,
    batch_size: int = 32,
    connections: int = 2,
    remember: int = 4096,
    **options: Any,
) -> PairScorer:
    """RowScores on a PlainMed server; `url` and `options` are those of `ServerMetrics`.

    Raises:
        ConfigError: see `ServerMetrics` and `PairScorer`.
    """
    metrics = ServerMetrics(url, **options)
    return PairScorer(metrics, batch_size=batch_size, connections=connections, remember=remember)
