"""The loss deployment: asks the three metrics at once and combines their answers.

It knows which models they run from their answers: an update may change one of them while this
replica stays.
"""

from __future__ import annotations

import asyncio
import logging
import os
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from ray import serve
from ray.serve.handle import DeploymentHandle

from serve_app.core.context import RequestContext
from serve_app.core.errors import PlainMedError
from serve_app.core.observability.tracing import Timed, gather, handed_on, timed
from serve_app.core.schemas import ProfileName
from serve_app.core.settings import Settings
from serve_app.metrics.evaluation import Evaluation, Measured
from serve_app.metrics.loss import METRICS
from serve_app.metrics.profiles import DEFAULT, PROFILES, load_profile
from serve_app.serving.deployments.metrics import Description
from serve_app.serving.observability import Observed
from serve_app.serving.remote_calls import all_of, call, in_pieces, pair_sizes

logger = logging.getLogger("ray.serve")

ASK_S = 3.0
"""Longest time to ask the metrics for their models; less than a health check waits."""


@serve.deployment
class Loss(Observed):
    """Targets, error curves and weights over the metric deployments."""

    async def __init__(  # type: ignore[misc]  # Serve awaits it
        self,
        settings: Settings,
        relevance: DeploymentHandle,
        factuality: DeploymentHandle,
        readability: DeploymentHandle,
    ) -> None:
        self._observe(settings, "Loss")
        self._profiles = {name: load_profile(name, settings) for name in PROFILES}
        self._loss = self._profiles[DEFAULT].loss
        self._file = Path(settings.targets_file).name if settings.targets_file else "embedded"
        self._per_sample = settings.loss_targets == "human"
        self._handles = {
            "relevance": relevance, "factuality": factuality, "readability": readability,
        }  # fmt: skip
        self._models: dict[str, str] = {}
        self._warnings: list[str] = []
        self._logged: set[str] = set()
        await self._ask_models()

    async def _ask_models(self) -> None:
        """Learns what the metrics run from themselves, asking all at once."""
        answers = await all_of(call(one.describe.remote) for one in self._handles.values())
        self._note_models([one.model for one in answers])

    def _note_models(self, models: Sequence[str | None]) -> None:
        """Keeps the model of each handle (None: as before), and warns where the targets were made
        with others."""
        told = zip(self._handles, models, strict=True)
        running = {**self._models, **{name: model for name, model in told if model}}
        if running == self._models:  # as with nearly every request
            return
        self._models = running
        compared = {metric: running[metric] for metric in METRICS[:2]}
        self._warnings = self._loss.targets.made_with_other_models(compared)
        for warning in self._warnings:
            if warning not in self._logged:  # old and new replicas alternate during an update
                self._logged.add(warning)
                logger.warning(warning)

    async def evaluate(
        self,
        originals: Sequence[str],
        generated: Sequence[str],
        human: Sequence[str] | None = None,
        weights: Sequence[float] | None = None,
        profile: ProfileName = DEFAULT,
        context: RequestContext | None = None,
    ) -> list[Evaluation]:
        """Metrics, errors and loss of each pair; human texts are targets where settings say so."""
        seconds, context = gather(), context or RequestContext()
        count, humans = len(originals), None
        with self._working("loss", context, pair_sizes(originals, generated)) as span:
            context = handed_on(context, span)
            if human is None or not self._per_sample:
                measured = await self._measure(originals, generated, context)
            else:
                both = await self._measure([*originals, *originals], [*generated, *human], context)
                measured, humans = both[:count], both[count:]
            chosen = self._profiles[profile]
            work = partial(
                chosen.evaluate, measured, originals, generated, weights=weights, human=humans
            )
            evaluations = await _in_thread(work) if chosen.terms else work()
            self._record(evaluations, profile)
        return Timed(evaluations, seconds)

    def _record(self, evaluations: Sequence[Evaluation], profile: ProfileName) -> None:
        """Records the scores: their distribution shows when texts or a model have changed.

        Only the default profile's loss: one distribution of two losses would show neither.
        """
        record = self._telemetry.record
        models = {f"{metric}_model": self._models[metric] for metric in METRICS[:2]}
        for one in evaluations:
            if profile == DEFAULT:
                record("plainmed_loss", one.loss, **models)
            relevance, factuality = one.measured.relevance, one.measured.factuality
            truncated = {
                "relevance": relevance.truncated_reference or relevance.truncated_candidate,
                "factuality": factuality.truncated,
            }
            for metric, value in zip(METRICS, one.measured.values, strict=True):
                name = "plainmed_score" if metric in truncated else "plainmed_grade"
                model = self._models.get(metric, self._models["readability"])
                record(name, value, metric=metric, model=model)
            for metric, cut in truncated.items():
                record("plainmed_truncations", float(cut), metric=metric)

    async def _measure(
        self, originals: Sequence[str], generated: Sequence[str], context: RequestContext
    ) -> list[Measured]:
        def send(name: str, part: slice) -> Any:
            pair = (originals[part], generated[part])
            texts = pair[1:] if name == "readability" else pair
            return lambda: self._handles[name].score.remote(*texts, context)

        sizes = pair_sizes(originals, generated)
        # One that fails ends the others: nobody would get what they compute.
        found: list[Timed[Any]] = await all_of(
            timed(name, in_pieces(partial(send, name), sizes)) for name in self._handles
        )
        self._note_models([one.model for one in found])
        return [Measured(*item) for item in zip(*found, strict=True)]

    async def targets(self) -> tuple[dict[str, Any], list[str]]:
        """The targets in use with the settings of the loss, and warnings about them."""
        # Asks again each time, as long as an answer may come: an update may be over by now.
        with suppress(TimeoutError, PlainMedError):
            async with asyncio.timeout(ASK_S):
                await self._ask_models()
        document = {
            **self._loss.targets.to_dict(),
            "file": self._file,
            "steepness": self._loss.steepness,
            "direction": self._loss.direction,
            "per_sample": self._per_sample,
        }
        return document, self._warnings

    async def describe(self) -> Description:
        """This replica's process."""
        return Description("loss", "cpu", os.getpid())


async def _in_thread(work: Callable[..., list[Evaluation]]) -> list[Evaluation]:
    """Runs the rules of a profile over whole texts, so that other requests go on."""
    gone = threading.Event()
    try:
        return await asyncio.to_thread(work, unwanted=gone.is_set)
    finally:
        gone.set()  # a thread cannot be cancelled: out of time, or its client is gone
