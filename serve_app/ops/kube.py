"""What the ops commands ask of a Kubernetes cluster, through the official client.

It changes our namespace (made and labelled before a release, deleted at the very end) and, of a
RayService, the record of revisions that served and a cluster under construction that is not needed.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import urllib3
from kubernetes import client, config
from kubernetes.client.exceptions import ApiException
from kubernetes.config.config_exception import ConfigException

from serve_app.ops.errors import OpsError
from serve_app.ops.release import Needs, SecretKey
from serve_app.ops.state import READY_REVISIONS, ServiceState, cluster_names, service_state

_TIMEOUT = (10, 60)  # seconds to connect, to answer
_FOLLOW_S = 86_400.0  # the longest silence of a followed log; the client cannot wait for ever
_POLL_S = 5.0  # between two looks at a namespace that is going away


class Kube:
    """One cluster, by its context in the kubeconfig."""

    def __init__(self, context: str, namespace: str) -> None:
        self.context, self.namespace = context, namespace
        self._kubectl = f"kubectl --context {context} --namespace"
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

    def _items(self, call: Callable[..., Any], *given: Any, **more: Any) -> list[Any]:
        found = self._ask(call, *given, **more)
        return found.items if found else []

    def check_reachable(self) -> None:
        """Raises OpsError with the cause where the cluster does not answer."""
        self._ask(self.version.get_code)

    def crd_problem(self) -> str | None:
        """Why a RayService cannot be made here; None if it can."""
        # As plain JSON: typed, a definition this large takes seconds to read.
        found = self._ask(
            self.custom.get_cluster_custom_object,
            *("apiextensions.k8s.io", "v1", "customresourcedefinitions", "rayservices.ray.io"),
        )
        if found is None:
            return (
                "the cluster has no RayService definition: KubeRay is not installed; run "
                "`plainmed ops deploy`, which installs it"
            )
        served = [v for v in found["spec"]["versions"] if v["name"] == "v1" and v["served"]]
        if not served:
            return "the cluster's RayService definition has no v1; upgrade KubeRay to 1.7.0"
        fields: Any = served[0]
        for key in ("schema", "openAPIV3Schema", "properties", "spec", "properties"):
            fields = fields.get(key) or {}
        if "suspend" not in fields:
            return (
                "the cluster's RayService definition is older than KubeRay 1.7 (no `suspend`), "
                "and Helm never upgrades definitions; docs/operations.md, Upgrading KubeRay, has "
                "the command"
            )
        return None

    def problems(self, need: Needs) -> list[str]:
        """Why pods would wait in vain for API keys or for Redis; empty if they would not."""
        found = [self._keys_problem(need.api_keys)]
        if need.redis is not None:
            found.append(
                self._redis_problem(need.redis)
                or self._password_problem(need.redis, need.redis_password)
            )
        return list(filter(None, found))

    def _redis_problem(self, address: str) -> str | None:
        """An address outside the cluster passes: it need not be reachable from here."""
        host, _, port = address.rpartition(":")
        name, _, rest = host.partition(".")
        if rest and ".svc" not in f".{rest}.":
            return None
        namespace = rest.partition(".")[0] if rest and rest != "svc" else self.namespace
        found = self._ask(self.core.read_namespaced_service, name, namespace)
        if found is None:
            return (
                f"the profile keeps Ray's state in a Redis at {address}, and namespace {namespace} "
                f"has no Service {name}; start a Redis there, or point the name at yours: "
                f"{self._kubectl} {namespace} create service externalname {name} "
                "--external-name HOST"
            )
        if found.spec.type == "ExternalName":
            return None
        ports = [str(item.port) for item in found.spec.ports or []]
        if port not in ports:
            return f"Service {name} has no port {port}, but {', '.join(ports) or 'none'}"
        if not self._has_ready_pod(name, namespace):
            return (
                f"Service {name} has no ready pod behind it; see {self._kubectl} {namespace} get "
                f"endpointslices --selector kubernetes.io/service-name={name}"
            )
        return None

    def _password_problem(self, address: str, password: SecretKey | None) -> str | None:
        if password is None or self._holds(password):
            return None
        return (
            f"namespace {self.namespace} has no secret {password.secret} with key {password.key}, "
            f"the password of the Redis at {address}; {self._kubectl} {self.namespace} create "
            f"secret generic {password.secret} --from-literal={password.key}=..."
        )

    def _keys_problem(self, keys: SecretKey) -> str | None:
        if self._holds(keys):
            return None
        return (
            f"namespace {self.namespace} has no secret {keys.secret} with key {keys.key}, the API "
            f"keys of the callers; plainmed keys new {keys.key} --name WHOSE && {self._kubectl} "
            f"{self.namespace} create secret generic {keys.secret} --from-file={keys.key}"
        )

    def _holds(self, wanted: SecretKey) -> bool:
        found = self._ask(self.core.read_namespaced_secret, wanted.secret, self.namespace)
        return found is not None and wanted.key in (found.data or {})

    def _has_ready_pod(self, service: str, namespace: str) -> bool:
        slices = self._items(
            self.discovery.list_namespaced_endpoint_slice,
            namespace,
            label_selector=f"kubernetes.io/service-name={service}",
        )
        # The API defines an absent condition as ready.
        return any(
            endpoint.conditions is None or endpoint.conditions.ready is not False
            for item in slices
            for endpoint in item.endpoints or []
        )

    def state(self, name: str) -> ServiceState:
        """The state of a release's RayService, with pods and recent events."""
        found = self._custom("rayservices", name)
        clusters = {
            cluster: self._custom("rayclusters", cluster) for cluster in cluster_names(found)
        }
        events = self._items(self.core.list_namespaced_event, self.namespace)
        return service_state(name, found, clusters, self._pods(name), events)

    def _custom(self, plural: str, name: str) -> Any:
        where = ("ray.io", "v1", self.namespace, plural, name)
        return self._ask(self.custom.get_namespaced_custom_object, *where)

    def record_ready(self, state: ServiceState) -> None:
        """Notes on the RayService that its present revision served, as the newest of all."""
        where = ("ray.io", "v1", self.namespace, "rayservices", state.name)
        text = {READY_REVISIONS: ",".join(state.recorded())}
        body = {"metadata": {"annotations": text}}
        self._ask(self.custom.patch_namespaced_custom_object, *where, body)

    def drop_pending(self, name: str) -> None:
        """Takes the cluster under construction out of a RayService's status.

        KubeRay then compares the specification with the active cluster again, and deletes the
        other. For where both are equal (`ServiceState.redundant`): otherwise it starts anew.
        """
        where = ("ray.io", "v1", self.namespace, "rayservices", name)
        body = {"status": {"pendingServiceStatus": None}}
        self._ask(self.custom.patch_namespaced_custom_object_status, *where, body)

    def _pods(self, release: str) -> list[Any]:
        selector = f"app.kubernetes.io/instance={release}"
        return self._items(self.core.list_namespaced_pod, self.namespace, label_selector=selector)

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

        def copy(pod: str, container: str) -> None:
            for line in self._lines(pod, container, tail, follow, previous):
                with lock:
                    write(f"[{pod} {container}] {line}")

        if not follow:
            for stream in streams:
                copy(*stream)
            return len(streams)
        threads = [threading.Thread(target=copy, args=s, daemon=True) for s in streams]
        for thread in threads:
            thread.start()
        for thread in threads:
            while thread.is_alive():  # an unlimited join would not see Ctrl-C
                thread.join(0.5)
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
