"""One client's thousands of texts beside others' single pairs; clients that leave; deadlines.

Knows HTTP and the processor seconds of replicas.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any, NamedTuple

import aiohttp
import psutil

from benchmarks.reliability import processes
from benchmarks.reliability.storm import Quantiles
from serve_app.client.sse import EventParser

SCORERS = ("Relevance", "Factuality", "Readability", "Loss")
BUSY_S, STEP_S, LIMIT_S = 8.0, 0.25, 60.0
EARLY_S, LATE_S = 0.05, 0.5
"""A deadline ends a request so long before it at most (clocks are read at different places), and so
long after it: the answer has to come back."""

IDLE_CORES, QUIET_S = 0.12, 2.0
"""Replicas that compute nothing take less than so much together over so long: health checks and
metrics, which come in bursts of several hundredths of a second. One that computes takes a third of
a core or more."""


class Reply(NamedTuple):
    """Seconds until an answer, its status, and the code of an error."""

    seconds: float
    status: int
    code: str = ""


@dataclass(frozen=True, slots=True)
class Streamed:
    """What came of a stream.

    Attributes:
        seconds: until it had ended.
        pieces: of a summary that it brought.
        last: its last event, `done` or `error`; empty where there was none.
        code: of an `error`.
    """

    seconds: float
    pieces: int
    last: str
    code: str


class Clients:
    """What clients of one server do.

    Args:
        url: of the server.
        pid: its first process.
    """

    def __init__(self, url: str, pid: int) -> None:
        self._url, self._pid = url, pid

    async def post(
        self, session: aiohttp.ClientSession, path: str, body: Any, **headers: str
    ) -> Reply:
        """One request."""
        start = time.monotonic()
        async with session.post(self._url + path, json=body, headers=headers) as response:
            content = await response.read()
        seconds = time.monotonic() - start
        return Reply(seconds, response.status, _code(content) if response.status != 200 else "")

    async def one_by_one(
        self, path: str, bodies: Sequence[Any], pause_s: float = 0.3
    ) -> list[Reply]:
        """A client that asks for one thing at a time."""
        found = []
        async with aiohttp.ClientSession() as session:
            for body in bodies:
                found.append(await self.post(session, path, body))
                await asyncio.sleep(pause_s)
        return found

    async def streamed(self, path: str, body: Any, **headers: str) -> Streamed:
        """One request for a stream, read to its end."""
        parser, start = EventParser(), time.monotonic()
        pieces, last, data = 0, "", b""
        async with (
            aiohttp.ClientSession() as session,
            session.post(self._url + path, json=body, headers=headers) as response,
        ):
            async for chunk in response.content.iter_any():
                data += chunk
                for name, said in parser.feed(chunk):
                    if name == "message":
                        pieces += 1
                    else:
                        last, data = name, said.encode()
        seconds = time.monotonic() - start
        return Streamed(seconds, pieces, last, "" if last == "done" else _code(data))

    async def at_once(self, path: str, bodies: Sequence[Any], **headers: str) -> list[Reply]:
        """Requests that are sent together."""
        async with aiohttp.ClientSession() as session:
            sent = (self.post(session, path, body, **headers) for body in bodies)
            return await asyncio.gather(*sent)

    @asynccontextmanager
    async def under_way(self, path: str, bodies: Sequence[Any]) -> AsyncIterator[list[int]]:
        """Requests that are under way inside the block; their clients close the connection at its
        end. Gives the statuses of those that were answered meanwhile."""
        statuses: list[int] = []
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(600)) as session:

            async def ask(body: Any) -> None:
                statuses.append((await self.post(session, path, body)).status)

            tasks = [asyncio.create_task(ask(body)) for body in bodies]
            try:
                yield statuses
            finally:
                for task in tasks:
                    task.cancel()
                with suppress(asyncio.CancelledError):
                    await asyncio.gather(*tasks, return_exceptions=True)

    def replicas(self, *deployments: str) -> list[psutil.Process]:
        """Processes of their replicas."""
        return [one for name in deployments for one in processes.replicas(self._pid, name)]

    async def until_idle(self, watched: Sequence[psutil.Process]) -> float:
        """Seconds until they take no more processor time than idle ones; infinity where they never
        do. It is known `QUIET_S` later."""
        start = time.monotonic()
        readings = [(start, processes.cpu_s(watched))]
        while time.monotonic() - start < LIMIT_S:
            await asyncio.sleep(STEP_S)
            readings.append((time.monotonic(), processes.cpu_s(watched)))
            # The latest of those that are old enough: exactly the last QUIET_S are looked at.
            readings = _since(readings, readings[-1][0] - QUIET_S)
            (then, before), (now, after) = readings[0], readings[-1]
            if now - then >= QUIET_S and after - before <= IDLE_CORES * (now - then):
                return then - start
        return float("inf")

    async def left(self, path: str, body: Any, *deployments: str) -> tuple[float, float]:
        """A request that its client leaves after a while: processors in use before, and seconds
        until they are idle."""
        watched = self.replicas(*deployments)
        async with self.under_way(path, [body]) as statuses:
            await asyncio.sleep(BUSY_S / 2)
            before, start = processes.cpu_s(watched), time.monotonic()
            await asyncio.sleep(BUSY_S / 2)
            cores = (processes.cpu_s(watched) - before) / (time.monotonic() - start)
            if statuses:
                raise RuntimeError(f"{path} was answered {statuses} before its client left")
        return cores, await self.until_idle(watched)


def _code(content: bytes) -> str:
    """The code of an error in the usual shape; empty where it has another."""
    try:
        return str(json.loads(content)["error"]["code"])
    except (ValueError, KeyError, TypeError):
        return ""


def _since(readings: list[tuple[float, float]], when: float) -> list[tuple[float, float]]:
    """The readings from the last one that is not later than `when`."""
    first = max((at for at, (then, _) in enumerate(readings) if then <= when), default=0)
    return readings[first:]


def quantiles(answers: Sequence[Reply]) -> Quantiles:
    """Of the times of right answers.

    Raises:
        RuntimeError: another status than 200 is among them.
    """
    if others := [one for one in answers if one.status != 200]:
        raise RuntimeError(f"a single request was answered {others[0]}")
    return Quantiles.of([one.seconds for one in answers])


def in_time(seconds: float, wanted: float) -> bool:
    """Whether a deadline of `wanted` seconds ended something: not before, and soon after."""
    return wanted - EARLY_S <= seconds <= wanted + LATE_S


def deadlines_kept(answers: Sequence[Reply], wanted: float) -> bool:
    """Whether each was let in and ended by its deadline: another refusal is none of this."""
    return bool(answers) and all(
        (one.status, one.code) == (503, "timeout") and in_time(one.seconds, wanted)
        for one in answers
    )


def stream_kept(answer: Streamed, wanted: float) -> bool:
    """Whether a stream that had begun was ended by its deadline, and said so."""
    ended = (answer.last, answer.code) == ("error", "timeout")
    return ended and answer.pieces > 0 and in_time(answer.seconds, wanted)
