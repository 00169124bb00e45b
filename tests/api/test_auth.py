"""API keys: what is kept of one, which are good, who is let in, and how much each may ask for."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.api.app import create_app
from serve_app.api.auth import api_keys as keys_module
from serve_app.api.auth import key_source as source_module
from serve_app.api.auth.api_keys import KeyEntry, KeyRing, NewKey, dump_keys, new_key, parse_keys
from serve_app.api.auth.key_source import KeySource
from serve_app.api.auth.rate_limit import Quota
from serve_app.api.middleware.request_guard import Traffic
from serve_app.core.errors import ConfigError
from serve_app.core.settings import load_settings
from serve_app.metrics.readability import Readability
from tests.support.servers import LightBackend

TEXTS = {"texts": ["Aspirin makes a stroke less likely."]}
PAIR = {"texts_original": ["Aspirin lowers the risk."], "texts_generated": ["It helps."]}


def client(*made: NewKey, backend: LightBackend | None = None, **settings: Any) -> Any:
    document = dump_keys([one.entry for one in made])
    app = create_app(
        backend or LightBackend(), load_settings(api_keys=document, **settings), Traffic()
    )
    return httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://test")


def bearer(made: NewKey) -> dict[str, str]:
    return {"Authorization": f"Bearer {made.key}"}


def test_a_new_key_is_kept_as_a_hash_only() -> None:
    made = new_key("clinic")
    kept = dump_keys([made.entry])
    secret = made.key.split("_", 2)[2]
    assert len(secret) == 43
    assert secret not in kept
    assert parse_keys(kept, "kept") == (made.entry,)


def test_a_key_is_found_and_any_change_of_it_is_not() -> None:
    made, other = new_key(), new_key()
    ring = KeyRing([made.entry, other.entry])
    assert ring.find(made.key) == made.entry
    assert ring.find(other.key) == other.entry
    for at in range(len(made.key)):
        changed = made.key[:at] + ("x" if made.key[at] != "x" else "y") + made.key[at + 1 :]
        assert ring.find(changed) is None
    # The right secret under another key's id is no key.
    mixed = f"pm_{other.entry.id}_{made.key.split('_', 2)[2]}"
    assert ring.find(mixed) is None


def test_hashes_are_compared_in_constant_time_for_ids_that_nobody_has_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made, stranger = new_key(), new_key()
    ring = KeyRing([made.entry])
    compare, compared = keys_module.hmac.compare_digest, []

    def watched(given: str, kept: str) -> bool:
        compared.append((given, kept))
        return compare(given, kept)

    monkeypatch.setattr(keys_module.hmac, "compare_digest", watched)
    for key, found in ((made.key, True), (made.key[:-2] + "zz", False), (stranger.key, False)):
        compared.clear()
        assert (ring.find(key) is not None) is found
        ((given, kept),) = compared
        assert given == keys_module.digest(key)
        assert len(kept) == len(given)
    assert kept != made.entry.sha256  # of no id: with what no key has
    # What the comparison says is what decides; nothing beside it does.
    monkeypatch.setattr(keys_module.hmac, "compare_digest", lambda *_: False)
    assert ring.find(made.key) is None


@given(st.text())
def test_no_text_that_was_not_made_is_a_key(text: str) -> None:
    assert KeyRing([new_key().entry]).find(text) is None


def test_a_key_ends_when_it_says() -> None:
    end = datetime(2030, 1, 1, tzinfo=UTC)
    made = new_key(expires=end)
    ring = KeyRing([made.entry])
    assert ring.find(made.key, end - timedelta(seconds=1)) == made.entry
    assert ring.find(made.key, end) is None


@pytest.mark.parametrize(
    ("document", "says"),
    [
        ("", "JSON"),
        ("[]", "no keys document"),
        ('{"keys": [{"id": "0123456789ab"}]}', "keys.0.sha256"),
        ('{"keys": [], "more": 1}', "more"),
    ],
)
def test_a_file_that_is_no_keys_document_says_what_is_wrong(document: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        parse_keys(document, "keys.json")


def test_a_key_put_into_the_file_by_mistake_is_not_repeated_in_the_error() -> None:
    made = new_key()
    entry = {**json.loads(made.entry.model_dump_json()), "sha256": made.key}
    with pytest.raises(ConfigError) as caught:
        parse_keys(json.dumps({"keys": [entry]}), "keys.json")
    assert made.key not in str(caught.value)
    assert "sha256" in str(caught.value)


def test_two_keys_of_one_id_are_refused() -> None:
    entry = new_key().entry
    with pytest.raises(ConfigError, match="twice"):
        parse_keys(dump_keys([entry, entry]), "keys.json")


@given(
    rate=st.integers(1, 600),
    gaps=st.lists(st.floats(0, 30, allow_nan=False), min_size=1, max_size=200),
)
def test_no_stretch_of_time_has_more_requests_than_the_rate_and_one_bucket(
    rate: int, gaps: list[float]
) -> None:
    now = 0.0
    quota = Quota(lambda: now)
    entry = new_key(requests_per_minute=rate).entry
    passed: list[float] = []
    for gap in gaps:
        now += gap
        wait = quota.enter(entry)
        if wait is None:
            passed.append(now)
            quota.leave(entry)
        else:
            assert 0 < wait <= 60 / rate + 1e-6
    for first in range(len(passed)):
        for last in range(first, len(passed)):
            allowed = rate + (passed[last] - passed[first]) * rate / 60
            assert last - first + 1 <= allowed + 1e-6


def test_after_the_wait_it_names_a_request_passes() -> None:
    now = 0.0
    quota = Quota(lambda: now)
    entry = new_key(requests_per_minute=2).entry
    assert [quota.enter(entry), quota.enter(entry)] == [None, None]
    wait = quota.enter(entry)
    assert wait is not None
    now += wait + 1e-9
    assert quota.enter(entry) is None


def test_one_keys_requests_do_not_count_for_another() -> None:
    quota = Quota()
    greedy, other = new_key(concurrency=1).entry, new_key(concurrency=1).entry
    assert quota.enter(greedy) is None
    assert quota.enter(greedy) is not None
    assert quota.enter(other) is None
    quota.leave(greedy)
    assert quota.enter(greedy) is None


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ({}, "missing_api_key"),
        ({"Authorization": "Basic YTpi"}, "missing_api_key"),
        ({"Authorization": "Bearer "}, "missing_api_key"),
        ({"Authorization": "Bearer wrong"}, "invalid_api_key"),
        ({"X-API-Key": new_key().key}, "invalid_api_key"),
    ],
)
async def test_without_a_good_key_there_is_a_401(headers: dict[str, str], code: str) -> None:
    async with client(new_key()) as http:
        answer = await http.post("/metrics/readability", json=TEXTS, headers=headers)
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"] == "Bearer"
    assert answer.json()["error"]["code"] == code
    assert answer.json()["error"]["field"] is None


async def test_without_a_key_not_even_the_routes_are_told() -> None:
    async with client(new_key()) as http:
        for path in ("/openapi.json", "/docs", "/nothing-here"):
            assert (await http.get(path)).status_code == 401


async def test_without_a_key_no_byte_of_the_body_is_read() -> None:
    made = new_key()
    app = create_app(LightBackend(), load_settings(api_keys=dump_keys([made.entry])), Traffic())
    sent: list[Any] = []

    async def receive() -> Any:
        raise AssertionError("the body was asked for")

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": "/loss", "headers": [], "root_path": ""}
    await app(scope, receive, send)
    assert sent[0]["status"] == 401


async def test_both_headers_take_a_key_and_health_takes_none() -> None:
    made = new_key()
    async with client(made, new_key()) as http:
        for headers in (bearer(made), {"X-API-Key": made.key}):
            answer = await http.post("/metrics/readability", json=TEXTS, headers=headers)
            assert answer.status_code == 200
        assert (await http.get("/healthz")).status_code == 200


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/livez", "/", "/page/app.js"])
async def test_open_paths_are_open_to_whoever_asks_and_to_no_other_method(path: str) -> None:
    async with client(new_key()) as http:
        for method in ("GET", "HEAD"):
            assert (await http.request(method, path)).status_code in (200, 405)
        for method in ("POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "BREW"):
            answer = await http.request(method, path)
            assert answer.status_code == 401, method
            assert answer.json()["error"]["code"] == "missing_api_key"


async def test_without_a_key_no_body_is_read_on_an_open_path_either() -> None:
    made = new_key()
    app = create_app(LightBackend(), load_settings(api_keys=dump_keys([made.entry])), Traffic())
    headers = [(b"content-length", b"8388608")]

    async def receive() -> Any:
        raise AssertionError("the body was asked for")

    for method, status in (("POST", 401), ("OPTIONS", 401), ("GET", 400), ("HEAD", 400)):
        sent: list[Any] = []

        async def send(message: Any, sent: list[Any] = sent) -> None:
            sent.append(message)

        scope = {"type": "http", "method": method, "path": "/healthz", "headers": headers}
        await app(scope, receive, send)
        assert sent[0]["status"] == status, method


async def test_options_takes_no_key_where_a_browser_asks_before_it_sends_one() -> None:
    origin = {"Origin": "https://a.example"}
    preflight = {**origin, "Access-Control-Request-Method": "POST"}
    async with client(new_key(), cors_origins="https://a.example") as http:
        assert (await http.options("/loss", headers=preflight)).status_code == 200
        for headers in ({}, origin, {"Access-Control-Request-Method": "POST"}):
            assert (await http.options("/loss", headers=headers)).status_code == 401


async def test_what_the_server_has_done_is_told_to_a_key_only() -> None:
    made = new_key()
    async with client(made) as http:
        assert (await http.get("/status")).status_code == 401
        assert (await http.get("/status", headers=bearer(made))).status_code == 200


async def test_a_key_of_one_service_may_not_call_the_other() -> None:
    made = new_key(services=["metrics"])
    async with client(made) as http:
        scored = await http.post("/loss", json=PAIR, headers=bearer(made))
        written = await http.post("/generate", json={"text": "A text."}, headers=bearer(made))
        # /evaluate writes where it is given no summary.
        sly = await http.post(
            "/evaluate", json={"texts_original": ["A text."]}, headers=bearer(made)
        )
    assert scored.status_code == 200
    assert written.status_code == sly.status_code == 403
    assert written.json()["error"]["code"] == sly.json()["error"]["code"] == "service_not_allowed"


async def test_over_its_rate_a_key_gets_429_and_when_to_try_again() -> None:
    made = new_key(requests_per_minute=1)
    async with client(made) as http:
        first = await http.post("/metrics/readability", json=TEXTS, headers=bearer(made))
        second = await http.post("/metrics/readability", json=TEXTS, headers=bearer(made))
    assert (first.status_code, second.status_code) == (200, 429)
    assert 1 <= int(second.headers["retry-after"]) <= 60
    assert second.json()["error"]["code"] == "too_many_requests"


class Held(LightBackend):
    """Answers readability when told to."""

    def __init__(self) -> None:
        super().__init__()
        self.arrived, self.go = asyncio.Event(), asyncio.Event()

    async def readability(self, texts: Sequence[str]) -> list[Readability]:
        self.arrived.set()
        await self.go.wait()
        return await super().readability(texts)


async def test_over_its_concurrency_a_key_gets_429_until_an_answer_is_out() -> None:
    made, backend = new_key(concurrency=1), Held()
    async with client(made, backend=backend) as http:

        async def ask() -> int:
            answer = await http.post("/metrics/readability", json=TEXTS, headers=bearer(made))
            return int(answer.status_code)

        first = asyncio.create_task(ask())
        await backend.arrived.wait()
        assert await ask() == 429
        backend.go.set()
        assert await first == 200
        assert await ask() == 200


async def test_the_log_names_the_keys_id_and_never_the_key(
    caplog: pytest.LogCaptureFixture,
) -> None:
    made = new_key("clinic")
    caplog.set_level("INFO", logger="ray.serve")
    async with client(made) as http:
        await http.post("/metrics/readability", json=TEXTS, headers=bearer(made))
        await http.post("/metrics/readability", json=TEXTS, headers={"X-API-Key": made.key + "x"})
    assert f"caller={made.entry.id}" in caplog.text
    assert made.key.split("_", 2)[2] not in caplog.text


def _write(path: Path, *entries: KeyEntry) -> None:
    fresh = path.with_suffix(".new")
    fresh.write_text(dump_keys(entries), encoding="utf-8")
    os.replace(fresh, path)


def test_keys_change_with_their_file_and_a_broken_file_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(source_module, "LOOK_EVERY_S", 0.0)
    old, new = new_key(), new_key()
    path = tmp_path / "keys.json"
    _write(path, old.entry)
    source = KeySource(path, None)
    assert source.ring().find(old.key)
    _write(path, old.entry, new.entry)  # both live: the new one is given out
    assert source.ring().find(old.key)
    assert source.ring().find(new.key)
    _write(path, new.entry)
    assert source.ring().find(old.key) is None
    path.write_text("{", encoding="utf-8")
    assert source.ring().find(new.key)
    assert "stay live" in caplog.text
    path.unlink()
    assert source.ring().find(new.key)
    _write(path, old.entry)
    assert source.ring().find(new.key) is None
    assert source.ring().find(old.key)


def test_a_file_is_not_looked_at_for_every_request(tmp_path: Path) -> None:
    old, new = new_key(), new_key()
    path = tmp_path / "keys.json"
    _write(path, old.entry)
    source = KeySource(path, None)
    _write(path, new.entry)
    assert source.ring().find(old.key)  # within LOOK_EVERY_S of the start


def test_a_start_without_a_single_key_is_refused(tmp_path: Path) -> None:
    empty = tmp_path / "keys.json"
    _write(empty)
    with pytest.raises(ConfigError, match="plainmed keys new"):
        KeySource(empty, None)
    with pytest.raises(ConfigError, match="API_KEYS_FILE"):
        KeySource(tmp_path / "missing.json", None)


def test_the_same_id_in_file_and_environment_is_refused(tmp_path: Path) -> None:
    entry = new_key().entry
    path = tmp_path / "keys.json"
    _write(path, entry)
    with pytest.raises(ConfigError, match="same id"):
        KeySource(path, dump_keys([entry]))
