"""Scores with this process's models: a `MetricSuite`, and a loss where one is asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from serve_app.core.settings import Settings
from serve_app.metrics.loss import LossFunction
from serve_app.metrics.profiles import DEFAULT, Profile, weights_of
from serve_app.metrics.suite import MetricSuite
from serve_app.offline.corpus.job import Engine, LocalEngine
from serve_app.offline.corpus.scoring import ModelNames, RowScores

_PROBE = (
    "Aspirin reduced the incidence of ischaemic stroke in adults with hypertension.",
    "Aspirin makes a stroke less likely in people with high blood pressure.",
)
# Settings that change a metric by more than rounding.
_SETTINGS = (
    "metrics_dtype",
    "bertscore_model",
    "bertscore_layer",
    "bertscore_long_text",
    "factuality_checker",
    "factuality_model",
    "factuality_weights",
    "alignscore_model",
    "alignscore_ckpt",
    "alignscore_eval_mode",
    "alignscore_chunk_words",
)


@dataclass(frozen=True)
class LossTerms:
    """The loss to compute, or a profile with its own, and five weights (None: the profile's, or
    0.2 each)."""

    function: LossFunction | Profile
    weights: tuple[float, ...] | None = None

    @property
    def profile(self) -> Profile:
        """The profile, which is the default one around a bare loss."""
        if isinstance(self.function, Profile):
            return self.function
        return Profile(DEFAULT, self.function, tuple(weights_of(DEFAULT)))


class SuiteScorer:
    """A `Scorer` over a suite that is loaded once."""

    def __init__(self, suite: MetricSuite, loss: LossTerms | None) -> None:
        self._suite = suite
        self._loss = loss
        (measured,) = suite.measure([_PROBE[0]], [_PROBE[1]])
        self.models = ModelNames(suite.models, measured.values, suite.factuality.eval_mode)

    def __call__(self, originals: Sequence[str], generated: Sequence[str]) -> Sequence[RowScores]:
        """One result per pair; see `Scorer`."""
        measured = self._suite.measure(originals, generated)
        if self._loss is None:
            return [RowScores(item.values, language=item.language) for item in measured]
        evaluated = self._loss.profile.evaluate(
            measured, originals, generated, weights=self._loss.weights
        )
        return [
            RowScores(one.measured.values, one.loss, language=one.measured.language)
            for one in evaluated
        ]


@dataclass(frozen=True)
class SuiteRecipe:
    """How to make a `SuiteScorer` in another process: plain data, so that it travels."""

    settings: Settings
    loss: LossTerms | None = None

    def describe(self) -> dict[str, Any]:
        """What the scores depend on, as JSON data."""
        described: dict[str, Any] = {
            "settings": {name: getattr(self.settings, name) for name in _SETTINGS}
        }
        if self.loss is not None:
            function, terms = self.loss.profile.loss, self.loss.profile.terms
            described |= {
                "weights": None if self.loss.weights is None else list(self.loss.weights),
                "targets": function.targets.to_dict(),
                "loss_steepness": function.steepness,
                "loss_direction": function.direction,
                **({"loss_terms": dict(terms)} if terms else {}),
            }
        return described

    def engine(self, on_ray: bool, address: str | None, workers: int | None) -> Engine:
        """Loads the models here, or connects to Ray, whose workers load them."""
        if not on_ray:
            return LocalEngine(self())
        from serve_app.offline.corpus.ray_engine import RayEngine, RayOptions

        return RayEngine(self, RayOptions.of(self.settings, address, workers))

    def __call__(self) -> SuiteScorer:
        """Loads the models.

        Raises:
            ConfigError: a model cannot be loaded.
        """
        if self.settings.torch_num_threads:
            torch.set_num_threads(self.settings.torch_num_threads)
        return SuiteScorer(MetricSuite.from_settings(self.settings), self.loss)
