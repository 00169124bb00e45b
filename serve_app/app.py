"""Builds the application graph from settings: what talks to what, and nothing else.

`serve run serve_config.yaml` calls `build`. Replicas, autoscaling, resources and queue
lengths are in that file, by deployment name; what stands here are defaults for one laptop.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator
from ray.serve.config import BackpressureConfig
from ray.serve.deployment import Application

from serve_app.core.errors import ConfigError
from serve_app.core.settings import load_settings
from serve_app.serving.deployments.gateway import Gateway
from serve_app.serving.tracers import check_traces

Service = Literal["metrics", "generator"]

ANSWER_S = 5.0
"""What a replica that stops has beyond the longest request, for the answer's way back."""


class BuildArgs(BaseModel):
    """Arguments of the application in `serve_config.yaml`."""

    model_config = ConfigDict(extra="forbid")

    services: list[Service] = Field(
        default=["metrics", "generator"], description="Which halves are built."
    )
    settings: dict[str, Any] = Field(
        default_factory=dict,
        description="Fields of serve_app.core.settings.Settings, in lower case.",
    )

    @field_validator("services")
    @classmethod
    def _some_service(cls, services: list[Service]) -> list[Service]:
        if not services:
            raise ValueError("name at least one of: metrics, generator")
        return services


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

        nodes["Relevance"] = _options(Relevance, "Relevance", 0.4, longest_s).bind(settings)
        nodes["Factuality"] = _options(Factuality, "Factuality", 0.4, longest_s).bind(settings)
        nodes["Readability"] = _options(ReadabilityDeployment, "Readability", 0.1, longest_s).bind(
            settings
        )
        nodes["Loss"] = _options(Loss, "Loss", 0.1, longest_s).bind(
            settings, nodes["Relevance"], nodes["Factuality"], nodes["Readability"]
        )
    if "generator" in args.services:
        from serve_app.serving.deployments.generator import Generator

        nodes["Generator"] = _options(Generator, "Generator", 0.4, longest_s).bind(settings)
    retry = BackpressureConfig(retry_after_s=settings.retry_after_s)
    # Its own gate refuses what is too much, in JSON and by the wait; Serve's limit lies far above.
    gateway = _options(Gateway, "Gateway", 0.1, longest_s).options(
        backpressure_config=retry, user_config={"draining": False}, max_ongoing_requests=4096
    )
    return gateway.bind(settings, **nodes)


def _options(deployment: Any, name: str, num_cpus: float, longest_s: float = 30.0) -> Any:
    """A deployment under its name; an update lets it end what takes at most `longest_s` seconds."""
    return deployment.options(
        name=name,
        ray_actor_options={"num_cpus": num_cpus},
        max_ongoing_requests=256,
        max_queued_requests=-1,  # what the gateway has let in is not refused further on
        health_check_period_s=5,
        health_check_timeout_s=30,
        graceful_shutdown_wait_loop_s=1,
        graceful_shutdown_timeout_s=longest_s + ANSWER_S,
    )
