"""Objects and prefixes of an S3 bucket, as `File` and `Folder`.

Credentials, region and endpoint come from the usual AWS chain: environment (AWS_ENDPOINT_URL
too), profile, role.
"""

# ruff: noqa: D102 - File and Folder say what each method does

from __future__ import annotations

import contextlib
import functools
import io
import os
import tempfile
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, Any, BinaryIO, cast

from serve_app.core.errors import InvalidInput
from serve_app.storage.base import Folder

_READ = 8 << 20  # bytes of one request while a file is read from start to end
_ATTEMPTS = 4
_PARALLEL = 8
_DELETE_AT_ONCE = 1000  # most keys S3 takes in one request


class S3File:
    """An object of a bucket."""

    local = False

    def __init__(self, name: str, bucket: str, key: str) -> None:
        self.name = name
        self._bucket = bucket
        self._key = key

    @property
    def suffix(self) -> str:
        return Path(self._key).suffix.lower()

    def _head(self) -> Any:
        with _s3("read", self.name):
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
        with _s3("read", self.name):
            return self._get(f"bytes={start}-{end - 1}")

    def _get(self, span: str) -> bytes:
        from botocore.exceptions import BotoCoreError

        for attempt in range(_ATTEMPTS):
            try:
                answer = client().get_object(Bucket=self._bucket, Key=self._key, Range=span)
                return answer["Body"].read()
            except BotoCoreError:  # boto3 repeats a request, but not one that breaks off later
                if attempt == _ATTEMPTS - 1:
                    raise
        raise AssertionError("the loop returns or raises")

    def check_writable(self) -> None:
        probe = f"{self._key}.probe"
        with _s3("write", self.name):
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
            with _s3("write", self.name):
                client().upload_fileobj(file, self._bucket, self._key)

    def beside(self, suffix: str) -> Folder:
        return S3Folder(f"{self.name}{suffix}/", self._bucket, f"{self._key}{suffix}/")


class S3Folder:
    """All objects under a prefix."""

    def __init__(self, name: str, bucket: str, prefix: str) -> None:
        self.name = name
        self._bucket = bucket
        self._prefix = prefix

    def names(self) -> set[str]:
        with _s3("list", self.name):
            pages = client().get_paginator("list_objects_v2")
            return {
                item["Key"][len(self._prefix) :]
                for page in pages.paginate(Bucket=self._bucket, Prefix=self._prefix)
                for item in page.get("Contents", [])
            }

    def read(self, name: str) -> bytes:
        with _s3("read", self.name + name):
            answer = client().get_object(Bucket=self._bucket, Key=self._prefix + name)
            return answer["Body"].read()

    def read_many(self, names: Iterable[str]) -> Iterator[bytes]:
        # A few ahead, since one request takes tens of milliseconds and there may be thousands.
        waiting: list[Any] = []
        with ThreadPoolExecutor(_PARALLEL) as pool:
            for name in names:
                waiting.append(pool.submit(self.read, name))
                if len(waiting) == 2 * _PARALLEL:
                    yield waiting.pop(0).result()
            for job in waiting:
                yield job.result()

    def write(self, name: str, content: bytes) -> None:
        with _s3("write", self.name + name):
            client().put_object(Bucket=self._bucket, Key=self._prefix + name, Body=content)

    def clear(self) -> None:
        names = sorted(self.names())
        with _s3("remove", self.name):
            for start in range(0, len(names), _DELETE_AT_ONCE):
                keys = [{"Key": self._prefix + n} for n in names[start : start + _DELETE_AT_ONCE]]
                client().delete_objects(Bucket=self._bucket, Delete={"Objects": keys})


class _S3Reader(io.RawIOBase):
    """An object as a file: each read is a request for that span."""

    def __init__(self, source: S3File, size: int) -> None:
        self._source = source
        self._size = size
        self._at = 0

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


@functools.cache
def client() -> Any:
    """The boto3 client of this process."""
    import boto3  # seconds of imports, so only where S3 is used
    from botocore.config import Config

    # A custom endpoint (MinIO, a test server) seldom has a host name for each bucket.
    custom = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    return boto3.session.Session().client(
        "s3",
        config=Config(
            connect_timeout=10,
            read_timeout=60,
            retries={"mode": "standard", "total_max_attempts": _ATTEMPTS},
            max_pool_connections=2 * _PARALLEL,
            s3={"addressing_style": "path"} if custom else None,
        ),
    )


_CAUSES = {
    "NoSuchKey": "there is no such object",
    "404": "there is no such object, or no such bucket",
    "NoSuchBucket": "there is no such bucket at this endpoint",
    "AccessDenied": "access denied; the credentials in use lack a permission on it",
    "403": "access denied; the credentials in use lack a permission on it",
    "ExpiredToken": "the AWS credentials have expired; renew them",
    "InvalidAccessKeyId": "the AWS credentials were refused",
    "SignatureDoesNotMatch": "the AWS credentials were refused",
    "PermanentRedirect": "the bucket is in another region; set AWS_REGION to it",
    "301": "the bucket is in another region; set AWS_REGION to it",
}


@contextlib.contextmanager
def _s3(what: str, name: str) -> Iterator[None]:
    """Turns what boto3 raises into a cause and a remedy, without anything secret."""
    from boto3.exceptions import S3UploadFailedError
    from botocore.exceptions import (
        BotoCoreError,
        ClientError,
        EndpointConnectionError,
        NoCredentialsError,
    )

    try:
        yield
    except ClientError as error:
        code = str(error.response["Error"]["Code"])
        raise InvalidInput(f"cannot {what} {name}: {_CAUSES.get(code, error)}") from error
    except NoCredentialsError as error:
        raise InvalidInput(
            f"cannot {what} {name}: no AWS credentials; set AWS_ACCESS_KEY_ID and "
            "AWS_SECRET_ACCESS_KEY, AWS_PROFILE, or give the machine a role"
        ) from error
    except EndpointConnectionError as error:
        raise InvalidInput(
            f"cannot {what} {name}: {error}; check the network and AWS_ENDPOINT_URL"
        ) from error
    except (BotoCoreError, S3UploadFailedError, ValueError) as error:
        if isinstance(error, InvalidInput):
            raise
        raise InvalidInput(f"cannot {what} {name}: {error}") from error
