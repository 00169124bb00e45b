"""Token embeddings of texts seen lately, bounded in bytes; it knows no model and no metric.

In training and in best-of-n the same original is scored again and again. Its embeddings are most
of the cost of relevance, and they do not depend on what they are compared with.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from threading import Lock

import numpy as np
from torch import Tensor


@dataclass(frozen=True, slots=True)
class EmbeddedText:
    """One text as its encoder sees it.

    Attributes:
        states: unit embeddings, (tokens, hidden), float32.
        weighted: True for tokens that count in averages, (tokens,).
        truncated: True if the end of the text was not read.
    """

    states: Tensor
    weighted: np.ndarray
    truncated: bool

    @property
    def nbytes(self) -> int:
        """Bytes of the arrays."""
        return self.states.nbytes + self.weighted.nbytes


class EmbeddingCache:
    """The least recently used texts leave first. Any number of threads may share it.

    Args:
        max_bytes: most bytes of embeddings and texts held; 0 holds nothing.
    """

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
        """The embeddings of `text`, if they are held."""
        with self._lock:
            found = self._held.get(text)
            if found is None:
                self.misses += 1
            else:
                self.hits += 1
                self._held.move_to_end(text)
            return found

    def clear(self) -> None:
        """Lets go of all texts; the counts stay."""
        with self._lock:
            self._held.clear()
            self.nbytes = 0

    def put(self, text: str, embedded: EmbeddedText) -> None:
        """Holds the embeddings of `text`; what does not fit at all is not held."""
        size = _size(text, embedded)
        if size > self.max_bytes:
            return
        # A view would hold the whole batch it was computed in.
        own = EmbeddedText(embedded.states.clone(), embedded.weighted, embedded.truncated)
        with self._lock:
            before = self._held.pop(text, None)
            if before is not None:
                self.nbytes -= _size(text, before)
            self._held[text] = own
            self.nbytes += size
            while self.nbytes > self.max_bytes:
                oldest, dropped = self._held.popitem(last=False)
                self.nbytes -= _size(oldest, dropped)


def _size(text: str, embedded: EmbeddedText) -> int:
    return embedded.nbytes + 4 * len(text)  # a character takes 4 bytes at most
