"""Makes text of files, keys and servers safe to print on a terminal. Knows no format."""

from __future__ import annotations

import re

CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069]")
"""Control characters, with those that end a line or turn the direction of writing."""


def printable(text: str) -> str:
    r"""The text on one line, with control characters and lone surrogates escaped.

    >>> printable("a\x1b[31mb\n")
    'a\\x1b[31mb\\n'
    """
    shown = CONTROL.sub(lambda match: ascii(match[0])[1:-1], text)
    return shown.encode("utf-8", "backslashreplace").decode("utf-8")
