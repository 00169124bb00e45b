"""Turns the chart's values.yaml into its README: text in, text out.

Knows helm-docs comments (`# --` above a key) and Markdown. Knows nothing of Helm or of files.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

import yaml

_KEY = re.compile(r"^(?P<indent> *)(?P<key>[A-Za-z][\w.-]*):(?P<rest>.*)$")
_COMMENT = re.compile(r"^ *# ?(?P<text>.*)$")


@dataclass(frozen=True)
class Value:
    """One documented value: its dotted path, what it is by default, and its description."""

    path: str
    default: Any
    description: str

    @property
    def kind(self) -> str:
        """The JSON type of the default."""
        names = {bool: "bool", int: "int", float: "float", str: "string", list: "list"}
        return names.get(type(self.default), "object")


def documented_values(text: str) -> list[Value]:
    """The values that have a `# --` comment, in the order of the file.

    Args:
        text: the content of a values.yaml with two spaces of indentation.

    Raises:
        ValueError: a value has no description, neither its own nor one of a map it is in.
    """
    values = yaml.safe_load(text)
    found: list[Value] = []
    path: list[str] = []
    comment: list[str] = []
    for line in text.splitlines():
        if match := _COMMENT.match(line):
            content = match["text"]
            # A comment without `--` is a heading for people who read the file.
            if content.startswith("-- "):
                comment = [content[3:]]
            elif comment:
                comment.append(content)
            continue
        if match := _KEY.match(line):
            path = [*path[: len(match["indent"]) // 2], match["key"]]
            if comment:
                found.append(Value(".".join(path), _at(values, path), " ".join(comment)))
        comment = []
    described = {value.path for value in found}
    for leaf in _leaves(values, ""):
        parts = leaf.split(".")
        if not any(".".join(parts[:end]) in described for end in range(1, len(parts) + 1)):
            raise ValueError(f"values.yaml: {leaf} has no '# --' description above it")
    return found


def _at(values: Any, path: list[str]) -> Any:
    for key in path:
        values = values[key]
    return values


def _leaves(value: Any, path: str) -> list[str]:
    if isinstance(value, dict) and value:
        return [
            leaf
            for key, child in value.items()
            for leaf in _leaves(child, f"{path}.{key}" if path else str(key))
        ]
    return [path]


def readme(template: str, values_text: str) -> str:
    """The template with its line `<!-- values -->` replaced by a table for each top-level key.

    Raises:
        ValueError: the template has no such line, or a value is not described.
    """
    marker = "<!-- values -->"
    if marker not in template:
        raise ValueError(f"the README template has no line {marker}")
    rows = ["| value | type | default | meaning |", "| --- | --- | --- | --- |"]
    for value in documented_values(values_text):
        default = json.dumps(value.default)
        description = value.description.replace("|", "\\|")
        rows.append(f"| `{value.path}` | {value.kind} | `{default}` | {description} |")
    return template.replace(marker, "\n".join(rows))
