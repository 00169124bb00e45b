"""`plainmed serve`: runs the application on this machine and stops it without dropping requests.

The same declarative deploy as `serve run serve_config.yaml`, with one difference: at SIGTERM or
SIGINT the gateways are told to drain, and Ray stops only once what was accepted is answered.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from serve_app.api.auth.host_gate import check_exposure, listened_on
from serve_app.core.documents import read_yaml
from serve_app.core.errors import ConfigError
from serve_app.core.settings import Settings, load_settings
from serve_app.serving.proxy.middleware import CALLBACK

APP_NAME = "plainmed"
START_TIMEOUT_S = 600.0
TELL_TIMEOUT_S = 10.0
_POLL_S = 0.25

logger = logging.getLogger("plainmed")


def load_document(
    config_path: Path | None,
    *,
    host: str | None = None,
    port: int | None = None,
    services: list[str] | None = None,
) -> dict[str, Any]:
    """The Serve config to deploy: the file's, or the built-in graph, with the overrides in it.

    The address comes from the arguments, else HOST and PORT, else the file.

    Raises:
        ConfigError: the file cannot be read or does not hold a Serve config with one application,
            or others could reach the address and there are no API keys.
    """
    document: dict[str, Any] = {"applications": [{"import_path": "serve_app.app:build"}]}
    if config_path is not None:
        try:
            document = read_yaml(config_path)
        except (OSError, ValueError) as error:
            raise ConfigError(f"cannot read {config_path}: {error}") from error
    applications = document.get("applications") if isinstance(document, dict) else None
    if not isinstance(applications, list) or len(applications) != 1:
        raise ConfigError(f"{config_path} must list exactly one application")
    application = _mapping(applications[0], "its application")
    application["name"] = APP_NAME
    application.setdefault("route_prefix", "/")
    arguments = _mapping(application.setdefault("args", {}), "args")
    if services:
        arguments["services"] = services
    settings = load_settings(**_mapping(arguments.get("settings", {}), "settings"))
    http = _mapping(document.setdefault("http_options", {}), "http_options")
    if not isinstance(http.get("host", ""), str):  # YAML may read a name as a number
        raise ConfigError("the Serve config: http_options.host must be text; put it in quotes")
    _address(http, settings, host, port)
    check_exposure(settings, _listened(http))
    # Drain has to tell the gateways, and Serve tells replicas of a change by user_config.
    _gateway(application)["user_config"] = {"draining": False}
    return document


def _mapping(value: Any, name: str) -> dict[str, Any]:
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        raise ConfigError(f"the Serve config: {name} must be a mapping of names to values")
    return value


def _listened(http: dict[str, Any]) -> str:
    return listened_on(str(http["host"]))


def _keep_ray_on_loopback() -> None:
    """Ray's own ports, which it would otherwise open on every address of the machine.

    Off is what Ray has on macOS and Windows: nodes of one machine only. Where the API listens is
    another matter: Serve's proxy takes the address of the Serve config. Before Ray is imported.
    """
    os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")


def _keep_memory_together() -> None:
    """Lets threads of a process share two heaps of glibc's, instead of having up to eight a core.

    Each heap keeps what its threads once needed at the same time, so with forty threads a process
    grows for hours until all of them have seen the worst: docs/reliability.md has it measured.
    Processes read this when they start, so it holds for those that Ray starts from here on.
    """
    os.environ.setdefault("MALLOC_ARENA_MAX", "2")


def _address(http: dict[str, Any], settings: Settings, host: str | None, port: int | None) -> None:
    for key, given, default in (("host", host, settings.host), ("port", port, settings.port)):
        if given is not None:
            http[key] = given
        elif key.upper() in os.environ or key not in http:
            http[key] = default


def _gateway(application: dict[str, Any]) -> dict[str, Any]:
    """The Gateway's entry among the application's deployments, added if absent."""
    deployments = application.setdefault("deployments", [])
    if not isinstance(deployments, list):
        raise ConfigError("the Serve config: deployments must be a list")
    for deployment in deployments:
        if _mapping(deployment, "each of deployments").get("name") == "Gateway":
            return deployment
    deployments.append({"name": "Gateway"})
    return deployments[-1]


def serve(
    config_path: Path | None = None,
    host: str | None = None,
    port: int | None = None,
    services: list[str] | None = None,
) -> int:
    """Serves until SIGTERM or SIGINT, then drains; returns the exit status.

    Raises:
        ConfigError: the config or a setting is wrong.
    """
    document = load_document(config_path, host=host, port=port, services=services)
    # A cluster of its own unless one is named: another Ray that happens to run on this machine
    # must neither be joined nor, at the end, have its applications shut down.
    address = os.environ.get("RAY_ADDRESS", "local")
    if address == "local":
        _keep_ray_on_loopback()
    _keep_memory_together()
    os.environ.setdefault(*CALLBACK)  # for the proxies of a Ray that is started here

    import ray  # here, so that a bad config is reported at once
    from ray import serve as ray_serve
    from ray.serve._private.api import serve_start
    from ray.serve.schema import ServeDeploySchema

    try:
        config = ServeDeploySchema.model_validate(document)
    except ValidationError as error:
        raise ConfigError(f"{config_path} is not a Serve config: {error}") from None

    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    # The driver's own handler would end the process in the middle of the drain.
    ray.init(address, namespace="serve", log_to_driver=False, configure_logging=True)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    try:
        client = serve_start(
            http_options=config.http_options.model_dump(),
            proxy_location=config.proxy_location,
            global_logging_config=config.logging_config,
        )
        client.deploy_apps(config)
        failure = _wait_until_running(stop)
        if failure:
            print(f"error: {failure}", file=sys.stderr)
            return 1
        if not stop.is_set():
            address = (
                f"http://{document['http_options']['host']}:{document['http_options']['port']}"
            )
            print(f"PlainMed is serving on {address} (API at {address}/docs)", flush=True)
        stop.wait()
        print("draining ...", flush=True)
        _gateway(document["applications"][0])["user_config"] = {"draining": True}
        client.deploy_apps(ServeDeploySchema.model_validate(document))
        _wait_until_told()
        settings = load_settings(**document["applications"][0]["args"].get("settings", {}))
        _wait_until_drained(settings.drain_timeout_s)
        return 0
    finally:
        ray_serve.shutdown()
        ray.shutdown()


def _application() -> Any:
    from ray import serve as ray_serve

    applications = list(ray_serve.status().applications.values())
    return applications[0] if applications else None


def _wait_until_running(stop: threading.Event) -> str | None:
    """None once every deployment is healthy (or a stop was asked for), else what failed."""
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline and not stop.is_set():
        application = _application()
        if application is not None:
            if application.status == "RUNNING":
                return None
            if application.status == "DEPLOY_FAILED":
                parts = [application.message]
                parts += [d.message for d in application.deployments.values() if d.message]
                return "the application failed to start\n" + "\n".join(parts)
        stop.wait(_POLL_S)
    return None if stop.is_set() else f"not ready after {START_TIMEOUT_S:.0f} s"


def _wait_until_told() -> None:
    """Returns once Serve has given every gateway replica its new `user_config`."""
    started = time.monotonic()
    changing = False
    while time.monotonic() - started < TELL_TIMEOUT_S:
        application = _application()
        healthy = application is not None and application.deployments["Gateway"].status == "HEALTHY"
        # The change may have begun and ended between two looks, hence the second condition.
        if healthy and (changing or time.monotonic() - started > 1.0):
            return
        changing = changing or not healthy
        time.sleep(0.05)


def _wait_until_drained(timeout_s: float) -> None:
    """Returns once every gateway replica refuses new requests and has none under way."""
    from ray import serve as ray_serve

    application = _application()
    gateways = application.deployments["Gateway"].replica_states.get("RUNNING", 0)
    handle = ray_serve.get_app_handle(APP_NAME)
    idle: set[str] = set()
    deadline = time.monotonic() + timeout_s
    while len(idle) < gateways:
        if time.monotonic() > deadline:
            print("error: requests were still under way at shutdown", file=sys.stderr)
            return
        # Serve routes each call to some replica, so ask until all have been seen idle.
        replica, in_flight = handle.traffic.remote().result(timeout_s=timeout_s)
        if in_flight == 0:
            idle.add(replica)
        else:
            time.sleep(_POLL_S)
