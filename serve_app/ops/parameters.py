"""The options that verbs of `plainmed ops` share, and how a verb's function gets them as `Options`.

Knows typer; runs nothing.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Concatenate, ParamSpec

import typer

from serve_app.ops.options import Environment, Options, Profile, Specs, Target

P = ParamSpec("P")


@dataclass(frozen=True, slots=True)
class _Parameter:
    """A parameter of the command line.

    Attributes:
        type: of what is typed.
        info: what typer shows and checks.
        default: where it is left out.
        field: of `Options`; None: of the parameter's own name.
        convert: from what was typed to the field's value.
    """

    type: Any
    info: Any
    default: Any = None
    field: str | None = None
    convert: Callable[[Any], Any] | None = None


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
                "--public: refusing the whole Internet: a key is all that callers need; name ranges"
            )
    return ranges


_PARAMETERS = {
    "target": _Parameter(Target, typer.Argument(help="Which service, or both."), Target.ALL),
    "environment": _Parameter(
        Environment,
        typer.Option("--env", envvar="PLAINMED_ENV", help="A file of terraform-eks/environments/."),
        Environment.DEV,
    ),
    "region": _Parameter(
        str | None,
        typer.Option(envvar="PLAINMED_REGION", help="Over the region of the environment's file."),
    ),
    "model_name": _Parameter(
        str | None,
        typer.Option(
            envvar="MODEL_NAME",
            help="Generator model: a folder of merged-models/ in the bucket. Default: as "
            "deployed, else the extractive engine.",
        ),
    ),
    "model_bucket": _Parameter(
        str | None,
        typer.Option(
            envvar="MODEL_S3_BUCKET",
            help="Bucket of the models. Never deleted. Default: as in account.auto.tfvars.",
        ),
    ),
    "profile": _Parameter(
        Profile | None,
        typer.Option(help="Values file of the chart. Default: as deployed, else cpu."),
    ),
    "specs": _Parameter(
        Specs | None,
        typer.Option(help="Size of the generator's workers. Default: as deployed, else normal."),
    ),
    "tag": _Parameter(
        str | None,
        typer.Option(help="Image tag. Default: the commit, and the time if it is changed."),
    ),
    "public": _Parameter(
        str | None,
        typer.Option(
            help="Comma-separated address ranges that may call the services from outside the "
            "VPC; `none` takes them back. Default: as deployed, else reachable inside the VPC only."
        ),
        field="public_ranges",
        convert=_ranges,
    ),
    "state_bucket": _Parameter(
        str | None,
        typer.Option(
            envvar="PLAINMED_STATE_BUCKET",
            help="Bucket of Terraform's state. Default: plainmed-tfstate-ACCOUNT-REGION.",
        ),
    ),
    "base_digest": _Parameter(
        str | None,
        typer.Option(
            envvar="BASE_DIGEST", help="sha256:... of the image's base (docs/kubernetes.md)."
        ),
    ),
    "timeout": _Parameter(
        float,
        typer.Option(help="Seconds to wait for a service to be ready.", min=1.0),
        1800.0,
        field="timeout_s",
    ),
    "yes": _Parameter(bool, typer.Option("--yes", help="Do not ask."), False),
    "dry_run": _Parameter(
        bool,
        typer.Option(
            "--dry-run", help="Print every command and change nothing; needs no credentials."
        ),
        False,
    ),
    "root": _Parameter(
        Path | None,
        typer.Option(help="The checkout. Default: this directory, or where plainmed is installed."),
        convert=_root,
    ),
}
"""In the order of --help. Every verb takes `_ALWAYS`."""

_ALWAYS = ("target", "environment", "region", "dry_run", "root")
_LAST = ("yes", "dry_run", "root")
_KEYWORD = inspect.Parameter.KEYWORD_ONLY


def takes(
    *names: str, **defaults: Any
) -> Callable[[Callable[Concatenate[Options, P], None]], Callable[..., None]]:
    """Makes a command of a function of `Options` and of parameters of its own.

    Args:
        names: of shared parameters, beside those that every verb takes.
        defaults: of shared parameters, where they differ here; `...` makes one required.
    """
    shared = {name: one for name, one in _PARAMETERS.items() if name in names or name in _ALWAYS}

    def decorate(body: Callable[Concatenate[Options, P], None]) -> Callable[..., None]:
        own = list(inspect.signature(body, eval_str=True).parameters.values())[1:]
        asked = {
            name: inspect.Parameter(
                name,
                _KEYWORD,
                default=_default(defaults.get(name, one.default)),
                annotation=Annotated[one.type, one.info],
            )
            for name, one in shared.items()
        }
        last = [asked.pop(name) for name in _LAST if name in asked]
        order = [*asked.values(), *(one.replace(kind=_KEYWORD) for one in own), *last]

        def command(**given: Any) -> None:
            values = {
                one.field or name: one.convert(given.pop(name)) if one.convert else given.pop(name)
                for name, one in shared.items()
            }
            body(Options(**values), **given)  # type: ignore[call-arg]  # by typer's word

        command.__name__, command.__doc__ = body.__name__, body.__doc__
        command.__annotations__ = {one.name: one.annotation for one in order}
        # What typer reads; it knows nothing of how it came about.
        command.__signature__ = inspect.Signature(order)  # type: ignore[attr-defined]
        return command

    return decorate


def _default(value: Any) -> Any:
    return inspect.Parameter.empty if value is ... else value
