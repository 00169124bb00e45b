"""Builds the application graph from settings: which deployment calls which, and nothing else.

`serve run serve_config.yaml` calls `build`. That file has replicas, autoscaling, resources and
queue lengths by deployment name; this module has their defaults for one laptop.
"""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from ray.serve.config import BackpressureConfig
from ray.serve.deployment import Application

from serve_app.core.errors import RETRY_AFTER_S, ConfigError
from serve_app.core.schemas import Service
from serve_app.core.settings import load_settings
from serve_app.serving.deployments.gateway import Gateway
from serve_app.serving.graph import DEPLOYMENTS
from serve_app.serving.observability import check_traces

ANSWER_S = 5.0
"""Seconds a stopping replica has beyond the longest request, for the answer's way back."""


class BuildArgs(BaseModel):
    """Arguments of the application in `serve_config.yaml`."""

    model_config = ConfigDict(extra="forbid")

    services: list[Service] = Field(
        default=["metrics", "generator"], min_length=1, description="Which halves are built."
    )
    settings: dict[str, Any] = Field(
        default_factory=dict,
        description="Fields of serve_app.core.settings.Settings, in lower case.",
    )


def build(arguments: dict[str, Any]) -> Application:
    """The graph: Gateway -> Loss -> {Relevance, Factuality, Readability}, and Generator.

    Args:
        arguments: `args` of the application in the Serve config; see `BuildArgs`.

    Raises:
        ConfigError: an argument or a setting is unknown or malformed.
    """
    try:
        args = BuildArgs.model_validate(arguments)
    except ValidationError as error:
        problems = (f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        raise ConfigError("bad args in the Serve config: " + "; ".join(problems)) from None
    settings = load_settings(**args.settings)
    check_traces(settings)
    nodes: dict[str, Application] = {}
    longest_s = settings.request_timeout_s
    # Imported where built, so that a half deployed alone needs nothing of the other half.
    if "metrics" in args.services:
        from serve_app.serving.deployments.loss import Loss
        from serve_app.serving.deployments.metrics import (
            Factuality,
            ReadabilityDeployment,
            Relevance,
        )

        for name, deployment in (
            ("Relevance", Relevance),
            ("Factuality", Factuality),
            ("Readability", ReadabilityDeployment),
        ):
            nodes[name] = _options(deployment, name, longest_s).bind(settings)
        nodes["Loss"] = _options(Loss, "Loss", longest_s).bind(
            settings, nodes["Relevance"], nodes["Factuality"], nodes["Readability"]
        )
    if "generator" in args.services:
        from serve_app.serving.deployments.generator import Generator

        nodes["Generator"] = _options(Generator, "Generator", longest_s).bind(settings)
    retry = BackpressureConfig(retry_after_s=RETRY_AFTER_S)
    # Its own gate refuses overload, in JSON and by expected wait; Serve's limit lies far above.
    gateway = _options(Gateway, "Gateway", longest_s).options(
        backpressure_config=retry, user_config={"draining": False}, max_ongoing_requests=4096
    )
    return gateway.bind(settings, **nodes)


def _options(
    deployment: Any, name: str, longest_s: float = 30.0, num_cpus: float | None = None
) -> Any:
    """A deployment under its name; an update waits `longest_s` seconds for its requests to end."""
    return deployment.options(
        name=name,
        ray_actor_options={
            "num_cpus": DEPLOYMENTS[name].num_cpus if num_cpus is None else num_cpus
        },
        max_ongoing_requests=256,
        max_queued_requests=-1,  # requests that the gateway let in are not refused later
        health_check_period_s=5,
        health_check_timeout_s=30,
        graceful_shutdown_wait_loop_s=1,
        graceful_shutdown_timeout_s=longest_s + ANSWER_S,
    )
