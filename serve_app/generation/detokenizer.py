"""Turns growing token ids into pieces of text that never have to be taken back."""

from __future__ import annotations

from collections.abc import Callable


class TextStream:
    """The text written so far, given out as soon as it is certain.

    Held back are an unfinished character (the bytes of one may span several tokens) and
    white space that may turn out to be trailing. The pieces joined are `text`.

    Args:
        decode: text of token ids, special tokens left out.
    """

    def __init__(self, decode: Callable[[list[int]], str]) -> None:
        self._decode = decode
        self.ids: list[int] = []
        self.text = ""
        """What was given out so far."""

    def push(self, token_id: int) -> str:
        """Adds a token; returns the text that became certain, often empty."""
        self.ids.append(token_id)
        return self._give(final_text(self._decode(self.ids)))

    def _give(self, certain: str) -> str:
        # A tokenizer whose decoding is not prefix-stable waits until it agrees with itself.
        if not certain.startswith(self.text):
            return ""
        piece = certain[len(self.text) :]
        self.text = certain
        return piece


def final_text(decoded: str) -> str:
    """`decoded` without surrounding white space and without an unfinished last character."""
    return decoded.rstrip("\ufffd").strip()
