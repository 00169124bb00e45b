"""The Helm chart refuses values that are wrong, unknown, or do not go together."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from serve_app.core.settings import Settings, secret_settings
from tests.support.helm_releases import EVERYTHING, KEYS, at, chart_files, helm, maps, render


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"replicas": 3}, "replicas"),
        ({"image": {"name": "x"}}, "name"),
        ({"workers": {"metrics": {"minReplica": 1}}}, "minReplica"),
        ({"workers": {"gpu": {}}}, "gpu"),
        ({"services": []}, "minItems"),
        ({"services": ["metric"]}, "services/0"),
        ({"upgradeStrategy": {"type": "Rolling"}}, "upgradeStrategy/type"),
        ({"service": {"type": "NodePort"}}, "service/type"),
        ({"service": {"nlb": {"scheme": "public"}}}, "nlb/scheme"),
        ({"auth": {"mode": "none"}}, "auth/mode"),
        ({"image": {"pullPolicy": "Sometimes"}}, "pullPolicy"),
        ({"image": {"digest": "sha256:12"}}, "digest"),
        ({"image": {"variant": "arm"}}, "variant"),
        ({"modelCache": {"type": "nfs"}}, "modelCache/type"),
        ({"autoscaling": {"upscalingMode": "Fast"}}, "upscalingMode"),
        ({"securityContext": {"runAsUser": 0}}, "runAsUser"),
        ({"podDisruptionBudget": {"minAvailable": "50%"}}, "minAvailable"),
        ({"topologySpread": {"whenUnsatisfiable": "Maybe"}}, "whenUnsatisfiable"),
        ({"serve": {"settings": {"max_text": 1}}}, "max_text"),
        ({"serve": {"settings": {"max_texts": 0}}}, "serve/settings/max_texts"),
        ({"serve": {"settings": {"hf_token": "x"}}}, "hf_token"),
        ({"serve": {"settings": {"allow_no_keys": True}}}, "allow_no_keys"),
        ({"apiKeys": {"key": "../keys"}}, "apiKeys/key"),
        ({"serve": {"deployments": {"Scorer": {}}}}, "Scorer"),
        ({"serve": {"deployments": {"Loss": {"replicas": 2}}}}, "replicas"),
        (
            {"serve": {"deployments": {"Loss": {"num_replicas": 2, "autoscaling_config": {}}}}},
            "serve/deployments/Loss",
        ),
        ({"env": {"MAX-TEXTS": "x"}}, "MAX-TEXTS"),
        ({"secretEnv": {"HF_TOKEN": "plain"}}, "secretEnv/HF_TOKEN"),
        ({"serviceAccount": {"roleArn": "plainmed"}}, "roleArn"),
        ({"initializingTimeout": "soon"}, "initializingTimeout"),
    ],
    ids=lambda value: value if isinstance(value, str) else json.dumps(value)[:40],
)
def test_the_schema_refuses(values: dict[str, Any], message: str) -> None:
    with pytest.raises(helm.HelmError, match=re.escape(message)):
        render("plainmed", [], values)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"generator": {"model": {"name": "m"}}}, "go together"),
        ({"services": ["metrics"], "generator": {"model": {"path": "/m"}}}, "does not list"),
        (
            {"workers": {"metrics": {"enabled": False}, "generator": {"enabled": False}}},
            "nothing could run",
        ),
        ({"autoscaling": {"enabled": True}, "workers": {"metrics": {"minReplicas": 2}}}, "hold"),
        (
            {"upgradeStrategy": {"type": "NewClusterWithIncrementalUpgrade"}},
            "needs autoscaling",
        ),
        ({"monitoring": {"rules": {"enabled": True}}}, "needs monitoring.podMonitor"),
        ({"gcsFaultTolerance": {"enabled": True}}, "redisAddress"),
        ({"modelCache": {"type": "hostPath"}}, "modelCache.hostPath"),
        ({"gateway": {"enabled": True}}, "parentRefs"),
        (
            {"env": {"A": "x"}, "secretEnv": {"A": {"secretName": "s", "key": "k"}}},
            "keep one",
        ),
        ({"ingress": {"enabled": True, "tlsSecretName": "t"}}, "host name"),
        ({"env": {"HF_TOKEN": "x"}}, "secretEnv.HF_TOKEN"),
        ({"env": {"MODEL_NAME": "x"}}, "is set by the chart"),
        ({"env": {"ALLOW_NO_KEYS": "true"}}, "is set by the chart"),
        (
            {
                "apiKeys": {"enabled": False},
                "secretEnv": {"API_KEYS": {"secretName": "s", "key": "k"}},
            },
            "apiKeys.enabled is false",
        ),
        ({"drain": {"seconds": 90, "maxSeconds": 60}}, "drain.maxSeconds"),
        (
            {"auth": {"mode": "disabled"}, "networkPolicy": {"enabled": False}},
            "could run programs here",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else json.dumps(value)[:40],
)
def test_values_that_do_not_go_together_are_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(helm.HelmError, match=message):
        render("plainmed", [], KEYS | values)


def test_callers_need_keys_unless_the_operator_says_otherwise() -> None:
    with pytest.raises(helm.HelmError) as caught:
        render("plainmed", [], {}, namespace="clinic")
    said = str(caught.value)
    make = "kubectl -n clinic create secret generic plainmed-api-keys --from-file=keys.json"
    for words in ("plainmed keys new keys.json", make, "--set apiKeys.enabled=false"):
        assert words in said
    render("plainmed", [], {"apiKeys": {"enabled": False}})
    render("plainmed", [], {"secretEnv": {"API_KEYS": {"secretName": "keys", "key": "document"}}})


def test_either_of_rays_token_and_the_network_policy_may_be_off() -> None:
    render("plainmed", [], KEYS | {"auth": {"mode": "disabled"}})
    render("plainmed", [], KEYS | {"networkPolicy": {"enabled": False}})


# One is no setting of ours: a collector's key goes there (docs/observability.md).
SECRET_NAMES = [name.upper() for name in secret_settings()] + ["OTEL_EXPORTER_OTLP_HEADERS"]


@pytest.mark.parametrize(
    "name", [*SECRET_NAMES, "OTEL_EXPORTER_OTLP_TRACES_HEADERS", "AWS_SECRET_ACCESS_KEY"]
)
def test_a_secret_is_no_plain_value(name: str) -> None:
    with pytest.raises(helm.HelmError, match=f"secretEnv.{name}"):
        render("plainmed", [], KEYS | {"env": {name: "x"}})


def test_settings_that_are_no_secret_may_be_plain_values() -> None:
    plain = set(Settings.model_fields) - chart_files.NOT_SETTABLE
    own = {"model_name", "model_path", "model_s3_bucket"}  # by the chart's generator.model
    render("plainmed", [], KEYS | {"env": {name.upper(): "x" for name in plain - own}})


def test_no_secret_is_a_setting_of_the_serve_config() -> None:
    assert set(secret_settings()) <= chart_files.NOT_SETTABLE


def test_a_release_name_too_long_for_kuberay_is_refused() -> None:
    with pytest.raises(helm.HelmError, match="47 at most"):
        render("a" * 45, [], {})


def test_each_schema_map_refuses_unknown_keys() -> None:
    """A map of the schema that would take any key must be one of those meant to."""
    schema = json.loads((chart_files.CHART / "values.schema.json").read_text(encoding="utf-8"))
    open_maps = set(_open_maps(schema, ""))
    assert open_maps == {
        "/properties/global",  # Helm's own
        "/$defs/deployment/properties/user_config",  # whatever a deployment's reconfigure takes
        "/properties/serve/properties/extraApplications/items/properties/args",  # the application's
        *(
            f"{place}/properties/affinity/properties/{name}"
            for place in ("/properties/head", "/$defs/group")
            for name in ("nodeAffinity", "podAffinity", "podAntiAffinity")
        ),
    }


def _open_maps(node: Any, path: str) -> Iterator[str]:
    if isinstance(node, dict):
        if node.get("type") == "object" and "additionalProperties" not in node:
            yield path
        for key, child in node.items():
            yield from _open_maps(child, f"{path}/{key}")


def _refusal(chart: Any, values: dict[str, Any]) -> str | None:
    try:
        chart.validate_schema(values)
    except helm.HelmError as error:
        return str(error)
    return None


# Maps whose keys are the user's own.
OWN_KEYS = {"env", "nodeSelector", "annotations", "podAnnotations", "labels", "podLabels"}


def test_an_unknown_key_is_refused_at_every_depth() -> None:
    values = yaml.safe_load((chart_files.CHART / "values.yaml").read_text(encoding="utf-8"))
    values = chart_files.merge(
        chart_files.merge(values, chart_files.profile_values(["ha"])), EVERYTHING
    )
    taken = set()
    with helm.Chart.load(chart_files.CHART) as chart:
        chart.validate_schema(values)
        for path in maps(values):
            node = at(values, path)
            node["unheardOf"] = "x"
            refusal = _refusal(chart, values)
            if refusal is None:
                taken.add(path)
            else:
                assert "unheardOf" in refusal
            del node["unheardOf"]
    # Kubernetes' own node affinity is passed on as it is.
    assert {p for p in taken if p[-1] not in OWN_KEYS} == {("head", "affinity", "nodeAffinity")}
    assert len(taken) >= 10
