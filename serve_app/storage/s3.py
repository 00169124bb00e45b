"""Objects and prefixes of an S3 bucket, as `File` and `Folder`."""

# ruff: noqa: D102 - File and Folder say what each method does

from __future__ import annotations

import contextlib
import functools
import io
import tempfile
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import IO, Any, BinaryIO, cast

from serve_app.core.errors import InvalidInput
from serve_app.storage.base import Folder
from serve_app.storage.s3_client import ATTEMPTS, BROKEN, explaining, new_client, parse_url

client = functools.cache(new_client)
"""The S3 client of this process."""

_READ = 8 << 20  # bytes a request while a file is read from start to end
_PARALLEL = 8
_DELETE_AT_ONCE = 1000  # most keys S3 takes in one request

_explaining = functools.partial(explaining, kind=InvalidInput)


class S3File:
    """An object of a bucket."""

    local = False

    def __init__(self, name: str) -> None:
        self.name = name
        self._bucket, self._key = parse_url(name, InvalidInput)

    @property
    def suffix(self) -> str:
        return Path(self._key).suffix.lower()

    def _head(self) -> Any:
        with _explaining("read", self.name):
            return client().head_object(Bucket=self._bucket, Key=self._key)

    def stamp(self) -> str:
        found = self._head()
        return f"{found['ContentLength']} {found['ETag']}"

    def open(self) -> BinaryIO:
        size = int(self._head()["ContentLength"])
        return cast(BinaryIO, io.BufferedReader(_S3Reader(self, size), _READ))

    def span(self, start: int, end: int) -> bytes:
        if start >= end:
            return b""
        where = {"Bucket": self._bucket, "Key": self._key, "Range": f"bytes={start}-{end - 1}"}
        with _explaining("read", self.name):
            for _ in range(ATTEMPTS - 1):  # boto3 repeats a request, not an answer that breaks off
                with contextlib.suppress(*BROKEN):
                    return client().get_object(**where)["Body"].read()
            return client().get_object(**where)["Body"].read()

    def check_writable(self) -> None:
        probe = f"{self._key}.probe"
        with _explaining("write", self.name):
            client().put_object(Bucket=self._bucket, Key=probe, Body=b"")
            client().delete_object(Bucket=self._bucket, Key=probe)

    @contextlib.contextmanager
    def written(self) -> Iterator[IO[bytes]]:
        # On disk first: an upload that stops half-way must leave no object.
        with tempfile.TemporaryFile(prefix="plainmed-") as file:
            try:
                yield file
            except OSError as error:
                raise InvalidInput(
                    f"cannot write {self.name}: {error.strerror or error} "
                    f"(it is put together in {tempfile.gettempdir()}; set TMPDIR)"
                ) from error
            file.seek(0)
            with _explaining("write", self.name):
                client().upload_fileobj(file, self._bucket, self._key)

    def beside(self, suffix: str) -> Folder:
        return S3Folder(f"{self.name}{suffix}/", self._bucket, f"{self._key}{suffix}/")


class S3Folder:
    """All objects under a prefix."""

    def __init__(self, name: str, bucket: str, prefix: str) -> None:
        self.name, self._bucket, self._prefix = name, bucket, prefix

    def names(self) -> set[str]:
        with _explaining("list", self.name):
            pages = client().get_paginator("list_objects_v2")
            return {
                item["Key"][len(self._prefix) :]
                for page in pages.paginate(Bucket=self._bucket, Prefix=self._prefix)
                for item in page.get("Contents", [])
            }

    def read(self, name: str) -> bytes:
        with _explaining("read", self.name + name):
            answer = client().get_object(Bucket=self._bucket, Key=self._prefix + name)
            return answer["Body"].read()

    def read_many(self, names: Iterable[str]) -> Iterator[bytes]:
        # A few ahead: a request takes tens of milliseconds, and there may be thousands.
        waiting: deque[Future[bytes]] = deque()
        with ThreadPoolExecutor(_PARALLEL) as pool:
            for name in names:
                waiting.append(pool.submit(self.read, name))
                if len(waiting) == 2 * _PARALLEL:
                    yield waiting.popleft().result()
            yield from (job.result() for job in waiting)

    def write(self, name: str, content: bytes) -> None:
        with _explaining("write", self.name + name):
            client().put_object(Bucket=self._bucket, Key=self._prefix + name, Body=content)

    def clear(self) -> None:
        names = sorted(self.names())
        with _explaining("remove", self.name):
            for start in range(0, len(names), _DELETE_AT_ONCE):
                keys = [{"Key": self._prefix + n} for n in names[start : start + _DELETE_AT_ONCE]]
                client().delete_objects(Bucket=self._bucket, Delete={"Objects": keys})


class _S3Reader(io.RawIOBase):
    """An object as a seekable file: each read requests that span."""

    def __init__(self, source: S3File, size: int) -> None:
        self._source, self._size, self._at = source, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        self._at = base + offset
        return self._at

    def tell(self) -> int:
        return self._at

    def readinto(self, buffer: Any) -> int:
        found = self._source.span(self._at, min(self._at + len(buffer), self._size))
        buffer[: len(found)] = found
        self._at += len(found)
        return len(found)
