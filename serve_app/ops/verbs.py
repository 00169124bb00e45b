"""The verbs: which steps, in which order. Each can be run again after it failed or was interrupted.

That holds because every step either asks first or says the whole wanted state: Terraform and
Helm do, images carry their commit, and a release that a cut-off Helm left locked is mended.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from serve_app.ops import commands, preflight
from serve_app.ops.aws import Aws
from serve_app.ops.errors import OpsError
from serve_app.ops.kube import Kube, ServiceState
from serve_app.ops.options import NAMESPACE, PORTS, Options, Profile, release_name
from serve_app.ops.release import Recorded, Release, parse, wanted
from serve_app.ops.report import why_not_ready
from serve_app.ops.runner import Runner

Confirm = Callable[[str], bool]
_POLL_S = 5.0  # between two looks at a service that is not ready yet
_POOLS = ("cpu",)  # those with a minimum above zero in some environment, besides system


class Verbs:
    """What one call of the command line can do.

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

    # --- verbs -------------------------------------------------------------------------------

    def deploy(self, skip_quota: bool = False) -> None:
        """From whatever there is to the services answering: infrastructure, images, releases."""
        self._preflight(("terraform", "helm", "aws", "docker", "git"), quota=not skip_quota)
        self._infrastructure()
        outputs = self._outputs()
        self._connect()
        self._tools(outputs)
        self._check_cluster()
        self._roll_out(outputs, self._image_tag(), build=True)
        self.endpoints()

    def redeploy(self) -> None:
        """Builds, pushes and upgrades; the earlier version answers until the new one is ready."""
        self._preflight(("terraform", "helm", "docker", "git"))
        self._check_cluster()
        outputs = self._outputs()
        self._roll_out(outputs, self._image_tag(), build=True)
        self.endpoints()

    def plan(self) -> None:
        """Shows what `apply` would change in the infrastructure, and keeps it for `apply`."""
        self._preflight(("terraform",))
        self._init()
        self.runner.run(commands.terraform_plan(self.options), hint=_TERRAFORM_HINT)

    def apply(self) -> None:
        """Brings the infrastructure and the releases there are up to date; builds nothing."""
        self._preflight(("terraform", "helm", "aws"))
        self._infrastructure()
        outputs = self._outputs()
        self._connect()
        self._tools(outputs)
        self._check_cluster()
        self._each_release(lambda held: wanted(self.options, held.service, held, self.region))

    def stop(self) -> None:
        """Scales to nothing; load balancers, configuration and images stay."""
        self._preflight(("helm",))
        self._check_cluster()
        self._each_release(lambda held: replace(held, suspend=True))
        if len(self.options.target.services) > 1:
            self._pool_minimum(0)

    def restore(self) -> None:
        """Brings stopped services back as they were; builds nothing."""
        self._preflight(("terraform", "helm"))
        self._check_cluster()
        held = {s: self._held(s) for s in self.options.target.services}
        self._check_models([r.release for r in held.values() if r and r.release])
        if len(self.options.target.services) > 1:
            self._pool_minimum(None)
        self._each_release(
            lambda release: replace(
                wanted(self.options, release.service, release, self.region), suspend=False
            ),
            held,
        )
        self.endpoints()

    def resize(self) -> None:
        """Upgrades to the size in `options.specs`; everything else stays."""
        self._preflight(("helm",))
        self._check_cluster()
        self._each_release(lambda held: wanted(self.options, held.service, held, self.region))

    def rollback(self, revision: int | None) -> None:
        """Back to an earlier revision, without downtime."""
        self._preflight(("helm",))
        self._check_cluster()
        for service in self.options.target.services:
            name = release_name(service)
            self.runner.run(
                commands.helm_rollback(name, self.options.cluster, revision),
                hint=f"See the revisions: helm history {name} --namespace {NAMESPACE}",
            )
            self._wait(name, stopped=None)

    def destroy(self) -> None:
        """Removes releases; for all, the whole environment but the model and state buckets."""
        everything = len(self.options.target.services) > 1
        what = (
            f"everything in {self.options.cluster}: both services, their addresses, the cluster, "
            "its "
            "network and images. The model bucket and the Terraform state bucket stay"
            if everything
            else f"release {release_name(self.options.target.value)} and its address; cluster, "
            "images and models stay"
        )
        self._preflight(("terraform", "helm", "aws") if everything else ("helm",))
        self._confirmed(f"This destroys {what}.")
        if self.runner.dry_run or self.aws.cluster_exists(self.options.cluster):
            if everything:
                self._connect()
            self._uninstall(everything)
        else:
            self.runner.note(f"there is no cluster {self.options.cluster} (any more)")
        if everything:
            self._init()
            self._forget_permanent()
            self.runner.run(
                commands.terraform_destroy(self.options),
                hint="What is left is in the message above; run the same command again.",
            )

    def states(self) -> list[ServiceState]:
        """The state of every release of the target."""
        return [self.kube.state(release_name(service)) for service in self.options.target.services]

    def endpoints(self) -> None:
        """Prints where each service answers."""
        for service in self.options.target.services:
            name = release_name(service)
            if self.runner.dry_run:
                self.runner.note(
                    f"would print the address of Service {name}, port {PORTS[service]}"
                )
                continue
            found = self.kube.endpoint(name)
            if found is None:
                text = f"not deployed; plainmed ops deploy {service}"
            elif not found[0]:
                text = "AWS is still making its load balancer; ask again in two minutes"
            else:
                text = f"http://{found[0]}:{found[1]}"
            self.runner.echo(f"{service}\t{text}")

    def logs(self, tail: int, follow: bool, previous: bool) -> None:
        """Prints the log of every container of the target's releases."""
        count = 0
        for service in self.options.target.services:
            count += self.kube.logs(release_name(service), tail, follow, previous, self.runner.echo)
        if not count:
            raise OpsError(
                "no pods; the service is stopped or not deployed: see `plainmed ops status`"
            )

    # --- steps -------------------------------------------------------------------------------

    def _preflight(self, programs: tuple[str, ...], quota: bool = False) -> None:
        options = self.options
        model = None
        if options.model_name and options.model_bucket and "generator" in options.target.services:
            model = (options.model_bucket, options.model_name)
        preflight.check_before_changes(
            options, self.runner, self.aws, programs=programs, model=model, gpu_quota=quota
        )

    def _check_models(self, releases: list[Release]) -> None:
        for release in releases:
            if release.model_name and release.model_bucket and not self.options.model_name:
                problem = self.aws.model_problem(release.model_bucket, release.model_name)
                if problem:
                    raise OpsError(f"nothing was changed: {problem}")

    def _confirmed(self, text: str) -> None:
        if self.options.yes or self.runner.dry_run:
            return
        if not self.confirm(text):
            raise OpsError("not confirmed; nothing was changed")

    def _state_bucket(self) -> str:
        if self.options.state_bucket:
            return self.options.state_bucket
        account = "ACCOUNT" if self.runner.dry_run else self.aws.account()
        return f"plainmed-tfstate-{account}-{self.region}"

    def _init(self) -> None:
        bucket = self._state_bucket()
        if self.runner.dry_run:
            self.runner.note(f"would make the state bucket {bucket} where it is missing")
        elif self.aws.ensure_state_bucket(bucket):
            self.runner.note(f"made the state bucket {bucket}; nothing here ever deletes it")
        self.runner.run(commands.terraform_init(self.options, bucket), hint=_TERRAFORM_HINT)

    def _infrastructure(self) -> None:
        self._init()
        self.runner.run(commands.terraform_plan(self.options), hint=_TERRAFORM_HINT)
        self._confirmed("This makes the changes above in your AWS account.")
        self.runner.run(commands.terraform_apply(self.options), hint=_TERRAFORM_HINT)

    def _outputs(self) -> dict[str, Any]:
        """Terraform's outputs by name."""
        shown = json.dumps(
            {
                "vpc_id": {"value": "VPC_ID"},
                "image_repositories": {
                    "value": {
                        target: f"ACCOUNT.dkr.ecr.{self.region}.amazonaws.com/"
                        f"{self.options.cluster}/{target}"
                        for target in ("cpu", "gpu")
                    }
                },
                "node_pools": {"value": {pool: {"min": "MIN"} for pool in _POOLS}},
            }
        )
        text = self.runner.read(commands.terraform_output(self.options), placeholder=shown)
        outputs = {} if text is None else json.loads(text)
        if "image_repositories" not in outputs and not self.runner.dry_run:
            # Another working directory made it, or another environment was the last one here.
            self._init()
            text = self.runner.read(commands.terraform_output(self.options), placeholder=shown)
            outputs = {} if text is None else json.loads(text)
        values = {name: item["value"] for name, item in outputs.items()}
        if "image_repositories" not in values:
            raise OpsError(
                f"environment {self.options.environment.value} has no infrastructure; run "
                "`plainmed "
                "ops deploy` or `plainmed ops apply` first"
            )
        if not self.runner.dry_run and values.get("cluster_name") != self.options.cluster:
            raise OpsError(
                f"terraform-eks/ holds {values.get('cluster_name')}, not {self.options.cluster}; "
                "run "
                f"`plainmed ops plan --env {self.options.environment.value}` once, which changes "
                "over"
            )
        return values

    def _connect(self) -> None:
        self.runner.run(
            commands.kubeconfig(self.options),
            hint="The cluster is there once `plainmed ops apply` succeeded.",
        )
        if not self.runner.dry_run:
            self.kube.check_reachable()

    def _tools(self, outputs: dict[str, Any]) -> None:
        gpu = self.options.profile is Profile.GPU
        for tool in commands.tools(self.options.cluster, self.region, outputs["vpc_id"], gpu):
            self.runner.run(
                tool.install(self.options.cluster),
                hint=f"See its pods: kubectl --context {self.options.cluster} --namespace "
                f"{tool.namespace} get pods; then run the same command again.",
            )

    def _check_cluster(self) -> None:
        if self.runner.dry_run:
            self.runner.note(f"would check: cluster {self.options.cluster} answers and has KubeRay")
            return
        problem = self.kube.crd_problem()
        if problem:
            raise OpsError(problem)

    def _image_tag(self) -> str:
        """The commit; with uncommitted changes, also the time, because tags never move."""
        if self.options.tag:
            return self.options.tag
        root = self.options.root
        commit = self.runner.read(commands.git_commit(root), placeholder="COMMIT")
        if commit is None:
            raise OpsError(f"{root} is no git checkout, so an image has no name; pass --tag")
        changes = self.runner.read(commands.git_changes(root), placeholder="")
        if changes:
            return f"{commit.strip()}-{datetime.now(UTC):%Y%m%d%H%M%S}"
        return commit.strip()

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
            hint="Nothing was deployed; mend the build and run the same command again.",
        )
        if not self.runner.dry_run:
            login = self.aws.registry_login()
            registry, password = login.registry, login.password
        self.runner.run(commands.docker_login(registry), given=password)
        self.runner.run(
            commands.docker_push(image), hint="Nothing was deployed; run the same command again."
        )

    def _held(self, service: str) -> Recorded | None:
        """The release as Helm has it; mended where a cut-off Helm left it locked."""
        name = release_name(service)
        text = self.runner.read(
            commands.helm_status(name, self.options.cluster), placeholder=self._placeholder(service)
        )
        if text is None:
            return None
        recorded = parse(service, text)
        if recorded.status == "uninstalled":
            return None
        if recorded.interrupted:
            self.runner.note(
                f"{name} is {recorded.status}: an earlier command was cut off; mending"
            )
            if recorded.revision == 1:
                self.runner.run(commands.helm_uninstall(name, self.options.cluster))
            else:
                self.runner.run(commands.helm_rollback(name, self.options.cluster))
        return recorded

    def _placeholder(self, service: str) -> str:
        shown = wanted(self.options, service, None, self.region)
        values: dict[str, Any] = {
            "image": {"repository": "REPOSITORY", "tag": "TAG"},
            "aws": {"region": self.region},
            "global": {"ops": {"profile": shown.profile.value, "specs": shown.specs.value}},
        }
        return json.dumps({"info": {"status": "deployed"}, "version": 1, "config": values})

    def _roll_out(self, outputs: dict[str, Any], tag: str, *, build: bool) -> None:
        """Every release of the target to image `tag`, one after the other."""
        releases = []
        for service in self.options.target.services:
            recorded = self._held(service)
            held = recorded.release if recorded else None
            release = wanted(self.options, service, held, self.region)
            target = "gpu" if release.profile is Profile.GPU else "cpu"
            repository = outputs["image_repositories"][target]
            releases.append(
                (replace(release, repository=repository, tag=tag, suspend=False), target)
            )
        if not self.runner.dry_run:
            self._check_models([release for release, _ in releases])
        if build:
            for repository, target in sorted({(r.repository, t) for r, t in releases}):
                self._image(repository, tag, target)
        for release, _ in releases:
            self._upgrade(release)

    def _each_release(
        self,
        change: Callable[[Release], Release],
        known: dict[str, Recorded | None] | None = None,
    ) -> None:
        """Changes the releases there are; those that are not are named and left."""
        found = 0
        for service in self.options.target.services:
            recorded = known[service] if known is not None else self._held(service)
            if recorded is None:
                self.runner.note(f"{release_name(service)} is not deployed")
                continue
            if recorded.release is None:
                raise OpsError(
                    f"{recorded.status} release {release_name(service)} was not made by `plainmed "
                    "ops`; "
                    f"run `plainmed ops deploy {service}`, which takes it over"
                )
            found += 1
            self._upgrade(change(recorded.release))
        if not found:
            self.runner.note("nothing to do")

    def _upgrade(self, release: Release) -> None:
        self.runner.run(
            commands.helm_upgrade(release, self.options),
            hint="What ran before still runs; mend the cause and run the same command again.",
        )
        self._wait(release.name, stopped=release.suspend)

    def _wait(self, name: str, *, stopped: bool | None) -> None:
        """Until the release is ready (or stopped; None: whichever it asks for)."""
        if self.runner.dry_run:
            end = "stopped" if stopped else "ready"
            self.runner.note(f"would wait until {name} is {end}")
            return
        until = time.monotonic() + self.options.timeout_s
        last = ""
        while True:
            state = self.kube.state(name)
            done = state.stopped if (state.suspend if stopped is None else stopped) else state.ready
            if state.summary != last:
                last = state.summary
                self.runner.note(f"{name}: {last}")
            if done:
                return
            if time.monotonic() > until:
                raise OpsError(
                    f"{name} is not {'stopped' if state.suspend else 'ready'} after "
                    f"{self.options.timeout_s:g} s:{why_not_ready(state)}\nWhat served before "
                    "still serves. "
                    "docs/operations.md, Troubleshooting, goes by symptom; then run the same "
                    "command "
                    f"again, or `plainmed ops rollback {name.rpartition('-')[2]}`"
                )
            time.sleep(_POLL_S)

    def _pool_minimum(self, minimum: int | None) -> None:
        """Sets the least nodes of the shared pools; None: as Terraform has them."""
        pools: dict[str, Any] = {} if minimum is not None else self._outputs()["node_pools"]
        for pool in _POOLS:
            least = minimum if minimum is not None else pools.get(pool, {}).get("min", 0)
            if self.runner.dry_run:
                self.runner.note(f"would set the least nodes of pool {pool} to {least}")
            elif self.aws.set_pool_minimum(self.options.cluster, pool, int(least)):
                self.runner.note(f"pool {pool}: at least {least} nodes")

    def _uninstall(self, everything: bool) -> None:
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

    def _forget_permanent(self) -> None:
        """Takes the model bucket out of the state, if Terraform made it: it must outlive it."""
        said = self.runner.read(
            commands.terraform_state_list(self.options), placeholder="aws_s3_bucket.models[0]"
        )
        permanent = re.findall(r"^aws_s3_bucket\S*$", said or "", re.MULTILINE)
        if permanent:
            if self.runner.dry_run:
                self.runner.note("if Terraform made the model bucket:")
            self.runner.run(commands.terraform_forget(self.options, permanent))


_TERRAFORM_HINT = "Mend what the message above names and run the same command again."
