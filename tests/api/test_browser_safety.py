"""What answers tell a browser: to load nothing from elsewhere, to guess no type, to frame nothing.

The page itself is tested in test_page_routes.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from html.parser import HTMLParser
from typing import Any

import httpx
import pytest

from serve_app.api.app import create_api, create_app
from serve_app.api.middleware.request_guard import Traffic
from serve_app.api.routes.page import FOLDER
from serve_app.api.routes.reference import reference
from serve_app.core.settings import load_settings
from serve_app.metrics.readability import Readability
from tests.support.servers import LightBackend


def client(backend: LightBackend | None = None, **settings: Any) -> httpx.AsyncClient:
    app = create_app(backend or LightBackend(), load_settings(**settings), Traffic())
    return httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://test")


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("GET", "/healthz", None, 200),
        ("GET", "/openapi.json", None, 200),
        ("GET", "/docs", None, 200),
        ("GET", "/page/en.json", None, 200),
        ("POST", "/metrics/readability", {"texts": ["It helps."]}, 200),
        ("POST", "/generate", {"text": "It helps.", "stream": True}, 200),
        ("POST", "/metrics/readability", {"texts": [""]}, 422),
        ("POST", "/metrics/readability", {"texts": ["x" * 2000]}, 413),
        ("DELETE", "/loss", None, 405),
        ("GET", "/none", None, 404),
    ],
)
async def test_every_answer_forbids_to_guess_its_type(
    method: str, path: str, body: dict[str, Any] | None, status: int
) -> None:
    async with client(max_body_bytes=1024) as http:
        answer = await http.request(method, path, json=body)
    assert answer.status_code == status
    assert answer.headers.get_list("x-content-type-options") == ["nosniff"]


async def test_a_refused_key_forbids_it_too() -> None:
    keys = '{"keys": [{"id": "000000000000", "sha256": "' + "0" * 64 + '"}]}'
    async with client(api_keys=keys) as http:
        answer = await http.post("/loss", json={})
    assert answer.status_code == 401
    assert answer.headers["x-content-type-options"] == "nosniff"


class Held(LightBackend):
    """Never answers readability."""

    arrived = False

    async def readability(self, texts: Sequence[str]) -> list[Readability]:
        self.arrived = True
        await asyncio.Event().wait()
        raise AssertionError


async def test_a_full_server_forbids_it_too() -> None:
    backend = Held()
    async with client(backend, max_pending_requests=1) as http:
        body = {"texts": ["It helps."]}
        held = asyncio.ensure_future(http.post("/metrics/readability", json=body))
        while not backend.arrived:
            await asyncio.sleep(0.001)
        answer = await http.post("/metrics/readability", json=body)
        held.cancel()
    assert answer.status_code == 503
    assert answer.json()["error"]["code"] == "overloaded"
    assert answer.headers.get_list("x-content-type-options") == ["nosniff"]


class Parts(HTMLParser):
    """Links and whatever could run, of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.links: list[str] = []
        self.ids: set[str] = set()
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.tags.add(tag)
        self.attributes |= set(given)
        self.links += [str(given[name]) for name in ("href", "src") if name in given]
        self.ids |= {str(given["id"])} if "id" in given else set()

    def handle_data(self, data: str) -> None:
        self.text += data


async def test_the_reference_runs_nothing_and_loads_its_own_files_only() -> None:
    async with client() as http:
        answer = await http.get("/docs")
        assert answer.headers["content-type"].startswith("text/html")
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "script-src" not in policy  # so none at all
        assert "unsafe" not in policy
        assert "frame-ancestors 'none'" in policy
        assert answer.headers["referrer-policy"] == "no-referrer"
        page = Parts(answer.text)
        assert not page.tags & {"script", "style", "iframe", "object", "form", "base"}
        assert not {name for name in page.attributes if name.startswith("on") or name == "style"}
        for link in page.links:
            assert not re.match(r"[a-z]+:|//|/", link), link  # works under any prefix
            if link.startswith("#"):
                assert link[1:] in page.ids, link
            else:
                assert (await http.get(f"/{link}")).status_code == 200, link


def test_the_reference_names_every_route_and_field_of_the_document() -> None:
    document = create_api(LightBackend(), load_settings()).openapi()
    text = Parts(reference(document)).text
    for path in document["paths"]:
        assert path in text
    fields = [
        field
        for schema in document["components"]["schemas"].values()
        for field in schema.get("properties", {})
    ]
    assert len(fields) > 40
    assert [field for field in fields if field not in text] == []


def test_what_a_document_says_cannot_become_markup() -> None:
    evil = "<script>alert(1)</script>"
    schema = {"properties": {evil: {"enum": [evil]}}, "description": evil}
    operation = {"operationId": "a", "description": evil, "responses": {"200": {"description": ""}}}
    page = reference(
        {
            "info": {"title": evil, "version": "1", "description": evil},
            "paths": {"/a": {"get": operation}},
            "components": {"schemas": {"A": schema}},
        }
    )
    assert "<script" not in page
    assert page.count("&lt;script&gt;") >= 4


async def test_no_page_of_others_is_shipped_that_loads_from_elsewhere() -> None:
    async with client() as http:
        assert (await http.get("/redoc")).status_code == 404
    for file in FOLDER.iterdir():
        found = re.findall(r"https?://[^\s\"'<>]+", file.read_text(encoding="utf-8"))
        assert [one for one in found if "www.w3.org" not in one] == [], file.name
