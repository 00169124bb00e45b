"""What a Helm release of ours holds: image, model, profile, size, exposure, whether it is stopped.

Read from and written to the release itself, so that there is no second place to keep in step.
Knows the chart's value names, and no command.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from serve_app.ops.options import Options, Profile, Specs, release_name


@dataclass(frozen=True, slots=True)
class Release:
    """The values the ops commands set; everything else is the chart's and its profile's."""

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
        """Values files of the chart, later ones over earlier ones."""
        files = [f"values-{self.profile.value}.yaml"]
        if self.specs is Specs.MAX:
            files.append("values-max.yaml")
        return files

    def settings(self) -> list[str]:
        """Arguments of `helm upgrade` that set this release's values."""
        arguments = [
            "--set-json",
            f"services={json.dumps([self.service])}",
            "--set-json",
            f"suspend={json.dumps(self.suspend)}",
            "--set-string",
            f"image.repository={self.repository}",
            "--set-string",
            f"image.tag={self.tag}",
            "--set-string",
            f"aws.region={self.region}",
        ]
        if self.model_name and self.model_bucket:
            arguments += ["--set-string", f"generator.model.name={self.model_name}"]
            arguments += ["--set-string", f"generator.model.bucket={self.model_bucket}"]
        if self.public_ranges:
            arguments += ["--set-string", "service.nlb.scheme=internet-facing"]
            ranges = json.dumps(list(self.public_ranges))
            arguments += ["--set-json", f"service.loadBalancerSourceRanges={ranges}"]
        # Read back by `parse`: the chart lets `global` through and makes nothing of it.
        marks = {"profile": self.profile.value, "specs": self.specs.value}
        return [*arguments, "--set-json", f"global.ops={json.dumps(marks)}"]


@dataclass(frozen=True, slots=True)
class Recorded:
    """A release as Helm has it: its state, and what it holds where that can be told."""

    status: str
    revision: int
    release: Release | None

    @property
    def interrupted(self) -> bool:
        """Whether a Helm command on it was cut off; Helm refuses the next one until mended."""
        return self.status.startswith("pending-")


@dataclass(frozen=True, slots=True)
class RedisNeed:
    """Where a release keeps Ray's state: `host:port`, and the secret of its password, if any."""

    address: str
    secret: str
    key: str


@dataclass(frozen=True, slots=True)
class KeysNeed:
    """Where a release reads the API keys of its callers: a secret, and the key in it."""

    secret: str
    key: str


def keys_need(release: Release, chart: Path) -> KeysNeed:
    """The secret with API keys that a release's values files name; ours always name one."""
    asked: dict[str, Any] = {}
    for values in _values(release, chart):
        asked |= values.get("apiKeys") or {}
    return KeysNeed(asked["secretName"], asked["key"])


def _values(release: Release, chart: Path) -> Iterator[dict[str, Any]]:
    """What each of a release's values files holds, later ones over earlier ones."""
    for name in ("values.yaml", *release.files):
        yield yaml.safe_load((chart / name).read_text(encoding="utf-8")) or {}


def redis_need(release: Release, chart: Path) -> RedisNeed | None:
    """The Redis that a release's values files ask for; None where they ask for none."""
    asked: dict[str, Any] = {}
    for values in _values(release, chart):
        over = values.get("gcsFaultTolerance") or {}
        password = (asked.get("redisPassword") or {}) | (over.get("redisPassword") or {})
        asked = asked | over | {"redisPassword": password}
    if not asked.get("enabled"):
        return None
    secret = asked["redisPassword"]
    return RedisNeed(asked["redisAddress"], secret["secretName"], secret["key"])


def parse(service: str, text: str) -> Recorded:
    """Reads `helm status RELEASE -o json`.

    Raises:
        ValueError: it is not what Helm prints.
    """
    data: dict[str, Any] = json.loads(text)
    status = str(data["info"]["status"])
    values = data.get("config") or {}
    image = values.get("image") or {}
    if not image.get("repository") or not image.get("tag"):
        return Recorded(status, int(data["version"]), None)
    model = (values.get("generator") or {}).get("model") or {}
    marks = (values.get("global") or {}).get("ops") or {}
    exposed = values.get("service") or {}
    ranges = exposed.get("loadBalancerSourceRanges") or ()
    release = Release(
        service=service,
        repository=image["repository"],
        tag=str(image["tag"]),
        region=str((values.get("aws") or {}).get("region") or ""),
        profile=Profile(marks.get("profile", Profile.CPU.value)),
        specs=Specs(marks.get("specs", Specs.NORMAL.value)),
        model_name=model.get("name") or None,
        model_bucket=model.get("bucket") or None,
        public_ranges=tuple(str(item) for item in ranges),
        suspend=bool(values.get("suspend")),
    )
    return Recorded(status, int(data["version"]), release)


def wanted(options: Options, service: str, held: Release | None, region: str) -> Release:
    """The release a verb asks for: what it was given, over what is there, over the defaults.

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
