"""The load's client: PlainMed's own, which repeats what is worth repeating and here tells of it.

Knows what an answer is compared with (load.py) and nothing of what is done to the server.
"""

from __future__ import annotations

import json
import time
from typing import Any

from serve_app.client.clients import AsyncPlainMedClient
from serve_app.client.errors import PlainMedAPIError, PlainMedConnectionError
from serve_app.client.wire import Call
from tests.chaos.load import Answer, Case, Outcome, same

NAMES = frozenset({"model", "device"})
"""Fields of an answer that name what computed it; a rolling update may change them."""


def numbers(answer: Any) -> Any:
    """An answer without the names of what computed it."""
    if isinstance(answer, dict):
        return {key: value for key, value in answer.items() if key not in NAMES}
    return answer


class PatientClient(AsyncPlainMedClient):
    """Asks cases one at a time; `seen` has what every attempt of the last one met with.

    Args:
        url: of the server.
        timeout_s: after which an attempt without an answer is lost.
    """

    def __init__(self, url: str, timeout_s: float) -> None:
        super().__init__(url, timeout=timeout_s, deadline=None)
        self.seen: list[str] = []

    async def _attempt(self, call: Call[Any], started: float, stream: bool = False) -> Any:
        try:
            return await super()._attempt(call, started, stream)
        except PlainMedAPIError as error:
            self.seen.append(f"{error.status} {error.code}")
            raise
        except PlainMedConnectionError as error:
            self.seen.append("connection" if error.retryable else "no answer")
            raise

    async def ask(self, case: Case) -> Answer:
        """One case, asked until it is answered or the client gives up."""
        call: Call[Any] = Call("POST", case.path, json.loads, json.dumps(dict(case.body)))
        self.seen = []
        asked = time.monotonic()
        outcome: Outcome
        detail, got = "", None
        try:
            got = numbers(await self._send(call))
            right = same(got, numbers(case.expected))
            outcome, detail = ("right", "") if right else ("wrong", str(got)[:500])
        except PlainMedAPIError as error:
            refused = error.status == 503 and error.retry_after is not None
            outcome, detail = ("refused" if refused else "failed"), str(error)
        except PlainMedConnectionError as error:
            outcome, detail = ("failed" if error.retryable else "lost"), str(error)
        return Answer(outcome, asked, time.monotonic(), detail, tuple(self.seen), got=got)
