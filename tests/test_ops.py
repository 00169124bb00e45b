"""The verbs of `plainmed ops`, against fake programs, a Kubernetes API on a socket, and moto."""

from __future__ import annotations

import functools
import logging
import os
import re
import shlex
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import httpx
import pytest
import yaml
from click.testing import Result
from moto.server import ThreadedMotoServer
from moto.servicequotas.models import ServiceQuotasBackend
from typer.testing import CliRunner

from serve_app.cli import app
from serve_app.ops import aws as operations
from serve_app.ops import kube, steps
from tests.ops_fakes import Cluster, Stage, crd, event, pod, service

ROOT = Path(__file__).resolve().parent.parent
METRICS, GENERATOR = "plainmed-metrics", "plainmed-generator"
REPOSITORY = "123456789012.dkr.ecr.us-east-1.amazonaws.com/plainmed-dev/cpu"


@pytest.fixture(scope="module")
def moto_url() -> Iterator[str]:
    logger = logging.getLogger("werkzeug")
    level = logger.level
    logger.setLevel(logging.WARNING)
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()
    logger.setLevel(level)


@pytest.fixture
def aws(moto_url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """An account with a cluster, image repositories and one model."""
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "MODEL_NAME", "MODEL_S3_BUCKET"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_ENDPOINT_URL", moto_url)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "no-config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "no-credentials"))
    # One session for all tests: each new one reads megabytes of API descriptions.
    monkeypatch.setattr(operations, "_session", lambda: session(moto_url))
    httpx.post(f"{moto_url}/moto-api/reset")
    s3 = client("s3")
    s3.create_bucket(Bucket="models")
    s3.put_object(Bucket="models", Key="merged-models/good/config.json", Body=b"{}")
    s3.put_object(Bucket="models", Key="merged-models/half/model.safetensors", Body=b"x")
    for target in ("cpu", "gpu"):
        client("ecr").create_repository(repositoryName=f"plainmed-dev/{target}")
    client("eks").create_cluster(
        name="plainmed-dev",
        roleArn="arn:aws:iam::123456789012:role/r",
        resourcesVpcConfig={"subnetIds": []},
    )


@functools.cache
def session(moto_url: str) -> Any:
    return boto3.session.Session()


@functools.cache
def client_of(service: str, url: str) -> Any:
    return session(url).client(service, region_name="us-east-1", endpoint_url=url)


def client(service: str) -> Any:
    return client_of(service, os.environ["AWS_ENDPOINT_URL"])


@pytest.fixture
def stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, aws: None) -> Stage:
    made = Stage(tmp_path)
    monkeypatch.setenv("PATH", str(made.bin))
    monkeypatch.setattr(steps, "_POLL_S", 0.02)
    monkeypatch.setattr(kube, "_POLL_S", 0.02)
    return made


@pytest.fixture
def cluster(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    kubeconfig = stage.folder / "kubeconfig"
    monkeypatch.setenv("KUBECONFIG", str(kubeconfig))
    made = Cluster(stage, kubeconfig)
    yield made
    made.close()


def ops(*words: str, typed: str = "") -> Result:
    arguments = ["ops", *words, "--root", str(ROOT)]
    return CliRunner().invoke(app, arguments, input=typed, env={"COLUMNS": "200"})


def done(*words: str, typed: str = "") -> str:
    result = ops(*words, typed=typed)
    assert result.exit_code == 0, result.output + str(result.exception)
    return result.output


def refused(*words: str, code: int = 2, typed: str = "") -> str:
    result = ops(*words, typed=typed)
    assert result.exit_code == code, result.output + str(result.exception)
    return result.output


_deployed: dict[tuple[str, ...], dict[str, str]] = {}
STATE_BUCKET = "plainmed-tfstate-123456789012-us-east-1"


def deployed(stage: Stage, cluster: Cluster, *words: str) -> None:
    """Both services up and the log empty: by the command itself, then as that left everything."""
    if words not in _deployed:
        done("deploy", "all", "--yes", *words)
        _deployed[words] = stage.snapshot()
    else:
        stage.restore(_deployed[words])
        client("s3").create_bucket(Bucket=STATE_BUCKET)
        cluster.namespace = yaml.safe_load((ROOT / "k8s" / "namespace.yaml").read_text())
    stage.forget_calls()


# --- deploy ----------------------------------------------------------------------------------


def test_deploy_goes_from_an_empty_account_to_both_endpoints(
    stage: Stage, cluster: Cluster
) -> None:
    said = done("deploy", "all", "--yes", "--model-name", "good", "--model-bucket", "models")

    assert "metrics\thttp://plainmed-metrics.elb.us-east-1.amazonaws.com:8001" in said
    assert "generator\thttp://plainmed-generator.elb.us-east-1.amazonaws.com:8000" in said
    steps = [c[:2] for c in stage.changing()]
    assert [s[0] for s in steps] == [
        *["terraform"] * 3,
        "aws",
        *["helm"] * 3,
        *["docker", "docker", "(stdin)", "docker"],
        *["helm"] * 2,
    ]
    assert client("s3").head_bucket(Bucket=STATE_BUCKET)
    values = stage.release(GENERATOR)["config"]
    assert values["generator"]["model"] == {"name": "good", "bucket": "models"}
    assert values["image"] == {"repository": REPOSITORY, "tag": "abcdef123456"}
    assert "generator" not in stage.release(METRICS)["config"]


def test_every_helm_upgrade_avoids_the_server_side_apply_conflict(
    stage: Stage, cluster: Cluster
) -> None:
    done("deploy", "all", "--yes")
    done("rollback", "metrics", "--revision", "1")
    applying = [c for c in stage.calls("helm") if c[1] in ("upgrade", "rollback")]
    assert len(applying) == 6
    for call in applying:
        assert "--server-side=true" in call
        assert "--force-conflicts" in call


def test_what_deploy_calls_in_full(stage: Stage, cluster: Cluster) -> None:
    stage.built()
    done("deploy", "metrics", "--yes", "--model-bucket", "models")
    terraform = [c[1:] for c in stage.calls("terraform")]
    assert terraform == [
        [
            f"-chdir={ROOT}/terraform-eks",
            "init",
            "-input=false",
            "-reconfigure",
            "-backend-config=bucket=plainmed-tfstate-123456789012-us-east-1",
            "-backend-config=key=plainmed/dev/terraform.tfstate",
            "-backend-config=region=us-east-1",
        ],
        [
            f"-chdir={ROOT}/terraform-eks",
            "plan",
            "-input=false",
            "-var-file=environments/dev.tfvars",
            "-var=model_bucket=models",
            "-out=dev.tfplan",
        ],
        [f"-chdir={ROOT}/terraform-eks", "apply", "-input=false", "dev.tfplan"],
        [f"-chdir={ROOT}/terraform-eks", "output", "-json"],
    ]
    assert stage.calls("helm")[-1] == [
        *["helm", "upgrade", "--install", METRICS, f"{ROOT}/helm/plainmed"],
        *["--kube-context", "plainmed-dev", "--namespace", "plainmed"],
        *["--server-side=true", "--force-conflicts", "--reset-values", "--history-max", "20"],
        *["--values", f"{ROOT}/helm/plainmed/values-cpu.yaml"],
        *["--set-json", 'services=["metrics"]', "--set-json", "suspend=false"],
        *["--set-string", f"image.repository={REPOSITORY}"],
        *["--set-string", "image.tag=abcdef123456"],
        *["--set-string", "aws.region=us-east-1"],
        *["--set-json", 'global.ops={"profile": "cpu", "specs": "normal"}'],
    ]


def test_the_registry_password_goes_by_standard_input_only(stage: Stage, cluster: Cluster) -> None:
    said = done("deploy", "metrics", "--yes")
    calls = stage.calls()
    password = next(c[1] for c in calls if c[0] == "(stdin)")
    assert password
    assert password not in said
    assert not any(password in word for c in calls if c[0] != "(stdin)" for word in c)


def test_an_image_that_is_there_is_not_built_again(stage: Stage, cluster: Cluster) -> None:
    put_image("abcdef123456")
    said = done("deploy", "metrics", "--yes")
    assert "is there already" in said
    assert stage.calls("docker") == []


MANIFEST = (
    '{"schemaVersion": 2, "mediaType": "application/vnd.docker.distribution.manifest.v2+json", '
    '"config": {"digest": "sha256:0", "size": 1}, "layers": []}'
)


def put_image(tag: str) -> None:
    client("ecr").put_image(repositoryName="plainmed-dev/cpu", imageManifest=MANIFEST, imageTag=tag)


def test_uncommitted_changes_get_a_tag_of_their_own(stage: Stage, cluster: Cluster) -> None:
    stage.answer("git-status", " M serve_app/loss.py\n")
    done("deploy", "metrics", "--yes")
    tag = stage.release(METRICS)["config"]["image"]["tag"]
    assert tag.startswith("abcdef123456-20")


def test_without_yes_the_operator_types_the_cluster_name(stage: Stage, cluster: Cluster) -> None:
    assert "not confirmed" in refused("deploy", "metrics", typed="yes\n")
    assert not any("apply" in c for c in stage.calls("terraform"))
    done("deploy", "metrics", typed="plainmed-dev\n")


# --- nothing changes when something is not ready ------------------------------------------------


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


# --- interrupted and failed deploys --------------------------------------------------------------


@pytest.mark.parametrize(
    "where", ["terraform apply", "aws eks", "helm upgrade kuberay-operator", "docker push"]
)
def test_a_deploy_that_failed_can_be_run_again(stage: Stage, cluster: Cluster, where: str) -> None:
    stage.fail_once(where)
    refused("deploy", "all", "--yes", code=1)
    assert stage.release(METRICS) is None
    done("deploy", "all", "--yes")
    assert stage.release(METRICS)["info"]["status"] == "deployed"
    assert stage.release(GENERATOR)["info"]["status"] == "deployed"


def test_an_interrupted_deploy_says_so_and_can_be_run_again(stage: Stage, cluster: Cluster) -> None:
    stage.fail_once("docker push interrupt")
    # A shell starts what it runs in the background with Ctrl-C ignored; Python then keeps it so.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        assert "run the same command again" in refused("deploy", "metrics", "--yes", code=130)
    finally:
        signal.signal(signal.SIGINT, before)
    assert stage.release(METRICS) is None
    done("deploy", "metrics", "--yes")
    assert stage.release(METRICS)["info"]["status"] == "deployed"


def test_a_helm_install_that_was_cut_off_is_mended(stage: Stage, cluster: Cluster) -> None:
    stage.fail_once(f"helm upgrade {GENERATOR}")
    refused("deploy", "all", "--yes", code=1)
    assert stage.release(GENERATOR)["info"]["status"] == "pending-install"
    said = done("deploy", "all", "--yes")
    assert "an earlier command was cut off; mending" in said
    assert ["helm", "uninstall", GENERATOR] in [c[:3] for c in stage.calls("helm")]
    assert stage.release(GENERATOR)["info"]["status"] == "deployed"


def test_a_helm_upgrade_that_was_cut_off_is_rolled_back_first(
    stage: Stage, cluster: Cluster
) -> None:
    deployed(stage, cluster)
    stage.fail_once(f"helm upgrade {METRICS}")
    refused("redeploy", "metrics", "--tag", "v2", code=1)
    assert stage.release(METRICS)["info"]["status"] == "pending-upgrade"
    done("redeploy", "metrics", "--tag", "v2")
    assert [c[1] for c in stage.calls("helm")[-4:]] == ["version", "status", "rollback", "upgrade"]
    assert stage.release(METRICS)["config"]["image"]["tag"] == "v2"


def test_a_service_that_does_not_get_ready_says_why(stage: Stage, cluster: Cluster) -> None:
    deployed(stage, cluster)
    cluster.patch[GENERATOR] = {
        "conditions": [{"type": "Ready", "status": "False", "reason": "ZeroServeEndpoints"}]
    }
    cluster.pods[GENERATOR] = [
        pod("worker-1", waiting=("ImagePullBackOff", "Back-off pulling image")),
        pod("worker-2", unscheduled="0/2 nodes available: Insufficient nvidia.com/gpu"),
    ]
    cluster.events = [event(GENERATOR, "UnhealthyServeApplication", "replica died")]
    said = refused("redeploy", "generator", "--tag", "v2", "--timeout", "1")
    assert "is not ready after 1 s" in said
    assert "ImagePullBackOff: Back-off pulling image" in said
    assert "Unschedulable: 0/2 nodes available: Insufficient nvidia.com/gpu" in said
    assert "UnhealthyServeApplication replica died" in said
    assert "plainmed ops rollback generator" in said


def test_an_old_status_is_not_taken_for_the_new_one(stage: Stage, cluster: Cluster) -> None:
    deployed(stage, cluster)
    cluster.patch[METRICS] = {"observedGeneration": 1}
    said = refused("redeploy", "metrics", "--tag", "v2", "--timeout", "1")
    assert "waiting for KubeRay" in said


def test_an_upgrade_is_waited_for_while_the_old_version_answers(
    stage: Stage, cluster: Cluster
) -> None:
    deployed(stage, cluster)
    cluster.patch[METRICS] = {"pendingServiceStatus": {"rayClusterName": "next"}}
    said = refused("redeploy", "metrics", "--tag", "v2", "--timeout", "1")
    assert "upgrading; the earlier version answers" in said


# --- the life of a release ------------------------------------------------------------------------


def test_redeploy_changes_image_and_model_and_keeps_the_rest(
    stage: Stage, cluster: Cluster
) -> None:
    deployed(stage, cluster, "--public", "198.51.100.0/24", "--profile", "ha", "--specs", "max")
    done("redeploy", "generator", "--model-name", "good", "--model-bucket", "models", "--tag", "v2")
    values = stage.release(GENERATOR)["config"]
    assert values["image"]["tag"] == "v2"
    assert values["generator"]["model"]["name"] == "good"
    assert values["service"]["loadBalancerSourceRanges"] == ["198.51.100.0/24"]
    files = [word.rpartition("/")[2] for word in stage.calls("helm")[-1] if "values-" in word]
    assert [f for f in files if f.endswith(".yaml")] == ["values-ha.yaml", "values-max.yaml"]
    assert stage.calls("terraform") == [
        ["terraform", f"-chdir={ROOT}/terraform-eks", "output", "-json"]
    ]
    assert stage.release(METRICS)["version"] == 1


def test_stop_keeps_everything_but_pods_and_restore_brings_the_same_back(
    stage: Stage, cluster: Cluster
) -> None:
    deployed(stage, cluster, "--model-name", "good", "--model-bucket", "models", "--specs", "max")
    before = {name: stage.release(name)["config"] for name in (METRICS, GENERATOR)}

    done("stop")
    for name, values in before.items():
        assert stage.release(name)["config"] == values | {"suspend": True}
    assert stage.calls("docker") == []
    assert "stopped" in done("status")

    said = done("restore")
    for name, values in before.items():
        assert stage.release(name)["config"] == values
    assert stage.calls("docker") == []
    assert "http://plainmed-generator.elb" in said


def test_restore_finds_a_model_that_is_gone_before_it_starts(
    stage: Stage, cluster: Cluster
) -> None:
    deployed(stage, cluster, "--model-name", "good", "--model-bucket", "models")
    done("stop", "generator")
    stage.forget_calls()
    client("s3").delete_object(Bucket="models", Key="merged-models/good/config.json")
    assert "nothing is at s3://models/merged-models/good/" in refused("restore", "generator")
    assert stage.changing() == []


def test_max_and_normal_specs_change_the_size_and_nothing_else(
    stage: Stage, cluster: Cluster
) -> None:
    deployed(stage, cluster)
    before = stage.release(GENERATOR)["config"]
    done("max-specs")
    at_max = stage.release(GENERATOR)["config"]
    assert at_max["global"]["ops"]["specs"] == "max"
    assert any(word.endswith("values-max.yaml") for word in stage.calls("helm")[-1])
    done("redeploy", "generator", "--tag", "v2")
    assert stage.release(GENERATOR)["config"]["global"]["ops"]["specs"] == "max"
    done("normal-specs")
    after = stage.release(GENERATOR)["config"]
    assert after | {"image": before["image"]} == before
    assert stage.release(METRICS)["version"] == 1
    refused("max-specs", "metrics")


def test_rollback_goes_to_the_revision_asked_for(stage: Stage, cluster: Cluster) -> None:
    deployed(stage, cluster)
    done("rollback", "generator", "--revision", "1")
    assert stage.calls("helm")[-1][:4] == ["helm", "rollback", GENERATOR, "1"]
    assert "of one release" in refused("rollback", "all", "--revision", "1")


def test_rollback_goes_past_a_stop_to_what_served(stage: Stage, cluster: Cluster) -> None:
    deployed(stage, cluster, "--tag", "v1")
    done("redeploy", "generator", "--tag", "v2")
    done("stop", "generator")
    done("restore", "generator")
    done("rollback", "generator")
    assert stage.calls("helm")[-1][:4] == ["helm", "rollback", GENERATOR, "2"]
    assert not stage.release(GENERATOR)["config"]["suspend"]
    stage.forget_calls()
    # Metrics have one revision only: neither release goes back.
    assert "plainmed-metrics has no earlier revision that served" in refused("rollback", "all")
    assert stage.changing() == []


def test_plan_changes_nothing(stage: Stage, cluster: Cluster) -> None:
    done("plan", "generator")
    assert [c[2] for c in stage.calls("terraform")] == ["init", "plan"]
    assert stage.calls("helm") == []


def test_apply_updates_infrastructure_and_keeps_what_is_deployed(
    stage: Stage, cluster: Cluster
) -> None:
    deployed(stage, cluster, "--tag", "v1")
    done("apply", "metrics", "--yes")
    assert [c[2] for c in stage.calls("terraform")] == ["init", "plan", "apply", "output"]
    assert stage.calls("docker") == []
    assert stage.release(METRICS)["config"]["image"]["tag"] == "v1"
    assert stage.release(METRICS)["version"] == 2
    assert stage.release(GENERATOR)["version"] == 1


def test_a_verb_on_what_is_not_deployed_says_so(stage: Stage, cluster: Cluster) -> None:
    said = done("stop", "metrics")
    assert "plainmed-metrics is not deployed" in said
    assert "nothing to do" in said
    assert "no infrastructure; run `plainmed ops deploy`" in refused("redeploy", "metrics")


def test_terraform_bound_to_another_environment_changes_over(
    stage: Stage, cluster: Cluster
) -> None:
    deployed(stage, cluster)
    text = (stage.folder / "answers" / "outputs").read_text()
    stage.answer("outputs-after-init", text)
    stage.answer("outputs", text.replace('"plainmed-dev"', '"plainmed-prod"'))
    done("redeploy", "metrics", "--tag", "v2")
    assert [c[2] for c in stage.calls("terraform")] == ["output", "init", "output"]


# --- destroy -------------------------------------------------------------------------------------


def test_destroy_asks_and_a_wrong_answer_changes_nothing(stage: Stage, cluster: Cluster) -> None:
    deployed(stage, cluster)
    said = refused("destroy", "all", typed="y\n")
    assert "The model bucket and the Terraform state bucket stay" in said
    assert stage.changing() == []
    refused("destroy", "all", code=1)  # nobody there to answer
    assert stage.changing() == []


def test_destroying_one_service_leaves_the_other_and_the_cluster(
    stage: Stage, cluster: Cluster
) -> None:
    deployed(stage, cluster)
    done("destroy", "generator", typed="plainmed-dev\n")
    assert stage.release(GENERATOR) is None
    assert stage.release(METRICS) is not None
    assert stage.calls("terraform") == []
    assert not cluster.deleted


def test_destroying_everything_takes_controllers_objects_first_and_keeps_the_models(
    stage: Stage, cluster: Cluster
) -> None:
    deployed(stage, cluster)
    stage.answer(
        "state", "aws_vpc.this\naws_s3_bucket.models[0]\naws_s3_bucket_versioning.models[0]"
    )
    done("destroy", "all", "--yes", "--model-bucket", "models")
    assert cluster.deleted, "volumes and load balancers go with the namespace, before the cluster"
    order = [c[1] if c[0] == "helm" else c[2] for c in stage.changing() if c[0] != "aws"]
    assert order == ["uninstall", "uninstall", "init", "state", "destroy"]
    forget = next(c for c in stage.calls("terraform") if "rm" in c)
    assert forget[-2:] == ["aws_s3_bucket.models[0]", "aws_s3_bucket_versioning.models[0]"]
    assert client("s3").list_objects_v2(Bucket="models")["KeyCount"] == 2


def test_destroy_goes_on_where_the_cluster_is_gone_already(stage: Stage, cluster: Cluster) -> None:
    client("eks").delete_cluster(name="plainmed-dev")
    said = done("destroy", "all", "--yes")
    assert "there is no cluster plainmed-dev (any more)" in said
    assert [c[2] for c in stage.calls("terraform")] == ["init", "state", "destroy"]
    assert stage.calls("helm") == [["helm", "version", "--template", "{{.Version}}"]]


# --- looking -------------------------------------------------------------------------------------


def test_status_is_one_table_with_conditions_applications_replicas_and_events(
    stage: Stage, cluster: Cluster
) -> None:
    deployed(stage, cluster)
    cluster.events = [
        event(GENERATOR, "CreatedRayCluster", "made a cluster", "Normal"),
        event("another", "Irrelevant", "not ours"),
    ]
    said = done("status")
    for words in (
        (METRICS, "ready, 1 endpoints"),
        ("condition Ready", "True"),
        ("application (plainmed)", "RUNNING"),
        ("deployment Gateway (plainmed)", "HEALTHY"),
        ("workers", "1 of 1 ready"),
        ("event 12:00:00", "CreatedRayCluster", "made a cluster"),
    ):
        assert any(all(word in line for word in words) for line in said.splitlines()), words
    assert "Irrelevant" not in said


def test_status_fails_where_a_service_is_not_ready(stage: Stage, cluster: Cluster) -> None:
    done("deploy", "metrics", "--yes")
    said = refused("status", "all", code=1)
    assert "not deployed" in said


def test_endpoints_prints_an_address_a_service(stage: Stage, cluster: Cluster) -> None:
    done("deploy", "metrics", "--yes")
    said = done("endpoints")
    assert said.splitlines() == [
        "metrics\thttp://plainmed-metrics.elb.us-east-1.amazonaws.com:8001",
        "generator\tnot deployed; plainmed ops deploy generator",
    ]


@pytest.mark.parametrize("follow", [[], ["--follow"]])
def test_logs_name_the_pod_of_each_line(stage: Stage, cluster: Cluster, follow: list[str]) -> None:
    deployed(stage, cluster)
    said = done("logs", "metrics", "--tail", "3", *follow)
    assert said.splitlines() == [
        f"[{METRICS}-worker-1 ray-worker] line {n} of ray-worker" for n in range(3)
    ]
    assert any("tailLines=3" in request for request in cluster.requests)
    done("stop", "metrics")
    assert "no pods" in refused("logs", "metrics")


# --- dry run -------------------------------------------------------------------------------------

LOOKING = ["status", "endpoints", "logs"]
CHANGING = [
    ["deploy", "all"],
    ["redeploy", "generator"],
    ["plan"],
    ["apply", "metrics"],
    ["stop"],
    ["restore"],
    ["destroy", "all"],
    ["destroy", "metrics"],
    ["rollback", "generator"],
    ["max-specs"],
    ["normal-specs"],
]


@pytest.mark.parametrize("words", CHANGING, ids=" ".join)
def test_a_dry_run_runs_nothing_and_needs_nothing(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.delenv("AWS_ACCESS_KEY_ID", raising=False)
    said = done(*words, "--dry-run")
    assert "+ " in said
    assert not list(tmp_path.iterdir())


def test_every_verb_has_a_dry_run_that_is_tested() -> None:
    from serve_app.ops.cli import app as ops_app

    names = {c.callback.__name__.replace("_", "-") for c in ops_app.registered_commands}
    assert names == {words[0] for words in CHANGING} | set(LOOKING)


@pytest.mark.parametrize("verb", LOOKING)
def test_a_dry_run_of_looking_asks_nobody_and_says_what_it_would_ask(
    verb: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    lines = done(verb, "--dry-run").splitlines()
    assert [METRICS in lines[0], GENERATOR in lines[1], len(lines)] == [True, True, 2]
    assert all(line.startswith("# would ") for line in lines)


@pytest.mark.parametrize("words", CHANGING, ids=" ".join)
def test_a_dry_run_prints_what_then_runs(stage: Stage, cluster: Cluster, words: list[str]) -> None:
    deployed(stage, cluster, "--tag", "v1")
    if words[0] == "rollback":
        done("redeploy", "generator", "--tag", "v2")
        stage.forget_calls()
    given = ["--tag", "v2"] if words[0] in ("deploy", "redeploy") else []
    lines = done(*words, "--dry-run", *given).splitlines()
    printed = [shlex.split(line[2:]) for line in lines if line.startswith("+ ")]
    assert stage.calls() == []
    done(*words, *given, *(["--yes"] if words[0] in ("deploy", "apply", "destroy") else []))
    ran = [c for c in stage.calls() if c[0] != "(stdin)" and c[1] != "version"]
    if words[0] == "destroy":
        printed = [p for p in printed if "rm" not in p]  # nothing permanent in this state
    known = {"ACCOUNT": "123456789012", "VPC_ID": "vpc-1"}
    known |= {"REPOSITORY": REPOSITORY, "TAG": "v1", "REVISION": "1"}
    assert [[fill(word, known) for word in line] for line in printed] == ran


def fill(word: str, known: dict[str, str]) -> str:
    for name, value in known.items():
        word = re.sub(rf"\b{name}\b(?!=)", value, word)  # not in `--build-arg REVISION=`
    return word


def test_the_earlier_make_targets_call_the_verbs() -> None:
    if shutil.which("make") is None:
        pytest.skip("needs make")
    expected = {
        "startall": "deploy all",
        "stopall": "stop all",
        "restoreall": "restore all",
        "destroyall": "destroy all",
        "alb-dns": "endpoints all",
        "show_endpoints": "endpoints all",
        "metricas-status": "status metrics",
        "generador-status": "status generator",
        "generador-plan": "plan generator",
        "generador-apply": "apply generator",
        "generador-max-specs": "max-specs",
        "generador-normal-specs": "normal-specs",
    }
    for spanish, english in (("metricas", "metrics"), ("generador", "generator")):
        for verb in ("deploy", "redeploy", "stop", "restore", "destroy"):
            expected[f"{verb}-{spanish}"] = f"{verb} {english}"
    for target, words in expected.items():
        said = subprocess.run(
            ["make", "--no-print-directory", "--dry-run", target],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        assert said.splitlines()[-1].rstrip().endswith(f"plainmed ops {words}"), target


def test_the_operations_page_shows_what_a_dry_run_prints(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    for name in ("MODEL_NAME", "MODEL_S3_BUCKET", "PLAINMED_ENV", "PLAINMED_STATE_BUCKET"):
        monkeypatch.delenv(name, raising=False)
    page = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
    blocks = re.findall(
        r"^```\n\$ plainmed (ops [^\n]+)\n(.*?)^```", page, re.MULTILINE | re.DOTALL
    )
    assert len(blocks) >= 4
    for command, shown in blocks:
        result = CliRunner().invoke(app, shlex.split(command))
        assert result.output == shown, command


def test_the_operations_page_names_every_verb() -> None:
    page = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
    from serve_app.ops.cli import app as ops_app

    for command in ops_app.registered_commands:
        assert command.callback is not None
        assert f"`{command.callback.__name__.replace('_', '-')}`" in page
