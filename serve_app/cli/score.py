"""`plainmed score`: the five metrics and the loss of pairs of texts, here, on Ray or on a server.

Chooses who scores and shows how far it is; how a table is read, scored and written is in
`serve_app.offline.corpus`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from serve_app.client.clients import PlainMedAPIError, PlainMedClient
from serve_app.core.errors import InvalidInput, PlainMedError
from serve_app.core.schemas import EvaluateResponse
from serve_app.metrics.loss import METRICS, LossFunction, check_weights
from serve_app.offline.corpus import Engine, ModelNames, Outcome, RowError, RowScores, ScoreJob
from serve_app.offline.corpus.job import RAY_ROWS
from serve_app.offline.corpus.local_engine import LocalEngine

Scorer = Callable[[Sequence[str], Sequence[str]], EvaluateResponse]
Warn = Callable[[str], None]
EngineName = Literal["auto", "local", "ray"]


# --- one pair ---------------------------------------------------------------------------


def scorer_here(weights: Sequence[float] | None, warn: Warn) -> Scorer:
    """RowScores with the models and targets of the settings, loaded now.

    Raises:
        ConfigError: a setting, model or targets file is wrong.
        InvalidInput: bad weights.
    """
    # Seconds of imports, so not before they are needed.
    from serve_app.api.serializers import evaluation_out
    from serve_app.core.settings import load_settings
    from serve_app.metrics.evaluation import evaluate
    from serve_app.metrics.suite import MetricSuite
    from serve_app.metrics.targets import load_targets

    used = check_weights(weights).tolist()
    settings = load_settings()
    targets = load_targets(settings)
    loss = LossFunction(targets, settings.loss_steepness, settings.loss_direction)
    suite = MetricSuite.from_settings(settings)
    for warning in targets.made_with_other_models(suite.models):
        warn(warning)

    def score(originals: Sequence[str], generated: Sequence[str]) -> EvaluateResponse:
        results = evaluate(suite.measure(originals, generated), loss, weights=used)
        return EvaluateResponse(
            results=[evaluation_out(*pair) for pair in zip(generated, results, strict=True)],
            weights=used,
            models=suite.models,
        )

    return score


def scorer_of(client: PlainMedClient, weights: Sequence[float] | None) -> Scorer:
    """RowScores on the client's server."""
    check_weights(weights)
    return lambda originals, generated: client.evaluate(originals, generated, weights=weights)


def parse_weights(text: str | None) -> list[float] | None:
    """`0.25,0.25,0.2,0.15,0.15` as numbers.

    Raises:
        InvalidInput: they are no weights.
    """
    if text is None:
        return None
    try:
        weights = [float(part) for part in text.split(",")]
    except ValueError:
        raise InvalidInput(f"weights must be numbers with commas between, not {text!r}") from None
    check_weights(weights)
    return weights


# --- a table ----------------------------------------------------------------------------


@dataclass(frozen=True)
class Choice:
    """Who scores a table.

    Attributes:
        make_engine: makes the engine, where there is anything left to score.
        scoring: what the numbers depend on besides the input.
        warnings: what to tell the user of the models that scored.
    """

    make_engine: Callable[[], Engine]
    scoring: Mapping[str, Any]
    warnings: Callable[[ModelNames], Sequence[str]] = lambda models: ()


def on_server(client: PlainMedClient, url: str, weights: Sequence[float] | None) -> Choice:
    """A running server scores."""
    check_weights(weights)
    scoring = {"url": url, "weights": None if weights is None else list(weights)}
    return Choice(lambda: LocalEngine(_ServerScorer(client, weights)), scoring)


def with_models(
    job: ScoreJob,
    weights: Sequence[float] | None,
    engine: EngineName,
    address: str | None,
    workers: int | None,
) -> Choice:
    """The models of the settings score: in this process, or on Ray.

    Raises:
        ConfigError: a setting or the targets file is wrong.
        InvalidInput: bad weights, or options that do not go together.
    """
    on_ray = engine == "ray" or address is not None or workers is not None
    if engine == "local" and on_ray:
        raise InvalidInput("--address and --workers are for Ray; leave --engine local out")
    if engine == "auto" and job.corpus.rows >= RAY_ROWS:
        on_ray = True

    from serve_app.core.settings import load_settings
    from serve_app.metrics.targets import load_targets
    from serve_app.offline.corpus.scorer import LossTerms, SuiteRecipe

    settings = load_settings()
    targets = load_targets(settings)
    function = LossFunction(targets, settings.loss_steepness, settings.loss_direction)
    recipe = SuiteRecipe(settings, LossTerms(function, tuple(check_weights(weights).tolist())))

    def make() -> Engine:
        if not on_ray:
            return LocalEngine(recipe())
        from serve_app.offline.corpus.ray_engine import RayEngine, RayOptions

        return RayEngine(recipe, RayOptions.of(settings, address, workers))

    return Choice(
        make,
        recipe.describe(),
        lambda models: targets.made_with_other_models(models.names),
    )


def run_job(job: ScoreJob, choice: Choice, restart: bool, console: Console, warn: Warn) -> Outcome:
    """RowScores the table, with a progress bar on a terminal.

    Raises:
        PlainMedError: what went wrong; finished blocks are kept.
    """
    with progress_bar(console) as progress:
        bar = progress.add_task("scoring", total=job.corpus.rows)

        def started(done: int, total: int) -> None:
            progress.update(bar, completed=done, total=total)
            if done:
                warn(f"{done} of {total} rows were finished by an earlier run and are kept")

        def warn_of(models: ModelNames) -> None:
            for warning in choice.warnings(models):
                warn(warning)

        return job.run(
            choice.make_engine,
            choice.scoring,
            restart=restart,
            on_start=started,
            on_rows=lambda count: progress.advance(bar, count),
            on_models=warn_of,
        )


class _ServerScorer:
    """RowScores on a server; once that is gone for good, the other rows get that as their error."""

    def __init__(self, client: PlainMedClient, weights: Sequence[float] | None) -> None:
        self._client = client
        self._weights = weights
        self._lost: RowError | None = None
        self.models = ModelNames()

    def __call__(
        self, originals: Sequence[str], generated: Sequence[str]
    ) -> Sequence[RowScores | RowError]:
        if self._lost is None:
            try:
                answer = self._client.evaluate(originals, generated, weights=self._weights)
            except PlainMedError as error:
                if _about_texts(error):
                    raise InvalidInput(error.message, field=error.field, code=error.code) from error
                self._lost = RowError(error.code, str(error))
            else:
                self.models = ModelNames(answer.models)
                return [
                    RowScores(
                        tuple(getattr(result.metrics, name) for name in METRICS),
                        result.loss,
                    )
                    for result in answer.results
                ]
        return [self._lost] * len(originals)


def _about_texts(error: PlainMedError) -> bool:
    if isinstance(error, PlainMedAPIError):
        return error.status in (400, 413, 422, 500)
    return isinstance(error, InvalidInput)


def progress_bar(console: Console) -> Progress:
    """Rows done of all; only on a terminal."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=console,
        disable=not console.is_terminal,
    )
