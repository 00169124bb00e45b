"""The page at `/`: the package's static files, and headers that let it load nothing from elsewhere.

Knows files and HTTP caching; nothing of metrics, and nothing of what the page does: that is in
`page/`, and it calls the same API as everybody. The files are read once, at the start, so only
they can be answered, whatever path is asked for. Their links are relative: the page works under
any prefix.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from fastapi import FastAPI, Request
from fastapi.responses import Response
from starlette.exceptions import HTTPException

from serve_app.text.sample import sample_abstract

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
    # Names carry no version: a browser asks each time, and 304 answers it.
    "Cache-Control": "no-cache",
}
"""Of everything that a browser shows."""
_HEADERS = {**PAGE_HEADERS, "Content-Security-Policy": POLICY}


@dataclass(frozen=True, slots=True)
class _Asset:
    body: bytes
    media_type: str
    etag: str


def add_page(app: FastAPI) -> None:
    """Adds `GET` and `HEAD` of `/` and of `/page/NAME`; neither is part of the API's document."""
    assets = _assets()

    @app.api_route("/", methods=["GET", "HEAD"], include_in_schema=False)
    async def index(request: Request) -> Response:
        return _answer(assets[_INDEX], request)

    @app.api_route("/page/{name}", methods=["GET", "HEAD"], include_in_schema=False)
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
    if _has_it(request.headers.get("if-none-match", ""), asset.etag):
        return Response(status_code=304, headers=headers)
    if request.method == "HEAD":
        headers["Content-Length"] = str(len(asset.body))
        return Response(headers=headers, media_type=asset.media_type)
    return Response(asset.body, headers=headers, media_type=asset.media_type)


def _has_it(if_none_match: str, etag: str) -> bool:
    """Whether the client's copy is this one; a proxy may have made its tag a weak one."""
    given = [tag.strip().removeprefix("W/") for tag in if_none_match.split(",")]
    return "*" in given or etag in given
