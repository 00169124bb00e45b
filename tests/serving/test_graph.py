"""The application graph: what its deployments are given whatever the Serve config says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from ray.serve.deployment import Application

from serve_app.app import build
from serve_app.serving.graph import DEPLOYMENTS, built, least_resources
from serve_app.serving.server import load_document
from tests.support.paths import ROOT

CONFIG = ROOT / "serve_config.yaml"
METRICS = {"Gateway", "Loss", "Relevance", "Factuality", "Readability"}


def deployments(application: Application) -> dict[str, Any]:
    """All of the graph, by name."""
    found: dict[str, Any] = {}
    left = [application]
    while left:
        one = left.pop()._bound_deployment
        found[one.name] = one
        given = [*one.init_args, *one.init_kwargs.values()]
        left += [node for node in given if isinstance(node, Application)]
    return found


def test_an_update_lets_every_replica_end_the_longest_request() -> None:
    found = deployments(build({"settings": {"request_timeout_s": 120.0}}))
    assert set(found) == {
        *("Gateway", "Loss", "Relevance", "Factuality", "Readability", "Generator"),
    }
    for name, one in found.items():
        assert one._deployment_config.graceful_shutdown_timeout_s > 120, name


@pytest.mark.parametrize(
    ("services", "names"),
    [
        (["metrics"], METRICS),
        (["generator"], {"Gateway", "Generator"}),
        (["generator", "metrics"], METRICS | {"Generator"}),
    ],
    ids=lambda value: "+".join(value) if isinstance(value, list) else "",
)
def test_a_half_is_served_from_a_config_of_both(services: list[str], names: set[str]) -> None:
    """Serve refuses options of a deployment that is not built."""
    document = load_document(CONFIG, services=services)
    [application] = document["applications"]
    assert {one["name"] for one in application["deployments"]} == names
    assert set(deployments(build(application["args"]))) == names == set(built(application))


def test_a_half_named_in_the_config_itself_is_served_too(tmp_path: Path) -> None:
    config = tmp_path / "serve.yaml"
    whole = CONFIG.read_text()
    config.write_text(whole.replace("services: [metrics, generator]", "services: [generator]"))
    [application] = load_document(config)["applications"]
    assert {one["name"] for one in application["deployments"]} == {"Gateway", "Generator"}


def test_options_of_a_deployment_that_nobody_knows_are_left_for_serve_to_refuse(
    tmp_path: Path,
) -> None:
    config = tmp_path / "serve.yaml"
    config.write_text(CONFIG.read_text() + "      - name: Relevence\n        num_replicas: 1\n")
    [application] = load_document(config, services=["generator"])["applications"]
    assert "Relevence" in {one["name"] for one in application["deployments"]}


def test_the_least_resources_are_those_of_the_graph_and_of_the_config() -> None:
    found = deployments(build({}))
    options = {name: one.ray_actor_options["num_cpus"] for name, one in found.items()}
    assert options == {name: part.num_cpus for name, part in DEPLOYMENTS.items()}
    least = least_resources({"args": {}})
    assert {name: one["CPU"] for name, one in least.items()} == options
    [application] = load_document(CONFIG)["applications"]
    least = least_resources(application)
    assert least["Factuality"]["CPU"] == 0.8  # two replicas
    assert round(sum(one["CPU"] for one in least.values()), 6) == 1.9
    entries = [
        {"name": "Generator", "num_replicas": 2, "ray_actor_options": {"num_gpus": 1}},
        {"name": "Relevance", "num_replicas": "auto", "autoscaling_config": {"min_replicas": 3}},
        {"name": "Loss", "autoscaling_config": {"min_replicas": 0}},
        {"name": "Readability", "autoscaling_config": {"min_replicas": 1, "initial_replicas": 4}},
    ]
    least = least_resources({"args": {}, "deployments": entries})
    assert least["Generator"] == {"CPU": 2, "GPU": 2}
    assert least["Loss"]["CPU"] == 0
    assert least["Readability"]["CPU"] == 0.4
