"""What the objects of the Helm chart promise: ports, confinement, secrets, drains, sizes."""

from __future__ import annotations

import pytest
import yaml

from serve_app import __version__
from tests.support.helm_releases import (
    GENERATOR,
    METRICS,
    RELEASES,
    cluster,
    objects,
    one,
    pods,
    render,
    serve_config,
)


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
