"""The chart's Serve config: Ray's own schema takes it, and the graph has what it names."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from tests.support.helm_releases import KEYS, cluster, objects, render, serve_config
from tests.support.paths import ROOT


def _graph(services: list[str], settings: dict[str, Any]) -> set[str]:
    """Names of the deployments that `serve_app.app.build` makes; nothing is started."""
    from ray.serve._private.build_app import build_app

    from serve_app.app import build

    application = build({"services": services, "settings": settings})
    return {deployment.name for deployment in build_app(application, name="plainmed").deployments}


@pytest.mark.parametrize(
    "name", ["dev", "cpu-metrics", "cpu-generator", "gpu", "ha", "cpu-max", "vllm"]
)
def test_the_serve_config_is_rays_and_builds_the_graph(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ray.serve.schema import ServeDeploySchema

    monkeypatch.delenv("DEVICE", raising=False)
    document = serve_config(objects(name))
    parsed = ServeDeploySchema.model_validate(document)
    application = parsed.applications[0]
    assert application.import_path == "serve_app.app:build"
    # Serve fails a config that names a deployment the application does not have.
    built = _graph(application.args["services"], application.args["settings"])
    assert {item.name for item in application.deployments} == built


def test_with_defaults_the_serve_config_differs_from_the_repositorys_in_address_only() -> None:
    source = yaml.safe_load((ROOT / "serve_config.yaml").read_text(encoding="utf-8"))
    rendered = serve_config(objects("dev"))
    source["http_options"]["host"] = "0.0.0.0"
    assert rendered == source


def test_overrides_reach_the_serve_config() -> None:
    values = {
        "services": ["metrics"],
        "serve": {
            "settings": {"loss_steepness": "legacy"},
            "logLevel": "WARNING",
            "deployments": {
                "Relevance": {"num_replicas": 3, "ray_actor_options": {"num_cpus": 1}},
                "Gateway": {"autoscaling_config": {"min_replicas": 1, "max_replicas": 2}},
            },
        },
    }
    text = render("plainmed", [], values | KEYS)["rayservice.yaml"]
    document = yaml.safe_load(yaml.safe_load(text)["spec"]["serveConfigV2"])
    by_name = {item["name"]: item for item in document["applications"][0]["deployments"]}
    assert "autoscaling_config" not in by_name["Relevance"]
    assert by_name["Relevance"]["num_replicas"] == 3
    assert by_name["Relevance"]["user_config"]["batch_chars"] == 32000
    assert "num_replicas" not in by_name["Gateway"]
    assert document["applications"][0]["args"]["settings"] == {"loss_steepness": "legacy"}
    assert document["logging_config"]["log_level"] == "WARNING"


@pytest.mark.parametrize("name", ["cpu-metrics", "cpu-generator", "gpu", "ha", "cpu-max", "vllm"])
def test_every_replica_fits_a_worker_of_its_group(name: str) -> None:
    items = objects(name)
    groups = {group["groupName"]: group for group in cluster(items)["workerGroupSpecs"]}
    for deployment in serve_config(items)["applications"][0]["deployments"]:
        options = deployment["ray_actor_options"]
        wanted = options.get("label_selector", {}).get("plainmed.io/group")
        fitting = [groups[wanted]] if wanted else list(groups.values())
        assert any(
            options["num_cpus"] <= float(group["rayStartParams"]["num-cpus"])
            and options.get("num_gpus", 0) <= float(group["rayStartParams"].get("num-gpus", 0))
            for group in fitting
        ), deployment["name"]


def test_two_worker_groups_keep_each_service_on_its_own() -> None:
    items = objects("gpu")
    labels = {g["groupName"]: g["labels"] for g in cluster(items)["workerGroupSpecs"]}
    selectors = {
        d["name"]: d["ray_actor_options"].get("label_selector")
        for d in serve_config(items)["applications"][0]["deployments"]
    }
    assert selectors["Gateway"] is None
    assert selectors["Generator"] == labels["generator"]
    assert selectors["Relevance"] == labels["metrics"]
