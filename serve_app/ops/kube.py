"""What the ops commands ask of a Kubernetes cluster, through the official client.

It changes one thing, our namespace: made and labelled before a release, deleted at the very end.

RayService status as KubeRay 1.7 writes it (`ray.io/v1`) is read here and nowhere else.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import urllib3
from kubernetes import client, config
from kubernetes.client.exceptions import ApiException
from kubernetes.config.config_exception import ConfigException

from serve_app.ops.errors import OpsError
from serve_app.ops.release import KeysNeed, RedisNeed

CRD = "rayservices.ray.io"
_TIMEOUT = (10, 60)  # seconds to connect, to answer
_FOLLOW_S = 86_400.0  # a log may be silent that long; the client takes no "for ever"
_POLL_S = 5.0  # between two looks at a namespace that is going away
_EVENTS = 8


@dataclass(frozen=True, slots=True)
class ReplicaGroup:
    """One deployment of a Serve application; the application itself has no `deployment`."""

    application: str
    deployment: str
    status: str
    message: str


@dataclass(frozen=True, slots=True)
class PodState:
    """A pod and why it is not ready (empty when it is)."""

    name: str
    kind: str
    ready: bool
    reason: str


@dataclass(frozen=True, slots=True)
class EventLine:
    """A recent event about one of the release's objects."""

    when: datetime | None
    about: str
    reason: str
    message: str
    warning: bool


@dataclass(frozen=True, slots=True)
class ServiceState:
    """All there is to say about one release."""

    name: str
    exists: bool
    conditions: dict[str, tuple[str, str]] = field(default_factory=dict)
    current: bool = False
    suspend: bool = False
    endpoints: int = 0
    workers: tuple[int, int] = (0, 0)
    upgrading: bool = False
    groups: tuple[ReplicaGroup, ...] = ()
    pods: tuple[PodState, ...] = ()
    events: tuple[EventLine, ...] = ()

    def condition(self, name: str) -> bool:
        """Whether a condition is True."""
        return self.conditions.get(name, ("", ""))[0] == "True"

    @property
    def ready(self) -> bool:
        """Whether what was last asked for is what serves."""
        return (
            self.exists
            and self.current
            and not self.suspend
            and self.condition("Ready")
            and not self.upgrading
        )

    @property
    def stopped(self) -> bool:
        """Whether it was asked to stop and no pod of it is left."""
        return self.exists and self.current and self.suspend and not self.pods

    @property
    def summary(self) -> str:
        """One word and a number or two, for a line."""
        if not self.exists:
            return "not deployed"
        if self.suspend:
            return "stopped" if self.stopped else f"stopping, {len(self.pods)} pods left"
        if self.ready:
            return f"ready, {self.endpoints} endpoints"
        if self.upgrading:
            return (
                "upgrading; the earlier version answers" if self.condition("Ready") else "starting"
            )
        if not self.current:
            return "waiting for KubeRay"
        return "not ready"


class Kube:
    """One cluster, by its context in the kubeconfig."""

    def __init__(self, context: str, namespace: str) -> None:
        self.context, self.namespace = context, namespace
        try:
            # Named here: the client would read KUBECONFIG only once, when it is imported.
            file = os.environ.get("KUBECONFIG") or None
            api = config.new_client_from_config(config_file=file, context=context)
        except (ConfigException, OSError) as error:
            raise OpsError(
                f"no kubeconfig context {context!r} ({error}); `plainmed ops deploy` makes it, or "
                f"run aws eks update-kubeconfig --name {context} --alias {context}"
            ) from error
        api.configuration.retries = urllib3.Retry(total=2, backoff_factor=0.5)
        self.core = client.CoreV1Api(api)
        self.custom = client.CustomObjectsApi(api)
        self.discovery = client.DiscoveryV1Api(api)
        self.version = client.VersionApi(api)

    def _ask(self, call: Callable[..., Any], *given: Any, **more: Any) -> Any:
        """The answer, or None where the object does not exist."""
        try:
            return call(*given, **more, _request_timeout=_TIMEOUT)
        except ApiException as error:
            if error.status == 404:
                return None
            if error.status in (401, 403):
                raise OpsError(
                    f"cluster {self.context} refuses these credentials ({error.status} "
                    f"{error.reason}); add your role to admin_principal_arns in "
                    "account.auto.tfvars and run `plainmed ops apply`"
                ) from error
            raise OpsError(f"cluster {self.context}: {error.status} {error.reason}") from error
        except (urllib3.exceptions.HTTPError, ConfigException) as error:
            raise OpsError(
                f"cluster {self.context} cannot be reached ({type(error).__name__}); check your "
                "VPN, or add your address to public_access_cidrs in account.auto.tfvars and run "
                "`plainmed ops apply`"
            ) from error

    # --- questions ---------------------------------------------------------------------------

    def check_reachable(self) -> None:
        """Raises OpsError with the cause where the cluster does not answer."""
        self._ask(self.version.get_code)

    def crd_problem(self) -> str | None:
        """Why a RayService cannot be made here; None if it can."""
        # As plain JSON: typed, a definition this large takes seconds to read.
        found = self._ask(
            self.custom.get_cluster_custom_object,
            "apiextensions.k8s.io",
            "v1",
            "customresourcedefinitions",
            CRD,
        )
        if found is None:
            return (
                "the cluster has no RayService definition: KubeRay is not installed; run "
                "`plainmed ops deploy`, which installs it"
            )
        served = [v for v in found["spec"]["versions"] if v["name"] == "v1" and v["served"]]
        if not served:
            return "the cluster's RayService definition has no v1; upgrade KubeRay to 1.7.0"
        if "suspend" not in _spec_fields(served[0]):
            return (
                "the cluster's RayService definition is older than KubeRay 1.7 (no `suspend`), "
                "and Helm never upgrades definitions; docs/operations.md, Upgrading KubeRay, has "
                "the command"
            )
        return None

    def redis_problem(self, need: RedisNeed) -> str | None:
        """Why pods could not keep Ray's state in a Redis; None if they can, or none is needed.

        An address that is not a Service of the cluster is taken at its word: it may not be
        reachable from here.
        """
        host, _, port = need.address.rpartition(":")
        name, _, rest = host.partition(".")
        kubectl = f"kubectl --context {self.context} --namespace"
        if not rest or ".svc" in f".{rest}.":
            namespace = rest.partition(".")[0] if rest and rest != "svc" else self.namespace
            found = self._ask(self.core.read_namespaced_service, name, namespace)
            if found is None:
                return (
                    f"the profile keeps Ray's state in a Redis at {need.address}, and namespace "
                    f"{namespace} has no Service {name}; start a Redis there, or point the name at "
                    f"yours: {kubectl} {namespace} create service externalname {name} "
                    "--external-name HOST"
                )
            if found.spec.type != "ExternalName":
                ports = [str(item.port) for item in found.spec.ports or []]
                if port not in ports:
                    return f"Service {name} has no port {port}, but {', '.join(ports) or 'none'}"
                if not self._answered(name, namespace):
                    return (
                        f"Service {name} has no ready pod behind it; see {kubectl} {namespace} get "
                        f"endpointslices --selector kubernetes.io/service-name={name}"
                    )
        if not need.secret:
            return None
        if not self._holds(need.secret, need.key):
            return (
                f"namespace {self.namespace} has no secret {need.secret} with key {need.key}, the "
                f"password of the Redis at {need.address}; {kubectl} {self.namespace} create "
                f"secret generic {need.secret} --from-literal={need.key}=..."
            )
        return None

    def keys_problem(self, need: KeysNeed) -> str | None:
        """Why pods would find no API keys, and so not start; None if they would."""
        if self._holds(need.secret, need.key):
            return None
        kubectl = f"kubectl --context {self.context} --namespace {self.namespace}"
        return (
            f"namespace {self.namespace} has no secret {need.secret} with key {need.key}, the API "
            f"keys of the callers; plainmed keys new {need.key} --name WHOSE && {kubectl} create "
            f"secret generic {need.secret} --from-file={need.key}"
        )

    def _holds(self, secret: str, key: str) -> bool:
        found = self._ask(self.core.read_namespaced_secret, secret, self.namespace)
        return found is not None and key in (found.data or {})

    def _answered(self, service: str, namespace: str) -> bool:
        """Whether a ready pod is behind a Service."""
        found = self._ask(
            self.discovery.list_namespaced_endpoint_slice,
            namespace,
            label_selector=f"kubernetes.io/service-name={service}",
        )
        slices = found.items if found else []
        # No word on readiness means ready, says the API.
        return any(
            endpoint.conditions is None or endpoint.conditions.ready is not False
            for item in slices
            for endpoint in item.endpoints or []
        )

    def state(self, name: str) -> ServiceState:
        """The state of a release's RayService, with pods and recent events."""
        found = self._ask(
            self.custom.get_namespaced_custom_object,
            "ray.io",
            "v1",
            self.namespace,
            "rayservices",
            name,
        )
        pods = tuple(map(_pod, self._pods(name)))
        if found is None:
            return ServiceState(name=name, exists=False, pods=pods)
        spec, status = found["spec"], found.get("status") or {}
        active = status.get("activeServiceStatus") or {}
        pending = status.get("pendingServiceStatus") or {}
        conditions = {
            item["type"]: (item["status"], item.get("message") or item.get("reason") or "")
            for item in status.get("conditions") or []
        }
        cluster = active.get("rayClusterStatus") or {}
        return ServiceState(
            name=name,
            exists=True,
            conditions=conditions,
            current=(status.get("observedGeneration") or 0) >= found["metadata"]["generation"],
            suspend=bool(spec.get("suspend")),
            endpoints=int(status.get("numServeEndpoints") or 0),
            workers=(
                int(cluster.get("readyWorkerReplicas") or 0),
                int(cluster.get("desiredWorkerReplicas") or 0),
            ),
            upgrading=bool(pending.get("rayClusterName"))
            or conditions.get("UpgradeInProgress", ("", ""))[0] == "True",
            groups=_groups(active) + _groups(pending, suffix=" (next)"),
            pods=pods,
            events=self._events(name),
        )

    def _pods(self, release: str) -> list[Any]:
        found = self._ask(
            self.core.list_namespaced_pod,
            self.namespace,
            label_selector=f"app.kubernetes.io/instance={release}",
        )
        return found.items if found else []

    def _events(self, name: str) -> tuple[EventLine, ...]:
        """The newest events about the release's objects, which all begin with its name."""
        found = self._ask(self.core.list_namespaced_event, self.namespace)
        lines = [
            EventLine(
                item.last_timestamp or item.event_time or item.metadata.creation_timestamp,
                f"{item.involved_object.kind}/{item.involved_object.name}",
                item.reason or "",
                (item.message or "").strip(),
                item.type == "Warning",
            )
            for item in (found.items if found else [])
            if (item.involved_object.name or "").startswith(name)
        ]
        lines.sort(key=lambda line: line.when.timestamp() if line.when else 0.0)
        return tuple(lines[-_EVENTS:])

    def endpoint(self, name: str) -> tuple[str, int] | None:
        """Host and port of a release's load balancer; the host is empty until AWS has made it."""
        found = self._ask(self.core.read_namespaced_service, name, self.namespace)
        if found is None:
            return None
        port = int(found.spec.ports[0].port)
        if found.spec.type != "LoadBalancer":
            return f"{name}.{self.namespace}.svc", port
        ingress = found.status.load_balancer.ingress or []
        return (ingress[0].hostname or ingress[0].ip or "", port) if ingress else ("", port)

    def logs(
        self, release: str, tail: int, follow: bool, previous: bool, write: Callable[[str], None]
    ) -> int:
        """Writes the last lines of every container of a release, each line with its pod before it.

        Args:
            release: its name.
            tail: lines of each container.
            follow: go on until interrupted; containers that start later are not followed.
            previous: of the containers before their last restart.
            write: takes a line; called from several threads, one at a time.

        Returns:
            How many containers there were.
        """
        streams = [
            (pod.metadata.name, container.name)
            for pod in self._pods(release)
            for container in pod.spec.containers
        ]
        lock = threading.Lock()

        def one(pod: str, container: str) -> None:
            for line in self._lines(pod, container, tail, follow, previous):
                with lock:
                    write(f"[{pod} {container}] {line}")

        if follow:
            threads = [threading.Thread(target=one, args=s, daemon=True) for s in streams]
            for thread in threads:
                thread.start()
            for thread in threads:
                while thread.is_alive():  # a join without limit would not see Ctrl-C
                    thread.join(0.5)
        else:
            for pod, container in streams:
                one(pod, container)
        return len(streams)

    def _lines(
        self, pod: str, container: str, tail: int, follow: bool, previous: bool
    ) -> Iterator[str]:
        try:
            answer = self.core.read_namespaced_pod_log(
                pod,
                self.namespace,
                container=container,
                tail_lines=tail,
                follow=follow,
                previous=previous,
                _preload_content=False,
                _request_timeout=(10, _FOLLOW_S) if follow else _TIMEOUT,
            )
            rest = b""
            for chunk in answer.stream(65536):
                *whole, rest = (rest + chunk).split(b"\n")
                yield from (line.decode("utf-8", "replace") for line in whole)
            if rest:
                yield rest.decode("utf-8", "replace")
        except ApiException as error:
            # A container that has not started has no log yet; the others do.
            yield f"(no log: {error.reason})"
        except urllib3.exceptions.HTTPError as error:
            yield f"(the log broke off: {type(error).__name__}; run the same command again)"

    # --- change ------------------------------------------------------------------------------

    def ensure_namespace(self, wanted: dict[str, Any]) -> str:
        """Makes our namespace, or gives it the labels it lacks.

        Args:
            wanted: the Namespace, as k8s/namespace.yaml has it.

        Returns:
            What was done: `made`, `labelled`, or nothing.
        """
        labels = wanted["metadata"]["labels"]
        found = self._ask(self.core.read_namespace, self.namespace)
        if found is None:
            self._ask(self.core.create_namespace, wanted)
            return "made"
        if labels.items() <= (found.metadata.labels or {}).items():
            return ""
        self._ask(self.core.patch_namespace, self.namespace, {"metadata": {"labels": labels}})
        return "labelled"

    def delete_namespace(self, timeout_s: float) -> None:
        """Deletes our namespace with its volumes, and waits until it is gone.

        Raises:
            OpsError: something in it does not go away.
        """
        until = time.monotonic() + timeout_s
        while self._ask(self.core.read_namespace, self.namespace) is not None:
            if time.monotonic() > until:
                raise OpsError(
                    f"namespace {self.namespace} is still there after {timeout_s:g} s; see what "
                    f"holds it: kubectl --context {self.context} describe namespace "
                    f"{self.namespace}; then run the same command again"
                )
            self._ask(self.core.delete_namespace, self.namespace)
            time.sleep(_POLL_S)


def _spec_fields(version: dict[str, Any]) -> set[str]:
    schema = (version.get("schema") or {}).get("openAPIV3Schema") or {}
    return set(((schema.get("properties") or {}).get("spec") or {}).get("properties") or {})


def _groups(status: dict[str, Any], suffix: str = "") -> tuple[ReplicaGroup, ...]:
    lines = []
    for name, application in (status.get("applicationStatuses") or {}).items():
        lines.append(
            ReplicaGroup(
                name + suffix,
                "",
                application.get("status") or "UNKNOWN",
                (application.get("message") or "").strip(),
            )
        )
        for deployment, item in (application.get("serveDeploymentStatuses") or {}).items():
            lines.append(
                ReplicaGroup(
                    name + suffix,
                    deployment,
                    item.get("status") or "UNKNOWN",
                    (item.get("message") or "").strip(),
                )
            )
    return tuple(lines)


def _pod(item: Any) -> PodState:
    labels = item.metadata.labels or {}
    kind = labels.get("ray.io/group") or labels.get("ray.io/node-type") or "pod"
    status = item.status
    ready = any(c.type == "Ready" and c.status == "True" for c in status.conditions or [])
    reason = ""
    if not ready:
        reason = status.reason or status.phase or "Unknown"
        for condition in status.conditions or []:
            if condition.type == "PodScheduled" and condition.status == "False":
                reason = f"{condition.reason}: {condition.message}"
        for container in (status.init_container_statuses or []) + (status.container_statuses or []):
            waiting = container.state.waiting if container.state else None
            ended = container.state.terminated if container.state else None
            if waiting is not None and waiting.reason:
                reason = f"{waiting.reason}: {waiting.message or container.image}"
            elif ended is not None and ended.exit_code:
                reason = f"{ended.reason or 'Error'}: {container.name} ended with {ended.exit_code}"
    return PodState(item.metadata.name, kind, ready, reason)
