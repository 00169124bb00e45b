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


# --- what a change does to the running cluster -----------------------------------------


def _marks(values: dict[str, Any], profile: str = "cpu") -> tuple[str | None, str]:
    """The hash in the head's annotations, and the Serve configuration."""
    service = yaml.safe_load(render("plainmed", [profile], values)["rayservice.yaml"])
    head = service["spec"]["rayClusterConfig"]["headGroupSpec"]["template"]
    mark = (head["metadata"].get("annotations") or {}).get("plainmed.io/serve-config")
    return mark, service["spec"]["serveConfigV2"]


def _deployment(name: str, **fields: Any) -> dict[str, Any]:
    return {"serve": {"deployments": {name: fields}}}


RESTARTS = [
    {"serve": {"settings": {"loss_steepness": "legacy"}}},
    {"serve": {"settings": {"model_path": "/no/such"}}},
    {"serve": {"logLevel": "DEBUG"}},
    {"serve": {"port": 9000}},
    {"services": ["metrics"]},
    _deployment("Relevance", ray_actor_options={"num_cpus": 2}),
    _deployment("Generator", max_replicas_per_node=1),
    {
        "serve": {
            "extraApplications": [
                {"name": "b", "route_prefix": "/b", "import_path": "a:b", "args": {"c": 1}}
            ]
        }
    },
]
IN_PLACE = [
    _deployment("Readability", num_replicas=3),
    _deployment("Generator", autoscaling_config={"min_replicas": 2, "max_replicas": 3}),
    _deployment("Factuality", user_config={"batch_chars": 16000, "batch_wait_s": 0.01}),
    _deployment("Gateway", max_ongoing_requests=8, max_queued_requests=8),
    _deployment("Loss", health_check_period_s=5, health_check_timeout_s=9),
    _deployment("Loss", graceful_shutdown_timeout_s=5, graceful_shutdown_wait_loop_s=1),
]


@pytest.mark.parametrize("values", RESTARTS, ids=str)
def test_a_change_that_restarts_replicas_makes_a_second_cluster(values: dict[str, Any]) -> None:
    (mark, config), (other, changed) = _marks({}), _marks(values)
    assert config != changed
    assert mark is not None
    assert mark != other


@pytest.mark.parametrize("values", IN_PLACE, ids=str)
def test_scaling_changes_the_running_cluster(values: dict[str, Any]) -> None:
    (mark, config), (other, changed) = _marks({}), _marks(values)
    assert config != changed
    assert mark == other


def test_the_fields_changed_in_place_restart_no_replica_by_serves_own_rules() -> None:
    from ray.serve._private.config import DeploymentConfig, DeploymentOptionUpdateType

    changed = {name for values in IN_PLACE for name in _fields(values)}
    text = (ROOT / "helm/plainmed/templates/_serve.tpl").read_text(encoding="utf-8")
    listed = next(line for line in text.splitlines() if "$field := list" in line)
    assert set(listed.split('"')[1::2]) == changed
    for name in changed:
        extra = DeploymentConfig.model_fields[name].json_schema_extra
        assert isinstance(extra, dict)
        assert extra["update_type"] is not DeploymentOptionUpdateType.HeavyWeight, name


def _fields(values: dict[str, Any]) -> set[str]:
    return {name for fields in values["serve"]["deployments"].values() for name in fields}


def test_an_upgrade_in_place_has_no_mark_that_would_ask_for_a_second_cluster() -> None:
    values: dict[str, Any] = {"upgradeStrategy": {"type": "None"}, "podAnnotations": {"a": "b"}}
    assert _marks(values)[0] is None
    assert _marks({"podAnnotations": {"a": "b"}})[0] == _marks({})[0]


def test_a_rayservice_says_which_revision_it_is() -> None:
    service = next(item for item in objects("cpu-metrics") if item["kind"] == "RayService")
    assert service["metadata"]["annotations"]["plainmed.io/revision"] == "1"
