"""The releases of the Helm chart that tests look at, as Helm's own engine renders them.

Also what is asked of them more than once: an object of a kind, every map in a tree of values, the
metrics that Ray exports. It knows no test.
"""

from __future__ import annotations

import copy
import functools
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

helm = pytest.importorskip("helm_python", reason="needs helm-python-sdk, of the dev extra")
# For those who import this module: these need helm_python themselves.
import chart_files as chart_files  # noqa: E402
from chart_files import render  # noqa: E402

from serve_app.core.observability.instruments import SPECS, exported  # noqa: E402
from tests.support.promql_uses import uses  # noqa: E402

KEYS: dict[str, Any] = {"apiKeys": {"secretName": "plainmed-api-keys"}}
"""What the chart's own values leave to the operator; the profiles have it."""
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
    "defaults": ([], KEYS),
    "no-keys": (["cpu"], {"apiKeys": {"enabled": False}}),
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
            **KEYS,
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


def maps(value: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """The place of every map in a tree of maps and lists."""
    if isinstance(value, dict):
        yield path
    children = value.items() if isinstance(value, dict) else enumerate(value)
    for key, child in children:
        if isinstance(child, dict | list):
            yield from maps(child, (*path, key))


def at(tree: Any, path: tuple[str | int, ...]) -> Any:
    for key in path:
        tree = tree[key]
    return tree


def expressions() -> dict[str, list[tuple[str, frozenset[str]]]]:
    """The expressions of each panel and alert of a release by its title, and the labels that its
    legend or summary names."""
    items = objects("ha")
    [dashboard] = one(items, "ConfigMap")["data"].values()
    found = {
        rule["alert"]: [
            (
                rule["expr"],
                frozenset(re.findall(r"\$labels\.(\w+)", rule["annotations"]["summary"])),
            )
        ]
        for rule in one(items, "PrometheusRule")["spec"]["groups"][0]["rules"]
    }
    for panel in json.loads(dashboard)["panels"]:
        found[panel["title"]] = [
            (
                # Grafana's own variables, which Prometheus never sees.
                target["expr"].replace("$release", "plainmed"),
                frozenset(re.findall(r"{{(\w+)}}", target["legendFormat"])),
            )
            for target in panel["targets"]
        ]
    return found


def target_labels() -> set[str]:
    """Labels that a scrape puts on every series: the PodMonitor's, and the operator's own."""
    monitor = one(objects("ha"), "PodMonitor")["spec"]["podMetricsEndpoints"][0]
    return {item["targetLabel"] for item in monitor["relabelings"]} | {"pod", "namespace"}


def metrics_used() -> dict[str, set[str]]:
    """The metrics that each panel and alert of a release names, by its title."""
    return {
        title: {use.metric for text, _ in found for use in uses(text)}
        for title, found in expressions().items()
    }


SUFFIXES = {"counter": [""], "gauge": [""], "histogram": ["_bucket", "_sum", "_count"]}
"""Of the names `exported` gives."""


@functools.cache
def exported_metrics() -> set[str]:
    """Names under which metrics are exported: Ray 2.60's, read from its sources, and our own."""
    import ray

    folder = Path(ray.__file__).parent
    names = {exported(name) + end for name, spec in SPECS.items() for end in SUFFIXES[spec.kind]}
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
