"""`plainmed doctor`: what this machine lacks to run PlainMed, each with its remedy.

Asks what the server itself will ask: Ray for CPUs and memory, the cache for its folder, S3 and the
hub for an answer. Loads no model and starts nothing; what it could not look at is a warning.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr
from dataclasses import asdict, dataclass
from functools import partial
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from serve_app.cli.options import Config
from serve_app.core.errors import ConfigError, PlainMedError
from serve_app.core.printable import printable

if TYPE_CHECKING:
    from serve_app.core.settings import Settings

State = Literal["ok", "warn", "fail"]

PYTHONS = ((3, 11), (3, 13))
"""The oldest and the newest Python that the tests run on."""

DASHBOARD_PORT = 8265
SERVER_BYTES = 4.3e9
"""What the server takes with both services and the embedded models (docs/quickstart.md)."""

LEAST_FREE = 1e9
FULL = 0.95
"""Share of a disk beyond which Ray stores no more objects (its local_fs_capacity_threshold)."""

PATIENCE_S = 5.0
_CPU_BUILD = "pip install torch --index-url https://download.pytorch.org/whl/cpu"


@dataclass(frozen=True)
class Finding:
    """What one check found.

    Attributes:
        name: what was checked.
        state: `ok`; `warn`: it may be slow, or was not checked; `fail`: PlainMed cannot run so.
        message: what is there.
        remedy: what to do, empty where there is nothing to do.
    """

    name: str
    state: State
    message: str
    remedy: str = ""


Check = Callable[[], Iterator[Finding]]


def doctor(
    config: Config = None,
    json_output: Annotated[
        bool, typer.Option("--json", help="Print the findings as JSON.")
    ] = False,
) -> None:
    """Look at this machine: what PlainMed needs, whether it is there, and what to do if not.

    Starts nothing and loads no model. The exit status is 1 where something fails.
    """
    import json

    found = []
    for finding in diagnose(config):
        found.append(finding)
        if not json_output:
            typer.echo(f"{finding.state:<5} {finding.name:<12} {printable(finding.message)}")
            if finding.remedy:
                typer.echo(f"{'':<18} {printable(finding.remedy)}")
    if json_output:
        typer.echo(json.dumps([asdict(one) for one in found], ensure_ascii=False, indent=2))
    if any(one.state == "fail" for one in found):
        raise typer.Exit(1)


def diagnose(config: Path | None = None) -> Iterator[Finding]:
    """Every finding, in order. A check that itself fails is a warning, never an `ok`."""
    yield from _guarded("Python", _python)
    yield from _guarded("PyTorch", _torch)
    yield from _guarded("Ray", _ray)
    own_ray = os.environ.get("RAY_ADDRESS", "local") == "local"
    if own_ray:
        yield from _guarded("memory", _memory)
        yield from _guarded("/dev/shm", _shared_memory)  # noqa: S108  # nosec B108
    try:
        settings, document = _configured(config)
    except PlainMedError as error:
        yield Finding("settings", "fail", str(error), "`plainmed settings` lists all of them")
        yield Finding("the rest", "warn", "not checked: it depends on the settings")
        return
    yield Finding("settings", "ok", "well formed")
    checks: dict[str, Check] = {}
    if own_ray:
        checks["port"] = partial(_port, document)
        checks["dashboard"] = _dashboard
        checks["CPUs"] = partial(_cpus, document)
    checks |= {
        "device": partial(_device, settings),
        "cache": partial(_cache, settings),
        "hub": partial(_hub, settings),
        "S3": partial(_s3, settings),
    }
    for name, check in checks.items():
        yield from _guarded(name, check)


def _guarded(name: str, check: Check) -> Iterator[Finding]:
    try:
        yield from check()
    except Exception as error:  # a broken library must not hide the other findings
        kind = type(error).__name__
        yield Finding(name, "warn", f"not checked: {kind}: {error}", "report this, please")


def _python() -> Iterator[Finding]:
    oldest, newest = (".".join(map(str, one)) for one in PYTHONS)
    here = ".".join(map(str, sys.version_info[:3]))
    if PYTHONS[0] <= sys.version_info[:2] <= PYTHONS[1]:
        yield Finding("Python", "ok", here)
    else:
        yield Finding("Python", "warn", f"{here}, not tested", f"use {oldest} to {newest}")


def _torch() -> Iterator[Finding]:
    try:
        import torch
    except (ImportError, OSError) as error:  # OSError: a library of its is missing
        yield Finding("PyTorch", "fail", f"cannot be imported: {error}", _CPU_BUILD)
        return
    runtime = torch.version.cuda or getattr(torch.version, "hip", None)
    if runtime is None:
        yield Finding("PyTorch", "ok", f"{torch.__version__}, for CPUs")
    elif torch.cuda.is_available():
        name = torch.cuda.get_device_name(0)
        yield Finding("PyTorch", "ok", f"{torch.__version__}, for GPUs ({runtime}); sees {name}")
    else:
        yield Finding(
            "PyTorch",
            "warn",
            f"{torch.__version__}, for GPUs ({runtime}), and it sees none",
            f"with a GPU, check its driver (nvidia-smi); without one: {_CPU_BUILD}",
        )


def _ray() -> Iterator[Finding]:
    from serve_app.core.ray_folder import ray_folder

    try:
        import ray
    except (ImportError, OSError) as error:
        yield Finding(
            "Ray", "fail", f"cannot be imported: {error}", 'pip install "ray[serve,data]"'
        )
        return
    address = os.environ.get("RAY_ADDRESS", "local")
    if address != "local":
        yield Finding(
            "Ray",
            "warn",
            f"{ray.__version__}; RAY_ADDRESS is {address}: that cluster, its ports, CPUs and "
            "memory were not looked at",
            "unset RAY_ADDRESS to start a Ray of its own; else look at `ray status` there",
        )
        return
    try:
        folder = ray_folder() or os.environ["RAY_TMPDIR"]
    except ConfigError as error:
        yield Finding("Ray", "fail", str(error), "see there")
        return
    parent = next(one for one in (Path(folder), *Path(folder).parents) if one.is_dir())
    usage = shutil.disk_usage(parent)
    if usage.used > FULL * usage.total:
        yield Finding(
            "Ray",
            "warn",
            f"{ray.__version__}; the disk of {folder} is over {FULL:.0%} full, so that Ray stores "
            "no more objects",
            "make room there, or set RAY_TMPDIR to a folder elsewhere",
        )
    else:
        yield Finding("Ray", "ok", f"{ray.__version__}, its files in {folder}")


def _configured(config: Path | None) -> tuple[Settings, dict[str, Any]]:
    """The settings and the Serve config that `plainmed serve` would start with.

    Raises:
        ConfigError: as `load_document`.
    """
    from serve_app.core.settings import load_settings
    from serve_app.serving.server import load_document

    document = load_document(config)
    given = document["applications"][0]["args"].get("settings", {})
    return load_settings(**given), document


def _port(document: dict[str, Any]) -> Iterator[Finding]:
    from serve_app.api.auth.exposure import listened_on
    from serve_app.client.clients import PlainMedClient
    from serve_app.serving.machine import reserved

    http = document["http_options"]
    host, port = listened_on(http["host"]), http["port"]
    try:
        with reserved(host, port):
            pass
    except ConfigError as error:
        try:
            local = "127.0.0.1" if host in ("0.0.0.0", "", "::") else host  # noqa: S104
            with PlainMedClient(f"http://{local}:{port}", timeout=PATIENCE_S, retries=0) as client:
                running = client.health().version
        except PlainMedError:
            cause, _, remedy = str(error).partition("; ")
            yield Finding("port", "fail", cause, remedy)
        else:
            yield Finding(
                "port",
                "warn",
                f"PlainMed {running} already answers on {host}:{port}",
                "use that one, or give a second one another port: --port or PORT",
            )
        return
    yield Finding("port", "ok", f"{port} of {host} is free")


def _dashboard() -> Iterator[Finding]:
    from serve_app.serving.machine import reserved

    try:
        with reserved("127.0.0.1", DASHBOARD_PORT):
            pass
    except ConfigError as error:
        cause = str(error).partition("; ")[0]
        yield Finding("dashboard", "warn", cause, "nothing to do: Ray takes the next free one")
    else:
        yield Finding("dashboard", "ok", f"{DASHBOARD_PORT} of 127.0.0.1 is free")


def _cpus(document: dict[str, Any]) -> Iterator[Finding]:
    from serve_app.serving.graph import IMPORT_PATH, least_resources
    from serve_app.serving.machine import fitting_cpus
    from serve_app.serving.server import machine_resources

    resources, machine = machine_resources(), os.cpu_count() or 1
    has = resources["CPU"]
    said = f"{has:g}" if has == machine else f"{has:g} of the machine's {machine}, by a limit"
    application = document["applications"][0]
    if application.get("import_path") != IMPORT_PATH:
        yield Finding("CPUs", "warn", f"{said}; what this application needs is not known")
        return
    asked = least_resources(application)
    warning = StringIO()
    try:
        with redirect_stderr(warning):
            fitting_cpus(asked, resources)
    except ConfigError as error:
        cause, _, remedy = str(error).partition(": lower")
        yield Finding("CPUs", "fail", cause, f"lower{remedy}")
        return
    total = round(sum(one["CPU"] for one in asked.values()), 3)
    if warning.getvalue():
        remedy = "give it more for quicker answers"
        yield Finding("CPUs", "warn", f"{said}; the replicas ask for {total:g} and share", remedy)
    else:
        yield Finding("CPUs", "ok", f"{said}; the replicas ask for {total:g}")


def _memory() -> Iterator[Finding]:
    from ray._common.utils import get_system_memory
    from ray._private.utils import get_used_memory

    total, used = get_system_memory(), get_used_memory()
    said = f"{_gb(total)}, {_gb(max(0, total - used))} of it free (limits counted)"
    need = f"the server takes {_gb(SERVER_BYTES)} with the embedded models, more with larger ones"
    if total < SERVER_BYTES:
        yield Finding("memory", "fail", said, f"{need}: add memory, or serve one half: --services")
    elif total - used < SERVER_BYTES:
        yield Finding("memory", "warn", said, f"{need}: end other programs")
    else:
        yield Finding("memory", "ok", said)


def _shared_memory() -> Iterator[Finding]:
    name = "/dev/shm"  # noqa: S108  # nosec B108
    if sys.platform != "linux":
        yield Finding(name, "ok", "not used on this system")
        return
    from ray._common.utils import get_system_memory
    from ray._private.utils import (
        get_shared_memory_bytes,
        get_used_memory,
        resolve_object_store_memory,
    )

    free = get_shared_memory_bytes()
    wanted = resolve_object_store_memory(max(0, get_system_memory() - get_used_memory()))
    if free >= wanted:
        yield Finding(name, "ok", f"{_gb(free)} free; Ray's objects take at most {_gb(wanted)}")
        return
    yield Finding(
        name,
        "warn",
        f"{_gb(free)} free, and Ray's objects may take {_gb(wanted)}, so they go to the disk",
        f"in a container give --shm-size {wanted / 2**30:.0f}g (compose: shm_size); else delete "
        "files there",
    )


def _device(settings: Settings) -> Iterator[Finding]:
    from serve_app.models.pretrained import resolve_device

    try:
        yield Finding("device", "ok", f"models run on {resolve_device(settings.device)}")
    except ConfigError as error:
        cause, _, remedy = str(error).partition("; ")
        yield Finding("device", "fail", cause, remedy)


def _cache(settings: Settings) -> Iterator[Finding]:
    from serve_app.storage.artifacts.resolve import cache_root

    try:
        root = cache_root(settings.cache_dir)
        with tempfile.TemporaryFile(dir=root) as file:
            file.write(b"plainmed doctor")
            file.flush()
    except (ConfigError, OSError) as error:
        yield Finding("cache", "fail", str(error), "set CACHE_DIR to a folder you can write to")
        return
    free = shutil.disk_usage(root).free
    if free < LEAST_FREE:
        remedy = "make room, or set CACHE_DIR to a folder on another disk"
        yield Finding("cache", "warn", f"{root} is writable, {_gb(free)} free", remedy)
    else:
        yield Finding("cache", "ok", f"{root} is writable, {_gb(free)} free")


def _named(settings: Settings, scheme: str) -> list[str]:
    """The settings whose value begins so."""
    values = settings.model_dump()
    return [name for name, one in values.items() if isinstance(one, str) and one.startswith(scheme)]


def _hub(settings: Settings) -> Iterator[Finding]:
    from huggingface_hub.constants import ENDPOINT, HF_HUB_OFFLINE

    named = _named(settings, "hf://")
    if HF_HUB_OFFLINE:
        remedy = f"unset it, unless the cache holds what {_listed(named)} names" if named else ""
        yield Finding("hub", "warn", "not asked: HF_HUB_OFFLINE is set", remedy)
    else:
        remedy = "look at the network, HTTPS_PROXY and HF_ENDPOINT"
        yield _answer("hub", ENDPOINT, named, remedy)


def _s3(settings: Settings) -> Iterator[Finding]:
    from serve_app.storage.s3_client import FAILURES, explained, explaining, new_client

    named = _named(settings, "s3://")
    urls = {name: getattr(settings, name) for name in named}
    if settings.model_s3_bucket:
        named = [*named, "model_s3_bucket"]
        urls["model_s3_bucket"] = f"s3://{settings.model_s3_bucket}/"
    try:
        client = new_client()
    except FAILURES as error:
        state: State = "fail" if named else "warn"
        message = str(explained(error, "list", "s3://BUCKET/KEY"))
        yield Finding("S3", state, message, "correct AWS_ENDPOINT_URL or the AWS profile")
        return
    remedy = "look at the network, HTTPS_PROXY, AWS_REGION and AWS_ENDPOINT_URL"
    answer = _answer("S3", client.meta.endpoint_url, named, remedy)
    yield answer
    if answer.state != "ok":
        return
    for name, url in urls.items():
        bucket, _, key = url.removeprefix("s3://").partition("/")
        try:
            with explaining("list", url):
                listed = client.list_objects_v2(Bucket=bucket, Prefix=key, MaxKeys=1)
        except PlainMedError as error:
            yield Finding("S3", "fail", f"{name.upper()}: {error}", "see there")
            continue
        if listed.get("KeyCount"):
            yield Finding("S3", "ok", f"{name.upper()}: {url} can be listed")
        else:
            message = f"{name.upper()}: there is nothing at {url}"
            yield Finding("S3", "fail", message, "correct it, or upload the model")


def _answer(name: str, url: str, named: list[str], remedy: str) -> Finding:
    """Whether anything at all answers there; a server that refuses a stranger does."""
    import httpx

    needed = f"{_listed(named)} needs it" if named else "no setting needs it"
    try:
        with httpx.stream("GET", url, timeout=PATIENCE_S) as answer:
            status = answer.status_code
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        message = f"{url} does not answer ({error or type(error).__name__}); {needed}"
        return Finding(name, "fail" if named else "warn", message, remedy if named else "")
    if status >= 500:
        message = f"{url} answers {status}; {needed}"
        return Finding(name, "warn", message, "try again later" if named else "")
    return Finding(name, "ok", f"{url} answers; {needed}")


def _listed(names: list[str]) -> str:
    return ", ".join(name.upper() for name in names)


def _gb(count: float) -> str:
    return f"{count / 1e9:.1f} GB"
