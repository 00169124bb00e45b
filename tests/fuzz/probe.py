"""Does something with hostile input in a process of its own, whose memory and time are bounded.

The process is a fork, so that libraries are imported once. What comes back says whether the input
was refused as it should be, what it cost, and whether anything in a file was run.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import time
import traceback
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from serve_app.core.errors import PlainMedError

MOST_GROWN = 2 << 30
"""Address space a case may take beside what the process has: far below what the files claim."""

LONGEST_S = 60
CANARY = "canary"
"""Name of the folder that code in a file would make beside it."""


@dataclass(frozen=True)
class Case:
    """One hostile file.

    Attributes:
        loader: the setting, command or function that is given it.
        name: what is wrong with it.
        build: writes it into an empty folder, and says what to load.
        load: loads it, as the application does.
        says: regular expression that its refusal must match; empty: it is good, and must load.
        heavy: whether it takes seconds to make or to refuse; only `make test-slow` and `make fuzz`
            have those.
    """

    loader: str
    name: str
    build: Callable[[Path], Path]
    load: Callable[[Path], object]
    says: str
    heavy: bool = False


@dataclass(frozen=True)
class Outcome:
    """What became of a case.

    Attributes:
        kind: `refused`; else `loaded`, `crashed` with another error, `killed` or `too slow`.
        message: of the error.
        seconds: that it took.
        grown_mib: how much memory it took at most, beside what the process had.
        ran: whether code in the file was run.
    """

    kind: str
    message: str
    seconds: float
    grown_mib: float
    ran: bool


class Bomb:
    """Makes a folder when it is unpickled by a loader that runs what a pickle names."""

    def __init__(self, folder: Path) -> None:
        self._canary = folder / CANARY

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.mkdir, (str(self._canary),))


def strike(case: Case, folder: Path) -> Outcome:
    """Builds the file in `folder`, loads it in a fork, and says what came of it."""
    folder.mkdir(parents=True)
    path = case.build(folder)
    outcome = in_a_fork(lambda: case.load(path))
    return replace(outcome, ran=(folder / CANARY).exists())


def in_a_fork(
    work: Callable[[], object], *, most_grown: int = MOST_GROWN, longest_s: int = LONGEST_S
) -> Outcome:
    """Does `work` in a fork and says what came of it: `loaded` where it did not raise."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        _work(work, writing, most_grown, longest_s)  # does not return
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        told = pipe.read()
    _, status = os.waitpid(child, 0)
    if told:
        return Outcome(**json.loads(told))
    killed = os.waitstatus_to_exitcode(status)
    kind = "too slow" if killed == -signal.SIGALRM else "killed"
    return Outcome(kind, f"status {killed}", 0.0, 0.0, False)


def _work(work: Callable[[], object], pipe: int, most_grown: int, longest_s: int) -> None:
    before = _status("VmRSS")
    limit = _status("VmSize") + most_grown
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    signal.alarm(longest_s)
    started = time.perf_counter()
    try:
        work()
        kind, message = "loaded", ""
    except PlainMedError as error:
        kind, message = "refused", error.message
    except BaseException as error:  # whatever it is, the parent must be told of it
        where = traceback.extract_tb(error.__traceback__)[-1]
        kind = "crashed"
        message = f"{type(error).__name__} in {Path(where.filename).name}: {str(error)[:300]}"
    outcome = Outcome(
        kind,
        message,
        time.perf_counter() - started,
        max(0.0, (_status("VmHWM") - before) / 2**20),
        False,
    )
    os.write(pipe, json.dumps(asdict(outcome)).encode()[:60_000])
    os._exit(0)


def _status(name: str) -> int:
    """A figure of this process, in bytes."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))


def sparse(path: Path, size: int, start: bytes = b"") -> Path:
    """A file that claims `size` bytes and takes none on the disk: zeros, after its start."""
    with path.open("wb") as file:
        file.write(start)
        file.truncate(size)
    return path
