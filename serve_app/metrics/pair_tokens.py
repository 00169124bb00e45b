"""Token ids of (first, second) text pairs, cut to an encoder's limit; it knows no metric.

Each text is tokenised once however many pairs it is in: fast tokenizers encode the halves of
a pair apart and join them by a template, so joining here gives the same ids. Cutting follows
AlignScore's published inference for a pair alone: shorten the first text; where the second
leaves no room for a token of the first, that call fails, and its fallback cuts the longer of
the two down ("longest first").
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tokenizers import Tokenizer

from serve_app.core.errors import ConfigError
from serve_app.models.encoder_runtime import TokenSequence


def fit_pair(first: int, second: int, room: int) -> tuple[int, int]:
    """How many tokens of each text are kept when both may have `room` together.

    >>> fit_pair(300, 20, 508), fit_pair(600, 20, 508)
    ((300, 20), (488, 20))
    >>> fit_pair(600, 900, 508), fit_pair(5, 900, 508)
    ((254, 254), (5, 503))
    """
    if first + second <= room:
        return first, second
    if second < room:
        return room - second, second
    shorter = min(first, second, room // 2)
    return (room - shorter, shorter) if first > second else (shorter, room - shorter)


class PairEncoder:
    """Joins tokenised texts into pairs with the tokenizer's own special tokens.

    Args:
        tokenizer: a fast transformers tokenizer; it is copied, not changed.
        limit: most tokens of a pair, special tokens included.
        with_types: whether the encoder tells the two texts apart by token types.

    Raises:
        ConfigError: the tokenizer is a slow one, or `limit` has no room for text.
    """

    def __init__(self, tokenizer: Any, limit: int, *, with_types: bool) -> None:
        if not getattr(tokenizer, "is_fast", False):
            raise ConfigError(
                f"{tokenizer.name_or_path} has no fast tokenizer; add its tokenizer.json"
            )
        # A copy, so that cutting and padding set elsewhere on the tokenizer cannot reach us.
        self._backend = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
        self._backend.no_truncation()
        self._backend.no_padding()
        self._with_types = with_types
        self._keep_end = tokenizer.truncation_side == "left"
        self.limit = limit
        self.room = limit - self._backend.num_special_tokens_to_add(True)
        if self.room < 2:
            raise ConfigError(f"an encoder limit of {limit} tokens leaves no room for a pair")
        self._read_template()

    def _read_template(self) -> None:
        """Learns what surrounds the texts from one encoded pair."""
        probe = self._backend.encode("a", "b")
        sides = probe.sequence_ids
        starts = [sides.index(side) for side in (0, 1)]
        ends = [len(sides) - sides[::-1].index(side) for side in (0, 1)]
        self._type_of = [probe.type_ids[start] for start in starts]
        gaps = [slice(0, starts[0]), slice(ends[0], starts[1]), slice(ends[1], len(sides))]
        self._special_ids = [probe.ids[gap] for gap in gaps]
        self._special_types = [probe.type_ids[gap] for gap in gaps]

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text, without special tokens and uncut."""
        encoded = self._backend.encode_batch_fast(list(texts), add_special_tokens=False)
        return [encoding.ids for encoding in encoded]

    def join(self, first: Sequence[int], second: Sequence[int]) -> tuple[TokenSequence, bool]:
        """The pair as the encoder takes it, and whether any of its text was cut off."""
        kept = fit_pair(len(first), len(second), self.room)
        cut = kept != (len(first), len(second))
        left, right = (self._cut(ids, n) for ids, n in zip((first, second), kept, strict=True))
        before, between, after = self._special_ids
        ids = [*before, *left, *between, *right, *after]
        if not self._with_types:
            return TokenSequence(ids), cut
        before, between, after = self._special_types
        types = [
            *before,
            *[self._type_of[0]] * len(left),
            *between,
            *[self._type_of[1]] * len(right),
            *after,
        ]
        return TokenSequence(ids, types), cut

    def _cut(self, ids: Sequence[int], count: int) -> Sequence[int]:
        return ids[len(ids) - count :] if self._keep_end else ids[:count]
