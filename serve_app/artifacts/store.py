"""The download cache: one folder an artifact, one folder in it a version, complete or absent.

Knows no protocol. A version is downloaded beside its place and renamed into it; a lock
file makes ten processes download once; a manifest of sizes finds damaged copies. A
replaced artifact becomes a new version, so that a process reading the old one goes on.
Old versions are not removed yet.
"""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path, PurePosixPath

from filelock import FileLock

from serve_app.errors import ConfigError

logger = logging.getLogger(__name__)


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
        root: the cache directory.
        identity: what tells this artifact from others, such as endpoint, bucket and prefix.
        label: a readable name for its folder.
    """

    def __init__(self, root: Path, identity: str, label: str) -> None:
        digest = hashlib.sha256(identity.encode()).hexdigest()[:16]
        readable = re.sub(r"[^A-Za-z0-9._-]+", "-", label).strip("-.")[-60:]
        self.folder = root / f"{readable}-{digest}"
        self.label = label

    def complete(self, version: str) -> Path | None:
        """The folder of `version` if every file of its manifest is there in its size."""
        place = self.folder / version
        sizes = self._manifest(version)
        if sizes is None or not place.is_dir():
            return None
        for name, size in sizes.items():
            path = place / name
            if not path.is_file() or path.stat().st_size != size:
                logger.warning("%s: the cached %s is damaged", self.label, path)
                return None
        return place

    def latest(self) -> Path | None:
        """The version last downloaded or found current, if it is complete."""
        version = self._latest_version()
        return self.complete(version) if re.fullmatch(r"[0-9a-f]+", version) else None

    def fetch(
        self, version: str, sizes: Mapping[str, int], download: Callable[[Path], None]
    ) -> Path:
        """The folder of `version`, downloaded unless it is complete already.

        Args:
            version: a hexadecimal fingerprint of the content.
            sizes: safe relative path -> size in bytes, of every file.
            download: writes those files into the empty folder it is given.

        Raises:
            ConfigError: a file came out in another size, or the disk is full.
        """
        found = self.complete(version)
        if found is None:
            self.folder.mkdir(parents=True, exist_ok=True)
            with FileLock(self.folder / "lock"):
                # Another process may have downloaded it while this one waited.
                found = self.complete(version) or self._download(version, sizes, download)
        if self._latest_version() != version:
            _write_atomically(self.folder / "latest", version)
        return found

    def _download(
        self, version: str, sizes: Mapping[str, int], download: Callable[[Path], None]
    ) -> Path:
        # The lock is held: whatever is unfinished here belongs to a process that died.
        for leftover in self.folder.glob("*.partial"):
            shutil.rmtree(leftover, ignore_errors=True)
        staging = self.folder / f"{version}.partial"
        try:
            staging.mkdir()
            logger.info("%s: downloading %d bytes", self.label, sum(sizes.values()))
            download(staging)
            for name, size in sizes.items():
                path = staging / name
                found = path.stat().st_size if path.is_file() else None
                if found != size:
                    raise ConfigError(
                        f"{self.label}: {name} should have {size} bytes and came out with "
                        f"{'none' if found is None else found}; try again"
                    )
            _write_atomically(self.folder / f"{version}.json", json.dumps({"sizes": dict(sizes)}))
            place = self.folder / version
            if place.exists():  # damaged, or `complete` would have returned it
                shutil.rmtree(place)
            staging.rename(place)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise ConfigError(
                    f"{self.label}: no space left in {self.folder} for "
                    f"{sum(sizes.values())} bytes; make room or set CACHE_DIR"
                ) from error
            raise ConfigError(f"{self.label}: cannot write to {self.folder}: {error}") from error
        finally:
            shutil.rmtree(staging, ignore_errors=True)
        return place

    def _latest_version(self) -> str:
        try:
            return (self.folder / "latest").read_text(encoding="utf-8").strip()
        except OSError:
            return ""

    def _manifest(self, version: str) -> dict[str, int] | None:
        try:
            content = json.loads((self.folder / f"{version}.json").read_text(encoding="utf-8"))
            return {str(name): int(size) for name, size in content["sizes"].items()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None


def _write_atomically(path: Path, content: str) -> None:
    with tempfile.NamedTemporaryFile(
        "w", encoding="utf-8", dir=path.parent, prefix=f"{path.name}.", suffix=".tmp", delete=False
    ) as file:
        file.write(content)
    os.replace(file.name, path)
