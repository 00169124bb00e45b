"""One real Ray Serve instance, started as a user starts it, for every test in this folder."""

from __future__ import annotations

import contextlib
import os
import re
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import boto3
import httpx
import psutil
import pytest
import yaml

from serve_app.core.settings import load_settings
from serve_app.serving.proxy.middleware import CALLBACK
from serve_app.training.merge import merge_and_upload, plan_merge
from tests.support.artifact_servers import use_server
from tests.support.otlp_receiver import Collector
from tests.support.paths import ROOT
from tests.support.tiny_models import save_adapter, save_model

START_TIMEOUT_S = float(os.environ.get("PLAINMED_TEST_START_S", "240"))
"""A server that shares its machine with much else needs longer."""
MODEL_NAME = "org__model-run"
WRITER = "writer"
"""The application beside the project's own, and its route prefix."""
FAULTY = "faulty"
"""Another, whose metrics and generator stumble over marked texts (faulty.py)."""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Server:
    """A server command in a session of its own."""

    def __init__(self, port: int, log: Path, command: list[str], **environment: str) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self.log = log
        self.process = subprocess.Popen(
            command,
            stdout=log.open("wb"),
            stderr=subprocess.STDOUT,
            start_new_session=True,
            # `serve run` would join another Ray that happens to run on this machine.
            env={
                **os.environ,
                "RAY_SERVE_LOG_TO_STDERR": "0",
                "RAY_ADDRESS": "local",
                # On a machine that does much else Ray's own processes take longer than it waits.
                "RAY_agent_register_timeout_ms": "180000",
                "RAY_raylet_start_wait_time_s": "150",
                **environment,
            },
        )

    def wait_until_ready(self, prefix: str = "", route: str = "/healthz") -> Server:
        deadline = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                break
            try:
                if httpx.get(f"{self.url}{prefix}{route}", timeout=10).status_code == 200:
                    return self
            except httpx.HTTPError:
                pass
            time.sleep(0.5)
        self.stop()
        raise RuntimeError(f"the server did not get ready:\n{self.log.read_text()[-4000:]}")

    def replica_pid(self, deployment: str, application: str = "plainmed") -> int:
        """The process of one running replica of `deployment`."""
        for process in psutil.Process(self.process.pid).children(recursive=True):
            try:
                title = " ".join(process.cmdline())
            except (psutil.NoSuchProcess, psutil.AccessDenied):
                continue
            if "ServeReplica" in title and f":{application}:{deployment}" in title:
                return process.pid
        raise RuntimeError(f"no replica of {deployment} is running")

    def session_folder(self) -> Path:
        """Where the server's own Ray keeps its logs; others may run on this machine."""
        for process in psutil.Process(self.process.pid).children(recursive=True):
            try:
                found = re.search(r"/\S*/session_[\w.-]+", " ".join(process.cmdline()))
            except (psutil.NoSuchProcess, psutil.AccessDenied):
                continue
            if found is not None:
                return Path(found[0])
        raise RuntimeError("no process of the server names its session folder")

    def stop(self) -> int:
        """SIGTERM, then SIGKILL of what this started and nothing else; the exit status."""
        children = []
        if self.process.poll() is None:
            children = psutil.Process(self.process.pid).children(recursive=True)
            self.process.terminate()
        try:
            status = self.process.wait(timeout=60)
        except subprocess.TimeoutExpired:
            self.process.kill()
            status = self.process.wait()
        for child in children:
            with contextlib.suppress(psutil.NoSuchProcess):
                child.kill()
        return status


@pytest.fixture(scope="session")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A LoRA adapter of a tiny Llama whose summaries take minutes."""
    folder = tmp_path_factory.mktemp("adapter")
    base = save_model(folder / "base", context=40_000)
    return save_adapter(folder / MODEL_NAME, base)


@pytest.fixture(scope="session")
def model_bucket(
    adapter: Path, s3_server: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """A bucket with the adapter merged and uploaded, and the AWS chain pointed at it."""
    home = tmp_path_factory.mktemp("aws")
    with pytest.MonkeyPatch.context() as patch:
        use_server(patch, s3_server, home)
        name = f"models-{uuid.uuid4().hex[:12]}"
        boto3.client("s3").create_bucket(Bucket=name)
        settings = load_settings(model_s3_bucket=name, cache_dir=str(home / "cache"))
        merge_and_upload(settings, plan_merge(settings, str(adapter)))
        yield name


@pytest.fixture(scope="package")
def collector() -> Iterator[Collector]:
    """Where the server sends its spans."""
    running = Collector()
    yield running
    running.close()


@pytest.fixture(scope="package")
def server(
    model_bucket: str, collector: Collector, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    """`serve run` of the project's own serve_config.yaml, WRITER and FAULTY, on a free port.

    Ended after the last test here: it takes processor time also when nobody asks.
    """
    folder = tmp_path_factory.mktemp("server")
    port = free_port()
    document = yaml.safe_load((ROOT / "serve_config.yaml").read_text(encoding="utf-8"))
    document["http_options"]["port"] = port
    # Beside it, a generator with the language model that was merged and uploaded.
    document["applications"].append(
        {
            "name": WRITER,
            "route_prefix": f"/{WRITER}",
            "import_path": "serve_app.app:build",
            "args": {
                "services": ["generator"],
                "settings": {
                    "model_name": MODEL_NAME, "model_s3_bucket": model_bucket,
                    "cache_dir": str(folder / "cache"), "max_new_tokens": 30_000,
                    "torch_num_threads": 1,
                },
            },
            # The project's own take 1.9 of the two processors there may be.
            "deployments": [
                {"name": name, "ray_actor_options": {"num_cpus": 0.02}}
                for name in ("Gateway", "Generator")
            ],
        }
    )  # fmt: skip
    document["applications"].append(
        {
            "name": FAULTY,
            "route_prefix": f"/{FAULTY}",
            "import_path": "tests.serving.live.faulty:build",
            "deployments": [
                {"name": name, "ray_actor_options": {"num_cpus": 0.01}}
                for name in ("Gateway", "Loss", "Faulty")
            ],
        }
    )
    config = folder / "serve_config.yaml"
    config.write_text(yaml.safe_dump(document), encoding="utf-8")
    running = Server(
        port,
        folder / "serve.log",
        [str(Path(sys.executable).parent / "serve"), "run", str(config)],
        # Limits low enough to be met by a small test body.
        MAX_TEXTS="40",
        MAX_TEXT_CHARS="60000",
        MAX_BODY_BYTES="400000",
        TRACES_ENDPOINT=collector.url,
        OTEL_BSP_SCHEDULE_DELAY="200",
        PYTHONPATH=str(ROOT),
        **dict([CALLBACK]),  # as `plainmed serve` and the images have it
    )
    try:
        running.wait_until_ready()
        running.wait_until_ready(f"/{WRITER}")
        # Its metrics share a deployment, which is none of those that readiness asks for.
        running.wait_until_ready(f"/{FAULTY}", "/livez")
        yield running
    finally:
        running.stop()


@pytest.fixture
def http(server: Server) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, timeout=180) as client:
        yield client
