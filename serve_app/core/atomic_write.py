"""Writes a file or folder beside its place and renames it: whole or absent, never half.

Knows no format.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO


@contextlib.contextmanager
def atomic_write(path: Path, *, private: bool = False) -> Iterator[BinaryIO]:
    """A file that takes the name `path` at the end of the `with`, unless that raises.

    Args:
        path: what is written or replaced; its folder exists.
        private: a new file is for its owner alone; a file that is replaced passes on its owner
            and mode, by which another user's server may read it.

    Raises:
        OSError: it cannot be written.
    """
    mode = 0o600 if private else 0o666
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        with open(part, "xb", opener=lambda name, flags: os.open(name, flags, mode)) as file:
            if private and path.exists():
                before = path.stat()
                os.fchown(file.fileno(), before.st_uid, before.st_gid)
                os.fchmod(file.fileno(), stat.S_IMODE(before.st_mode))
            yield file
            file.flush()
            os.fsync(file.fileno())  # after a power cut the renamed file may else be empty
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def write_text(path: Path, text: str, *, private: bool = False) -> None:
    """Writes `text` as UTF-8; see `atomic_write`."""
    with atomic_write(path, private=private) as file:
        file.write(text.encode())


@contextlib.contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """An empty folder that replaces `path` at the end of the `with`, unless that raises.

    One process at a time: what a killed one left is removed.
    """
    part = path.with_name(f"{path.name}.partial")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    try:
        yield part
        if path.exists():
            shutil.rmtree(path)
        part.rename(path)
    finally:
        shutil.rmtree(part, ignore_errors=True)
