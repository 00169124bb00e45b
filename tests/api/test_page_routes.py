"""`GET /` and its files over HTTP: headers, caching, prefixes, and what the files themselves hold.

What the page does in a browser is tested in test_page_states, test_page_looks and serve/test_page.
"""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from typing import Any

import httpx
import pytest

from serve_app.api.app import create_app
from serve_app.api.auth.api_keys import dump_keys, new_key
from serve_app.api.middleware.request_guard import Traffic
from serve_app.api.routes.page import FOLDER, POLICY
from serve_app.core.settings import load_settings
from serve_app.text.sample import sample_abstract
from tests.support.servers import LightBackend

SCRIPTS = sorted(FOLDER.glob("*.js"))
ENGLISH, SPANISH = (
    json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8")) for name in ("en", "es")
)
INDEX = (FOLDER / "index.html").read_text(encoding="utf-8")


def client(root_path: str = "", services: tuple[str, ...] = ("metrics", "generator")) -> Any:
    app = create_app(LightBackend(services=services), load_settings(), Traffic())
    transport = httpx.ASGITransport(app=app, root_path=root_path)
    return httpx.AsyncClient(transport=transport, base_url="http://test")


class Document(HTMLParser):
    """What the tests ask of index.html."""

    def __init__(self) -> None:
        super().__init__()
        self.links: list[str] = []
        self.attributes: set[str] = set()
        self.messages: dict[str, str] = {}
        self.inline: list[str] = []
        self._key: str | None = None
        self._tag = ""
        self.feed(INDEX)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self._tag, self._key = tag, given.get("data-i18n")
        self.attributes |= set(given)
        self.links += [str(given[name]) for name in ("href", "src") if name in given]

    def handle_data(self, data: str) -> None:
        if self._tag in ("script", "style") and data.strip():
            self.inline.append(data)
        if self._key is not None:
            self.messages[self._key], self._key = data, None

    def handle_endtag(self, tag: str) -> None:
        self._tag, self._key = "", None


async def test_everything_the_page_links_to_is_there_with_its_type_and_headers() -> None:
    types = {"js": "text/javascript", "css": "text/css", "svg": "image/svg+xml"}
    links = [link for link in Document().links if not link.startswith("#")]
    assert {"page/app.js", "page/first.js", "page/style.css", "page/icon.svg"} <= set(links)
    async with client() as http:
        for link in ["", *links]:
            answer = await http.get(f"/{link}")
            assert answer.status_code == 200, link
            if link == "openapi.json":
                continue
            kind = types.get(link.rpartition(".")[2], "text/html")
            assert answer.headers["content-type"].startswith(kind)
            assert answer.headers["content-security-policy"] == POLICY
            assert answer.headers["x-content-type-options"] == "nosniff"
            assert answer.headers["referrer-policy"] == "no-referrer"
            assert answer.headers["cache-control"] == "no-cache"


async def test_modules_import_only_files_that_are_served() -> None:
    async with client() as http:
        for script in SCRIPTS:
            for name in re.findall(r'from "\./([^"]+)"', script.read_text(encoding="utf-8")):
                assert (await http.get(f"/page/{name}")).status_code == 200, name


async def test_a_current_copy_is_not_sent_again() -> None:
    async with client() as http:
        first = await http.get("/page/app.js")
        tag = first.headers["etag"]
        for given in (tag, f'"old", W/{tag}', "*"):
            again = await http.get("/page/app.js", headers={"If-None-Match": given})
            assert (again.status_code, again.content) == (304, b"")
            assert again.headers["etag"] == tag
        stale = await http.get("/page/app.js", headers={"If-None-Match": '"old"'})
        assert stale.content == first.content
        assert (await http.get("/page/style.css")).headers["etag"] != tag


async def test_head_says_what_get_would_send() -> None:
    async with client() as http:
        for path in ("/", "/page/app.js"):
            got, head = await http.get(path), await http.head(path)
            assert head.content == b""
            assert head.headers == got.headers


@pytest.mark.parametrize(
    "name", ["nothing.js", "..%2Fpage_routes.py", "%2e%2e/gateway.py", "", "sample"]
)
async def test_only_the_pages_own_files_are_served(name: str) -> None:
    async with client() as http:
        answer = await http.get(f"/page/{name}", follow_redirects=False)
    assert answer.status_code == 404
    assert answer.json()["error"]["code"] == "not_found"


async def test_the_page_is_no_part_of_the_api() -> None:
    async with client() as http:
        paths = (await http.get("/openapi.json")).json()["paths"]
        posted = await http.post("/", json={})
    assert not [path for path in paths if path == "/" or path.startswith("/page")]
    assert posted.status_code == 405
    assert posted.json()["error"]["code"] == "method_not_allowed"


async def test_the_page_works_under_a_prefix() -> None:
    async with client(root_path="/writer") as http:
        assert (await http.get("/writer/")).text == INDEX
        assert (await http.get("/writer/page/en.json")).json() == ENGLISH
        bare = await http.get("/writer")
    # Links are relative, so the address has to end in a slash.
    assert bare.status_code in (301, 302, 307, 308)
    assert bare.headers["location"].endswith("/writer/")


@pytest.mark.parametrize("service", ["metrics", "generator"])
async def test_half_a_server_has_the_page_too(service: str) -> None:
    async with client(services=(service,)) as http:
        assert (await http.get("/")).text == INDEX


async def test_the_page_needs_no_key_and_what_it_calls_does(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("API_KEYS", dump_keys([new_key("somebody").entry]))
    async with client() as http:
        for path in ("/", "/page/app.js", "/page/sample.txt", "/healthz"):
            assert (await http.get(path)).status_code == 200
        assert (await http.post("/evaluate", json={})).status_code == 401


async def test_the_sample_is_the_demos_abstract() -> None:
    async with client() as http:
        assert (await http.get("/page/sample.txt")).text == sample_abstract()


def test_both_languages_have_the_same_messages_with_the_same_blanks() -> None:
    assert list(ENGLISH) == list(SPANISH)
    for key, text in ENGLISH.items():
        blanks = sorted(re.findall(r"\{(\w+)\}", text))
        assert sorted(re.findall(r"\{(\w+)\}", SPANISH[key])) == blanks, key
        assert SPANISH[key].strip()


def test_the_document_says_what_the_english_messages_say() -> None:
    messages = Document().messages
    assert len(messages) > 30
    for key, text in messages.items():
        assert text == ENGLISH[key], key


def test_every_message_is_used_and_every_used_message_exists() -> None:
    code = "\n".join(script.read_text(encoding="utf-8") for script in SCRIPTS)
    known = set(ENGLISH)
    literal = set(re.findall(r"""\bt\(\s*"(\w+)\"""", code))
    assert literal <= known
    starts = tuple(re.findall(r"`(\w+)\$\{", code))
    quoted = set(re.findall(r'"(\w+)"', code))
    of_metrics = {f"{name}_means" for name in quoted} | quoted
    unused = known - literal - set(Document().messages) - of_metrics
    assert not [key for key in unused if not key.startswith(starts)]


def test_nothing_is_inline_and_nothing_comes_from_elsewhere() -> None:
    document = Document()
    assert not document.inline
    assert "style" not in document.attributes
    assert not [name for name in document.attributes if name.startswith("on")]
    for path in FOLDER.iterdir():
        text = path.read_text(encoding="utf-8").replace("http://www.w3.org/2000/svg", "")
        assert "//" not in re.sub(r"(?m)(^|\s)//.*$", "", text), path.name


def test_no_script_makes_markup_of_text() -> None:
    ways = r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function|srcdoc"
    for script in SCRIPTS:
        assert not re.search(ways, script.read_text(encoding="utf-8")), script.name
