"""A growing text given out in pieces that never have to be taken back."""

from __future__ import annotations


class TextStream:
    """Gives out what a model has written so far as soon as it is certain.

    Held back are an unfinished character (its bytes may span several tokens) and white space that
    may turn out to be trailing. The pieces joined are `text`.
    """

    def __init__(self) -> None:
        self.text = ""
        """What was given out so far."""

    def push(self, written: str) -> str:
        """Takes the whole text written so far; returns what became certain, often empty."""
        certain = final_text(written)
        # A tokenizer whose decoding is not prefix-stable waits until it agrees with itself.
        if not certain.startswith(self.text):
            return ""
        piece = certain[len(self.text) :]
        self.text = certain
        return piece


def final_text(written: str) -> str:
    """The text without surrounding white space and without an unfinished last character."""
    return written.rstrip("\ufffd").strip()
