"""Downloads S3 objects into a staging folder: in parallel ranges, resumed, and checked.

Each range names the ETag that was listed (If-Match), so that no file is made of two
objects. Knows S3 and staging; decides neither what to fetch nor where it ends up.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from functools import partial
from typing import Any

from botocore.exceptions import ClientError, IncompleteReadError

from serve_app.core.errors import ConfigError
from serve_app.storage.artifacts.checksums import (
    Checksum,
    even_parts,
    expected_checksum,
    file_checksum,
)
from serve_app.storage.artifacts.staging import Staging
from serve_app.storage.s3_client import BROKEN, CONNECTIONS, error_code, explained, failing

logger = logging.getLogger(__name__)

PART_BYTES = 16 << 20
"""Bytes asked for in one request: few enough to spread a file over all connections."""

_BLOCK = 1 << 20
_RECORD_BYTES = 4 << 20  # a killed process loses at most this much of each range
_PATIENCE = 8  # attempts without a byte, about a minute: a server that restarts is waited for
_LONGEST_WAIT_S = 15.0
_REPORT_S = 10.0


class ChangedWhileFetching(Exception):
    """An object is no longer the one that was listed."""


class _Stopped(Exception):
    """Another range failed for good; this one need not go on."""


@dataclass(frozen=True, slots=True)
class S3Object:
    """One object to fetch: `name` is its place under the artifact's folder."""

    key: str
    name: str
    size: int
    etag: str


def download_objects(
    client: Any, bucket: str, objects: Sequence[S3Object], staging: Staging
) -> None:
    """Writes what `staging` is missing of `objects`, which are its files in the same order.

    Raises:
        ChangedWhileFetching: an object is no longer the one that was listed.
        ConfigError: access was denied, a connection kept breaking, or a checksum is wrong.
        OSError: the disk is full or cannot be written to.
    """
    _Download(client, bucket, objects, staging).run()


class _Download:
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
        """Downloads what is missing and checks it, both at once; the objects that are damaged.

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
                # Those that only stopped because of the others say nothing of the cause.
                errors = [job.exception() for job in jobs if not job.cancelled()]
                causes = [e for e in errors if e is not None and not isinstance(e, _Stopped)]
                changed = [e for e in causes if isinstance(e, ChangedWhileFetching)]
                raise (changed or causes)[0]
            return [index for index, sound in verdicts.items() if not sound.result()]
        finally:
            if sys.exc_info()[0] is not None:
                self._stop.set()
            ranges.shutdown(cancel_futures=True)
            checks.shutdown(cancel_futures=True)

    def _ranges(self, index: int) -> list[Callable[[], None]]:
        """One job for each range of at most PART_BYTES that object `index` lacks."""
        jobs: list[Callable[[], None]] = []
        for start, end in self._staging.missing(index):
            for begin in range(start, end, PART_BYTES):
                stop = min(begin + PART_BYTES, end)
                jobs.append(partial(self._fetch, index, begin, stop))
        return jobs

    def _fetch(self, index: int, start: int, end: int) -> None:
        """Writes one range, going on where a connection broke."""
        item = self._objects[index]
        descriptor = self._staging.open(index)
        failures = 0
        try:
            while start < end:
                before = start
                try:
                    start = self._stream(descriptor, index, start, end)
                except _Broken as broken:
                    start = broken.position
                    failures = 1 if start > before else failures + 1
                    self._pause(index, failures, broken.cause)
                except ClientError as error:
                    if error_code(error) in ("PreconditionFailed", "412", "NoSuchKey", "404"):
                        raise ChangedWhileFetching from error
                    if error_code(error) in ("InvalidRange", "416"):
                        raise ConfigError(
                            f"cannot fetch {self._name(index)}: the server holds fewer than the "
                            f"{item.size} bytes it lists; upload the object again"
                        ) from error
                    raise explained(error, self._name(index)) from error
        finally:
            os.close(descriptor)

    def _stream(self, descriptor: int, index: int, start: int, end: int) -> int:
        """Writes from `start` for as long as the connection holds; where it ended.

        Raises:
            _Broken: it ended early; says where.
        """
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
                raise ChangedWhileFetching
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
            if isinstance(error, ClientError) and not failing(error):
                raise
            raise _Broken(position, error) from error
        finally:
            self._record(index, recorded, position)
            if body is not None and position < end:
                body.close()  # what is left of the answer is not wanted
        return position

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
            ConfigError: there have been enough.
        """
        logger.warning("%s broke off: %s", self._name(index), cause)
        if failures >= _PATIENCE:
            raise ConfigError(
                f"cannot fetch {self._name(index)}: the transfer broke off {_PATIENCE} times "
                f"without a byte ({cause}); check the network and AWS_ENDPOINT_URL and start "
                "again: what has arrived is kept"
            ) from cause
        if self._stop.wait(min(_LONGEST_WAIT_S, 0.25 * 2**failures)):
            raise _Stopped from None

    def _is_sound(self, index: int) -> bool:
        """Whether the file is what S3's checksum of the object says; follows the download.

        Raises:
            ChangedWhileFetching, ConfigError: as `download_objects`.
        """
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
        """As `_is_sound`, of an object uploaded in parts: their sizes have to be found out."""
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
        """Returns when file `index` is there up to `end`."""
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
        key, failures = self._objects[index].key, 0
        while True:
            try:
                return self._client.head_object(Bucket=self._bucket, Key=key, **options)
            except (*BROKEN, ClientError) as error:
                if error_code(error) in ("PreconditionFailed", "412", "NoSuchKey", "404"):
                    raise ChangedWhileFetching from error
                if isinstance(error, ClientError) and not failing(error):
                    raise explained(error, self._name(index)) from error
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


class _Broken(Exception):
    """A connection ended early, at `position`."""

    def __init__(self, position: int, cause: Exception) -> None:
        super().__init__(str(cause))
        self.position, self.cause = position, cause


def _write(descriptor: int, data: memoryview) -> None:
    while data:
        data = data[os.write(descriptor, data) :]
