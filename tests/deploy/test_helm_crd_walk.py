"""The CRD walk itself: what it refuses, what it reports as dropped, and what it lets pass."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.crd_walk import problems, schema_of, with_defaults

SCHEMA: dict[str, Any] = {
    "type": "object",
    "required": ["spec"],
    "properties": {
        "spec": {
            "type": "object",
            "required": ["mode"],
            "properties": {
                "mode": {"type": "string", "enum": ["a", "b"], "default": "a"},
                "count": {"type": "integer", "minimum": 1, "maximum": 9},
                "port": {"x-kubernetes-int-or-string": True},
                "labels": {"type": "object", "additionalProperties": {"type": "string"}},
                "free": {"type": "object", "x-kubernetes-preserve-unknown-fields": True},
                "items": {
                    "type": "array",
                    "items": {"type": "object", "properties": {"name": {"type": "string"}}},
                },
            },
        }
    },
}


def _found(**spec: Any) -> list[str]:
    return problems(SCHEMA, {"apiVersion": "x/v1", "kind": "X", "metadata": {}, "spec": spec})


def test_a_right_object_has_no_problems() -> None:
    spec = {"count": 3, "port": "http", "labels": {"a": "b"}, "free": {"x": [1]}, "items": [{}]}
    assert _found(**spec) == []


def test_a_required_field_with_a_default_is_not_missing() -> None:
    assert _found() == []
    assert with_defaults(SCHEMA, {"spec": {}}) == {"spec": {"mode": "a"}}


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"typo": 1}, ".spec.typo: unknown field, the server would drop it"),
        ({"items": [{"nam": "x"}]}, ".spec.items[0].nam: unknown field, the server would drop it"),
        ({"mode": "c"}, ".spec.mode: 'c' is none of ['a', 'b']"),
        ({"count": 0}, ".spec.count: 0 is below 1"),
        ({"count": 10}, ".spec.count: 10 is above 9"),
        ({"count": "3"}, ".spec.count: '3' is not of type integer"),
        ({"count": True}, ".spec.count: True is not of type integer"),
        ({"labels": {"a": 1}}, ".spec.labels.a: 1 is not of type string"),
        ({"port": 1.5}, ".spec.port: 1.5 is neither an integer nor a string"),
        ({"items": None}, ".spec.items: null"),
    ],
)
def test_each_mistake_is_named_with_its_path(spec: dict[str, Any], message: str) -> None:
    assert _found(**spec) == [message]


def test_a_missing_required_field_is_named() -> None:
    assert problems(SCHEMA, {"kind": "X"}) == [".: spec is required"]


def test_an_unserved_version_is_an_error() -> None:
    crd = {"metadata": {"name": "xs"}, "spec": {"versions": [{"name": "v1", "served": False}]}}
    with pytest.raises(KeyError, match="v1"):
        schema_of(crd, "v1")
