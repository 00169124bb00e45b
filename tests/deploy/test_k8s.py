"""k8s/ holds what the chart renders, valid as it is, in a namespace that would admit its pods."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from tests.support.paths import ROOT

pytest.importorskip("helm_python", reason="needs helm-python-sdk, of the dev extra")
kubernetes_validate = pytest.importorskip(
    "kubernetes_validate", reason="needs kubernetes-validate, of the dev extra"
)

K8S = ROOT / "k8s"
import chart_files  # noqa: E402


def _objects() -> list[dict[str, Any]]:
    names = yaml.safe_load((K8S / "kustomization.yaml").read_text(encoding="utf-8"))["resources"]
    return [
        item
        for name in names
        for item in yaml.safe_load_all((K8S / name).read_text(encoding="utf-8"))
    ]


def test_the_manifests_are_what_the_chart_renders() -> None:
    rendered = {path: text for path, text in chart_files.renderings().items() if path.parent == K8S}
    assert len(rendered) == 2
    assert not chart_files.out_of_step(rendered), "run: python scripts/chart_files.py"


def test_the_kustomization_lists_every_manifest() -> None:
    listed = yaml.safe_load((K8S / "kustomization.yaml").read_text(encoding="utf-8"))["resources"]
    assert sorted([*listed, "kustomization.yaml"]) == sorted(p.name for p in K8S.glob("*.yaml"))
    assert listed[0] == "namespace.yaml"


def test_every_core_object_is_valid_and_in_the_namespace() -> None:
    items = _objects()
    namespace = items[0]["metadata"]["name"]
    for item in items[1:]:
        assert item["metadata"]["namespace"] == namespace
    core = [item for item in items if item["kind"] != "RayService"]
    assert len(core) >= 7
    for version in ("1.31", "1.37"):
        for item in core:
            kubernetes_validate.validate(item, version, strict=True)


def test_both_halves_are_there_on_their_ports() -> None:
    ports = {
        item["metadata"]["name"]: item["spec"]["ports"][0]["port"]
        for item in _objects()
        if item["kind"] == "Service"
    }
    assert ports == {"plainmed-metrics": 8001, "plainmed-generator": 8000}


def test_pods_meet_the_restricted_standard_that_the_namespace_enforces() -> None:
    items = _objects()
    assert items[0]["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    services = [item for item in items if item["kind"] == "RayService"]
    for service in services:
        config = service["spec"]["rayClusterConfig"]
        templates = [config["headGroupSpec"], *config["workerGroupSpecs"]]
        for pod in (template["template"]["spec"] for template in templates):
            assert pod["securityContext"]["runAsNonRoot"] is True
            assert pod["securityContext"]["seccompProfile"]["type"] == "RuntimeDefault"
            assert not {"hostNetwork", "hostPID", "hostIPC"} & set(pod)
            assert all("hostPath" not in volume for volume in pod["volumes"])
            for container in pod["containers"]:
                context = container["securityContext"]
                assert context["allowPrivilegeEscalation"] is False
                assert context["capabilities"] == {"drop": ["ALL"]}
                assert all("hostPort" not in port for port in container["ports"])
