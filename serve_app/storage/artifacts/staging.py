"""An unfinished download on disk: files with holes, and a journal of the bytes that are there.

Knows files, byte ranges and tags (whatever names a file's content, such as an ETag); knows
no protocol. A later process takes up each file whose size and tag are still the same and
starts the others over.

The journal is trusted only until the machine restarts: what a killed process wrote is still
there, what a crashed machine had not yet put on its disk is not.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import stat
import threading
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_NOFOLLOW = getattr(os, "O_NOFOLLOW", 0)

Range = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Wanted:
    """One file of a download.

    Attributes:
        name: its place, a safe relative path with `/`.
        size: in bytes.
        tag: names its content; another tag is another content.
    """

    name: str
    size: int
    tag: str


class Staging:
    """A folder that fills up with `files`; one process at a time, any number of its threads.

    Args:
        folder: where; made if absent. What it holds of `files` is kept, the rest removed.
        files: all that is wanted.

    Raises:
        OSError: it cannot be written to, or two names cannot both be (a file and a folder).
    """

    def __init__(self, folder: Path, files: Sequence[Wanted]) -> None:
        self.folder = folder
        self.content = folder / "content"
        self.files = list(files)
        if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
            folder.unlink()  # not ours: a link could lead the download anywhere
        kept = self._previous()
        self._prune(set(kept))
        self.content.mkdir(parents=True, exist_ok=True)
        self._ranges: list[list[Range]] = [kept.get(wanted, []) for wanted in self.files]
        self._lock = threading.Lock()
        self._journal = self._start_journal()
        try:
            for index in range(len(self.files)):
                self._prepare(index)
        except OSError:
            self.close()
            raise

    @property
    def present(self) -> int:
        """Bytes that are there."""
        with self._lock:
            return sum(end - start for ranges in self._ranges for start, end in ranges)

    def missing(self, index: int) -> list[Range]:
        """The holes of file `index`, as half-open byte ranges in order."""
        with self._lock:
            holes, position = [], 0
            for start, end in _merged(self._ranges[index]):
                if start > position:
                    holes.append((position, start))
                position = max(position, end)
            if position < self.files[index].size:
                holes.append((position, self.files[index].size))
            return holes

    def prefix(self, index: int) -> int:
        """Up to which byte file `index` is there without a hole."""
        holes = self.missing(index)
        return holes[0][0] if holes else self.files[index].size

    def open(self, index: int) -> int:
        """A descriptor to write file `index` with; the caller closes it."""
        return os.open(self.path(index), os.O_RDWR | _NOFOLLOW | getattr(os, "O_BINARY", 0))

    def path(self, index: int) -> Path:
        """Where file `index` is written."""
        return self.content / self.files[index].name

    def record(self, index: int, start: int, end: int) -> None:
        """Notes that the bytes from `start` up to `end` of file `index` have been written."""
        if start < end:
            with self._lock:
                os.write(self._journal, b"%d %d %d\n" % (index, start, end))
                self._ranges[index] = _merged([*self._ranges[index], (start, end)])

    def forget(self, index: int) -> None:
        """Notes that nothing of file `index` is to be used."""
        with self._lock:
            os.write(self._journal, b"%d - -\n" % index)
            self._ranges[index] = []

    def close(self) -> None:
        """Closes the journal; the folder stays, to be published or taken up again."""
        os.close(self._journal)

    def _previous(self) -> dict[Wanted, list[Range]]:
        """The files of an earlier attempt that are still wanted, with the bytes they hold."""
        try:
            plan = json.loads((self.folder / "plan.json").read_text(encoding="utf-8"))
            if plan["boot"] != _boot() or not _boot():
                return {}
            files = [Wanted(str(n), int(s), str(t)) for n, s, t in plan["files"]]
            ranges: list[list[Range]] = [[] for _ in files]
            journal = (self.folder / str(plan["journal"])).read_bytes()
            for line in journal.split(b"\n")[:-1]:  # what follows the last newline is torn
                number, start, end = line.split()
                if start == b"-":
                    ranges[int(number)] = []
                else:
                    ranges[int(number)].append((int(start), int(end)))
        except (OSError, ValueError, KeyError, IndexError, TypeError):
            return {}
        wanted = set(self.files)
        return {
            file: _merged(held)
            for file, held in zip(files, ranges, strict=True)
            if file in wanted and _is_regular(self.content, file)
        }

    def _prune(self, kept: set[Wanted]) -> None:
        names = {file.name for file in kept}
        if not names:
            shutil.rmtree(self.folder, ignore_errors=True)
            return
        for folder, folders, files in os.walk(self.content, topdown=False):
            for name in files + folders:
                path = Path(folder, name)
                if path.is_symlink() or not path.is_dir():
                    if path.relative_to(self.content).as_posix() not in names:
                        path.unlink()
                else:
                    with contextlib.suppress(OSError):  # not empty: something in it is kept
                        path.rmdir()

    def _start_journal(self) -> int:
        """A new journal of what is there, put in force by the plan that names it."""
        name = f"journal-{uuid.uuid4().hex}"
        journal = os.open(
            self.folder / name, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_APPEND | _NOFOLLOW, 0o644
        )
        for index, ranges in enumerate(self._ranges):
            for start, end in ranges:
                os.write(journal, b"%d %d %d\n" % (index, start, end))
        plan: dict[str, Any] = {
            "boot": _boot(),
            "journal": name,
            "files": [[file.name, file.size, file.tag] for file in self.files],
        }
        fresh = self.folder / "plan.json.new"
        fresh.write_text(json.dumps(plan), encoding="utf-8")
        os.replace(fresh, self.folder / "plan.json")
        for old in self.folder.glob("journal-*"):
            if old.name != name:
                old.unlink()
        return journal

    def _prepare(self, index: int) -> None:
        path = self.path(index)
        path.parent.mkdir(parents=True, exist_ok=True)
        flags = os.O_RDWR | os.O_CREAT | _NOFOLLOW
        descriptor = os.open(path, flags, 0o644)
        try:
            if os.fstat(descriptor).st_size != self.files[index].size:
                os.truncate(descriptor, self.files[index].size)  # a hole: takes no space yet
        finally:
            os.close(descriptor)


def _is_regular(content: Path, file: Wanted) -> bool:
    """Whether the file is there in its size, and neither it nor a folder above it is a link."""
    path = content / file.name
    try:
        status = os.lstat(path)
    except OSError:
        return False
    above = [content, *(content / part for part in Path(file.name).parents)]
    return (
        stat.S_ISREG(status.st_mode)
        and status.st_size == file.size
        and not any(one.is_symlink() for one in above)
    )


def _merged(ranges: Sequence[Range]) -> list[Range]:
    merged: list[Range] = []
    for start, end in sorted(ranges):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((start, end))
    return merged


def _boot() -> str:
    """Names the time since the machine started; empty where the system does not say."""
    try:
        return _BOOT_ID.read_text(encoding="ascii").strip()
    except OSError:
        return ""
