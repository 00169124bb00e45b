"""When a verb calls a release ready, when it fails, and what it says then serves."""

from __future__ import annotations

from typing import Any

import pytest

from serve_app.ops import steps
from tests.ops.command import GENERATOR, METRICS, deployed, done, refused
from tests.ops.fakes import Cluster, Stage, application


def _serving(cluster: Cluster, name: str, status: str, message: str = "") -> None:
    """The state of an active cluster's application, over what it would be."""
    active = cluster.kuberay[name].active
    assert active is not None
    cluster.patch[name] = {
        "activeServiceStatus": {
            "rayClusterName": active["metadata"]["name"],
            "applicationStatuses": {"plainmed": application(status, message)},
        }
    }


@pytest.mark.parametrize("status", ["DEPLOYING", "UNHEALTHY", "NOT_STARTED", "DELETING"])
def test_endpoints_are_not_enough_every_application_has_to_run(
    stage: Stage, cluster: Cluster, status: str
) -> None:
    deployed(stage, cluster)
    _serving(cluster, GENERATOR, status)
    said = refused("status", "generator", code=1)
    assert f"{GENERATOR}: application plainmed {status}" in said
    assert "ready, 1 endpoint" not in said


def test_a_cluster_without_applications_is_not_ready(stage: Stage, cluster: Cluster) -> None:
    deployed(stage, cluster)
    cluster.patch[METRICS] = {"activeServiceStatus": {"rayClusterName": "another"}}
    assert f"{METRICS}: waiting for KubeRay" in refused("status", "metrics", code=1)


def test_a_cluster_made_with_another_serve_configuration_is_not_ready(
    stage: Stage, cluster: Cluster
) -> None:
    deployed(stage, cluster)
    active = cluster.kuberay[METRICS].active
    assert active is not None
    template = {"metadata": {"annotations": {"plainmed.io/serve-config": "another"}}}
    active["spec"] = {"headGroupSpec": {"template": template}}
    assert f"{METRICS}: waiting for KubeRay" in refused("status", "metrics", code=1)


def test_a_state_that_does_not_hold_is_not_taken_for_the_new_one(
    stage: Stage, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """KubeRay reads the applications before it sends a new configuration: RUNNING, then not."""
    monkeypatch.setattr(steps, "_HOLD_S", 60.0)
    deployed(stage, cluster)
    reconciled = cluster.rayservice
    before = cluster.kuberay[METRICS].active
    looks = 0

    def failing_late(name: str, data: dict[str, Any]) -> dict[str, Any]:
        nonlocal looks
        found = reconciled(name, data)
        looks += cluster.kuberay[name].active is not before
        if looks == 2:
            _serving(cluster, name, "DEPLOY_FAILED", "model_path: /no/such is not there")
        if looks == 3:
            monkeypatch.setattr(steps, "_HOLD_S", 0.03)
        return found

    monkeypatch.setattr(cluster, "rayservice", failing_late)
    said = refused("redeploy", "metrics", "--tag", "v2", "--timeout", "300")
    assert "ready, 1 endpoint" in said
    assert "model_path: /no/such is not there" in said


def test_an_application_that_cannot_start_fails_at_once_in_serves_own_words(
    stage: Stage, cluster: Cluster
) -> None:
    deployed(stage, cluster)
    cluster.broken["v2"] = "ConfigError: MODEL_PATH: /no/such is not a directory"
    said = refused("redeploy", "generator", "--tag", "v2", "--timeout", "600")
    assert "DEPLOY_FAILED: ConfigError: MODEL_PATH: /no/such is not a directory" in said
    assert said.count("/no/such") == 1
    assert "The earlier version still serves." in said
    assert "plainmed ops rollback generator" in said


def test_after_a_first_deploy_that_failed_nothing_serves_and_nothing_is_there_to_go_back_to(
    stage: Stage, cluster: Cluster
) -> None:
    cluster.broken["v1"] = "out of memory"
    said = refused("deploy", "metrics", "--yes", "--tag", "v1")
    assert "DEPLOY_FAILED: out of memory" in said
    assert "Nothing serves." in said
    assert "still serves" not in said
    assert "ops rollback" not in said


def test_after_a_failed_restore_nothing_serves(stage: Stage, cluster: Cluster) -> None:
    deployed(stage, cluster, "--tag", "v1")
    done("stop", "metrics")
    cluster.broken["v1"] = "the bucket is gone"
    said = refused("restore", "metrics")
    assert "Nothing serves." in said
    assert "still serves" not in said


def test_a_stop_that_does_not_end_says_nothing_serves(stage: Stage, cluster: Cluster) -> None:
    deployed(stage, cluster)
    pods = cluster.pods_of(METRICS)
    cluster.pods_of = lambda release: pods  # type: ignore[method-assign]  # they stay
    said = refused("stop", "metrics", "--timeout", "1")
    assert "is not stopped after 1 s" in said
    assert "Nothing serves." in said


def test_a_change_in_place_that_failed_does_not_claim_that_all_is_well(
    stage: Stage, cluster: Cluster
) -> None:
    deployed(stage, cluster)
    _serving(cluster, METRICS, "DEPLOY_FAILED", "too few CPUs")
    said = refused("apply", "metrics", "--yes")
    assert "DEPLOY_FAILED: too few CPUs" in said
    assert "whatever failed answers errors" in said
    assert "still serves" not in said


def test_a_start_that_kuberay_gave_up_says_how_to_go_on(stage: Stage, cluster: Cluster) -> None:
    cluster.room = False
    refused("deploy", "metrics", "--yes", "--timeout", "1")
    cluster.kuberay[METRICS].reason = "InitializingTimeout"
    cluster.room = True
    said = refused("redeploy", "metrics", "--tag", "v2", "--timeout", "600")
    assert "KubeRay has given up" in said
    assert "`plainmed ops stop metrics`, then `plainmed ops redeploy metrics`" in said
    done("stop", "metrics")
    done("redeploy", "metrics", "--tag", "v2")


def test_a_specification_that_kuberay_refuses_fails_in_its_words(
    stage: Stage, cluster: Cluster
) -> None:
    deployed(stage, cluster)
    message = "spec.rayClusterConfig is invalid"
    cluster.patch[METRICS] = {
        "conditions": [
            {"type": "Ready", "status": "False", "reason": "ValidationFailed", "message": message}
        ]
    }
    said = refused("redeploy", "metrics", "--tag", "v2", "--timeout", "600")
    assert f"is not ready: {message}" in said
