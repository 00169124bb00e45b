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
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import httpx

Outcome = Literal["right", "wrong", "refused", "failed", "lost"]
OUTCOMES: tuple[Outcome, ...] = ("right", "wrong", "refused", "failed", "lost")

TOLERANCE = 1e-4
"""Between an answer and the one computed alone: batches of other lengths round otherwise."""


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
    `seen`: what attempts met with that were not answered 200, where a client repeats.
    """

    outcome: Outcome
    asked: float
    answered: float
    detail: str = ""
    seen: tuple[str, ...] = ()


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


class Load:
    """Clients that ask one case after the other, each at its own even pace, until stopped.

    Args:
        url: of the server.
        cases: asked in turn.
        client: makes one of them, of the URL and `timeout_s`.
        clients: how many ask at once.
        rate: requests a second of all clients together; infinity: as fast as answers come.
        timeout_s: after which a request without an answer is lost.
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
        self._stop = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._all()), daemon=True)

    def __enter__(self) -> Load:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def counts(self, since: float = 0.0) -> Counter[Outcome]:
        """How many of each outcome, of requests asked from `since` on."""
        return Counter(one.outcome for one in list(self.answers) if one.asked >= since)

    async def _all(self) -> None:
        async with AsyncExitStack() as stack:
            made = [self._client(self._url, self._timeout_s) for _ in range(self._clients)]
            for one in made:
                stack.push_async_callback(one.aclose)
            await asyncio.gather(*(self._one(one, number) for number, one in enumerate(made)))

    async def _one(self, client: Asking, number: int) -> None:
        pause = self._clients / self._rate
        due = time.monotonic() + pause * number / self._clients
        turn = number
        while not self._stop.is_set():
            await asyncio.sleep(max(0.0, min(due - time.monotonic(), 0.2)))
            if time.monotonic() < due:
                continue
            due += pause
            self.answers.append(await client.ask(self._cases[turn % len(self._cases)]))
            turn += 1
