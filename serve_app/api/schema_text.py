"""A JSON schema in words, for the reference of the API: `integer, 1 to 32768`, `list of text`.

Shared by the page at /docs and by docs/api.md. It knows schemas; how a link looks, its caller says.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

_NAMES = {"string": "text", "null": "null", "boolean": "true or false", "object": "object"}

Link = Callable[[str], str]
"""An object's name as a link to its fields."""


def type_words(kind: Mapping[str, Any], link: Link, code: Link = "`{}`".format) -> str:
    """What a value of this schema is.

    Args:
        kind: the schema, of an OpenAPI document.
        link: what stands for an object that has a name.
        code: how a literal value is set off.
    """
    if "$ref" in kind:
        return link(kind["$ref"].rsplit("/", 1)[1])
    if choices := kind.get("anyOf"):
        return " or ".join(type_words(one, link, code) for one in choices)
    if "const" in kind:
        return code(json.dumps(kind["const"]))
    if "enum" in kind:
        return " or ".join(code(json.dumps(one)) for one in kind["enum"])
    if kind.get("type") == "array":
        return f"list of {type_words(kind.get('items', {}), link, code)}"
    if kind.get("type") == "object" and isinstance(kind.get("additionalProperties"), dict):
        return f"object of {type_words(kind['additionalProperties'], link, code)}"
    name = str(kind.get("type", "anything"))
    return _NAMES.get(name, name) + _range(kind)


def _range(kind: Mapping[str, Any]) -> str:
    low, above, high = (kind.get(key) for key in ("minimum", "exclusiveMinimum", "maximum"))
    if low is not None and high is not None:
        return f", {_number(low)} to {_number(high)}"
    words = (("at least", low), ("above", above), ("at most", high))
    return "".join(f", {word} {_number(value)}" for word, value in words if value is not None)


def _number(value: float) -> str:
    # JSON Schema writes limits as floats; one as large as 2^63 - 1 is rounded on the way.
    return "2^63 - 1" if value == 2.0**63 else f"{value:g}" if abs(value) < 1e5 else f"{value:.0f}"
