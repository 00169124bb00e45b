"""Where something is missing or wrong, a verb says what, before anything changes."""

from __future__ import annotations

import json
import shutil
from typing import Any

import boto3
import pytest
import yaml
from moto.servicequotas.models import ServiceQuotasBackend
from typer.testing import CliRunner

from serve_app.cli.main import app
from serve_app.ops import aws as operations
from tests.ops.command import GENERATOR, METRICS, ROOT, client, deployed, done, refused
from tests.ops.fakes import Cluster, Stage, crd, service


@pytest.mark.parametrize("verb", ["deploy", "redeploy", "apply", "restore"])
def test_a_wrong_model_name_fails_before_anything_changes(
    stage: Stage, cluster: Cluster, verb: str
) -> None:
    deployed(stage, cluster)
    words = [verb, "all", "--model-name", "godo", "--model-bucket", "models"]
    said = refused(*words, *(["--yes"] if verb in ("deploy", "apply") else []))
    assert "MODEL_NAME 'godo'" in said
    assert "there are: good, half" in said
    assert stage.changing() == []


@pytest.mark.parametrize(
    ("name", "bucket", "message"),
    [
        ("half", "models", "no config.json"),
        ("good", "no-such-bucket", "no bucket 'no-such-bucket'"),
        ("../good", "models", "is not letters"),
        ("good", None, "set MODEL_S3_BUCKET"),
        ("good", "s3://models", "without s3://"),
    ],
)
def test_a_model_that_cannot_be_served_is_explained(
    stage: Stage, cluster: Cluster, name: str, bucket: str | None, message: str
) -> None:
    words = ["deploy", "generator", "--yes", "--model-name", name]
    said = refused(*words, *(["--model-bucket", bucket] if bucket else []))
    assert message in said
    assert stage.changing() == []


def test_model_name_and_bucket_come_from_the_environment(
    stage: Stage, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MODEL_NAME", "good")
    monkeypatch.setenv("MODEL_S3_BUCKET", "models")
    done("deploy", "generator", "--yes")
    assert stage.release(GENERATOR)["config"]["generator"]["model"]["name"] == "good"


def test_every_missing_thing_is_named_at_once(stage: Stage, cluster: Cluster) -> None:
    (stage.bin / "terraform").unlink()
    stage.answer("helm-version", "v3.19.0")
    said = refused(
        "deploy", "generator", "--yes", "--model-name", "godo", "--model-bucket", "models"
    )
    assert "3 things are not ready" in said
    assert "terraform is not on PATH; install Terraform" in said
    assert "Helm v3.19.0 is too old" in said
    assert "MODEL_NAME 'godo'" in said
    assert stage.changing() == []


def test_without_credentials_it_says_how_to_get_some(
    stage: Stage, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setattr(operations, "_session", boto3.session.Session)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    assert "aws sso login" in refused("deploy", "all", "--yes")
    assert stage.changing() == []


def test_no_gpu_quota_is_found_before_anything_is_built(
    stage: Stage, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = refused("deploy", "generator", "--yes", "--profile", "gpu")
    assert "request-service-quota-increase" in said
    assert "L-DB2E81BA" in said
    assert stage.changing() == []

    monkeypatch.setattr(
        ServiceQuotasBackend,
        "get_service_quota",
        lambda self, service_code, quota_code: {"QuotaCode": quota_code, "Value": 8.0},
    )
    done("deploy", "generator", "--yes", "--profile", "gpu")
    values = stage.release(GENERATOR)["config"]
    assert values["image"]["repository"].endswith("/gpu")
    assert any("nvidia-device-plugin" in c for c in stage.calls("helm"))
    assert any(word.endswith("values-gpu.yaml") for word in stage.calls("helm")[-1])


VLLM = ["--profile", "vllm", "--model-bucket", "models", "--model-name"]


def test_vllm_without_a_model_is_refused_before_anything_changes(
    stage: Stage, cluster: Cluster
) -> None:
    said = refused("deploy", "all", "--yes", "--profile", "vllm")
    assert "the vllm profile serves a model" in said
    assert "MODEL_NAME" in said
    said = refused("deploy", "generator", "--yes", "--specs", "max", *VLLM, "good")
    assert "the vllm profile has one size" in said
    assert stage.calls() == []


def test_vllm_is_not_given_an_adapter(stage: Stage, cluster: Cluster) -> None:
    client("s3").put_object(
        Bucket="models", Key="merged-models/lora/adapter_config.json", Body=b"{}"
    )
    said = refused("deploy", "generator", "--yes", "--skip-quota", *VLLM, "lora")
    assert "merge it with scripts/merge_and_upload.py" in " ".join(said.split())
    assert stage.changing() == []
    done("deploy", "generator", "--yes", "--skip-quota", *VLLM, "good")
    stage.forget_calls()
    # The release holds the profile now.
    refused("redeploy", "generator", "--tag", "v2", *VLLM[2:], "lora")
    assert stage.changing() == []


def test_vllm_asks_for_the_quota_of_its_nodes_and_brings_its_own_image_and_driver(
    stage: Stage, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        ServiceQuotasBackend,
        "get_service_quota",
        lambda self, service_code, quota_code: {"QuotaCode": quota_code, "Value": 8.0},
    )
    said = refused("deploy", "all", "--yes", *VLLM, "good")
    assert "is 8 vCPUs and one node takes 48" in " ".join(said.split())
    done("deploy", "all", "--yes", "--skip-quota", *VLLM, "good")
    assert stage.release(GENERATOR)["config"]["image"]["repository"].endswith("/vllm")
    assert stage.release(METRICS)["config"]["image"]["repository"].endswith("/cpu")
    built = [c for c in stage.calls("docker") if c[1] == "build"]
    assert [c[c.index("--target") + 1] for c in built] == ["cpu", "vllm"]
    assert any("nvidia-device-plugin" in c for c in stage.calls("helm"))
    assert any(word.endswith("values-vllm.yaml") for word in stage.calls("helm")[-1])


def test_an_environment_older_than_a_profile_says_what_to_run(
    stage: Stage, cluster: Cluster
) -> None:
    deployed(stage, cluster)
    answers = stage.folder / "answers" / "outputs"
    outputs = json.loads(answers.read_text())
    del outputs["image_repositories"]["value"]["vllm"]
    stage.answer("outputs", json.dumps(outputs))
    said = refused("redeploy", "generator", "--skip-quota", "--tag", "v2", *VLLM, "good")
    assert "has no repository for vllm images" in said
    assert "plainmed ops apply" in said
    assert stage.calls("docker") == []


def test_metrics_stay_on_cpus_when_the_generator_goes_to_gpus(
    stage: Stage, cluster: Cluster
) -> None:
    done("deploy", "all", "--yes", "--profile", "gpu", "--skip-quota")
    assert stage.release(METRICS)["config"]["image"]["repository"].endswith("/cpu")
    assert stage.release(GENERATOR)["config"]["image"]["repository"].endswith("/gpu")


def test_a_redeploy_to_gpus_asks_for_the_quota_and_brings_the_driver(
    stage: Stage, cluster: Cluster
) -> None:
    deployed(stage, cluster)
    gpu = ["redeploy", "generator", "--profile", "gpu", "--tag", "v2"]
    assert "request-service-quota-increase" in refused(*gpu)
    assert stage.changing() == []
    done(*gpu, "--skip-quota")
    assert any("nvidia-device-plugin" in c for c in stage.calls("helm"))


def test_the_bucket_of_the_accounts_file_serves_where_none_is_given(
    stage: Stage, cluster: Cluster
) -> None:
    checkout = stage.folder / "checkout"
    for part in ("helm", "terraform-eks", "k8s"):
        shutil.copytree(ROOT / part, checkout / part)
    words = ["ops", "deploy", "generator", "--yes", "--root", str(checkout), "--model-name"]
    account = checkout / "terraform-eks" / "account.auto.tfvars"
    account.unlink(missing_ok=True)
    assert "model_bucket in" in CliRunner().invoke(app, [*words, "good"]).output
    account.write_text('model_bucket = "models"\n')
    assert "MODEL_NAME 'godo'" in CliRunner().invoke(app, [*words, "godo"]).output
    assert stage.changing() == []
    result = CliRunner().invoke(app, [*words, "good"])
    assert result.exit_code == 0, result.output
    model = stage.release(GENERATOR)["config"]["generator"]["model"]
    assert model == {"name": "good", "bucket": "models"}


def test_the_namespace_gets_the_labels_of_its_manifest(stage: Stage, cluster: Cluster) -> None:
    labels = yaml.safe_load((ROOT / "k8s" / "namespace.yaml").read_text())["metadata"]["labels"]
    assert labels["pod-security.kubernetes.io/enforce"] == "restricted"
    done("deploy", "metrics", "--yes")
    assert cluster.namespace is not None
    assert cluster.namespace["metadata"]["labels"] == labels
    # As `--create-namespace` of a Helm typed by hand leaves it, with a label of the cluster's own.
    cluster.namespace["metadata"]["labels"] = {"kubernetes.io/metadata.name": "plainmed"}
    done("redeploy", "metrics", "--tag", "v2")
    found = cluster.namespace["metadata"]["labels"]
    assert found == labels | {"kubernetes.io/metadata.name": "plainmed"}


REDIS_MISSING = [
    ({"redis": None}, "create service externalname plainmed-redis"),
    ({"redis": service("plainmed-redis", 6380, "ClusterIP")}, "has no port 6379, but 6380"),
    ({"redis_ready": False}, "no ready pod behind it"),
    ({"redis_secret": None}, "no secret plainmed-redis with key password"),
    ({"redis_secret": {"data": {"pass": "eA=="}}}, "create secret generic plainmed-redis"),
]


@pytest.mark.parametrize(("missing", "message"), REDIS_MISSING, ids=[m for _, m in REDIS_MISSING])
def test_ha_without_its_redis_is_refused_before_anything_changes(
    stage: Stage, cluster: Cluster, missing: dict[str, Any], message: str
) -> None:
    for name, value in missing.items():
        setattr(cluster, name, value)
    assert message in refused("deploy", "metrics", "--yes", "--profile", "ha")
    assert stage.changing() == []


def test_the_redis_of_a_deployed_ha_release_is_asked_for_by_every_verb_that_starts_it(
    stage: Stage, cluster: Cluster
) -> None:
    deployed(stage, cluster, "--profile", "ha")
    cluster.redis = service("plainmed-redis", 0, "ExternalName")  # an address outside
    done("stop", "metrics")
    cluster.redis_secret = None
    done("stop", "generator")  # stopping needs no Redis
    stage.forget_calls()
    for words in (["restore"], ["redeploy", "metrics", "--tag", "v2"]):
        assert "no secret plainmed-redis" in refused(*words)
        assert stage.changing() == []


def test_in_an_empty_account_ha_stops_before_images_and_releases(
    stage: Stage, cluster: Cluster
) -> None:
    client("eks").delete_cluster(name="plainmed-dev")
    cluster.redis = None
    assert "create service externalname" in refused("deploy", "metrics", "--yes", "--profile", "ha")
    assert stage.calls("docker") == []
    assert stage.release(METRICS) is None
    cluster.redis = service("plainmed-redis", 6379, "ClusterIP")
    done("deploy", "metrics", "--yes", "--profile", "ha")


@pytest.mark.parametrize("secret", [None, {"data": {"keys.yaml": "e30="}}])
def test_a_deploy_without_api_keys_is_refused_before_anything_changes(
    stage: Stage, cluster: Cluster, secret: dict[str, Any] | None
) -> None:
    cluster.keys_secret = secret
    said = refused("deploy", "--yes")
    assert "no secret plainmed-api-keys with key keys.json" in said
    assert "plainmed keys new keys.json" in said
    assert said.count("create secret generic plainmed-api-keys --from-file=keys.json") == 1
    assert stage.changing() == []


def test_every_verb_that_starts_a_release_asks_for_its_api_keys(
    stage: Stage, cluster: Cluster
) -> None:
    deployed(stage, cluster)
    cluster.keys_secret = None
    done("stop")
    stage.forget_calls()
    for words in (["restore"], ["redeploy", "metrics", "--tag", "v2"]):
        assert "no secret plainmed-api-keys" in refused(*words)
        assert stage.changing() == []


def test_in_an_empty_account_a_deploy_without_api_keys_stops_before_images_and_releases(
    stage: Stage, cluster: Cluster
) -> None:
    client("eks").delete_cluster(name="plainmed-dev")
    cluster.keys_secret = None
    assert "create secret generic plainmed-api-keys" in refused("deploy", "metrics", "--yes")
    assert stage.calls("docker") == []
    assert stage.release(METRICS) is None


def test_the_whole_internet_is_refused_as_a_range(stage: Stage, cluster: Cluster) -> None:
    assert "refusing the whole Internet" in refused("deploy", "--yes", "--public", "0.0.0.0/0")
    done("deploy", "metrics", "--yes", "--public", "198.51.100.0/24, 203.0.113.7/32")
    values = stage.release(METRICS)["config"]["service"]
    assert values["nlb"]["scheme"] == "internet-facing"
    assert values["loadBalancerSourceRanges"] == ["198.51.100.0/24", "203.0.113.7/32"]


def test_a_cluster_without_kuberay_is_refused_by_redeploy(stage: Stage, cluster: Cluster) -> None:
    deployed(stage, cluster)
    cluster.crd = None
    assert "KubeRay is not installed; run `plainmed ops deploy`" in refused("redeploy", "metrics")
    cluster.crd = crd(suspend=False)
    assert "older than KubeRay 1.7" in refused("stop", "metrics")
    assert stage.changing() == []


def test_a_cluster_that_refuses_or_is_gone_is_explained(stage: Stage, cluster: Cluster) -> None:
    cluster.refuse = 403
    assert "admin_principal_arns" in refused("status")
    cluster.close()
    assert "public_access_cidrs" in refused("status")
