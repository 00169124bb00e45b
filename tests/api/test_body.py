"""Bodies made to keep a server busy: each is refused with little work, and other requests go on."""

from __future__ import annotations

import asyncio
import json
import time

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.api import validation
from serve_app.api.validation import (
    MAX_NAMES,
    MAX_VALUES,
    InvalidJson,
    TooManyValues,
    parse_body,
)
from serve_app.core.errors import InvalidInput
from tests.support.backends import api_client
from tests.support.servers import api_server

MB = 1 << 20
HEADERS = {"content-type": "application/json"}
LARGE: dict[str, tuple[bytes, int]] = {
    "600,000 wrong names": (
        b'{"texts":["a"],' + b",".join(b'"k%d":1' % n for n in range(500_000)) + b"}", 413,
    ),
    "millions of numbers": (b'{"texts":[' + b"1," * (3 * MB) + b"1]}", 413),
    "millions of lists": (b'{"texts":[' + b"[]," * (2 * MB) + b"1]}", 413),
    "millions of objects": (b'{"texts":[' + b"{}," * (2 * MB) + b"1]}", 413),
    "60,000 numbers for texts": (b'{"texts":[' + b"1," * 60_000 + b"1]}", 422),
    "60,000 empty texts": (b'{"texts":[' + b'"",' * 60_000 + b'""]}', 413),
    "nested millions deep": (b'{"texts":' + b"[" * (7 * MB), 400),
    "a number of millions of digits": (b'{"seed":' + b"9" * (7 * MB) + b"}", 400),
    "a name of millions of letters": (b'{"' + b"a" * (7 * MB) + b'":1}', 422),
    "a text that does not end": (b'{"texts":["' + b"a" * (7 * MB), 400),
    "escapes": (b'{"texts":["' + b"\\u00e9" * MB + b'"]}', 413),
    "spaces": (b'{"texts":' + b" " * (7 * MB) + b'[" "]}', 422),
    "a text without a word": (b'{"texts":["' + b"_" * 1_000_000 + b'"]}', 422),
}  # fmt: skip
"""What is sent, and the status that answers it."""


def _machine() -> float:
    """Seconds of CPU that a fixed piece of work takes here and now: 0.07 on a quiet machine."""
    started = time.process_time()
    sum(range(5_000_000))
    return time.process_time() - started


@pytest.mark.parametrize("what", LARGE)
async def test_while_a_hostile_body_is_refused_other_requests_are_answered(what: str) -> None:
    content, status = LARGE[what]
    loop = asyncio.get_running_loop()
    slowest = 0.0

    async def watch() -> None:
        nonlocal slowest
        while True:
            started = loop.time()
            await asyncio.sleep(0.005)
            slowest = max(slowest, loop.time() - started)

    unit = _machine()
    async with api_client() as http:
        await http.get("/livez")
        cpu, watching = time.process_time(), asyncio.create_task(watch())
        answer = await http.post("/metrics/readability", content=content, headers=HEADERS)
        watching.cancel()
        cpu = time.process_time() - cpu
    assert answer.status_code == status, answer.text[:300]
    assert len(answer.content) < 2000
    # About 0.6 s of a quiet machine: what was refused by building it all took seconds.
    assert min(slowest, cpu) < 8 * max(unit, _machine())


def test_livez_is_answered_while_hostile_bodies_come_over_http() -> None:
    with api_server() as url, httpx.Client(base_url=url, timeout=60) as http:
        for content, status in LARGE.values():
            assert http.post("/loss", content=content, headers=HEADERS).status_code in (
                status, 413, 422,
            )  # fmt: skip
            assert http.get("/livez").status_code == 200


def test_values_and_names_have_a_limit_and_as_many_are_read() -> None:
    assert len(parse_body(json.dumps([0] * (MAX_VALUES - 1)).encode())) == MAX_VALUES - 1
    with pytest.raises(TooManyValues, match="values"):
        parse_body(json.dumps([[0] * 1000] * 70).encode())
    names = {f"k{n}": n for n in range(MAX_NAMES)}
    assert parse_body(json.dumps(names).encode()) == names
    with pytest.raises(TooManyValues, match="names"):
        parse_body(json.dumps({**names, "one": 1}).encode())


@pytest.mark.parametrize(
    "content", [b'{"a": 1, "a": 1}', b'[{"b": {"a": [], "c": 0, "a": []}}]', b'{"\\u0061":1,"a":2}']
)
def test_a_name_given_twice_is_refused_wherever_it_is(content: bytes) -> None:
    with pytest.raises(InvalidInput, match="'a' is there twice") as caught:
        parse_body(content)
    assert caught.value.code == "duplicate_field"


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    )
)
def test_what_json_can_say_is_read_as_ever(value: object) -> None:
    content = json.dumps(value).encode()
    assert parse_body(content) == json.loads(content)


@given(st.text())
def test_what_is_no_json_is_refused_in_one_way(text: str) -> None:
    content = text.encode("utf-8", "replace")
    try:
        expected = json.loads(content.decode())
    except ValueError:
        with pytest.raises(InvalidJson):
            parse_body(content)
    else:
        assert repr(parse_body(content)) == repr(expected)  # NaN too


async def test_large_bodies_are_parsed_beside_the_event_loop(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    parsed: list[bool] = []

    def watched(content: bytes) -> object:
        try:
            asyncio.get_running_loop()
            parsed.append(True)
        except RuntimeError:
            parsed.append(False)
        return parse_body(content)

    monkeypatch.setattr(validation, "parse_body", watched)
    async with api_client() as http:
        for text in ("A cat.", "A cat sat. " * 10_000):
            answer = await http.post("/metrics/readability", json={"texts": [text]})
            assert answer.status_code == 200
    assert parsed == [True, False]


@pytest.mark.parametrize("encoding", ["gzip", "br", "zstd, gzip", "deflate", "made-up"])
async def test_a_compressed_body_is_415(encoding: str) -> None:
    async with api_client() as http:
        answer = await http.post(
            "/loss", content=b"\x1f\x8b\x08", headers={**HEADERS, "content-encoding": encoding}
        )
    assert answer.status_code == 415
    assert answer.json()["error"]["code"] == "unsupported_encoding"


async def test_a_body_that_says_it_is_plain_is_read() -> None:
    async with api_client() as http:
        answer = await http.post(
            "/metrics/readability",
            json={"texts": ["A cat."]},
            headers={"content-encoding": "Identity"},
        )
    assert answer.status_code == 200
