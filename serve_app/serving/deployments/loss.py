"""The loss deployment: asks the three metrics at once and puts the answers together.

Which models they run it knows from their answers: an update may give one of them another while this
replica stays.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from ray import serve
from ray.serve.handle import DeploymentHandle

from serve_app.core.context import RequestContext
from serve_app.core.errors import PlainMedError
from serve_app.core.observability.log_redaction import keep_texts_out
from serve_app.core.observability.timings import Timed, gather, timed
from serve_app.core.observability.tracing import Attributes, handed_on
from serve_app.core.settings import Settings
from serve_app.metrics.evaluation import Evaluation, evaluate
from serve_app.metrics.loss import METRICS, LossFunction
from serve_app.metrics.results import Measured
from serve_app.metrics.targets import load_targets
from serve_app.serving.deployments.metrics import Description
from serve_app.serving.ray_metrics import ServeTelemetry
from serve_app.serving.remote_calls import all_of, call, in_pieces, pair_sizes
from serve_app.serving.scheduling.compute_thread import failure
from serve_app.serving.tracers import load_tracer

logger = logging.getLogger("ray.serve")

ASK_S = 3.0
"""Longest time to ask the metrics for their models; less than a health check waits."""


@serve.deployment
class Loss:
    """Targets, error curves and weights over the metric deployments."""

    async def __init__(  # type: ignore[misc]  # Serve awaits it
        self,
        settings: Settings,
        relevance: DeploymentHandle,
        factuality: DeploymentHandle,
        readability: DeploymentHandle,
    ) -> None:
        keep_texts_out()
        self._loss = LossFunction(
            load_targets(settings), settings.loss_steepness, settings.loss_direction
        )
        self._file = Path(settings.targets_file).name if settings.targets_file else "embedded"
        self._per_sample = settings.loss_targets == "human"
        self._relevance = relevance
        self._factuality = factuality
        self._readability = readability
        self._telemetry = ServeTelemetry()
        self._tracer = load_tracer(settings, "Loss")
        self._names: dict[str, str] = {}
        self._warnings: list[str] = []
        self._logged: set[str] = set()
        await self._ask_models()

    async def _ask_models(self) -> None:
        """Asks the metrics what they run."""
        handles = (self._relevance, self._factuality, self._readability)
        self._know(
            *(one.model for one in await all_of(call(one.describe.remote) for one in handles))
        )

    def _know(self, relevance: str, factuality: str, readability: str) -> None:
        """What the metrics run; warns where the targets were made with other models."""
        models = {"relevance": relevance, "factuality": factuality}
        names = dict.fromkeys(METRICS, readability) | models
        if names == self._names:  # as with nearly every request
            return
        self._names = names
        self._warnings = self._loss.targets.made_with_other_models(models)
        for warning in self._warnings:
            if warning not in self._logged:  # old and new replicas take turns during an update
                self._logged.add(warning)
                logger.warning(warning)

    async def evaluate(
        self,
        originals: Sequence[str],
        generated: Sequence[str],
        human: Sequence[str] | None = None,
        weights: Sequence[float] | None = None,
        context: RequestContext | None = None,
    ) -> list[Evaluation]:
        """Metrics, errors and loss of each pair; human texts are targets where settings say so."""
        seconds, context = gather(), context or RequestContext()
        about: Attributes = {
            "plainmed.request_id": context.request_id,
            "plainmed.items": len(originals),
            "plainmed.characters": sum(pair_sizes(originals, generated)),
        }
        with self._tracer.span("loss", context.traceparent, about) as span:
            try:
                found = await self._evaluate(
                    originals, generated, human, weights, handed_on(context, span)
                )
            except PlainMedError:
                raise
            except Exception as error:  # of whatever kind: Ray logs what leaves a replica
                raise failure(error) from None
        return Timed(found, seconds)

    async def _evaluate(
        self,
        originals: Sequence[str],
        generated: Sequence[str],
        human: Sequence[str] | None,
        weights: Sequence[float] | None,
        context: RequestContext,
    ) -> list[Evaluation]:
        count = len(originals)
        if human is None or not self._per_sample:
            measured = await self._measure(originals, generated, context)
            return self._recorded(evaluate(measured, self._loss, weights=weights))
        measured = await self._measure([*originals, *originals], [*generated, *human], context)
        return self._recorded(
            evaluate(measured[:count], self._loss, weights=weights, human=measured[count:])
        )

    def _recorded(self, evaluations: list[Evaluation]) -> list[Evaluation]:
        """The same, counted: how scores are spread says when texts or a model have changed."""
        record = self._telemetry.record
        models = {f"{metric}_model": self._names[metric] for metric in METRICS[:2]}
        for one in evaluations:
            record("plainmed_loss", one.loss, **models)
            truncated = {
                "relevance": one.measured.relevance.truncated_reference
                or one.measured.relevance.truncated_candidate,
                "factuality": one.measured.factuality.truncated,
            }
            for metric, value in zip(METRICS, one.measured.values, strict=True):
                name = "plainmed_score" if metric in truncated else "plainmed_grade"
                record(name, value, metric=metric, model=self._names[metric])
            for metric, cut in truncated.items():
                record("plainmed_truncations", float(cut), metric=metric)
        return evaluations

    async def _measure(
        self, originals: Sequence[str], generated: Sequence[str], context: RequestContext
    ) -> list[Measured]:
        sizes = pair_sizes(originals, generated)

        def ask(metric: DeploymentHandle, part: slice) -> Any:
            return lambda: metric.score.remote(originals[part], generated[part], context)

        works = {
            "relevance": in_pieces(lambda part: ask(self._relevance, part), sizes),
            "factuality": in_pieces(lambda part: ask(self._factuality, part), sizes),
            "readability": in_pieces(
                lambda part: lambda: self._readability.score.remote(generated[part], context), sizes
            ),
        }
        # One that fails ends the others: nobody would get what they compute.
        found: list[Timed[Any]] = await all_of(timed(name, work) for name, work in works.items())
        relevance, factuality, readability = found
        self._know(
            relevance.model or self._names["relevance"],
            factuality.model or self._names["factuality"],
            readability.model or self._names[METRICS[-1]],
        )
        return [Measured(*item) for item in zip(relevance, factuality, readability, strict=True)]

    async def targets(self) -> tuple[dict[str, Any], list[str]]:
        """The targets in use with the settings of the loss, and warnings about them."""
        # Asked again each time, where an answer is to be had: an update may be over by now.
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

    def __del__(self) -> None:
        # Serve calls it when it stops a replica in peace; after a failed start there is no tracer.
        if tracer := getattr(self, "_tracer", None):
            tracer.close()
