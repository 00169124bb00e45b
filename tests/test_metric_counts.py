"""What a metric's replica counts, also where one batch is computed in the pauses of another."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace

import pytest

from serve_app.deployments import metrics
from serve_app.deployments.metrics import Relevance
from serve_app.metrics.pauses import PAUSE, pause
from serve_app.settings import Settings
from tests.recording import Kept


class Scorer:
    """Counts a token for each letter, half of them before a pause and half after it."""

    name, device = "letters", "cpu"

    def __init__(self) -> None:
        self.tokens = 0
        self.cache = SimpleNamespace(hits=0, misses=0)

    def score(self, originals: Sequence[str], generated: Sequence[str]) -> list[float]:
        for original, other in zip(originals, generated, strict=True):
            self.tokens += len(original)
            self.cache.misses += 1
            pause()
            self.tokens += len(other)
            self.cache.hits += 1
        return [0.5] * len(originals)


def test_a_batch_in_the_pause_of_another_is_counted_once(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = Kept()
    monkeypatch.setattr(metrics, "ServeTelemetry", lambda: kept)
    monkeypatch.setattr("serve_app.metrics.suite.load_relevance", lambda _: Scorer())
    replica = Relevance.func_or_class(Settings())
    kept.seen.clear()  # its warm-up

    def between() -> None:
        token = PAUSE.set(lambda: None)
        replica._score([("ab", "cd")])
        PAUSE.reset(token)

    token = PAUSE.set(between)
    replica._score([("a" * 50, "b" * 50)])
    PAUSE.reset(token)

    def counted(name: str) -> list[float]:
        return [value for value, _ in kept.of(name)]

    assert counted("plainmed_batch_tokens") == [4.0, 100.0]
    assert sum(counted("plainmed_tokens")) == 104.0
    assert counted("plainmed_cache_hits") == counted("plainmed_cache_misses") == [1.0, 1.0]
