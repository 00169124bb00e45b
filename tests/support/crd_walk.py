"""Checks an object against a CustomResourceDefinition as an API server would: no cluster needed.

It knows the structural subset of OpenAPI v3 that CRDs may use. Beside what the server refuses
(types, enums, required, bounds), it reports what the server would drop without a word: fields
that the schema does not have. It knows nothing of what operators check afterwards.
"""

from __future__ import annotations

import copy
import re
from typing import Any

_TYPES: dict[str, tuple[type, ...]] = {
    "object": (dict,),
    "array": (list,),
    "string": (str,),
    "boolean": (bool,),
    "integer": (int,),
    "number": (int, float),
}
# Every object has these beside the schema's own fields.
_META = {"apiVersion", "kind", "metadata"}


def schema_of(crd: dict[str, Any], version: str) -> dict[str, Any]:
    """The schema of one served version of a CRD.

    Raises:
        KeyError: the CRD does not serve that version.
    """
    for item in crd["spec"]["versions"]:
        if item["name"] == version and item["served"]:
            return item["schema"]["openAPIV3Schema"]
    raise KeyError(f"{crd['metadata']['name']} does not serve {version}")


def problems(schema: dict[str, Any], document: dict[str, Any]) -> list[str]:
    """What is wrong with the document, each with its path; empty if nothing is."""
    document = with_defaults(schema, document)
    root = {**schema, "properties": {**schema.get("properties", {}), "metadata": _ANYTHING}}
    return _walk(root, document, "")


_ANYTHING: dict[str, Any] = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}


def with_defaults(schema: dict[str, Any], value: Any) -> Any:
    """A copy of the value with the schema's defaults in it, as the server stores it."""
    if isinstance(value, dict):
        filled = {key: copy.deepcopy(item) for key, item in value.items()}
        for key, child in schema.get("properties", {}).items():
            if key not in filled and "default" in child:
                filled[key] = copy.deepcopy(child["default"])
            if key in filled:
                filled[key] = with_defaults(child, filled[key])
        return filled
    if isinstance(value, list) and isinstance(schema.get("items"), dict):
        return [with_defaults(schema["items"], item) for item in value]
    return value


def _walk(schema: dict[str, Any], value: Any, path: str) -> list[str]:
    here = path or "."
    if value is None:
        return [] if schema.get("nullable") else [f"{here}: null"]
    if schema.get("x-kubernetes-int-or-string"):
        right = isinstance(value, int | str) and not isinstance(value, bool)
        return [] if right else [f"{here}: {value!r} is neither an integer nor a string"]
    kind = schema.get("type")
    if kind:
        wrong = not isinstance(value, _TYPES[kind])
        if wrong or (isinstance(value, bool) and kind in ("integer", "number")):
            return [f"{here}: {value!r} is not of type {kind}"]
    found = _scalar(schema, value, here)
    if isinstance(value, dict):
        found += _object(schema, value, path)
    elif isinstance(value, list):
        for index, item in enumerate(value):
            found += _walk(schema.get("items", {}), item, f"{path}[{index}]")
    return found


def _scalar(schema: dict[str, Any], value: Any, here: str) -> list[str]:
    found = []
    if "enum" in schema and value not in schema["enum"]:
        found.append(f"{here}: {value!r} is none of {schema['enum']}")
    if "pattern" in schema and isinstance(value, str) and not re.search(schema["pattern"], value):
        found.append(f"{here}: {value!r} does not match {schema['pattern']}")
    if "minimum" in schema and value < schema["minimum"]:
        found.append(f"{here}: {value} is below {schema['minimum']}")
    if "maximum" in schema and value > schema["maximum"]:
        found.append(f"{here}: {value} is above {schema['maximum']}")
    if "maxLength" in schema and len(value) > schema["maxLength"]:
        found.append(f"{here}: longer than {schema['maxLength']}")
    return found


def _object(schema: dict[str, Any], value: dict[str, Any], path: str) -> list[str]:
    properties = schema.get("properties", {})
    found = [
        f"{path or '.'}: {key} is required"
        for key in schema.get("required", [])
        if key not in value
    ]
    for key, item in value.items():
        child = f"{path}.{key}"
        if key in properties:
            found += _walk(properties[key], item, child)
        elif isinstance(schema.get("additionalProperties"), dict):
            found += _walk(schema["additionalProperties"], item, child)
        elif not (
            schema.get("x-kubernetes-preserve-unknown-fields") or (not path and key in _META)
        ):
            found.append(f"{child}: unknown field, the server would drop it")
    return found
