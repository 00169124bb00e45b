"""`plainmed ops`: parses, and hands over to `verbs`. Imports only typer until a verb runs.

Exit status: 0 done; 1 an external program failed or a service is not ready; 2 a precondition does
not hold, and the message says what to do; 130 interrupted.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import MISSING, fields
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer

from serve_app.ops.errors import CommandFailed, OpsError
from serve_app.ops.options import Options, Specs, Target

if TYPE_CHECKING:
    from serve_app.ops.verbs import Verbs

app = typer.Typer(
    name="ops",
    help="Deploys and operates PlainMed on EKS (docs/operations.md).",
    no_args_is_help=True,
    rich_markup_mode="markdown",
)

_FIRST, _LAST = ("target", "environment", "region"), ("dry_run", "root")
"""Options of every verb; the last two, and `yes` before them, end its --help."""


@contextmanager
def _verbs(options: Options) -> Iterator[Verbs]:
    """The verbs of one call; turns a failure into a line and a status."""
    try:
        from serve_app.ops.runner import Runner
        from serve_app.ops.verbs import Verbs
    except ModuleNotFoundError as error:
        if error.name not in ("kubernetes", "boto3"):
            raise
        raise OpsError(
            f"the ops commands need {error.name}; run `make ops`, or pip install 'plainmed[ops]'"
        ) from None
    try:
        yield Verbs(options, Runner(options.dry_run, typer.echo), _confirm)
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


def _command(*names: str, **defaults: Any) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Registers a function of `Verbs` and of its own options as a command.

    Args:
        names: fields of `Options` it takes, beside those of every verb.
        defaults: of these fields where they differ here; `...` makes one required.
    """

    def decorate(body: Callable[..., None]) -> Callable[..., None]:
        types, empty = get_type_hints(Options, include_extras=True), inspect.Parameter.empty
        shared = {}
        for one in fields(Options):
            if one.name in (*_FIRST, *names, *_LAST):
                usual = one.default_factory if one.default is MISSING else one.default
                default = defaults.get(one.name, usual)
                shared[one.name] = inspect.Parameter(
                    one.name,
                    inspect.Parameter.KEYWORD_ONLY,
                    default=empty if default in (..., MISSING) else default,
                    annotation=types[one.name],
                )
        signature = inspect.signature(body, eval_str=True, locals={"Verbs": Any})
        own = [
            one.replace(kind=inspect.Parameter.KEYWORD_ONLY)
            for one in list(signature.parameters.values())[1:]
        ]
        last = [shared[name] for name in ("yes", *_LAST) if name in shared]
        first = [one for one in shared.values() if one not in last]

        def command(**given: Any) -> None:
            options = Options(**{name: given.pop(name) for name in shared})
            with _verbs(options) as verbs:
                body(verbs, **given)

        command.__name__, command.__doc__ = body.__name__, body.__doc__
        order = [*first, *own, *last]
        command.__annotations__ = {one.name: one.annotation for one in order}
        command.__signature__ = inspect.Signature(order)  # type: ignore[attr-defined]  # for typer
        return app.command()(command)

    return decorate


_IMAGE = ("model_name", "model_bucket", "profile", "tag", "public", "state_bucket", "base_digest")
SkipQuota = Annotated[bool, typer.Option("--skip-quota", help="Do not ask for the GPU quota.")]


@_command(*_IMAGE, "specs", "timeout_s", "yes")
def deploy(verbs: Verbs, skip_quota: SkipQuota = False) -> None:
    """From whatever there is to services that answer: infrastructure, images, releases."""
    verbs.deploy(skip_quota)


@_command(*_IMAGE, "timeout_s")
def redeploy(verbs: Verbs, skip_quota: SkipQuota = False) -> None:
    """Build, push, upgrade; the earlier version answers until the new one is ready."""
    verbs.redeploy(skip_quota)


@_command("model_bucket", "state_bucket")
def plan(verbs: Verbs) -> None:
    """Show what `apply` would change in the infrastructure, which both services share."""
    verbs.plan()


@_command("model_name", "model_bucket", "profile", "state_bucket", "timeout_s", "yes")
def apply(verbs: Verbs) -> None:
    """Bring the infrastructure up to date, and the releases of TARGET there are; build nothing."""
    verbs.apply()


@_command("timeout_s")
def stop(verbs: Verbs) -> None:
    """Scale to nothing; addresses, configuration and images stay."""
    verbs.stop()


@_command("model_name", "model_bucket", "state_bucket", "timeout_s")
def restore(verbs: Verbs) -> None:
    """Bring stopped services back as they were; build nothing."""
    verbs.restore()


@_command("model_bucket", "state_bucket", "timeout_s", "yes")
def destroy(verbs: Verbs) -> None:
    """Remove a release; for all, the whole environment. Models stay in any case."""
    verbs.destroy()


@_command("timeout_s", target=...)
def rollback(
    verbs: Verbs,
    revision: Annotated[
        int | None,
        typer.Option(
            help="Helm's revision number. Default: the last other one that was ready.", min=1
        ),
    ] = None,
) -> None:
    """Back to a revision that served, image and model included; ends an upgrade that hangs."""
    if revision is not None and verbs.options.target is Target.ALL:
        raise typer.BadParameter("--revision is of one release; name metrics or generator")
    verbs.rollback(revision)


@_command("timeout_s", target=Target.GENERATOR)
def max_specs(verbs: Verbs) -> None:
    """Generator workers of 16 vCPU and 64 GB."""
    _resize(verbs, Specs.MAX)


@_command("timeout_s", target=Target.GENERATOR)
def normal_specs(verbs: Verbs) -> None:
    """Generator workers of 4 vCPU and 16 GB."""
    _resize(verbs, Specs.NORMAL)


def _resize(verbs: Verbs, specs: Specs) -> None:
    if verbs.options.target is Target.METRICS:
        raise typer.BadParameter("metrics has one size; it scales by workers instead")
    verbs.resize(specs)


@_command()
def status(verbs: Verbs) -> None:
    """Conditions, applications, replicas, pods and recent events.

    Exit status 1 if a service is neither ready nor stopped.
    """
    if not verbs.status():
        raise typer.Exit(1)


@_command()
def endpoints(verbs: Verbs) -> None:
    """Where each service answers."""
    verbs.endpoints()


@_command()
def logs(
    verbs: Verbs,
    tail: Annotated[int, typer.Option(help="Lines of each container.", min=1)] = 100,
    follow: Annotated[bool, typer.Option("--follow", help="Go on until Ctrl-C.")] = False,
    previous: Annotated[
        bool, typer.Option("--previous", help="Of the containers before their last restart.")
    ] = False,
) -> None:
    """The log of every container, each line with its pod before it."""
    if follow and previous:
        raise typer.BadParameter("--previous is finished; leave --follow out")
    verbs.logs(tail, follow, previous)
