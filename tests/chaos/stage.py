"""A Ray cluster of several nodes on this machine with PlainMed on it, and its processes by name."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil
import yaml

from tests.serve.conftest import free_port

ROOT = Path(__file__).resolve().parents[2]
METRICS = ("Gateway", "Loss", "Readability", "Relevance", "Factuality")
STORE = 100 * 2**20
READY_S = 300.0


@dataclass
class Stage:
    """A running cluster; replicas of each deployment stand on different nodes."""

    cluster: Any
    client: Any
    document: dict[str, Any]
    url: str
    nodes: list[Any] = field(default_factory=list)

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

    def details(self) -> Any:
        """What the controller knows of the application."""
        from ray import serve

        return serve.status().applications["plainmed"]

    def replicas(self, deployment: str) -> list[int]:
        """Processes of a deployment's replicas."""
        return [one.pid for one in processes(f"ServeReplica:plainmed:{deployment}")]

    def wait_whole(self, timeout_s: float = READY_S) -> float:
        """Seconds until everything runs as wanted and answers.

        Raises:
            TimeoutError: it does not come back.
        """
        start = time.monotonic()
        while time.monotonic() - start < timeout_s:
            try:
                application = self.details()
                whole = application.status == "RUNNING" and all(
                    one.status == "HEALTHY" for one in application.deployments.values()
                )
                if whole and httpx.get(f"{self.url}/healthz", timeout=10).status_code == 200:
                    return time.monotonic() - start
            except (httpx.HTTPError, KeyError):
                pass
            time.sleep(0.25)
        raise TimeoutError(f"not whole again after {timeout_s:.0f} s")


def processes(title: str) -> list[psutil.Process]:
    """Live processes of Ray whose title has `title` in it."""
    found = []
    for process in psutil.process_iter():
        try:
            line = " ".join(process.cmdline())
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
        if line.startswith("ray::") and title in line:
            found.append(process)
    return found


@contextmanager
def stage(nodes: int = 3, replicas: int = 2, **settings: Any) -> Iterator[Stage]:
    """PlainMed's metrics on `nodes` nodes, `replicas` of each deployment on different ones.

    Args:
        nodes: how many, the head among them; the proxy is on the head.
        replicas: of every deployment.
        settings: of the application.
    """
    folder = tempfile.mkdtemp(prefix="chaos-", dir="/tmp")
    # A folder of its own: another Ray on this machine must neither join nor be joined.
    os.environ["RAY_TMPDIR"] = folder
    os.environ.setdefault("RAY_agent_register_timeout_ms", "120000")
    import ray
    from ray import serve
    from ray.cluster_utils import Cluster
    from ray.serve._private.api import serve_start
    from ray.serve.schema import ServeDeploySchema

    document = yaml.safe_load((ROOT / "serve_config.yaml").read_text(encoding="utf-8"))
    application = document["applications"][0]
    application["args"] = {"services": ["metrics"], "settings": dict(settings)}
    application["deployments"] = [
        {
            "name": name,
            "num_replicas": replicas,
            "max_replicas_per_node": 1,
            "health_check_period_s": 2,
            "health_check_timeout_s": 10,
            "ray_actor_options": {"num_cpus": 0.1},
        }
        for name in METRICS
    ]
    application["deployments"][0]["user_config"] = {"draining": False}
    document["http_options"]["port"] = free_port()
    options = {"num_cpus": 2, "object_store_memory": STORE}
    cluster = Cluster(initialize_head=True, head_node_args={**options, "include_dashboard": False})
    try:
        others = [cluster.add_node(**options) for _ in range(nodes - 1)]
        ray.init(cluster.address, namespace="serve", log_to_driver=False)
        config = ServeDeploySchema.model_validate(document)
        client = serve_start(
            http_options=config.http_options.model_dump(),
            proxy_location=config.proxy_location,
            global_logging_config=config.logging_config,
        )
        url = f"http://127.0.0.1:{document['http_options']['port']}"
        running = Stage(cluster, client, document, url, others)
        running.deploy()
        running.wait_whole()
        yield running
    finally:
        serve.shutdown()
        ray.shutdown()
        cluster.shutdown()
