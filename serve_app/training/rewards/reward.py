"""Reward functions for TRL's GRPO and RLOO trainers: how near to human summaries a text measures.

    from serve_app.training.rewards import local_scorer, loss_reward, metric_rewards, remote_scorer

    GRPOTrainer(..., reward_funcs=loss_reward(local_scorer()))
    GRPOTrainer(..., reward_funcs=metric_rewards(remote_scorer("http://127.0.0.1:8000")))

Knows what a trainer calls and what it may be answered; who scores is `reward_scoring`'s business.
No trainer is imported.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any, Literal, get_args

import numpy as np

from serve_app.core.errors import ConfigError, InvalidInput, MetricFailed
from serve_app.core.settings import load_settings
from serve_app.metrics.loss import METRICS, check_weights, combine
from serve_app.offline.corpus.scoring import RowError
from serve_app.text.validation import has_word, require_text
from serve_app.training.rewards.prompts import completion_text, originals_of
from serve_app.training.rewards.scoring import PairScorer, PairScores, local_scorer, remote_scorer

__all__ = [
    "Reward",
    "local_scorer",
    "loss_reward",
    "metric_rewards",
    "remote_scorer",
]

OnFailure = Literal["raise", "none"]

LOWEST = 0.0
"""The reward of a completion without a word: the model's own fault, and nothing to measure."""

logger = logging.getLogger(__name__)


class Reward:
    """1 - the weighted sum of the five metrics' errors, in [0, 1]; 1 is at the targets.

    Called as a trainer calls it: `reward(prompts=..., completions=..., **columns)`; both plain
    and conversational datasets will do. Whatever else the trainer passes is ignored, but for
    `log_metric`, which gets the mean of each metric with a weight above 0 (`plainmed/fkgl`), and
    the shares of completions without a word (`NAME/wordless`) and without a reward (`NAME/failed`).

    A completion without a letter or digit gets 0.0. It can be sent to another process, where it
    loads models or opens connections of its own.

    Args:
        scorer: `local_scorer(...)` or `remote_scorer(...)`; several rewards may share one.
        name: under which a trainer logs it.
        weights: of the errors in the order of `METRICS`, with sum 1; None: equal ones.
        original: the dataset's column with the originals; None: `original`, `source_text` or
            `text`, else the text in the prompt, where that is what the served generator writes.
        system_prompt: of the prompts, for that; None: SYSTEM_PROMPT.
        user_prefix: likewise; None: USER_PREFIX.
        on_failure: `raise` ends the training where a completion cannot be scored; `none` gives
            None for it, which TRL leaves out of the step. A server that is gone raises always.

    Attributes:
        wordless: completions without a word so far.
        failed: completions without a reward so far.

    Raises:
        InvalidInput: bad weights.
        ConfigError: `on_failure` is neither.
    """

    def __init__(
        self,
        scorer: PairScorer,
        *,
        name: str = "plainmed_reward",
        weights: Sequence[float] | None = None,
        original: str | None = None,
        system_prompt: str | None = None,
        user_prefix: str | None = None,
        on_failure: OnFailure = "raise",
    ) -> None:
        if on_failure not in get_args(OnFailure):
            raise ConfigError(f"on_failure must be raise or none, not {on_failure!r}")
        self.__name__ = name
        self.scorer = scorer
        self.weights = tuple(check_weights(weights).tolist())
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
            ConfigError: the originals are not where they should be; see `originals_of`.
            InvalidInput: an original has nothing to score.
            MetricFailed: a completion cannot be scored, and `on_failure` is `raise`.
            PlainMedError: nothing can be scored: no server, no model.
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
        scores = self.scorer.score([(originals[index], texts[index]) for index in worded])
        rewards: list[float | None] = [LOWEST] * len(texts)
        for index, found in zip(worded, scores, strict=True):
            rewards[index] = self._reward(index, len(texts), found)
        self._count(rewards, scores, len(texts) - len(worded), columns.get("log_metric"))
        return rewards

    def _reward(self, index: int, count: int, scores: PairScores | RowError) -> float | None:
        if isinstance(scores, PairScores):
            # The errors are in [0, 1] and the weights sum to 1, so the reward is in [0, 1] too.
            return 1.0 - float(combine(np.array([scores.errors]), self.weights)[0])
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
    """1 - loss; `options` are those of `Reward`.

    Raises:
        InvalidInput, ConfigError: see `Reward`.
    """
    return Reward(scorer, **options)


def metric_rewards(scorer: PairScorer, **options: Any) -> list[Reward]:
    """One reward a metric, 1 - its error, named as in `METRICS`; for `GRPOConfig.reward_weights`.

    The five share the scorer, so a step costs what one reward costs. `options` are those of
    `Reward`, but for `name` and `weights`.

    Raises:
        ConfigError: see `Reward`.
    """
    alone = np.eye(len(METRICS)).tolist()
    return [
        Reward(scorer, name=metric, weights=weights, **options)
        for metric, weights in zip(METRICS, alone, strict=True)
    ]
