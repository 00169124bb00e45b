"""Key-value caches whose rows come and go. Knows keys and values; no tokens, no sampling.

`PackedCache` has a buffer for each row. In `RowCache`, for modules of transformers, all rows end in
the same column, so a new token is written in place for every row at once; a row is
padded on the left up to the longest. To the model it is an ordinary left-padded cache. The dynamic
cache of transformers copies itself at every token and cannot add rows; its static cache holds every
row at the greatest possible length.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import Cache, DynamicCache
from transformers.cache_utils import CacheLayerMixin, DynamicLayer, DynamicSlidingWindowLayer

from serve_app.models.packed_decoder import RowKeys

# Free columns for tokens to come: at least so many, and a share of those in use. The cache is
# copied once in so many tokens.
_SPARE_COLUMNS = 64
_SPARE_SHARE = 4


class _RowLayer(CacheLayerMixin):  # type: ignore[misc]  # transformers is untyped here
    """Keys and values of one layer, (rows, heads, columns, width), in larger buffers."""

    is_compileable = False
    is_sliding = False

    def __init__(self) -> None:
        super().__init__()
        self.rows = 0
        self.start = 0
        self.end = 0

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        self.rows = key_states.shape[0]
        self.keys = key_states.new_zeros((*key_states.shape[:2], 0, key_states.shape[-1]))
        self.values = value_states.new_zeros((*value_states.shape[:2], 0, value_states.shape[-1]))
        self.is_initialized = True

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Writes new columns at the end; returns views of all columns in use."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        count = key_states.shape[-2]
        self.make_room(self.rows, self.end - self.start, count)
        new = slice(self.end, self.end + count)
        self.keys[: self.rows, :, new] = key_states
        self.values[: self.rows, :, new] = value_states
        self.end += count
        return self.view(self.keys), self.view(self.values)

    def view(self, buffer: Tensor) -> Tensor:
        return buffer[: self.rows, :, self.start : self.end]

    def make_room(self, rows: int, span: int, ahead: int) -> None:
        """Makes room for `rows` rows of `span` columns up to the end, and `ahead` after it."""
        assert self.keys is not None  # noqa: S101 - set by lazy_initialization
        assert self.values is not None  # noqa: S101
        have_rows, _, have_columns, _ = self.keys.shape
        if rows <= have_rows and span <= self.end and self.end + ahead <= have_columns:
            return
        spare = max(ahead, _SPARE_COLUMNS, span // _SPARE_SHARE)
        # Rows double, so that a burst of new ones does not copy the cache for each.
        shape_rows = max(rows, min(2 * have_rows, 2 * rows)) if rows > have_rows else have_rows
        used = self.end - self.start
        for name in ("keys", "values"):
            old: Tensor = getattr(self, name)
            # Zeros, not uninitialised memory: a masked column counts 0 times its value, and 0
            # times NaN is NaN.
            new = old.new_zeros((shape_rows, old.shape[1], span + spare, old.shape[3]))
            new[: self.rows, :, span - used : span] = self.view(old)
            setattr(self, name, new)
        self.start, self.end = span - used, span

    def take(self, other: _RowLayer) -> None:
        """Adds the rows of `other` after its own."""
        span = other.end - other.start
        self.make_room(self.rows + other.rows, max(span, self.end - self.start), 1)
        rows = slice(self.rows, self.rows + other.rows)
        for name in ("keys", "values"):
            buffer: Tensor = getattr(self, name)
            # Values left by an earlier row may not be finite; see make_room.
            buffer[rows, :, : self.end - span] = 0
            buffer[rows, :, self.end - span : self.end] = other.view(getattr(other, name))
        self.rows += other.rows
        self.start = min(self.start, self.end - span)

    def select(self, rows: Sequence[int]) -> None:
        """Keeps copies of these rows, in this order; a row may be taken more than once."""
        index = torch.tensor(rows, device=self.device)
        self.keys, self.values = self.view(self.keys)[index], self.view(self.values)[index]
        self.rows, self.start, self.end = len(rows), 0, self.end - self.start

    def move(self, source: int, target: int) -> None:
        """Copies one row over another."""
        for name in ("keys", "values"):
            buffer: Tensor = getattr(self, name)
            buffer[target, :, : self.end] = buffer[source, :, : self.end]

    @property
    def device(self) -> torch.device:
        assert self.keys is not None  # noqa: S101
        return self.keys.device

    def get_seq_length(self) -> int:
        """Columns in use."""
        return self.end - self.start

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Columns the next mask has, and its offset."""
        return self.get_seq_length() + query_length, 0

    def get_max_length(self) -> int:
        """No maximum."""
        return -1


class RowCache(Cache):  # type: ignore[misc]
    """The cache of all layers of a model for which `holds_rows` is true.

    Sliding windows are stored whole, so that rows of different length share columns; their mask
    hides what is outside the window.
    """

    def __init__(self, model: Any) -> None:
        layers = DynamicCache(config=model.config).layers
        super().__init__(layers=[_RowLayer() for _ in layers])

    def _row_layers(self) -> list[_RowLayer]:
        # A layer that shares its keys and values with another is never written.
        return [layer for layer in self.layers if layer.is_initialized]

    def join(self, other: RowCache) -> None:
        """Adds the rows of `other` after its own."""
        for mine, theirs in zip(self._row_layers(), other._row_layers(), strict=True):
            mine.take(theirs)

    def select(self, rows: Sequence[int]) -> None:
        """Keeps copies of these rows, in this order; a row may be taken more than once."""
        if list(rows) == list(range(self._row_layers()[0].rows)):
            return
        for layer in self._row_layers():
            layer.select(rows)

    def fill(self, rows: Sequence[int]) -> None:
        """Keeps these rows, as ordered by `without`: only rows that move are copied."""
        for layer in self._row_layers():
            for target, source in enumerate(rows):
                if source != target:
                    layer.move(source, target)
            layer.rows = len(rows)

    def trim(self, span: int) -> None:
        """Forgets all but the last `span` columns."""
        for layer in self._row_layers():
            layer.start = layer.end - span


class PackedCache:
    """The cache of a `PackedDecoder`: rows come and go without a copy."""

    def __init__(self, rows: list[RowKeys]) -> None:
        self.rows = rows

    def join(self, other: PackedCache) -> None:
        """Adds the rows of `other` after its own."""
        self.rows += other.rows

    def select(self, rows: Sequence[int]) -> None:
        """Keeps these rows, in this order; a row taken more than once is copied."""
        first = {row: at for at, row in reversed(list(enumerate(rows)))}
        self.rows = [
            self.rows[row] if first[row] == at else self.rows[row].copy()
            for at, row in enumerate(rows)
        ]

    def fill(self, rows: Sequence[int]) -> None:
        """Keeps these rows, in this order."""
        self.rows = [self.rows[row] for row in rows]


def without(count: int, gone: Sequence[int]) -> list[int]:
    """The order of `count` rows after the places of those `gone` are filled from the end.

    >>> without(5, [1, 4])
    [0, 3, 2]
    """
    rows = list(range(count))
    for row in sorted(gone, reverse=True):
        rows[row] = rows[-1]
        rows.pop()
    return rows


def holds_rows(model: Any) -> bool:
    """Whether all layers cache only keys and values; False for recurrent models, among others."""
    layers = DynamicCache(config=model.config).layers
    return all(type(layer) in (DynamicLayer, DynamicSlidingWindowLayer) for layer in layers)
