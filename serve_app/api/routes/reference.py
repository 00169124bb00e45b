"""`GET /docs`: the API's reference as a page that runs no script and asks nothing of anybody.

It says what `/openapi.json` says. The usual page for that document has the browser fetch its
scripts from a public server, which then knows who reads here, and could run there what it likes.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from fastapi import FastAPI
from fastapi.responses import HTMLResponse
from jinja2 import Environment, PackageLoader, StrictUndefined, Template
from markupsafe import Markup, escape

from serve_app.api.routes.page import PAGE_HEADERS
from serve_app.api.schema_text import type_words

_POLICY = "default-src 'none'; style-src 'self'; img-src 'self'; frame-ancestors 'none'; "
_HEADERS = {
    **PAGE_HEADERS,
    "Content-Security-Policy": _POLICY + "base-uri 'none'; form-action 'none'",
}


def add_reference(app: FastAPI) -> None:
    """Adds `GET /docs`, which is no part of the API's document."""

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
    """Markup, with everything of the document escaped."""
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
