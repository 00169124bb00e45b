"""What `plainmed ops` sets on the chart, through Helm's own engine: it is taken, and it counts."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.paths import ROOT

pytest.importorskip("helm_python", reason="needs helm-python-sdk, of the dev extra")

from chart_files import CHART, merge, render

from serve_app.ops.commands import helm_upgrade
from serve_app.ops.options import Options, Profile, Specs, Target
from serve_app.ops.release import Release, parse, wanted

GENERATOR = Release(
    service="generator",
    repository="123456789012.dkr.ecr.us-east-1.amazonaws.com/plainmed-dev/cpu",
    tag="abcdef123456",
    region="us-east-1",
    model_name="pls-v1",
    model_bucket="models",
)
METRICS = replace(GENERATOR, service="metrics", model_name=None, model_bucket=None)
RELEASES = {
    "metrics": METRICS,
    "generator": GENERATOR,
    "a name with spaces": replace(GENERATOR, model_name="Llama 3.2 - 6 epocas"),
    "stopped": replace(GENERATOR, suspend=True),
    "max": replace(GENERATOR, specs=Specs.MAX),
    "gpu": replace(GENERATOR, profile=Profile.GPU),
    "vllm": replace(GENERATOR, profile=Profile.VLLM),
    "ha": replace(METRICS, profile=Profile.HA),
    "public": replace(METRICS, public_ranges=("198.51.100.0/24", "203.0.113.7/32")),
}


def given(release: Release) -> dict[str, Any]:
    """What the command's arguments say, read as Helm reads them."""
    words = [str(w) for w in helm_upgrade(release, Options(Target.ALL, root=ROOT))]
    values: dict[str, Any] = {}
    for kind, word in pairwise(words):
        if kind == "--values":
            over = yaml.safe_load(Path(word).read_text(encoding="utf-8"))
        elif kind in ("--set-string", "--set-json"):
            path, _, text = word.partition("=")
            over = json.loads(text) if kind == "--set-json" else text
            for key in reversed(path.replace("\\.", "\0").split(".")):
                over = {key.replace("\0", "."): over}
        else:
            continue
        values = merge(values, over)
    return values


def rendered(release: Release) -> dict[str, dict[str, Any]]:
    """Objects by kind; rendering validates against the chart's schema first."""
    texts = render(release.name, [], given(release))
    wanted_texts = [text for name, text in texts.items() if name.endswith(".yaml")]
    documents = [d for text in wanted_texts for d in yaml.safe_load_all(text) if d]
    return {document["kind"]: document for document in documents}


@pytest.mark.parametrize("name", sorted(RELEASES))
def test_every_release_renders_with_its_image_and_service(name: str) -> None:
    release = RELEASES[name]
    found = rendered(release)
    spec = found["RayService"]["spec"]
    assert found["RayService"]["metadata"]["name"] == release.name
    assert bool(spec.get("suspend")) is release.suspend
    config = yaml.safe_load(spec["serveConfigV2"])
    assert config["applications"][0]["args"]["services"] == [release.service]
    cluster = spec["rayClusterConfig"]
    pods = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    for pod in pods:
        images = {c["image"] for c in pod["template"]["spec"]["containers"]}
        assert f"{release.repository}:{release.tag}" in images
    assert found["Service"]["spec"]["type"] == "LoadBalancer"
    [port] = [p["port"] for p in found["Service"]["spec"]["ports"]]
    assert port == (8001 if release.service == "metrics" else 8000)
    assert found["ServiceAccount"]["metadata"]["name"] == release.name


def worker(name: str) -> dict[str, Any]:
    groups = rendered(RELEASES[name])["RayService"]["spec"]["rayClusterConfig"]["workerGroupSpecs"]
    [group] = groups
    spec: dict[str, Any] = group["template"]["spec"]
    return spec


def test_normal_and_max_specs_land_on_nodes_of_their_size() -> None:
    normal, maximal = worker("generator"), worker("max")
    assert normal["nodeSelector"] == {"plainmed.io/pool": "cpu"}
    assert maximal["nodeSelector"] == {"plainmed.io/pool": "cpu-max"}
    # Allocatable of an m6i.xlarge is below 4 vCPU, of an m6i.4xlarge below 16.
    assert cpus(normal) < 4 <= cpus(maximal) < 16


def cpus(spec: dict[str, Any]) -> float:
    asked = [str(c["resources"]["requests"]["cpu"]) for c in spec["containers"]]
    return sum(float(a[:-1]) / 1000 if a.endswith("m") else float(a) for a in asked)


def test_a_gpu_release_goes_to_the_gpu_pool_and_tolerates_its_taint() -> None:
    spec = worker("gpu")
    assert spec["nodeSelector"] == {"plainmed.io/pool": "gpu"}
    assert any(t["key"] == "nvidia.com/gpu" for t in spec["tolerations"])


def test_a_vllm_release_goes_to_nodes_of_several_gpus_and_serves_the_model_from_its_bucket() -> (
    None
):
    spec = worker("vllm")
    assert spec["nodeSelector"] == {"plainmed.io/pool": "gpu-multi"}
    assert any(t["key"] == "nvidia.com/gpu" for t in spec["tolerations"])
    assert spec["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "2"
    # Two workers fit the g5.12xlarge of terraform-eks/environments/, of 48 vCPU.
    assert 2 * cpus(spec) < 48
    config = yaml.safe_load(rendered(RELEASES["vllm"])["RayService"]["spec"]["serveConfigV2"])
    (model,) = config["applications"][1]["args"]["llm_configs"]
    source = model["model_loading_config"]["model_source"]
    assert source == "s3://models/merged-models/pls-v1/"


def test_every_gpu_profile_has_its_node_pool_in_every_environment() -> None:
    files = sorted((ROOT / "terraform-eks" / "environments").glob("*.tfvars"))
    assert len(files) == 2
    for name in ("gpu", "vllm"):
        pool = worker(name)["nodeSelector"]["plainmed.io/pool"]
        for file in files:
            text = file.read_text(encoding="utf-8")
            found = re.search(rf'^  {pool} = .*"(g5\.\d*xlarge)"', text, re.MULTILINE)
            assert found is not None, (name, file)
            # A g5.NNxlarge has 4 vCPUs for each of its N; the quota is asked for that many.
            size = int(found[1].removeprefix("g5.").removesuffix("xlarge") or 1)
            assert RELEASES[name].profile.node_vcpus == 4 * size


def test_the_model_reaches_the_pods() -> None:
    [container] = worker("generator")["containers"][:1]
    environment = {e["name"]: e.get("value") for e in container["env"]}
    assert environment["MODEL_NAME"] == "pls-v1"
    assert environment["MODEL_S3_BUCKET"] == "models"
    assert environment["AWS_REGION"] == "us-east-1"


def test_only_named_addresses_reach_a_public_release() -> None:
    found = rendered(RELEASES["public"])["Service"]
    assert found["spec"]["loadBalancerSourceRanges"] == ["198.51.100.0/24", "203.0.113.7/32"]
    scheme = "service.beta.kubernetes.io/aws-load-balancer-scheme"
    assert found["metadata"]["annotations"][scheme] == "internet-facing"
    inside = rendered(METRICS)["Service"]
    assert inside["metadata"]["annotations"][scheme] == "internal"
    assert "loadBalancerSourceRanges" not in inside["spec"]


@pytest.mark.parametrize("name", sorted(RELEASES))
def test_a_release_is_read_back_as_it_was_set(name: str) -> None:
    release = RELEASES[name]
    status = {"info": {"status": "deployed"}, "version": 3, "config": given(release)}
    recorded = parse(release.service, json.dumps(status))
    assert recorded.release == release
    assert wanted(Options(Target.ALL, root=ROOT), release.service, release, "us-east-1") == release


def test_the_chart_has_a_file_for_every_profile() -> None:
    for profile in Profile:
        assert (CHART / f"values-{profile.value}.yaml").is_file()
