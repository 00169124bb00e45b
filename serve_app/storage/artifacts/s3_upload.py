"""Uploads a folder to an S3 prefix; after a kill, a second run goes on with the parts it has.

The first object is a manifest of all that will be there, so that whoever fetches the
folder meanwhile knows that it is not complete (`s3.py`). What is there already, by size and
ETag, is not sent again. Knows S3 and files, no model.
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

from botocore.exceptions import BotoCoreError, ClientError

from serve_app.core.errors import ConfigError
from serve_app.storage.artifacts.cache import safe_relative
from serve_app.storage.artifacts.s3_fetch import UPLOAD_MANIFEST, list_objects
from serve_app.storage.s3_client import CONNECTIONS, error_code, explained, new_client

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
        part_bytes: bytes of each of its parts but the last.
        digests: MD5 of each part; one for a file that is sent whole.
        etag: what S3 will call its content, unless KMS encrypts it.
    """

    name: str
    path: Path
    size: int
    part_bytes: int
    digests: tuple[bytes, ...]
    etag: str

    @property
    def whole(self) -> bool:
        """Whether it is sent in one piece."""
        return self.size <= self.part_bytes


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
    folder: Path,
    bucket: str,
    prefix: str,
    *,
    on_bytes: OnBytes | None = None,
) -> UploadReport:
    """Makes every file under `folder` an object under `prefix`.

    Args:
        folder: what to upload; links in it are refused.
        bucket: exists.
        prefix: ends with `/`.
        on_bytes: progress.

    Raises:
        ConfigError: the folder holds a link or nothing; no credentials, no such bucket, access
            denied, or the connection kept breaking. What arrived is kept for the next run.
    """
    where = f"s3://{bucket}/{prefix}"
    files = _scan(folder)
    try:
        return _Upload(new_client(), bucket, prefix, files, on_bytes).run()
    except ConfigError:
        raise
    except (BotoCoreError, ClientError, ValueError) as error:  # ValueError: a bad endpoint URL
        raise explained(error, where, doing="upload") from error


def require_bucket(bucket: str, prefix: str) -> list[str]:
    """The keys under `prefix` now; raises what is wrong with bucket or credentials.

    Raises:
        ConfigError: as `upload_folder`.
    """
    try:
        return [item.key for item in list_objects(new_client(), bucket, prefix)]
    except ConfigError:
        raise
    except (BotoCoreError, ClientError, ValueError) as error:  # ValueError: a bad endpoint URL
        raise explained(error, f"s3://{bucket}/{prefix}", doing="upload") from error


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
        self._done = self._sent = 0
        self._guard = threading.Lock()

    def run(self) -> UploadReport:
        there = {o.name: o for o in list_objects(self._client, self._bucket, self._prefix)}
        names = {file.name for file in self._files} | {UPLOAD_MANIFEST}
        others = tuple(o.key for name, o in sorted(there.items()) if name not in names)
        missing = []
        for file in self._files:
            found = there.get(file.name)
            if found is not None and (found.size, found.etag) == (file.size, file.etag):
                self._advance(file.size, sent=False)
            else:
                missing.append(file)
        self._put_manifest({file.name: (file.size, file.etag) for file in self._files})
        with ThreadPoolExecutor(CONNECTIONS, thread_name_prefix="s3") as pool:
            for file in missing:
                self._send(pool, file)
        self._confirm()
        return UploadReport(len(self._files), self._total, self._sent, others)

    def _send(self, pool: ThreadPoolExecutor, file: LocalFile) -> None:
        if file.whole:
            with file.path.open("rb") as body:
                self._client.put_object(Bucket=self._bucket, Key=self._key(file), Body=body)
            self._advance(file.size)
            return
        upload, missing = self._open_parts(file)
        if upload is None:
            upload = str(
                self._client.create_multipart_upload(Bucket=self._bucket, Key=self._key(file))[
                    "UploadId"
                ]
            )
        self._advance(file.size - sum(size for _, size in missing), sent=False)
        jobs = [pool.submit(self._send_part, file, upload, number) for number, _ in missing]
        try:
            for job in jobs:
                job.result()
        finally:
            for job in jobs:
                job.cancel()
        self._complete(file, upload)

    def _open_parts(self, file: LocalFile) -> tuple[str | None, list[tuple[int, int]]]:
        """An upload of this file that was begun, and the parts (number, size) it still lacks."""
        every = {
            number: min(file.part_bytes, file.size - (number - 1) * file.part_bytes)
            for number in range(1, len(file.digests) + 1)
        }
        best: tuple[str | None, list[tuple[int, int]]] = (None, list(every.items()))
        if file.whole:
            return best
        for upload in self._begun(file):
            held = self._held(file, upload)
            lacking = [
                (number, size)
                for number, size in every.items()
                if held.get(number) != (size, file.digests[number - 1].hex())
            ]
            if best[0] is None or len(lacking) < len(best[1]):
                best = (upload, lacking)
        return best

    def _begun(self, file: LocalFile) -> list[str]:
        pages = self._client.get_paginator("list_multipart_uploads").paginate(
            Bucket=self._bucket, Prefix=self._key(file)
        )
        return [
            str(upload["UploadId"])
            for page in pages
            for upload in page.get("Uploads", [])
            if upload["Key"] == self._key(file)
        ]

    def _held(self, file: LocalFile, upload: str) -> dict[int, tuple[int, str]]:
        """Number -> (size, MD5) of the parts an upload has."""
        pages = self._client.get_paginator("list_parts").paginate(
            Bucket=self._bucket, Key=self._key(file), UploadId=upload
        )
        return {
            int(part["PartNumber"]): (int(part["Size"]), str(part["ETag"]).strip('"'))
            for page in pages
            for part in page.get("Parts", [])
        }

    def _send_part(self, file: LocalFile, upload: str, number: int) -> None:
        start = (number - 1) * file.part_bytes
        with file.path.open("rb") as source:
            source.seek(start)
            body = source.read(min(file.part_bytes, file.size - start))
        self._client.upload_part(
            Bucket=self._bucket,
            Key=self._key(file),
            UploadId=upload,
            PartNumber=number,
            Body=body,
        )
        self._advance(len(body))

    def _complete(self, file: LocalFile, upload: str) -> None:
        held = self._client.get_paginator("list_parts").paginate(
            Bucket=self._bucket, Key=self._key(file), UploadId=upload
        )
        parts = [
            {"PartNumber": part["PartNumber"], "ETag": part["ETag"]}
            for page in held
            for part in page.get("Parts", [])
            if part["PartNumber"] <= len(file.digests)
        ]
        self._client.complete_multipart_upload(
            Bucket=self._bucket,
            Key=self._key(file),
            UploadId=upload,
            MultipartUpload={"Parts": parts},
        )
        for stale in self._begun(file):  # parts of attempts nobody goes on with cost money
            try:
                self._client.abort_multipart_upload(
                    Bucket=self._bucket, Key=self._key(file), UploadId=stale
                )
            except ClientError as error:
                logger.warning("%s: cannot remove an old upload: %s", file.name, error_code(error))

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
                    f"cannot upload s3://{self._bucket}/{self._key(file)}: it should have "
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

    def _key(self, file: LocalFile) -> str:
        return self._prefix + file.name

    def _advance(self, size: int, *, sent: bool = True) -> None:
        with self._guard:
            self._done += size
            self._sent += size if sent else 0
            if self._on_bytes is not None:
                self._on_bytes(self._done, self._total)


def _scan(folder: Path) -> list[LocalFile]:
    """Every file under `folder`, hashed; large ones first."""
    paths = []
    for path in sorted(folder.rglob("*")):
        if path.is_symlink():
            raise ConfigError(
                f"cannot upload {path}: it is a symbolic link; copy what it points to"
            )
        if path.is_file():
            paths.append(path)
    if not paths:
        raise ConfigError(f"cannot upload {folder}: there is no file in it")
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        files = list(pool.map(lambda path: _local_file(folder, path), paths))
    return sorted(files, key=lambda file: (-file.size, file.name))


def _local_file(folder: Path, path: Path) -> LocalFile:
    size = path.stat().st_size
    part = max(PART_BYTES, -(-size // _MOST_PARTS))
    digests = []
    with path.open("rb") as file:
        while block := file.read(part):
            digests.append(hashlib.md5(block, usedforsecurity=False).digest())
    digests = digests or [hashlib.md5(usedforsecurity=False).digest()]
    if size <= part:
        etag = f'"{digests[0].hex()}"'
    else:
        joined = hashlib.md5(b"".join(digests), usedforsecurity=False).hexdigest()
        etag = f'"{joined}-{len(digests)}"'
    name = str(safe_relative(path.relative_to(folder).as_posix()))
    return LocalFile(name, path, size, part, tuple(digests), etag)
