"""The requests of a soak: every route, bad ones, clients that leave and clients in a hurry.

Knows HTTP and what each request must be answered; nothing of processes or times.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import cycle
from typing import Any

import aiohttp

from benchmarks import serving
from tests.chaos.load import same

LEAVE_AFTER_S = 0.15
HURRY_S = "0.05"


@dataclass(slots=True)
class Request:
    """One request and what it must be answered.

    Attributes:
        name: for the table.
        status: of the right answer.
        expected: its JSON, once known (`None`: not compared).
        leave_s: the client closes the connection after so long.
    """

    name: str
    path: str
    body: bytes | None
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    expected: Any = None
    leave_s: float | None = None


def _json(name: str, path: str, body: object, **options: Any) -> Request:
    return Request(name, path, json.dumps(body).encode(), **options)


def _of_pair(pair: tuple[str, str], number: int) -> list[Request]:
    """What is asked about one pair, a tenth of it wrong, left or too late."""
    original, summary = pair
    both = serving.body([pair])
    seeded = {"text": original, "seed": number}
    empty = {"texts_original": [""], "texts_generated": [""]}
    return [
        _json("/loss", "/loss", both),
        _json("/metrics/relevance", "/metrics/relevance", both),
        _json("/metrics/factuality", "/metrics/factuality", both),
        _json("/metrics/readability", "/metrics/readability", {"texts": [summary]}),
        _json("/evaluate", "/evaluate", {**both, "explain": True}),
        _json("/generate", "/generate", seeded),
        _json("/generate, best of 3", "/generate", {**seeded, "n": 3, "select": "loss"}),
        Request(
            "/generate, streamed", "/generate", json.dumps({**seeded, "stream": True}).encode()
        ),
        Request("GET /healthz", "/healthz", None),
        Request("GET / (the page)", "/", None),
        [
            Request("bad", "/loss", b'{"texts_original": [', 400),
            _json("bad", "/loss", {**both, "weight": [1]}, status=422),
            _json("bad", "/evaluate", empty, status=422),
            _json("bad", "/metrics/readability", {"texts": ["x" * 1_000_001]}, status=413),
            _json("bad", "/no/such/route", {}, status=404),
            Request("bad", "/generate", b"\xff\xfe", 400),
        ][number % 6],
        _json(
            "in a hurry (X-Request-Timeout)",
            "/loss",
            serving.body([pair] * 4),
            status=503,
            headers={"x-request-timeout": HURRY_S},
        ),
        _json("gone", "/evaluate", serving.body([pair] * 4), leave_s=LEAVE_AFTER_S),
        _json("gone", "/generate", {"texts": [original] * 4}, leave_s=LEAVE_AFTER_S),
    ]


def requests(pairs: Sequence[tuple[str, str]]) -> list[Request]:
    """All of them, in the order in which they are asked again and again."""
    return [one for number, pair in enumerate(pairs) for one in _of_pair(pair, number)]


class Mix:
    """Asks requests in turn and counts answers that are not as they must be.

    Args:
        url: of the server.
        asked: what `requests` gave.
    """

    def __init__(self, url: str, asked: Sequence[Request]) -> None:
        self._url, self._asked = url, asked
        self._turns: Iterator[Request] = cycle(asked)
        self.counts: Counter[str] = Counter()
        self.unexpected: Counter[str] = Counter()

    async def learn(self, session: aiohttp.ClientSession) -> None:
        """Asks everything once, one at a time, and remembers the answers that can be compared."""
        for one in self._asked:
            answer = await self._ask(session, one)
            if answer is not None and one.body is not None and one.status == 200:
                one.expected = answer

    async def next(self, session: aiohttp.ClientSession) -> None:
        """Asks the next one."""
        one = next(self._turns)
        answer = await self._ask(session, one)
        if one.expected is not None and answer is not None and not same(answer, one.expected):
            self.unexpected[f"{one.name}: another answer"] += 1

    async def _ask(self, session: aiohttp.ClientSession, one: Request) -> Any:
        """The JSON of a right answer, or None."""
        self.counts[one.name] += 1
        headers = {"content-type": "application/json", **one.headers}
        send = session.get if one.body is None else session.post
        options: dict[str, Any] = {} if one.body is None else {"data": one.body}
        try:
            async with (
                asyncio.timeout(one.leave_s),
                send(self._url + one.path, headers=headers, **options) as response,
            ):
                content = await response.read()
                status, kind = response.status, response.content_type
        except TimeoutError:
            if one.leave_s is None:
                self.unexpected[f"{one.name}: no answer"] += 1
            return None
        except aiohttp.ClientError as error:
            self.unexpected[f"{one.name}: {type(error).__name__}"] += 1
            return None
        if one.leave_s is not None:
            return None
        if status != one.status:
            self.unexpected[f"{one.name}: answered {status} instead of {one.status}"] += 1
            return None
        return json.loads(content) if kind == "application/json" else None
