"""References to local paths: S3 against moto's HTTP server, the hub against a small one here."""

from __future__ import annotations

import contextlib
import hashlib
import http.server
import json
import logging
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import boto3
import pytest
from moto.server import ThreadedMotoServer

from serve_app.artifacts import resolve
from serve_app.artifacts.store import Artifact, cache_root, safe_relative
from serve_app.errors import ConfigError

FILES = {
    "config.json": b'{"model_type": "llama"}',
    "model.safetensors": bytes(range(256)) * 1200,
    "sub/notes.txt": b"nested",
}


class RequestLog(logging.Handler):
    """Every request the S3 server answered; `on_request` runs before its body is sent."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []
        self.on_request: Callable[[str], None] | None = None

    def createLock(self) -> None:
        self.lock = None  # `on_request` may cause requests, logged by other threads

    def emit(self, record: logging.LogRecord) -> None:
        line = record.getMessage()
        self.lines.append(line)
        if self.on_request is not None:
            self.on_request(line)

    def downloads(self, name: str) -> int:
        return sum(f"/{name} HTTP" in line and "GET" in line for line in self.lines)


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


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def fetch(reference: str, cache: Path) -> Path:
    return resolve(reference, cache_dir=str(cache))


# --- local and malformed references ----------------------------------------------------------


def test_local_and_embedded_references(tmp_path: Path) -> None:
    assert resolve(str(tmp_path)) == tmp_path
    assert (resolve("embedded:all-MiniLM-L6-v2") / "config.json").is_file()


@pytest.mark.parametrize(
    "reference",
    [
        "",
        "  ",
        "s3://",
        "s3://bucket",
        "s3://bucket/",
        "s3:///key",
        "s3://_/key",
        "hf://",
        "hf://name",
        "hf://org/name@",
        "hf://org/name/more",
        "hf://org/../name",
        "gs://bucket/key",
        "https://example.org/model",
        "embedded:nothing",
        "no/such/folder",
        "nul\0byte",
    ],
)
def test_a_malformed_or_missing_reference_is_named(reference: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        fetch(reference, tmp_path)
    named = reference.removeprefix("embedded:").strip() or "empty"
    assert repr(named).strip("'") in caught.value.message
    assert not contents(tmp_path)


@pytest.mark.parametrize(
    "name", ["", "/etc/passwd", "../x", "a/../../x", "a//b", "./a", "a/.", "a\\b", "C:/x", "a\0b"]
)
def test_names_that_leave_the_folder_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=r"safe|drive"):
        safe_relative(name)


def test_the_cache_is_where_the_platform_keeps_caches(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_root(None) == tmp_path / "xdg" / "plainmed"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setattr(sys, "platform", "linux")
    assert cache_root(None) == tmp_path / "home" / ".cache" / "plainmed"
    assert cache_root(str(tmp_path / "own")) == tmp_path / "own"
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="CACHE_DIR"):
        cache_root(str(tmp_path / "file" / "below"))


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
    class Denying(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = b"<Error><Code>AccessDenied</Code><Message>no</Message></Error>"
            self.send_response(403)
            self.send_header("Content-Type", "application/xml")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    with serving(Denying) as url:
        monkeypatch.setenv("AWS_ENDPOINT_URL", url)
        with pytest.raises(ConfigError, match="s3:GetObject") as caught:
            fetch("s3://private-bucket/model/", tmp_path)
    assert "private-bucket" in caught.value.message
    assert "test-secret-key" not in caught.value.message


# --- s3 over a connection that breaks ----------------------------------------------------------


class FlakyProxy:
    """A TCP proxy that cuts (or stalls) answers over `limit` bytes, `faults` times."""

    def __init__(self, upstream: str, *, faults: int, limit: int, stall: bool = False) -> None:
        host, port = upstream.removeprefix("http://").split(":")
        self.upstream = (host, int(port))
        self.faults, self.limit, self.stall = faults, limit, stall
        self.stalled = threading.Event()
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self.listener.accept()
                far = socket.create_connection(self.upstream)
                threading.Thread(target=self._pump, args=(near, far), daemon=True).start()
                threading.Thread(target=self._answer, args=(far, near), daemon=True).start()

    @staticmethod
    def _pump(source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                sink.sendall(data)

    def _answer(self, far: socket.socket, near: socket.socket) -> None:
        passed = 0
        with contextlib.suppress(OSError):
            while data := far.recv(16384):
                passed += len(data)
                if passed > self.limit and self.faults > 0:
                    self.faults -= 1
                    self.stalled.set()
                    if self.stall:
                        return
                    near.shutdown(socket.SHUT_RDWR)
                    break
                near.sendall(data)
            near.close()


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


def test_a_full_disk_is_named_and_leaves_nothing(tmp_path: Path) -> None:
    artifact = Artifact(tmp_path, "x", "x")

    def fill(folder: Path) -> None:
        (folder / "a").write_bytes(b"half")
        with open("/dev/full", "wb", buffering=0) as full:  # the kernel's own ENOSPC
            full.write(b"x")

    if not Path("/dev/full").exists():
        pytest.skip("needs /dev/full")
    with pytest.raises(ConfigError, match="no space left"):
        artifact.fetch("ab12", {"a": 4}, fill)
    assert artifact.complete("ab12") is None
    assert not list(tmp_path.rglob("*.partial"))


def test_a_file_of_another_size_than_listed_is_refused(tmp_path: Path) -> None:
    artifact = Artifact(tmp_path, "x", "x")
    with pytest.raises(ConfigError, match="should have 9 bytes and came out with 4"):
        artifact.fetch(
            "ab12", {"a": 9}, lambda folder: (folder / "a").write_bytes(b"half") and None
        )
    assert artifact.complete("ab12") is None


# --- the hub -------------------------------------------------------------------------------


@contextlib.contextmanager
def serving(handler: type[http.server.BaseHTTPRequestHandler]) -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


class Hub(http.server.BaseHTTPRequestHandler):
    """The three hub endpoints a snapshot takes: revision, tree, resolve."""

    commit = "0123456789abcdef0123456789abcdef01234567"
    downloads: list[str]
    tokens: list[str]

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        self.tokens.append(self.headers.get("Authorization", ""))
        path = self.path.partition("?")[0]
        if path in ("/api/models/org/tiny/revision/main", "/api/models/org/tiny/revision/v1"):
            self._send(200, json.dumps({"id": "org/tiny", "sha": self.commit}).encode())
        elif path.startswith("/api/models/org/tiny/tree/"):
            tree = [
                {"type": "file", "path": n, "size": len(c), "oid": hashlib.sha1(c).hexdigest()}
                for n, c in FILES.items()
            ]
            self._send(200, json.dumps(tree).encode())
        elif path.startswith("/api/models/org/tiny/revision/"):
            self._send(404, b"{}", {"X-Error-Code": "RevisionNotFound"})
        elif path.startswith("/api/models/org/gated"):
            self._send(403, b"{}", {"X-Error-Code": "GatedRepo"})
        elif found := re.fullmatch(r"/org/tiny/resolve/\w+/(.+)", path):
            if self.command == "GET":
                self.downloads.append(found[1])
            content = FILES[found[1]]
            etag = f'"{hashlib.sha1(content).hexdigest()}"'
            self._send(200, content, {"ETag": etag, "X-Repo-Commit": self.commit})
        else:
            self._send(404, b"{}", {"X-Error-Code": "RepoNotFound"})

    def _send(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


def hub_resolve(references: list[str], cache: Path, **environment: str) -> list[str]:
    """Resolves in a process of its own: huggingface_hub reads its environment at import.

    One line a reference: the path, or `ConfigError: ` and the message.
    """
    code = (
        "import sys\n"
        "from serve_app.artifacts import resolve\n"
        "from serve_app.errors import ConfigError\n"
        "for reference in sys.argv[2:]:\n"
        "    try:\n"
        "        print(resolve(reference, cache_dir=sys.argv[1], hf_token='hf_secret123'))\n"
        "    except ConfigError as error:\n"
        "        print('ConfigError:', error.message.replace(chr(10), ' '))\n"
    )
    variables = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "HUGGING"))}
    done = subprocess.run(
        [sys.executable, "-c", code, str(cache), *references],
        env={**variables, "HF_HUB_DISABLE_TELEMETRY": "1", **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert "hf_secret123" not in done.stdout + done.stderr
    return done.stdout.splitlines()


def test_a_hub_snapshot_is_fetched_once_and_works_offline_then(tmp_path: Path) -> None:
    handler = type("Recording", (Hub,), {"downloads": [], "tokens": []})
    with serving(handler) as url:
        found = hub_resolve(
            [
                "hf://org/tiny",
                "hf://org/tiny@v1",
                "hf://org/tiny@nope",
                "hf://org/absent",
                "hf://org/gated",
            ],
            tmp_path,
            HF_ENDPOINT=url,
        )
    assert contents(Path(found[0])) == FILES
    assert found[1] == found[0]
    assert sorted(handler.downloads) == sorted(FILES)
    assert set(handler.tokens) == {"Bearer hf_secret123"}
    assert "has no revision 'nope'" in found[2]
    assert "no repository org/absent" in found[3]
    assert "gated" in found[4]
    # The server is gone: the complete snapshot is used, an absent one is an error.
    assert hub_resolve(["hf://org/tiny"], tmp_path, HF_HUB_OFFLINE="1") == [found[0]]
    (gone,) = hub_resolve(["hf://org/other"], tmp_path, HF_ENDPOINT=url)
    assert "cannot be reached" in gone
    (offline,) = hub_resolve(["hf://org/other"], tmp_path, HF_HUB_OFFLINE="1")
    assert "HF_HUB_OFFLINE" in offline
