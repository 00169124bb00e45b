"""The earlier system's client module: its functions, keywords and results, on `serve_app.client`.

Every function takes `base_url` (default METRICS_API_URL, read at each call, else
http://127.0.0.1:8000) and `timeout`, the longest wait for an answer in seconds (default
METRICS_API_TIMEOUT, else the client's own). A str is one text.

Raises (each function):
    RuntimeError: as `PlainMedAPIError`, an error of the server; as `PlainMedConnectionError`, no
        answer.
    ValueError: as `InvalidInput`, lists of different lengths or weights that cannot be used.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from serve_app.client.clients import PlainMedClient
from serve_app.client.wire import Call, Texts
from serve_app.core.errors import ConfigError, InvalidInput

__all__ = [
    "getFactuality",
    "getHealth",
    "getLoss",
    "getLossPair",
    "getReadability",
    "getRelevance",
]

# ruff: noqa: N802, N803 - the earlier module's names


def getHealth(base_url: str | None = None, timeout: float | None = None) -> dict[str, Any]:
    """The JSON of `GET /healthz`, also while the server is not ready (503)."""
    read = frozenset({200, 503})
    call: Call[dict[str, Any]] = Call("GET", "/healthz", json.loads, readable=read, retried=False)
    return _client(base_url, timeout)._send(call)


def getRelevance(
    originals: Texts, generated: Texts, base_url: str | None = None, timeout: float | None = None
) -> list[float]:
    """BERTScore F1 of each generated text against its original; a list for one pair too."""
    texts = _lists(originals=originals, generated=generated)
    return _client(base_url, timeout).relevance(*texts)


def getFactuality(
    originals: Texts, generated: Texts, base_url: str | None = None, timeout: float | None = None
) -> list[float]:
    """AlignScore of each generated text against its original; a list for one pair too."""
    texts = _lists(originals=originals, generated=generated)
    return _client(base_url, timeout).factuality(*texts)


def getReadability(
    texts: Texts, base_url: str | None = None, timeout: float | None = None
) -> dict[str, list[float]]:
    """`{"fkgl": [..], "smog": [..], "dale_chall": [..]}`; lists for one text too."""
    answer = _client(base_url, timeout).readability(texts)
    return {"fkgl": answer.fkgl, "smog": answer.smog, "dale_chall": answer.dale_chall}


def getLoss(
    originals: Texts,
    humans: Texts | None = None,
    generated: Texts | None = None,
    weights: Sequence[float] | None = None,
    base_url: str | None = None,
    timeout: float | None = None,
) -> float | list[float]:
    """The loss of each pair, in [0, 1]: a float for one pair, a list for several.

    `getLoss(originals, generated)` or `getLoss(originals, humans, generated)`, where humans are
    human-written summaries of the same originals. `weights` are relevance, factuality, fkgl, smog,
    dale_chall, default 0.2 each; they are divided by their sum.

    Raises:
        TypeError: there are no generated texts.
    """
    if generated is None:
        humans, generated = None, humans
    if generated is None:
        raise TypeError("getLoss() needs the generated texts")
    given = {"originals": originals, "generated": generated}
    texts = _lists(**given if humans is None else {**given, "humans": humans})
    human = None if humans is None else texts[2]
    values = _client(base_url, timeout).loss(texts[0], texts[1], human, _normalised(weights))
    return values[0] if len(values) == 1 else values


def getLossPair(
    humans: Texts | None = None,
    generated: Texts | None = None,
    weights: Sequence[float] | None = None,
    base_url: str | None = None,
    timeout: float | None = None,
    *,
    A: Texts | None = None,
    B: Texts | None = None,
) -> float | list[float]:
    """`getLoss` of two texts or lists, the first in the place of the originals; also A and B."""
    first, second = A if humans is None else humans, B if generated is None else generated
    if first is None or second is None:
        raise TypeError("getLossPair() needs two texts or lists")
    return getLoss(first, second, None, weights, base_url, timeout)


def _lists(**texts: Texts) -> list[list[str]]:
    lists = [[value] if isinstance(value, str) else list(value) for value in texts.values()]
    if len({len(one) for one in lists}) > 1:
        found = ", ".join(f"{len(one)} {name}" for one, name in zip(lists, texts, strict=True))
        raise InvalidInput(f"give lists of the same length, not {found}")
    return lists


def _normalised(weights: Sequence[float] | None) -> list[float] | None:
    if weights is None:
        return None
    numbers = [float(weight) for weight in weights]
    if len(numbers) != 5:
        raise InvalidInput(f"give 5 weights, not {len(numbers)}", field="weights")
    total = sum(numbers)
    if total == 0:
        raise InvalidInput("the sum of the weights must not be 0", field="weights")
    return numbers if abs(total - 1) <= 1e-6 else [number / total for number in numbers]


def _client(base_url: str | None, timeout: float | None) -> PlainMedClient:
    if timeout is None and (given := os.environ.get("METRICS_API_TIMEOUT")):
        try:
            timeout = float(given)
        except ValueError:
            raise ConfigError(f"METRICS_API_TIMEOUT must be seconds, not {given!r}") from None
    return _connected(base_url or os.environ.get("METRICS_API_URL"), timeout, os.getpid())


@lru_cache(maxsize=8)
def _connected(url: str | None, timeout: float | None, _pid: int) -> PlainMedClient:
    """One client for each server, so that a training loop keeps its connection; and for each
    process, because a forked one must not share sockets."""
    return PlainMedClient(url) if timeout is None else PlainMedClient(url, timeout=timeout)
