"""Reward functions for TRL's GRPO and RLOO trainers: 1 - loss, or 1 - error of each metric.

    GRPOTrainer(..., reward_funcs=loss_reward(local_scorer()))
    GRPOTrainer(..., reward_funcs=metric_rewards(remote_scorer("http://127.0.0.1:8000")))

Knows how a trainer calls a reward and what it accepts; `scoring` does the scoring. Imports no
trainer.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any, Literal, get_args

import numpy as np

from serve_app.core.errors import ConfigError, InvalidInput, MetricFailed
from serve_app.core.settings import load_settings
from serve_app.evidence import Source, check
from serve_app.metrics.evaluation import with_terms
from serve_app.metrics.loss import METRICS, check_weights, combine
from serve_app.offline.corpus.scoring import RowError
from serve_app.text.validation import has_word, require_text
from serve_app.training.rewards.gaming import honest_share
from serve_app.training.rewards.prompts import completion_text, originals_of
from serve_app.training.rewards.scoring import PairScorer, PairScores, local_scorer, remote_scorer

__all__ = ["Reward", "local_scorer", "loss_reward", "metric_rewards", "remote_scorer"]

OnFailure = Literal["raise", "none"]

LOWEST = 0.0
"""The reward of a completion without a word, which has nothing to measure."""

logger = logging.getLogger(__name__)


class Reward:
    """1 - the weighted sum of the five metrics' errors, in [0, 1]; 1 is at the targets.

    Of a scorer with a profile also of the terms that it has, which keep their weight beside any
    `weights`.

    With a `penalty`, less that for each severe finding (`serve_app.evidence`), but not below 0, and
    first multiplied by the share of the text that does not game the metrics (`gaming`).

    Called as a trainer calls it, on plain or conversational datasets: `reward(prompts=...,
    completions=..., **columns)`. Ignores further arguments except `log_metric`, which gets the mean
    of each metric with a weight above 0 (`plainmed/fkgl`), the shares of completions without a
    word (`NAME/wordless`) and without a reward (`NAME/failed`), and with a penalty the mean number
    of severe findings (`NAME/severe`) and the mean share of honest text (`NAME/honest`).

    A completion without a letter gets 0.0. The object can be sent to another process,
    where it loads models or opens connections of its own.

    Args:
        scorer: `local_scorer(...)` or `remote_scorer(...)`; several rewards may share one.
        name: in the trainer's log.
        weights: of the errors in the order of `METRICS`, with sum 1; None: those of the scorer's
            profile.
        terms: whether the terms of the scorer's profile count.
        original: the dataset's column with the originals; None: the first of `ORIGINAL_COLUMNS`
            that exists, else the text inside the served generator's prompt.
        system_prompt, user_prefix: of these prompts; None: SYSTEM_PROMPT, USER_PREFIX.
        penalty: taken off the reward for each severe finding, >= 0. At 0 neither findings nor
            gaming are looked for.
        on_failure: `raise` ends the training where a completion cannot be scored; `none` returns
            None for it, which TRL leaves out of the step. An unreachable server always raises.

    Attributes:
        wordless: completions without a word so far.
        failed: completions without a reward so far.

    Raises:
        InvalidInput: the weights are wrong.
        ConfigError: `on_failure` is neither, or the penalty is negative.
    """

    def __init__(
        self,
        scorer: PairScorer,
        *,
        name: str = "plainmed_reward",
        weights: Sequence[float] | None = None,
        terms: bool = True,
        original: str | None = None,
        system_prompt: str | None = None,
        user_prefix: str | None = None,
        penalty: float = 0.0,
        on_failure: OnFailure = "raise",
    ) -> None:
        if on_failure not in get_args(OnFailure):
            raise ConfigError(f"on_failure must be raise or none, not {on_failure!r}")
        if not penalty >= 0:
            raise ConfigError(f"penalty must be at least 0, not {penalty}")
        self.__name__ = name
        self.penalty = penalty
        self.scorer = scorer
        given = getattr(scorer.metrics, "weights", None) if weights is None else weights
        self.weights = tuple(check_weights(given).tolist())
        self.terms = terms
        self.original = original
        self.on_failure = on_failure
        self.wordless = 0
        self.failed = 0
        settings = load_settings()
        self._system_prompt = settings.system_prompt if system_prompt is None else system_prompt
        self._user_prefix = settings.user_prefix if user_prefix is None else user_prefix

    def __call__(
        self, prompts: Sequence[Any], completions: Sequence[Any], **columns: Any
    ) -> list[float | None]:
        """One reward a completion.

        Raises:
            ConfigError: the originals cannot be found; see `originals_of`.
            InvalidInput: an original has nothing to score.
            MetricFailed: a completion cannot be scored, and `on_failure` is `raise`.
            PlainMedError: see `PairScorer.score`.
        """
        originals = originals_of(
            prompts,
            columns,
            self.original,
            system_prompt=self._system_prompt,
            user_prefix=self._user_prefix,
        )
        for index, original in enumerate(originals):
            require_text(original, f"{self.original or 'original'}[{index}]")
        texts = [completion_text(completion) for completion in completions]
        if len(originals) != len(texts):
            raise InvalidInput(f"{len(originals)} originals but {len(texts)} completions")
        worded = [index for index, text in enumerate(texts) if has_word(text)]
        pairs = [(originals[index], texts[index]) for index in worded]
        scores = self.scorer.score(pairs)
        severe, honest = self._misled(pairs)
        rewards: list[float | None] = [LOWEST] * len(texts)
        for index, found, count, share in zip(worded, scores, severe, honest, strict=True):
            reward = self._reward(index, len(texts), found)
            rewards[index] = reward and max(LOWEST, reward * share - self.penalty * count)
        log_metric = columns.get("log_metric")
        if log_metric is not None and self.penalty and pairs:
            log_metric(f"{self.__name__}/severe", sum(severe) / len(pairs))
            log_metric(f"{self.__name__}/honest", sum(honest) / len(pairs))
        self._count(rewards, scores, len(texts) - len(worded), log_metric)
        return rewards

    def _misled(self, pairs: Sequence[tuple[str, str]]) -> tuple[list[int], list[float]]:
        """Severe findings, and the share of honest text, of each pair; an original is read once."""
        if not self.penalty:
            return [0] * len(pairs), [1.0] * len(pairs)
        sources = {original: Source(original) for original, _ in pairs}
        return (
            [check(sources[original], text).severe for original, text in pairs],
            [honest_share(sources[original], text) for original, text in pairs],
        )

    def _reward(self, index: int, count: int, scores: PairScores | RowError) -> float | None:
        if isinstance(scores, PairScores):
            # The errors are in [0, 1] and the weights sum to 1, so the reward is in [0, 1] too.
            loss = float(combine(np.array([scores.errors]), self.weights)[0])
            return 1.0 - with_terms(loss, scores.terms if self.terms else ())
        if self.on_failure == "none":
            return None
        raise MetricFailed(
            f"{self.__name__}: completion {index} of {count} cannot be scored ({scores.code}): "
            f"{scores.message}; on_failure='none' leaves such completions out"
        )

    def _count(
        self,
        rewards: Sequence[float | None],
        scores: Sequence[PairScores | RowError],
        wordless: int,
        log_metric: Callable[[str, float], None] | None,
    ) -> None:
        failures = [found for found in scores if isinstance(found, RowError)]
        self.wordless += wordless
        self.failed += len(failures)
        if wordless:
            logger.info("%s: %d completions have no word", self.__name__, wordless)
        if failures:
            codes = ", ".join(sorted({failure.code for failure in failures}))
            logger.warning("%s: no reward for %d (%s)", self.__name__, len(failures), codes)
        if log_metric is None or not rewards:
            return
        log_metric(f"{self.__name__}/wordless", wordless / len(rewards))
        log_metric(f"{self.__name__}/failed", len(failures) / len(rewards))
        values = np.array([one.values for one in scores if isinstance(one, PairScores)])
        if len(values):
            for metric, weight, mean in zip(
                METRICS, self.weights, values.mean(axis=0), strict=True
            ):
                if weight > 0:
                    log_metric(f"plainmed/{metric}", float(mean))


def loss_reward(scorer: PairScorer, **options: Any) -> Reward:
    """1 - loss; options and errors are those of `Reward`."""
    return Reward(scorer, **options)


def metric_rewards(scorer: PairScorer, **options: Any) -> list[Reward]:
    """One reward a metric, 1 - its error, named as in `METRICS`; for `GRPOConfig.reward_weights`.

    The five share the scorer, so a step costs what one reward costs. Options (but `name`,
    `weights` and `terms`) and errors are those of `Reward`.
    """
    alone = zip(METRICS, np.eye(len(METRICS)).tolist(), strict=True)
    return [
        Reward(scorer, name=name, weights=weights, terms=False, **options)
        for name, weights in alone
    ]
