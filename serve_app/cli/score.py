"""`plainmed score`: the five metrics and the loss of a table or of one pair. Parses and shows.

Chooses who scores: the models of the settings, here or on Ray, or a server. How a table is read,
scored and written is in `serve_app.offline.corpus`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from serve_app.cli.options import (
    Address,
    Engine,
    GeneratedColumns,
    OriginalColumn,
    Profile,
    Restart,
    Url,
    Weights,
    Workers,
)
from serve_app.core.errors import ConfigError, InvalidInput, PlainMedError
from serve_app.core.printable import printable

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress
    from rich.table import Table

    from serve_app.client.clients import PlainMedClient
    from serve_app.core.schemas import EvaluateResponse, EvaluationOut, ProfileName
    from serve_app.offline.corpus import Engine as CorpusEngine
    from serve_app.offline.corpus import ModelNames, Outcome, RowError, RowScores, ScoreJob


ALIVE_S = 8.0
"""Longest wait for a server to answer at all; its health routes take at most five seconds."""


def score(
    table: Annotated[
        str | None,
        typer.Argument(
            help="A .csv, .tsv, .jsonl, .json or .parquet file with a pair per row, also with .gz: "
            "a path or s3://BUCKET/KEY. Or a folder of such files, or one saved by datasets.",
            metavar="INPUT",
        ),
    ] = None,
    out: Annotated[
        str | None,
        typer.Option(
            help="File for the rows with their scores: .csv, .jsonl or .parquet. With {column} in "
            "its name, one file per --generated-column."
        ),
    ] = None,
    url: Url = None,
    engine: Annotated[
        Engine,
        typer.Option(help="Score in this process or on Ray; auto: Ray from 2,000 rows."),
    ] = Engine.AUTO,
    address: Address = None,
    workers: Workers = None,
    restart: Restart = False,
    original_column: OriginalColumn = None,
    generated_column: GeneratedColumns = None,
    prefix: Annotated[str, typer.Option(help="Prefix of the new columns' names.")] = "",
    batch_size: Annotated[int, typer.Option(help="Pairs per batch.", min=1, max=1024)] = 16,
    weights: Weights = None,
    profile: Profile = None,
    findings: Annotated[
        bool, typer.Option(help="Count what a summary says otherwise, and leaves out.")
    ] = True,
    original_file: Annotated[
        Path | None, typer.Option(help="One original, as a text file.")
    ] = None,
    generated_file: Annotated[
        Path | None, typer.Option(help="Its summary, as a text file.")
    ] = None,
    json_output: Annotated[
        bool, typer.Option("--json", help="Print the result of a single pair as JSON.")
    ] = False,
    progress: Annotated[
        bool, typer.Option(help="Show rows done of all, where standard error is a terminal.")
    ] = True,
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="Say nothing but warnings and errors.")
    ] = False,
) -> None:
    """Score pairs of originals and summaries: five metrics and the loss.

    A table: plainmed score INPUT --out OUTPUT. Column `error` says why a row could not be scored;
    the exit status is then 1. To resume a stopped run, give the same command again. A single pair:
    plainmed score --original-file A --generated-file B.
    """
    pair = original_file is not None and generated_file is not None
    if (table is None) != (out is None) or (table is None) != pair:
        raise typer.BadParameter("give INPUT and --out, or --original-file and --generated-file")
    if (pair or url is not None) and (engine is not Engine.AUTO or address or workers):
        raise typer.BadParameter(
            "--engine, --address and --workers are for a table scored without --url"
        )
    numbers = parse_weights(weights)
    if original_file is not None and generated_file is not None:
        _score_pair(original_file, generated_file, url, numbers, profile, json_output)
        return
    from rich.console import Console

    from serve_app.client.clients import PlainMedClient

    if url is not None:
        _require_server(url)
    say = _say_nothing if quiet else tell
    jobs = prepare_jobs(
        str(table), str(out), original_column, generated_column, prefix, batch_size, findings, say
    )
    failed = 0
    with ExitStack() as stack:
        if url is None:
            choice = with_models(jobs[0], numbers, engine, address, workers, profile)
        else:
            choice = on_server(stack.enter_context(PlainMedClient(url)), url, numbers, profile)
        if profile is not None:
            say(f"the loss is that of profile {profile}")
        for job in jobs:
            try:
                outcome = run_job(
                    job, choice, restart, Console(stderr=True), progress and not quiet
                )
            except KeyboardInterrupt:
                tell("stopped; give the same command to go on with the rest")
                raise
            what = "rows" if len(job.systems) == 1 else "summaries"
            scored = outcome.rows - outcome.failed
            say(f"{scored} of {outcome.rows} {what} scored, written to {job.out.name}")
            if outcome.failed:
                columns = " and ".join(f"{before}error" for _, before in job.systems)
                tell(f"{outcome.failed} {what} have no score; see their column {columns}")
            failed += outcome.failed
    if failed:
        raise typer.Exit(1)


def tell(text: str) -> None:
    """Prints a line on standard error, control characters of names and texts escaped."""
    typer.echo(printable(text), err=True)


def _say_nothing(text: str) -> None:
    pass


def prepare_jobs(
    table: str,
    out: str,
    original: str | None,
    generated: Sequence[str] | None,
    prefix: str,
    batch_size: int,
    findings: bool,
    say: Callable[[str], None] = tell,
) -> list[ScoreJob]:
    """One job, or one for each column of summaries where the output's name has `{column}`.

    Tells `say` which columns are scored, and what was chosen in reading the input.

    Raises:
        InvalidInput: see `ScoreJob.prepare`.
    """
    from serve_app.core.settings import load_settings
    from serve_app.offline.corpus import ScoreJob
    from serve_app.offline.corpus.reader import GENERATED_COLUMNS, scan

    prepare = partial(
        ScoreJob.prepare,
        original=original,
        prefix=prefix,
        batch_size=batch_size,
        language_check=load_settings().language_check,
        findings=findings,
    )
    if "{column}" in out:
        corpus = scan(table)
        wanted = generated or [corpus.column(None, GENERATED_COLUMNS, "--generated-column")]
        names = {one: out.replace("{column}", one.replace("/", "_")) for one in wanted}
        jobs = [prepare(corpus, names[one], generated=one) for one in wanted]
    else:
        jobs = [prepare(table, out, generated=generated or None)]
    for note in jobs[0].corpus.notes:
        say(note)
    tasks = [task for job in jobs for task, _ in job.systems]
    summaries = ", ".join(repr(task.generated) for task in tasks)
    say(f"scoring the summaries in {summaries} against the originals in {tasks[0].original!r}")
    return jobs


def parse_weights(text: str | None) -> list[float] | None:
    """`0.25,0.25,0.2,0.15,0.15` as numbers.

    Raises:
        InvalidInput: they are no weights.
    """
    if text is None:
        return None
    from serve_app.metrics.loss import check_weights

    try:
        return check_weights([float(part) for part in text.split(",")]).tolist()
    except ValueError as error:
        if isinstance(error, InvalidInput):
            raise
        raise InvalidInput(f"weights must be numbers with commas between, not {text!r}") from None


def _warn(text: str) -> None:
    tell(f"warning: {text}")


# --- one pair ---------------------------------------------------------------------------


def _score_pair(
    original: Path,
    generated: Path,
    url: str | None,
    weights: Sequence[float] | None,
    profile: ProfileName | None,
    as_json: bool,
) -> None:
    from serve_app.core.documents import read_input

    texts = read_input(original), read_input(generated), None
    answer = evaluated(
        *texts, weights, url, profile=profile, findings=as_json
    )  # the table shows none
    if as_json:
        typer.echo(answer.model_dump_json(indent=2))
        return
    from rich.console import Console

    table = metrics_table(answer.results[0], answer.weights, answer.models)
    table.title = answer.profile and f"Profile {answer.profile}"
    Console().print(table)


def evaluated(
    original: str,
    generated: str,
    human: str | None,
    weights: Sequence[float] | None,
    url: str | None,
    *,
    profile: ProfileName | None = None,
    explain: bool = False,
    findings: bool = True,
) -> EvaluateResponse:
    """What /evaluate answers about a pair, by a server or by the models of the settings."""
    # Seconds of imports, so not before they are needed.
    from serve_app.agents.desk import LocalDesk, RemoteDesk
    from serve_app.client.clients import PlainMedClient
    from serve_app.core.settings import load_settings

    pair = ([original], [generated], weights)
    target = None if human is None else [human]
    if url is not None:
        _require_server(url)
        with PlainMedClient(url) as client:
            return RemoteDesk(client).evaluate(
                *pair, human=target, profile=profile, explain=explain, findings=findings
            )
    desk = LocalDesk(load_settings())
    answer = desk.evaluate(*pair, human=target, profile=profile, explain=explain, findings=findings)
    for warning in desk.warnings:
        _warn(warning)
    return answer


def _require_server(url: str) -> None:
    """Asks whether a PlainMed is there, before anything is read or written.

    Raises:
        PlainMedConnectionError: nothing answers within some seconds.
        ConfigError: something else does, such as a proxy before a server that is gone.
    """
    from serve_app.client.clients import PlainMedAPIError, PlainMedClient
    from serve_app.client.wire import NO_CODE

    foreign = (NO_CODE, "bad_response")
    with PlainMedClient(url, timeout=ALIVE_S, deadline=ALIVE_S, retries=0) as client:
        # Some proxies let the calls alone through, so the cheapest of them is asked as well.
        for call in (client.health, partial(client.readability, "Is it there?")):
            try:
                call()
            except PlainMedAPIError as error:
                if error.code not in foreign:
                    return  # PlainMed: the call itself says what is wrong
                reason = str(error)
            else:
                return
    raise ConfigError(f"what answers at {url} is no PlainMed: {reason}")


def metrics_table(
    result: EvaluationOut, weights: Sequence[float], models: Mapping[str, str]
) -> Table:
    """The five metrics of one summary beside their targets, the terms beside them, and the loss.

    The weights are shares of the whole loss.
    """
    from rich.table import Table
    from rich.text import Text

    from serve_app.metrics.loss import METRIC_NAMES
    from serve_app.metrics.profiles import TERM_NAMES

    table = Table(show_footer=True)
    table.add_column("Metric", footer="Loss (0 is best, 1 worst)")
    for name in ("Value", "Target", "Error", "Weight"):
        table.add_column(name, justify="right")
    table.columns[3].footer = f"{result.loss:.4f}"
    table.add_column("Model")
    left = 1.0 - sum(one.weight for one in result.terms.values())
    for (metric, label), weight in zip(METRIC_NAMES.items(), weights, strict=True):
        numbers = (result.metrics, result.targets, result.errors)
        cells = [f"{getattr(one, metric):.4f}" for one in numbers]
        model = Text(printable(models.get(metric, "")))
        table.add_row(label, *cells, f"{left * weight:g}", model)
    for name, term in result.terms.items():
        error = f"{term.error:.4f}"
        table.add_row(TERM_NAMES[name], error, "0.0000", error, f"{term.weight:g}", "rules")
    return table


# --- a table ----------------------------------------------------------------------------


@dataclass(frozen=True)
class Choice:
    """Who scores a table.

    Attributes:
        make_engine: makes the engine, where there is anything left to score.
        scoring: everything the numbers depend on besides the input.
        warnings: for the user, about the models that scored.
    """

    make_engine: Callable[[], CorpusEngine]
    scoring: Mapping[str, Any]
    warnings: Callable[[ModelNames], Sequence[str]] = lambda models: ()


def on_server(
    client: PlainMedClient,
    url: str,
    weights: Sequence[float] | None,
    profile: ProfileName | None = None,
) -> Choice:
    """A running server scores."""
    from serve_app.offline.corpus import LocalEngine

    scoring: dict[str, Any] = {"url": url, "weights": None if weights is None else list(weights)}
    if profile is not None:
        scoring["profile"] = profile
    return Choice(lambda: LocalEngine(_ServerScorer(client, weights, profile)), scoring)


def with_models(
    job: ScoreJob,
    weights: Sequence[float] | None,
    engine: Engine,
    address: str | None,
    workers: int | None,
    profile: ProfileName | None = None,
) -> Choice:
    """The models of the settings score: in this process, or on Ray.

    Raises:
        ConfigError: a setting or the targets file is wrong.
        InvalidInput: bad weights, or options that do not go together.
    """
    from serve_app.core.settings import load_settings
    from serve_app.metrics.profiles import check_profile, load_profile, weights_of
    from serve_app.offline.corpus.job import RAY_ROWS
    from serve_app.offline.corpus.scorer import LossTerms, SuiteRecipe

    on_ray = engine is Engine.RAY or address is not None or workers is not None
    if engine is Engine.LOCAL and on_ray:
        raise InvalidInput("--address and --workers are for Ray; leave --engine local out")
    if engine is Engine.AUTO and job.corpus.rows >= RAY_ROWS:
        on_ray = True
    settings = load_settings()
    chosen = load_profile(profile, settings)
    used = weights_of(check_profile(profile), weights)
    recipe = SuiteRecipe(settings, LossTerms(chosen, tuple(used)))
    return Choice(
        lambda: recipe.engine(on_ray, address, workers),
        recipe.describe(),
        lambda models: chosen.loss.targets.made_with_other_models(models.names),
    )


def run_job(
    job: ScoreJob, choice: Choice, restart: bool, console: Console, show_progress: bool = True
) -> Outcome:
    """Scores the table, with a progress bar on a terminal.

    Raises:
        PlainMedError: what went wrong; finished blocks are kept.
    """
    with progress_bar(console, show_progress) as progress:
        bar = progress.add_task("scoring", total=job.corpus.rows * len(job.systems))

        def started(done: int, total: int) -> None:
            progress.update(bar, completed=done, total=total)
            if done:
                _warn(f"{done} of {total} rows were finished by an earlier run and are kept")

        def warn_of(models: ModelNames) -> None:
            for warning in choice.warnings(models):
                _warn(warning)

        return job.run(
            choice.make_engine,
            choice.scoring,
            restart=restart,
            on_start=started,
            on_rows=lambda count: progress.advance(bar, count),
            on_models=warn_of,
        )


class _ServerScorer:
    """Scores on a server; once it is gone for good, the remaining rows get that as their error."""

    def __init__(
        self,
        client: PlainMedClient,
        weights: Sequence[float] | None,
        profile: ProfileName | None,
    ) -> None:
        from serve_app.offline.corpus import ModelNames

        self._client = client
        self._weights = weights
        self._profile = profile
        self._lost: RowError | None = None
        self.models = ModelNames()

    def __call__(
        self, originals: Sequence[str], generated: Sequence[str]
    ) -> Sequence[RowScores | RowError]:
        from serve_app.client.clients import PlainMedAPIError
        from serve_app.metrics.loss import METRICS
        from serve_app.offline.corpus import ModelNames, RowError, RowScores
        from serve_app.offline.corpus.scoring import count_findings

        if self._lost is None:
            try:
                answer = self._client.evaluate(
                    originals, generated, weights=self._weights, profile=self._profile
                )
            except PlainMedError as error:
                status = error.status if isinstance(error, PlainMedAPIError) else None
                if isinstance(error, InvalidInput) or status in (400, 413, 422, 500):
                    # About these texts, not about the server.
                    raise InvalidInput(error.message, field=error.field, code=error.code) from error
                self._lost = RowError(error.code, str(error))
            else:
                self.models = ModelNames(answer.models)
                return [
                    RowScores(
                        tuple(getattr(one.metrics, name) for name in METRICS),
                        one.loss,
                        # A server of an earlier version does not say it.
                        language=getattr(one, "language", None),
                        findings=None if _partial(one) else count_findings(one),
                    )
                    for one in answer.results
                ]
        return [self._lost] * len(originals)


def _partial(result: EvaluationOut) -> bool:
    """Whether a server's findings are not all of them, or it is too old to look for any."""
    return "findings" not in result.model_fields_set or result.findings_left_out > 0


def progress_bar(console: Console, wanted: bool = True) -> Progress:
    """Rows done of all; only on a terminal."""
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=console,
        disable=not (wanted and console.is_terminal),
    )
