"""The interface of files and folders, on this machine or in S3. Knows no format."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from typing import IO, BinaryIO, Protocol


class File(Protocol):
    """A file, which may not exist yet. A method that fails raises `InvalidInput`, naming it."""

    name: str

    @property
    def suffix(self) -> str:
        """The name's extension with its dot, in lower case."""

    @property
    def local(self) -> bool:
        """Whether it is a path of this machine, which others may not have."""

    def stamp(self) -> str:
        """A string that changes when the file does."""

    def open(self) -> BinaryIO:
        """Opens it for reading; seekable."""

    def span(self, start: int, end: int) -> bytes:
        """The bytes from `start` to before `end`."""

    def check_writable(self) -> None:
        """Raises now what `written` would raise after the work."""

    def written(self) -> contextlib.AbstractContextManager[IO[bytes]]:
        """Opens it for writing; it takes its name at the end of the `with`, unless that raises."""

    def beside(self, suffix: str) -> Folder:
        """The folder of this file's name and `suffix`."""


class Folder(Protocol):
    """A folder of small files, each written whole or not at all."""

    name: str

    def names(self) -> set[str]:
        """Names of its files; empty if there is no folder."""

    def read(self, name: str) -> bytes:
        """The content of one file."""

    def read_many(self, names: Iterable[str]) -> Iterator[bytes]:
        """The contents of files, in the order of `names`."""

    def write(self, name: str, content: bytes) -> None:
        """Writes or replaces one file; makes the folder if need be."""

    def clear(self) -> None:
        """Removes the folder and its files."""
