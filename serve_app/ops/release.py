"""What a Helm release of ours holds: image, model, profile, size, exposure, whether it is stopped.

Read from and written to the release itself, so there is no second record to keep in step.
Knows the chart's value names, and no command.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from serve_app.ops.options import Options, Profile, Specs, release_name


@dataclass(frozen=True, slots=True)
class Release:
    """The values that the ops commands set; all others are the chart's and its profile's."""

    service: str
    repository: str
    tag: str
    region: str
    profile: Profile = Profile.CPU
    specs: Specs = Specs.NORMAL
    model_name: str | None = None
    model_bucket: str | None = None
    public_ranges: tuple[str, ...] = ()
    suspend: bool = False

    @property
    def name(self) -> str:
        """The release's name."""
        return release_name(self.service)

    @property
    def files(self) -> list[str]:
        """Values files of the chart; later ones override earlier ones."""
        large = ["values-max.yaml"] if self.specs is Specs.MAX else []
        return [f"values-{self.profile.value}.yaml", *large]

    def settings(self) -> list[str]:
        """Arguments of `helm upgrade` that set this release's values."""
        image = {"image.repository": self.repository, "image.tag": self.tag}
        exposed: list[str] = []
        if self.public_ranges:
            exposed = _texts({"service.nlb.scheme": "internet-facing"})
            exposed += _jsons({"service.loadBalancerSourceRanges": list(self.public_ranges)})
        # `parse` reads these back; the chart lets `global` through and ignores it.
        marks = {"profile": self.profile.value, "specs": self.specs.value}
        return [
            *_jsons({"services": [self.service]}),
            *self.suspension(),
            *_texts(image | {"aws.region": self.region}),
            *self.model(),
            *exposed,
            *_jsons({"global.ops": marks}),
        ]

    def suspension(self) -> list[str]:
        """The part of `settings` that stops the release or lets it run."""
        return _jsons({"suspend": self.suspend})

    def model(self) -> list[str]:
        """The part of `settings` that names the model; empty without one."""
        if not self.model_name or not self.model_bucket:
            return []
        model = {"name": self.model_name, "bucket": self.model_bucket}
        return _texts({f"generator.model.{key}": value for key, value in model.items()})


def _jsons(values: Mapping[str, Any]) -> list[str]:
    return [w for k, v in values.items() for w in ("--set-json", f"{k}={json.dumps(v)}")]


def _texts(values: Mapping[str, str]) -> list[str]:
    return [word for k, v in values.items() for word in ("--set-string", f"{k}={v}")]


@dataclass(frozen=True, slots=True)
class Recorded:
    """A release as Helm has it: its state, all values set on it, and the ones we know."""

    status: str
    revision: int
    values: Mapping[str, Any]
    release: Release | None

    @property
    def interrupted(self) -> bool:
        """Whether a Helm command on it was cut off; Helm refuses the next one until repaired."""
        return self.status.startswith("pending-")


@dataclass(frozen=True, slots=True)
class SecretKey:
    """A key in a Secret of the namespace."""

    secret: str
    key: str

    def __str__(self) -> str:
        return f"secret {self.secret}, key {self.key}"


@dataclass(frozen=True, slots=True)
class Needs:
    """What a release's pods need in the cluster.

    Attributes:
        api_keys: the keys of its callers.
        redis: `host:port` of the Redis that keeps Ray's state; None: none is needed.
        redis_password: None where the Redis asks for none.
    """

    api_keys: SecretKey
    redis: str | None = None
    redis_password: SecretKey | None = None


def file_values(release: Release, chart: Path) -> list[Mapping[str, Any]]:
    """The contents of a release's values files, over the chart's defaults."""
    return [*default_values(chart), *(_read(chart / name) for name in release.files)]


def default_values(chart: Path) -> list[Mapping[str, Any]]:
    """The chart's defaults."""
    return [_read(chart / "values.yaml")]


def _read(file: Path) -> Mapping[str, Any]:
    return yaml.safe_load(file.read_text(encoding="utf-8")) or {}


def needs(layers: Iterable[Mapping[str, Any]]) -> Needs:
    """What a release's values, the later over the earlier, make its pods need."""
    keys: dict[str, Any] = {}
    tolerance: dict[str, Any] = {}
    password: dict[str, Any] = {}
    for values in layers:
        keys |= values.get("apiKeys") or {}
        tolerance |= values.get("gcsFaultTolerance") or {}
        password |= (values.get("gcsFaultTolerance") or {}).get("redisPassword") or {}
    api_keys = SecretKey(keys["secretName"], keys["key"])
    if not tolerance.get("enabled"):
        return Needs(api_keys)
    secret = SecretKey(password["secretName"], password["key"]) if password["secretName"] else None
    return Needs(api_keys, tolerance["redisAddress"], secret)


def parse(service: str, text: str) -> Recorded:
    """Reads `helm status RELEASE -o json`.

    Raises:
        ValueError: it is not what Helm prints.
    """
    data: dict[str, Any] = json.loads(text)
    status, revision = str(data["info"]["status"]), int(data["version"])
    values = data.get("config") or {}

    def at(*path: str) -> Any:
        found: Any = values
        for key in path:
            found = (found or {}).get(key)
        return found

    repository, tag = at("image", "repository"), at("image", "tag")
    if not repository or not tag:
        return Recorded(status, revision, values, None)
    release = Release(
        service=service,
        repository=repository,
        tag=str(tag),
        region=str(at("aws", "region") or ""),
        profile=Profile(at("global", "ops", "profile") or Profile.CPU),
        specs=Specs(at("global", "ops", "specs") or Specs.NORMAL),
        model_name=at("generator", "model", "name") or None,
        model_bucket=at("generator", "model", "bucket") or None,
        public_ranges=tuple(map(str, at("service", "loadBalancerSourceRanges") or ())),
        suspend=bool(at("suspend")),
    )
    return Recorded(status, revision, values, release)


def wanted(options: Options, service: str, held: Release | None, region: str) -> Release:
    """The release a verb asks for: its options, over what is there, over the defaults.

    Image and `suspend` are left for the caller to set.
    """
    base = held or Release(service=service, repository="", tag="", region=region)
    profile = options.profile or base.profile
    if service == "metrics" and profile.gpu:
        profile = Profile.CPU
    specs = options.specs or base.specs
    if service == "metrics" or profile.gpu:
        specs = Specs.NORMAL
    changed = replace(base, region=region, profile=profile, specs=specs)
    if service == "generator" and options.model_name is not None:
        changed = replace(changed, model_name=options.model_name, model_bucket=options.bucket)
    if options.public_ranges is not None:
        changed = replace(changed, public_ranges=options.public_ranges)
    return changed
