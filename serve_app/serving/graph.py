"""The deployments of the application: the service each belongs to, and the CPUs it asks for.

Knows no Ray, so that `plainmed serve` can check a Serve config before Ray starts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from serve_app.core.schemas import Service

IMPORT_PATH = "serve_app.app:build"


@dataclass(frozen=True, slots=True)
class Part:
    """One deployment.

    Attributes:
        service: None: it is built with either.
        num_cpus: of a replica on a laptop; the Serve config may say otherwise.
    """

    service: Service | None
    num_cpus: float


DEPLOYMENTS = {
    "Gateway": Part(None, 0.1),
    "Loss": Part("metrics", 0.1),
    "Relevance": Part("metrics", 0.4),
    "Factuality": Part("metrics", 0.4),
    "Readability": Part("metrics", 0.1),
    "Generator": Part("generator", 0.4),
}


def built(application: Mapping[str, Any]) -> list[str]:
    """The deployments that an application of a Serve config builds, by its `services`."""
    services = _mapping(application.get("args")).get("services")
    if not isinstance(services, list):
        return list(DEPLOYMENTS)
    wanted = (None, *services)
    return [name for name, part in DEPLOYMENTS.items() if part.service in wanted]


def least_resources(application: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """What the first replicas of each deployment ask Ray for: `CPU` and `GPU`, by deployment.

    Args:
        application: of a Serve config whose import path is `IMPORT_PATH`; fields of a wrong type
            count as absent, since Serve itself refuses them.
    """
    found = {}
    given = {one.get("name"): one for one in map(_mapping, application.get("deployments") or [])}
    for name in built(application):
        entry = _mapping(given.get(name))
        options = {"num_cpus": DEPLOYMENTS[name].num_cpus}
        if "ray_actor_options" in entry:  # which replaces the default's options altogether
            options = {"num_cpus": 1, **_mapping(entry["ray_actor_options"])}
        scaling = _mapping(entry.get("autoscaling_config"))
        count = scaling.get("initial_replicas") or scaling.get("min_replicas", 1)
        count = entry.get("num_replicas", count)
        found[name] = {
            kind: _number(count, 1) * _number(options.get(f"num_{kind.lower()}s"), 0)
            for kind in ("CPU", "GPU")
        }
    return found


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _number(value: Any, default: float) -> float:
    return value if isinstance(value, int | float) else default
