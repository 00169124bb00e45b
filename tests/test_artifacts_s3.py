"""s3:// references against moto's HTTP server, on lines that hold and lines that break."""

from __future__ import annotations

import hashlib
import logging
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import boto3
import pytest
from moto.server import ThreadedMotoServer

from serve_app.artifacts import resolve
from serve_app.errors import ConfigError
from tests.artifact_servers import FILES, Denying, FlakyProxy, RequestLog, contents, serving


@pytest.fixture(scope="module")
def s3_server() -> Iterator[str]:
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def requests_seen() -> Iterator[RequestLog]:
    log, logger = RequestLog(), logging.getLogger("werkzeug")
    level = logger.level
    logger.addHandler(log)
    logger.setLevel(logging.INFO)
    yield log
    logger.removeHandler(log)
    logger.setLevel(level)


@pytest.fixture
def aws(s3_server: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    """The usual AWS chain pointed at the server, by environment alone."""
    for name in list(os.environ):
        if name.startswith("AWS_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_server)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test-key-id")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test-secret-key")
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "no-config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "no-credentials"))
    return s3_server


@pytest.fixture
def client(aws: str) -> Any:
    return boto3.client("s3", region_name="us-east-1", endpoint_url=aws)


@pytest.fixture
def bucket(client: Any, request: pytest.FixtureRequest) -> str:
    """A bucket of its own for each test, holding FILES under merged-models/tiny/."""
    name = "b" + hashlib.sha256(request.node.name.encode()).hexdigest()[:20]
    client.create_bucket(Bucket=name)
    for key, content in FILES.items():
        client.put_object(Bucket=name, Key=f"merged-models/tiny/{key}", Body=content)
    return name


def fetch(reference: str, cache: Path) -> Path:
    return resolve(reference, cache_dir=str(cache))


# --- s3 ------------------------------------------------------------------------------------


def test_a_prefix_becomes_a_directory_once(
    bucket: str, tmp_path: Path, requests_seen: RequestLog
) -> None:
    reference = f"s3://{bucket}/merged-models/tiny/"
    folder = fetch(reference, tmp_path)
    assert contents(folder) == FILES
    assert requests_seen.downloads("model.safetensors") == 1
    assert fetch(reference, tmp_path) == folder
    assert requests_seen.downloads("model.safetensors") == 1
    assert contents(fetch(reference.rstrip("/"), tmp_path)) == FILES
    assert not list(tmp_path.rglob("*.partial"))


def test_a_key_becomes_a_file(bucket: str, client: Any, tmp_path: Path) -> None:
    client.put_object(Bucket=bucket, Key="merged-models/tiny/config.json.bak", Body=b"other")
    path = fetch(f"s3://{bucket}/merged-models/tiny/config.json", tmp_path)
    assert path.name == "config.json"
    assert path.read_bytes() == FILES["config.json"]


def test_a_prefix_is_a_whole_folder_name(bucket: str, client: Any, tmp_path: Path) -> None:
    client.put_object(Bucket=bucket, Key="merged-models/tiny-2/config.json", Body=b"other")
    client.put_object(Bucket=bucket, Key="merged-models/tiny/sub/", Body=b"")  # as consoles do
    assert contents(fetch(f"s3://{bucket}/merged-models/tiny", tmp_path)) == FILES


def test_more_objects_than_one_listing_page(
    bucket: str, client: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MOTO_S3_DEFAULT_MAX_KEYS", "5")  # 1000 on the real service
    expected = {f"{number:04}": b"%d" % number for number in range(23)}
    for name, content in expected.items():
        client.put_object(Bucket=bucket, Key=f"many/{name}", Body=content)
    assert client.list_objects_v2(Bucket=bucket, Prefix="many/")["IsTruncated"]
    assert contents(fetch(f"s3://{bucket}/many/", tmp_path)) == expected


def test_a_replaced_object_is_fetched_and_the_old_copy_stays(
    bucket: str, client: Any, tmp_path: Path
) -> None:
    reference = f"s3://{bucket}/merged-models/tiny/"
    old = fetch(reference, tmp_path)
    same_size = FILES["config.json"][::-1]
    client.put_object(Bucket=bucket, Key="merged-models/tiny/config.json", Body=same_size)
    new = fetch(reference, tmp_path)
    assert contents(new) == FILES | {"config.json": same_size}
    assert contents(old) == FILES  # a running replica may still read it
    client.delete_object(Bucket=bucket, Key="merged-models/tiny/sub/notes.txt")
    assert "sub/notes.txt" not in contents(fetch(reference, tmp_path))


def test_a_damaged_copy_is_fetched_again(bucket: str, tmp_path: Path) -> None:
    reference = f"s3://{bucket}/merged-models/tiny/"
    folder = fetch(reference, tmp_path)
    (folder / "model.safetensors").write_bytes(b"cut")
    (folder / "config.json").unlink()
    assert contents(fetch(reference, tmp_path)) == FILES


def test_an_object_replaced_between_listing_and_download_starts_over(
    bucket: str, client: Any, tmp_path: Path, requests_seen: RequestLog
) -> None:
    new = b"replaced in mid-download"
    pending = [new]

    def replace_once(line: str) -> None:
        if "list-type=2" in line and "tiny/" in line and pending:
            body = pending.pop()
            client.put_object(Bucket=bucket, Key="merged-models/tiny/config.json", Body=body)

    requests_seen.on_request = replace_once
    folder = fetch(f"s3://{bucket}/merged-models/tiny/", tmp_path)
    assert not pending
    assert contents(folder) == FILES | {"config.json": new}
    assert sum(" 412 " in line for line in requests_seen.lines) == 1


def test_ten_processes_download_once(
    bucket: str, tmp_path: Path, requests_seen: RequestLog
) -> None:
    reference = f"s3://{bucket}/merged-models/tiny/"
    code = "import sys; from serve_app.artifacts import resolve; "
    code += "print(resolve(sys.argv[1], cache_dir=sys.argv[2]))"
    command = [sys.executable, "-c", code, reference, str(tmp_path)]
    running = [
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(10)
    ]
    results = [process.communicate(timeout=120) for process in running]
    assert [process.returncode for process in running] == [0] * 10, results
    assert len({out for out, _ in results}) == 1
    assert contents(Path(results[0][0].strip())) == FILES
    for name in FILES:
        assert requests_seen.downloads(name) == 1


def test_threads_download_once(bucket: str, tmp_path: Path, requests_seen: RequestLog) -> None:
    reference = f"s3://{bucket}/merged-models/tiny/"
    with ThreadPoolExecutor(8) as pool:
        found = set(pool.map(lambda _: fetch(reference, tmp_path), range(8)))
    assert len(found) == 1
    assert requests_seen.downloads("model.safetensors") == 1


def test_a_key_that_would_leave_the_folder_is_refused(
    bucket: str, client: Any, tmp_path: Path
) -> None:
    client.put_object(Bucket=bucket, Key="evil/../../escape.txt", Body=b"x")
    client.put_object(Bucket=bucket, Key="evil/config.json", Body=b"x")
    with pytest.raises(ConfigError, match=r"escape\.txt"):
        fetch(f"s3://{bucket}/evil/", tmp_path)
    assert not contents(tmp_path)


def test_a_key_that_is_both_file_and_folder_is_an_error(
    bucket: str, client: Any, tmp_path: Path
) -> None:
    client.put_object(Bucket=bucket, Key="both/x", Body=b"file")
    client.put_object(Bucket=bucket, Key="both/x/y", Body=b"below it")
    with pytest.raises(ConfigError, match="cannot write"):
        fetch(f"s3://{bucket}/both/", tmp_path)
    assert not list(tmp_path.rglob("y"))


def test_missing_bucket_key_and_prefix_are_named(bucket: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no bucket 'absent-bucket'"):
        fetch("s3://absent-bucket/model/", tmp_path)
    with pytest.raises(ConfigError, match="nothing is at") as caught:
        fetch(f"s3://{bucket}/nothing", tmp_path)
    assert bucket in caught.value.message
    assert "'nothing/'" in caught.value.message


def test_no_credentials_says_how_to_give_them(
    bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with pytest.raises(ConfigError, match="AWS_ACCESS_KEY_ID"):
        fetch(f"s3://{bucket}/merged-models/tiny/", tmp_path)


def test_an_unknown_profile_and_a_bad_endpoint_are_named(
    bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_PROFILE", "no-such-profile")
    with pytest.raises(ConfigError, match="no-such-profile"):
        fetch(f"s3://{bucket}/merged-models/tiny/", tmp_path)
    monkeypatch.delenv("AWS_PROFILE")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "not a url")
    with pytest.raises(ConfigError, match="not a url"):
        fetch(f"s3://{bucket}/merged-models/tiny/", tmp_path)


def test_denied_access_names_the_permissions(
    aws: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving(Denying) as url:
        monkeypatch.setenv("AWS_ENDPOINT_URL", url)
        with pytest.raises(ConfigError, match="s3:GetObject") as caught:
            fetch("s3://private-bucket/model/", tmp_path)
    assert "private-bucket" in caught.value.message
    assert "test-secret-key" not in caught.value.message


# --- s3 over a connection that breaks ----------------------------------------------------------


def test_a_broken_transfer_is_tried_again(
    bucket: str, aws: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    proxy = FlakyProxy(aws, faults=2, limit=100_000)
    monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
    assert contents(fetch(f"s3://{bucket}/merged-models/tiny/", tmp_path)) == FILES
    assert proxy.faults == 0


def test_a_transfer_that_keeps_breaking_leaves_nothing_behind(
    bucket: str, aws: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    proxy = FlakyProxy(aws, faults=10**6, limit=100_000)
    monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
    with pytest.raises(ConfigError, match=r"model\.safetensors.*broke off 3 times"):
        fetch(f"s3://{bucket}/merged-models/tiny/", tmp_path)
    assert not list(tmp_path.rglob("*.safetensors"))
    proxy.faults = 0
    assert contents(fetch(f"s3://{bucket}/merged-models/tiny/", tmp_path)) == FILES


def test_a_process_killed_in_mid_download_does_not_harm_the_next(
    bucket: str, aws: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    proxy = FlakyProxy(aws, faults=1, limit=100_000, stall=True)
    monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
    reference = f"s3://{bucket}/merged-models/tiny/"
    code = "import sys; from serve_app.artifacts import resolve; resolve(*sys.argv[1:2], "
    code += "cache_dir=sys.argv[2])"
    process = subprocess.Popen([sys.executable, "-c", code, reference, str(tmp_path)])
    assert proxy.stalled.wait(60)
    deadline = time.monotonic() + 30
    while not list(tmp_path.rglob("*.partial")) and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait(30)
    assert list(tmp_path.rglob("*.partial")), "it was killed too late to prove anything"
    assert contents(fetch(reference, tmp_path)) == FILES
    assert not list(tmp_path.rglob("*.partial"))


def test_an_unreachable_endpoint_uses_the_cached_copy_or_says_so(
    bucket: str, aws: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    proxy = FlakyProxy(aws, faults=0, limit=0)
    monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
    folder = fetch(f"s3://{bucket}/merged-models/tiny/", tmp_path)
    one = fetch(f"s3://{bucket}/merged-models/tiny/config.json", tmp_path)
    proxy.listener.shutdown(socket.SHUT_RDWR)
    proxy.listener.close()
    with caplog.at_level(logging.WARNING):
        assert fetch(f"s3://{bucket}/merged-models/tiny/", tmp_path) == folder
        assert fetch(f"s3://{bucket}/merged-models/tiny/config.json", tmp_path) == one
    assert "cannot be checked" in caplog.text
    with pytest.raises(ConfigError, match="cannot be reached"):
        fetch(f"s3://{bucket}/other/", tmp_path)
