"""The ingress deployment: the HTTP API over a backend made of deployment handles."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from ray import serve
from ray.exceptions import RayActorError, RayError, RayTaskError
from ray.serve.exceptions import RayServeException
from ray.serve.handle import DeploymentHandle, DeploymentResponseGenerator

from serve_app.api.backend import Component, Health, MetricScores, Replicas
from serve_app.api.request_stats import RequestStats, StatsWindow
from serve_app.core.context import RequestContext, current_context
from serve_app.core.errors import Unavailable
from serve_app.core.observability.timings import stage, timed
from serve_app.generation.protocol import GenerationParams, Summary
from serve_app.metrics.evaluation import Evaluation
from serve_app.metrics.readability import Readability
from serve_app.serving.deployments.metrics import Description
from serve_app.serving.remote_calls import call, cause_of, in_pieces, pair_sizes
from serve_app.serving.scheduling.single_flight import SingleFlight

GATEWAY = "Gateway"
HEALTH_TIMEOUT_S = 5.0
"""Longest look at the health, all of it; longest wait for what the other gateways remember."""
NAMES_WAIT_S = 1.0
"""Of that, for names of models and targets: a busy replica tells them late, and is ready."""
LOOK_FRESH_S = 1.0
"""A look is the answer for all who ask within it: the routes are open, the controller is one."""
NAMES_FRESH_S = 10.0
"""Names are asked for again after it: in an update other replicas may run other models."""
REPLICAS_KEPT_S = 30.0
"""What the Serve controller said last holds for so long when it is not heard, as when its node
starts again: replicas answer without it."""

Answer = TypeVar("Answer")
logger = logging.getLogger("ray.serve")

_MODEL_METRICS = {"Relevance": "relevance", "Factuality": "factuality"}


class HandleBackend:
    """A `Backend` whose every method is a call of another deployment."""

    def __init__(
        self, handles: dict[str, DeploymentHandle], app_name: str, recent: RequestStats
    ) -> None:
        self._handles = handles
        self._app_name = app_name
        self._recent = recent
        self._gateways: Any = None  # a handle, made when it is first needed
        self._looks: SingleFlight[Health] = SingleFlight(self._look, LOOK_FRESH_S)
        # Its own, as it may wait for a controller that hangs. One, as `serve.status()` in two
        # threads at once sometimes raises: on its way it changes a list of cloudpickle's and back.
        self._thread = ThreadPoolExecutor(1, "controller")
        self._replicas: dict[str, Replicas] = {}
        self._replicas_at = 0.0
        self._names: dict[str, SingleFlight[Description]] = {
            name: SingleFlight(self._asker(name, "describe"), NAMES_FRESH_S) for name in handles
        }
        self._targets: SingleFlight[tuple[dict[str, Any], list[str]]] | None = None
        if "Loss" in handles:
            self._targets = SingleFlight(self._asker("Loss", "targets"), NAMES_FRESH_S)
        self.services = frozenset(
            service
            for service, deployment in (("metrics", "Loss"), ("generator", "Generator"))
            if deployment in handles
        )

    async def relevance(self, originals: Sequence[str], generated: Sequence[str]) -> MetricScores:
        """Relevance of each pair."""
        results = await self._of_pairs("Relevance", originals, generated)
        return await self._scores("Relevance", [item.f1 for item in results], results)

    async def factuality(self, originals: Sequence[str], generated: Sequence[str]) -> MetricScores:
        """Factuality of each pair."""
        results = await self._of_pairs("Factuality", originals, generated)
        return await self._scores("Factuality", [item.score for item in results], results)

    async def _of_pairs(
        self, deployment: str, originals: Sequence[str], generated: Sequence[str]
    ) -> list[Any]:
        handle, context = self._handles[deployment], current_context()
        work = in_pieces(
            lambda part: lambda: handle.score.remote(originals[part], generated[part], context),
            pair_sizes(originals, generated),
        )
        return await timed(deployment.lower(), work)

    async def _scores(
        self, deployment: str, values: list[float], results: list[Any]
    ) -> MetricScores:
        """The values, with what gave them as it came with the results."""
        model, device = getattr(results, "model", None), getattr(results, "device", None)
        if model is None or device is None:
            description = await self._describe(deployment)
            model, device = description.model, description.device
        return MetricScores(values, model, device)

    async def readability(self, texts: Sequence[str]) -> list[Readability]:
        """Readability of each text."""
        handle, context = self._handles["Readability"], current_context()
        work = in_pieces(
            lambda part: lambda: handle.score.remote(texts[part], context),
            [len(text) for text in texts],
        )
        return await timed("readability", work)

    async def evaluate(
        self,
        originals: Sequence[str],
        generated: Sequence[str],
        human: Sequence[str] | None,
        weights: Sequence[float] | None,
    ) -> list[Evaluation]:
        """Metrics, errors and loss of each pair."""
        handle, context = self._handles["Loss"], current_context()
        with stage("loss"):
            return await call(
                lambda: handle.evaluate.remote(originals, generated, human, weights, context)
            )

    async def generate(
        self, texts: Sequence[str], params: Sequence[GenerationParams]
    ) -> list[Summary]:
        """A summary of each text."""
        handle, context = self._handles["Generator"], current_context()
        with stage("generator"):
            summaries = await call(lambda: handle.generate.remote(texts, params, context))
        self._recent.wrote(sum(one.completion_tokens for one in summaries))
        return summaries

    async def stream(self, text: str, params: GenerationParams) -> AsyncIterator[str | Summary]:
        """Pieces of a summary, then the summary; a replica's death before the first is retried.

        Closed or cancelled, it ends the replica's work.
        """
        handle, context = self._handles["Generator"].options(stream=True), current_context()
        with stage("generator_first"):
            pieces, first = await call(lambda: _open(handle, text, params, context))
        try:
            yield first
            async for piece in pieces:
                if isinstance(piece, Summary):
                    self._recent.wrote(piece.completion_tokens)
                yield piece
        except RayTaskError as error:
            raise cause_of(error) from None
        except RayActorError:
            raise Unavailable("the replica writing this summary died; try again") from None
        except (asyncio.CancelledError, GeneratorExit):
            pieces.cancel()
            raise

    async def _describe(self, deployment: str) -> Description:
        """What a deployment runs.

        Raises:
            PlainMedError: it has never been heard.
        """
        names = self._names[deployment]
        await asyncio.wait([names.asked()], timeout=NAMES_WAIT_S)
        if names.last is not None:
            return names.last
        return await call(lambda: self._handles[deployment].describe.remote())

    async def models(self) -> dict[str, str]:
        """Which model computes each model metric."""
        return {
            metric: (await self._describe(name)).model for name, metric in _MODEL_METRICS.items()
        }

    async def health(self) -> Health:
        """Readiness as the Serve controller sees it, so that a busy replica still counts."""
        return await self._looks.get() or Health({})

    async def _look(self) -> Health:
        replicas = await self._counted()
        running = {name for name in self._handles if name in replicas and replicas[name].ready > 0}
        asked: list[asyncio.Task[Any]] = [self._names[name].asked() for name in running]
        if self._targets is not None and "Loss" in running:
            asked.append(self._targets.asked())
        if asked:
            await asyncio.wait(asked, timeout=NAMES_WAIT_S)
        components = {}
        for name in sorted(self._handles):
            known = self._names[name].last
            model, device = (None, None) if known is None else (known.model, known.device)
            components[name] = Component(name in running, model, device)
        said = self._targets.last if self._targets is not None else None
        targets, warnings = said or (None, [])
        return Health(components, targets, warnings, replicas)

    async def windows(self, own: StatsWindow) -> list[StatsWindow]:
        """What every gateway replica remembers; `own` alone where the others do not answer."""
        try:
            async with asyncio.timeout(HEALTH_TIMEOUT_S):
                if self._gateways is None:
                    self._gateways = await self._in_thread(
                        lambda: serve.get_deployment_handle(GATEWAY, self._app_name)
                    )
                answers = await self._gateways.broadcast("window").results_async(
                    timeout_s=HEALTH_TIMEOUT_S, return_exceptions=True
                )
        except (TimeoutError, RayError, RayServeException) as error:
            logger.warning("the other gateways were not heard: %s", type(error).__name__)
            return [own]
        return [one for one in answers if isinstance(one, StatsWindow)] or [own]

    async def _counted(self) -> dict[str, Replicas]:
        """Of each deployment: those that have passed their start, and those there should be; as
        known last, where the controller is not heard; empty, where that is too long ago."""
        try:
            async with asyncio.timeout(HEALTH_TIMEOUT_S - NAMES_WAIT_S):
                self._replicas = await self._in_thread(self._count)
            self._replicas_at = time.monotonic()
        except Exception as error:  # of whatever kind: it says the same, and the route is open
            logger.warning("the Serve controller was not heard: %s", type(error).__name__)
            if time.monotonic() - self._replicas_at > REPLICAS_KEPT_S:
                self._replicas = {}
        return self._replicas

    def _count(self) -> dict[str, Replicas]:
        application = serve.status().applications.get(self._app_name)
        if application is None:
            return {}
        return {
            name: Replicas(
                deployment.replica_states.get("RUNNING", 0),
                sum(deployment.replica_states.values())
                - deployment.replica_states.get("STOPPING", 0),
            )
            for name, deployment in application.deployments.items()
        }

    async def _in_thread(self, work: Callable[[], Answer]) -> Answer:
        """`work()`, which asks the controller and may never end."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    def _asker(self, deployment: str, method: str) -> Callable[[], Any]:
        """What asks a deployment for names; None where they do not come in time."""

        async def ask() -> Any:
            try:
                async with asyncio.timeout(HEALTH_TIMEOUT_S):
                    return await call(getattr(self._handles[deployment], method).remote)
            except Exception as error:  # of whatever kind: nothing depends on a name
                logger.warning("%s did not say what it runs: %s", deployment, type(error).__name__)
                return None

        return ask


async def _open(
    handle: DeploymentHandle, text: str, params: GenerationParams, context: RequestContext
) -> tuple[DeploymentResponseGenerator[str | Summary], str | Summary]:
    pieces: DeploymentResponseGenerator[str | Summary] = handle.stream.remote(text, params, context)
    try:
        return pieces, await anext(pieces)
    except asyncio.CancelledError:
        # Out of time, or the client is gone; as `call` does where a call has one answer.
        pieces.cancel()
        raise
