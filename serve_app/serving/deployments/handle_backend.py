"""The gateway's backend: calls of the other deployments through their handles, and their health."""

from __future__ import annotations

import asyncio
import logging
import time
from asyncio import FIRST_COMPLETED
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, TypeVar

from ray import serve
from ray.exceptions import RayActorError, RayError, RayTaskError
from ray.serve.exceptions import RayServeException
from ray.serve.handle import DeploymentHandle, DeploymentResponseGenerator

from serve_app.api.backend import Component, Health, MetricScores, Replicas
from serve_app.api.request_stats import RequestStats, StatsWindow
from serve_app.core.context import RequestContext, current_context
from serve_app.core.errors import Unavailable
from serve_app.core.observability.tracing import timed
from serve_app.core.schemas import ProfileName
from serve_app.generation.protocol import GenerationParams, Summary
from serve_app.metrics.evaluation import Evaluation
from serve_app.metrics.readability import Readability
from serve_app.serving.deployments.metrics import Description
from serve_app.serving.graph import DEPLOYMENTS
from serve_app.serving.remote_calls import call, cannot_start, cause_of, in_pieces, pair_sizes
from serve_app.serving.scheduling.single_flight import SingleFlight

GATEWAY = "Gateway"
HEALTH_TIMEOUT_S = 5.0
"""Longest time to find out the health; longest wait for the statistics of the other gateways."""
NAMES_WAIT_S = 1.0
"""Of that, for names of models and targets: a busy replica answers late, and is ready."""
HEALTH_FRESH_S = 1.0
"""The health is asked for at most this often: the routes are open, and there is one controller."""
NAMES_FRESH_S = 10.0
"""Names are asked for again after this: an update may change the models."""
PATIENCE_S = 0.1
"""A call that has no answer by then may wait for a deployment that cannot start."""
REPLICAS_KEPT_S = 30.0
"""How long the controller's last answer holds while it cannot be reached, as when its node
restarts: replicas answer without it."""

Answer = TypeVar("Answer")
logger = logging.getLogger("ray.serve")

_MODEL_METRICS = {"Relevance": "relevance", "Factuality": "factuality"}


class HandleBackend:
    """A `Backend` whose every method calls another deployment."""

    def __init__(
        self, handles: dict[str, DeploymentHandle], app_name: str, recent: RequestStats
    ) -> None:
        self._handles = handles
        self._app_name = app_name
        self._recent = recent
        self._gateways: Any = None  # a handle, made when first needed
        self._health: SingleFlight[Health] = SingleFlight(self._ask_health, HEALTH_FRESH_S)
        self._states: SingleFlight[dict[str, Replicas]] = SingleFlight(
            self._ask_replicas, HEALTH_FRESH_S
        )
        # Its own, as it may wait for a controller that hangs. One, as `serve.status()` in two
        # threads at once sometimes raises: it changes a list of cloudpickle's for a moment.
        self._thread = ThreadPoolExecutor(1, "controller")
        self._replicas_at = 0.0
        self._names: dict[str, SingleFlight[Description]] = {
            name: SingleFlight(partial(self._ask, name, "describe"), NAMES_FRESH_S)
            for name in handles
        }
        self._targets: SingleFlight[tuple[dict[str, Any], list[str]]] | None = None
        if "Loss" in handles:
            self._targets = SingleFlight(partial(self._ask, "Loss", "targets"), NAMES_FRESH_S)
        services = (DEPLOYMENTS[name].service for name in ("Loss", "Generator") if name in handles)
        self.services: frozenset[str] = frozenset(one for one in services if one is not None)

    async def relevance(self, originals: Sequence[str], generated: Sequence[str]) -> MetricScores:
        """Relevance of each pair."""
        return await self._scores("Relevance", "f1", originals, generated)

    async def factuality(self, originals: Sequence[str], generated: Sequence[str]) -> MetricScores:
        """Factuality of each pair."""
        return await self._scores("Factuality", "score", originals, generated)

    async def _scores(
        self, deployment: str, attribute: str, originals: Sequence[str], generated: Sequence[str]
    ) -> MetricScores:
        """One number of each pair's result, with the model and device that came with it."""
        handle, context = self._handles[deployment], current_context()
        work = in_pieces(
            lambda part: lambda: handle.score.remote(originals[part], generated[part], context),
            pair_sizes(originals, generated),
        )
        results = await self._answered([deployment], timed(deployment.lower(), work))
        model, device = results.model, results.device
        if model is None or device is None:
            description = await self._describe(deployment)
            model, device = description.model, description.device
        return MetricScores([getattr(one, attribute) for one in results], model, device)

    async def readability(self, texts: Sequence[str]) -> list[Readability]:
        """Readability of each text."""
        handle, context = self._handles["Readability"], current_context()
        work = in_pieces(
            lambda part: lambda: handle.score.remote(texts[part], context),
            [len(text) for text in texts],
        )
        return await self._answered(["Readability"], timed("readability", work))

    async def evaluate(
        self,
        originals: Sequence[str],
        generated: Sequence[str],
        human: Sequence[str] | None,
        weights: Sequence[float] | None,
        profile: ProfileName,
    ) -> list[Evaluation]:
        """Metrics, errors and loss of each pair, for the readers of a profile."""
        handle, context = self._handles["Loss"], current_context()
        work = call(
            lambda: handle.evaluate.remote(originals, generated, human, weights, profile, context)
        )
        needed = [name for name in self._handles if DEPLOYMENTS[name].service == "metrics"]
        return await self._answered(needed, timed("loss", work))

    async def generate(
        self, texts: Sequence[str], params: Sequence[GenerationParams]
    ) -> list[Summary]:
        """A summary of each text."""
        handle, context = self._handles["Generator"], current_context()
        work = call(lambda: handle.generate.remote(texts, params, context))
        summaries = await self._answered(["Generator"], timed("generator", work))
        self._recent.wrote(sum(one.completion_tokens for one in summaries))
        return summaries

    async def stream(self, text: str, params: GenerationParams) -> AsyncIterator[str | Summary]:
        """Pieces of a summary, then the summary; a replica's death before the first is retried.

        Closed or cancelled, it ends the replica's work.
        """
        handle, context = self._handles["Generator"].options(stream=True), current_context()
        work = timed("generator_first", call(lambda: _open(handle, text, params, context)))
        pieces, first = await self._answered(["Generator"], work)
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

    async def _answered(self, needed: Sequence[str], work: Coroutine[Any, Any, Answer]) -> Answer:
        """The result of `work`, for which the deployments `needed` must run.

        Raises:
            Unavailable: `not_ready`, one of them cannot start. Serve would wait for it until the
                request's time is over.
        """
        task = asyncio.create_task(work)
        try:
            waits = PATIENCE_S
            while not (await asyncio.wait([task], timeout=waits))[0]:
                await asyncio.wait([task, self._states.task()], return_when=FIRST_COMPLETED)
                if not task.done():
                    self._require_startable(needed)
                waits = HEALTH_FRESH_S
            error = task.exception()
            if isinstance(error, Unavailable) and error.code == Unavailable.code:
                await asyncio.wait([self._states.task()])
                self._require_startable(needed)
            return task.result()
        finally:
            if not task.done():
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)

    def _require_startable(self, needed: Sequence[str]) -> None:
        """Raises `Unavailable` where one of these deployments is known to be unable to start."""
        for name in needed:
            known = (self._states.last or {}).get(name)
            if known is not None and known.failure:
                raise Unavailable(known.failure, code="not_ready")

    async def _describe(self, deployment: str) -> Description:
        """What a deployment runs.

        Raises:
            PlainMedError: it has never answered.
        """
        names = self._names[deployment]
        await asyncio.wait([names.task()], timeout=NAMES_WAIT_S)
        if names.last is not None:
            return names.last
        return await call(lambda: self._handles[deployment].describe.remote())

    async def models(self) -> dict[str, str]:
        """Which model computes each model metric."""
        return {
            metric: (await self._describe(name)).model for name, metric in _MODEL_METRICS.items()
        }

    async def writer(self) -> str:
        """The generator's model; as last known, while it is asked again."""
        names = self._names["Generator"]
        names.task()
        known = names.last
        if known is None:
            known = await self._answered(["Generator"], self._describe("Generator"))
        return known.model

    async def health(self) -> Health:
        """Readiness as the Serve controller sees it, so that a busy replica still counts."""
        return await self._health.get() or Health({})

    async def _ask_health(self) -> Health:
        replicas = await self._states.get() or {}
        running = {name for name in self._handles if name in replicas and replicas[name].ready > 0}
        asked: list[asyncio.Task[Any]] = [self._names[name].task() for name in running]
        if self._targets is not None and "Loss" in running:
            asked.append(self._targets.task())
        if asked:
            await asyncio.wait(asked, timeout=NAMES_WAIT_S)
        components = {}
        for name in sorted(self._handles):
            known = self._names[name].last
            model, device = (None, None) if known is None else (known.model, known.device)
            components[name] = Component(name in running, model, device)
        targets, warnings = (self._targets and self._targets.last) or (None, [])
        return Health(components, targets, warnings, replicas)

    async def windows(self, own: StatsWindow) -> list[StatsWindow]:
        """Statistics of every gateway replica, shown by /status; `own` alone where the others do
        not answer."""
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
            logger.warning("the other gateways did not answer: %s", type(error).__name__)
            return [own]
        return [one for one in answers if isinstance(one, StatsWindow)] or [own]

    async def _ask_replicas(self) -> dict[str, Replicas]:
        """Replicas of each deployment that are ready, and that are wanted. While the controller
        does not answer, as last known, until that is too old."""
        try:
            async with asyncio.timeout(HEALTH_TIMEOUT_S - NAMES_WAIT_S):
                replicas = await self._in_thread(self._count_replicas)
            self._replicas_at = time.monotonic()
            return replicas
        except Exception as error:  # any kind means the same, and the route is open
            logger.warning("the Serve controller did not answer: %s", type(error).__name__)
            known = time.monotonic() - self._replicas_at <= REPLICAS_KEPT_S
            return (self._states.last if known else None) or {}

    def _count_replicas(self) -> dict[str, Replicas]:
        application = serve.status().applications.get(self._app_name)
        states = {} if application is None else application.deployments
        found = {}
        for name, one in states.items():
            count = one.replica_states
            ready, failure = count.get("RUNNING", 0), ""
            if not ready and one.status == "DEPLOY_FAILED":
                failure = cannot_start(name, one.message)
            wanted = sum(count.values()) - count.get("STOPPING", 0)
            found[name] = Replicas(ready, wanted, failure)
        return found

    async def _in_thread(self, work: Callable[[], Answer]) -> Answer:
        """`work()`, which asks the controller and may never end."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    async def _ask(self, deployment: str, method: str) -> Any:
        """What a deployment says of itself; None where it does not answer in time."""
        try:
            async with asyncio.timeout(HEALTH_TIMEOUT_S):
                return await call(getattr(self._handles[deployment], method).remote)
        except Exception as error:  # any kind: nothing depends on a name
            logger.warning("%s did not say what it runs: %s", deployment, type(error).__name__)
            return None


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
