"""`plainmed ops deploy`: what it calls, in which order, and what it leaves."""

from __future__ import annotations

from tests.ops.command import (
    GENERATOR,
    METRICS,
    REPOSITORY,
    ROOT,
    STATE_BUCKET,
    client,
    done,
    refused,
)
from tests.ops.fakes import Cluster, Stage


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
    stage.answer("git-status", " M serve_app/metrics/loss.py\n")
    done("deploy", "metrics", "--yes")
    tag = stage.release(METRICS)["config"]["image"]["tag"]
    assert tag.startswith("abcdef123456-20")


def test_without_yes_the_operator_types_the_cluster_name(stage: Stage, cluster: Cluster) -> None:
    assert "not confirmed" in refused("deploy", "metrics", typed="yes\n")
    assert not any("apply" in c for c in stage.calls("terraform"))
    done("deploy", "metrics", typed="plainmed-dev\n")
