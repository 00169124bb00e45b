"""The words of the domain: services, releases, environments, and what one call of a verb was given.

Knows names and paths only; asks nobody anything.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from serve_app.ops.errors import OpsError

NAME = "plainmed"
NAMESPACE = "plainmed"
PORTS = {"metrics": 8001, "generator": 8000}

_MODEL_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")


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
        """What its pods run: a target of the Dockerfile, and the repository of its images."""
        return "cpu" if self is Profile.HA else self.value

    @property
    def node_vcpus(self) -> int:
        """Of one GPU node, as in terraform-eks/environments/: g5.xlarge, g5.12xlarge; else 0."""
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
    """The Helm release, RayService, Service and service account of a service."""
    return f"{NAME}-{service}"


@dataclass(frozen=True, slots=True)
class Options:
    """What a verb was given, with the places of its files.

    Attributes:
        root: the checkout (holds helm/, terraform-eks/, Dockerfile).
        profile, specs, model_name, tag: None means: as the release has it, else the default.
        model_bucket: MODEL_S3_BUCKET; `bucket` also looks into the account's file.
        public_ranges: addresses that may call the services from outside the VPC; None: as the
            release has it; empty: internal load balancer.
        base_digest: `sha256:...` that pins the image's base.
        timeout_s: longest wait for a service to become ready.
    """

    target: Target
    root: Path
    environment: Environment = Environment.DEV
    region: str | None = None
    profile: Profile | None = None
    specs: Specs | None = None
    model_name: str | None = None
    model_bucket: str | None = None
    tag: str | None = None
    public_ranges: tuple[str, ...] | None = None
    state_bucket: str | None = None
    base_digest: str | None = None
    timeout_s: float = 1800.0
    yes: bool = False
    dry_run: bool = False

    def __post_init__(self) -> None:
        checks = (
            ("MODEL_NAME", self.model_name, _MODEL_NAME, "letters, digits, dots and hyphens"),
            ("MODEL_S3_BUCKET", self.model_bucket, _BUCKET, "a bucket's name, without s3://"),
            ("--state-bucket", self.state_bucket, _BUCKET, "a bucket's name, without s3://"),
            ("--tag", self.tag, _TAG, "an image tag"),
            ("--base-digest", self.base_digest, _DIGEST, "sha256: and 64 hexadecimal digits"),
        )
        for name, value, pattern, form in checks:
            if value is not None and pattern.fullmatch(value) is None:
                raise OpsError(f"{name} {value!r} is not {form}; nothing was changed")
        if self.model_name and not self.bucket and "generator" in self.target.services:
            raise OpsError(
                f"MODEL_NAME {self.model_name!r} needs a bucket; set MODEL_S3_BUCKET to the one "
                f"that holds merged-models/, or model_bucket in {self.account}; nothing was changed"
            )
        if self.specs is Specs.MAX and self.profile is not None and self.profile.gpu:
            raise OpsError(
                f"the {self.profile.value} profile has one size; use --profile cpu for max specs"
            )
        serves = "generator" in self.target.services
        if self.profile is Profile.VLLM and serves and not self.model_name:
            raise OpsError(
                "the vllm profile serves a model of merged-models/; set MODEL_NAME; nothing was "
                "changed"
            )

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
        """What belongs to the account; git ignores it, and Terraform reads it by itself."""
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
            OpsError: the file names none.
        """
        if self.region:
            return self.region
        found = _assigned("region", self.variables)
        if found is None:
            raise OpsError(f"{self.variables} names no region; add it, or pass --region")
        return found


def _assigned(name: str, file: Path) -> str | None:
    """The string that a variables file of Terraform assigns to `name`; None if it does not."""
    text = file.read_text(encoding="utf-8")
    found = re.search(rf'^{name}\s*=\s*"([^"]+)"', text, re.MULTILINE)
    return found[1] if found else None
