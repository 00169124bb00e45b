"""The life of a release: redeploy, stop, restore, specs, rollback, apply, destroy."""

from __future__ import annotations

from tests.ops.command import GENERATOR, METRICS, ROOT, client, deployed, done, refused
from tests.ops.fakes import Cluster, Stage

# --- the life of a release --------------------------------------------------------------


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


def test_apply_does_not_put_a_profile_on_an_image_that_is_not_its_own(
    stage: Stage, cluster: Cluster
) -> None:
    deployed(stage, cluster, "--tag", "v1")
    said = refused("apply", "all", "--yes", "--profile", "gpu")
    assert "run `plainmed ops redeploy generator --profile gpu`" in " ".join(said.split())
    assert stage.release(GENERATOR)["version"] == 1
    assert stage.release(METRICS)["version"] == 1


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


# --- destroy ----------------------------------------------------------------------------


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
