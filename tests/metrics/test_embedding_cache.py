"""The bounded cache of reference embeddings."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from serve_app.metrics.embedding_cache import EmbeddedText, EmbeddingCache


def embedded(tokens: int, fill: float = 0.0) -> EmbeddedText:
    return EmbeddedText(torch.full((tokens, 8), float(fill)), np.ones(tokens, dtype=bool), False)


def size(text: str, tokens: int) -> int:
    return embedded(tokens).nbytes + 4 * len(text)


def test_the_least_recently_used_text_leaves_first():
    cache = EmbeddingCache(2 * size("a", 4))
    cache.put("a", embedded(4))
    cache.put("b", embedded(4))
    assert cache.get("a") is not None
    cache.put("c", embedded(4))
    assert cache.get("b") is None
    assert cache.get("a") is not None
    assert cache.get("c") is not None
    assert (cache.hits, cache.misses) == (3, 1)


def test_what_does_not_fit_is_not_held_and_pushes_nothing_out():
    cache = EmbeddingCache(size("a", 4))
    cache.put("a", embedded(4))
    cache.put("b", embedded(40))
    assert len(cache) == 1
    assert cache.get("a") is not None


def test_zero_bytes_hold_nothing():
    cache = EmbeddingCache(0)
    cache.put("", embedded(0))
    cache.put("a", embedded(1))
    assert cache.get("a") is None
    assert cache.nbytes == 0


def test_a_view_does_not_keep_its_batch_alive():
    batch = torch.zeros(1000, 8)
    cache = EmbeddingCache(10_000)
    cache.put("a", EmbeddedText(batch[:2], np.ones(2, dtype=bool), False))
    held = cache.get("a")
    assert held is not None
    assert held.states.untyped_storage().nbytes() == 2 * 8 * 4


@given(st.lists(st.tuples(st.sampled_from("abcdef"), st.integers(0, 30)), max_size=60))
def test_the_bound_holds_and_the_sum_is_right_whatever_is_put(puts):
    cache = EmbeddingCache(2000)
    for text, tokens in puts:
        cache.put(text, embedded(tokens))
        assert cache.nbytes <= 2000
    held = {text: cache.get(text) for text in "abcdef"}
    sizes = [entry.nbytes + 4 for entry in held.values() if entry is not None]
    assert cache.nbytes == sum(sizes)


def test_threads_may_share_it():
    cache = EmbeddingCache(20 * size("00", 3))

    def work(number: int) -> None:
        text = f"{number % 40:02}"
        found = cache.get(text)
        assert found is None or float(found.states[0, 0]) == number % 40
        cache.put(text, embedded(3, fill=number % 40))

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(2000)))
    assert cache.nbytes == 20 * size("00", 3)
