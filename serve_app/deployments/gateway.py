"""The ingress deployment: the HTTP API over a backend made of deployment handles."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from typing import Any

from ray import serve
from ray.exceptions import RayActorError, RayError, RayTaskError
from ray.serve.context import _get_global_client
from ray.serve.exceptions import RayServeException
from ray.serve.handle import DeploymentHandle

from serve_app.access.exposure import check_exposure, listened_on
from serve_app.backend import Component, Health, Replicas, Scores
from serve_app.deployments.calls import call, cause_of, in_pieces, pair_sizes
from serve_app.deployments.metrics import Description
from serve_app.deployments.telemetry import ServeTelemetry
from serve_app.deployments.tracing import load_tracer
from serve_app.errors import PlainMedError, Unavailable
from serve_app.evaluation import Evaluation
from serve_app.gateway import create_app
from serve_app.generation.protocol import GenerationParams, Summary
from serve_app.limits import RequestGuard, Traffic
from serve_app.metrics.readability import Readability
from serve_app.recent import Recent, Window
from serve_app.settings import Settings
from serve_app.stages import stage, timed
from serve_app.ticket import Ticket, current

GATEWAY = "Gateway"
HEALTH_TIMEOUT_S = 5.0
logger = logging.getLogger("ray.serve")

_MODEL_METRICS = {"Relevance": "relevance", "Factuality": "factuality"}


class HandleBackend:
    """A `Backend` whose every method is a call of another deployment."""

    def __init__(self, handles: dict[str, DeploymentHandle], app_name: str, recent: Recent) -> None:
        self._handles = handles
        self._app_name = app_name
        self._recent = recent
        self._gateways: Any = None  # a handle, made when it is first needed
        self._described: dict[str, Description] = {}
        self._targets: tuple[dict[str, Any], list[str]] | None = None
        self.services = frozenset(
            service
            for service, deployment in (("metrics", "Loss"), ("generator", "Generator"))
            if deployment in handles
        )

    async def relevance(self, originals: Sequence[str], generated: Sequence[str]) -> Scores:
        """Relevance of each pair."""
        results = await self._of_pairs("Relevance", originals, generated)
        return await self._scores("Relevance", [item.f1 for item in results])

    async def factuality(self, originals: Sequence[str], generated: Sequence[str]) -> Scores:
        """Factuality of each pair."""
        results = await self._of_pairs("Factuality", originals, generated)
        return await self._scores("Factuality", [item.score for item in results])

    async def _of_pairs(
        self, deployment: str, originals: Sequence[str], generated: Sequence[str]
    ) -> list[Any]:
        handle, ticket = self._handles[deployment], current()
        work = in_pieces(
            lambda part: lambda: handle.score.remote(originals[part], generated[part], ticket),
            pair_sizes(originals, generated),
        )
        return await timed(deployment.lower(), work)

    async def _scores(self, deployment: str, values: list[float]) -> Scores:
        description = await self._describe(deployment)
        return Scores(values, description.model, description.device)

    async def readability(self, texts: Sequence[str]) -> list[Readability]:
        """Readability of each text."""
        handle, ticket = self._handles["Readability"], current()
        work = in_pieces(
            lambda part: lambda: handle.score.remote(texts[part], ticket),
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
        handle, ticket = self._handles["Loss"], current()
        with stage("loss"):
            return await call(
                lambda: handle.evaluate.remote(originals, generated, human, weights, ticket)
            )

    async def generate(
        self, texts: Sequence[str], params: Sequence[GenerationParams]
    ) -> list[Summary]:
        """A summary of each text."""
        handle, ticket = self._handles["Generator"], current()
        with stage("generator"):
            summaries = await call(lambda: handle.generate.remote(texts, params, ticket))
        self._recent.wrote(sum(one.completion_tokens for one in summaries))
        return summaries

    async def stream(self, text: str, params: GenerationParams) -> AsyncIterator[str | Summary]:
        """Pieces of a summary, then the summary; a replica's death before the first is retried."""
        handle, ticket = self._handles["Generator"].options(stream=True), current()
        with stage("generator_first"):
            pieces, first = await call(lambda: _open(handle, text, params, ticket))
        yield first
        try:
            async for piece in pieces:
                if isinstance(piece, Summary):
                    self._recent.wrote(piece.completion_tokens)
                yield piece
        except RayTaskError as error:
            raise cause_of(error) from None
        except RayActorError:
            raise Unavailable("the replica writing this summary died; try again") from None

    async def _describe(self, deployment: str) -> Description:
        """What a deployment runs; asked once, since a new model means a new gateway too."""
        if deployment not in self._described:
            self._described[deployment] = await call(
                lambda: self._handles[deployment].describe.remote()
            )
        return self._described[deployment]

    async def models(self) -> dict[str, str]:
        """Which model computes each model metric."""
        return {
            metric: (await self._describe(name)).model for name, metric in _MODEL_METRICS.items()
        }

    async def health(self) -> Health:
        """Readiness as the Serve controller sees it, so that a busy replica still counts."""
        replicas = await asyncio.to_thread(self._replicas)
        names = sorted(self._handles)
        parts = await asyncio.gather(
            *(self._component(name, replicas.get(name, Replicas(0, 0))) for name in names)
        )
        components = dict(zip(names, parts, strict=True))
        if "Loss" in self._handles and components["Loss"].ready and self._targets is None:
            self._targets = await self._within_health(self._handles["Loss"].targets.remote)
        targets, warnings = self._targets or (None, [])
        return Health(components, targets, warnings, replicas)

    async def windows(self, own: Window) -> list[Window]:
        """What every gateway replica remembers; `own` alone where the others do not answer."""
        try:
            if self._gateways is None:
                find = serve.get_deployment_handle
                self._gateways = await asyncio.to_thread(find, GATEWAY, self._app_name)
            asked = self._gateways.broadcast("window")
            answers = await asked.results_async(timeout_s=HEALTH_TIMEOUT_S, return_exceptions=True)
        except (TimeoutError, RayError, RayServeException) as error:
            logger.warning("the other gateways were not heard: %s", type(error).__name__)
            return [own]
        return [one for one in answers if isinstance(one, Window)] or [own]

    def _replicas(self) -> dict[str, Replicas]:
        """Of each deployment: those that have passed their start, and those there should be."""
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

    async def _component(self, name: str, replicas: Replicas) -> Component:
        running = replicas.ready > 0
        if running and name not in self._described:
            description = await self._within_health(self._handles[name].describe.remote)
            if description is None:
                return Component(ready=False)
            self._described[name] = description
        known = self._described.get(name)
        return Component(running, known.model if known else None, known.device if known else None)

    async def _within_health(self, send: Any) -> Any:
        """The answer, or None where it does not come in time for a health check."""
        try:
            async with asyncio.timeout(HEALTH_TIMEOUT_S):
                return await call(send)
        except (TimeoutError, PlainMedError):
            return None


async def _open(
    handle: DeploymentHandle, text: str, params: GenerationParams, ticket: Ticket
) -> tuple[AsyncIterator[str | Summary], str | Summary]:
    pieces = aiter(handle.stream.remote(text, params, ticket))
    return pieces, await anext(pieces)


def _host_of_serve() -> str:
    """The address that the running Serve was started with, which a later config cannot change."""
    return str(_get_global_client().http_config.host)


@serve.deployment
@serve.ingress()
class Gateway:
    """The ingress; with `user_config: {draining: true}` it finishes what it has, no more."""

    def __init__(self, settings: Settings, **handles: DeploymentHandle) -> None:
        # Here, where nobody gets round it: `serve run` and KubeRay tell only Serve where to listen.
        check_exposure(settings, listened_on(_host_of_serve()))
        app_name = serve.get_replica_context().app_name
        self._settings = settings
        self._traffic = Traffic()
        self._recent = Recent()
        self._backend = HandleBackend(handles, app_name, self._recent)

    def __serve_build_asgi_app__(self) -> RequestGuard:
        return create_app(
            self._backend,
            self._settings,
            self._traffic,
            ServeTelemetry(),
            recent=self._recent,
            tracer=load_tracer(self._settings, GATEWAY),
        )

    async def reconfigure(self, config: dict[str, Any]) -> None:
        """Serve calls this on every replica when only `user_config` changes."""
        self._traffic.draining = bool(config.get("draining", False))

    async def window(self) -> Window:
        """What this replica has answered lately."""
        return self._recent.window()

    async def traffic(self) -> tuple[str, int]:
        """This replica's id and how many requests it has under way."""
        return serve.get_replica_context().replica_id.unique_id, self._traffic.in_flight
