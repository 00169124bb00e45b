"""Reads JSON and YAML that people write or others send: bounded, strict, with errors that help.

Knows syntax only; what a document must say is its reader's business. Refused are names given twice,
since one would be lost silently, numbers that JSON does not have (NaN, Infinity) and lone
surrogates, which no answer can carry. No YAML tag makes an object, and aliases may not multiply
what is there.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from serve_app.core.errors import InvalidInput

MOST_BYTES = 16 << 20
"""Largest document: configurations and targets take kilobytes, lists of tensors megabytes."""

MOST_YAML_BYTES = 256 << 10
"""Largest YAML document: its parser takes seconds for a megabyte."""

MOST_YAML_NODES = 100_000
"""Most values of a YAML document with its aliases resolved."""

_SURROGATE = re.compile("[\ud800-\udfff]")

# What the parser raises beside its own errors, such as KeyError for `!!bool maybe`.
_BAD_YAML = (yaml.YAMLError, ValueError, LookupError, AttributeError, TypeError)


def has_surrogate(text: str) -> bool:
    """Whether a text has a lone surrogate: it is not Unicode then, and UTF-8 cannot hold it."""
    return not text.isascii() and _SURROGATE.search(text) is not None


def read_text(path: Path, most: int = MOST_BYTES, *, pipes: bool = False) -> str:
    """A file's text, UTF-8 with or without a byte order mark; at most `most` bytes are read.

    Raises:
        OSError: it cannot be read.
        ValueError: it is no regular file (a pipe would be waited for), unless `pipes`; it is larger
            than `most`, or not UTF-8.
    """
    if not pipes and path.exists() and not path.is_file():
        raise ValueError("it is not a regular file")
    with path.open("rb") as file:
        content = file.read(most + 1)
    if len(content) > most:
        raise ValueError(f"it is larger than {most} bytes, which no such file is")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"it is not UTF-8 text (byte {error.start})") from None


def read_input(path: Path) -> str:
    """A text named on the command line, UTF-8 with or without a byte order mark.

    Raises:
        InvalidInput: it cannot be read, is larger than 1 GiB, or is not UTF-8.
    """
    try:
        return read_text(path, 1 << 30, pipes=True)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise InvalidInput(f"cannot read {path}: {reason}") from error


def read_json(path: Path, *, strict: bool = True) -> Any:
    """What a JSON file holds.

    Raises:
        OSError: it cannot be read.
        ValueError: as `read_text` and `parse_json`.
    """
    return parse_json(read_text(path), strict=strict)


def parse_json(text: str | bytes, *, strict: bool = True, surrogates: bool = False) -> Any:
    """What a JSON document holds.

    Args:
        text: the document.
        strict: False for what other programs wrote, which may have NaN in it, and names twice.
        surrogates: True for what quotes texts and paths as they came.

    Raises:
        ValueError: it is not JSON, is nested too deeply, or, if strict, has a name twice in an
            object, a number that JSON does not have or a lone surrogate (unless `surrogates`).

    >>> parse_json('{"a": 1, "a": 2}')
    Traceback (most recent call last):
    ...
    ValueError: the name 'a' is there twice; remove one
    """
    try:
        if not strict:
            return json.loads(text)
        found = json.loads(text, object_pairs_hook=partial(_object, surrogates=surrogates))
        if (flaw := _flaw(found, surrogates)) is not None:
            raise ValueError(f"something in it {flaw}")
        return found
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """The object of these names and values; for `json.loads(..., object_pairs_hook=unique)`.

    Raises:
        ValueError: a name is there twice.
    """
    found = dict(pairs)
    if len(found) < len(pairs):
        [(twice, _)] = Counter(name for name, _ in pairs).most_common(1)
        raise ValueError(f"the name {twice!r:.80} is there twice; remove one")
    return found


def _object(pairs: list[tuple[str, Any]], surrogates: bool) -> dict[str, Any]:
    for name, value in pairs:
        if not surrogates and has_surrogate(name):
            raise ValueError(f"the name {name!r:.80} has a lone surrogate in it")
        if (flaw := _flaw(value, surrogates)) is not None:
            raise ValueError(f"{name:.80} {flaw}")
    return unique(pairs)


def _flaw(value: Any, surrogates: bool) -> str | None:
    """What is wrong with a value, or in a list; objects within were checked when they were made."""
    if isinstance(value, list):
        return next(filter(None, (_flaw(part, surrogates) for part in value)), None)
    if isinstance(value, float) and not math.isfinite(value):
        return "is not a finite number"
    if not surrogates and isinstance(value, str) and has_surrogate(value):
        return "has a lone surrogate in it"
    return None


def read_yaml(path: Path) -> Any:
    """What a YAML file with one document holds.

    Raises:
        OSError: it cannot be read.
        ValueError: it is too large, is not YAML, names an object to make, has a name twice or a
            lone surrogate, is nested too deeply, or its aliases make more than `MOST_YAML_NODES`.
    """
    loader = _Loader(read_text(path, MOST_YAML_BYTES))
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        if _size(node, {}) > MOST_YAML_NODES:
            raise ValueError(f"its aliases make more than {MOST_YAML_NODES} values of it")
        return loader.construct_document(node)
    except RecursionError:
        raise ValueError("it is nested too deeply, or within itself") from None
    except yaml.MarkedYAMLError as error:
        line = f" (line {error.problem_mark.line + 1})" if error.problem_mark else ""
        raise ValueError(f"{error.problem or error.context}{line}") from error
    except _BAD_YAML as error:
        raise ValueError(str(error) or type(error).__name__) from error
    finally:
        loader.dispose()


class _Loader(yaml.SafeLoader):
    """Makes plain values only; refuses keys given twice and lone surrogates."""

    def construct_scalar(self, node: yaml.ScalarNode | yaml.MappingNode) -> Any:
        value = super().construct_scalar(node)
        if isinstance(value, str) and has_surrogate(value):
            raise _bad(f"{value!r:.80} has a lone surrogate in it", node)
        return value

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        # Before merged keys (`<<`) are added, which a key written out may replace.
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    raise _bad(f"the name {key.value!r:.80} is there twice", key)
                seen.add(key.value)
        return super().construct_mapping(node, deep)


def _bad(problem: str, node: yaml.Node) -> yaml.constructor.ConstructorError:
    return yaml.constructor.ConstructorError(None, None, problem, node.start_mark)


def _size(node: yaml.Node, known: dict[int, int]) -> int:
    """Values under a node, each counted as often as it is reached.

    Raises:
        RecursionError: a node is within itself.
    """
    if id(node) not in known:
        parts: list[yaml.Node] = []
        if isinstance(node, yaml.SequenceNode):
            parts = node.value
        elif isinstance(node, yaml.MappingNode):
            parts = [part for pair in node.value for part in pair]
        known[id(node)] = 1 + sum(_size(part, known) for part in parts)
    return known[id(node)]
