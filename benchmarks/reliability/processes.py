"""What the processes of a server use, summed by what they are; knows Ray's titles, no HTTP."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, fields

import psutil

MIB = 2**20

_REPLICA = re.compile(r"ServeReplica:\w+:(\w+)")
_PROGRAMS = {"gcs_server": "Ray GCS", "raylet": "raylet"}
_TITLES = {"ray::ProxyActor": "HTTP proxy", "ray::ServeController": "Serve controller"}
AGENTS = "Ray's agents and monitors"


@dataclass(frozen=True, slots=True)
class Usage:
    """Of one process, or of several together.

    Attributes:
        processes: how many.
        actors: how many of them are Ray actors of Serve (replicas, proxy, controller).
        own_mib: memory that no other process shares (unique set size).
        rss_mib: resident memory, shared pages included.
        files: open file descriptors.
        threads: of all of them.
        cpu_s: processor seconds since they started.
    """

    processes: int = 0
    actors: int = 0
    own_mib: float = 0.0
    rss_mib: float = 0.0
    files: int = 0
    threads: int = 0
    cpu_s: float = 0.0

    def __add__(self, other: Usage) -> Usage:
        return Usage(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(Usage)))


def kind(command: str) -> str:
    """What a process of a PlainMed server is, by its command line or title.

    >>> kind("ray::ServeReplica:plainmed:Factuality"), kind("ray::ProxyActor")
    ('Factuality', 'HTTP proxy')
    """
    if found := _REPLICA.search(command):
        return found[1]
    program = command.split(" ", 1)[0].rsplit("/", 1)[-1]
    if program in _PROGRAMS:
        return _PROGRAMS[program]
    if command.startswith("ray::"):
        known = (name for title, name in _TITLES.items() if command.startswith(title))
        return next(known, "other Ray actors and workers")
    return "plainmed serve" if "plainmed serve" in command else AGENTS


def family(root: int) -> list[psutil.Process]:
    """The process and all it has started, as far as they live."""
    try:
        first = psutil.Process(root)
        return [first, *first.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def usage(processes: Iterable[psutil.Process], *, walk: bool = True) -> dict[str, Usage]:
    """What they use now, by kind.

    Args:
        processes: those of a server.
        walk: False leaves `own_mib` 0. For that the kernel walks through all pages of a process and
            holds up whoever changes its memory meanwhile, on a busy machine for up to a second.
    """
    found: dict[str, Usage] = {}
    for process in processes:
        try:
            with process.oneshot():
                name = kind(" ".join(process.cmdline()))
                memory = process.memory_full_info() if walk else process.memory_info()
                times = process.cpu_times()
                actor = name in _TITLES.values() or name.isidentifier()
                one = Usage(
                    1,
                    int(actor),
                    memory.uss / MIB if walk else 0.0,
                    memory.rss / MIB,
                    process.num_fds(),
                    process.num_threads(),
                    times.user + times.system,
                )
        except psutil.Error:
            continue  # it has ended meanwhile
        found[name] = found.get(name, Usage()) + one
    return found


def replicas(root: int, deployment: str) -> list[psutil.Process]:
    """The processes of a deployment's replicas."""
    found = []
    for process in family(root):
        try:
            if kind(" ".join(process.cmdline())) == deployment:
                found.append(process)
        except psutil.Error:
            continue
    return found


def cpu_s(processes: Iterable[psutil.Process]) -> float:
    """Processor seconds they have taken since they started."""
    return sum(sum(process.cpu_times()[:2]) for process in processes)
