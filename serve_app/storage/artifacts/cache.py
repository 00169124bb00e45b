"""The download cache: a folder per artifact, in it a folder per version, complete or absent.

Knows no protocol. A version is downloaded beside its place and renamed into it, with a
manifest of its files; a lock file makes ten processes download once. A replaced artifact
becomes a new version, so that processes reading the old one go on. A process holds a lease on
what it was given; what nobody holds may be removed to make room.
"""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
import re
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath

from filelock import FileLock, Timeout

from serve_app.core.atomic_write import write_text
from serve_app.core.errors import ConfigError
from serve_app.storage.artifacts.eviction import (
    MANIFEST,
    PARTIAL,
    VERSION,
    Cache,
    hold,
    manifest_sizes,
    release,
    remove,
    reserved,
)
from serve_app.storage.artifacts.staging import Staging, Wanted, holds_file

logger = logging.getLogger(__name__)

# EFBIG: a quota or limit on the size of one file, such as RLIMIT_FSIZE.
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def safe_relative(name: str) -> PurePosixPath:
    """`name` as a path that stays inside the folder it is joined to.

    Raises:
        ValueError: it is absolute, or has an empty, `.` or `..` part, a backslash or a NUL.
    """
    parts = name.split("/")
    if any(part in ("", ".", "..") for part in parts) or "\\" in name or "\0" in name:
        raise ValueError(f"{name!r} is not a safe relative path")
    if re.match(r"^[A-Za-z]:", name):
        raise ValueError(f"{name!r} names a drive")
    return PurePosixPath(*parts)


class Artifact:
    """The versions of one artifact in the cache.

    Args:
        cache: the cache.
        kind: the folder of its protocol, such as `s3`.
        identity: what tells it from other artifacts, such as endpoint, bucket and prefix.
        label: a readable name for its folder and messages.
    """

    def __init__(self, cache: Cache, kind: str, identity: str, label: str) -> None:
        digest = hashlib.sha256(identity.encode()).hexdigest()[:16]
        readable = re.sub(r"[^A-Za-z0-9._-]+", "-", label).strip("-.")[-60:]
        self.folder = cache.root / kind / f"{readable}-{digest}"
        self.label = label
        self._cache = cache

    def complete(self, version: str) -> Path | None:
        """The folder of `version` if it holds every file of its manifest."""
        place = self.folder / version
        sizes = manifest_sizes(place)
        for name, size in (sizes or {}).items():
            if not holds_file(place, name, size):
                logger.warning("%s: the cached %s is damaged", self.label, place / name)
                return None
        return None if sizes is None else place

    def latest(self) -> Path | None:
        """The version last downloaded or found current, if it is complete; holds its lease."""
        version = self._latest_version()
        return self._hold(version) if VERSION.fullmatch(version) else None

    def fetch(
        self, version: str, files: Sequence[Wanted], download: Callable[[Staging], None]
    ) -> Path:
        """The folder of `version`, downloaded unless it is complete already.

        This process holds its lease until it ends or calls `release`.

        Args:
            version: a hexadecimal fingerprint of the content.
            files: all its files, by safe relative names.
            download: writes what the staging lacks. If it raises, what was written stays for the
                next attempt, unless the disk was full.

        Raises:
            ConfigError: a file came out in another size, the cache has no room, or the disk is
                full.
        """
        try:
            found = self._hold(version) or self._wait_and_download(version, files, download)
            if self._latest_version() != version:
                write_text(self.folder / "latest", version)
        except OSError as error:
            raise self._explained(error, sum(file.size for file in files)) from error
        return found

    def release(self, version: str) -> None:
        """Gives up this process's lease on `version`, which may then be removed."""
        release(self._lease(version))

    def _hold(self, version: str) -> Path | None:
        """The folder of `version` if it is complete; nobody removes it from now on."""
        if not (self.folder / version).is_dir():
            return None
        new = hold(self._lease(version))
        found = self.complete(version)
        if found is None and new:
            release(self._lease(version))
        return found

    def _lease(self, version: str) -> Path:
        return self.folder / f"{version}.lease"

    def _make_folder(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        for folder in (self.folder, self.folder.parent):
            if folder.is_symlink():
                raise ConfigError(
                    f"{folder} is a symbolic link, which the cache does not write through; "
                    "remove it, or set CACHE_DIR to the directory meant"
                )

    def _wait_and_download(
        self, version: str, files: Sequence[Wanted], download: Callable[[Staging], None]
    ) -> Path:
        self._make_folder()
        lock = FileLock(self.folder / "lock")
        try:
            lock.acquire(timeout=1)
        except Timeout:
            logger.info("%s: waiting for the process that downloads it", self.label)
            lock.acquire()
        try:
            found = self._hold(version)  # another process may have downloaded it meanwhile
            if found is None:
                self._download(version, files, download)
                found = self._hold(version)
        finally:
            lock.release()
        if found is None:
            raise ConfigError(f"{self.label}: {self.folder} changed while it was read; try again")
        return found

    def _download(
        self, version: str, files: Sequence[Wanted], download: Callable[[Staging], None]
    ) -> None:
        total = sum(file.size for file in files)
        partial, lock = self.folder / PARTIAL, self.folder / "lock"
        with reserved(self._cache, partial, total, lock=lock, label=self.label):
            try:
                staging = Staging(partial, files)
                present = staging.present
                logger.info("%s: %d bytes to download, %d here", self.label, total, present)
                try:
                    download(staging)
                finally:
                    staging.close()
                self._publish(version, staging)
            except OSError as error:
                if error.errno in _FULL:
                    # Others need the disk too; half a model is no use to them.
                    shutil.rmtree(partial, ignore_errors=True)
                raise

    def _explained(self, error: OSError, total: int) -> ConfigError:
        if error.errno in _FULL:
            return ConfigError(
                f"{self.label}: no space left in {self.folder} for {total} bytes "
                f"({error.strerror}); make room or set CACHE_DIR"
            )
        return ConfigError(f"{self.label}: cannot write to {self.folder}: {error}; set CACHE_DIR")

    def _publish(self, version: str, staging: Staging) -> None:
        for index, file in enumerate(staging.files):
            holes = staging.missing(index)
            if holes or os.lstat(staging.path(index)).st_size != file.size:
                raise ConfigError(
                    f"{self.label}: {file.name} should have {file.size} bytes and came out with "
                    f"{file.size - sum(end - start for start, end in holes)}; try again"
                )
        sizes = {file.name: file.size for file in staging.files}
        tags = {file.name: file.tag for file in staging.files}
        manifest = json.dumps({"sizes": sizes, "tags": tags})
        (staging.content / MANIFEST).write_text(manifest, encoding="utf-8")
        place = self.folder / version
        if place.is_symlink():
            place.unlink()
        elif place.exists():  # damaged, or it would have been returned
            remove(place)
        staging.content.rename(place)
        shutil.rmtree(staging.folder, ignore_errors=True)

    def _latest_version(self) -> str:
        try:
            return (self.folder / "latest").read_text(encoding="utf-8").strip()
        except OSError:
            return ""
