"""Fetches `s3://bucket/key` or `s3://bucket/prefix/` into the cache. Knows S3, no model.

The listing (keys, sizes, ETags) names the version: unchanged, nothing is downloaded. A folder
uploaded with a manifest (see `s3_upload`) is complete only when every object is the one
the manifest names. Objects are fetched in parallel ranges, resumed, and checked; each range
names the ETag that was listed (If-Match), so that no file is made of two objects.
"""

from __future__ import annotations

import hashlib
import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

from botocore.exceptions import ClientError, IncompleteReadError

from serve_app.core.documents import MOST_BYTES, parse_json
from serve_app.core.errors import ConfigError
from serve_app.storage.artifacts.cache import Artifact, safe_relative
from serve_app.storage.artifacts.checksums import (
    Checksum,
    even_parts,
    expected_checksum,
    file_checksum,
)
from serve_app.storage.artifacts.eviction import Cache
from serve_app.storage.artifacts.staging import Staging, Wanted
from serve_app.storage.s3_client import (
    ATTEMPTS,
    BROKEN,
    CONNECTIONS,
    FAILURES,
    UNREACHABLE,
    error_code,
    explained,
    explaining,
    failing,
    new_client,
    parse_url,
)

logger = logging.getLogger(__name__)

UPLOAD_MANIFEST = "plainmed-upload.json"
"""Object that an upload writes first: name -> [size, ETag] of every object there will be."""

PART_BYTES = 16 << 20
"""Bytes asked for in one request: few enough to spread a file over all connections."""

# Where a version keeps its objects; which of the two tells a file from a directory of one.
_FILE, _TREE = "file", "tree"

_BLOCK = 1 << 20
_RECORD_BYTES = 4 << 20  # a killed process loses at most this much of each range
_PATIENCE = 8  # attempts without a byte, about a minute: a server that restarts is waited for
_LONGEST_WAIT_S = 15.0
_REPORT_S = 10.0


class _Changed(Exception):
    """An object is no longer the one that was listed."""


class _Stopped(Exception):
    """Another range failed for good; this one need not go on."""


class _Unfinished(ConfigError):
    """The objects under a prefix are not those of its manifest: an upload is under way."""


_UNSURE = (_Unfinished, *UNREACHABLE)
"""What leaves open whether the copy fetched last is still the object; it is used then."""


@dataclass(frozen=True, slots=True)
class S3Object:
    """One object to fetch: `name` is its place under the artifact's folder."""

    key: str
    name: str
    size: int
    etag: str


def fetch_s3(reference: str, cache: Cache) -> Path:
    """The local copy of an object (a file) or of all objects under a prefix (a directory).

    `s3://bucket/x/` is the prefix; `s3://bucket/x` is the object of that key if there is
    one, else the prefix `x/`. When the endpoint cannot be reached or fails, or somebody is
    uploading to the prefix, the copy fetched last is used, with a warning.

    Raises:
        ConfigError: the reference is malformed, nothing is there, access is denied, a key
            would leave the folder, or the transfer failed; names bucket, key, cause, remedy.
    """
    bucket, key = parse_url(reference)
    artifact = None
    try:
        client = new_client()
        endpoint = client.meta.endpoint_url
        artifact = Artifact(cache, "s3", f"{endpoint}\n{bucket}\n{key}", f"{bucket}-{key}")
        for attempt in range(ATTEMPTS):
            try:
                return _fetch(client, artifact, bucket, key, reference)
            except _Changed:
                logger.warning("%s changed while it was fetched (%d)", reference, attempt + 1)
    except FAILURES as error:
        if artifact is not None and (isinstance(error, _UNSURE) or failing(error)):
            cached = artifact.latest()
            if cached is not None:
                logger.warning("%s cannot be checked (%s); using the cached copy", reference, error)
                return _entry(cached)
        if isinstance(error, ConfigError):
            raise
        raise explained(error, "fetch", reference) from error
    raise ConfigError(f"{reference} was replaced {ATTEMPTS} times while it was fetched; try again")


def require_s3(reference: str) -> None:
    """Checks that there is something at `reference`; fetches no object.

    Raises:
        ConfigError: as `fetch_s3`.
    """
    bucket, key = parse_url(reference)
    with explaining("fetch", reference):
        _found(new_client(), bucket, key, reference)


def list_objects(client: Any, bucket: str, prefix: str) -> list[S3Object]:
    """The objects under `prefix`, which ends with `/`, by their names below it.

    Raises:
        ConfigError: a key would be written outside the folder.
    """
    objects = []
    for page in client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix):
        for item in page.get("Contents", []):
            if not item["Key"].endswith("/"):  # consoles write such objects to show a folder
                objects.append(_object(item, bucket, item["Key"][len(prefix) :]))
    return sorted(objects, key=lambda found: found.name)


def _fetch(client: Any, artifact: Artifact, bucket: str, key: str, reference: str) -> Path:
    objects = _found(client, bucket, key, reference)
    listing = "\n".join(f"{o.name}\t{o.size}\t{o.etag}" for o in objects)
    version = hashlib.sha256(listing.encode()).hexdigest()[:32]
    files = [Wanted(item.name, item.size, item.etag) for item in objects]

    def download(staging: Staging) -> None:
        _Download(client, bucket, objects, staging).run()

    return _entry(artifact.fetch(version, files, download))


def _found(client: Any, bucket: str, key: str, reference: str) -> list[S3Object]:
    objects = _listed(client, bucket, key)
    if not objects:
        raise ConfigError(
            f"nothing is at {reference}: bucket {bucket!r} has no object {key!r} and none under "
            f"{key.rstrip('/') + '/'!r}; check the name, or upload the model there"
        )
    _require_tree(objects, bucket)
    return objects


def _require_tree(objects: Sequence[S3Object], bucket: str) -> None:
    """Raises ConfigError where one object would have to be a file and a folder."""
    files = {item.name: item.key for item in objects}
    for item in objects:
        for above in map(str, PurePosixPath(item.name).parents):
            if above in files:
                raise ConfigError(
                    f"bucket {bucket!r} has the keys {files[above]!r} and {item.key!r}, and no "
                    "directory can hold both; remove or rename one"
                )


def _entry(folder: Path) -> Path:
    """The file of a reference to one object, else the directory of all."""
    tree = folder / _TREE
    return tree if tree.is_dir() else next((folder / _FILE).iterdir())


def _listed(client: Any, bucket: str, key: str) -> list[S3Object]:
    """The objects of a reference, sorted by name, placed under `_FILE` or `_TREE`."""
    if not key.endswith("/"):
        # Keys are listed in order: the key itself, if it exists, is first of those it begins.
        page = client.list_objects_v2(Bucket=bucket, Prefix=key, MaxKeys=1)
        for item in page.get("Contents", []):
            if item["Key"] == key:
                return [_object(item, bucket, key.rpartition("/")[2], _FILE)]
    objects = list_objects(client, bucket, key.rstrip("/") + "/")
    there = _uploaded(client, bucket, objects)
    return [replace(item, name=f"{_TREE}/{item.name}") for item in there]


def _uploaded(client: Any, bucket: str, objects: list[S3Object]) -> list[S3Object]:
    """The objects of the upload's manifest, where there is one, else all of them.

    Raises:
        _Unfinished: one of them is absent or has another size or ETag.
    """
    found = {item.name: item for item in objects}
    manifest = found.pop(UPLOAD_MANIFEST, None)
    if manifest is None:
        return objects
    where = f"s3://{bucket}/{manifest.key}"
    try:
        body = client.get_object(Bucket=bucket, Key=manifest.key)["Body"].read(MOST_BYTES + 1)
        if len(body) > MOST_BYTES:
            raise ValueError(f"it has more than {MOST_BYTES} bytes")
        wanted = {str(n): (int(s), str(e)) for n, (s, e) in parse_json(body)["files"].items()}
    except client.exceptions.NoSuchKey as error:
        raise _Changed from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(
            f"{where} is not a manifest ({error}); run merge_and_upload again, or delete it to "
            "take the folder as it is"
        ) from None
    wrong = sorted(
        name
        for name, expected in wanted.items()
        if name not in found or (found[name].size, found[name].etag) != expected
    )
    if wrong:
        raise _Unfinished(
            f"the upload that {where} describes is not complete: {len(wrong)} of "
            f"{len(wanted)} objects are absent or others, such as {wrong[0]}; wait for the upload "
            "to end, run merge_and_upload again, or delete that description to take what is there"
        )
    return [found[name] for name in sorted(wanted)]


def _object(item: Any, bucket: str, name: str, folder: str = "") -> S3Object:
    try:
        relative = PurePosixPath(folder, safe_relative(name))
    except ValueError:
        raise ConfigError(
            f"bucket {bucket!r} has the key {item['Key']!r}, which would be written outside the "
            "model's folder; remove or rename it"
        ) from None
    return S3Object(item["Key"], str(relative), int(item["Size"]), str(item["ETag"]))


class _Download:
    """Writes what `staging` is missing of `objects`, which are its files in the same order."""

    def __init__(
        self, client: Any, bucket: str, objects: Sequence[S3Object], staging: Staging
    ) -> None:
        self._client, self._bucket, self._objects = client, bucket, objects
        self._staging = staging
        self._stop = threading.Event()
        self._guard = threading.Lock()
        self._arrived = threading.Condition()
        self._began = self._reported = time.monotonic()
        self._received = 0

    def run(self) -> None:
        """Downloads and checks everything.

        Raises:
            _Changed: an object is no longer the one that was listed.
            ConfigError: access was denied, a connection kept breaking, or a checksum is wrong.
            OSError: the disk is full or cannot be written to.
        """
        indices = range(len(self._objects))
        damaged = self._pass(indices)
        if damaged:  # once more: what a network damaged is right the second time
            for index in damaged:
                logger.warning("%s does not match its checksum", self._name(index))
                self._staging.forget(index)
            for index in self._pass(damaged):
                self._staging.forget(index)
                raise ConfigError(
                    f"cannot fetch {self._name(index)}: its content does not match the "
                    "checksum S3 keeps of it, twice; upload the object again"
                )

    def _pass(self, indices: Sequence[int]) -> list[int]:
        """Downloads what is missing and checks it meanwhile; returns the damaged objects.

        The first failure stops the rest and is raised.
        """
        ranges = ThreadPoolExecutor(CONNECTIONS, thread_name_prefix="s3")
        checks = ThreadPoolExecutor(os.cpu_count() or 1, thread_name_prefix="s3-check")
        try:
            jobs: list[Future[Any]] = [
                ranges.submit(job) for index in indices for job in self._ranges(index)
            ]
            verdicts = {index: checks.submit(self._is_sound, index) for index in indices}
            jobs += verdicts.values()
            done, _ = wait(jobs, return_when=FIRST_EXCEPTION)
            if any(job.exception() is not None for job in done):
                self._stop.set()
                for job in jobs:
                    job.cancel()
                wait(jobs)
                errors = [job.exception() for job in jobs if not job.cancelled()]
                # A job that stopped because of another one does not know the cause.
                causes = [e for e in errors if e is not None and not isinstance(e, _Stopped)]
                raise next((e for e in causes if isinstance(e, _Changed)), causes[0])
            return [index for index, sound in verdicts.items() if not sound.result()]
        finally:
            if sys.exc_info()[0] is not None:
                self._stop.set()
            ranges.shutdown(cancel_futures=True)
            checks.shutdown(cancel_futures=True)

    def _ranges(self, index: int) -> list[Callable[[], None]]:
        """One job for each range of at most PART_BYTES that object `index` lacks."""
        return [
            partial(self._fetch, index, begin, min(begin + PART_BYTES, end))
            for start, end in self._staging.missing(index)
            for begin in range(start, end, PART_BYTES)
        ]

    def _fetch(self, index: int, start: int, end: int) -> None:
        """Writes one range, going on where a connection broke."""
        descriptor, failures = self._staging.open(index), 0
        try:
            while start < end:
                position, broken = self._stream(descriptor, index, start, end)
                failures = 1 if position > start else failures + 1
                start = position
                if broken is not None:
                    self._pause(index, failures, broken)
        finally:
            os.close(descriptor)

    def _stream(
        self, descriptor: int, index: int, start: int, end: int
    ) -> tuple[int, Exception | None]:
        """Writes from `start` for as long as the connection holds; where and why it ended."""
        item = self._objects[index]
        position = recorded = start
        body = None
        try:
            response = self._client.get_object(
                Bucket=self._bucket,
                Key=item.key,
                IfMatch=item.etag,
                Range=f"bytes={start}-{end - 1}",
            )
            body = response["Body"]
            if str(response.get("ETag", item.etag)) != item.etag:
                raise _Changed
            self._require_range(response, item, start)
            os.lseek(descriptor, start, os.SEEK_SET)
            while position < end:
                if self._stop.is_set():
                    raise _Stopped
                block = body.read(min(_BLOCK, end - position))  # its readinto reads, then copies
                if not block:
                    raise IncompleteReadError(
                        actual_bytes=position - start, expected_bytes=end - start
                    )
                _write(descriptor, memoryview(block))
                position += len(block)
                self._count(len(block))
                if position - recorded >= _RECORD_BYTES:
                    self._record(index, recorded, position)
                    recorded = position
        except (*BROKEN, ClientError) as error:
            return position, error
        finally:
            self._record(index, recorded, position)
            if body is not None and position < end:
                body.close()  # what is left of the answer is not wanted
        return position, None

    def _require_range(self, response: Any, item: S3Object, start: int) -> None:
        status = response["ResponseMetadata"]["HTTPStatusCode"]
        given = str(response.get("ContentRange", "")).removeprefix("bytes ").partition("-")[0]
        if (status == 206 and given == str(start)) or (status == 200 and start == 0):
            return
        raise ConfigError(
            f"cannot fetch s3://{self._bucket}/{item.key}: the server does not answer a Range "
            f"request with that range (status {status}); use a server that does"
        )

    def _pause(self, index: int, failures: int, cause: Exception) -> None:
        """Waits before the next attempt, longer each time.

        Raises:
            _Changed, ConfigError: another attempt would not help, or there have been enough.
        """
        name, code = self._name(index), error_code(cause)
        if code in ("PreconditionFailed", "412", "NoSuchKey", "404"):
            raise _Changed from cause
        if code in ("InvalidRange", "416"):
            raise ConfigError(
                f"cannot fetch {name}: the server holds fewer than the "
                f"{self._objects[index].size} bytes it lists; upload the object again"
            ) from cause
        if isinstance(cause, ClientError) and not failing(cause):
            raise explained(cause, "fetch", name) from cause
        logger.warning("%s broke off: %s", name, cause)
        if failures >= _PATIENCE:
            raise ConfigError(
                f"cannot fetch {name}: the transfer broke off {_PATIENCE} times "
                f"without a byte ({cause}); check the network and AWS_ENDPOINT_URL and start "
                "again: what has arrived is kept"
            ) from cause
        if self._stop.wait(min(_LONGEST_WAIT_S, 0.25 * 2**failures)):
            raise _Stopped from None

    def _is_sound(self, index: int) -> bool:
        """Whether the file matches S3's checksum of the object; waits for the download."""
        # IfMatch not together with PartNumber: some servers compare it with the part's ETag.
        head = self._head(index, IfMatch=self._objects[index].etag, ChecksumMode="ENABLED")
        wanted = expected_checksum(head, self._bucket)
        if wanted is None:
            logger.info("%s has no checksum; its size was checked", self._name(index))
            return True
        if wanted.parts:
            return self._parts_match(index, wanted)
        path, follow = self._staging.path(index), partial(self._wait_for, index)
        return file_checksum(path, wanted.kind, None, follow) == wanted.digest

    def _parts_match(self, index: int, wanted: Checksum) -> bool:
        """As `_is_sound`, of an object uploaded in parts, whose sizes S3 does not list."""
        size, path = self._objects[index].size, self._staging.path(index)
        first = int(self._head(index, PartNumber=1)["ContentLength"])
        even = even_parts(size, first, wanted.parts)
        follow = partial(self._wait_for, index)
        if even is not None and file_checksum(path, wanted.kind, even, follow) == wanted.digest:
            return True
        self._wait_for(index, size)
        # Uneven parts, or damage: only the sizes as they were tell the two apart.
        numbers = range(1, wanted.parts + 1)
        exact = [int(self._head(index, PartNumber=n)["ContentLength"]) for n in numbers]
        if sum(exact) != size:
            logger.info("%s: only its size was checked", self._name(index))
            return True
        return exact != even and file_checksum(path, wanted.kind, exact) == wanted.digest

    def _wait_for(self, index: int, end: int) -> None:
        """Returns once file `index` is there up to `end`."""
        with self._arrived:
            while self._staging.prefix(index) < end:
                if self._stop.is_set():
                    raise _Stopped
                self._arrived.wait(0.2)

    def _record(self, index: int, start: int, end: int) -> None:
        self._staging.record(index, start, end)
        with self._arrived:
            self._arrived.notify_all()

    def _head(self, index: int, **options: Any) -> Any:
        failures = 0
        while True:
            try:
                return self._client.head_object(
                    Bucket=self._bucket, Key=self._objects[index].key, **options
                )
            except (*BROKEN, ClientError) as error:
                failures += 1
                self._pause(index, failures, error)

    def _count(self, received: int) -> None:
        with self._guard:
            self._received += received
            now = time.monotonic()
            if now - self._reported < _REPORT_S:
                return
            self._reported = now
            rate = self._received / (now - self._began) / 1e6
        total = sum(item.size for item in self._objects)
        logger.info(
            "s3://%s: %.2f of %.2f GB, %.0f MB/s",
            self._bucket,
            self._staging.present / 1e9,
            total / 1e9,
            rate,
        )

    def _name(self, index: int) -> str:
        return f"s3://{self._bucket}/{self._objects[index].key}"


def _write(descriptor: int, data: memoryview) -> None:
    while data:
        data = data[os.write(descriptor, data) :]
