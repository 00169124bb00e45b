"""The domain's names (services, releases, environments) and the options of one call of a verb.

Knows names, paths and how typer declares an option; runs and asks nothing.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from enum import StrEnum
from ipaddress import IPv4Network, IPv6Network, collapse_addresses, ip_network
from pathlib import Path
from typing import Annotated, Any

import typer

from serve_app.ops.errors import OpsError

NAME = "plainmed"
NAMESPACE = "plainmed"
PORTS = {"metrics": 8001, "generator": 8000}

_BUCKET = (r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]", "a bucket's name, without s3://")
_FORMS = {
    "model_name": (
        r"[A-Za-z0-9]([A-Za-z0-9._ -]{0,126}[A-Za-z0-9._-])?",
        "letters, digits, dots, hyphens, underscores and spaces between them",
    ),
    "model_bucket": _BUCKET,
    "state_bucket": _BUCKET,
    "region": (r"[a-z]{2}(-[a-z]+)+-\d", "an AWS region, such as eu-west-1"),
    "tag": (r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}", "an image tag"),
    "base_digest": (r"sha256:[0-9a-f]{64}", "sha256: and 64 hexadecimal digits"),
}
"""Options of free text: the pattern of each, and the pattern in words."""
_INSIDE = [ip_network(text) for text in ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16")]
_INSIDE += [ip_network("100.64.0.0/10"), ip_network("fc00::/7")]
"""Private ranges, which --public takes in any number."""
_MOST_PUBLIC = {4: 2**24, 6: 2**108}
"""Most public addresses that --public takes by IP version: a /8, a /20."""
_SHOWN = {"model_name": "MODEL_NAME", "model_bucket": "MODEL_S3_BUCKET"}


class Target(StrEnum):
    """Which services a verb is about."""

    METRICS = "metrics"
    GENERATOR = "generator"
    ALL = "all"

    @property
    def services(self) -> tuple[str, ...]:
        """The services, metrics first."""
        return ("metrics", "generator") if self is Target.ALL else (self.value,)


class Environment(StrEnum):
    """A file of terraform-eks/environments/."""

    DEV = "dev"
    PROD = "prod"


class Profile(StrEnum):
    """A values-NAME.yaml of the chart, for workers on nodes of that kind."""

    CPU = "cpu"
    GPU = "gpu"
    HA = "ha"
    VLLM = "vllm"

    @property
    def image(self) -> str:
        """Its image: a target of the Dockerfile and the name of a repository."""
        return "cpu" if self is Profile.HA else self.value

    @property
    def node_vcpus(self) -> int:
        """vCPUs of its GPU node in terraform-eks/environments/ (g5.xlarge, g5.12xlarge), else 0."""
        return {Profile.GPU: 4, Profile.VLLM: 48}.get(self, 0)

    @property
    def gpu(self) -> bool:
        """Whether the generator's workers need GPUs. Metrics gain nothing by them."""
        return self.node_vcpus > 0


class Specs(StrEnum):
    """The size of the generator's workers: 4 vCPU and 16 GB, or 16 vCPU and 64 GB."""

    NORMAL = "normal"
    MAX = "max"


def release_name(service: str) -> str:
    """The name of a service's Helm release, RayService, Service and service account."""
    return f"{NAME}-{service}"


def _checkout() -> Path:
    if Path("helm/plainmed").is_dir():
        return Path()  # commands stay short, and can be pasted
    return Path(__file__).resolve().parents[2]


@dataclass(frozen=True, slots=True)
class Options:
    """The shared options of a verb, in the order of --help, as typer declares them.

    An option left at None keeps what the release has, else takes the default its help names.

    Raises:
        OpsError: an option is malformed, or does not fit another.
    """

    target: Annotated[Target, typer.Argument(help="Which service, or both.")] = Target.ALL
    environment: Annotated[
        Environment,
        typer.Option("--env", envvar="PLAINMED_ENV", help="A file of terraform-eks/environments/."),
    ] = Environment.DEV
    region: Annotated[
        str | None,
        typer.Option(envvar="PLAINMED_REGION", help="Default: the environment file's region."),
    ] = None
    model_name: Annotated[
        str | None,
        typer.Option(
            envvar="MODEL_NAME",
            help="Generator model: a folder of merged-models/ in the bucket. Default: as "
            "deployed, else the extractive engine.",
        ),
    ] = None
    model_bucket: Annotated[
        str | None,
        typer.Option(
            envvar="MODEL_S3_BUCKET",
            help="Bucket of the models. Never deleted. Default: as in account.auto.tfvars.",
        ),
    ] = None
    profile: Annotated[
        Profile | None,
        typer.Option(help="Values file of the chart. Default: as deployed, else cpu."),
    ] = None
    specs: Annotated[
        Specs | None,
        typer.Option(help="Size of the generator's workers. Default: as deployed, else normal."),
    ] = None
    tag: Annotated[
        str | None,
        typer.Option(help="Image tag. Default: the commit, and the time if it is changed."),
    ] = None
    public: Annotated[
        str | None,
        typer.Option(
            help="Comma-separated address ranges that may call the services from outside the "
            "VPC; `none` takes them back. Default: as deployed, else reachable inside the VPC only."
        ),
    ] = None
    state_bucket: Annotated[
        str | None,
        typer.Option(
            envvar="PLAINMED_STATE_BUCKET",
            help="Bucket of Terraform's state. Default: plainmed-tfstate-ACCOUNT-REGION.",
        ),
    ] = None
    base_digest: Annotated[
        str | None,
        typer.Option(
            envvar="BASE_DIGEST", help="sha256:... of the image's base (docs/kubernetes.md)."
        ),
    ] = None
    timeout_s: Annotated[
        float,
        typer.Option("--timeout", help="Seconds to wait for a service to be ready.", min=1.0),
    ] = 1800.0
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run", help="Print every command and change nothing; needs no credentials."
        ),
    ] = False
    root: Annotated[
        Path,
        typer.Option(
            help="The checkout. Default: this directory, or where plainmed is installed.",
            show_default=False,
        ),
    ] = field(default_factory=_checkout)

    def __post_init__(self) -> None:
        for name, (pattern, form) in _FORMS.items():
            value = getattr(self, name)
            if value is not None and re.fullmatch(pattern, value) is None:
                shown = _SHOWN.get(name, f"--{name.replace('_', '-')}")
                raise OpsError(f"{shown} {value!r} is not {form}; nothing was changed")
        generates = "generator" in self.target.services
        if self.model_name and not self.bucket and generates:
            raise OpsError(
                f"MODEL_NAME {self.model_name!r} needs a bucket; set MODEL_S3_BUCKET to the one "
                f"that holds merged-models/, or model_bucket in {self.account}; nothing was changed"
            )
        if self.specs is Specs.MAX and self.profile is not None and self.profile.gpu:
            raise OpsError(
                f"the {self.profile.value} profile has one size; use --profile cpu for max specs"
            )
        if self.profile is Profile.VLLM and generates and not self.model_name:
            raise OpsError(
                "the vllm profile serves a model of merged-models/; set MODEL_NAME; nothing was "
                "changed"
            )
        _ = self.public_ranges

    @property
    def public_ranges(self) -> tuple[str, ...] | None:
        """Address ranges of --public; empty: inside the VPC only; None: as the release has it.

        Raises:
            OpsError: a range is malformed, or they hold too much of the Internet together.
        """
        if self.public is None or self.public == "none":
            return None if self.public is None else ()
        try:
            networks = [ip_network(part.strip()) for part in self.public.split(",")]
        except ValueError as error:
            raise OpsError(f"--public: {error}; write 198.51.100.0/24") from None
        for version, most in _MOST_PUBLIC.items():
            public: list[Any] = [n for n in networks if n.version == version and not _inside(n)]
            if sum(network.num_addresses for network in collapse_addresses(public)) > most:
                raise OpsError(
                    "--public: refusing so much of the Internet (more than a /8 of IPv4 or a /20 "
                    "of IPv6 together): a key is all that callers need; name your own ranges"
                )
        return tuple(map(str, networks))

    @property
    def cluster(self) -> str:
        """The EKS cluster, as terraform-eks/locals.tf names it; also the kube context."""
        return f"{NAME}-{self.environment.value}"

    @property
    def chart(self) -> Path:
        """The Helm chart."""
        return self.root / "helm" / "plainmed"

    @property
    def terraform(self) -> Path:
        """The Terraform configuration."""
        return self.root / "terraform-eks"

    @property
    def variables(self) -> Path:
        """The environment's variables file."""
        return self.terraform / "environments" / f"{self.environment.value}.tfvars"

    @property
    def account(self) -> Path:
        """The account's own settings; git ignores the file, and Terraform reads it by itself."""
        return self.terraform / "account.auto.tfvars"

    @property
    def bucket(self) -> str | None:
        """Bucket of the models: as given, else `model_bucket` of the account's file, if any."""
        if self.model_bucket or not self.account.is_file():
            return self.model_bucket
        return _assigned("model_bucket", self.account)

    @property
    def resolved_region(self) -> str:
        """--region, else the region in the environment's file.

        Raises:
            OpsError: the file names none, or no region of AWS.
        """
        found = self.region or _assigned("region", self.variables)
        if found is None or re.fullmatch(_FORMS["region"][0], found) is None:
            raise OpsError(f"{self.variables} names no region; correct it, or pass --region")
        return found


def _inside(network: IPv4Network | IPv6Network) -> bool:
    same = [one for one in _INSIDE if one.version == network.version]
    return any(network.subnet_of(one) for one in same)  # type: ignore[arg-type]  # one version


def _assigned(name: str, file: Path) -> str | None:
    """The string that a variables file of Terraform assigns to `name`; None if it does not."""
    text = file.read_text(encoding="utf-8")
    found = re.search(rf'^{name}\s*=\s*"([^"]+)"', text, re.MULTILINE)
    return found[1] if found else None
