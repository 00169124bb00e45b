"""The steps that verbs are made of. Each asks first or states the whole wanted result, so each can
be run again. Knows commands, AWS and the cluster; not which verb needs what.
"""

from __future__ import annotations

import json
import re
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from itertools import islice
from typing import Any

import yaml

from serve_app.ops import commands
from serve_app.ops.aws import Aws
from serve_app.ops.errors import OpsError, problems_error
from serve_app.ops.kube import Kube
from serve_app.ops.options import NAMESPACE, Options, Profile, release_name
from serve_app.ops.release import (
    Needs,
    Recorded,
    Release,
    default_values,
    file_values,
    needs,
    parse,
    wanted,
)
from serve_app.ops.runner import Runner
from serve_app.ops.state import ServiceState

Confirm = Callable[[str, str], bool]
"""Shows a text and asks for the cluster's name; whether it was typed."""
Stored = Mapping[str, Mapping[str, Any]]
"""The values that Helm has stored of releases, by name."""
TERRAFORM_HINT = "Correct what the message above names and run the same command again."
_INSTALL = {
    "aws": "the AWS CLI v2 (kubeconfig takes its tokens from it)",
    "docker": "Docker, to build images",
    "git": "git, to name images",
    "helm": "Helm 4 (https://helm.sh/docs/intro/install/)",
    "terraform": "Terraform 1.11 or later",
}
_POLL_S = 5.0  # between two looks at a service that is not ready yet
# KubeRay sends a Serve configuration after it has read the applications' states, and reads them
# again 2 s later: a state counts once it has held for so long.
_HOLD_S = 10.0


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

    def check_releases(self, releases: list[Release], stored: Stored | None = None) -> None:
        """Raises where a release to be started lacks its model, API keys or Redis.

        Args:
            releases: to be started, or suspended.
            stored: the values of releases that keep theirs, by name; others take their files'.
        """
        starting = [release for release in releases if not release.suspend]
        needed = [needs(self._values(release, stored or {})) for release in starting]
        if self.runner.dry_run:
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
        problems += self._missing(needed) if needed else []
        if problems:
            raise problems_error(problems, unchanged="no release")

    def _values(self, release: Release, stored: Stored) -> list[Mapping[str, Any]]:
        chart = self.options.chart
        if release.name in stored:
            return [*default_values(chart), stored[release.name]]
        return file_values(release, chart)

    def _missing(self, needed: list[Needs]) -> list[str]:
        """A problem for everything that pods would wait for in vain."""
        return list(dict.fromkeys(p for need in needed for p in self.kube.problems(need)))

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
        if found := self._missing([needs(file_values(r, self.options.chart)) for r in shown]):
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
            command = commands.helm_upgrade(release, self.options)
            self._change(release.name, command, stopped=release.suspend)

    def each_release(
        self, change: Callable[[Release], Release], *, keep_values: bool = False
    ) -> None:
        """Changes the releases that exist; the others are named and left.

        Args:
            change: gives the wanted release.
            keep_values: keep all values that Helm has stored, but for `suspend` and the model;
                otherwise the profile's files are read anew.
        """
        changed, stored = [], {}
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
            if keep_values and not self.runner.dry_run:
                stored[release_name(service)] = recorded.values
        if not changed:
            self.runner.note("nothing to do")
        self.check_releases(changed, stored)
        command = commands.helm_suspend if keep_values else commands.helm_upgrade
        for release in changed:
            self._change(release.name, command(release, self.options), stopped=release.suspend)

    def earlier_revision(self, name: str) -> str:
        """The last revision that was ready, but for the present one.

        Raises:
            OpsError: there is none.
        """
        shown = [{"revision": "REVISION", "status": "superseded"}, {"revision": "PRESENT"}]
        history = commands.helm_history(name, self.options.cluster)
        text = self.runner.read(history, placeholder=json.dumps(shown))
        if self.runner.dry_run:
            self.runner.note(
                "would go to the last revision that was ready, but for the present one"
            )
            return "REVISION"
        # One that failed never served; one that was cut off is no whole set of values.
        kept = [
            str(item["revision"])
            for item in (json.loads(text) if text else [])[:-1]
            if item["status"] in ("superseded", "deployed")
        ]
        state = self.kube.state(name)
        found = [one for one in state.ready_revisions if one != state.revision and one in kept]
        if not state.ready_revisions and kept:
            served = (one for one in reversed(kept) if not self._suspended(name, one))
            found = list(islice(served, 1))
            self.runner.note(
                f"{name}: nothing recorded which revision was ready (an earlier PlainMed deployed "
                "it); taking the newest that was not a stop"
            )
        if not found:
            raise OpsError(
                f"{name} has no earlier revision that served; nothing was changed. What there is: "
                f"{' '.join(map(str, history[:-2]))}"
            )
        return found[-1]

    def _suspended(self, name: str, revision: str) -> bool:
        command = commands.helm_values(name, self.options.cluster, revision)
        return bool(json.loads(self.runner.read(command, placeholder="{}") or "{}").get("suspend"))

    def _change(self, name: str, command: commands.Arguments, *, stopped: bool | None) -> None:
        """Runs a Helm command on a release and waits; see `wait`."""
        if not self.runner.dry_run:
            self._record(self.kube.state(name))  # an earlier wait may have been cut off
        self.runner.run(command, hint="Correct the cause and run the same command again.")
        self.wait(name, stopped=stopped)

    def _record(self, state: ServiceState) -> None:
        """Records a revision that serves, for `earlier_revision`."""
        if state.ready and state.revision and state.ready_revisions[-1:] != (state.revision,):
            self.kube.record_ready(state)

    def wait(self, name: str, *, stopped: bool | None) -> None:
        """Waits until the release is ready (or stopped; None: whichever it asks for).

        Raises:
            OpsError: it cannot become ready, in Serve's or KubeRay's words; or time is up.
        """
        if self.runner.dry_run:
            self.runner.note(f"would wait until {name} is {'stopped' if stopped else 'ready'}")
            return
        began = time.monotonic()
        last, held, since = "", "", began
        while True:
            state, now = self.kube.state(name), time.monotonic()
            if state.summary != last:
                last = state.summary
                self.runner.note(f"{name}: {last}")
            if state.redundant:
                self.runner.note(
                    f"{name}: KubeRay builds the version that serves a second time; dropping that"
                )
                self.kube.drop_pending(name)
            stop = state.suspend if stopped is None else stopped
            found = "done" if (state.stopped if stop else state.ready) else state.failure
            if found != held:
                held, since = found, now
            if found and (state.stopped or now - since >= _HOLD_S):
                break
            if now - began > self.options.timeout_s:
                held, found = "", f" after {self.options.timeout_s:g} s:"
                break
            time.sleep(_POLL_S)
        if held == "done":
            self._record(state)
            return
        why = f": {held}" if held else found
        raise OpsError(
            f"{name} is not {'stopped' if stop else 'ready'}{why}{state.why_not_ready}\n"
            f"{state.consequence} docs/operations.md, Troubleshooting, goes by symptom; then run "
            f"the same command again{self._or_rollback(state)}"
        )

    def _or_rollback(self, state: ServiceState) -> str:
        if set(state.ready_revisions) <= {state.revision}:
            return ""  # nothing to go back to
        return f", or `plainmed ops rollback {state.name.rpartition('-')[2]}`"

    def uninstall(self, everything: bool) -> None:
        """Removes the target's releases; for everything, the namespace with its volumes too."""
        for name in map(release_name, self.options.target.services):
            if not self.runner.dry_run and self.kube.state(name).keeps_state:
                self.runner.note(
                    f"{name} keeps Ray's state in Redis, which a job of KubeRay's deletes first: "
                    "that takes up to 300 s, or leaves it there if the Redis does not answer"
                )
            self.runner.run(
                commands.helm_uninstall(name, self.options.cluster),
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
