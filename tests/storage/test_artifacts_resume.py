"""Downloads that break: the line, the process, the server, the object, the disk.

moto keeps objects in memory. In place of a server that was killed another is started and given
the same object, which has the same ETag there; then the proxy before the first leads to it.
One test does all at once with 300 MB; what it cannot, others do with less.
"""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import boto3
import pytest

from serve_app.core.errors import ConfigError
from serve_app.storage import s3_client
from serve_app.storage.artifacts import Downloads, resolve, s3_download
from tests.support.artifact_servers import FlakyProxy, MotoProcess, RequestLog, numbered
from tests.support.slow import slow

MIB = 2**20
SIZE = 12 * MIB
PART = MIB // 4  # more ranges than connections: some are asked for late
CONTENT = numbered(SIZE)


@pytest.fixture
def aws(aws: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """As for all tests, and small ranges."""
    monkeypatch.setattr(s3_download, "PART_BYTES", PART)
    monkeypatch.setattr(s3_download, "_RECORD_BYTES", MIB // 8)
    return aws


@pytest.fixture
def model(aws: str, new_bucket: str) -> str:
    """The reference of a folder with one object of SIZE bytes in a bucket of the test's own."""
    put(aws, new_bucket, CONTENT)
    return f"s3://{new_bucket}/m/"


@pytest.fixture
def through(aws: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Puts a FlakyProxy between the client and the server."""
    made: list[FlakyProxy] = []

    def build(upstream: str = aws, **faults: Any) -> FlakyProxy:
        made.append(FlakyProxy(upstream, **faults))
        monkeypatch.setenv("AWS_ENDPOINT_URL", made[-1].url)
        return made[-1]

    yield build
    for proxy in made:
        proxy.close()


def s3(url: str) -> Any:
    return boto3.client("s3", region_name="us-east-1", endpoint_url=url)


def put(url: str, bucket: str, content: bytes) -> None:
    with contextlib.suppress(s3(url).exceptions.BucketAlreadyOwnedByYou):
        s3(url).create_bucket(Bucket=bucket)
    s3(url).put_object(Bucket=bucket, Key="m/model.bin", Body=content)


def fetch(reference: str, cache: Path) -> bytes:
    return (resolve(reference, Downloads(str(cache))) / "model.bin").read_bytes()


CHILD = """
import sys
from serve_app.storage.artifacts import Downloads, resolve, s3_transfer
s3_transfer.PART_BYTES = int(sys.argv[3])
s3_transfer._RECORD_BYTES = s3_transfer.PART_BYTES // 2
print(resolve(sys.argv[1], Downloads(sys.argv[2])))
"""


def child(reference: str, cache: Path, part: int = PART) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", CHILD, reference, str(cache), str(part)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def until(condition: Any, what: str) -> None:
    deadline = time.monotonic() + 240  # a busy machine is no failure
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.01)


# --- the line ----------------------------------------------------------------------------------


def test_a_broken_connection_goes_on_where_it_broke(
    model: str, through: Any, tmp_path: Path
) -> None:
    proxy = through(faults=6, limit=100_000, match=b"GET /b")
    assert fetch(model, tmp_path) == CONTENT
    assert proxy.faults == 0
    # What is sent twice is what was on the line when it was cut, not the ranges.
    assert proxy.passed < SIZE + 6 * 150_000


def test_a_line_that_stays_dead_is_given_up_and_what_arrived_is_kept(
    model: str, through: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3_download, "_PATIENCE", 2)
    proxy = through(faults=10**6, limit=0, match=f"bytes={11 * MIB}-".encode(), rate=12e6)
    with pytest.raises(ConfigError, match=r"s3://b.*/m/model\.bin.*broke off 2 times") as caught:
        fetch(model, tmp_path)
    assert "what has arrived is kept" in caught.value.message
    assert not list(tmp_path.rglob("manifest.json"))
    arrived, proxy.faults, proxy.passed = proxy.passed, 0, 0
    assert arrived > SIZE * 0.6  # else what follows would hold of a new start, too
    assert fetch(model, tmp_path) == CONTENT
    assert proxy.passed < SIZE - arrived + 16 * MIB // 4 + 100_000


def test_a_server_that_is_overloaded_for_a_while_is_asked_again(
    model: str, through: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3_client, "ATTEMPTS", 1)  # botocore's own, which wait for seconds
    body = b"<Error><Code>SlowDown</Code><Message>Reduce your request rate.</Message></Error>"
    answer = b"HTTP/1.1 503 Slow Down\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % len(
        body
    )
    proxy = through(faults=3, match=b"model.bin HTTP", instead=answer + body)
    assert fetch(model, tmp_path / "a") == CONTENT
    assert proxy.faults == 0
    proxy.match, proxy.faults = b"", 10**6
    with pytest.raises(ConfigError, match=r"s3://b.*/m/: .* cannot now \(SlowDown\); try again"):
        fetch(model, tmp_path / "b")
    assert fetch(model, tmp_path / "a") == CONTENT  # the copy there is


# --- the process -------------------------------------------------------------------------------


def test_a_killed_process_is_continued_by_the_next(
    model: str, through: Any, tmp_path: Path
) -> None:
    proxy = through(rate=6e6)
    process = child(model, tmp_path)
    until(lambda: proxy.passed > SIZE * 0.6, "the download does not get on")
    process.send_signal(signal.SIGKILL)
    process.wait(30)
    assert not list(tmp_path.rglob("manifest.json")), "it was killed too late to prove anything"
    proxy.rate, proxy.passed = None, 0
    assert fetch(model, tmp_path) == CONTENT
    # Of what had passed, only the quarter MiB not yet recorded of each range is sent again.
    assert proxy.passed < SIZE * 0.4 + 16 * MIB // 4 + 100_000
    assert not list(tmp_path.rglob("partial"))


def test_after_a_restart_of_the_machine_nothing_unfinished_is_trusted(
    model: str, through: Any, tmp_path: Path
) -> None:
    proxy = through(rate=6e6)
    process = child(model, tmp_path)
    until(lambda: proxy.passed > SIZE * 0.5, "the download does not get on")
    process.kill()
    process.wait(30)
    (plan,) = tmp_path.rglob("plan.json")
    boot = Path("/proc/sys/kernel/random/boot_id")
    if not boot.exists():
        pytest.skip("this system does not say when it started")
    text = plan.read_text()
    assert boot.read_text().strip() in text
    plan.write_text(text.replace(boot.read_text().strip(), "another start"))
    proxy.rate, proxy.passed = None, 0
    assert fetch(model, tmp_path) == CONTENT
    assert proxy.passed > SIZE


# --- the server --------------------------------------------------------------------------------


@slow(20)
def test_300_mb_reach_ten_processes_once_though_the_server_is_killed_and_restarted(
    aws: str, tmp_path: Path, through: Any
) -> None:
    content = numbered(300 * 10**6)
    with ThreadPoolExecutor(2) as pool:
        server, again = pool.map(lambda _: MotoProcess(), range(2))
    running: list[subprocess.Popen[str]] = []
    try:
        put(server.url, "models", content)
        proxy = through(server.url)
        running += [child("s3://models/m/", tmp_path, part=16 * MIB) for _ in range(10)]
        until(lambda: proxy.passed > len(content) * 0.3, "the download does not get on")
        server.kill()
        assert not list(tmp_path.rglob("manifest.json")), "it was over before the kill"
        put(again.url, "models", content)  # meanwhile nobody answers
        assert not any(process.poll() for process in running)
        proxy.upstream = ("127.0.0.1", again.port)
        results = [process.communicate(timeout=300) for process in running]
    finally:
        for process in (*running, server, again):
            process.kill()
    assert [process.returncode for process in running] == [0] * 10, results
    (folder,) = {out.strip() for out, _ in results}
    assert Path(folder, "model.bin").read_bytes() == content
    # Once for all, and what had arrived before the kill was not asked for again.
    assert len(content) < proxy.passed < len(content) * 1.1


# --- the object --------------------------------------------------------------------------------


def test_an_object_replaced_between_listing_and_download_starts_over(
    model: str, aws: str, tmp_path: Path, requests_seen: RequestLog
) -> None:
    pending = [CONTENT[::-1]]

    def replace_once(line: str) -> None:
        if "list-type=2" in line and pending:
            put(aws, model.split("/")[2], pending.pop())

    requests_seen.on_request = replace_once
    assert fetch(model, tmp_path) == CONTENT[::-1]
    assert any(" 412 " in line for line in requests_seen.lines)


def test_an_object_replaced_in_mid_download_starts_over_and_is_never_mixed(
    model: str, aws: str, through: Any, tmp_path: Path
) -> None:
    proxy = through(rate=6e6)
    process = child(model, tmp_path)
    until(lambda: proxy.passed > SIZE * 0.5, "the download does not get on")
    put(aws, model.split("/")[2], CONTENT[::-1])
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    assert Path(output.strip(), "model.bin").read_bytes() == CONTENT[::-1]


def test_objects_that_were_not_replaced_are_not_fetched_again(
    model: str,
    aws: str,
    tmp_path: Path,
    requests_seen: RequestLog,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(s3_download, "CONNECTIONS", 1)  # one after the other, by name
    bucket = model.split("/")[2]
    s3(aws).put_object(Bucket=bucket, Key="m/z.json", Body=b"old")
    ranges: list[str] = []

    def replace_at_last(line: str) -> None:
        if "model.bin" in line and " 206 " in line:
            ranges.append(line)
            if len(ranges) == SIZE // PART:  # the last range of the other one is on its way
                s3(aws).put_object(Bucket=bucket, Key="m/z.json", Body=b"new")

    requests_seen.on_request = replace_at_last
    assert fetch(model, tmp_path) == CONTENT
    assert len(ranges) == SIZE // PART
    assert any(" 412 " in line for line in requests_seen.lines)
    (found,) = tmp_path.rglob("tree/z.json")
    assert found.read_bytes() == b"new"


# --- the disk ----------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 40 MiB."""
    place = tmp_path / "small"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=40m", "tmpfs", str(place)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as error:
        pytest.skip(f"cannot mount a small disk: {error}")
    if done.returncode:
        pytest.skip(f"cannot mount a small disk: {done.stderr.strip()}")
    yield place
    subprocess.run(["umount", "--lazy", str(place)], check=True)  # our own leases are open


def test_a_disk_that_is_too_small_is_told_before_anything_is_written(
    model: str, small_disk: Path, requests_seen: RequestLog
) -> None:
    (small_disk / "others").write_bytes(bytes(20 * MIB))
    with pytest.raises(ConfigError, match=r"no space left.*set CACHE_DIR"):
        fetch(model, small_disk)
    assert not any("model.bin" in line and "GET" in line for line in requests_seen.lines)
    (small_disk / "others").unlink()
    assert fetch(model, small_disk) == CONTENT


def test_a_disk_that_fills_up_is_told_and_given_its_space_back(
    model: str, small_disk: Path, requests_seen: RequestLog
) -> None:
    filled: list[int] = []

    def fill(line: str) -> None:
        if "model.bin" in line and " 206 " in line and not filled:
            filled.append(1)
            with contextlib.suppress(OSError), (small_disk / "others").open("wb") as file:
                while True:
                    file.write(bytes(MIB))

    requests_seen.on_request = fill
    with pytest.raises(ConfigError, match=r"no space left in .* 12582912 bytes"):
        fetch(model, small_disk)
    assert filled
    assert not list(small_disk.rglob("model.bin"))
    (small_disk / "others").unlink()
    assert fetch(model, small_disk) == CONTENT


def test_a_limit_on_the_size_of_files_is_told(model: str, tmp_path: Path) -> None:
    code = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))\n"
    done = subprocess.run(
        [sys.executable, "-c", code + CHILD, model, str(tmp_path), str(PART)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "no space left" in done.stderr
    assert "File too large" in done.stderr
