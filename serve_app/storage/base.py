"""Files and folders on this machine or in S3, as one small interface. Knows no format.

A file is read in spans, so a reader can be anywhere in it; it is written whole or not at all.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from typing import IO, BinaryIO, Protocol


class File(Protocol):
    """One file, there or yet to be written.

    Every method raises `InvalidInput`, naming the file, where it cannot be done.
    """

    name: str

    @property
    def suffix(self) -> str:
        """The end of the name with its dot, in lower case."""
        ...

    @property
    def local(self) -> bool:
        """True for a path, which another machine may not have."""
        ...

    def stamp(self) -> str:
        """Changes when the file does."""
        ...

    def open(self) -> BinaryIO:
        """The file's bytes, seekable."""
        ...

    def span(self, start: int, end: int) -> bytes:
        """The bytes from `start` to before `end`."""
        ...

    def check_writable(self) -> None:
        """Finds out before the work, not after it."""
        ...

    def written(self) -> contextlib.AbstractContextManager[IO[bytes]]:
        """A file that takes its name at the end of the `with`, unless that raises."""
        ...

    def beside(self, suffix: str) -> Folder:
        """The folder named as this file with `suffix`."""
        ...


class Folder(Protocol):
    """A folder of small files, each written whole or not at all."""

    name: str

    def names(self) -> set[str]:
        """The files there; none where there is no folder."""
        ...

    def read(self, name: str) -> bytes:
        """One file."""
        ...

    def read_many(self, names: Iterable[str]) -> Iterator[bytes]:
        """Files in the order asked for."""
        ...

    def write(self, name: str, content: bytes) -> None:
        """Writes or replaces one file; makes the folder where it is missing."""
        ...

    def clear(self) -> None:
        """Removes the folder and what is in it."""
        ...
