"""Downloads one object from the same S3 server with PlainMed, boto3 and `aws s3 cp`, in turn.

    python benchmarks/s3_download.py                     # 300 MB from a file server, 5 rounds
    python benchmarks/s3_download.py --checksum none     # the object has an ETag (MD5) alone
    python benchmarks/s3_download.py --server moto       # from moto's server, as in the tests
    python benchmarks/s3_download.py --aws /path/to/aws  # the AWS command line too

The file server sends ranges with sendfile and is fast enough to show what a client costs; moto
reads a whole object for every range and shows moto. The row "server alone" says which: it reads
the same ranges from plain sockets, writes nothing and checks nothing, so no client is faster.

Times are medians; ratios are to boto3's own transfer with its defaults. PlainMed's time includes
listing, checksum and publishing; boto3 and the AWS command line check no object fetched in
ranges, so a row says what boto3 takes with the same check after it. CPU seconds are those of the
client alone, and mean the same on a busy machine.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import http.client
import http.server
import multiprocessing
import os
import re
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

import boto3
import typer
from boto3.s3.transfer import TransferConfig

from serve_app.storage.artifacts import Downloads, resolve
from serve_app.storage.artifacts.checksums import expected_checksum, file_checksum

app = typer.Typer(add_completion=False, help=__doc__, pretty_exceptions_show_locals=False)

BUCKET, KEY = "models", "merged/model.safetensors"
CONNECTIONS, RANGE = 16, 16 << 20


class FileServer(http.server.BaseHTTPRequestHandler):
    """As much of S3 as a download takes, over one file."""

    protocol_version = "HTTP/1.1"
    path_on_disk: Path
    etag: str
    checksum: str | None

    def do_HEAD(self) -> None:
        self._object(body=False)

    def do_GET(self) -> None:
        if "list-type=2" not in self.path:
            self._object(body=True)
            return
        size = self.path_on_disk.stat().st_size
        listing = (
            "<ListBucketResult><IsTruncated>false</IsTruncated><Contents>"
            f"<Key>{KEY}</Key><Size>{size}</Size><ETag>{self.etag}</ETag>"
            "</Contents></ListBucketResult>"
        ).encode()
        self._head(200, len(listing), {"Content-Type": "application/xml"})
        self.wfile.write(listing)

    def _object(self, *, body: bool) -> None:
        size = self.path_on_disk.stat().st_size
        found = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        start = int(found[1]) if found else 0
        end = min(int(found[2]) + 1, size) if found and found[2] else size
        headers = {"ETag": self.etag, "Accept-Ranges": "bytes"}
        headers["Last-Modified"] = "Mon, 02 Nov 2026 00:00:00 GMT"
        if self.checksum and not found:  # as S3 does for the whole object
            headers["x-amz-checksum-crc64nvme"] = self.checksum
            headers["x-amz-checksum-type"] = "FULL_OBJECT"
        if found:
            headers["Content-Range"] = f"bytes {start}-{end - 1}/{size}"
        self._head(206 if found else 200, end - start, headers)
        if body:
            self.wfile.flush()
            with self.path_on_disk.open("rb") as file:
                while start < end:
                    start += os.sendfile(
                        self.connection.fileno(), file.fileno(), start, end - start
                    )

    def _head(self, status: int, length: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in (headers | {"Content-Length": str(length)}).items():
            self.send_header(name, value)
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        pass


def serve_file(path: Path, etag: str, checksum: str | None, port: int) -> None:
    state = {"path_on_disk": path, "etag": etag, "checksum": checksum}
    handler = type("Handler", (FileServer,), state)
    http.server.ThreadingHTTPServer(("127.0.0.1", port), handler).serve_forever()


@contextlib.contextmanager
def server(kind: str, source: Path, checksum: bool) -> Iterator[str]:
    """The URL of a running server that has `source` at BUCKET and KEY."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    if kind == "file":
        with source.open("rb") as file:
            etag = f'"{hashlib.file_digest(file, "md5").hexdigest()}"'
        crc = base64.b64encode(file_checksum(source, "ChecksumCRC64NVME")).decode()
        arguments = (source, etag, crc if checksum else None, port)
        process = multiprocessing.Process(target=serve_file, args=arguments, daemon=True)
        process.start()
        stop: Callable[[], Any] = process.terminate
    elif kind == "moto":
        command = [
            sys.executable,
            "-m",
            "moto.server",
            "-H",
            "127.0.0.1",
            "-p",
            str(port),
        ]
        started = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        stop = started.terminate
    else:
        raise typer.BadParameter(f"{kind!r} is no server; choose file or moto")
    try:
        deadline = time.monotonic() + 120
        while True:
            with contextlib.suppress(OSError):
                socket.create_connection(("127.0.0.1", port)).close()
                break
            if time.monotonic() > deadline:
                raise typer.Exit(1)
            time.sleep(0.1)
        if kind == "moto":
            client = boto3.client("s3", endpoint_url=url)
            client.create_bucket(Bucket=BUCKET)
            with source.open("rb") as body:
                client.put_object(Bucket=BUCKET, Key=KEY, Body=body)
        yield url
    finally:
        stop()


def by_plainmed(folder: Path) -> Path:
    return resolve(f"s3://{BUCKET}/{KEY}", Downloads(str(folder)))


def by_boto3(folder: Path, config: TransferConfig | None = None) -> Path:
    target = folder / "object"
    boto3.client("s3").download_file(BUCKET, KEY, str(target), Config=config)
    return target


def by_boto3_checked(folder: Path) -> Path:
    path = by_boto3(folder)
    head = boto3.client("s3").head_object(Bucket=BUCKET, Key=KEY, ChecksumMode="ENABLED")
    wanted = expected_checksum(head, BUCKET)
    if wanted is None or file_checksum(path, wanted.kind) != wanted.digest:
        raise SystemExit("boto3 got something else")
    return path


def server_alone(size: int) -> None:
    """Reads all of the object over CONNECTIONS sockets and keeps none of it."""
    where = {"Bucket": BUCKET, "Key": KEY}
    url = urlsplit(boto3.client("s3").generate_presigned_url("get_object", Params=where))

    def drain(start: int) -> int:
        connection = http.client.HTTPConnection(url.netloc, timeout=60)
        end = min(start + RANGE, size) - 1
        span = {"Range": f"bytes={start}-{end}"}
        connection.request("GET", f"{url.path}?{url.query}", headers=span)
        answer, buffer, total = connection.getresponse(), bytearray(1 << 18), 0
        while count := answer.readinto(buffer):
            total += count
        connection.close()
        return total

    with ThreadPoolExecutor(CONNECTIONS) as pool:
        if sum(pool.map(drain, range(0, size, RANGE))) != size:
            raise SystemExit("the server sent another size")


def by_aws(command: str, folder: Path) -> Path:
    target = folder / "object"
    arguments = [
        command,
        "s3",
        "cp",
        f"s3://{BUCKET}/{KEY}",
        str(target),
        "--only-show-errors",
    ]
    subprocess.run(arguments, check=True)
    return target


@app.command()
def main(
    size_mb: Annotated[int, typer.Option(help="object size in 10^6 bytes")] = 300,
    rounds: Annotated[int, typer.Option(help="downloads with each client")] = 5,
    kind: Annotated[str, typer.Option("--server", help="file or moto")] = "file",
    checksum: Annotated[
        str, typer.Option(help="of the file server: crc64nvme, which S3 keeps by default, or none")
    ] = "crc64nvme",
    aws: Annotated[str | None, typer.Option(help="the aws command; unset: on PATH, if any")] = None,
) -> None:
    """Print seconds, MB/s, the ratio to boto3's defaults, and the client's CPU seconds."""
    os.environ.update(
        AWS_ACCESS_KEY_ID="benchmark",
        AWS_SECRET_ACCESS_KEY="benchmark",
        AWS_REGION="us-east-1",
        AWS_DEFAULT_REGION="us-east-1",
        AWS_EC2_METADATA_DISABLED="true",
    )
    wide = TransferConfig(multipart_chunksize=RANGE, max_concurrency=CONNECTIONS)
    size = size_mb * 10**6
    clients: dict[str, Callable[[Path], Path | None]] = {
        "server alone": lambda _: server_alone(size),
        "boto3": by_boto3,
        "boto3, 16 x 16 MiB": lambda folder: by_boto3(folder, wide),
        "boto3, then checked": by_boto3_checked,
        "plainmed": by_plainmed,
    }
    command = aws or shutil.which("aws")
    if command is not None:
        clients["aws s3 cp"] = lambda folder: by_aws(command, folder)
    times: dict[str, list[float]] = {name: [] for name in clients}
    cpu: dict[str, list[float]] = {name: [] for name in clients}
    with tempfile.TemporaryDirectory() as scratch:
        source = Path(scratch, "source")
        block = os.urandom((1 << 20) - 8)
        with source.open("wb") as file:
            for number in range(size // (1 << 20) + 1):
                file.write(block + number.to_bytes(8, "big"))
            file.truncate(size)
        with source.open("rb") as file:
            wanted = hashlib.file_digest(file, "sha256").digest()
        with server(kind, source, checksum == "crc64nvme") as url:
            os.environ["AWS_ENDPOINT_URL"] = url
            for turn in range(rounds + 1):  # the first is not counted
                for name, download in clients.items():
                    folder = Path(scratch, "got")
                    folder.mkdir()
                    began, used = time.perf_counter(), sum(os.times()[:4])
                    path = download(folder)
                    taken, used = time.perf_counter() - began, sum(os.times()[:4]) - used
                    if path is not None:
                        with path.open("rb") as file:
                            if hashlib.file_digest(file, "sha256").digest() != wanted:
                                raise SystemExit(f"{name} got something else")
                    shutil.rmtree(folder)
                    if turn:
                        times[name].append(taken)
                        cpu[name].append(used)
    medians = {name: statistics.median(found) for name, found in times.items()}
    kept = f", checksum {checksum}" if kind == "file" else ""
    typer.echo(f"{size_mb} MB from the {kind} server{kept}, medians of {rounds}, interleaved")
    for name, median in medians.items():
        spread = f"{min(times[name]):.2f} to {max(times[name]):.2f}"
        ratio = medians["boto3"] / median
        typer.echo(
            f"{name:20} {median:6.2f} s ({spread})  {size_mb / median:6.0f} MB/s  {ratio:5.2f} x  "
            f"{statistics.median(cpu[name]):5.2f} s CPU"
        )


if __name__ == "__main__":
    app()
