"""Fixtures every test file may use."""

from __future__ import annotations

import logging
import os
import uuid
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from httpx._transports import default as httpx_transports
from hypothesis import settings
from typer import testing as typer_testing
from xdist.scheduler import LoadScopeScheduling

from tests.support.artifact_servers import RequestLog, use_server
from tests.support.paths import ROOT
from tests.support.texts import GENERATED, ORIGINALS

# Before torch is imported. Its threads would fight those of the servers the tests start.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

# A loaded machine must not fail a test, and a failure must come again for whoever looks at it.
settings.register_profile("plainmed", deadline=None, derandomize=True)
settings.load_profile("plainmed")

# Every client of httpx reads certifi's certificates, 40 ms each time, and no test speaks TLS.
httpx_transports.create_ssl_context = cache(httpx_transports.create_ssl_context)
# A program makes its commands of the functions once; the tests call one some hundred times.
typer_testing._get_command = cache(typer_testing._get_command)


class _Groups(LoadScopeScheduling):  # type: ignore[misc]  # xdist is untyped
    """With several workers, the tests of a file stay together, and so do those of a folder with a
    conftest.py, which share what takes seconds to make: Ray in tests/serving/live.
    """

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.split("::", 1)[0]
        folder = file.rpartition("/")[0]
        shared = folder.startswith("tests/") and (ROOT / folder / "conftest.py").is_file()
        return folder if shared else file


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadScopeScheduling:
    return _Groups(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The tests that need Ray first: the longest group must not be the last to start."""
    items.sort(key=lambda item: not item.nodeid.startswith("tests/serving/live/"))


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """torch on one thread: two on a model 64 wide wait for each other most of the time."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A headless Chromium."""
    pytest.importorskip("playwright.sync_api", reason="needs playwright, of the dev extra")
    from tests.support.browser import chromium, executable  # most test files do without

    if executable() is None:
        pytest.skip("needs a browser: apt-get install chromium, or set CHROMIUM to a program")
    with chromium() as running:
        yield running


@pytest.fixture
def pages(browser: Any) -> Iterator[Any]:
    """Opens pages in the browser; none may ask another host or break its own policy."""
    from tests.support.browser import Pages

    opened = Pages(browser)
    yield opened
    opened.close()
    assert not opened.wrong


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The team's data folder, beside the checkout; not part of a plain clone."""
    folder = ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"needs the shared data folder, which is not at {folder}")
    return folder


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    """The URL of moto's S3 in this process, on a port of its own.

    What a test puts there stays until the session ends, or a test resets moto: keep to a bucket
    of the test's own (`new_bucket`).
    """
    from moto.server import ThreadedMotoServer  # most test files do without

    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def requests_seen() -> Iterator[RequestLog]:
    """What the servers of this process that run on werkzeug, as moto's, have answered."""
    log, logger = RequestLog(), logging.getLogger("werkzeug")
    level = logger.level
    logger.addHandler(log)
    logger.setLevel(logging.INFO)
    yield log
    logger.removeHandler(log)
    logger.setLevel(level)


@pytest.fixture
def aws(s3_server: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    """The URL of moto's S3, with the usual AWS chain pointed at it by environment alone."""
    use_server(monkeypatch, s3_server, tmp_path)
    return s3_server


@pytest.fixture
def s3_client(aws: str) -> Any:
    """An S3 client of moto's server."""
    import boto3

    return boto3.client("s3", region_name="us-east-1", endpoint_url=aws)


@pytest.fixture
def new_bucket(s3_client: Any) -> str:
    """The name of an empty bucket that no other test has."""
    name = f"b{uuid.uuid4().hex[:20]}"
    s3_client.create_bucket(Bucket=name)
    return name


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """The URL of the application's own gateway, over a backend that is light but computes."""
    from tests.support.servers import api_server

    with api_server() as address:
        yield address


@pytest.fixture(scope="session")
def tiny_align(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A compact AlignScore model with heads that nobody trained."""
    from tests.support.tiny_suite import save_align

    return save_align(tmp_path_factory.mktemp("align") / "tiny")


@pytest.fixture(scope="session")
def tiny_suite(tiny_align: Path) -> Any:
    """The real metrics on the embedded encoder and `tiny_align`."""
    from serve_app.metrics.alignscore import AlignScorer
    from serve_app.metrics.bertscore import BertScorer
    from serve_app.metrics.suite import MetricSuite
    from tests.support.tiny_suite import ENCODER

    return MetricSuite(
        BertScorer.from_reference(ENCODER, device="cpu"),
        AlignScorer.from_reference(str(tiny_align), device="cpu"),
    )


@pytest.fixture
def in_process(tiny_align: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`plainmed` without a server: settings by which it takes small models, on the processor."""
    from serve_app.core.resources import RESOURCES

    monkeypatch.setenv("ALIGNSCORE_MODEL", str(tiny_align))
    monkeypatch.setenv("TARGETS_FILE", str(RESOURCES / "targets-earlier-system.json"))
    monkeypatch.setenv("DEVICE", "cpu")


class _Over:
    """What either client gets for its wait: it is over, whether it is awaited or not."""

    def __await__(self) -> Iterator[None]:
        return iter(())


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Seconds that a client waits before each repetition; with this no time passes."""
    from serve_app.client.retry_policy import ClientCore  # most test files do without

    seen: list[float] = []
    policy = ClientCore._policy

    def wait(seconds: float) -> _Over:
        seen.append(seconds)
        return _Over()

    def counted(self: Any, call: Any) -> dict[str, Any]:
        return {**policy(self, call), "sleep": wait}

    monkeypatch.setattr(ClientCore, "_policy", counted)
    return seen


@pytest.fixture
def pair(tmp_path: Path) -> list[object]:
    """The options of `plainmed score` that name the files of one pair of texts."""
    original, generated = tmp_path / "a.txt", tmp_path / "b.txt"
    original.write_text(ORIGINALS[0], encoding="utf-8")
    generated.write_text(GENERATED[0], encoding="utf-8")
    return ["--original-file", original, "--generated-file", generated]
