"""`plainmed ops`: parses, and hands over to `verbs`. Imports only typer until a verb runs.

Exit status: 0 done; 1 an external program failed or a service is not ready; 2 something was not as
needed, and the message says what to do; 130 interrupted.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

import typer

from serve_app.ops.errors import CommandFailed, OpsError
from serve_app.ops.options import Options, Specs, Target
from serve_app.ops.parameters import takes

if TYPE_CHECKING:
    from serve_app.ops.verbs import Verbs

app = typer.Typer(
    name="ops",
    help="Deploys and operates PlainMed on EKS (docs/operations.md).",
    no_args_is_help=True,
    rich_markup_mode="markdown",
)


@contextmanager
def _verbs(options: Options) -> Iterator[Verbs]:
    """The verbs of one call; turns a failure into a line and a status."""
    try:
        from serve_app.ops.runner import Runner
        from serve_app.ops.verbs import Verbs
    except ModuleNotFoundError as error:
        if error.name not in ("kubernetes", "boto3", "rich"):
            raise
        raise OpsError(
            f"the ops commands need {error.name}; run `make ops`, or pip install 'plainmed[ops]'"
        ) from None
    runner = Runner(options.dry_run, typer.echo)
    try:
        yield Verbs(options, runner, lambda text: _confirm(text, options.cluster))
    except CommandFailed as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(1) from None
    except KeyboardInterrupt:
        typer.echo("interrupted; run the same command again to go on", err=True)
        raise typer.Exit(130) from None


def _confirm(text: str, cluster: str) -> bool:
    typer.echo(text)
    typed = typer.prompt(f"Type {cluster} to go on", default="", show_default=False)
    return bool(typed.strip() == cluster)


SkipQuota = Annotated[bool, typer.Option("--skip-quota", help="Do not ask for the GPU quota.")]


@app.command()
@takes(
    "model_name", "model_bucket", "profile", "specs", "tag", "public", "state_bucket",
    "base_digest", "timeout", "yes",
)  # fmt: skip
def deploy(options: Options, skip_quota: SkipQuota = False) -> None:
    """From whatever there is to services that answer: infrastructure, images, releases."""
    with _verbs(options) as verbs:
        verbs.deploy(skip_quota)


@app.command()
@takes(
    "model_name", "model_bucket", "profile", "tag", "public", "state_bucket", "base_digest",
    "timeout",
)  # fmt: skip
def redeploy(options: Options, skip_quota: SkipQuota = False) -> None:
    """Build, push, upgrade; the earlier version answers until the new one is ready."""
    with _verbs(options) as verbs:
        verbs.redeploy(skip_quota)


@app.command()
@takes("model_bucket", "state_bucket")
def plan(options: Options) -> None:
    """Show what `apply` would change in the infrastructure, which both services share."""
    with _verbs(options) as verbs:
        verbs.plan()


@app.command()
@takes("model_name", "model_bucket", "profile", "state_bucket", "timeout", "yes")
def apply(options: Options) -> None:
    """Bring the infrastructure up to date, and the releases of TARGET there are; build nothing."""
    with _verbs(options) as verbs:
        verbs.apply()


@app.command()
@takes("timeout")
def stop(options: Options) -> None:
    """Scale to nothing; addresses, configuration and images stay."""
    with _verbs(options) as verbs:
        verbs.stop()


@app.command()
@takes("model_name", "model_bucket", "state_bucket", "timeout")
def restore(options: Options) -> None:
    """Bring stopped services back as they were; build nothing."""
    with _verbs(options) as verbs:
        verbs.restore()


@app.command()
@takes("model_bucket", "state_bucket", "timeout", "yes")
def destroy(options: Options) -> None:
    """Remove a release; for all, the whole environment. Models stay in any case."""
    with _verbs(options) as verbs:
        verbs.destroy()


@app.command()
@takes("timeout", target=...)
def rollback(
    options: Options,
    revision: Annotated[
        int | None, typer.Option(help="Helm's revision number. Default: the one before.", min=1)
    ] = None,
) -> None:
    """Back to an earlier revision, image and model included; without downtime."""
    if revision is not None and options.target is Target.ALL:
        raise typer.BadParameter("--revision is of one release; name metrics or generator")
    with _verbs(options) as verbs:
        verbs.rollback(revision)


@app.command()
@takes("timeout", target=Target.GENERATOR)
def max_specs(options: Options) -> None:
    """Generator workers of 16 vCPU and 64 GB."""
    _resize(options, Specs.MAX)


@app.command()
@takes("timeout", target=Target.GENERATOR)
def normal_specs(options: Options) -> None:
    """Generator workers of 4 vCPU and 16 GB."""
    _resize(options, Specs.NORMAL)


def _resize(options: Options, specs: Specs) -> None:
    if options.target is Target.METRICS:
        raise typer.BadParameter("metrics has one size; it scales by workers instead")
    with _verbs(replace(options, target=Target.GENERATOR, specs=specs)) as verbs:
        verbs.resize()


@app.command()
@takes()
def status(options: Options) -> None:
    """Conditions, applications, replicas, pods and recent events, in one table.

    Exit status 1 if a service is neither ready nor stopped.
    """
    with _verbs(options) as verbs:
        from rich.console import Console

        from serve_app.ops.report import status_table

        states = verbs.states()
        if options.dry_run:
            return
        Console().print(status_table(states))
        if not all(state.ready or state.stopped for state in states):
            raise typer.Exit(1)


@app.command()
@takes()
def endpoints(options: Options) -> None:
    """Where each service answers."""
    with _verbs(options) as verbs:
        verbs.endpoints()


@app.command()
@takes()
def logs(
    options: Options,
    tail: Annotated[int, typer.Option(help="Lines of each container.", min=1)] = 100,
    follow: Annotated[bool, typer.Option("--follow", help="Go on until Ctrl-C.")] = False,
    previous: Annotated[
        bool, typer.Option("--previous", help="Of the containers before their last restart.")
    ] = False,
) -> None:
    """The log of every container, each line with its pod before it."""
    if follow and previous:
        raise typer.BadParameter("--previous is finished; leave --follow out")
    with _verbs(options) as verbs:
        verbs.logs(tail, follow, previous)
