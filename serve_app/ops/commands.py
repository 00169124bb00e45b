"""Argument lists of the external programs. Runs none of them.

Helm 4 applies server-side. KubeRay's operator and Ray's autoscaler write
`spec.rayClusterConfig.workerGroupSpecs` of a RayService after Helm and then own it, so a plain
`helm upgrade` fails with a conflict. `_APPLY` lets the chart decide: server-side apply, stated
rather than inherited from the last release, and conflicts forced.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from serve_app.ops.options import NAMESPACE, Options
from serve_app.ops.release import Release

_APPLY = ("--server-side=true", "--force-conflicts")
_SYSTEM_NODES = {r"nodeSelector.plainmed\.io/pool": "system"}

Arguments = list[str | Path]


def _on(context: str, namespace: str = NAMESPACE) -> list[str]:
    return ["--kube-context", context, "--namespace", namespace]


def helm_version() -> Arguments:
    """Prints Helm's version alone."""
    return ["helm", "version", "--template", "{{.Version}}"]


def helm_status(release: str, context: str, namespace: str = NAMESPACE) -> Arguments:
    """Prints a release's state and values as JSON; fails where there is no release."""
    return ["helm", "status", release, *_on(context, namespace), "--output", "json"]


def helm_upgrade(release: Release, options: Options) -> Arguments:
    """Installs or upgrades a release to exactly its profile's values and `release`'s settings.

    Values are reset each time, so nothing of an earlier upgrade is left.
    """
    files: Arguments = []
    for name in release.files:
        files += ["--values", options.chart / name]
    where: Arguments = [release.name, options.chart, *_on(options.cluster), *_APPLY]
    keep = ["--reset-values", "--history-max", "20"]
    return ["helm", "upgrade", "--install", *where, *keep, *files, *release.settings()]


def helm_suspend(release: Release, options: Options) -> Arguments:
    """Stops or restores a release with the values that Helm has stored, whatever files say now."""
    where: Arguments = [release.name, options.chart, *_on(options.cluster), *_APPLY]
    keep = ["--reuse-values", "--history-max", "20"]
    changed = release.suspension() + (release.model() if options.model_name else [])
    return ["helm", "upgrade", *where, *keep, *changed]


def helm_rollback(
    release: str, context: str, revision: str | None = None, namespace: str = NAMESPACE
) -> Arguments:
    """Goes back to a revision; by default to the previous one."""
    number = [] if revision is None else [revision]
    return ["helm", "rollback", release, *number, *_on(context, namespace), *_APPLY]


def helm_history(release: str, context: str) -> Arguments:
    """Prints a release's revisions as JSON, newest last; fails where there is no release."""
    return ["helm", "history", release, *_on(context), "--output", "json"]


def helm_values(release: str, context: str, revision: str) -> Arguments:
    """Prints the values set on one revision, as JSON."""
    where = [*_on(context), "--revision", revision, "--output", "json"]
    return ["helm", "get", "values", release, *where]


def helm_uninstall(release: str, context: str, namespace: str = NAMESPACE) -> Arguments:
    """Removes a release and waits until its objects are gone."""
    wait = ["--ignore-not-found", "--wait=watcher", "--timeout", "15m"]
    return ["helm", "uninstall", release, *_on(context, namespace), *wait]


@dataclass(frozen=True, slots=True)
class Tool:
    """Software that PlainMed needs in the cluster, by its published chart."""

    name: str
    repository: str
    version: str
    namespace: str = "kube-system"
    values: Mapping[str, str] = field(default_factory=dict)

    def install(self, context: str) -> Arguments:
        """Installs or upgrades it, and waits until it runs, because the next step needs it."""
        settings = [word for k, v in self.values.items() for word in ("--set-string", f"{k}={v}")]
        chart = [self.name, self.name, "--repo", self.repository, "--version", self.version]
        where = [*_on(context, self.namespace), "--create-namespace", *_APPLY]
        wait = ["--wait=watcher", "--timeout", "10m"]
        return ["helm", "upgrade", "--install", *chart, *where, *wait, *settings]


def tools(cluster: str, region: str, vpc: str, gpu: bool) -> list[Tool]:
    """What the cluster needs before a release: load balancers, nodes on demand, Ray, GPUs."""
    balancer, scaler = "aws-load-balancer-controller", "cluster-autoscaler"
    found = {"clusterName": cluster, "region": region, "vpcId": vpc}
    named = {"fullnameOverride": scaler, "rbac.serviceAccount.name": scaler}
    scaled = {"autoDiscovery.clusterName": cluster, "awsRegion": region} | named
    needed = [
        Tool(
            *(balancer, "https://aws.github.io/eks-charts", "1.14.0"),
            values=found | {"serviceAccount.name": balancer} | _SYSTEM_NODES,
        ),
        Tool(
            *(scaler, "https://kubernetes.github.io/autoscaler", "9.56.0"),
            values=scaled | _SYSTEM_NODES,
        ),
        Tool(
            *("kuberay-operator", "https://ray-project.github.io/kuberay-helm/", "1.7.0"),
            namespace="kuberay-system",
            values=_SYSTEM_NODES,
        ),
    ]
    if gpu:
        repository = "https://nvidia.github.io/k8s-device-plugin"
        needed.append(Tool("nvidia-device-plugin", repository, "0.17.4"))
    return needed


def _terraform(options: Options, *words: str) -> Arguments:
    return ["terraform", f"-chdir={options.terraform}", *words]


def _variables(options: Options) -> list[str]:
    # Relative to -chdir, like the plan file.
    given = [f"-var-file=environments/{options.variables.name}"]
    if options.region:
        given.append(f"-var=region={options.region}")
    if options.model_bucket:
        given.append(f"-var=model_bucket={options.model_bucket}")
    return given


def terraform_init(options: Options, state_bucket: str) -> Arguments:
    """Binds the working directory to the environment's state."""
    state = {
        "bucket": state_bucket,
        "key": f"plainmed/{options.environment.value}/terraform.tfstate",
        "region": options.resolved_region,
    }
    backend = [f"-backend-config={name}={value}" for name, value in state.items()]
    return _terraform(options, "init", "-input=false", "-reconfigure", *backend)


def plan_file(options: Options) -> str:
    """Keeps a plan between `plan` and `apply`; git ignores it."""
    return f"{options.environment.value}.tfplan"


def terraform_plan(options: Options) -> Arguments:
    """Shows what would change, and keeps the plan."""
    out = f"-out={plan_file(options)}"
    return _terraform(options, "plan", "-input=false", *_variables(options), out)


def terraform_apply(options: Options) -> Arguments:
    """Makes exactly the changes of the kept plan."""
    return _terraform(options, "apply", "-input=false", plan_file(options))


def terraform_output(options: Options) -> Arguments:
    """Prints every output as JSON."""
    return _terraform(options, "output", "-json")


def terraform_state_list(options: Options) -> Arguments:
    """Prints the addresses in the state."""
    return _terraform(options, "state", "list")


def terraform_forget(options: Options, addresses: list[str]) -> Arguments:
    """Takes resources out of the state and leaves them standing."""
    return _terraform(options, "state", "rm", *addresses)


def terraform_destroy(options: Options) -> Arguments:
    """Destroys what the state holds; the operator has confirmed already."""
    return _terraform(options, "destroy", "-input=false", "-auto-approve", *_variables(options))


def docker_build(options: Options, target: str, image: str) -> Arguments:
    """Builds one target of the Dockerfile for the nodes' architecture."""
    given = [f"REVISION={image.rpartition(':')[2]}"]
    given += [] if options.base_digest is None else [f"BASE_DIGEST={options.base_digest}"]
    arguments = [word for argument in given for word in ("--build-arg", argument)]
    kind = ["--platform", "linux/amd64", "--target", target]
    return ["docker", "build", *kind, *arguments, "--tag", image, options.root]


def docker_login(registry: str) -> Arguments:
    """Logs in; the password comes by standard input."""
    return ["docker", "login", "--username", "AWS", "--password-stdin", registry]


def docker_push(image: str) -> Arguments:
    """Pushes one tag."""
    return ["docker", "push", image]


def git_commit(root: Path) -> Arguments:
    """Prints the commit's short name."""
    return ["git", "-C", root, "rev-parse", "--short=12", "HEAD"]


def git_changes(root: Path) -> Arguments:
    """Prints changed and untracked files; nothing where the checkout is clean."""
    return ["git", "-C", root, "status", "--porcelain"]


def kubeconfig(options: Options) -> Arguments:
    """Adds the cluster to the kubeconfig as a context of its name, and makes that current."""
    name = ["--name", options.cluster, "--alias", options.cluster]
    return ["aws", "eks", "update-kubeconfig", *name, "--region", options.resolved_region]
