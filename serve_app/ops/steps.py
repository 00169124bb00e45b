"""The steps that verbs are made of. Each asks first or states the whole wanted result, so each can
be run again. Knows commands, AWS and the cluster; not which verb needs what.
"""

from __future__ import annotations

import json
import re
import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import yaml

from serve_app.ops import commands
from serve_app.ops.aws import Aws
from serve_app.ops.errors import OpsError, problems_error
from serve_app.ops.kube import Kube
from serve_app.ops.options import NAMESPACE, Options, Profile, release_name
from serve_app.ops.release import Recorded, Release, needs, parse, wanted
from serve_app.ops.runner import Runner

Confirm = Callable[[str, str], bool]
"""Shows a text and asks for the cluster's name; whether it was typed."""
TERRAFORM_HINT = "Correct what the message above names and run the same command again."
_INSTALL = {
    "aws": "the AWS CLI v2 (kubeconfig takes its tokens from it)",
    "docker": "Docker, to build images",
    "git": "git, to name images",
    "helm": "Helm 4 (https://helm.sh/docs/intro/install/)",
    "terraform": "Terraform 1.11 or later",
}
_POLL_S = 5.0  # between two looks at a service that is not ready yet


class Steps:
    """The steps of one call, for `verbs` to put in order.

    Args:
        options: of the call.
        runner: runs or prints commands.
        confirm: asks the operator; unused with --yes and in a dry run.
    """

    def __init__(self, options: Options, runner: Runner, confirm: Confirm) -> None:
        self.options, self.runner, self.confirm = options, runner, confirm
        self.region = options.resolved_region
        self.aws = Aws(self.region)
        self._kube: Kube | None = None

    @property
    def kube(self) -> Kube:
        """The cluster, by its context."""
        if self._kube is None:
            self._kube = Kube(self.options.cluster, NAMESPACE)
        return self._kube

    def check_first(self, *programs: str, gpu_quota: bool = False) -> None:
        """Checks everything that can be known without the cluster.

        Args:
            programs: needed on PATH.
            gpu_quota: whether to ask for the GPU quota, when GPUs are wanted.

        Raises:
            OpsError: listing every problem.
        """
        options, runner = self.options, self.runner
        generates = "generator" in options.target.services
        bucket = options.bucket if generates and options.model_name else options.model_bucket
        model = options.model_name if generates and bucket else None
        profile = options.profile if generates else None
        node_vcpus = profile.node_vcpus if profile is not None and gpu_quota else 0
        if runner.dry_run:
            parts = [f"{', '.join(programs)} on PATH"]
            parts += ["Helm 4"] * ("helm" in programs) + ["AWS credentials"]
            if bucket:
                shown = f"model s3://{bucket}/merged-models/{model}/"
                parts.append(shown if model else f"bucket {bucket}")
            parts += ["GPU quota"] * bool(node_vcpus)
            runner.note(f"would check: {'; '.join(parts)}")
            return
        problems: list[str | None] = [
            f"{program} is not on PATH; install {_INSTALL[program]}"
            for program in programs
            if shutil.which(program) is None
        ]
        problems += [
            f"{path} is missing; run in a checkout of PlainMed, or pass --root"
            for path in (options.chart / "Chart.yaml", options.variables)
            if not path.is_file()
        ]
        if "helm" in programs and shutil.which("helm") is not None:
            problems.append(self._helm_problem())
        self.aws.account()  # without credentials no further question makes sense
        if bucket:
            problems.append(self.aws.model_problem(bucket, model, merged=profile is Profile.VLLM))
        if node_vcpus:
            problems.append(self.aws.gpu_problem(node_vcpus))
        if found := list(filter(None, problems)):
            raise problems_error(found)

    def _helm_problem(self) -> str | None:
        """Why this Helm will not do; older ones lack the options that avoid apply conflicts."""
        said = (self.runner.read(commands.helm_version(), placeholder="v4") or "none").strip()
        found = re.match(r"v?(\d+)", said)
        if found is None or int(found[1]) < 4:
            return f"Helm {said} is too old: Helm 4 is needed for server-side apply; upgrade it"
        return None

    def check_releases(self, releases: list[Release]) -> None:
        """Raises where a release to be started lacks its model, API keys or Redis."""
        starting = [release for release in releases if not release.suspend]
        if self.runner.dry_run:
            needed = [needs(release, self.options.chart) for release in starting]
            said = [str(need.api_keys) for need in needed]
            said += [
                f"Redis {n.redis}, secret {n.redis_password and n.redis_password.secret}"
                for n in needed
                if n.redis
            ]
            for line in dict.fromkeys(said):
                self.runner.note(f"would check: {line}")
            return
        problems: list[str] = []
        for release in starting:
            merged = release.profile is Profile.VLLM
            # --model-name was checked before, but not against a profile that only the release has.
            unchecked = merged or not self.options.model_name
            if release.model_name and release.model_bucket and unchecked:
                found = self.aws.model_problem(
                    release.model_bucket, release.model_name, merged=merged
                )
                problems += [found] if found else []
        problems += self._missing(starting) if starting else []
        if problems:
            raise problems_error(problems, unchanged="no release")

    def _missing(self, releases: list[Release]) -> list[str]:
        """A problem for everything that pods of these releases would wait for in vain."""
        chart = self.options.chart
        found = [p for r in releases for p in self.kube.problems(needs(r, chart))]
        return list(dict.fromkeys(found))

    def check_cluster_first(self) -> None:
        """As `check_releases`, for a deploy to a cluster that exists: before anything changes.

        In an empty account there is nothing to ask yet; `roll_out` asks once there is.
        """
        if self.runner.dry_run or not self.aws.cluster_exists(self.options.cluster):
            return
        try:
            _ = self.kube
        except OpsError:
            return  # not in the kubeconfig yet
        shown = [wanted(self.options, s, None, self.region) for s in self.options.target.services]
        if found := self._missing(shown):
            raise problems_error(found)

    def confirmed(self, text: str) -> None:
        """Raises unless the operator agrees; --yes and a dry run do."""
        if self.options.yes or self.runner.dry_run:
            return
        if not self.confirm(text, self.options.cluster):
            raise OpsError("not confirmed; nothing was changed")

    def _state_bucket(self) -> str:
        if self.options.state_bucket:
            return self.options.state_bucket
        account = "ACCOUNT" if self.runner.dry_run else self.aws.account()
        return f"plainmed-tfstate-{account}-{self.region}"

    def init(self) -> None:
        """Binds Terraform to the environment's state, whose bucket is made where it is missing."""
        bucket = self._state_bucket()
        if self.runner.dry_run:
            self.runner.note(f"would make the state bucket {bucket} where it is missing")
        elif self.aws.ensure_state_bucket(bucket):
            self.runner.note(f"made the state bucket {bucket}; nothing here ever deletes it")
        self.runner.run(commands.terraform_init(self.options, bucket), hint=TERRAFORM_HINT)

    def infrastructure(self) -> None:
        """Plans, asks, and applies exactly that plan."""
        self.init()
        self.runner.run(commands.terraform_plan(self.options), hint=TERRAFORM_HINT)
        self.confirmed("This makes the changes above in your AWS account.")
        self.runner.run(commands.terraform_apply(self.options), hint=TERRAFORM_HINT)

    def outputs(self) -> dict[str, Any]:
        """Terraform's outputs by name, of this environment.

        Raises:
            OpsError: the environment has not been applied yet.
        """
        values = self._read_outputs()
        if self.runner.dry_run or values.get("cluster_name") == self.options.cluster:
            return values
        # A fresh checkout, or the last call here was about another environment.
        if self.aws.bucket_exists(self._state_bucket()):
            self.init()
            values = self._read_outputs()
        if values.get("cluster_name") != self.options.cluster:
            raise OpsError(
                f"environment {self.options.environment.value} has no infrastructure; run "
                "`plainmed ops deploy` or `plainmed ops apply` first"
            )
        return values

    def _read_outputs(self) -> dict[str, Any]:
        registry = f"ACCOUNT.dkr.ecr.{self.region}.amazonaws.com/{self.options.cluster}"
        shown = {
            "vpc_id": "VPC_ID",
            "image_repositories": {p.image: f"{registry}/{p.image}" for p in Profile},
        }
        placeholder = json.dumps({name: {"value": value} for name, value in shown.items()})
        text = self.runner.read(commands.terraform_output(self.options), placeholder=placeholder)
        outputs = {} if text is None else json.loads(text)
        return {name: item["value"] for name, item in outputs.items()}

    def connect(self) -> None:
        """Puts the cluster into the kubeconfig, and checks that it answers."""
        self.runner.run(
            commands.kubeconfig(self.options),
            hint="The cluster is there once `plainmed ops apply` succeeded.",
        )
        if not self.runner.dry_run:
            self.kube.check_reachable()

    def tools(self, outputs: dict[str, Any]) -> None:
        """Installs what the cluster needs before a release."""
        gpu = self.options.profile is not None and self.options.profile.gpu
        for tool in commands.tools(self.options.cluster, self.region, outputs["vpc_id"], gpu):
            self._recorded(tool.name, tool.namespace, "")
            self.runner.run(
                tool.install(self.options.cluster),
                hint=f"See its pods: kubectl --context {self.options.cluster} --namespace "
                f"{tool.namespace} get pods; then run the same command again.",
            )

    def check_cluster(self) -> None:
        """Raises unless the cluster answers and knows RayServices."""
        if self.runner.dry_run:
            self.runner.note(f"would check: cluster {self.options.cluster} answers and has KubeRay")
        elif problem := self.kube.crd_problem():
            raise OpsError(problem)

    def ensure_namespace(self) -> None:
        """The namespace of the releases, with the labels of k8s/namespace.yaml."""
        file = self.options.root / "k8s" / "namespace.yaml"
        if self.runner.dry_run:
            self.runner.note(
                f"would make namespace {NAMESPACE} as in {file}, or give it the labels"
            )
        elif done := self.kube.ensure_namespace(yaml.safe_load(file.read_text(encoding="utf-8"))):
            self.runner.note(f"{done} namespace {NAMESPACE}")

    def image_tag(self) -> str:
        """The commit; with uncommitted changes also the time, because tags never move."""
        if self.options.tag:
            return self.options.tag
        root = self.options.root
        commit = self.runner.read(commands.git_commit(root), placeholder="COMMIT")
        if commit is None:
            raise OpsError(f"{root} is no git checkout, so an image has no name; pass --tag")
        changed = self.runner.read(commands.git_changes(root), placeholder="")
        return commit.strip() + (f"-{datetime.now(UTC):%Y%m%d%H%M%S}" if changed else "")

    def _image(self, repository: str, tag: str, target: str) -> None:
        """Builds and pushes, unless the repository has that tag already."""
        if self.runner.dry_run:
            self.runner.note(f"unless {repository} has {tag} already:")
        elif self.aws.image_exists(repository, tag):
            self.runner.note(f"{repository}:{tag} is there already")
            return
        image = f"{repository}:{tag}"
        registry, password = repository.partition("/")[0], "PASSWORD"
        self.runner.run(
            commands.docker_build(self.options, target, image),
            hint="Nothing was deployed; correct the build and run the same command again.",
        )
        if not self.runner.dry_run:
            login = self.aws.registry_login()
            registry, password = login.registry, login.password
        self.runner.run(commands.docker_login(registry), stdin=password)
        self.runner.run(
            commands.docker_push(image), hint="Nothing was deployed; run the same command again."
        )

    def held(self, service: str) -> Recorded | None:
        """The release of a service as Helm has it; None if there is none."""
        return self._recorded(release_name(service), NAMESPACE, service)

    def _recorded(self, name: str, namespace: str, service: str) -> Recorded | None:
        """A release as Helm has it; repaired where a cut-off Helm left it locked."""
        cluster = self.options.cluster
        text = self.runner.read(
            commands.helm_status(name, cluster, namespace), placeholder=self._placeholder(service)
        )
        if text is None:
            return None
        if self.runner.dry_run and service:
            self.runner.note(f"shown as if {name} held nothing; what it holds would be kept")
        recorded = parse(service, text)
        if recorded.status == "uninstalled":
            return None
        if recorded.interrupted:
            self.runner.note(
                f"{name} is {recorded.status}: an earlier command was cut off; repairing"
            )
            if recorded.revision == 1:
                self.runner.run(commands.helm_uninstall(name, cluster, namespace))
            else:
                self.runner.run(commands.helm_rollback(name, cluster, namespace=namespace))
        return recorded

    def _placeholder(self, service: str) -> str:
        shown = wanted(self.options, service, None, self.region)
        values: dict[str, Any] = {
            "image": {"repository": "REPOSITORY", "tag": "TAG"},
            "aws": {"region": self.region},
            "global": {"ops": {"profile": shown.profile.value, "specs": shown.specs.value}},
        }
        return json.dumps({"info": {"status": "deployed"}, "version": 1, "config": values})

    def roll_out(self, outputs: dict[str, Any], tag: str) -> None:
        """Builds image `tag` where it is missing, and brings every release of the target to it."""
        releases = []
        for service in self.options.target.services:
            recorded = self.held(service)
            held = recorded.release if recorded else None
            release = wanted(self.options, service, held, self.region)
            target = release.profile.image
            repository = outputs["image_repositories"].get(target)
            if repository is None:
                raise OpsError(
                    f"environment {self.options.environment.value} has no repository for {target} "
                    "images: it was made before there were any; run `plainmed ops apply` first"
                )
            releases.append(replace(release, repository=repository, tag=tag, suspend=False))
        self.ensure_namespace()
        self.check_releases(releases)
        for repository, target in sorted({(r.repository, r.profile.image) for r in releases}):
            self._image(repository, tag, target)
        for release in releases:
            self._upgrade(release)

    def each_release(self, change: Callable[[Release], Release]) -> None:
        """Changes the releases that exist; the others are named and left."""
        changed = []
        for service in self.options.target.services:
            recorded = self.held(service)
            if recorded is None:
                self.runner.note(f"{release_name(service)} is not deployed")
                continue
            if recorded.release is None:
                raise OpsError(
                    f"{recorded.status} release {release_name(service)} was not made by `plainmed "
                    f"ops`; run `plainmed ops deploy {service}`, which takes it over"
                )
            changed.append(change(recorded.release))
        if not changed:
            self.runner.note("nothing to do")
        self.check_releases(changed)
        for release in changed:
            self._upgrade(release)

    def earlier_revision(self, name: str) -> str:
        """The newest revision before the present one that was not a stop.

        Raises:
            OpsError: there is none.
        """
        shown = [{"revision": "REVISION", "status": "superseded"}, {"revision": "PRESENT"}]
        text = self.runner.read(
            commands.helm_history(name, self.options.cluster), placeholder=json.dumps(shown)
        )
        revisions = json.loads(text) if text else []
        for item in reversed(revisions[:-1]):
            # One that failed never served; one that was cut off is no whole set of values.
            if item["status"] not in ("superseded", "deployed"):
                continue
            revision = str(item["revision"])
            values = self.runner.read(
                commands.helm_values(name, self.options.cluster, revision), placeholder="{}"
            )
            if not json.loads(values or "{}").get("suspend"):
                return revision
        raise OpsError(
            f"{name} has no earlier revision that served; nothing was changed. What there is: "
            f"helm history {name} --kube-context {self.options.cluster} --namespace {NAMESPACE}"
        )

    def _upgrade(self, release: Release) -> None:
        self.runner.run(
            commands.helm_upgrade(release, self.options),
            hint="What ran before still runs; correct the cause and run the same command again.",
        )
        self.wait(release.name, stopped=release.suspend)

    def wait(self, name: str, *, stopped: bool | None) -> None:
        """Waits until the release is ready (or stopped; None: whichever it asks for)."""
        if self.runner.dry_run:
            self.runner.note(f"would wait until {name} is {'stopped' if stopped else 'ready'}")
            return
        until = time.monotonic() + self.options.timeout_s
        last = ""
        while True:
            state = self.kube.state(name)
            if state.summary != last:
                last = state.summary
                self.runner.note(f"{name}: {last}")
            if state.stopped if (state.suspend if stopped is None else stopped) else state.ready:
                return
            if time.monotonic() > until:
                raise OpsError(
                    f"{name} is not {'stopped' if state.suspend else 'ready'} after "
                    f"{self.options.timeout_s:g} s:{state.why_not_ready}\nWhat served before "
                    "still serves. docs/operations.md, Troubleshooting, goes by symptom; then run "
                    f"the same command again, or `plainmed ops rollback {name.rpartition('-')[2]}`"
                )
            time.sleep(_POLL_S)

    def uninstall(self, everything: bool) -> None:
        """Removes the target's releases; for everything, the namespace with its volumes too."""
        for service in self.options.target.services:
            self.runner.run(
                commands.helm_uninstall(release_name(service), self.options.cluster),
                hint="Run the same command again; what is gone already is skipped.",
            )
        if not everything:
            return
        # Load balancers and volumes belong to the cluster's controllers, not to Terraform: they
        # must go while those run, or the VPC could not be destroyed.
        if self.runner.dry_run:
            self.runner.note(f"would delete namespace {NAMESPACE} and wait until it is gone")
        else:
            self.kube.delete_namespace(self.options.timeout_s)

    def forget_permanent(self) -> None:
        """Takes the model bucket out of the state, if Terraform made it: it must outlive it."""
        said = self.runner.read(
            commands.terraform_state_list(self.options), placeholder="aws_s3_bucket.models[0]"
        )
        permanent = re.findall(r"^aws_s3_bucket\S*$", said or "", re.MULTILINE)
        if permanent:
            if self.runner.dry_run:
                self.runner.note("if Terraform made the model bucket:")
            self.runner.run(commands.terraform_forget(self.options, permanent))
