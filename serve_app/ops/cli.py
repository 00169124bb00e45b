"""`plainmed ops`: parses, and hands over to `verbs`. Imports only typer until a verb runs.

Exit status: 0 done; 1 an external program failed or a service is not ready; 2 something was not as
needed, and the message says what to do; 130 interrupted.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from serve_app.ops.errors import CommandFailed, OpsError
from serve_app.ops.options import Environment, Options, Profile, Specs, Target

if TYPE_CHECKING:
    from serve_app.ops.verbs import Verbs

app = typer.Typer(
    name="ops",
    help="Deploys and operates PlainMed on EKS (docs/operations.md).",
    no_args_is_help=True,
    rich_markup_mode="markdown",
)

What = Annotated[Target, typer.Argument(help="Which service, or both.")]
Env = Annotated[
    Environment,
    typer.Option("--env", envvar="PLAINMED_ENV", help="A file of terraform-eks/environments/."),
]
Region = Annotated[
    str | None,
    typer.Option(envvar="PLAINMED_REGION", help="Over the region of the environment's file."),
]
ModelName = Annotated[
    str | None,
    typer.Option(
        envvar="MODEL_NAME",
        help="Generator model: a folder of merged-models/ in the bucket. Default: as deployed, "
        "else the extractive engine.",
    ),
]
ModelBucket = Annotated[
    str | None,
    typer.Option(
        envvar="MODEL_S3_BUCKET",
        help="Bucket of the models. Never deleted. Default: as in account.auto.tfvars.",
    ),
]
WorkersProfile = Annotated[
    Profile | None,
    typer.Option(help="Values file of the chart. Default: as deployed, else cpu."),
]
Size = Annotated[
    Specs | None,
    typer.Option(help="Size of the generator's workers. Default: as deployed, else normal."),
]
Tag = Annotated[
    str | None, typer.Option(help="Image tag. Default: the commit, and the time if it is changed.")
]
Public = Annotated[
    str | None,
    typer.Option(
        help="Comma-separated address ranges that may call the services from outside the VPC; "
        "`none` takes them back. Default: as deployed, else reachable inside the VPC only."
    ),
]
StateBucket = Annotated[
    str | None,
    typer.Option(
        envvar="PLAINMED_STATE_BUCKET",
        help="Bucket of Terraform's state. Default: plainmed-tfstate-ACCOUNT-REGION.",
    ),
]
BaseDigest = Annotated[
    str | None,
    typer.Option(envvar="BASE_DIGEST", help="sha256:... of the image's base (docs/kubernetes.md)."),
]
Timeout = Annotated[float, typer.Option(help="Seconds to wait for a service to be ready.", min=1.0)]
SkipQuota = Annotated[bool, typer.Option("--skip-quota", help="Do not ask for the GPU quota.")]
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask.")]
DryRun = Annotated[
    bool,
    typer.Option("--dry-run", help="Print every command and change nothing; needs no credentials."),
]
Root = Annotated[
    Path | None,
    typer.Option(help="The checkout. Default: this directory, or where plainmed is installed."),
]


def _root(given: Path | None) -> Path:
    if given is not None:
        return given
    here = Path.cwd()
    if (here / "helm" / "plainmed").is_dir():
        return Path()  # commands stay short, and can be pasted
    return Path(__file__).resolve().parents[2]


def _ranges(text: str | None) -> tuple[str, ...] | None:
    if text is None:
        return None
    if text == "none":
        return ()
    from ipaddress import ip_network

    ranges = tuple(part.strip() for part in text.split(","))
    for part in ranges:
        try:
            network = ip_network(part)
        except ValueError as error:
            raise typer.BadParameter(f"--public: {error}; write 198.51.100.0/24") from None
        if network.prefixlen == 0:
            raise typer.BadParameter(
                "--public: refusing the whole Internet: the services have no login; name the ranges"
            )
    return ranges


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


@app.command()
def deploy(
    target: What = Target.ALL,
    environment: Env = Environment.DEV,
    region: Region = None,
    model_name: ModelName = None,
    model_bucket: ModelBucket = None,
    profile: WorkersProfile = None,
    specs: Size = None,
    tag: Tag = None,
    public: Public = None,
    state_bucket: StateBucket = None,
    base_digest: BaseDigest = None,
    timeout: Timeout = 1800.0,
    skip_quota: SkipQuota = False,
    yes: Yes = False,
    dry_run: DryRun = False,
    root: Root = None,
) -> None:
    """From whatever there is to services that answer: infrastructure, images, releases."""
    options = Options(
        target,
        _root(root),
        environment,
        region,
        profile,
        specs,
        model_name,
        model_bucket,
        tag,
        _ranges(public),
        state_bucket,
        base_digest,
        timeout,
        yes,
        dry_run,
    )
    with _verbs(options) as verbs:
        verbs.deploy(skip_quota)


@app.command()
def redeploy(
    target: What = Target.ALL,
    environment: Env = Environment.DEV,
    region: Region = None,
    model_name: ModelName = None,
    model_bucket: ModelBucket = None,
    profile: WorkersProfile = None,
    tag: Tag = None,
    public: Public = None,
    state_bucket: StateBucket = None,
    base_digest: BaseDigest = None,
    timeout: Timeout = 1800.0,
    skip_quota: SkipQuota = False,
    dry_run: DryRun = False,
    root: Root = None,
) -> None:
    """Build, push, upgrade; the earlier version answers until the new one is ready."""
    options = Options(
        target,
        _root(root),
        environment,
        region,
        profile,
        None,
        model_name,
        model_bucket,
        tag,
        _ranges(public),
        state_bucket,
        base_digest,
        timeout,
        dry_run=dry_run,
    )
    with _verbs(options) as verbs:
        verbs.redeploy(skip_quota)


@app.command()
def plan(
    target: What = Target.ALL,
    environment: Env = Environment.DEV,
    region: Region = None,
    model_bucket: ModelBucket = None,
    state_bucket: StateBucket = None,
    dry_run: DryRun = False,
    root: Root = None,
) -> None:
    """Show what `apply` would change in the infrastructure, which both services share."""
    options = Options(
        target,
        _root(root),
        environment,
        region,
        model_bucket=model_bucket,
        state_bucket=state_bucket,
        dry_run=dry_run,
    )
    with _verbs(options) as verbs:
        verbs.plan()


@app.command()
def apply(
    target: What = Target.ALL,
    environment: Env = Environment.DEV,
    region: Region = None,
    model_name: ModelName = None,
    model_bucket: ModelBucket = None,
    profile: WorkersProfile = None,
    state_bucket: StateBucket = None,
    timeout: Timeout = 1800.0,
    yes: Yes = False,
    dry_run: DryRun = False,
    root: Root = None,
) -> None:
    """Bring the infrastructure up to date, and the releases of TARGET there are; build nothing."""
    options = Options(
        target,
        _root(root),
        environment,
        region,
        profile,
        model_name=model_name,
        model_bucket=model_bucket,
        state_bucket=state_bucket,
        timeout_s=timeout,
        yes=yes,
        dry_run=dry_run,
    )
    with _verbs(options) as verbs:
        verbs.apply()


@app.command()
def stop(
    target: What = Target.ALL,
    environment: Env = Environment.DEV,
    region: Region = None,
    timeout: Timeout = 1800.0,
    dry_run: DryRun = False,
    root: Root = None,
) -> None:
    """Scale to nothing; addresses, configuration and images stay."""
    options = Options(target, _root(root), environment, region, timeout_s=timeout, dry_run=dry_run)
    with _verbs(options) as verbs:
        verbs.stop()


@app.command()
def restore(
    target: What = Target.ALL,
    environment: Env = Environment.DEV,
    region: Region = None,
    model_name: ModelName = None,
    model_bucket: ModelBucket = None,
    state_bucket: StateBucket = None,
    timeout: Timeout = 1800.0,
    dry_run: DryRun = False,
    root: Root = None,
) -> None:
    """Bring stopped services back as they were; build nothing."""
    options = Options(
        target,
        _root(root),
        environment,
        region,
        model_name=model_name,
        model_bucket=model_bucket,
        state_bucket=state_bucket,
        timeout_s=timeout,
        dry_run=dry_run,
    )
    with _verbs(options) as verbs:
        verbs.restore()


@app.command()
def destroy(
    target: What = Target.ALL,
    environment: Env = Environment.DEV,
    region: Region = None,
    model_bucket: ModelBucket = None,
    state_bucket: StateBucket = None,
    timeout: Timeout = 1800.0,
    yes: Yes = False,
    dry_run: DryRun = False,
    root: Root = None,
) -> None:
    """Remove a release; for all, the whole environment. Models stay in any case."""
    options = Options(
        target,
        _root(root),
        environment,
        region,
        model_bucket=model_bucket,
        state_bucket=state_bucket,
        timeout_s=timeout,
        yes=yes,
        dry_run=dry_run,
    )
    with _verbs(options) as verbs:
        verbs.destroy()


@app.command()
def rollback(
    target: Annotated[Target, typer.Argument(help="Which service, or both.")],
    revision: Annotated[
        int | None, typer.Option(help="Helm's revision number. Default: the one before.", min=1)
    ] = None,
    environment: Env = Environment.DEV,
    region: Region = None,
    timeout: Timeout = 1800.0,
    dry_run: DryRun = False,
    root: Root = None,
) -> None:
    """Back to an earlier revision, image and model included; without downtime."""
    if revision is not None and target is Target.ALL:
        raise typer.BadParameter("--revision is of one release; name metrics or generator")
    options = Options(target, _root(root), environment, region, timeout_s=timeout, dry_run=dry_run)
    with _verbs(options) as verbs:
        verbs.rollback(revision)


@app.command()
def max_specs(
    target: What = Target.GENERATOR,
    environment: Env = Environment.DEV,
    region: Region = None,
    timeout: Timeout = 1800.0,
    dry_run: DryRun = False,
    root: Root = None,
) -> None:
    """Generator workers of 16 vCPU and 64 GB."""
    _resize(Specs.MAX, target, environment, region, timeout, dry_run, root)


@app.command()
def normal_specs(
    target: What = Target.GENERATOR,
    environment: Env = Environment.DEV,
    region: Region = None,
    timeout: Timeout = 1800.0,
    dry_run: DryRun = False,
    root: Root = None,
) -> None:
    """Generator workers of 4 vCPU and 16 GB."""
    _resize(Specs.NORMAL, target, environment, region, timeout, dry_run, root)


def _resize(
    specs: Specs,
    target: Target,
    environment: Environment,
    region: str | None,
    timeout: float,
    dry_run: bool,
    root: Path | None,
) -> None:
    if target is Target.METRICS:
        raise typer.BadParameter("metrics has one size; it scales by workers instead")
    options = Options(
        Target.GENERATOR,
        _root(root),
        environment,
        region,
        specs=specs,
        timeout_s=timeout,
        dry_run=dry_run,
    )
    with _verbs(options) as verbs:
        verbs.resize()


@app.command()
def status(
    target: What = Target.ALL,
    environment: Env = Environment.DEV,
    region: Region = None,
    dry_run: DryRun = False,
    root: Root = None,
) -> None:
    """Conditions, applications, replicas, pods and recent events, in one table.

    Exit status 1 if a service is neither ready nor stopped.
    """
    with _verbs(Options(target, _root(root), environment, region, dry_run=dry_run)) as verbs:
        from rich.console import Console

        from serve_app.ops.report import status_table

        states = verbs.states()
        if dry_run:
            return
        Console().print(status_table(states))
        if not all(state.ready or state.stopped for state in states):
            raise typer.Exit(1)


@app.command()
def endpoints(
    target: What = Target.ALL,
    environment: Env = Environment.DEV,
    region: Region = None,
    dry_run: DryRun = False,
    root: Root = None,
) -> None:
    """Where each service answers."""
    with _verbs(Options(target, _root(root), environment, region, dry_run=dry_run)) as verbs:
        verbs.endpoints()


@app.command()
def logs(
    target: What = Target.ALL,
    environment: Env = Environment.DEV,
    region: Region = None,
    tail: Annotated[int, typer.Option(help="Lines of each container.", min=1)] = 100,
    follow: Annotated[bool, typer.Option("--follow", help="Go on until Ctrl-C.")] = False,
    previous: Annotated[
        bool, typer.Option("--previous", help="Of the containers before their last restart.")
    ] = False,
    dry_run: DryRun = False,
    root: Root = None,
) -> None:
    """The log of every container, each line with its pod before it."""
    if follow and previous:
        raise typer.BadParameter("--previous is finished; leave --follow out")
    with _verbs(Options(target, _root(root), environment, region, dry_run=dry_run)) as verbs:
        verbs.logs(tail, follow, previous)
