"""A steady load of known requests, every answer of which is compared with the one computed alone.

Knows HTTP and nothing of what serves it.
"""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol

import httpx

Outcome = Literal["right", "wrong", "refused", "failed", "lost"]
OUTCOMES: tuple[Outcome, ...] = ("right", "wrong", "refused", "failed", "lost")

TOLERANCE = 1e-4
"""Between an answer and the one computed alone: batches of other lengths round otherwise."""

SLACK = 0.9
"""Of the requests that were due, so many must have been sent: clients are late now and then."""


@dataclass(frozen=True, slots=True)
class Case:
    """A request, and what it is answered when nothing else goes on."""

    path: str
    body: Mapping[str, Any]
    expected: Any


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of one request; times in seconds of `time.monotonic`.

    `right`: 200 and the known answer. `wrong`: 200 and another. `refused`: 503 with Retry-After and
    the usual error. `failed`: any other status, or a broken connection. `lost`: no answer in time.
    `seen`: what attempts met with that were not answered 200, where a client repeats. `case`: which
    of the load's cases was asked. `got`: what a wrong answer was, where it may be judged again.
    """

    outcome: Outcome
    asked: float
    answered: float
    detail: str = ""
    seen: tuple[str, ...] = ()
    case: int = 0
    got: Any = None


def same(got: Any, expected: Any) -> bool:
    """Whether two JSON values are alike, numbers to within `TOLERANCE`.

    >>> same({"a": [0.5, "x"]}, {"a": [0.50001, "x"]}), same([1.0], [1.0, 2.0]), same(True, 1.0)
    (True, False, False)
    """
    if isinstance(expected, bool) or isinstance(got, bool):
        return got is expected
    if isinstance(expected, int | float) and isinstance(got, int | float):
        return math.isclose(got, expected, rel_tol=0, abs_tol=TOLERANCE)
    if isinstance(expected, dict) and isinstance(got, dict):
        return expected.keys() == got.keys() and all(
            same(got[key], value) for key, value in expected.items()
        )
    if isinstance(expected, list) and isinstance(got, list):
        return len(got) == len(expected) and all(map(same, got, expected))
    return bool(got == expected)


def judge(response: httpx.Response, expected: Any) -> tuple[Outcome, str]:
    """What an answer is, and for one that is not right, what it said."""
    if response.status_code == 200:
        right = same(response.json(), expected)
        return ("right", "") if right else ("wrong", response.text[:500])
    if response.status_code == 503 and response.headers.get("retry-after", "").isdecimal():
        try:
            return "refused", str(response.json()["error"]["code"])
        except (ValueError, KeyError, TypeError):
            pass
    return "failed", f"{response.status_code} {response.text[:300]}"


class Asking(Protocol):
    """Asks a case and says what became of it."""

    async def ask(self, case: Case) -> Answer: ...

    async def aclose(self) -> None: ...


class OnceClient:
    """Asks every case once, as a client does that never repeats."""

    def __init__(self, url: str, timeout_s: float) -> None:
        self._http = httpx.AsyncClient(base_url=url, timeout=timeout_s)

    async def ask(self, case: Case) -> Answer:
        """One request."""
        asked = time.monotonic()
        outcome: Outcome
        try:
            response = await self._http.post(case.path, json=case.body)
            outcome, detail = judge(response, case.expected)
        except httpx.TimeoutException as error:
            outcome, detail = "lost", type(error).__name__
        except httpx.TransportError as error:
            outcome, detail = "failed", type(error).__name__
        return Answer(outcome, asked, time.monotonic(), detail)

    async def aclose(self) -> None:
        """Closes its connections."""
        await self._http.aclose()


def in_background(url: str, case: Case, timeout_s: float) -> Future[Answer]:
    """What becomes of one request that is sent now, once, while the caller goes on."""

    async def ask() -> Answer:
        client = OnceClient(url, timeout_s)
        try:
            return await client.ask(case)
        finally:
            await client.aclose()

    pool = ThreadPoolExecutor(1)
    asked = pool.submit(lambda: asyncio.run(ask()))
    pool.shutdown(wait=False)
    return asked


def due(clients: int, rate: float, seconds: float, waited: float) -> tuple[float, float]:
    """The least and the most requests that clients send at an even pace.

    A client that waits for an answer sends nothing, however much is due; one that does not wait
    sends what is due. So the time that they waited, all together, is taken off.

    >>> due(clients=16, rate=4.0, seconds=60.0, waited=80.0)
    (182.0, 256.0)
    """
    if math.isinf(rate):
        return 1.0, math.inf
    pace = clients / rate
    least = SLACK * (rate * seconds - waited / pace) - clients
    return max(1.0, least), rate * seconds + clients


class Load:
    """Clients that ask one case after the other, each at its own even pace, until stopped.

    Leaving the block stops them and waits for what is under way.

    Args:
        url: of the server.
        cases: asked in turn.
        client: makes one of them, of the URL and `timeout_s`.
        clients: how many ask at once.
        rate: requests a second of all clients together; infinity: as fast as answers come.
        timeout_s: after which a request without an answer is lost.

    Attributes:
        answers: what became of the requests, in the order in which they ended.
        sent: how many were asked.
        seconds: for how long the clients asked, once they are stopped.

    Raises (leaving the block):
        Exception: what ended the clients early, whatever it was.
    """

    def __init__(
        self,
        url: str,
        cases: Sequence[Case],
        *,
        client: Callable[[str, float], Asking] = OnceClient,
        clients: int = 16,
        rate: float = math.inf,
        timeout_s: float = 120.0,
    ) -> None:
        self._url, self._cases = url, cases
        self._client = client
        self._clients, self._rate, self._timeout_s = clients, rate, timeout_s
        self.answers: list[Answer] = []
        self.sent = 0
        self.seconds = 0.0
        self._began = 0.0
        self._waiting: dict[int, float] = {}
        self._error: BaseException | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Load:
        self._began = time.monotonic()
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.stop()
        self._thread.join()
        if self._error is not None and kind is None:
            raise self._error

    def stop(self) -> None:
        """Nothing is asked from now on; what is under way goes on."""
        if not self._stop.is_set():
            self.seconds = time.monotonic() - self._began
        self._stop.set()

    def counts(self, since: float = 0.0) -> Counter[Outcome]:
        """How many of each outcome, of requests asked from `since` on."""
        return Counter(one.outcome for one in list(self.answers) if one.asked >= since)

    def slowest_s(self) -> float:
        """Of the answers so far."""
        return max((one.answered - one.asked for one in list(self.answers)), default=0.0)

    def waiting(self, longer_s: float) -> int:
        """Requests that have been under way for longer than this."""
        now = time.monotonic()
        return sum(now - asked > longer_s for asked in list(self._waiting.values()))

    def missing(self) -> list[str]:
        """What says that requests were not sent, or that not each has an outcome; once stopped."""
        waited = sum(one.answered - one.asked for one in self.answers)
        least, most = due(self._clients, self._rate, self.seconds, waited)
        found = []
        if not least <= self.sent <= most:
            found.append(f"{self.sent} requests were sent; {least:.0f} to {most:.0f} were due")
        if sum(self.counts()[one] for one in OUTCOMES) != self.sent:
            found.append(f"{len(self.answers)} outcomes of {self.sent} requests")
        return found

    def _run(self) -> None:
        try:
            asyncio.run(self._all())
        except BaseException as error:  # of whatever kind: it is told where the block is left
            self._error = error

    async def _all(self) -> None:
        async with AsyncExitStack() as stack:
            made = [self._client(self._url, self._timeout_s) for _ in range(self._clients)]
            for one in made:
                stack.push_async_callback(one.aclose)
            await asyncio.gather(*(self._one(one, number) for number, one in enumerate(made)))

    async def _one(self, client: Asking, number: int) -> None:
        pause = self._clients / self._rate
        moment = time.monotonic() + pause * number / self._clients
        turn = number
        while not self._stop.is_set():
            await asyncio.sleep(max(0.0, min(moment - time.monotonic(), 0.2)))
            if self._stop.is_set() or time.monotonic() < moment:
                continue
            moment += pause
            case = turn % len(self._cases)
            self.sent += 1
            self._waiting[number] = time.monotonic()
            answer = await client.ask(self._cases[case])
            del self._waiting[number]
            self.answers.append(replace(answer, case=case))
            turn += 1
