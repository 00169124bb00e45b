"""What the Helm chart renders is valid.

No cluster is asked. Core kinds are checked against the schemas of Kubernetes 1.31 to 1.37, the
RayService against KubeRay's CRD (where the shared data folder has it).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.crd_walk import problems, schema_of
from tests.support.helm_releases import RELEASES, at, maps, objects, one, pods

kubernetes_validate = pytest.importorskip(
    "kubernetes_validate", reason="needs kubernetes-validate, of the dev extra"
)
KUBERNETES = ["1.31", "1.32", "1.33", "1.34", "1.35", "1.36", "1.37"]


@pytest.fixture(scope="module")
def cached_schemas() -> Iterator[None]:
    """The validator reads megabytes of schema for every object; here once a file."""
    utils = kubernetes_validate.utils
    original, seen = utils.schema_contents, {}

    def once(filename: str, version: str) -> Any:
        if filename not in seen:
            seen[filename] = original(filename, version)
        return seen[filename]

    utils.schema_contents = once
    yield
    utils.schema_contents = original


# What Kubernetes does not know itself, and what stands for it here.
FOREIGN = {
    "RayService": "ray.io/v1",
    "PodMonitor": "monitoring.coreos.com/v1",
    "PrometheusRule": "monitoring.coreos.com/v1",
    "HTTPRoute": "gateway.networking.k8s.io/v1",
}


@pytest.mark.usefixtures("cached_schemas")
@pytest.mark.parametrize("version", KUBERNETES)
def test_core_objects_and_pod_templates_are_valid(version: str) -> None:
    checked = 0
    for name in ("defaults", "dev", "cpu-metrics", "gpu-generator", "everything", "hostpath"):
        items = objects(name)
        for item in items:
            if item["kind"] in FOREIGN:
                assert item["apiVersion"] == FOREIGN[item["kind"]]
                continue
            kubernetes_validate.validate(item, version, strict=True)
            checked += 1
        for template in pods(items).values():
            pod = {"apiVersion": "v1", "kind": "Pod", **template}
            kubernetes_validate.validate(pod, version, strict=True)
    assert checked > 15


@pytest.fixture(scope="module")
def rayservice_schema(shared_data: Path) -> dict[str, Any]:
    text = (shared_data / "crds" / "ray.io_rayservices.yaml").read_text(encoding="utf-8")
    return schema_of(yaml.load(text, Loader=yaml.CSafeLoader), "v1")


@pytest.mark.parametrize("name", RELEASES)
def test_the_rayservice_fits_the_crd_and_loses_no_field(
    name: str, rayservice_schema: dict[str, Any]
) -> None:
    assert problems(rayservice_schema, one(objects(name), "RayService")) == []


def test_the_crd_check_sees_a_field_that_would_be_dropped(
    rayservice_schema: dict[str, Any],
) -> None:
    service = one(objects("cpu-metrics"), "RayService")
    container = service["spec"]["rayClusterConfig"]["headGroupSpec"]["template"]["spec"]
    container["containers"][0]["imagePulPolicy"] = "Always"
    service["spec"]["rayClusterConfig"]["authOptions"]["mode"] = "none"
    found = problems(rayservice_schema, service)
    assert any("imagePulPolicy: unknown field" in line for line in found)
    assert any("authOptions.mode: 'none' is none of" in line for line in found)
    assert len(found) == 2


# Maps of the RayService whose keys are free; in any other a wrong key must be noticed.
FREE_KEYS = {
    *("labels", "annotations", "matchLabels", "nodeSelector"),
    *("limits", "requests", "rayStartParams"),
}


def test_any_misspelt_field_of_the_rayservice_is_seen(rayservice_schema: dict[str, Any]) -> None:
    service = one(objects("everything"), "RayService")
    unseen, tried = set(), 0
    for path in list(maps(service)):
        node = at(service, path)
        for key in list(node):
            right = dict(node)
            node.clear()
            node.update({f"{k}x" if k == key else k: v for k, v in right.items()})
            tried += 1
            if not problems(rayservice_schema, service):
                unseen.add((*path, key))
            node.clear()
            node.update(right)
    assert tried > 300
    # The API server knows an object's own metadata without the CRD.
    assert {p for p in unseen if p[0] != "metadata" and p[-2] not in FREE_KEYS} == set()
