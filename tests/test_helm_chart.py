"""The Helm chart, rendered by Helm's own engine: it lints, it is refused where wrong, it is valid.

No cluster is asked. Core kinds are checked against the schemas of Kubernetes 1.31 to 1.37, the
RayService against KubeRay's CRD (where the shared data folder has it), the Serve config against
Ray's own schema and the graph that `serve_app.app` builds.
"""

from __future__ import annotations

import copy
import functools
import http.server
import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from serve_app import __version__
from tests.crd_walk import problems, schema_of

helm = pytest.importorskip("helm_python", reason="needs helm-python-sdk, of the dev extra")
kubernetes_validate = pytest.importorskip(
    "kubernetes_validate", reason="needs kubernetes-validate, of the dev extra"
)

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "scripts"))
import chart_files  # noqa: E402
from chart_files import CHART, merge, profile_values, render  # noqa: E402
from chart_readme import documented_values, readme  # noqa: E402

KUBERNETES = ["1.31", "1.32", "1.33", "1.34", "1.35", "1.36", "1.37"]
METRICS: dict[str, Any] = {"services": ["metrics"]}
GENERATOR: dict[str, Any] = {"services": ["generator"]}
EVERYTHING: dict[str, Any] = {
    "service": {"loadBalancerSourceRanges": ["10.0.0.0/8"], "annotations": {"team": "a"}},
    "ingress": {
        "enabled": True,
        "host": "plainmed.example.org",
        "className": "alb",
        "tlsSecretName": "tls",
        "annotations": {"a": "b"},
    },
    "gateway": {
        "enabled": True,
        "parentRefs": [{"name": "public", "namespace": "gateways"}],
        "hostnames": ["plainmed.example.org"],
    },
    "networkPolicy": {
        "ingressFrom": [{"ipBlock": {"cidr": "10.0.0.0/8"}}],
        "extraEgress": [{"to": [{"ipBlock": {"cidr": "10.1.0.0/16"}}]}],
    },
    "image": {"digest": "sha256:" + "0" * 64, "pullSecrets": ["registry"]},
    "env": {"METRICS_DTYPE": "bfloat16", "MAX_TEXTS": 64},
    "secretEnv": {"HF_TOKEN": {"secretName": "hub", "key": "token"}},
    "aws": {"region": "eu-west-1"},
    "generator": {"model": {"path": "hf://org/model@main"}},
    "modelCache": {"type": "persistentVolumeClaim", "claimName": "models"},
    "serviceAccount": {
        "roleArn": "arn:aws:iam::000000000000:role/plainmed",
        "annotations": {"a": "b"},
    },
    "auth": {"secretName": "ray-token"},
    "podLabels": {"team": "a"},
    "podAnnotations": {"a": "b"},
    "head": {
        "priorityClassName": "high",
        "tolerations": [{"key": "a", "operator": "Exists"}],
        "affinity": {"nodeAffinity": {}},
    },
    "workers": {"metrics": {"idleTimeoutSeconds": 60}},
}
# name -> (profiles, further values): every profile, alone and as its header says it is used.
RELEASES: dict[str, tuple[list[str], dict[str, Any]]] = {
    "defaults": ([], {}),
    "dev": (["dev"], {}),
    "cpu-metrics": (["cpu"], METRICS),
    "cpu-generator": (["cpu"], GENERATOR),
    "gpu-generator": (["gpu"], GENERATOR),
    "gpu": (["gpu"], {}),
    "vllm": (
        ["vllm"],
        GENERATOR | {"generator": {"model": {"name": "lead-3", "bucket": "models"}}},
    ),
    "ha": (["ha"], {}),
    "cpu-max": (["cpu", "max"], GENERATOR),
    "everything": (["ha"], EVERYTHING),
    "suspended": (["cpu"], {"suspend": True}),
    "hostpath": (["cpu"], {"modelCache": {"type": "hostPath", "hostPath": "/var/lib/plainmed"}}),
    "incremental": (
        [],
        {
            "autoscaling": {"enabled": True},
            "upgradeStrategy": {
                "type": "NewClusterWithIncrementalUpgrade",
                "gatewayClassName": "istio",
            },
        },
    ),
}


def objects(name: str, release: str = "plainmed") -> list[dict[str, Any]]:
    """The parsed manifests of one of RELEASES, the caller's to change."""
    return copy.deepcopy(_rendered(name, release))


@functools.cache
def _rendered(name: str, release: str) -> list[dict[str, Any]]:
    rendered = render(release, *RELEASES[name])
    found = []
    for template, text in sorted(rendered.items()):
        if template.endswith(".yaml"):
            found += [item for item in yaml.load_all(text, Loader=yaml.CSafeLoader) if item]
    return found


def one(items: list[dict[str, Any]], kind: str) -> dict[str, Any]:
    matching = [item for item in items if item["kind"] == kind]
    assert len(matching) == 1, f"{len(matching)} objects of kind {kind}"
    return matching[0]


def cluster(items: list[dict[str, Any]]) -> dict[str, Any]:
    return one(items, "RayService")["spec"]["rayClusterConfig"]


def pods(items: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Pod templates by group name, the head's as `head`."""
    config = cluster(items)
    found = {group["groupName"]: group["template"] for group in config.get("workerGroupSpecs", [])}
    return {"head": config["headGroupSpec"]["template"], **found}


def serve_config(items: list[dict[str, Any]]) -> dict[str, Any]:
    return yaml.safe_load(one(items, "RayService")["spec"]["serveConfigV2"])


# --- it lints, and what is generated is in step -------------------------------------------


@pytest.mark.parametrize("name", RELEASES)
def test_every_profile_lints_without_a_warning(name: str) -> None:
    report = helm.lint(CHART, profile_values(*RELEASES[name]), strict=True)
    worse_than_info = [item for item in report["messages"] if item["severity"] > 1]
    # An icon is the one thing lint recommends that this chart does not have.
    assert not [item for item in worse_than_info if "icon" not in item["error"]]
    assert not report["errors"]


def test_generated_chart_files_are_in_step_with_their_sources() -> None:
    different = chart_files.out_of_step(chart_files.generated())
    assert not different, f"run: python scripts/chart_files.py ({different})"


def test_golden_renderings_are_what_the_chart_renders() -> None:
    golden = {p: t for p, t in chart_files.renderings().items() if "fixtures" in p.parts}
    assert len(golden) >= 3
    assert not chart_files.out_of_step(golden), "see the diff after: python scripts/chart_files.py"


def test_the_chart_is_of_the_version_it_deploys() -> None:
    metadata = yaml.safe_load((CHART / "Chart.yaml").read_text(encoding="utf-8"))
    assert metadata["appVersion"] == __version__
    values = yaml.safe_load((CHART / "values.yaml").read_text(encoding="utf-8"))
    pinned = re.search(r"^ray==(.+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    assert pinned is not None
    assert values["ray"]["version"] == pinned[1]


def test_the_readme_describes_every_value() -> None:
    text = (CHART / "values.yaml").read_text(encoding="utf-8")
    page = (CHART / "README.md").read_text(encoding="utf-8")
    described = documented_values(text)
    assert len(described) > 100
    assert all(f"| `{value.path}` | {value.kind} |" in page for value in described)


def test_a_value_without_a_description_is_refused() -> None:
    with pytest.raises(ValueError, match=r"b\.c has no"):
        readme("<!-- values -->", "# -- Known.\na: 1\nb:\n  c: 2\n")


def test_the_package_holds_profiles_and_serve_config(tmp_path: Path) -> None:
    with helm.Chart.load(helm.package(CHART, destination=tmp_path)) as chart:
        names = {item["name"] for item in chart.files}
        assert {"values-ha.yaml", "files/serve-config.yaml", "README.md"} <= names
        assert "README.md.tmpl" not in names
        assert chart.schema is not None


# --- wrong values are refused --------------------------------------------------------------


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
        ({"drain": {"seconds": 90, "maxSeconds": 60}}, "drain.maxSeconds"),
    ],
    ids=lambda value: value if isinstance(value, str) else json.dumps(value)[:40],
)
def test_values_that_do_not_go_together_are_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(helm.HelmError, match=message):
        render("plainmed", [], values)


def test_a_release_name_too_long_for_kuberay_is_refused() -> None:
    with pytest.raises(helm.HelmError, match="47 at most"):
        render("a" * 45, [], {})


def test_each_schema_map_refuses_unknown_keys() -> None:
    """A map of the schema that would take any key must be one of those meant to."""
    schema = json.loads((CHART / "values.schema.json").read_text(encoding="utf-8"))
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


def _maps(value: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """The place of every map in a tree of maps and lists."""
    if isinstance(value, dict):
        yield path
    children = value.items() if isinstance(value, dict) else enumerate(value)
    for key, child in children:
        if isinstance(child, dict | list):
            yield from _maps(child, (*path, key))


def _at(tree: Any, path: tuple[str | int, ...]) -> Any:
    for key in path:
        tree = tree[key]
    return tree


def _refusal(chart: Any, values: dict[str, Any]) -> str | None:
    try:
        chart.validate_schema(values)
    except helm.HelmError as error:
        return str(error)
    return None


# Maps whose keys are the user's own.
OWN_KEYS = {"env", "nodeSelector", "annotations", "podAnnotations", "labels", "podLabels"}


def test_an_unknown_key_is_refused_at_every_depth() -> None:
    values = yaml.safe_load((CHART / "values.yaml").read_text(encoding="utf-8"))
    values = merge(merge(values, profile_values(["ha"])), EVERYTHING)
    taken = set()
    with helm.Chart.load(CHART) as chart:
        chart.validate_schema(values)
        for path in _maps(values):
            node = _at(values, path)
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


# --- objects are valid ----------------------------------------------------------------------


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
    for path in list(_maps(service)):
        node = _at(service, path)
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


# --- the Serve config ------------------------------------------------------------------------


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
    text = render("plainmed", [], values)["rayservice.yaml"]
    document = yaml.safe_load(yaml.safe_load(text)["spec"]["serveConfigV2"])
    by_name = {item["name"]: item for item in document["applications"][0]["deployments"]}
    assert "autoscaling_config" not in by_name["Relevance"]
    assert by_name["Relevance"]["num_replicas"] == 3
    assert by_name["Relevance"]["user_config"]["batch_chars"] == 200000
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


# --- what the objects promise ------------------------------------------------------------------


def test_metrics_alone_answer_on_8001_and_the_generator_on_8000() -> None:
    for name, port in (("cpu-metrics", 8001), ("cpu-generator", 8000), ("ha", 8000)):
        items = objects(name)
        assert one(items, "Service")["spec"]["ports"][0]["port"] == port
        assert serve_config(items)["http_options"]["port"] == port
        for template in pods(items).values():
            ports = {
                p["name"]: p["containerPort"] for p in template["spec"]["containers"][0]["ports"]
            }
            assert ports["serve"] == port


def test_no_service_opens_more_than_the_api_port() -> None:
    for name in RELEASES:
        items = objects(name)
        services = [item for item in items if item["kind"] == "Service"]
        assert [port["name"] for item in services for port in item["spec"]["ports"]] == ["http"]
        assert cluster(items)["headGroupSpec"]["serviceType"] == "ClusterIP"


def test_the_dashboard_is_open_to_kuberay_alone() -> None:
    for name in ("defaults", "dev", "ha", "everything"):
        policy = one(objects(name), "NetworkPolicy")["spec"]
        assert policy["policyTypes"] == ["Ingress", "Egress"]
        api = one(objects(name), "Service")["spec"]["ports"][0]["port"]
        for rule in policy["ingress"]:
            ports = {port["port"] for port in rule.get("ports", [])}
            namespaces = [
                peer["namespaceSelector"]["matchLabels"]["kubernetes.io/metadata.name"]
                for peer in rule.get("from", [])
                if "namespaceSelector" in peer
            ]
            if 8265 in ports:
                assert namespaces == ["kuberay-system"]
            elif not ports:  # all ports: only for the release's own pods
                assert rule["from"] == [{"podSelector": policy["podSelector"]}]
            elif not rule.get("from") or "ipBlock" in rule["from"][0]:
                assert ports == {api}


def test_every_container_is_confined() -> None:
    for name in ("dev", "cpu-generator", "ha"):
        items = objects(name)
        contexts = [
            container["securityContext"]
            for template in pods(items).values()
            for container in template["spec"]["containers"]
        ]
        if "autoscalerOptions" in cluster(items):
            contexts.append(cluster(items)["autoscalerOptions"]["securityContext"])
        for context in contexts:
            assert context["allowPrivilegeEscalation"] is False
            assert context["privileged"] is False
            assert context["readOnlyRootFilesystem"] is True
            assert context["runAsNonRoot"] is True
            assert context["capabilities"] == {"drop": ["ALL"]}
        for template in pods(items).values():
            pod = template["spec"]["securityContext"]
            assert pod["runAsUser"] > 0
            assert pod["seccompProfile"] == {"type": "RuntimeDefault"}


def test_only_an_autoscaling_head_gets_a_kubernetes_token() -> None:
    mounted = {
        (name, group): template["spec"]["automountServiceAccountToken"]
        for name in ("defaults", "ha")
        for group, template in pods(objects(name)).items()
    }
    assert [key for key, value in mounted.items() if value] == [("ha", "head")]
    assert one(objects("ha"), "ServiceAccount")["automountServiceAccountToken"] is False


def test_secrets_are_references() -> None:
    items = objects("everything")
    assert "Secret" not in {item["kind"] for item in items}
    for template in pods(items).values():
        env = {item["name"]: item for item in template["spec"]["containers"][0]["env"]}
        reference = env["HF_TOKEN"]["valueFrom"]["secretKeyRef"]
        assert reference == {"name": "hub", "key": "token"}
    redis = cluster(items)["gcsFaultToleranceOptions"]["redisPassword"]
    assert redis["valueFrom"]["secretKeyRef"]["name"] == "plainmed-redis"


@pytest.mark.parametrize("mode", ["token", "disabled"])
def test_every_container_agrees_on_authentication(mode: str) -> None:
    text = render("plainmed", ["cpu"], {"auth": {"mode": mode}})["rayservice.yaml"]
    items = [yaml.safe_load(text)]
    assert cluster(items)["authOptions"] == {"mode": mode}
    environments = [t["spec"]["containers"][0]["env"] for t in pods(items).values()]
    environments.append(cluster(items)["autoscalerOptions"]["env"])
    set_by_chart = {"name": "RAY_AUTH_MODE", "value": "disabled"}
    # With a token KubeRay sets mode and token itself; off, Ray's own default has to be undone.
    assert [set_by_chart in env for env in environments] == [mode == "disabled"] * 4


def test_the_model_reaches_every_pod_so_that_a_change_makes_a_new_cluster() -> None:
    values = {**GENERATOR, "generator": {"model": {"name": "lead-3", "bucket": "models"}}}
    text = render("plainmed-generator", ["cpu"], values)["rayservice.yaml"]
    for template in pods([yaml.safe_load(text)]).values():
        env = {item["name"]: item.get("value") for item in template["spec"]["containers"][0]["env"]}
        assert (env["MODEL_NAME"], env["MODEL_S3_BUCKET"]) == ("lead-3", "models")


def test_stopping_keeps_everything_but_the_pods() -> None:
    running = {(item["kind"], item["metadata"]["name"]) for item in objects("cpu-metrics")}
    stopped = {(item["kind"], item["metadata"]["name"]) for item in objects("suspended")}
    assert running == stopped
    assert one(objects("suspended"), "RayService")["spec"]["suspend"] is True


def test_the_service_selects_the_pods_that_serve() -> None:
    for name in ("dev", "cpu-metrics", "ha"):
        items = objects(name)
        selector = one(items, "Service")["spec"]["selector"]
        assert selector.pop("ray.io/serve") == "true"  # KubeRay's own label
        for template in pods(items).values():
            assert selector.items() <= template["metadata"]["labels"].items()
        alone = name == "dev"
        excluded = one(items, "RayService")["spec"].get("excludeHeadPodFromServeSvc", False)
        assert excluded is not alone


def test_the_nlb_annotations_are_written_for_a_load_balancer_only() -> None:
    assert "annotations" not in one(objects("dev"), "Service")["metadata"]
    service = one(objects("cpu-metrics"), "Service")
    prefix = "service.beta.kubernetes.io/aws-load-balancer-"
    assert service["metadata"]["annotations"][prefix + "scheme"] == "internal"
    assert service["metadata"]["annotations"][prefix + "nlb-target-type"] == "ip"
    assert service["spec"]["loadBalancerClass"] == "service.k8s.aws/nlb"


def test_a_pod_outlives_its_drain() -> None:
    for template in pods(objects("ha")).values():
        spec = template["spec"]
        script = spec["containers"][0]["lifecycle"]["preStop"]["exec"]["command"][-1]
        assert "sleep 60" in script
        assert "-lt 600" in script
        assert spec["terminationGracePeriodSeconds"] > 600
    attributes = one(objects("ha"), "Service")["metadata"]["annotations"].items()
    delays = [value for name, value in attributes if name.endswith("target-group-attributes")]
    assert delays == ["deregistration_delay.timeout_seconds=600"]


def test_each_worker_group_has_its_own_disruption_budget() -> None:
    items = objects("ha")
    budgets = [item["spec"] for item in items if item["kind"] == "PodDisruptionBudget"]
    groups = {group["groupName"]: group for group in cluster(items)["workerGroupSpecs"]}
    assert {b["selector"]["matchLabels"]["ray.io/group"] for b in budgets} == set(groups)
    for budget in budgets:
        group = groups[budget["selector"]["matchLabels"]["ray.io/group"]]
        # Fewer than there are, or no node could ever be drained.
        assert 0 < budget["minAvailable"] < group["minReplicas"]


def test_gpu_workers_ask_for_gpus_and_tolerate_their_taint() -> None:
    template = pods(objects("gpu-generator"))["generator"]
    resources = template["spec"]["containers"][0]["resources"]
    assert resources["limits"]["nvidia.com/gpu"] == resources["requests"]["nvidia.com/gpu"] == "1"
    assert template["spec"]["tolerations"][0]["key"] == "nvidia.com/gpu"
    assert template["spec"]["containers"][0]["image"] == f"plainmed:{__version__}-gpu"


def test_workers_bigger_by_the_max_overlay() -> None:
    normal, largest = (
        pods(objects(name))["generator"]["spec"] for name in ("cpu-generator", "cpu-max")
    )
    limits = [spec["containers"][0]["resources"]["limits"]["cpu"] for spec in (normal, largest)]
    assert limits == ["4", "16"]
    pools = [spec["nodeSelector"]["plainmed.io/pool"] for spec in (normal, largest)]
    assert pools == ["cpu", "cpu-max"]


def test_notes_give_commands_for_what_was_installed() -> None:
    dev = render("plainmed", ["dev"])["NOTES.txt"]
    assert "kubectl -n plainmed port-forward service/plainmed 8000" in dev
    assert "http://127.0.0.1:8000/generate" in dev
    assert "http://127.0.0.1:8000/metrics/readability" in dev
    nlb = render("plainmed-metrics", ["cpu"], METRICS)["NOTES.txt"]
    assert "loadBalancer.ingress[0].hostname" in nlb
    assert "http://$HOST:8001/healthz" in nlb
    assert "http://$HOST:8001/metrics/readability" in nlb
    assert "/generate" not in nlb
    ingress = {"ingress": {"enabled": True, "host": "a.org"}, "service": {"type": "ClusterIP"}}
    assert "curl" not in render("plainmed", ["cpu"], ingress)["NOTES.txt"]
    assert "kubectl -n plainmed wait rayservice/plainmed-metrics --for=condition=Ready" in nlb
    stopped = render("plainmed-metrics", ["cpu"], {**METRICS, "suspend": True})["NOTES.txt"]
    assert "--set suspend=false" in stopped


# --- monitoring: only metrics that Ray exports ---------------------------------------------------


@functools.cache
def _exported_by_ray() -> set[str]:
    """Names under which Ray 2.60's sources export metrics, read from those sources."""
    import ray

    folder = Path(ray.__file__).parent
    names: set[str] = set()
    for path in [*folder.glob("serve/_private/*.py"), folder / "serve" / "batching.py"]:
        text = path.read_text(encoding="utf-8")
        text = text.replace("{protocol_name}", "http")
        for kind, name in re.findall(
            r'(Counter|Gauge|Histogram)\(\s*(?:name=)?f?"(serve_\w+)"', text
        ):
            suffixes = {
                "Counter": ["_total"],
                "Gauge": [""],
                "Histogram": ["_bucket", "_sum", "_count"],
            }
            names |= {f"ray_{name}{suffix}" for suffix in suffixes[kind]}
    reporter = (folder / "dashboard/modules/reporter/reporter_agent.py").read_text(encoding="utf-8")
    names |= {f"ray_{name}" for name in re.findall(r'Gauge\(\s*"(node_\w+)"', reporter)}
    return names


def test_alerts_and_dashboard_use_metrics_that_ray_exports() -> None:
    exported = _exported_by_ray()
    assert "ray_serve_num_http_requests_total" in exported
    items = objects("ha")
    dashboard = next(iter(one(items, "ConfigMap")["data"].values()))
    expressions = [
        rule["expr"] for rule in one(items, "PrometheusRule")["spec"]["groups"][0]["rules"]
    ]
    expressions += [t["expr"] for p in json.loads(dashboard)["panels"] for t in p["targets"]]
    used = {name for text in expressions for name in re.findall(r"\bray_(?!io_)\w+", text)}
    assert len(used) >= 12
    assert used <= exported, used - exported


def test_each_alert_says_what_to_do_and_selects_its_release() -> None:
    for rule in one(objects("ha"), "PrometheusRule")["spec"]["groups"][0]["rules"]:
        assert rule["annotations"]["summary"]
        assert rule["annotations"]["action"]
        assert 'release="plainmed"' in rule["expr"]
    monitor = one(objects("ha"), "PodMonitor")["spec"]["podMetricsEndpoints"][0]
    assert {item["targetLabel"] for item in monitor["relabelings"]} >= {"release", "ray_io_cluster"}


def test_a_stopped_release_does_not_alert_that_it_is_down() -> None:
    text = render("plainmed", ["ha"], {"suspend": True})["prometheusrule.yaml"]
    assert "PlainMedDown" not in text
    assert "PlainMedErrors" in text


# --- the readiness probe, run as the kubelet would ------------------------------------------------


class _Pod(http.server.BaseHTTPRequestHandler):
    """A pod's API whose two health routes answer what the test says."""

    status: dict[str, int]

    def do_GET(self) -> None:
        self.send_response(self.status[self.path])
        self.end_headers()

    def log_message(self, *arguments: object) -> None:
        """Quiet."""


@pytest.fixture
def pod_api() -> Iterator[tuple[int, dict[str, int]]]:
    status = {"/-/healthz": 503, "/healthz": 503}
    handler = type("Handler", (_Pod,), {"status": status})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    yield server.server_address[1], status
    server.shutdown()
    server.server_close()


def test_a_worker_becomes_ready_with_the_application_and_stays_so_without_a_replica(
    pod_api: tuple[int, dict[str, int]], tmp_path: Path
) -> None:
    port, status = pod_api
    text = render("plainmed", ["cpu"], {"serve": {"port": port}})["rayservice.yaml"]
    template = pods([yaml.safe_load(text)])["metrics"]
    command = template["spec"]["containers"][0]["readinessProbe"]["exec"]["command"]
    # In a pod /tmp is the container's own; here the marker goes to the test's folder.
    command[-1] = command[-1].replace("/tmp/.plainmed", f"{tmp_path}/.plainmed")

    def ready() -> bool:
        return subprocess.run(command, capture_output=True, timeout=20, check=False).returncode == 0

    assert not ready()  # nothing is up
    status["/-/healthz"] = 200
    assert not ready()  # the proxy is up, the models are loading
    status["/healthz"] = 200
    assert ready()
    status["/healthz"] = 503
    assert ready()  # a replica was lost: requests wait for its replacement
    status["/-/healthz"] = 503
    assert not ready()  # the proxy is gone or draining


# --- the drain before a pod stops, run as the kubelet would --------------------------------------


def _metrics(proxy: float, replica: float) -> str:
    return (
        "# TYPE ray_serve_num_ongoing_http_requests gauge\n"
        f'ray_serve_num_ongoing_http_requests{{NodeId="a",node_id="b"}} {proxy}\n'
        f'ray_serve_replica_processing_queries{{deployment="Loss"}} {replica}\n'
        'ray_serve_num_http_requests_total{route="/loss"} 7.0\n'
    )


class _Exporter(http.server.BaseHTTPRequestHandler):
    """Ray's metrics port, which answers what the test says, and the dashboard's list of ports."""

    page: list[str]

    def do_GET(self) -> None:
        text = self.page[0]
        if self.path == "/api/prometheus/sd":
            address, port = self.server.server_address[:2]
            text = json.dumps([{"targets": [f"127.0.0.3:{port}", f"{address}:{port}"]}])
            if self.headers["Authorization"] != "Bearer the-clusters":
                text = "[]"
        elif "Authorization" in self.headers:
            text = "a token for the dashboard was sent to a pod"
        self.send_response(200)
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *arguments: object) -> None:
        """Quiet."""


@pytest.fixture
def exporter(request: pytest.FixtureRequest) -> Iterator[tuple[int, list[str]]]:
    """Its port and page; the test may give an address other than this pod's own."""
    page = [_metrics(0.0, 0.0)]
    handler = type("Handler", (_Exporter,), {"page": page})
    address = getattr(request, "param", "127.0.0.1")
    server = http.server.ThreadingHTTPServer((address, 0), handler)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    yield server.server_address[1], page
    server.shutdown()
    server.server_close()


def _draining(port: int, tmp_path: Path, group: str, most: int = 20) -> subprocess.Popen[bytes]:
    """A pod's preStop hook, running, with the files and ports of the test for those of a pod."""
    values = {"drain": {"seconds": 1, "maxSeconds": most}}
    template = pods([yaml.safe_load(render("plainmed", ["cpu"], values)["rayservice.yaml"])])[group]
    command = template["spec"]["containers"][0]["lifecycle"]["preStop"]["exec"]["command"]
    for real, here, count in (
        ("8080", str(port), 3),
        ("8265", str(port), 1),
        ("/tmp/ray", str(tmp_path), 1),
        ("sleep 2\n", "sleep 0.2\n", 1),  # between two looks
    ):
        assert command[-1].count(real) == count
        command[-1] = command[-1].replace(real, here)
    environment = os.environ | {"FQ_RAY_IP": "127.0.0.2", "RAY_AUTH_TOKEN": "the-clusters"}
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def test_a_pod_waits_until_its_requests_are_answered(
    exporter: tuple[int, list[str]], tmp_path: Path
) -> None:
    port, page = exporter
    page[0] = _metrics(2.0, 0.0)
    hook = _draining(port, tmp_path, "metrics")
    with pytest.raises(subprocess.TimeoutExpired):
        hook.wait(1.6)
    page[0] = _metrics(0.0, 1.0)  # the proxy has answered; a replica works for another pod's proxy
    with pytest.raises(subprocess.TimeoutExpired):
        hook.wait(0.6)
    page[0] = _metrics(0.0, 0.0)
    assert hook.wait(5) == 0
    assert hook.communicate() == (b"", b"")


def test_a_pod_without_requests_leaves_after_the_least_time(
    exporter: tuple[int, list[str]], tmp_path: Path
) -> None:
    assert _draining(exporter[0], tmp_path, "metrics").wait(3) == 0


def test_a_drain_ends_at_its_limit(exporter: tuple[int, list[str]], tmp_path: Path) -> None:
    port, page = exporter
    page[0] = _metrics(1.0, 0.0)
    assert _draining(port, tmp_path, "metrics", most=2).wait(6) == 0


@pytest.mark.parametrize("exporter", ["127.0.0.2"], indirect=True)
@pytest.mark.parametrize("group", ["head", "metrics"])
def test_a_pod_waits_for_the_requests_of_every_other(
    exporter: tuple[int, list[str]], tmp_path: Path, group: str
) -> None:
    port, page = exporter
    page[0] = _metrics(0.0, 1.0)
    if group == "head":
        # As Ray writes it on the head: every node's exporter, and others of the head's own.
        # Nothing listens at 127.0.0.3: a pod that has gone. Workers ask the dashboard.
        targets = [f"127.0.0.3:{port}", f"127.0.0.2:{port}", "127.0.0.1:44227"]
        (tmp_path / "prom_metrics_service_discovery.json").write_text(
            json.dumps([{"labels": {"job": "ray"}, "targets": targets}])
        )
    hook = _draining(port, tmp_path, group)
    with pytest.raises(subprocess.TimeoutExpired):
        hook.wait(1.6)
    page[0] = _metrics(0.0, 0.0)
    assert hook.wait(5) == 0


def test_the_drain_looks_at_metrics_that_ray_exports() -> None:
    script = pods(objects("ha"))["head"]["spec"]["containers"][0]["lifecycle"]["preStop"]
    pattern = re.search(r"ray_serve_\(([a-z_|]+)\)", script["exec"]["command"][-1])
    assert pattern is not None
    assert {f"ray_serve_{name}" for name in pattern[1].split("|")} <= _exported_by_ray()
