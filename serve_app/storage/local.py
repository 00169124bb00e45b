"""Files and folders of this machine, as `File` and `Folder`."""

# ruff: noqa: D102 - File and Folder say what each method does

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, BinaryIO

from serve_app.core.errors import InvalidInput
from serve_app.storage.base import Folder


class PathFile:
    """A path."""

    local = True

    def __init__(self, name: str) -> None:
        self.name = name
        # Absolute, so that a worker in another folder opens the same file.
        self._path = Path(name).expanduser().absolute()

    @property
    def suffix(self) -> str:
        return self._path.suffix.lower()

    def stamp(self) -> str:
        with _reading(self.name):
            found = self._path.stat()
            return f"{found.st_size} {found.st_mtime_ns}"

    def open(self) -> BinaryIO:
        with _reading(self.name):
            return self._path.open("rb")

    def span(self, start: int, end: int) -> bytes:
        with _reading(self.name), self._path.open("rb") as file:
            file.seek(start)
            return file.read(end - start)

    def check_writable(self) -> None:
        folder = self._path.parent
        if not folder.is_dir():
            raise InvalidInput(
                f"cannot write {self.name}: there is no folder {Path(self.name).parent}"
            )
        if self._path.is_dir():
            raise InvalidInput(f"cannot write {self.name}: it is a folder")
        if not os.access(folder, os.W_OK):
            raise InvalidInput(f"cannot write {self.name}: the folder may not be written to")

    @contextlib.contextmanager
    def written(self) -> Iterator[IO[bytes]]:
        with _writing(self.name), _whole(self._path) as file:
            yield file

    def beside(self, suffix: str) -> Folder:
        return PathFolder(self.name + suffix)


class PathFolder:
    """A folder."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._folder = Path(name).expanduser().absolute()

    def names(self) -> set[str]:
        with _reading(self.name):
            if not self._folder.is_dir():
                return set()
            return {path.name for path in self._folder.iterdir()}

    def read(self, name: str) -> bytes:
        with _reading(f"{self.name}/{name}"):
            return (self._folder / name).read_bytes()

    def read_many(self, names: Iterable[str]) -> Iterator[bytes]:
        return map(self.read, names)

    def write(self, name: str, content: bytes) -> None:
        with _writing(f"{self.name}/{name}"):
            self._folder.mkdir(exist_ok=True)
            with _whole(self._folder / name) as file:
                file.write(content)

    def clear(self) -> None:
        with _writing(self.name):
            if self._folder.is_dir():
                for path in self._folder.iterdir():
                    path.unlink()
                self._folder.rmdir()


@contextlib.contextmanager
def _whole(path: Path) -> Iterator[IO[bytes]]:
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with part.open("wb") as file:
            yield file
            file.flush()
            # After a power cut a renamed file may otherwise be there and empty.
            os.fsync(file.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


@contextlib.contextmanager
def _reading(name: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise InvalidInput(f"cannot read {name}: {error.strerror or error}") from error


@contextlib.contextmanager
def _writing(name: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise InvalidInput(f"cannot write {name}: {error.strerror or error}") from error
