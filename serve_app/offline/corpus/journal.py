"""Keeps the finished blocks of a run beside its output, so that a killed run can go on.

A folder `OUTPUT.parts` holds one small file for each finished block, and a manifest that says
what the run is: input, columns, settings, models. A block's file is named by its number and
written whole, so a block computed twice is there once. Knows neither texts nor models.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from serve_app.core.documents import parse_json
from serve_app.core.errors import InvalidInput
from serve_app.offline.corpus.scoring import (
    BlockResult,
    ModelNames,
    RowResult,
    result_from_json,
    row_to_json,
)
from serve_app.storage.base import File, Folder

SUFFIX = ".parts"
_MANIFEST = "manifest.json"
_OURS = re.compile(r"\.?(manifest|block-\d{6,})\.json(\..*)?")  # also half-written ones
_REMEDY = "give its input and options to continue it, or --restart to start over"
_UNREADABLE = (ValueError, LookupError, TypeError)


class Journal:
    """The finished blocks of one run.

    Args:
        out: the file that the run will write.
        run: everything its numbers depend on, as JSON data.

    Attributes:
        name: of the folder.
        models: which models made the finished blocks.
        finished: the numbers of those blocks.

    Raises:
        InvalidInput: the folder holds another run (says what differs), or files of others.
    """

    def __init__(self, out: File, run: Mapping[str, Any]) -> None:
        self._out = out
        self._folder = out.beside(SUFFIX)
        _require_ours(out, self._folder)
        self._run = json.loads(json.dumps(run))
        self.name = self._folder.name
        self.models = ModelNames()
        self.finished: set[int] = set()
        names = self._folder.names()
        self._begun = _MANIFEST in names
        if self._begun:
            self._resume(names)

    def _resume(self, names: set[str]) -> None:
        try:
            manifest = parse_json(self._folder.read(_MANIFEST), surrogates=True)
            begun = manifest["run"]
            self.models = ModelNames.from_dict(manifest["models"])
        except _UNREADABLE as error:
            raise InvalidInput(
                f"{self.name} is not what an earlier run left: {error!r}; remove it, or give "
                "another --out"
            ) from error
        differences = list(_differences(begun, self._run))
        if differences:
            raise InvalidInput(
                f"{self.name} holds an unfinished run that does not fit this one: "
                f"{'; '.join(differences)}; {_REMEDY}"
            )
        self.finished = {number for number in map(_number, names) if number is not None}

    def begin(self) -> None:
        """Writes what the run is, before its first block; nothing where it is continued."""
        if not self._begun:
            self._write_manifest()
            self._begun = True

    def _write_manifest(self) -> None:
        manifest = {"run": self._run, "models": self.models.to_dict()}
        self._folder.write(_MANIFEST, json.dumps(manifest, indent=1).encode())

    def add(self, result: BlockResult) -> None:
        """Keeps a finished block; one that is there already is left as it is.

        Raises:
            InvalidInput: other models made it than the blocks before it, or it cannot be written.
        """
        if result.number in self.finished:
            return
        self._check(result.models)
        rows = [row_to_json(row) for row in result.rows]
        self._folder.write(_name(result.number), json.dumps(rows).encode())
        self.finished.add(result.number)

    def _check(self, models: ModelNames) -> None:
        if models == self.models or not models.names:
            return
        difference = self.models.differs(models)
        if difference is not None:
            raise InvalidInput(
                f"the blocks in {self.name} are not all made by the same models: {difference}; "
                f"give every worker the same models and settings, then {_REMEDY}"
            )
        if not self.models.names:
            self.models = models
            self._write_manifest()

    def results(self, numbers: Iterable[int]) -> Iterator[tuple[RowResult, ...]]:
        """The rows of finished blocks, in the order of `numbers`.

        Raises:
            InvalidInput: a block is missing or damaged.
        """
        names = [_name(number) for number in numbers]
        for name, content in zip(names, self._folder.read_many(names), strict=True):
            try:
                yield tuple(result_from_json(row) for row in parse_json(content, surrogates=True))
            except _UNREADABLE as error:
                raise InvalidInput(
                    f"{self.name}/{name} is damaged; remove it and run again"
                ) from error

    def remove(self) -> None:
        """Removes the folder, once the run is over."""
        discard(self._out)
        self.finished = set()


def discard(out: File) -> None:
    """Removes what a run has kept beside its output, for `--restart`.

    Raises:
        InvalidInput: the folder is a link, or holds what no run of ours wrote: nothing is removed.
    """
    folder = out.beside(SUFFIX)
    if _MANIFEST in _require_ours(out, folder):
        try:
            manifest = parse_json(folder.read(_MANIFEST), surrogates=True)
            ModelNames.from_dict(manifest["models"])
        except _UNREADABLE as error:
            raise _not_ours(folder.name, _MANIFEST) from error
    folder.clear()


def _require_ours(out: File, folder: Folder) -> set[str]:
    """The names in the folder; raises `InvalidInput` where it is not one of ours."""
    path = Path(folder.name).expanduser()
    if out.local and (path.is_symlink() or (path.exists() and not path.is_dir())):
        raise InvalidInput(
            f"{folder.name} is a link or a file, where a run keeps its finished blocks in a "
            "folder; remove it, or give another --out"
        )
    names = folder.names()
    foreign = sorted(name for name in names if not _OURS.fullmatch(name))
    if foreign:
        raise _not_ours(folder.name, foreign[0])
    return names


def _not_ours(folder: str, name: str) -> InvalidInput:
    return InvalidInput(
        f"{folder} holds {name}, which is no file of a run; nothing is removed: move the folder "
        "away, or give another --out"
    )


@contextlib.contextmanager
def exclusive(out: File) -> Iterator[None]:
    """Keeps a second run on this machine from writing the same output.

    Raises:
        InvalidInput: another run has it.
    """
    if not out.local:
        yield
        return
    path = Path(out.name).expanduser().absolute()
    lock = FileLock(path.with_name(f".{path.name}.lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise InvalidInput(f"another run is writing {out.name}; wait for it or stop it") from None
    except OSError as error:
        raise InvalidInput(f"cannot write {out.name}: {error.strerror or error}") from error
    try:
        yield
    finally:
        Path(lock.lock_file).unlink(missing_ok=True)
        lock.release()


def _differences(begun: Any, now: Any, where: str = "") -> Iterator[str]:
    if isinstance(begun, dict) and isinstance(now, dict):
        for key in dict.fromkeys((*begun, *now)):
            below = f"{where}.{key}" if where else key
            yield from _differences(begun.get(key), now.get(key), below)
    elif begun != now:
        yield f"{where} was {json.dumps(begun)}, now {json.dumps(now)}"


def _name(number: int) -> str:
    return f"block-{number:06d}.json"


def _number(name: str) -> int | None:
    digits = name.removeprefix("block-").removesuffix(".json")
    return int(digits) if digits.isdecimal() and name == _name(int(digits)) else None
