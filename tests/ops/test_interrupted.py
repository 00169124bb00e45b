"""Deploys that were cut off or failed: they say why, and the same command mends them."""

from __future__ import annotations

import signal

import pytest

from tests.ops.command import GENERATOR, METRICS, deployed, done, refused
from tests.ops.fakes import Cluster, Stage, event, pod


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
    assert "an earlier command was cut off; repairing" in said
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
