"""The page at `/`: static files, with headers that let it load nothing from elsewhere.

Knows files and HTTP caching; what the page does is in `page/`, and it calls the public API. The
files are read once at the start, so no other can be served whatever the path. Their links are
relative, so the page works under any prefix.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from fastapi import FastAPI, Request
from fastapi.responses import Response
from starlette.exceptions import HTTPException

from serve_app.core.resources import sample_abstract

FOLDER = Path(__file__).resolve().parents[1] / "page"
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' data:; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
)

_INDEX = "index.html"
_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".json": "application/json",
    ".svg": "image/svg+xml",
    ".txt": "text/plain; charset=utf-8",
}
PAGE_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    # Names have no version: browsers ask each time and get 304.
    "Cache-Control": "no-cache",
}
"""On everything that a browser shows."""
_HEADERS = {**PAGE_HEADERS, "Content-Security-Policy": POLICY}


@dataclass(frozen=True, slots=True)
class _Asset:
    body: bytes
    media_type: str
    etag: str


def add_page(app: FastAPI) -> None:
    """Adds `GET /` and `/page/NAME`, outside the OpenAPI document."""
    assets = _assets()

    @app.get("/", include_in_schema=False)
    async def index(request: Request) -> Response:
        return _answer(assets[_INDEX], request)

    @app.get("/page/{name}", include_in_schema=False)
    async def asset(name: str, request: Request) -> Response:
        if name not in assets:
            raise HTTPException(404)
        return _answer(assets[name], request)


def _assets() -> dict[str, _Asset]:
    bodies = {path.name: path.read_bytes() for path in FOLDER.iterdir() if path.suffix in _TYPES}
    bodies["sample.txt"] = sample_abstract().encode()
    return {
        name: _Asset(body, _TYPES[Path(name).suffix], f'"{hashlib.sha256(body).hexdigest()[:32]}"')
        for name, body in bodies.items()
    }


def _answer(asset: _Asset, request: Request) -> Response:
    headers = {**_HEADERS, "ETag": asset.etag}
    if _is_current(request.headers.get("if-none-match", ""), asset.etag):
        return Response(status_code=304, headers=headers)
    return Response(asset.body, headers=headers, media_type=asset.media_type)


def _is_current(if_none_match: str, etag: str) -> bool:
    """Whether the client has this version; a proxy may have weakened its tag."""
    given = [tag.strip().removeprefix("W/") for tag in if_none_match.split(",")]
    return "*" in given or etag in given
