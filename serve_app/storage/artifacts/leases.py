"""Who uses a copy in the cache: a shared lock on a small file, held until the process ends.

The operating system drops such a lock when its process dies, however it dies, so a lease is
never stale. Knows no layout and removes nothing; the lease files themselves stay.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from pathlib import Path

if sys.platform != "win32":
    import fcntl

_held: dict[Path, int] = {}
_guard = threading.Lock()


def hold(lease: Path) -> bool:
    """Marks what `lease` stands for as used by this process, and used now.

    Waits for a process that is just removing it. Holding it again only renews the time.

    Returns:
        Whether this process did not hold it before.
    """
    with _guard:
        new = lease not in _held
        if new:
            descriptor = _open(lease)
            if sys.platform != "win32":
                fcntl.flock(descriptor, fcntl.LOCK_SH)
            _held[lease] = descriptor
        with contextlib.suppress(OSError):  # the time only decides what is removed first
            os.utime(lease)
        return new


def release(lease: Path) -> None:
    """Says that this process uses it no longer; nothing if it does not hold it."""
    with _guard:
        descriptor = _held.pop(lease, None)
        if descriptor is not None:
            os.close(descriptor)


class Exclusive:
    """A lease nobody else holds, kept so until `close`.

    On Windows there are no such locks, and nobody is ever sure to be alone.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    @classmethod
    def take(cls, lease: Path) -> Exclusive | None:
        """The lease, or None where any process (this one too) holds it."""
        if sys.platform == "win32":
            return None
        descriptor = _open(lease)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(descriptor)
            return None
        return cls(descriptor)

    def close(self) -> None:
        """Lets others hold it again."""
        os.close(self._descriptor)


def _open(lease: Path) -> int:
    return os.open(lease, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o666)
