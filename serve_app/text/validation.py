"""Checks that every metric makes before it scores a text."""

from __future__ import annotations

from collections.abc import Sequence

from serve_app.core.documents import has_surrogate
from serve_app.core.errors import InvalidInput


def has_word(text: str) -> bool:
    """Whether the text holds a letter of any script: numbers alone are no text to read."""
    return any(map(str.isalpha, text))


def require_text(text: str, field: str) -> None:
    """Raises `InvalidInput` naming `field` where the text cannot be scored."""
    if not text.strip():
        raise InvalidInput("the text is empty", field=field, code="empty_text")
    if not has_word(text):
        message = "the text has no word; numbers and symbols alone cannot be scored"
        raise InvalidInput(message, field=field, code="no_words")
    if not text.isascii() and has_surrogate(text):
        raise InvalidInput(
            "the text has a lone surrogate; send valid Unicode", field=field, code="invalid_unicode"
        )


def require_pairs(
    left: Sequence[str], right: Sequence[str], left_name: str, right_name: str
) -> None:
    """Raises `InvalidInput` unless both lists are non-empty, equally long and scorable."""
    require_same_length(left, right, left_name, right_name)
    for name, texts in ((left_name, left), (right_name, right)):
        for index, text in enumerate(texts):
            require_text(text, f"{name}[{index}]")


def require_same_length(
    left: Sequence[str], right: Sequence[str], left_name: str, right_name: str
) -> None:
    """Raises `InvalidInput` unless both lists are non-empty and equally long."""
    if len(left) != len(right):
        raise InvalidInput(
            f"{left_name} has {len(left)} texts and {right_name} has {len(right)}; "
            "give one of each per pair",
            field=right_name,
            code="length_mismatch",
        )
    if not left:
        raise InvalidInput("give at least one text", field=left_name, code="empty_list")
