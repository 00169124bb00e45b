"""The vLLM configuration: Ray's schemas accept it, its two applications fit each other, and, where
vLLM is installed, its graph builds. No GPU, no model and no Ray instance is needed."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import tomllib
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml
from packaging.requirements import Requirement
from ray.serve.schema import ServeDeploySchema

from serve_app.core.settings import Settings, load_settings
from tests.support.paths import ROOT


@pytest.fixture(scope="module")
def config() -> dict[str, Any]:
    return yaml.safe_load((ROOT / "serve_config.vllm.yaml").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def plainmed(config: dict[str, Any]) -> dict[str, Any]:
    return config["applications"][0]


@pytest.fixture(scope="module")
def llm(config: dict[str, Any]) -> dict[str, Any]:
    return config["applications"][1]


@pytest.fixture
def settings(plainmed: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> Settings:
    for name in Settings.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)
    return load_settings(**plainmed["args"]["settings"])


def test_serve_takes_the_config(config: dict[str, Any]) -> None:
    parsed = ServeDeploySchema.model_validate(config)
    assert [item.name for item in parsed.applications] == ["plainmed", "llm"]


def test_the_graph_of_plainmed_builds_and_the_config_names_its_deployments(
    plainmed: dict[str, Any],
) -> None:
    from ray.serve._private.build_app import build_app

    from serve_app.app import build

    built = build_app(build(plainmed["args"]), name="plainmed").deployments
    assert {item.name for item in built} == {item["name"] for item in plainmed["deployments"]}


def test_the_generator_asks_the_model_that_the_second_application_serves(
    config: dict[str, Any], llm: dict[str, Any], settings: Settings
) -> None:
    assert settings.generator_engine == "openai"
    asked = urlsplit(settings.openai_base_url or "")
    # The ingress of ray.serve.llm has its routes under /v1.
    assert asked.path == f"{llm['route_prefix']}/v1"
    assert asked.port == config["http_options"]["port"]
    (model,) = llm["args"]["llm_configs"]
    assert settings.openai_model == model["model_loading_config"]["model_id"]
    # vLLM's name of it; the protocol has none.
    assert settings.openai_repeat_penalty_field == "repetition_penalty"


def test_a_summary_leaves_most_of_the_context_to_its_text(
    llm: dict[str, Any], settings: Settings
) -> None:
    (model,) = llm["args"]["llm_configs"]
    assert settings.max_new_tokens * 4 <= model["engine_kwargs"]["max_model_len"]


def test_ray_takes_the_model_and_its_gpus_are_those_of_tensor_parallelism(
    llm: dict[str, Any],
) -> None:
    # Ray's public module needs vLLM to be imported; the class behind it does not.
    from ray.llm._internal.common.placement import PlacementGroupConfig
    from ray.llm._internal.serve.core.configs.llm_config import LLMConfig

    (values,) = llm["args"]["llm_configs"]
    unknown = set(values) - set(LLMConfig.model_fields)
    assert unknown == set()
    model = LLMConfig.model_validate(values)
    assert model.model_loading_config.model_source.startswith("s3://")
    assert model.max_request_context_length == 8192
    placement = PlacementGroupConfig.model_validate(model.placement_group_config)
    assert placement.bundle_per_worker is not None
    assert (placement.bundle_per_worker.GPU, placement.strategy) == (1, "STRICT_PACK")
    assert model.engine_kwargs["tensor_parallel_size"] == 2
    scaling = model.deployment_config["autoscaling_config"]
    # What waits for a second replica must not be refused by the first.
    assert scaling["target_ongoing_requests"] < model.deployment_config["max_ongoing_requests"]
    assert scaling["min_replicas"] < scaling["max_replicas"]


def test_ray_refuses_a_wrong_model_configuration(llm: dict[str, Any]) -> None:
    from ray.llm._internal.serve.core.configs.llm_config import LLMConfig

    (values,) = llm["args"]["llm_configs"]
    with pytest.raises(ValueError, match="deployment config"):
        LLMConfig.model_validate({**values, "deployment_config": {"max_ongoing_requests": -1}})


def test_the_chart_renders_the_same_two_applications(config: dict[str, Any]) -> None:
    pytest.importorskip("helm_python", reason="needs the package helm-python-sdk")
    from chart_files import render

    model = {"generator": {"model": {"name": "lead-3", "bucket": "models"}}}
    text = render("plainmed", ["vllm"], model)["rayservice.yaml"]
    rendered = text.replace("s3://models/merged-models/lead-3/", "s3://BUCKET/merged-models/NAME/")
    document = yaml.safe_load(yaml.safe_load(rendered)["spec"]["serveConfigV2"])
    for ours, charts in zip(config["applications"], document["applications"], strict=True):
        assert ours["args"] == charts["args"]
        assert (ours["route_prefix"], ours["import_path"]) == (
            charts["route_prefix"],
            charts["import_path"],
        )


def test_the_charts_workers_hold_one_replica_of_the_model_each(llm: dict[str, Any]) -> None:
    pytest.importorskip("helm_python", reason="needs the package helm-python-sdk")
    from chart_files import profile_values

    group = profile_values(["vllm"])["workers"]["generator"]
    (model,) = llm["args"]["llm_configs"]
    assert group["numGpus"] == model["engine_kwargs"]["tensor_parallel_size"]
    scaling = model["deployment_config"]["autoscaling_config"]
    assert group["maxReplicas"] == scaling["max_replicas"]


def test_the_extra_can_be_installed_beside_what_we_need() -> None:
    required = map(Requirement, importlib.metadata.requires("ray") or [])
    pinned = [item for item in required if item.name == "vllm" and item.marker]
    # Another vLLM takes other versions: look at its requirements, then change the numbers here.
    assert {str(item.specifier) for item in pinned} == {"==0.29.0"}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    ours = {item.name: item.specifier for item in map(Requirement, project["dependencies"])}
    assert "0.136.3" in ours["fastapi"]  # vLLM 0.29: >=0.133, <0.137
    assert "2.13.0" in ours["torch"]  # vLLM 0.29: exactly this


@pytest.mark.skipif(
    importlib.util.find_spec("vllm") is None,
    reason="needs the extra vllm (docs/engines.md), which brings CUDA libraries of several GB",
)
def test_the_graph_of_the_vllm_application_builds(llm: dict[str, Any], tmp_path: Path) -> None:
    from ray.serve._private.build_app import build_app
    from ray.serve.llm import build_openai_app

    names = {item.name for item in build_app(build_openai_app(llm["args"]), name="llm").deployments}
    assert "LLMServer:plainmed-llm" in names
    assert len(names) == 2
