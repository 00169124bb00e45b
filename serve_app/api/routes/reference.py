"""`GET /docs`: the API's reference, `/openapi.json` as a page without scripts; schemas in words.

FastAPI's own page has the browser fetch scripts from a public server, which then learns who reads
here, and could run anything.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

from fastapi import FastAPI
from fastapi.responses import HTMLResponse
from jinja2 import Environment, PackageLoader, StrictUndefined, Template
from markupsafe import Markup, escape

from serve_app.api.routes.page import PAGE_HEADERS

_NAMES = {"string": "text", "null": "null", "boolean": "true or false", "object": "object"}
_POLICY = "default-src 'none'; style-src 'self'; img-src 'self'; frame-ancestors 'none'; "
_HEADERS = {
    **PAGE_HEADERS,
    "Content-Security-Policy": _POLICY + "base-uri 'none'; form-action 'none'",
}


def add_reference(app: FastAPI) -> None:
    """Adds `GET /docs`, outside the OpenAPI document."""

    @app.get("/docs", include_in_schema=False)
    def docs() -> HTMLResponse:
        return HTMLResponse(reference(app.openapi()), headers=_HEADERS)


def reference(document: dict[str, Any]) -> str:
    """An OpenAPI document as HTML."""
    schemas = document.get("components", {}).get("schemas", {})
    routes = [
        (f"{method.upper()} {path}", operation)
        for path, operations in document["paths"].items()
        for method, operation in operations.items()
    ]
    return _template().render(info=document["info"], routes=routes, schemas=schemas, words=_words)


def _words(kind: dict[str, Any]) -> Markup:
    """The schema in words, as markup with everything of the document escaped."""
    return Markup(type_words(kind, _link, _code))  # noqa: S704


def _link(name: str) -> str:
    return str(Markup('<a href="#{0}">{0}</a>').format(name))


def _code(value: str) -> str:
    return f"<code>{escape(value)}</code>"


@cache
def _template() -> Template:
    environment = Environment(
        loader=PackageLoader("serve_app.api", "page"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("reference.jinja")


Link = Callable[[str], str]
"""Renders an object's name as a link to its fields, or a literal value as code."""


def type_words(kind: Mapping[str, Any], link: Link, code: Link = "`{}`".format) -> str:
    """Says what a value of a schema of an OpenAPI document is."""
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
    # JSON Schema writes limits as floats, which rounds 2^63 - 1.
    return "2^63 - 1" if value == 2.0**63 else f"{value:g}" if abs(value) < 1e5 else f"{value:.0f}"
