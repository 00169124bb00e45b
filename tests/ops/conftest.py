"""The stage that the verbs of `plainmed ops` play on: fake programs, a Kubernetes API, moto."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from serve_app.ops import aws as operations
from serve_app.ops import kube, steps
from tests.ops.command import client, session
from tests.ops.fakes import Cluster, Stage
from tests.support.artifact_servers import use_server


@pytest.fixture
def aws(s3_server: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """An account with a cluster, image repositories and one model."""
    for name in ("MODEL_NAME", "MODEL_S3_BUCKET"):
        monkeypatch.delenv(name, raising=False)
    use_server(monkeypatch, s3_server, tmp_path)
    # One session for all tests: each new one reads megabytes of API descriptions.
    monkeypatch.setattr(operations, "_session", lambda: session(s3_server))
    httpx.post(f"{s3_server}/moto-api/reset")
    s3 = client("s3")
    s3.create_bucket(Bucket="models")
    s3.put_object(Bucket="models", Key="merged-models/good/config.json", Body=b"{}")
    s3.put_object(Bucket="models", Key="merged-models/half/model.safetensors", Body=b"x")
    for target in ("cpu", "gpu", "vllm"):
        client("ecr").create_repository(repositoryName=f"plainmed-dev/{target}")
    client("eks").create_cluster(
        name="plainmed-dev",
        roleArn="arn:aws:iam::123456789012:role/r",
        resourcesVpcConfig={"subnetIds": []},
    )


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
