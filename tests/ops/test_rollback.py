"""`plainmed ops rollback` and `restore`: to what served, whatever happened since."""

from __future__ import annotations

from typing import Any

from tests.ops.command import GENERATOR, METRICS, deployed, done, refused
from tests.ops.fakes import Cluster, Stage


def _tag(stage: Stage, name: str) -> str:
    release = stage.release(name)
    assert release is not None
    return str(release["config"]["image"]["tag"])


def test_rollback_goes_to_the_last_revision_that_was_ready(stage: Stage, cluster: Cluster) -> None:
    deployed(stage, cluster, "--tag", "v1")
    done("redeploy", "metrics", "--tag", "v2")
    for tag in ("v3", "v4"):
        cluster.broken[tag] = "cannot start"
        refused("redeploy", "metrics", "--tag", tag)
    done("rollback", "metrics")
    assert _tag(stage, METRICS) == "v2"
    assert stage.calls("helm")[-1][:4] == ["helm", "rollback", METRICS, "2"]
    done("rollback", "metrics")  # v2 serves now: the one before it
    assert _tag(stage, METRICS) == "v1"


def test_a_wait_that_was_cut_off_does_not_lose_the_record(stage: Stage, cluster: Cluster) -> None:
    deployed(stage, cluster, "--tag", "v1")
    cluster.room = False
    refused("redeploy", "metrics", "--tag", "v2", "--timeout", "1")
    cluster.room = True
    while cluster.kuberay[METRICS].pending:
        cluster.rayservice(METRICS, stage.release(METRICS) or {})
    cluster.broken["v3"] = "cannot start"
    refused("redeploy", "metrics", "--tag", "v3")
    done("rollback", "metrics")
    assert _tag(stage, METRICS) == "v2"


def test_a_release_without_a_record_goes_to_the_newest_that_was_no_stop_and_says_so(
    stage: Stage, cluster: Cluster
) -> None:
    deployed(stage, cluster, "--tag", "v1")
    done("redeploy", "metrics", "--tag", "v2")
    done("stop", "metrics")
    cluster.kuberay[METRICS].annotations.pop("plainmed.io/ready-revisions")
    said = done("rollback", "metrics")
    assert "nothing recorded which revision was ready" in said
    assert _tag(stage, METRICS) == "v2"


def test_rollback_ends_an_upgrade_that_hangs_for_lack_of_room(
    stage: Stage, cluster: Cluster
) -> None:
    deployed(stage, cluster, "--tag", "v1")
    before = cluster.kuberay[GENERATOR].active
    cluster.room = False
    said = refused("redeploy", "generator", "--tag", "v2", "--timeout", "1")
    assert "upgrading; the earlier version answers" in said
    assert "The earlier version still serves." in said
    # Still no room: KubeRay compares with the cluster it builds, and would build v1 beside v1.
    said = done("rollback", "generator", "--timeout", "60")
    assert "KubeRay builds the version that serves a second time; dropping that" in said
    assert cluster.kuberay[GENERATOR].active is before
    assert cluster.kuberay[GENERATOR].pending is None
    assert f"{GENERATOR}: ready, 1 endpoint" in done("status", "generator")


def test_redeploying_what_serves_ends_a_hanging_upgrade_too(stage: Stage, cluster: Cluster) -> None:
    deployed(stage, cluster, "--tag", "v1")
    cluster.room = False
    refused("redeploy", "metrics", "--tag", "v2", "--timeout", "1")
    done("redeploy", "metrics", "--tag", "v1", "--timeout", "60")


def test_a_cluster_of_another_version_is_built_not_dropped(stage: Stage, cluster: Cluster) -> None:
    deployed(stage, cluster, "--tag", "v1")
    done("redeploy", "metrics", "--tag", "v2")
    done("rollback", "metrics")
    assert not any("/status" in request for request in cluster.requests)


def _restored(stage: Stage) -> tuple[dict[str, Any], dict[str, Any]]:
    """What a release held before a stop, and after a restore with other files in the checkout."""
    release = stage.release(METRICS)
    assert release is not None
    done("stop", "metrics")
    file = stage.folder / "values" / "values-cpu.yaml"
    file.write_text('{"workers": {"metrics": {"maxReplicas": 99}}}')
    done("restore", "metrics")
    after = stage.release(METRICS)
    assert after is not None
    return release["config"], after["config"]


def test_restore_brings_back_the_stored_values_not_those_of_the_checkout(
    stage: Stage, cluster: Cluster
) -> None:
    deployed(stage, cluster)
    before, after = _restored(stage)
    assert after == before | {"suspend": False}


def test_restore_after_a_rollback_brings_back_what_was_stopped(
    stage: Stage, cluster: Cluster
) -> None:
    deployed(stage, cluster, "--tag", "v1")
    done("redeploy", "metrics", "--tag", "v2", "--profile", "ha")
    done("rollback", "metrics")
    before, after = _restored(stage)
    assert after == before | {"suspend": False}
    assert after["image"]["tag"] == "v1"
    assert not (after.get("gcsFaultTolerance") or {}).get("enabled")


def test_a_restore_asks_for_what_the_stored_values_need(stage: Stage, cluster: Cluster) -> None:
    deployed(stage, cluster, "--profile", "ha")
    done("stop", "metrics")
    (stage.folder / "values" / "values-ha.yaml").write_text("{}")
    cluster.redis_secret = None
    assert "no secret plainmed-redis" in refused("restore", "metrics")


def test_destroying_a_release_that_keeps_state_in_redis_says_what_it_waits_for(
    stage: Stage, cluster: Cluster
) -> None:
    deployed(stage, cluster, "--profile", "ha")
    said = done("destroy", "metrics", "--yes")
    assert "keeps Ray's state in Redis" in said
    assert "300 s" in said
    deployed(stage, cluster)
    assert "Redis" not in done("destroy", "metrics", "--yes")
