"""The verbs: which steps, in which order. Each can be run again after it failed or was interrupted.

That holds because every step asks first or states the whole wanted result: Terraform and Helm do,
images carry their commit, and a release that a cut-off Helm left locked is repaired.
"""

from __future__ import annotations

import shutil
from dataclasses import replace

from serve_app.ops import commands
from serve_app.ops.errors import OpsError
from serve_app.ops.options import PORTS, Specs, Target, release_name
from serve_app.ops.release import Release, wanted
from serve_app.ops.state import status_lines
from serve_app.ops.steps import TERRAFORM_HINT, Steps

_CLUSTER = ("helm", "aws")  # kubeconfig takes its tokens from the AWS CLI
_BUILD = ("terraform", *_CLUSTER, "docker", "git")


class Verbs(Steps):
    """What one call of the command line can do; `cli` says what each verb is for."""

    def deploy(self, skip_quota: bool = False) -> None:
        """Infrastructure, software in the cluster, images, releases."""
        self.check_first(*_BUILD, gpu_quota=not skip_quota)
        self.check_cluster_first()
        self.infrastructure()
        outputs = self.outputs()
        self.connect()
        self.tools(outputs)
        self.check_cluster()
        self.roll_out(outputs, self.image_tag())
        self.endpoints()

    def redeploy(self, skip_quota: bool = False) -> None:
        """Images and releases."""
        self.check_first(*_BUILD, gpu_quota=not skip_quota)
        self.check_cluster()
        outputs = self.outputs()
        if self.options.profile is not None and self.options.profile.gpu:
            self.tools(outputs)  # the release may come from CPUs
        self.roll_out(outputs, self.image_tag())
        self.endpoints()

    def plan(self) -> None:
        """The infrastructure's plan, kept for `apply`."""
        self.check_first("terraform")
        self.init()
        self.runner.run(commands.terraform_plan(self.options), hint=TERRAFORM_HINT)

    def apply(self) -> None:
        """Infrastructure, software in the cluster, and the releases that exist."""
        self.check_first("terraform", *_CLUSTER)
        self.infrastructure()
        outputs = self.outputs()
        self.connect()
        self.tools(outputs)
        self.check_cluster()
        self.each_release(self._updated)

    def _updated(self, held: Release) -> Release:
        """What `apply` makes of a release; its image stays, so its profile's must be the same."""
        release = wanted(self.options, held.service, held, self.region)
        if release.profile.image != held.profile.image:
            profile = release.profile
            raise OpsError(
                f"{held.name} runs the {held.profile.image} image, and profile {profile.value} "
                f"takes the {profile.image} one, which `apply` does not build; run `plainmed ops "
                f"redeploy {held.service} --profile {profile.value}`. The infrastructure is up to "
                "date, the releases are as they were"
            )
        return release

    def _releases(self) -> None:
        self.check_first(*_CLUSTER)
        self.check_cluster()

    def stop(self) -> None:
        """Suspends the releases."""
        self._releases()
        self.each_release(lambda held: replace(held, suspend=True), keep_values=True)

    def restore(self) -> None:
        """Takes the suspension back."""
        self._releases()
        self.each_release(
            lambda held: replace(
                wanted(self.options, held.service, held, self.region), suspend=False
            ),
            keep_values=True,
        )
        self.endpoints()

    def resize(self, specs: Specs) -> None:
        """Gives the generator's workers another size; everything else stays."""
        self.options = replace(self.options, target=Target.GENERATOR, specs=specs)
        self._releases()
        self.each_release(lambda held: wanted(self.options, held.service, held, self.region))

    def rollback(self, revision: int | None) -> None:
        """Goes back to an earlier revision that served."""
        self._releases()
        names = [release_name(service) for service in self.options.target.services]
        # All first: with two releases, neither goes back where one cannot.
        numbers = {n: str(revision) if revision else self.earlier_revision(n) for n in names}
        for name, number in numbers.items():
            command = commands.helm_rollback(name, self.options.cluster, number)
            self._change(name, command, stopped=None)

    def destroy(self) -> None:
        """Removes releases; for all, the whole environment but the model and state buckets."""
        everything = len(self.options.target.services) > 1
        what = (
            f"everything in {self.options.cluster}: both services, their addresses, the cluster, "
            "its network and images. The model bucket and the Terraform state bucket stay"
            if everything
            else f"release {release_name(self.options.target.value)} and its address; cluster, "
            "images and models stay"
        )
        self.check_first(*["terraform"] * everything, *_CLUSTER)
        self.confirmed(f"This destroys {what}.")
        if self.runner.dry_run or self.aws.cluster_exists(self.options.cluster):
            if everything:
                self.connect()
            self.uninstall(everything)
        else:
            self.runner.note(f"there is no cluster {self.options.cluster} (any more)")
        if everything:
            self.init()
            self.forget_permanent()
            self.runner.run(
                commands.terraform_destroy(self.options),
                hint="What is left is in the message above; run the same command again.",
            )

    def status(self) -> bool:
        """Prints the state of every release; whether each is ready or stopped."""
        names = [release_name(service) for service in self.options.target.services]
        if self.runner.dry_run:
            for name in names:
                self.runner.note(
                    f"would show RayService {name} of {self.options.cluster}, its pods and events"
                )
            return True
        states = [self.kube.state(name) for name in names]
        for line in status_lines(states, shutil.get_terminal_size().columns):
            self.runner.echo(line)
        return all(state.ready or state.stopped for state in states)

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
        for name in map(release_name, self.options.target.services):
            if self.runner.dry_run:
                when = " before its last restart" * previous + ", and what follows" * follow
                self.runner.note(
                    f"would print the last {tail} lines of every container of {name}{when}"
                )
            else:
                count += self.kube.logs(name, tail, follow, previous, self.runner.echo)
        if not count and not self.runner.dry_run:
            raise OpsError(
                "no pods; the service is stopped or not deployed: see `plainmed ops status`"
            )
