"""Reads JSON and YAML that people write or others send: bounded, strict, with errors that help.

Knows syntax alone; what a document has to say is its reader's business. A name that stands twice is
refused, since one of the two would be lost in silence, and so are numbers that JSON does not have
(NaN, Infinity) and halves of characters (lone surrogates), which no answer can carry. Of YAML no
tag makes an object, and aliases may not multiply what is there.
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
"""Largest document read: configurations and targets take kilobytes, lists of tensors megabytes."""

MOST_YAML_BYTES = 256 << 10
"""Largest YAML document: its parser takes seconds for a megabyte."""

MOST_YAML_NODES = 100_000
"""Most values of a YAML document once each alias stands for what it repeats."""

_HALF = re.compile("[\ud800-\udfff]")

# What the parser raises beside its own errors, such as KeyError for `!!bool maybe`.
_BAD_YAML = (yaml.YAMLError, ValueError, LookupError, AttributeError, TypeError)


def read_text(path: Path, most: int = MOST_BYTES) -> str:
    """A file's text, UTF-8 with or without a byte order mark.

    Args:
        path: the file; what has no end, as a device, is read only so far.
        most: bytes that it may have.

    Raises:
        OSError: it cannot be read.
        ValueError: it is larger, or not UTF-8.
    """
    with path.open("rb") as file:
        content = file.read(most + 1)
    if len(content) > most:
        raise ValueError(f"it is larger than {most} bytes, which no such file is")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"it is not UTF-8 text (byte {error.start})") from None


def read_input(path: Path) -> str:
    """A text that the user named on the command line, UTF-8 with or without a byte order mark.

    Raises:
        InvalidInput: it cannot be read, is larger than 1 GiB, or is not UTF-8.
    """
    try:
        return read_text(path, 1 << 30)
    except OSError as error:
        raise InvalidInput(f"cannot read {path}: {error.strerror}") from error
    except ValueError as error:
        raise InvalidInput(f"cannot read {path}: {error}") from error


def read_json(path: Path, *, strict: bool = True) -> Any:
    """What a JSON file holds.

    Raises:
        OSError: it cannot be read.
        ValueError: as `read_text` and `parse_json`.
    """
    return parse_json(read_text(path), strict=strict)


def parse_json(text: str | bytes, *, strict: bool = True, halves: bool = False) -> Any:
    """What a JSON document holds.

    Args:
        text: the document.
        strict: False for what other programs wrote, which may have NaN in it, and names twice.
        halves: True for what quotes texts and paths as they came: those may have halves.

    Raises:
        ValueError: it is not JSON, is nested too deeply, or, if strict, has a name twice in an
            object, a number that JSON does not have or half of a character (unless `halves`).

    >>> parse_json('{"a": 1, "a": 2}')
    Traceback (most recent call last):
    ...
    ValueError: the name 'a' is there twice; remove one
    """
    try:
        if not strict:
            return json.loads(text)
        found = json.loads(text, object_pairs_hook=partial(_object, halves=halves))
        flaw = _flaw(found, halves)
        if flaw is not None:
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
        counts = Counter(name for name, _ in pairs)
        twice = next(name for name, count in counts.items() if count > 1)
        raise ValueError(f"the name {twice!r:.80} is there twice; remove one")
    return found


def is_whole(text: str) -> bool:
    """Whether a text has no half of a character: that is not Unicode, and cannot be written."""
    return text.isascii() or _HALF.search(text) is None


def _object(pairs: list[tuple[str, Any]], halves: bool) -> dict[str, Any]:
    found = unique(pairs)
    for name, value in pairs:
        if not halves and not is_whole(name):
            raise ValueError(f"the name {name!r:.80} has half of a character in it")
        flaw = _flaw(value, halves)
        if flaw is not None:
            raise ValueError(f"{name:.80} {flaw}")
    return found


def _flaw(value: Any, halves: bool) -> str | None:
    """What is wrong with a value, or in a list; an object in it has been looked at already."""
    if isinstance(value, list):
        return next(filter(None, (_flaw(part, halves) for part in value)), None)
    if isinstance(value, float) and not math.isfinite(value):
        return "is not a finite number"
    if not halves and isinstance(value, str) and not is_whole(value):
        return "has half of a character in it"
    return None


def read_yaml(path: Path) -> Any:
    """What a YAML file with one document holds.

    Raises:
        OSError: it cannot be read.
        ValueError: it is too large, is not YAML, names an object to make, has a name twice or
            half of a character, is nested too deeply, or repeats itself by aliases into more than
            `MOST_YAML_NODES`.
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
    """Makes plain values only; refuses a key that stands twice, and halves of characters."""

    def construct_scalar(self, node: yaml.ScalarNode | yaml.MappingNode) -> Any:
        value = super().construct_scalar(node)
        if isinstance(value, str) and not is_whole(value):
            raise yaml.constructor.ConstructorError(
                None, None, f"{value!r:.80} has half of a character in it", node.start_mark
            )
        return value

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        # Before keys that are merged in (`<<`), which one written out may well replace.
        seen: set[str] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                continue
            if key.value in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the name {key.value!r:.80} is there twice", key.start_mark
                )
            seen.add(key.value)
        return super().construct_mapping(node, deep)


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
