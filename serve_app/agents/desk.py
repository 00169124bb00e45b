"""Scores and writes texts: `LocalDesk` with models loaded here once, `RemoteDesk` on a server.

Both give the answers of the HTTP API. Knows nothing of who asks.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

from serve_app.core.errors import NotServed
from serve_app.core.sampling import GenerationParams, SamplingOptions
from serve_app.core.schemas import EvaluateResponse, GenerateResponse, ProfileName
from serve_app.core.settings import Settings

if TYPE_CHECKING:
    from serve_app.client.clients import PlainMedClient
    from serve_app.generation.protocol import Generator
    from serve_app.metrics.loss import Targets
    from serve_app.metrics.suite import MetricSuite


class Desk(Protocol):
    """Answers as `/evaluate` and `/generate` do; safe in threads."""

    @property
    def warnings(self) -> list[str]:
        """What a user should know of the targets, once something was scored."""
        ...

    def evaluate(
        self,
        originals: Sequence[str],
        generated: Sequence[str],
        weights: Sequence[float] | None = None,
        *,
        human: Sequence[str] | None = None,
        profile: ProfileName | None = None,
        explain: bool = False,
        findings: bool = False,
    ) -> EvaluateResponse:
        """Metrics, errors and loss of each pair.

        Args:
            originals, generated: the pairs.
            weights: relevance, factuality, fkgl, smog, dale_chall; sum 1; None: 0.2 each.
            human: a human summary of each pair; with `LOSS_TARGETS=human` the target.
            profile: whom the summaries are for; see `serve_app.metrics.profiles`.
            explain, findings: whether results have an `explanation`, and `findings`.

        Raises:
            PlainMedError: a text cannot be scored, the weights are wrong, or nobody can compute.
        """
        ...

    def generate(self, text: str, sampling: SamplingOptions) -> GenerateResponse:
        """A summary of one text.

        Raises:
            PlainMedError: it cannot be summarised.
        """
        ...

    def targets(self) -> dict[str, Any]:
        """The targets in use, as in a targets file.

        Raises:
            PlainMedError: there are none.
        """
        ...


class LocalDesk:
    """A desk with the models, targets and engine of the settings, each loaded when first needed."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._lock = threading.Lock()
        self._scoring: tuple[MetricSuite, Targets] | None = None
        self._engine: Generator | None = None

    @property
    def warnings(self) -> list[str]:
        """See `Desk`."""
        if self._scoring is None:
            return []
        suite, targets = self._scoring
        return targets.made_with_other_models(suite.models)

    def evaluate(
        self,
        originals: Sequence[str],
        generated: Sequence[str],
        weights: Sequence[float] | None = None,
        *,
        human: Sequence[str] | None = None,
        profile: ProfileName | None = None,
        explain: bool = False,
        findings: bool = False,
    ) -> EvaluateResponse:
        """See `Desk`; one call after the other."""
        # Seconds of imports, so not before they are needed.
        from serve_app.api import serializers
        from serve_app.metrics.profiles import check_profile, load_profile, weights_of
        from serve_app.metrics.suite import MetricSuite
        from serve_app.metrics.targets import load_targets

        used = weights_of(check_profile(profile), weights)
        with self._lock:
            if self._scoring is None:
                targets = load_targets(self._settings)
                self._scoring = MetricSuite.from_settings(self._settings), targets
            suite, targets = self._scoring
            reader = load_profile(profile, self._settings, targets)
            target = None
            if human is not None and self._settings.loss_targets == "human":
                target = suite.measure(originals, human)
            measured = suite.measure(originals, generated)
            evaluations = reader.evaluate(
                measured, originals, generated, weights=used, human=target
            )
        results = serializers.evaluations_out(generated, evaluations)
        if findings:
            texts = (originals, generated, evaluations)
            checks = serializers.checks_of(*texts, lambda: False)
            for result, found in zip(results, checks, strict=True):
                serializers.add_findings(result, found)
        if explain:
            explanations = serializers.explanations_out(originals, results, evaluations)
            for result, explanation in zip(results, explanations, strict=True):
                result.explanation = explanation
        return EvaluateResponse(results=results, weights=used, models=suite.models, profile=profile)

    def generate(self, text: str, sampling: SamplingOptions) -> GenerateResponse:
        """See `Desk`."""
        from serve_app.api.routes.generate import summary_out
        from serve_app.generation.loading import load_generator
        from serve_app.generation.protocol import require_words
        from serve_app.text.validation import require_text

        require_text(text, "text")
        params = GenerationParams.over(self._settings, sampling)
        with self._lock:
            if self._engine is None:
                self._engine = load_generator(self._settings)
        (summary,) = self._engine.generate([text], [params])
        require_words(summary)
        return summary_out(summary)

    def targets(self) -> dict[str, Any]:
        """See `Desk`."""
        from serve_app.metrics.targets import load_targets

        return load_targets(self._settings).to_dict()


class RemoteDesk:
    """A desk that asks a server."""

    def __init__(self, client: PlainMedClient) -> None:
        self._client = client

    @property
    def warnings(self) -> list[str]:
        """See `Desk`."""
        return self._client.health().warnings

    def evaluate(
        self,
        originals: Sequence[str],
        generated: Sequence[str],
        weights: Sequence[float] | None = None,
        *,
        human: Sequence[str] | None = None,
        profile: ProfileName | None = None,
        explain: bool = False,
        findings: bool = False,
    ) -> EvaluateResponse:
        """See `Desk`."""
        return self._client.evaluate(
            list(originals),
            list(generated),
            None if human is None else list(human),
            weights,
            profile=profile,
            explain=explain,
            findings=findings,
        )

    def generate(self, text: str, sampling: SamplingOptions) -> GenerateResponse:
        """See `Desk`."""
        return self._client.generate(text, **sampling)

    def targets(self) -> dict[str, Any]:
        """See `Desk`."""
        found = self._client.health().targets
        if found is None:
            raise NotServed("the server tells no targets: it is starting, or runs no metrics")
        return found
