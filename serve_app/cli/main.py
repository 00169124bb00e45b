"""The command `plainmed`. Only parses: what a command does is imported when it runs.

So `plainmed --help` answers at once. A mistake of the user (`PlainMedError`) is one line on
standard error and exit status 2, never a traceback; 1 means that the work itself failed.
"""

from __future__ import annotations

import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from serve_app import __version__
from serve_app.cli.calibrate import calibrate
from serve_app.cli.keys import app as keys_app
from serve_app.cli.options import (
    Address,
    Engine,
    GeneratedColumn,
    OriginalColumn,
    Restart,
    Weights,
    Workers,
)
from serve_app.cli.report import compare, report
from serve_app.cli.status import status
from serve_app.cli.targets import app as targets_app
from serve_app.core.errors import PlainMedError
from serve_app.ops.cli import app as ops_app

if TYPE_CHECKING:
    from serve_app.client.clients import SamplingOptions

SERVICES = ("metrics", "generator")


class Selection(StrEnum):
    """What selects among candidates."""

    LOSS = "loss"


class _Group(TyperGroup):
    """Turns the application's own errors into a line and a status."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except PlainMedError as error:
            typer.echo(f"error: {error}", err=True)
            raise typer.Exit(2) from None


app = typer.Typer(
    name="plainmed",
    cls=_Group,
    help="Scores and generates plain-language summaries of medical text.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,  # it would print the user's texts as local variables
)
app.add_typer(targets_app)
app.add_typer(keys_app)
app.add_typer(ops_app)

Url = Annotated[
    str | None,
    typer.Option(help="Use the server at this URL; without it, the models load in this process."),
]
Config = Annotated[
    Path | None, typer.Argument(help="A Serve config such as serve_config.yaml.", dir_okay=False)
]


@app.command()
def serve(
    config: Config = None,
    host: Annotated[str | None, typer.Option(help="Address to bind; over HOST.")] = None,
    port: Annotated[int | None, typer.Option(help="Port; over PORT.", min=1, max=65535)] = None,
    services: Annotated[
        str | None, typer.Option(help="Which half to run: metrics, generator, or both.")
    ] = None,
) -> None:
    """Serve the HTTP API on this machine until Ctrl-C or SIGTERM, then drain and stop."""
    wanted = _services(services)
    from serve_app.serving.server import serve as run

    raise typer.Exit(run(config, host, port, wanted))


def _services(text: str | None) -> list[str] | None:
    if text is None:
        return None
    names = [name.strip() for name in text.split(",")]
    for name in names:
        if name not in SERVICES:
            raise typer.BadParameter(f"{name!r} is not one of {', '.join(SERVICES)}")
    return names


@app.command()
def score(
    table: Annotated[
        str | None,
        typer.Argument(
            help="A .csv, .jsonl or .parquet file, one pair a row: a path or s3://BUCKET/KEY.",
            metavar="INPUT",
        ),
    ] = None,
    out: Annotated[
        str | None, typer.Option(help="Where to write the rows with their scores.")
    ] = None,
    url: Url = None,
    engine: Annotated[
        Engine,
        typer.Option(help="Score in this process or on Ray; auto: Ray from 2,000 rows on."),
    ] = Engine.AUTO,
    address: Address = None,
    workers: Workers = None,
    restart: Restart = False,
    original_column: OriginalColumn = None,
    generated_column: GeneratedColumn = None,
    prefix: Annotated[str, typer.Option(help="Put before the names of the new columns.")] = "",
    batch_size: Annotated[int, typer.Option(help="Pairs scored at once.", min=1, max=1024)] = 16,
    weights: Weights = None,
    original_file: Annotated[
        Path | None, typer.Option(help="One original, as a text file.")
    ] = None,
    generated_file: Annotated[
        Path | None, typer.Option(help="Its summary, as a text file.")
    ] = None,
    json_output: Annotated[
        bool, typer.Option("--json", help="Print the one pair's result as JSON.")
    ] = False,
) -> None:
    """Score pairs of originals and summaries: five metrics and the loss.

    Either a table: plainmed score INPUT --out OUTPUT. A row that cannot be scored says why in its
    column `error`, and the exit status is then 1. A run that was stopped goes on where it was
    when the same command is given again. Or one pair: plainmed score --original-file A
    --generated-file B.
    """
    from contextlib import ExitStack

    from rich.console import Console

    from serve_app.cli import score
    from serve_app.cli.tables import metrics_table
    from serve_app.client.clients import PlainMedClient
    from serve_app.core.documents import read_input
    from serve_app.offline.corpus import ScoreJob

    def warn(text: str) -> None:
        typer.echo(f"warning: {text}", err=True)

    pair = original_file is not None and generated_file is not None
    if (table is None) != (out is None) or (table is None) != pair:
        raise typer.BadParameter("give INPUT and --out, or --original-file and --generated-file")
    if (pair or url is not None) and (engine is not Engine.AUTO or address or workers):
        raise typer.BadParameter(
            "--engine, --address and --workers are for a table scored without --url"
        )
    numbers = score.parse_weights(weights)
    job = None
    texts = ("", "")
    if table is not None and out is not None:
        job = ScoreJob.prepare(
            table,
            out,
            original=original_column,
            generated=generated_column,
            prefix=prefix,
            batch_size=batch_size,
        )
    elif original_file is not None and generated_file is not None:
        texts = (read_input(original_file), read_input(generated_file))
    with ExitStack() as stack:
        client = None if url is None else stack.enter_context(PlainMedClient(url))
        if job is None:
            if client is None:
                scorer = score.scorer_here(numbers, warn)
            else:
                scorer = score.scorer_of(client, numbers)
            answer = scorer([texts[0]], [texts[1]])
            if json_output:
                typer.echo(answer.model_dump_json(indent=2))
            else:
                result = answer.results[0]
                Console().print(metrics_table(result, answer.weights, answer.models))
            return
        if client is not None and url is not None:
            choice = score.on_server(client, url, numbers)
        else:
            choice = score.with_models(job, numbers, engine.value, address, workers)
        try:
            outcome = score.run_job(job, choice, restart, Console(stderr=True), warn)
        except KeyboardInterrupt:
            typer.echo("stopped; give the same command to go on with the rest", err=True)
            raise
    count, failed = outcome.rows, outcome.failed
    typer.echo(f"{count - failed} of {count} rows scored, written to {out}", err=True)
    if failed:
        typer.echo(f"{failed} rows have no score; see their column {prefix}error", err=True)
        raise typer.Exit(1)


@app.command()
def generate(
    source: Annotated[str, typer.Argument(help="A text file; - reads standard input.")],
    url: Url = None,
    json_output: Annotated[
        bool, typer.Option("--json", help="Print the whole answer, with its sources, as JSON.")
    ] = False,
    stream: Annotated[bool, typer.Option("--stream", help="Print as it is written.")] = False,
    max_new_tokens: Annotated[
        int | None, typer.Option(help="Longest summary, in tokens.", min=1, max=32768)
    ] = None,
    temperature: Annotated[
        float | None, typer.Option(help="0 decodes greedily.", min=0.0, max=2.0)
    ] = None,
    top_p: Annotated[float | None, typer.Option(help="Nucleus mass.", min=1e-6, max=1.0)] = None,
    repeat_penalty: Annotated[
        float | None, typer.Option(help="1 is none.", min=1e-6, max=10.0)
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Makes it repeatable.", min=0)] = None,
    n: Annotated[int | None, typer.Option("--n", help="Candidates to write.", min=1)] = None,
    select: Annotated[
        Selection | None, typer.Option(help="Score the candidates; the best comes first.")
    ] = None,
    weights: Annotated[
        str | None,
        typer.Option(help="Of the loss: relevance,factuality,fkgl,smog,dale_chall."),
    ] = None,
) -> None:
    """Write a plain-language summary of a medical text.

    With --n 8 --select loss: the best of eight. The candidates and their scores are shown on
    standard error.
    """
    from contextlib import ExitStack

    from rich.console import Console

    from serve_app.cli.generate import BestOf, generate_here, generate_there, read_source
    from serve_app.cli.score import parse_weights
    from serve_app.cli.tables import candidates_table
    from serve_app.client.clients import PlainMedClient

    if stream and json_output:
        raise typer.BadParameter("--json prints the finished answer; leave --stream out")
    if stream and (select is not None or (n or 1) > 1):
        raise typer.BadParameter("--stream is for one candidate; leave --n and --select out")
    if weights is not None and select is None:
        raise typer.BadParameter("--weights are of the loss that selects; give --select loss too")
    best = BestOf(n, None if select is None else "loss", parse_weights(weights))
    text = read_source(source)
    given: SamplingOptions = {}
    if max_new_tokens is not None:
        given["max_new_tokens"] = max_new_tokens
    if temperature is not None:
        given["temperature"] = temperature
    if top_p is not None:
        given["top_p"] = top_p
    if repeat_penalty is not None:
        given["repeat_penalty"] = repeat_penalty
    if seed is not None:
        given["seed"] = seed
    with ExitStack() as stack:
        if url is None:
            items = generate_here(text, given, stream, best)
        else:
            client = stack.enter_context(PlainMedClient(url))
            items = generate_there(client, text, given, stream, best)
        for item in items:
            if isinstance(item, str):
                typer.echo(item, nl=False)
                sys.stdout.flush()
            elif json_output:
                typer.echo(item.model_dump_json(indent=2))
            elif item.candidates is None:
                typer.echo("" if stream else item.summary)
            else:
                Console(stderr=True).print(candidates_table(item.candidates))
                chosen = item.candidates if select is None else item.candidates[:1]
                typer.echo("\n\n".join(one.summary for one in chosen))


@app.command()
def demo(
    config: Config = None,
    port: Annotated[int, typer.Option(help="0 finds a free one.", min=0, max=65535)] = 0,
    timeout: Annotated[float, typer.Option(help="Seconds to wait for the server.", min=1)] = 600.0,
) -> None:
    """Start a server, summarise and score a sample abstract over HTTP, show it, and stop."""
    from rich.console import Console

    from serve_app.cli.demo import free_port, run_demo

    port = port or free_port()
    address = ["--host", "127.0.0.1", "--port", str(port), "--services", ",".join(SERVICES)]
    command = [sys.executable, "-m", "serve_app.cli", "serve", *address]
    if config is not None:
        command.append(str(config))
    raise typer.Exit(run_demo(command, f"http://127.0.0.1:{port}", timeout, Console()))


app.command()(calibrate)
app.command()(report)
app.command()(compare)
app.command()(status)


@app.command()
def settings(
    markdown: Annotated[bool, typer.Option("--markdown", help="As a Markdown table.")] = False,
) -> None:
    """Print every setting: environment variable, values, default and meaning."""
    from serve_app.cli import tables

    if markdown:
        typer.echo(tables.settings_markdown())
        return
    from rich.console import Console

    Console().print(tables.settings_table())


@app.command()
def version() -> None:
    """Print the version."""
    typer.echo(f"plainmed {__version__}")


def main() -> None:
    """The `plainmed` command."""
    app()
