"""Splits a long text into windows at sentence borders. Knows token counts, no tokenizer."""

from __future__ import annotations

import math
from collections.abc import Callable

from serve_app.text.sentences import sentence_spans

Span = tuple[int, int]


def split_windows(text: str, budget: int, count: Callable[[str], int]) -> list[str]:
    """Cuts `text` into consecutive windows of at most `budget` tokens each.

    Windows hold whole sentences and are about equally long, so that the last one is not a
    remnant; only a sentence longer than the budget is cut, between words where it has any.

    Args:
        text: not empty.
        budget: tokens a window may have, >= 1.
        count: tokens of a piece of text. It need not be additive: every window is counted.

    Returns:
        At least one window; no character but white space between windows is lost.
    """
    spans = [
        part
        for start, end in sentence_spans(text)
        for part in _fit(text, start, end, budget, count)
    ]
    sizes = [count(text[start:end]) for start, end in spans]
    total = sum(sizes)
    even = total / max(1, math.ceil(total / budget))
    windows: list[str] = []
    first = 0
    while first < len(spans):
        stop, size = first + 1, sizes[first]
        while stop < len(spans) and size < even and size + sizes[stop] <= budget:
            size += sizes[stop]
            stop += 1
        while stop > first + 1 and count(text[spans[first][0] : spans[stop - 1][1]]) > budget:
            stop -= 1
        windows.append(text[spans[first][0] : spans[stop - 1][1]])
        first = stop
    return windows


def _fit(text: str, start: int, end: int, budget: int, count: Callable[[str], int]) -> list[Span]:
    """The span itself, or halves of it (of halves ...) that fit the budget."""
    if end - start <= 1 or count(text[start:end]) <= budget:
        return [(start, end)]
    middle = (start + end) // 2
    space = text.rfind(" ", start + 1, middle + 1)
    if space < 0:
        space = text.find(" ", middle, end)
    left_end, right_start = (middle, middle) if space < 0 else (space, space + 1)
    return [
        *_fit(text, start, left_end, budget, count),
        *_fit(text, right_start, end, budget, count),
    ]
