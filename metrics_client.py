"""The earlier system's client module: its four names, on `serve_app.client`.

The server is METRICS_API_URL, read at each call (default http://127.0.0.1:8000);
METRICS_API_TIMEOUT is the longest wait for an answer, in seconds. A str is one text. Where a
value is one number for each pair, a single pair gives a float and several a list.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import lru_cache

from serve_app.client.clients import PlainMedClient
from serve_app.client.wire import Texts
from serve_app.core.errors import ConfigError

__all__ = ["getFactuality", "getLoss", "getReadability", "getRelevance"]


def getRelevance(originals: Texts, generated: Texts) -> float | list[float]:  # noqa: N802
    """BERTScore F1 of each generated text against its original."""
    return _unwrapped(_client().relevance(originals, generated))


def getFactuality(originals: Texts, generated: Texts) -> float | list[float]:  # noqa: N802
    """AlignScore of each generated text against its original."""
    return _unwrapped(_client().factuality(originals, generated))


def getReadability(texts: Texts) -> dict[str, list[float]]:  # noqa: N802
    """`{"fkgl": [..], "smog": [..], "dale_chall": [..]}`, as the service answers; lists always."""
    answer = _client().readability(texts)
    return {"fkgl": answer.fkgl, "smog": answer.smog, "dale_chall": answer.dale_chall}


def getLoss(  # noqa: N802
    originals: Texts,
    humans: Texts | None = None,
    generated: Texts | None = None,
    weights: Sequence[float] | None = None,
) -> float | list[float]:
    """The loss of each pair, in [0, 1].

    Two calls are possible: `getLoss(originals, generated)` and `getLoss(originals, humans,
    generated)`, where humans are human-written summaries of the same originals; each takes
    `weights=[relevance, factuality, fkgl, smog, dale_chall]`, with sum 1, default 0.2 each.

    Raises:
        TypeError: there are no generated texts.
        PlainMedAPIError, PlainMedConnectionError, InvalidInput: as `PlainMedClient`.
    """
    if generated is None:
        humans, generated = None, humans
    if generated is None:
        raise TypeError("getLoss() needs the generated texts")
    return _unwrapped(_client().loss(originals, generated, humans, weights))


def _unwrapped(values: list[float]) -> float | list[float]:
    return values[0] if len(values) == 1 else values


def _client() -> PlainMedClient:
    timeout = os.environ.get("METRICS_API_TIMEOUT")
    try:
        seconds = float(timeout) if timeout else None
    except ValueError:
        raise ConfigError(f"METRICS_API_TIMEOUT must be seconds, not {timeout!r}") from None
    return _connected(os.environ.get("METRICS_API_URL"), seconds, os.getpid())


@lru_cache(maxsize=8)
def _connected(url: str | None, timeout: float | None, _pid: int) -> PlainMedClient:
    """One client for each server, so that a training loop keeps its connection; and for each
    process, because a forked one must not share sockets."""
    return PlainMedClient(url) if timeout is None else PlainMedClient(url, timeout=timeout)
