"""Keeps the cache inside its bound: removes what no process uses, least recently used first.

Knows where the cache keeps copies, how large they are and who may remove them; downloads
nothing. One process at a time makes room, under the lock of the whole cache. A download
under way counts with the size it will have.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from filelock import FileLock, Timeout

from serve_app.core.errors import ConfigError
from serve_app.storage.artifacts.leases import Exclusive

logger = logging.getLogger(__name__)

VERSION = re.compile(r"[0-9a-f]{4,64}")
"""What the folder of one complete version is called."""

MANIFEST = "manifest.json"
PARTIAL = "partial"
_DISK_MARGIN = 16 << 20  # file systems keep some blocks for themselves
_GB = 10**9


@dataclass(frozen=True, slots=True)
class Cache:
    """The folder that downloads are kept in, and its bound.

    Attributes:
        root: the folder, which exists.
        max_gb: CACHE_MAX_GB, most bytes it may hold, in units of 10^9; above 0.
    """

    root: Path
    max_gb: float


@dataclass(frozen=True, slots=True)
class Entry:
    """One thing in the cache that is there, or goes, as a whole.

    Attributes:
        path: the folder that is removed.
        size: bytes it takes; while it is downloaded, the bytes it will take.
        on_disk: bytes it takes now.
        used: when it was last used, in seconds since 1970.
        lock: held by who downloads it.
        lease: held by who uses it; None: nobody can, it is unfinished.
    """

    path: Path
    size: int
    on_disk: int
    used: float
    lock: Path
    lease: Path | None = None


@dataclass(slots=True)
class _Claim:
    """The right to remove an entry, held until `close`."""

    entry: Entry
    held: ExitStack = field(default_factory=ExitStack)


@contextlib.contextmanager
def reserved(cache: Cache, target: Path, size: int, *, lock: Path, label: str) -> Iterator[None]:
    """Makes room for `target` and counts it as `size` bytes until the block ends.

    Args:
        cache: what the target is in.
        target: the entry that is about to be downloaded.
        size: bytes it will have in the end, what is there already included.
        lock: the target's lock, which the caller holds.
        label: what messages call it.

    Raises:
        ConfigError: what other processes use leaves no room in the bound, or on the disk.
    """
    note = _note(target)
    with FileLock(cache.root / "lock"):
        _make_room(cache, target, size, lock, label)
        note.write_text(str(size), encoding="ascii")
    try:
        yield
    finally:
        note.unlink(missing_ok=True)


def entries(root: Path) -> list[Entry]:
    """Everything the cache holds: complete, unfinished, or left over from a crash."""
    found: list[Entry] = []
    for folder in _folders(root / "s3"):
        for path in _folders(folder):
            if VERSION.fullmatch(path.name) or path.name == PARTIAL:
                lease = folder / f"{path.name}.lease" if path.name != PARTIAL else None
                found.append(_entry(path, folder / "lock", lease))
    for path in _folders(root / "hub"):
        if path.name.startswith("models--"):
            name = path.name.removeprefix("models--")
            lock, lease = (path.parent / f"{name}.{kind}" for kind in ("lock", "lease"))
            found.append(_entry(path, lock, lease))
    return found


def disk_usage(path: Path) -> int:
    """Bytes the files under `path` take on the disk; holes and links take none."""
    total = 0
    for folder, _, names in os.walk(path):
        for name in names:
            with contextlib.suppress(OSError):  # removed meanwhile
                status = os.lstat(os.path.join(folder, name))
                total += getattr(status, "st_blocks", status.st_size // 512) * 512
    return total


def _make_room(cache: Cache, target: Path, size: int, lock: Path, label: str) -> None:
    root, bound = cache.root, round(cache.max_gb * _GB)
    if size > bound:
        raise ConfigError(
            f"{label}: its {_gb(size)} are more than the cache may hold (CACHE_MAX_GB is "
            f"{cache.max_gb:g}); raise CACHE_MAX_GB"
        )
    others = [entry for entry in entries(root) if entry.path != target]
    coming = sum(max(0, entry.size - entry.on_disk) for entry in others)
    missing = max(0, size - disk_usage(target))
    free = shutil.disk_usage(root).free - coming - (_DISK_MARGIN if missing else 0)
    over_bound = sum(entry.size for entry in others) + size - bound
    over_disk = missing - free
    claims: list[_Claim] = []
    try:
        for entry in sorted(others, key=lambda one: one.used):
            if max(over_bound, over_disk) <= 0:
                break
            claim = _claim(entry, lock)
            if claim is not None:
                claims.append(claim)
                over_bound -= entry.size
                over_disk -= entry.on_disk
        # Nothing is removed unless that makes room enough.
        if over_disk > 0:
            raise ConfigError(
                f"{label}: no space left in {root}: {_gb(missing)} are still to come, and "
                f"{_gb(max(0, missing - over_disk))} are free or unused; make room or set CACHE_DIR"
            )
        if over_bound > 0:
            claimed = {claim.entry.path for claim in claims}
            used = [entry.path for entry in others if entry.path not in claimed]
            raise ConfigError(
                f"{label}: no room for {_gb(size)} in the cache {root}: CACHE_MAX_GB is "
                f"{cache.max_gb:g}, and running processes use "
                f"{', '.join(path.parent.name for path in used)}; "
                "raise CACHE_MAX_GB or stop what no longer needs them"
            )
        for claim in claims:
            logger.info("removing %s from the cache: unused", claim.entry.path)
            remove(claim.entry.path)
    finally:
        for claim in claims:
            claim.held.close()


def remove(path: Path) -> None:
    """Removes a copy; whoever looks meanwhile finds it absent, never half there."""
    (path / MANIFEST).unlink(missing_ok=True)
    shutil.rmtree(path, ignore_errors=True)


def _claim(entry: Entry, own_lock: Path) -> _Claim | None:
    claim = _Claim(entry)
    if entry.lease is not None:
        alone = Exclusive.take(entry.lease)
        if alone is None:
            return None
        claim.held.callback(alone.close)
    try:
        if entry.lock != own_lock:
            claim.held.enter_context(FileLock(entry.lock, timeout=0))
    except Timeout:
        claim.held.close()
        return None
    return claim


def _entry(path: Path, lock: Path, lease: Path | None) -> Entry:
    on_disk = _manifest_size(path)
    if on_disk is None:
        on_disk = disk_usage(path)
    size = on_disk
    with contextlib.suppress(OSError, ValueError):
        planned = int(_note(path).read_text(encoding="ascii"))
        if _locked(lock):  # else its downloader is dead, and the note means nothing
            size = max(on_disk, planned)
    stamp = lease if lease is not None and lease.exists() else path
    with contextlib.suppress(OSError):
        return Entry(path, size, on_disk, stamp.stat().st_mtime, lock, lease)
    return Entry(path, size, on_disk, 0.0, lock, lease)


def _manifest_size(path: Path) -> int | None:
    try:
        document = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
        return sum(int(size) for size in document["sizes"].values())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _locked(lock: Path) -> bool:
    try:
        with FileLock(lock, timeout=0):
            return False
    except Timeout:
        return True


def _note(target: Path) -> Path:
    return target.parent / f"{target.name}.reserved"


def _folders(path: Path) -> list[Path]:
    if not path.is_dir():
        return []
    return sorted(one for one in path.iterdir() if one.is_dir() and not one.is_symlink())


def _gb(size: int) -> str:
    return f"{size / _GB:.3g} GB" if size >= 10**7 else f"{size:,} bytes"
