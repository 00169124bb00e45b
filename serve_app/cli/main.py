"""The command `plainmed`. Parses only: each command imports its work when it runs.

So `plainmed --help` answers at once. A user's mistake (`PlainMedError`) is one line on standard
error and exit status 2, never a traceback; status 1 means that the work itself failed.
"""

from __future__ import annotations

import sys
from enum import StrEnum
from typing import Annotated, Any, cast, get_args

import typer
from typer.core import TyperGroup

from serve_app import __version__
from serve_app.cli.calibrate import calibrate
from serve_app.cli.check import check
from serve_app.cli.doctor import doctor
from serve_app.cli.evaluate import evaluate
from serve_app.cli.keys import app as keys_app
from serve_app.cli.mcp import mcp
from serve_app.cli.options import Config, Profile, Url, Weights
from serve_app.cli.report import compare, report
from serve_app.cli.score import parse_weights, score
from serve_app.cli.status import status
from serve_app.cli.targets import app as targets_app
from serve_app.cli.validate import validate
from serve_app.core.errors import PlainMedError
from serve_app.core.printable import printable
from serve_app.ops.cli import app as ops_app


class Selection(StrEnum):
    """How the best candidate is selected."""

    LOSS = "loss"


class _Group(TyperGroup):
    """Turns PlainMed's errors into one line and an exit status."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except PlainMedError as error:
            typer.echo(f"error: {printable(str(error))}", err=True)
            raise typer.Exit(2) from None


app = typer.Typer(
    name="plainmed",
    cls=_Group,
    help="Scores and generates plain-language summaries of medical text.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,  # would print the user's texts as local variables
)
app.add_typer(targets_app)
app.add_typer(keys_app)
app.add_typer(ops_app)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"plainmed {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option(
            "--version", help="Print the version.", is_eager=True, callback=_print_version
        ),
    ] = False,
) -> None:
    pass


@app.command()
def serve(
    config: Config = None,
    host: Annotated[
        str | None, typer.Option(help="Address to listen on; default: HOST, else the config.")
    ] = None,
    port: Annotated[
        int | None,
        typer.Option(help="Port; default: PORT, else the config.", min=1, max=65535),
    ] = None,
    services: Annotated[
        str | None, typer.Option(help="metrics, generator, or metrics,generator.")
    ] = None,
    systemd: Annotated[
        bool, typer.Option("--systemd", help="Print a systemd unit of this command, and exit.")
    ] = False,
) -> None:
    """Serve the HTTP API on this machine until Ctrl-C or SIGTERM, then drain and stop."""
    wanted = _services(services)
    from serve_app.serving import server

    if not systemd:
        raise typer.Exit(server.serve(config, host, port, wanted))
    given = {"--host": host, "--port": port, "--services": services}
    options = [str(part) for pair in given.items() if pair[1] is not None for part in pair]
    command = [sys.executable, "-m", "serve_app.cli", "serve", *options]
    if config is not None:
        command.append(str(config.resolve()))
    document = server.load_document(config, host=host, port=port, services=wanted)
    typer.echo(server.systemd_unit(command, server.drain_timeout_s(document)), nl=False)


def _services(text: str | None) -> list[str] | None:
    from serve_app.core.schemas import Service

    if text is None:
        return None
    names = [name.strip() for name in text.split(",")]
    for name in names:
        if name not in get_args(Service):
            raise typer.BadParameter(f"{name!r} is not one of {', '.join(get_args(Service))}")
    return names


app.command()(score)
app.command()(evaluate)


@app.command()
def generate(
    source: Annotated[str, typer.Argument(help="A text file; - reads standard input.")],
    url: Url = None,
    json_output: Annotated[
        bool, typer.Option("--json", help="Print the whole answer, with its sources, as JSON.")
    ] = False,
    stream: Annotated[
        bool, typer.Option("--stream", help="Print the summary while it is being written.")
    ] = False,
    max_new_tokens: Annotated[
        int | None, typer.Option(help="Longest summary, in tokens.", min=1, max=32768)
    ] = None,
    temperature: Annotated[
        float | None,
        typer.Option(help="Sampling temperature; 0 decodes greedily.", min=0.0, max=2.0),
    ] = None,
    top_p: Annotated[
        float | None, typer.Option(help="Top-p (nucleus) sampling threshold.", min=1e-6, max=1.0)
    ] = None,
    repeat_penalty: Annotated[
        float | None, typer.Option(help="Repetition penalty; 1 is none.", min=1e-6, max=10.0)
    ] = None,
    seed: Annotated[
        int | None, typer.Option(help="Random seed, for reproducible output.", min=0)
    ] = None,
    n: Annotated[int | None, typer.Option("--n", help="Number of candidates.", min=1)] = None,
    select: Annotated[
        Selection | None, typer.Option(help="Score the candidates and print the best.")
    ] = None,
    weights: Weights = None,
    profile: Profile = None,
) -> None:
    """Write a plain-language summary of a medical text.

    The best of eight: --n 8 --select loss. Candidates and scores go to standard error.
    """
    from contextlib import ExitStack

    from rich.console import Console

    from serve_app.cli.generate import BestOf, generate_here, generate_there, read_source
    from serve_app.cli.tables import candidates_table
    from serve_app.client.clients import PlainMedClient, SamplingOptions

    if stream and json_output:
        raise typer.BadParameter("--json prints the finished answer; omit --stream")
    if stream and (select is not None or (n or 1) > 1):
        raise typer.BadParameter("--stream is for a single candidate; omit --n and --select")
    if weights is not None and select is None:
        raise typer.BadParameter("--weights is for the loss that selects; add --select loss")
    if profile is not None and select is None:
        raise typer.BadParameter("--profile is for the loss that selects; add --select loss")
    best = BestOf(n, None if select is None else "loss", parse_weights(weights), profile)
    text = read_source(source)
    options = {
        "max_new_tokens": max_new_tokens,
        "temperature": temperature,
        "top_p": top_p,
        "repeat_penalty": repeat_penalty,
        "seed": seed,
    }
    given = cast(SamplingOptions, {k: v for k, v in options.items() if v is not None})
    with ExitStack() as stack:
        if url is None:
            items = generate_here(text, given, stream, best)
        else:
            client = stack.enter_context(PlainMedClient(url))
            items = generate_there(client, text, given, stream, best)
        for item in items:
            if isinstance(item, str):
                typer.echo(_for_terminal(item), nl=False)
                sys.stdout.flush()
            elif json_output:
                typer.echo(item.model_dump_json(indent=2))
            elif item.candidates is None:
                typer.echo("" if stream else _for_terminal(item.summary))
            else:
                Console(stderr=True).print(candidates_table(item.candidates))
                chosen = item.candidates if select is None else item.candidates[:1]
                typer.echo(_for_terminal("\n\n".join(one.summary for one in chosen)))


def _for_terminal(text: str) -> str:
    """The text as it is for a file or a pipe; on a terminal without control characters."""
    return "\n".join(map(printable, text.split("\n"))) if sys.stdout.isatty() else text


@app.command()
def demo(
    config: Config = None,
    port: Annotated[int, typer.Option(help="Port; 0: any free one.", min=0, max=65535)] = 0,
    timeout: Annotated[
        float, typer.Option(help="Seconds to wait until the server is ready.", min=1)
    ] = 600.0,
) -> None:
    """Start a server, summarise and score a sample abstract over HTTP, and stop the server."""
    from rich.console import Console

    from serve_app.cli.demo import free_port, run_demo
    from serve_app.core.schemas import Service

    port = port or free_port()
    address = [
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
        "--services",
        ",".join(get_args(Service)),
    ]
    command = [sys.executable, "-m", "serve_app.cli", "serve", *address]
    if config is not None:
        command.append(str(config))
    raise typer.Exit(run_demo(command, f"http://127.0.0.1:{port}", timeout, Console()))


app.command()(calibrate)
app.command()(check)
app.command()(report)
app.command()(compare)
app.command()(validate)
app.command()(status)
app.command()(doctor)
app.command()(mcp)


@app.command()
def settings(
    markdown: Annotated[bool, typer.Option("--markdown", help="Print a Markdown table.")] = False,
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
    _print_version(True)


def main() -> None:
    """The `plainmed` command."""
    app()
