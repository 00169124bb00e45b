"""terraform-eks/ with the real Terraform and AWS provider: mocked AWS, a moto server, checkov.

Needs `terraform` and a mirror folder of providers (TERRAFORM_PLUGIN_DIR, or the usual places), and
skips where there is none. Applying to a moto server and running checkov take long, so they run with
PLAINMED_TEST_DEPLOY=1, as `make test-deploy` does.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from moto.server import ThreadedMotoServer

from serve_app.ops import commands
from serve_app.ops.options import Environment, Options, Target
from tests.support.paths import ROOT
from tests.support.slow import slow

SOURCE = ROOT / "terraform-eks"
ENVIRONMENTS = sorted(path.stem for path in (SOURCE / "environments").glob("*.tfvars"))
MIRRORS = (
    os.environ.get("TERRAFORM_PLUGIN_DIR"),
    "/opt/tf-plugins",
    "~/.terraform.d/plugins",
    "/usr/local/share/terraform/plugins",
    "/usr/share/terraform/plugins",
)
long_test = pytest.mark.skipif(
    os.environ.get("PLAINMED_TEST_DEPLOY") != "1",
    reason="takes long; `make test-deploy` (PLAINMED_TEST_DEPLOY=1) runs it",
)


@pytest.fixture(scope="module")
def mirror() -> str:
    if shutil.which("terraform") is None:
        pytest.skip("needs terraform on PATH")
    for folder in filter(None, MIRRORS):
        path = Path(folder).expanduser()
        if (path / "registry.terraform.io" / "hashicorp" / "aws").is_dir():
            return str(path)
    pytest.skip("needs a mirror of Terraform providers with hashicorp/aws: TERRAFORM_PLUGIN_DIR")


def terraform(folder: Path, *arguments: str, code: int = 0, **more: str) -> str:
    done = subprocess.run(
        ["terraform", *arguments],
        cwd=folder,
        env=environment(**more),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


def environment(**more: str) -> dict[str, str]:
    """This process's environment without what would lead Terraform to a real account."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("AWS_", "TF_"))}
    return kept | {"TF_CLI_CONFIG_FILE": os.devnull, "TF_IN_AUTOMATION": "1"} | more


def copied(target: Path) -> Path:
    """A copy to work in: Terraform writes beside what it reads."""
    ignored = shutil.ignore_patterns(".terraform*", "*.tfstate*", "*.auto.tfvars", "*.tfplan")
    return shutil.copytree(SOURCE, target, ignore=ignored)


@pytest.fixture(scope="module")
def module(mirror: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = copied(tmp_path_factory.mktemp("terraform") / "terraform-eks")
    terraform(folder, "init", "-backend=false", "-input=false", f"-plugin-dir={mirror}")
    return folder


def test_every_file_is_formatted(module: Path) -> None:
    terraform(module, "fmt", "-check", "-diff", "-recursive")


def test_the_configuration_is_valid(module: Path) -> None:
    terraform(module, "validate")


@slow(30)
def test_every_environment_keeps_its_promises(module: Path) -> None:
    """Runs tests/environment.tftest.hcl for each environment at once, and the other files once."""
    wanted = {name: ["environment"] for name in ENVIRONMENTS}
    wanted[ENVIRONMENTS[0]] = ["environment", "model_bucket", "refusals"]
    running = {
        name: subprocess.Popen(
            [
                "terraform",
                "test",
                "-no-color",
                f"-var-file=environments/{name}.tfvars",
                *(f"-filter=tests/{file}.tftest.hcl" for file in files),
            ],
            cwd=module,
            env=environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for name, files in wanted.items()
    }
    said = {name: process.communicate()[0] for name, process in running.items()}
    for name, process in running.items():
        assert process.returncode == 0, f"{name}:\n{said[name]}"
        assert "Success!" in said[name]
        assert "0 failed" in said[name]


def test_there_are_the_environments_the_ops_commands_offer() -> None:
    assert sorted(environment.value for environment in Environment) == ENVIRONMENTS


def test_no_registry_module_is_used() -> None:
    for file in SOURCE.glob("*.tf"):
        assert "\nmodule " not in file.read_text(encoding="utf-8"), file


def test_every_variable_is_described_and_validated() -> None:
    text = (SOURCE / "variables.tf").read_text(encoding="utf-8")
    blocks = text.split('\nvariable "')[1:]
    assert len(blocks) > 10
    for block in blocks:
        name = block.partition('"')[0]
        assert "description" in block, name
        assert "validation {" in block, name


def test_every_skipped_rule_says_why() -> None:
    skips = [
        line.strip()
        for file in SOURCE.rglob("*.tf")
        for line in file.read_text(encoding="utf-8").splitlines()
        if "checkov:skip" in line
    ]
    assert skips
    for line in skips:
        rule, _, reason = line.removeprefix("#checkov:skip=").partition(":")
        assert rule.startswith("CKV"), line
        assert len(reason.split()) >= 5, line


@long_test
def test_checkov_finds_nothing_unjustified() -> None:
    checkov = os.environ.get("CHECKOV") or shutil.which("checkov")
    beside = Path(sys.executable).with_name("checkov")
    if checkov is None and beside.is_file():
        checkov = str(beside)
    if checkov is None:
        pytest.skip("needs checkov on PATH or in CHECKOV; it wants an environment of its own")
    done = subprocess.run(
        [checkov, "-d", str(SOURCE), "--framework", "terraform", "--skip-download", "-o", "json"],
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    report = json.loads(done.stdout)
    failed = [(c["check_id"], c["resource"]) for c in report["results"]["failed_checks"]]
    assert failed == []
    assert report["summary"]["passed"] > 100
    assert report["summary"]["parsing_errors"] == 0


# --- against a moto server -------------------------------------------------------------------

SERVICES = ("ec2", "ecr", "eks", "iam", "kms", "logs", "s3", "sts")
# Everything but EKS add-ons, access entries and Pod Identity associations, whose APIs moto does not
# speak, and the node groups, which wait for the add-ons.
SPOKEN = (
    "aws_ecr_lifecycle_policy.image",
    "aws_eks_cluster.this",
    "aws_flow_log.this",
    "aws_iam_role_policy.models",
    "aws_iam_role_policy.cluster_autoscaler",
    "aws_iam_role_policy.load_balancer_controller",
    "aws_iam_role_policy.flow",
    "aws_iam_role_policy_attachment.ebs_csi",
    "aws_iam_role_policy_attachment.node",
    "aws_kms_alias.this",
    "aws_launch_template.pool",
    "aws_route.internet",
    "aws_route.nat",
    "aws_route_table_association.private",
    "aws_route_table_association.public",
    "aws_vpc_endpoint.s3",
    "aws_s3_bucket_lifecycle_configuration.models",
    "aws_s3_bucket_public_access_block.models",
    "aws_s3_bucket_server_side_encryption_configuration.models",
)
CREDENTIALS = {"AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "testing"}


@pytest.fixture(scope="module")
def moto() -> Iterator[str]:
    logging.getLogger("werkzeug").setLevel(logging.WARNING)  # a line a request hides a failure
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MOTO_IAM_LOAD_MANAGED_POLICIES", "true")
        server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
        server.start()
        host, port = server.get_host_and_port()
        yield f"http://{host}:{port}"
        server.stop()


def client(service: str, moto: str) -> Any:
    return boto3.client(
        service,
        endpoint_url=moto,
        region_name="us-east-1",
        aws_access_key_id="testing",
        aws_secret_access_key="testing",
    )


@pytest.fixture
def cloud(mirror: str, moto: str, tmp_path: Path) -> Path:
    """The configuration, its provider and its S3 backend pointed at the moto server."""
    folder = copied(tmp_path / "terraform-eks")
    endpoints = "\n".join(f'    {service} = "{moto}"' for service in SERVICES)
    (folder / "moto_override.tf").write_text(
        'provider "aws" {\n  s3_use_path_style = true\n  skip_metadata_api_check = true\n'
        f"  endpoints {{\n{endpoints}\n  }}\n}}\n",
        encoding="utf-8",
    )
    state = f"state-{tmp_path.name.replace('_', '-').lower()}"[:60].rstrip("-")
    client("s3", moto).create_bucket(Bucket=state)
    backend = {
        "bucket": state,
        "key": "plainmed/dev/terraform.tfstate",
        "region": "us-east-1",
        "use_path_style": "true",
        "skip_credentials_validation": "true",
        "skip_requesting_account_id": "true",
        "endpoints": f'{{s3="{moto}"}}',
    }
    options = [f"-backend-config={name}={value}" for name, value in backend.items()]
    terraform(folder, "init", "-input=false", f"-plugin-dir={mirror}", *options, **CREDENTIALS)
    return folder


@long_test
def test_what_moto_speaks_is_planned_applied_and_destroyed(cloud: Path, moto: str) -> None:
    s3, bucket = client("s3", moto), "models-of-moto"
    s3.create_bucket(Bucket=bucket)
    s3.put_object(Bucket=bucket, Key="merged-models/a/config.json", Body=b"{}")
    given = ["-var-file=environments/dev.tfvars", f"-var=model_bucket={bucket}", "-input=false"]
    targets = [f"-target={address}" for address in SPOKEN]

    # As `plainmed ops plan` calls it: from another directory, with -chdir.
    options = Options(Target.ALL, cloud.parent, model_bucket=bucket)
    command = [str(word) for word in commands.terraform_plan(options)]
    whole = terraform(cloud.parent, *command[1:], "-no-color", **CREDENTIALS)
    assert (cloud / "dev.tfplan").is_file()
    assert "0 to change, 0 to destroy" in whole
    for kind in ("aws_eks_addon", "aws_eks_pod_identity_association", "aws_eks_node_group"):
        assert kind in whole

    terraform(cloud, "apply", "-auto-approve", *given, *targets, **CREDENTIALS)
    cluster = client("eks", moto).describe_cluster(name="plainmed-dev")["cluster"]
    assert len(cluster["resourcesVpcConfig"]["subnetIds"]) == 2
    repositories = client("ecr", moto).describe_repositories()["repositories"]
    assert {r["repositoryName"] for r in repositories} == {"plainmed-dev/cpu", "plainmed-dev/gpu"}
    policy = client("iam", moto).get_role_policy(
        RoleName="plainmed-dev-generator", PolicyName="read-models"
    )["PolicyDocument"]
    actions = {a for s in policy["Statement"] for a in [s["Action"]]}
    assert actions == {"s3:ListBucket", "s3:GetObject"}

    again = terraform(cloud, "plan", "-no-color", *given, *targets, **CREDENTIALS)
    # moto forgets a cluster's encryption_config, so that the real provider would replace it.
    replaced = [line.split()[1] for line in again.splitlines() if "must be replaced" in line]
    assert set(replaced) <= {"aws_eks_cluster.this"}

    terraform(cloud, "destroy", "-auto-approve", *given, *targets, **CREDENTIALS)
    assert client("eks", moto).list_clusters()["clusters"] == []
    assert s3.list_objects_v2(Bucket=bucket)["KeyCount"] == 1, "models outlive everything"


@long_test
def test_a_model_bucket_it_created_refuses_to_be_destroyed(cloud: Path, moto: str) -> None:
    bucket = "models-made-by-terraform"
    given = [
        "-var-file=environments/dev.tfvars",
        f"-var=model_bucket={bucket}",
        "-var=create_model_bucket=true",
        "-input=false",
    ]
    targets = [f"-target={a}" for a in SPOKEN if a.startswith("aws_s3_")]
    terraform(cloud, "apply", "-auto-approve", *given, *targets, **CREDENTIALS)
    s3 = client("s3", moto)
    assert all(s3.get_public_access_block(Bucket=bucket)["PublicAccessBlockConfiguration"].values())
    assert s3.get_bucket_versioning(Bucket=bucket)["Status"] == "Enabled"

    said = terraform(cloud, "destroy", "-auto-approve", *given, code=1, **CREDENTIALS)
    assert "prevent_destroy" in said

    # What `plainmed ops destroy` does instead: let go of it, and destroy the rest.
    held = terraform(cloud, "state", "list", **CREDENTIALS).split()
    permanent = [a for a in held if a.startswith("aws_s3_bucket")]
    terraform(cloud, "state", "rm", *permanent, **CREDENTIALS)
    terraform(cloud, "destroy", "-auto-approve", *given, **CREDENTIALS)
    assert s3.head_bucket(Bucket=bucket)
