"""`plainmed serve`: runs the application on this machine and stops it without dropping requests.

The same declarative deploy as `serve run serve_config.yaml`, except that at SIGTERM or SIGINT the
gateways drain first, and Ray stops only once every accepted request is answered.
"""

from __future__ import annotations

import getpass
import os
import signal
import sys
import textwrap
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from serve_app.api.auth.exposure import check_exposure, listened_on
from serve_app.core.documents import read_yaml
from serve_app.core.errors import ConfigError
from serve_app.core.printable import printable
from serve_app.core.ray_folder import ray_folder
from serve_app.core.settings import load_settings
from serve_app.serving.graph import DEPLOYMENTS, IMPORT_PATH, built, least_resources
from serve_app.serving.machine import fitting_cpus, reserved
from serve_app.serving.proxy.middleware import CALLBACK

APP_NAME = "plainmed"
START_TIMEOUT_S = 600.0
TELL_TIMEOUT_S = 10.0
STOP_S = 60.0
"""What stopping takes beside the drain: telling the gateways, and ending Ray."""
CAUSE_CHARS = 400
"""Most of a failure's message that is printed."""
_POLL_S = 0.25


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
        ConfigError: the file cannot be read or is no Serve config with one application, or others
            could reach the address and there are no API keys.
    """
    document: dict[str, Any] = {"applications": [{"import_path": IMPORT_PATH}]}
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
    for key, given, default in (("host", host, settings.host), ("port", port, settings.port)):
        if given is not None:
            http[key] = given
        elif key.upper() in os.environ or key not in http:
            http[key] = default
    if not isinstance(http["port"], int):
        raise ConfigError("the Serve config: http_options.port must be a number")
    check_exposure(settings, listened_on(http["host"]))
    # Set now, since the drain tells the gateways by changing it.
    _gateway(application)["user_config"] = {"draining": False}
    if application.get("import_path") == IMPORT_PATH:
        # Serve refuses options of deployments that are not built.
        unbuilt = DEPLOYMENTS.keys() - built(application)
        deployments = application["deployments"]
        application["deployments"] = [one for one in deployments if one.get("name") not in unbuilt]
    return document


def _mapping(value: Any, name: str) -> dict[str, Any]:
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        raise ConfigError(f"the Serve config: {name} must be a mapping of names to values")
    return value


def _gateway(application: dict[str, Any]) -> dict[str, Any]:
    """The Gateway's entry among the application's deployments, added if absent."""
    deployments = application.setdefault("deployments", [])
    if not isinstance(deployments, list):
        raise ConfigError("the Serve config: deployments must be a list")
    entries = [_mapping(one, "each of deployments") for one in deployments]
    for entry in entries:
        if entry.get("name") == "Gateway":
            return entry
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
    # A cluster of its own unless one is named: another Ray on this machine must neither be joined
    # nor, at the end, lose its applications.
    address = os.environ.get("RAY_ADDRESS", "local")
    if address != "local":
        return _serve(document, address)
    http = document["http_options"]
    with reserved(listened_on(http["host"]), http["port"]):
        return _serve(document, address)


def _serve(document: dict[str, Any], address: str) -> int:
    own_ray = address == "local"
    _prepare_environment(own_ray)

    import ray  # here, so that a bad config is reported at once
    from ray import serve as ray_serve
    from ray.serve._private.api import serve_start
    from ray.serve.schema import ServeDeploySchema

    try:
        config = ServeDeploySchema.model_validate(document)
    except ValidationError as error:
        raise ConfigError(f"this is not a Serve config: {error}") from None
    options = _own_ray(document) if own_ray else {}

    stop = threading.Event()
    _on_stop_signals(stop)
    try:
        context = ray.init(address, namespace="serve", log_to_driver=False, **options)
    except Exception as error:  # Ray raises bare ones, too
        said = next(iter(str(error).strip().splitlines()), "")
        print(f"error: Ray did not start: {type(error).__name__}: {said}", file=sys.stderr)
        print("`plainmed doctor` looks for the cause", file=sys.stderr)
        return 1
    _on_stop_signals(stop)  # again: Ray's own handlers would end the process during the drain
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
            if session := context.address_info.get("session_dir"):
                print(f"the tracebacks are in {session}/logs/serve", file=sys.stderr)
            return 1
        if not stop.is_set():
            http = document["http_options"]
            url = f"http://{http['host']}:{http['port']}"
            print(f"PlainMed is serving on {url} (API at {url}/docs)", flush=True)
            if session := context.address_info.get("session_dir"):
                print(f"Logs are in {session}/logs/serve", flush=True)
            if context.dashboard_url:
                print(f"Ray's dashboard is on http://{context.dashboard_url}", flush=True)
        stop.wait()
        print("draining ...", flush=True)
        _gateway(document["applications"][0])["user_config"] = {"draining": True}
        client.deploy_apps(ServeDeploySchema.model_validate(document))
        _wait_until_draining()
        _wait_until_drained(drain_timeout_s(document))
        return 0
    finally:
        ray_serve.shutdown()
        ray.shutdown()


def drain_timeout_s(document: Mapping[str, Any]) -> float:
    """DRAIN_TIMEOUT_S of a Serve config from `load_document`."""
    return load_settings(**document["applications"][0]["args"].get("settings", {})).drain_timeout_s


def systemd_unit(command: Sequence[str], drain_s: float) -> str:
    """A systemd unit that runs `command` as the present user in the present folder.

    >>> print(systemd_unit(["/bin/plainmed", "serve", "100%.yaml"], 30).splitlines()[6])
    ExecStart="/bin/plainmed" "serve" "100%%.yaml"
    """
    escapes = str.maketrans({"\\": "\\\\", '"': '\\"', "%": "%%", "$": "$$"})
    line = " ".join(f'"{part.translate(escapes)}"' for part in command)
    return f"""\
[Unit]
Description=PlainMed
Wants=network-online.target
After=network-online.target

[Service]
ExecStart={line}
WorkingDirectory={str(Path.cwd()).replace("%", "%%")}
User={getpass.getuser()}
# Settings, one NAME=VALUE a line:
EnvironmentFile=-/etc/plainmed.env
# SIGTERM for PlainMed alone, which drains and then stops Ray: systemd's default stops both at once.
KillMode=mixed
TimeoutStopSec={drain_s + STOP_S:.0f}
Restart=on-failure

[Install]
WantedBy=multi-user.target
"""


def _prepare_environment(own_ray: bool) -> None:
    """What Ray and the processes it starts read from the environment; before Ray is imported."""
    if own_ray:
        # Keeps Ray's own ports on loopback instead of on every address of the machine, as Ray does
        # on macOS and Windows. Serve's proxy listens where the Serve config says all the same.
        os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
    # Two malloc heaps a process instead of up to eight a core. Each heap keeps the most its threads
    # ever needed at once, so with forty threads a process grows for hours (docs/reliability.md).
    os.environ.setdefault("MALLOC_ARENA_MAX", "2")
    os.environ.setdefault(*CALLBACK)


def _own_ray(document: dict[str, Any]) -> dict[str, Any]:
    """Arguments of `ray.init` for a Ray of our own: as many CPUs as the replicas ask for, in a
    folder that only this user can read.

    Raises:
        ConfigError: the machine is too small for the config, or the folder is another user's.
    """
    options: dict[str, Any] = {"_temp_dir": ray_folder()}
    application = document["applications"][0]
    if application.get("import_path") == IMPORT_PATH:
        options["num_cpus"] = fitting_cpus(least_resources(application), machine_resources())
    return options


def machine_resources() -> dict[str, float]:
    """What Ray counts on this machine, by `CPU` and `GPU`; a container's limits hold."""
    from ray._private.accelerators import get_all_accelerator_managers
    from ray._private.utils import get_num_cpus

    kinds = [one for one in get_all_accelerator_managers() if one.get_resource_name() == "GPU"]
    gpus = max((one.get_current_node_num_accelerators() for one in kinds), default=0)
    for one in kinds:  # as Ray counts them: CUDA_VISIBLE_DEVICES and the like hide some
        if (visible := one.get_current_process_visible_accelerator_ids()) is not None:
            gpus = min(gpus, len(visible))
    return {"CPU": get_num_cpus(), "GPU": gpus}


def _on_stop_signals(stop: threading.Event) -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())


def _application() -> Any:
    from ray import serve as ray_serve

    return next(iter(ray_serve.status().applications.values()), None)


def _wait_until_running(stop: threading.Event) -> str | None:
    """None once every deployment is healthy (or a stop was asked for), else what failed."""
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline and not stop.is_set():
        application = _application()
        if application is not None:
            if application.status == "RUNNING":
                return None
            if application.status == "DEPLOY_FAILED":
                parts = {name: one.message for name, one in application.deployments.items()}
                causes = startup_causes({**parts, "": application.message})
                return "\n  ".join(["the application failed to start", *causes])
        stop.wait(_POLL_S)
    if stop.is_set():
        return None
    deployments = {} if application is None else application.deployments
    waiting = [name for name, one in deployments.items() if one.status != "HEALTHY"]
    return f"not ready after {START_TIMEOUT_S:.0f} s, waiting for {', '.join(waiting) or APP_NAME}"


def startup_causes(messages: Mapping[str, str]) -> list[str]:
    """What went wrong, a line each and at most three: the last exception of each traceback.

    Args:
        messages: what Serve says about each deployment and, by the name "", the application.

    >>> startup_causes({"A": 'Error:\\n  File "x", line 1\\na.b.ConfigError: no /x\\n'})
    ['A: ConfigError: no /x']
    """
    from serve_app.serving.remote_calls import raised_in

    found: dict[str, list[str]] = {}
    for name, message in messages.items():
        if raised := raised_in(message):
            found.setdefault(_one_line(raised), []).append(name)
    if not found:
        return [_one_line(one) for one in messages.values() if one.strip()][-1:]
    causes = [f"{', '.join(names)}: {said}".removeprefix(": ") for said, names in found.items()]
    most = 3 if len(causes) <= 3 else 2
    return causes[:most] + [f"and {len(causes) - most} more"] * (len(causes) > most)


def _one_line(text: str) -> str:
    return printable(textwrap.shorten(text, CAUSE_CHARS, placeholder=" ..."))


def _wait_until_draining() -> None:
    """Returns once Serve has given every gateway replica its new `user_config`."""
    started = time.monotonic()
    changing = False
    while time.monotonic() - started < TELL_TIMEOUT_S:
        application = _application()
        healthy = application is not None and application.deployments["Gateway"].status == "HEALTHY"
        # The change may begin and end between two polls, hence the second condition.
        if healthy and (changing or time.monotonic() - started > 1.0):
            return
        changing = changing or not healthy
        time.sleep(0.05)


def _wait_until_drained(timeout_s: float) -> None:
    """Returns once every gateway replica refuses new requests and has none under way."""
    from ray import serve as ray_serve

    gateways = _application().deployments["Gateway"].replica_states.get("RUNNING", 0)
    handle = ray_serve.get_app_handle(APP_NAME)
    idle: set[str] = set()
    deadline = time.monotonic() + timeout_s
    while len(idle) < gateways:
        if time.monotonic() > deadline:
            print("error: requests were still under way at shutdown", file=sys.stderr)
            return
        # Serve routes each call to some replica, so ask until all were seen idle.
        replica, in_flight = handle.traffic.remote().result(timeout_s=timeout_s)
        if in_flight == 0:
            idle.add(replica)
        else:
            time.sleep(_POLL_S)
