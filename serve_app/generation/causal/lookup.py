"""Guesses what a text goes on with from what it says already: summaries repeat their source.

Prompt lookup (Saxena, 2023; "LLMA", Yang et al., 2023): where the last few tokens stood before, the
tokens that followed there are the draft. A wrong draft costs a part of a pass and changes no text.
Knows no model; docs/generation.md has what it gains.
"""

from __future__ import annotations

from collections.abc import Sequence

MOST = 15
"""Longest draft: with the token before it, one pass of 16."""

_LONGEST, _SHORTEST = 4, 1  # tokens that must have stood there before
_FIRST = 4


class Lookup:
    """The drafts of one row.

    Args:
        prompt: its tokens.
    """

    def __init__(self, prompt: Sequence[int]) -> None:
        self._tokens: list[int] = []
        # Of each run of tokens, where the latest that followed it stands.
        self._follows: dict[tuple[int, ...], int] = {}
        self._trusted = _FIRST
        for token in prompt:
            self.add(token)

    def add(self, token: int) -> None:
        """Records the next token of the row."""
        end = len(self._tokens)
        for size in range(_SHORTEST, min(_LONGEST, end) + 1):
            self._follows[tuple(self._tokens[end - size :])] = end
        self._tokens.append(token)

    def draft(self, most: int) -> list[int]:
        """Tokens that may follow, at most `most`; perhaps none."""
        most = min(most, self._trusted)
        if most < 1:
            return []
        for size in range(_LONGEST, _SHORTEST - 1, -1):
            start = self._follows.get(tuple(self._tokens[-size:]))
            if start is not None:
                return self._tokens[start : start + most]
        return []

    def learn(self, drafted: int, right: int) -> None:
        """Adapts the length of drafts: doubled where all was right, else one above what was."""
        self._trusted = min(2 * self._trusted, MOST) if right == drafted else right + 1
