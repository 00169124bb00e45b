"""LRU cache of token embeddings, bounded in bytes; knows no model and no metric.

Training and best-of-n score the same original again and again. Its embeddings are most of the
cost of relevance, and they do not depend on the text it is compared with.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, replace
from threading import Lock

import numpy as np
from torch import Tensor


@dataclass(frozen=True, slots=True)
class EmbeddedText:
    """A text's unit embeddings `states`, (tokens, hidden) in float32; `weighted`, (tokens,), marks
    tokens that count in averages; `truncated` is True if the end of the text was not read."""

    states: Tensor
    weighted: np.ndarray
    truncated: bool


class EmbeddingCache:
    """At most `max_bytes` bytes of embeddings and texts; any number of threads may share it."""

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.nbytes = 0
        self.hits = 0
        self.misses = 0
        self._held: OrderedDict[str, EmbeddedText] = OrderedDict()
        self._lock = Lock()

    def __len__(self) -> int:
        return len(self._held)

    def get(self, text: str) -> EmbeddedText | None:
        """The embeddings of `text`, or None."""
        with self._lock:
            found = self._held.get(text)
            if found is None:
                self.misses += 1
                return None
            self.hits += 1
            self._held.move_to_end(text)
            return found

    def clear(self) -> None:
        """Drops all texts; the counts stay."""
        with self._lock:
            self._held.clear()
            self.nbytes = 0

    def put(self, text: str, embedded: EmbeddedText) -> None:
        """Keeps the embeddings of `text`, unless they alone exceed the bound."""
        if _size(text, embedded) > self.max_bytes:
            return
        # A view would hold the whole batch it was computed in.
        own = replace(embedded, states=embedded.states.clone())
        with self._lock:
            if text in self._held:
                self.nbytes -= _size(text, self._held.pop(text))
            self._held[text] = own
            self.nbytes += _size(text, own)
            while self.nbytes > self.max_bytes:
                self.nbytes -= _size(*self._held.popitem(last=False))


def _size(text: str, embedded: EmbeddedText) -> int:
    # A character takes 4 bytes at most.
    return embedded.states.nbytes + embedded.weighted.nbytes + 4 * len(text)
