"""What the API needs from whatever computes: a Protocol without HTTP or Ray in it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from serve_app.api.request_stats import StatsWindow
from serve_app.core.schemas import ProfileName
from serve_app.generation.protocol import GenerationParams, Summary
from serve_app.metrics.evaluation import Evaluation
from serve_app.metrics.readability import Readability


@dataclass(frozen=True, slots=True)
class MetricScores:
    """One number for each text, and the model and device that computed them."""

    values: list[float]
    model: str
    device: str


@dataclass(frozen=True, slots=True)
class Component:
    """State of one deployment."""

    ready: bool
    model: str | None = None
    device: str | None = None


@dataclass(frozen=True, slots=True)
class Replicas:
    """One deployment's replicas: how many answer, and how many there should be.

    `failure` says where none answers and none will.
    """

    ready: int
    wanted: int
    failure: str = ""


@dataclass(frozen=True, slots=True)
class Health:
    """State of every built deployment, the targets in use and warnings for the operator.

    `replicas`, by deployment and with the gateway's own, is empty where they are unknown.
    """

    components: dict[str, Component]
    targets: dict[str, Any] | None = None
    warnings: list[str] = field(default_factory=list)
    replicas: dict[str, Replicas] = field(default_factory=dict)

    @property
    def ready(self) -> bool:
        """True when every built deployment can answer."""
        return bool(self.components) and all(part.ready for part in self.components.values())


class Backend(Protocol):
    """Computes; every method may raise a `PlainMedError`. Texts have been validated."""

    services: frozenset[str]

    async def relevance(self, originals: Sequence[str], generated: Sequence[str]) -> MetricScores:
        """Relevance of each pair."""

    async def factuality(self, originals: Sequence[str], generated: Sequence[str]) -> MetricScores:
        """Factuality of each pair."""

    async def readability(self, texts: Sequence[str]) -> list[Readability]:
        """Readability of each text."""

    async def evaluate(
        self,
        originals: Sequence[str],
        generated: Sequence[str],
        human: Sequence[str] | None,
        weights: Sequence[float] | None,
        profile: ProfileName,
    ) -> list[Evaluation]:
        """Metrics, errors and loss of each pair, for the readers of a profile."""

    async def generate(
        self, texts: Sequence[str], params: Sequence[GenerationParams]
    ) -> list[Summary]:
        """A summary of each text."""

    def stream(self, text: str, params: GenerationParams) -> AsyncIterator[str | Summary]:
        """Pieces of a summary, then the summary."""

    async def health(self) -> Health:
        """Readiness of every built deployment."""

    async def windows(self, own: StatsWindow) -> list[StatsWindow]:
        """Recent statistics of each gateway replica; `own` are the caller's."""

    async def models(self) -> dict[str, str]:
        """The model of each model metric."""

    async def writer(self) -> str:
        """The generator's model, as its summaries name it."""
