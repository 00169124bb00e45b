"""A tiny application, and what two configurations of it do to its one replica on a real Serve.

Prints one JSON line: which replica answered after each configuration, and whether anybody did while
a changed setting was loading. Run alone, by test_settings_in_place.py: it starts a Ray of its own.
"""

from __future__ import annotations

import json
import os
import time
from typing import Any

from ray import serve

LOAD_S = 4.0


@serve.deployment
class Writer:
    def __init__(self, load_s: float) -> None:
        time.sleep(load_s)  # as a model that is loaded
        self.pid = os.getpid()

    def reconfigure(self, config: dict[str, Any]) -> None:
        """Takes any."""

    def __call__(self) -> int:
        return self.pid


def build(args: dict[str, Any]) -> serve.Application:
    return Writer.bind(args["load_s"])


def config(load_s: float, **fields: Any) -> dict[str, Any]:
    application = {
        "name": "plainmed",
        "route_prefix": "/",
        "import_path": "tests.serving.live.settings_in_place:build",
        "args": {"load_s": load_s},
        "deployments": [{"name": "Writer", "ray_actor_options": {"num_cpus": 0.1}, **fields}],
    }
    return {"proxy_location": "Disabled", "applications": [application]}


def main() -> None:
    import ray
    from ray.serve.context import _get_global_client
    from ray.serve.schema import ServeDeploySchema

    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    serve.start(proxy_location="Disabled")
    client = _get_global_client()

    def apply(document: dict[str, Any]) -> None:
        client.deploy_apps(ServeDeploySchema.model_validate(document))

    def status() -> str:
        found = serve.status().applications.get("plainmed")
        return "NONE" if found is None else str(found.status.value)

    def running() -> int:
        until = time.monotonic() + 120
        time.sleep(2)  # the controller's next rounds
        while status() != "RUNNING":
            assert time.monotonic() < until, serve.status()
            time.sleep(0.2)
        return int(serve.get_app_handle("plainmed").remote().result(timeout_s=60))

    apply(config(0.0))
    found: dict[str, Any] = {"first": running()}
    apply(config(0.0, max_ongoing_requests=9, user_config={"a": 1}, health_check_period_s=7))
    found["in place"] = running()
    handle = serve.get_app_handle("plainmed")
    apply(config(LOAD_S))
    waited, pid, until = 0, found["first"], time.monotonic() + 120
    while pid == found["first"] and time.monotonic() < until:
        try:
            pid = int(handle.remote().result(timeout_s=0.5))
        except TimeoutError:
            waited += 1
    found |= {"waited": waited, "changed": pid}
    print(json.dumps(found))
    serve.shutdown()
    ray.shutdown()


if __name__ == "__main__":
    main()
