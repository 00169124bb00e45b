"""The download cache: one folder an artifact, one folder in it a version, complete or absent.

Knows no protocol. A version is downloaded beside its place and renamed into it, with a
manifest of its files; a lock file makes ten processes download once. A replaced artifact
becomes a new version, so that a process reading the old one goes on. A process holds a
lease on what it was given; what nobody holds may be removed to make room.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import logging
import os
import re
import shutil
import stat
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path, PurePosixPath

from filelock import FileLock, Timeout

from serve_app.core.errors import ConfigError
from serve_app.storage.artifacts import leases
from serve_app.storage.artifacts.eviction import MANIFEST, PARTIAL, VERSION, Cache, remove, reserved
from serve_app.storage.artifacts.staging import Staging, Wanted

logger = logging.getLogger(__name__)

# EFBIG: a quota or limit on the size of one file, such as RLIMIT_FSIZE.
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def cache_root(cache_dir: str | None) -> Path:
    """Where downloads are kept: `cache_dir`, else `plainmed` in the user's cache directory.

    That directory is XDG_CACHE_HOME where set, else the platform's (`~/.cache`, on macOS
    `~/Library/Caches`, on Windows LOCALAPPDATA).

    Raises:
        ConfigError: it cannot be made or written to.
    """
    root = Path(cache_dir).expanduser() if cache_dir else _user_cache() / "plainmed"
    try:
        root.mkdir(parents=True, exist_ok=True)
    except (OSError, RuntimeError) as error:  # RuntimeError: no home directory
        raise ConfigError(
            f"cannot make the cache directory {root}: {error}; set CACHE_DIR"
        ) from None
    if not os.access(root, os.W_OK | os.X_OK):
        raise ConfigError(f"the cache directory {root} is not writable; set CACHE_DIR")
    return root


def _user_cache() -> Path:
    if os.environ.get("XDG_CACHE_HOME"):
        return Path(os.environ["XDG_CACHE_HOME"])
    if sys.platform == "darwin":
        return Path("~/Library/Caches").expanduser()
    if sys.platform == "win32" and os.environ.get("LOCALAPPDATA"):
        return Path(os.environ["LOCALAPPDATA"])
    return Path("~/.cache").expanduser()


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
        cache: what it is in.
        kind: the folder of its protocol there, such as `s3`.
        identity: what tells this artifact from others, such as endpoint, bucket and prefix.
        label: a readable name for its folder and messages.
    """

    def __init__(self, cache: Cache, kind: str, identity: str, label: str) -> None:
        digest = hashlib.sha256(identity.encode()).hexdigest()[:16]
        readable = re.sub(r"[^A-Za-z0-9._-]+", "-", label).strip("-.")[-60:]
        self.folder = cache.root / kind / f"{readable}-{digest}"
        self.label = label
        self._cache = cache

    def complete(self, version: str) -> Path | None:
        """The folder of `version` if every file of its manifest is there in its size.

        A link in the place of a file or folder is not the file.
        """
        place = self.folder / version
        sizes = self._manifest(place)
        if sizes is None:
            return None
        for name, size in sizes.items():
            try:
                status = os.lstat(place / name)
            except OSError:
                status = None
            linked = any((place / part).is_symlink() for part in PurePosixPath(name).parents)
            if (
                status is None
                or linked
                or not stat.S_ISREG(status.st_mode)
                or status.st_size != size
            ):
                logger.warning("%s: the cached %s is damaged", self.label, place / name)
                return None
        return place

    def latest(self) -> Path | None:
        """The version last downloaded or found current, if it is complete; held from now on."""
        version = self._latest_version()
        return self._hold(version) if VERSION.fullmatch(version) else None

    def fetch(
        self, version: str, files: Sequence[Wanted], download: Callable[[Staging], None]
    ) -> Path:
        """The folder of `version`, downloaded unless it is complete already.

        This process then counts as using it, until it ends or calls `release`.

        Args:
            version: a hexadecimal fingerprint of the content.
            files: every file of it, by safe relative names.
            download: writes what the staging it is given is missing. Whatever it raises, what
                was written stays for the next attempt, unless the disk was full.

        Raises:
            ConfigError: a file came out in another size, the cache has no room, or the disk is
                full.
        """
        try:
            found = self._hold(version) or self._wait_and_download(version, files, download)
            if self._latest_version() != version:
                _write_atomically(self.folder / "latest", version)
        except OSError as error:
            raise self._explained(error, sum(file.size for file in files)) from error
        return found

    def release(self, version: str) -> None:
        """Says that this process no longer uses `version`; it may then be removed."""
        leases.release(self._lease(version))

    def _hold(self, version: str) -> Path | None:
        """The complete folder of `version`, which from now on nobody removes."""
        if not (self.folder / version).is_dir():
            return None
        new = leases.hold(self._lease(version))
        found = self.complete(version)
        if found is None and new:
            leases.release(self._lease(version))
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

    @contextlib.contextmanager
    def _waiting(self) -> Iterator[None]:
        lock = FileLock(self.folder / "lock")
        try:
            lock.acquire(timeout=1)
        except Timeout:
            logger.info("%s: waiting for the process that downloads it", self.label)
            lock.acquire()
        try:
            yield
        finally:
            lock.release()

    def _wait_and_download(
        self, version: str, files: Sequence[Wanted], download: Callable[[Staging], None]
    ) -> Path:
        self._make_folder()
        with self._waiting():
            # Another process may have downloaded it while this one waited.
            found = self._hold(version)
            if found is None:
                self._download(version, files, download)
                found = self._hold(version)
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
        sizes = {}
        for index, file in enumerate(staging.files):
            status = os.lstat(staging.path(index))
            if status.st_size != file.size or staging.missing(index):
                raise ConfigError(
                    f"{self.label}: {file.name} should have {file.size} bytes and came out with "
                    f"{file.size - sum(end - start for start, end in staging.missing(index))}; "
                    "try again"
                )
            sizes[file.name] = file.size
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

    @staticmethod
    def _manifest(place: Path) -> dict[str, int] | None:
        try:
            content = json.loads((place / MANIFEST).read_text(encoding="utf-8"))
            return {str(name): int(size) for name, size in content["sizes"].items()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None


def _write_atomically(path: Path, content: str) -> None:
    with tempfile.NamedTemporaryFile(
        "w", encoding="utf-8", dir=path.parent, prefix=f"{path.name}.", suffix=".tmp", delete=False
    ) as file:
        file.write(content)
    os.replace(file.name, path)
