"""What every metric asks of a text before it scores it."""

from __future__ import annotations

import re
from collections.abc import Sequence

from serve_app.core.errors import InvalidInput

_WORD = re.compile(r"[^\W_]")
_SURROGATE = re.compile("[\ud800-\udfff]")


def has_word(text: str) -> bool:
    """True if the text holds at least one letter or digit of any script."""
    return _WORD.search(text) is not None


def require_text(text: str, field: str) -> None:
    """Raises `InvalidInput` naming `field` unless the text can be scored."""
    if not text.strip():
        raise InvalidInput("the text is empty", field=field, code="empty_text")
    if not has_word(text):
        raise InvalidInput("the text has no word", field=field, code="no_words")
    if not text.isascii() and _SURROGATE.search(text):
        raise InvalidInput(
            "the text has a lone surrogate; send valid Unicode", field=field, code="invalid_unicode"
        )


def require_pairs(
    left: Sequence[str], right: Sequence[str], left_name: str, right_name: str
) -> None:
    """Raises `InvalidInput` unless both lists are non-empty, equally long and scorable."""
    if len(left) != len(right):
        raise InvalidInput(
            f"{left_name} has {len(left)} texts and {right_name} has {len(right)}; "
            "give one of each per pair",
            field=right_name,
            code="length_mismatch",
        )
    if not left:
        raise InvalidInput("give at least one text", field=left_name, code="empty_list")
    for name, texts in ((left_name, left), (right_name, right)):
        for index, text in enumerate(texts):
            require_text(text, f"{name}[{index}]")
