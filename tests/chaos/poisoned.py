"""The application as `serve_app.app.build` makes it, whose relevance cannot take a marked text.

Everything else is the project's own, the batching over requests and what it does with a batch that
fails included.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from ray import serve

from serve_app.app import _options
from serve_app.core.settings import load_settings
from serve_app.serving.deployments.gateway import Gateway
from serve_app.serving.deployments.generator import Generator
from serve_app.serving.deployments.loss import Loss
from serve_app.serving.deployments.metrics import Factuality, Pair, ReadabilityDeployment, Relevance

POISON = "uncomputable"
"""What stands in a text that the computation fails on."""


class _Delicate(Relevance.func_or_class):  # type: ignore[misc, name-defined]
    """BERTScore, but for marked texts."""

    def _score(self, pairs: Sequence[Pair]) -> list[Any]:
        if any(POISON in generated for _, generated in pairs):
            raise ValueError("one of the texts cannot be computed")
        scores: list[Any] = super()._score(pairs)
        return scores


# The name is that of the metric: spans and stages are called after the class.
_Delicate.__name__ = "Relevance"
Delicate = serve.deployment(_Delicate)


def build(arguments: dict[str, Any]) -> Any:
    """The whole graph; `arguments` as `serve_app.app.build` takes them."""
    settings = load_settings(**arguments["settings"])
    options = partial(_options, num_cpus=0.1, longest_s=settings.request_timeout_s)
    relevance = options(Delicate, "Relevance").bind(settings)
    factuality = options(Factuality, "Factuality").bind(settings)
    plain = options(ReadabilityDeployment, "Readability").bind(settings)
    loss = options(Loss, "Loss").bind(settings, relevance, factuality, plain)
    return options(Gateway, "Gateway").bind(
        settings,
        Relevance=relevance,
        Factuality=factuality,
        Readability=plain,
        Loss=loss,
        Generator=options(Generator, "Generator").bind(settings),
    )
