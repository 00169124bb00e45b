"""What a run has finished, kept beside its output so that a killed run can go on.

A folder `OUTPUT.parts` holds one small file for each finished block and a manifest that says
what the run is: input, columns, settings, models. A block's file is named by its number and
written whole, so a block computed twice is there once. Knows neither texts nor models.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from serve_app.core.documents import parse_json
from serve_app.core.errors import InvalidInput
from serve_app.offline.corpus.scoring import BlockResult, ModelNames, RowError, RowResult, RowScores
from serve_app.storage.base import File, Folder

SUFFIX = ".parts"
_MANIFEST = "manifest.json"
_LOCK = ".lock"


class Journal:
    """The finished blocks of one run.

    Args:
        out: the file that the run will write.
        run: what the run is, as JSON data: everything its numbers depend on.

    Raises:
        InvalidInput: a run with something else was begun; says what differs.
    """

    def __init__(self, out: File, run: Mapping[str, Any]) -> None:
        self._store: Folder = out.beside(SUFFIX)
        self._run = json.loads(json.dumps(run))
        self._models = ModelNames()
        self._begun = False
        self.finished: set[int] = set()
        names = self._store.names()
        if _MANIFEST in names:
            self._resume(names)

    @property
    def name(self) -> str:
        """Where it is."""
        return self._store.name

    @property
    def models(self) -> ModelNames:
        """Which models made the blocks that are finished."""
        return self._models

    def _resume(self, names: set[str]) -> None:
        try:
            manifest = parse_json(self._store.read(_MANIFEST), halves=True)
            begun = manifest["run"]
            self._models = ModelNames.from_dict(manifest["models"])
        except (ValueError, LookupError, TypeError) as error:
            raise InvalidInput(
                f"{self.name} is not what an earlier run left: {error!r}; {_WAYS_OUT}"
            ) from error
        differences = list(_differences(begun, self._run))
        if differences:
            raise InvalidInput(
                f"{self.name} holds an unfinished run that does not fit this one: "
                f"{'; '.join(differences)}; {_WAYS_OUT}"
            )
        self.finished = {number for number in map(_number, names) if number is not None}
        self._begun = True

    def begin(self) -> None:
        """Says what the run is, before its first block; nothing where it is continued."""
        if not self._begun:
            self._write_manifest()
            self._begun = True

    def _write_manifest(self) -> None:
        self._store.write(
            _MANIFEST,
            json.dumps({"run": self._run, "models": self._models.to_dict()}, indent=1).encode(),
        )

    def add(self, result: BlockResult) -> None:
        """Keeps a finished block; one that is there already is left as it is.

        Raises:
            InvalidInput: other models made it than the blocks before it, or it cannot be written.
        """
        if result.number in self.finished:
            return
        self._check(result.models)
        rows = [_row_out(row) for row in result.rows]
        self._store.write(_name(result.number), json.dumps(rows).encode())
        self.finished.add(result.number)

    def _check(self, models: ModelNames) -> None:
        if models == self._models or not models.names:
            return
        difference = self._models.differs(models)
        if difference is not None:
            raise InvalidInput(
                f"the blocks in {self.name} are not all made by the same models: {difference}; "
                f"give every worker the same models and settings, then {_WAYS_OUT}"
            )
        if not self._models.names:
            self._models = models
            self._write_manifest()

    def results(self, numbers: Iterable[int]) -> Iterator[tuple[RowResult, ...]]:
        """The rows of finished blocks, in the order asked for.

        Raises:
            InvalidInput: one is not there or damaged.
        """
        wanted = list(numbers)
        for number, content in zip(
            wanted, self._store.read_many(_name(number) for number in wanted), strict=True
        ):
            yield _rows(f"{self.name}/{_name(number)}", content)

    def remove(self) -> None:
        """Removes everything; the run is over."""
        self._store.clear()
        self.finished = set()


_WAYS_OUT = "give what it was begun with to continue it, or --restart to begin anew"


@contextlib.contextmanager
def alone(out: File) -> Iterator[None]:
    """Keeps a second run on this machine from writing the same output.

    Raises:
        InvalidInput: one is running.
    """
    if not out.local:
        yield
        return
    path = Path(out.name).expanduser().absolute()
    lock = FileLock(path.with_name(f".{path.name}{_LOCK}"))
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
            yield from _differences(
                begun.get(key), now.get(key), f"{where}.{key}" if where else key
            )
    elif begun != now:
        yield f"{where} was {json.dumps(begun)}, now {json.dumps(now)}"


def _name(number: int) -> str:
    return f"block-{number:06d}.json"


def _number(name: str) -> int | None:
    digits = name.removeprefix("block-").removesuffix(".json")
    return int(digits) if digits.isdecimal() and name == _name(int(digits)) else None


def _row_out(row: RowResult) -> list[Any] | dict[str, str]:
    if isinstance(row, RowError):
        return {"code": row.code, "message": row.message}
    return [*row.values, row.loss]


def _rows(name: str, content: bytes) -> tuple[RowResult, ...]:
    try:
        return tuple(
            RowError(row["code"], row["message"])
            if isinstance(row, dict)
            else RowScores(tuple(row[:-1]), row[-1])
            for row in parse_json(content, halves=True)
        )
    except (ValueError, LookupError, TypeError) as error:
        raise InvalidInput(f"{name} is damaged; remove it and run again") from error
