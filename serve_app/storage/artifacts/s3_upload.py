"""Uploads a folder to an S3 prefix; a second run sends only the files that are not there.

The first object is a manifest of all that will be there, so that whoever fetches the folder
meanwhile knows that it is not complete (see `s3_fetch`). Knows S3 and files, no model.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from boto3.s3.transfer import TransferConfig
from botocore.exceptions import ClientError

from serve_app.core.errors import ConfigError
from serve_app.storage.artifacts.cache import safe_relative
from serve_app.storage.artifacts.s3_fetch import UPLOAD_MANIFEST, list_objects
from serve_app.storage.s3_client import CONNECTIONS, error_code, explaining, new_client

logger = logging.getLogger(__name__)

PART_BYTES = 16 << 20
_MOST_PARTS = 10_000  # of one object, by S3's rules

OnBytes = Callable[[int, int], None]
"""Called with the bytes that are in the bucket, and with all there will be."""


@dataclass(frozen=True, slots=True)
class LocalFile:
    """A file to upload.

    Attributes:
        name: its place below the prefix.
        path: where it is.
        size: in bytes.
        part_bytes: bytes of each part but the last; a file no larger is sent whole.
        etag: what S3 will call its content, unless KMS encrypts it.
    """

    name: str
    path: Path
    size: int
    part_bytes: int
    etag: str


@dataclass(frozen=True, slots=True)
class UploadReport:
    """What an upload did.

    Attributes:
        files: how many files the folder has.
        size: their bytes.
        sent: bytes sent by this run; the rest was there.
        others: keys under the prefix that are not of this folder, and are left alone.
    """

    files: int
    size: int
    sent: int
    others: tuple[str, ...]


def upload_folder(
    folder: Path, bucket: str, prefix: str, *, on_bytes: OnBytes | None = None
) -> UploadReport:
    """Makes every file under `folder` an object under `prefix`.

    Args:
        folder: what to upload; links in it are refused.
        bucket: exists.
        prefix: ends with `/`.
        on_bytes: progress.

    Raises:
        ConfigError: the folder holds a link or nothing; no credentials, no such bucket, access
            denied, or the connection kept breaking. Files that arrived stay for the next run.
    """
    files = _scan(folder)
    with explaining("upload", f"s3://{bucket}/{prefix}"):
        return _Upload(new_client(), bucket, prefix, files, on_bytes).run()


def require_bucket(bucket: str, prefix: str) -> list[str]:
    """The keys under `prefix` now.

    Raises:
        ConfigError: bucket or credentials are wrong, as for `upload_folder`.
    """
    with explaining("upload", f"s3://{bucket}/{prefix}"):
        return [item.key for item in list_objects(new_client(), bucket, prefix)]


class _Upload:
    def __init__(
        self,
        client: Any,
        bucket: str,
        prefix: str,
        files: Sequence[LocalFile],
        on_bytes: OnBytes | None,
    ) -> None:
        self._client, self._bucket, self._prefix = client, bucket, prefix
        self._files, self._on_bytes = files, on_bytes
        self._total = sum(file.size for file in files)
        self._done = self._there = 0
        self._guard = threading.Lock()

    def run(self) -> UploadReport:
        there = {o.name: o for o in list_objects(self._client, self._bucket, self._prefix)}
        names = {file.name for file in self._files} | {UPLOAD_MANIFEST}
        others = tuple(o.key for name, o in sorted(there.items()) if name not in names)
        missing = []
        for file in self._files:
            found = there.get(file.name)
            if found is not None and (found.size, found.etag) == (file.size, file.etag):
                self._there += file.size
            else:
                missing.append(file)
        self._advance(self._there)
        self._put_manifest({file.name: (file.size, file.etag) for file in self._files})
        for file in missing:
            self._send(file)
        self._abort_unfinished()
        self._confirm()
        return UploadReport(len(self._files), self._total, self._total - self._there, others)

    def _send(self, file: LocalFile) -> None:
        # These parts and no others: the ETag depends on where a file is cut.
        parts = TransferConfig(
            multipart_threshold=file.part_bytes + 1,
            multipart_chunksize=file.part_bytes,
            max_concurrency=CONNECTIONS,
        )
        key = self._prefix + file.name
        self._client.upload_file(
            str(file.path), self._bucket, key, Config=parts, Callback=self._advance
        )

    def _abort_unfinished(self) -> None:
        """Removes what killed uploads left under the prefix: their parts cost money."""
        try:
            for page in self._client.get_paginator("list_multipart_uploads").paginate(
                Bucket=self._bucket, Prefix=self._prefix
            ):
                for upload in page.get("Uploads", []):
                    self._client.abort_multipart_upload(
                        Bucket=self._bucket, Key=upload["Key"], UploadId=upload["UploadId"]
                    )
        except ClientError as error:
            logger.warning(
                "%s: cannot remove unfinished uploads: %s", self._prefix, error_code(error)
            )

    def _confirm(self) -> None:
        """Checks what is there now, and lets the manifest say it as S3 does.

        Raises:
            ConfigError: an object has another size than its file.
        """
        there = {o.name: o for o in list_objects(self._client, self._bucket, self._prefix)}
        for file in self._files:
            found = there.get(file.name)
            if found is None or found.size != file.size:
                raise ConfigError(
                    f"cannot upload s3://{self._bucket}/{self._prefix}{file.name}: it should have "
                    f"{file.size} bytes there and has {found.size if found else 'none'}; run "
                    "this again"
                )
        # With KMS an ETag is no MD5; it names the content all the same.
        if any(there[file.name].etag != file.etag for file in self._files):
            names = (file.name for file in self._files)
            self._put_manifest({name: (there[name].size, there[name].etag) for name in names})

    def _put_manifest(self, files: dict[str, tuple[int, str]]) -> None:
        self._client.put_object(
            Bucket=self._bucket,
            Key=self._prefix + UPLOAD_MANIFEST,
            Body=json.dumps({"files": files}, indent=1).encode(),
            ContentType="application/json",
        )

    def _advance(self, size: int) -> None:
        with self._guard:
            self._done += size
            if self._on_bytes is not None:
                self._on_bytes(self._done, self._total)


def _scan(folder: Path) -> list[LocalFile]:
    """Every file under `folder`, hashed; large ones first."""
    paths = sorted(folder.rglob("*"))
    for path in paths:
        if path.is_symlink():
            raise ConfigError(
                f"cannot upload {path}: it is a symbolic link; copy what it points to"
            )
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        files = list(pool.map(lambda p: _local_file(folder, p), filter(Path.is_file, paths)))
    if not files:
        raise ConfigError(f"cannot upload {folder}: there is no file in it")
    return sorted(files, key=lambda file: (-file.size, file.name))


def _local_file(folder: Path, path: Path) -> LocalFile:
    size = path.stat().st_size
    part = max(PART_BYTES, -(-size // _MOST_PARTS))
    with path.open("rb") as file:
        digests = [_md5(block) for block in iter(lambda: file.read(part), b"")] or [_md5(b"")]
    etag = digests[0].hex() if size <= part else f"{_md5(b''.join(digests)).hex()}-{len(digests)}"
    name = str(safe_relative(path.relative_to(folder).as_posix()))
    return LocalFile(name, path, size, part, f'"{etag}"')


def _md5(data: bytes) -> bytes:
    return hashlib.md5(data, usedforsecurity=False).digest()
