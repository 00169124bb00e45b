"""A Ray cluster of several nodes on this machine with PlainMed on it, and its processes by name."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import httpx
import psutil
import yaml

from serve_app.cli.demo import free_port
from serve_app.serving.proxy.middleware import CALLBACK
from tests.chaos.load import Case, Load
from tests.support.paths import ROOT

DEPLOYMENTS = ("Gateway", "Loss", "Readability", "Relevance", "Factuality", "Generator")
Node = TypeVar("Node")
READY_S = 480.0


@dataclass
class Stage:
    """A running cluster; a deployment's replicas stand on different nodes, each with a proxy.

    Attributes:
        cluster: of `ray.cluster_utils`.
        client: Serve's.
        document: the Serve config as last deployed.
        url: of the proxies; all listen on one port, and the kernel gives each connection to one.
        folder: of Ray's sessions, caches and logs.
        s3_port: where replicas look for S3; nothing listens there but for a fault that needs it.
        nodes: those beside the head.
        known: requests with their answers.
        long: one that takes longer than Serve gives a replica by itself, where a fault needs it.
        load: what is on while a fault strikes.
        held: requests that waited in what was struck, as it was.
        drained: the longest time that each deployment was seen to have a replica that was told to
            stop and had work left.
    """

    cluster: Any
    client: Any
    document: dict[str, Any]
    url: str
    folder: Path
    s3_port: int
    nodes: list[Any] = field(default_factory=list)
    known: list[Case] = field(default_factory=list)
    long: Case | None = None
    load: Load | None = None
    held: int = 0
    drained: dict[str, float] = field(default_factory=dict)
    _stopping: dict[str, float] = field(default_factory=dict)

    def deploy(self) -> None:
        """Gives Serve `document` as it is now; replicas change as a rolling update."""
        from ray.serve.schema import ServeDeploySchema

        self.client.deploy_apps(ServeDeploySchema.model_validate(self.document))

    def settings(self) -> dict[str, Any]:
        """The application's settings in `document`, to be changed before `deploy`."""
        found: dict[str, Any] = self.document["applications"][0]["args"]["settings"]
        return found

    def deployment(self, name: str) -> dict[str, Any]:
        """A deployment's options in `document`."""
        for one in self.document["applications"][0]["deployments"]:
            if one["name"] == name:
                found: dict[str, Any] = one
                return found
        raise KeyError(name)

    def add_node(self) -> Any:
        """One more node."""
        return patient(lambda: self.cluster.add_node(**_node()))

    def replicas(self, deployment: str) -> list[int]:
        """Processes of a deployment's replicas."""
        return [one.pid for one in processes(f"ServeReplica:plainmed:{deployment}")]

    def replicas_on(self, node: Any) -> list[int]:
        """Processes of the replicas on a node."""
        raylet = psutil.Process(node.all_processes["raylet"][0].process.pid)
        every = raylet.children(recursive=True)
        return [one.pid for one in every if "ServeReplica:plainmed:" in _title(one)]

    def busiest(self) -> Any:
        """Of the nodes beside the head, the one with the most replicas."""
        return max(self.nodes, key=lambda node: len(self.replicas_on(node)))

    def fullest_gateway(self) -> int:
        """The process of the gateway that has most requests under way."""
        from ray import serve
        from ray._private.state import actors

        handle = serve.get_deployment_handle("Gateway", "plainmed")
        under_way: list[tuple[str, int]] = handle.broadcast("traffic").results(timeout_s=5)
        replica, _ = max(under_way, key=lambda one: one[1])
        [pid] = [
            one["Pid"]
            for one in actors().values()
            if one["Name"].endswith(f"Gateway#{replica}") and one["State"] == "ALIVE"
        ]
        return int(pid)

    def asked_again(self) -> int:
        """How often a proxy has asked again, since it was not answered."""
        logs = self.folder.glob("ray/session_*/logs/serve/proxy_*.log")
        return sum(log.read_text(encoding="utf-8").count("asking again") for log in logs)

    def missing(self) -> list[str]:
        """What does not run as wanted: replicas, proxies, a gateway that says that it is ready."""
        try:
            answer = httpx.get(f"{self.url}/readyz", timeout=10)
        except httpx.HTTPError as error:
            return [type(error).__name__]
        ready = [] if answer.status_code == 200 else [f"/readyz: {answer.text}"]
        return self.known_missing() + ready

    def known_missing(self) -> list[str]:
        """What of it Serve knows."""
        from ray import serve
        from ray.exceptions import RayError
        from ray.serve.exceptions import RayServeException

        try:
            status = serve.status()
            application = status.applications["plainmed"]
            self._see({name: one.replica_states for name, one in application.deployments.items()})
            found = [
                f"{name}: {one.status} {one.replica_states} {one.message}"
                for name, one in application.deployments.items()
                if one.status != "HEALTHY"
                or one.replica_states != {"RUNNING": self.deployment(name)["num_replicas"]}
            ]
            found += [f"proxy: {one}" for one in status.proxies.values() if one != "HEALTHY"]
            if application.status != "RUNNING":
                found.append(f"application: {application.status} {application.message}")
            return found
        except (KeyError, RayError, RayServeException) as error:
            return [type(error).__name__]

    def _see(self, states: Mapping[str, Mapping[Any, int]]) -> None:
        """Keeps how long deployments have had a replica that stops."""
        now = time.monotonic()
        for name, counted in states.items():
            if "STOPPING" in counted:
                began = self._stopping.setdefault(name, now)
                self.drained[name] = max(self.drained.get(name, 0.0), now - began)
            else:
                self._stopping.pop(name, None)

    def whole(self) -> bool:
        """Whether nothing is missing."""
        return not self.missing()

    def wait_noticed(self, timeout_s: float = 40.0) -> None:
        """Returns once Serve knows that something is missing, or after `timeout_s`."""
        deadline = time.monotonic() + timeout_s
        while not self.known_missing() and time.monotonic() < deadline:
            time.sleep(0.1)

    def wait_whole(self, timeout_s: float = READY_S) -> None:
        """Returns once everything runs as wanted and answers.

        Raises:
            TimeoutError: it does not come back.
        """
        deadline = time.monotonic() + timeout_s
        while missing := self.missing():
            if time.monotonic() > deadline:
                raise TimeoutError(f"not whole after {timeout_s:.0f} s: {'; '.join(missing)}")
            time.sleep(0.25)


def processes(title: str) -> list[psutil.Process]:
    """Live processes of this Ray, and of no other on the machine, whose title has `title` in it."""
    own = psutil.Process().children(recursive=True)
    return [one for one in own if title in _title(one)]


def _title(process: psutil.Process) -> str:
    """A process's title, where Ray has given it one."""
    try:
        line = " ".join(process.cmdline())
    except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
        return ""
    return line if line.startswith("ray::") else ""


def _node() -> dict[str, Any]:
    """Options of a node. Its agents' ports are given: Ray else waits 15 s for the agents to tell
    them, which are few on a busy machine."""
    ports = ("metrics_agent", "runtime_env_agent", "metrics_export", "dashboard_agent_listen")
    chosen = {f"{name}_port": free_port() for name in ports}
    return {"num_cpus": 2, "object_store_memory": 100 * 2**20, **chosen}


def _head() -> Any:
    """A cluster of one node."""
    from ray.cluster_utils import Cluster

    return Cluster(initialize_head=True, head_node_args={**_node(), "include_dashboard": False})


def patient(start: Callable[[], Node]) -> Node:
    """`start()`, up to three times: Ray gives a node 30 s, which are few on a busy machine."""
    for left in (2, 1, 0):
        before = {one.pid for one in psutil.Process().children(recursive=True)}
        try:
            return start()
        except Exception as error:  # of no other kind: Ray raises just this
            if left == 0 or "timed out during startup" not in str(error):
                raise
            for one in psutil.Process().children(recursive=True):
                if one.pid not in before:
                    one.kill()
    raise AssertionError("the loop returns or raises")


@contextmanager
def stage(nodes: int = 3, replicas: int = 2, **settings: Any) -> Iterator[Stage]:
    """PlainMed on `nodes` nodes, `replicas` of each deployment on different ones.

    Args:
        nodes: how many, the head among them; each has a proxy.
        replicas: of every deployment.
        settings: of the application.
    """
    folder = Path(tempfile.mkdtemp(prefix="chaos-", dir="/tmp"))
    # A folder of its own: another Ray on this machine must neither join nor be joined.
    os.environ["RAY_TMPDIR"] = str(folder)
    os.environ["CACHE_DIR"] = str(folder / "cache")
    s3_port = free_port()
    os.environ |= {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{s3_port}",
        "AWS_ACCESS_KEY_ID": "chaos",
        "AWS_SECRET_ACCESS_KEY": "chaos",
        "AWS_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    os.environ.setdefault("RAY_agent_register_timeout_ms", "120000")
    os.environ.setdefault(*CALLBACK)  # as `plainmed serve` and the images have it
    import ray
    from ray import serve
    from ray.serve._private.api import serve_start
    from ray.serve.schema import ServeDeploySchema

    document = yaml.safe_load((ROOT / "serve_config.yaml").read_text(encoding="utf-8"))
    application = document["applications"][0]
    application["import_path"] = "tests.chaos.poisoned:build"
    application["args"] = {"settings": dict(settings)}
    document["proxy_location"] = "EveryNode"
    application["deployments"] = [
        {
            "name": name,
            "num_replicas": replicas,
            "max_replicas_per_node": 1,
            "health_check_period_s": 2,
            "health_check_timeout_s": 10,
            "ray_actor_options": {"num_cpus": 0.1},
        }
        for name in DEPLOYMENTS
    ]
    application["deployments"][0]["user_config"] = {"draining": False}
    document["http_options"]["port"] = free_port()
    cluster = patient(_head)
    try:
        others = [patient(lambda: cluster.add_node(**_node())) for _ in range(nodes - 1)]
        ray.init(cluster.address, namespace="serve", log_to_driver=False)
        config = ServeDeploySchema.model_validate(document)
        client = serve_start(
            http_options=config.http_options.model_dump(),
            proxy_location=config.proxy_location,
            global_logging_config=config.logging_config,
        )
        url = f"http://127.0.0.1:{document['http_options']['port']}"
        running = Stage(cluster, client, document, url, folder, s3_port, others)
        running.deploy()
        running.wait_whole()
        yield running
    finally:
        serve.shutdown()
        ray.shutdown()
        cluster.shutdown()
        shutil.rmtree(folder, ignore_errors=True)
