"""No word of a text is in a log, a trace, a metric, an error or a status, whatever fails.

Every request here carries a word of its own that stands nowhere else, so what leaks names its
request. What Ray itself writes is looked through as well.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.serving.live.conftest import FAULTY, WRITER, Server
from tests.serving.live.faulty import FAULTS
from tests.serving.live.metrics_ports import exported_text
from tests.support.otlp_receiver import Collector

MARK = "zqcanary"
_NUMBERS = itertools.count()


def marked(*more: str) -> str:
    """A text with a word that no other request has."""
    return f"Mrs {MARK}{next(_NUMBERS)}x has lupus and takes aspirin. {' '.join(more)} It helped."


def pair(*more: str) -> dict[str, Any]:
    return {"texts_original": [marked()], "texts_generated": [marked(*more)]}


Ask = Callable[[httpx.Client], httpx.Response]


def post(path: str, body: Any, **headers: str) -> Ask:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    head = {"content-type": "application/json", **headers}
    return lambda http: http.post(path, content=content, headers=head)


def requests() -> Iterator[tuple[str, int, Ask]]:
    """(what, the status it is answered with, how to ask)."""
    for path in ("/metrics/relevance", "/metrics/factuality", "/loss", "/evaluate"):
        yield f"good {path}", 200, post(path, pair())
    yield "good readability", 200, post("/metrics/readability", {"texts": [marked()]})
    yield "explained", 200, post("/evaluate", {**pair(), "explain": True})
    yield "written", 200, post("/generate", {"text": marked()})
    yield "streamed", 200, post("/generate", {"text": marked(), "stream": True})
    yield "best of two", 200, post("/generate", {"text": marked(), "n": 2, "select": "loss"})
    tokens = {"text": marked(), "max_new_tokens": 30}  # four may be blanks alone
    yield "by a language model", 200, post(f"/{WRITER}/generate", tokens)
    yield "cut off JSON", 400, post("/loss", json.dumps(pair()).encode()[:-3])
    yield "not JSON", 400, post("/loss", marked().encode())
    yield "not UTF-8", 400, post("/loss", marked().encode() + b"\xff")
    yield "a number too many", 422, post("/loss", {**pair(), "weights": [marked()]})
    yield "a text for a list", 422, post("/loss", {**pair(), "texts_generated": marked()})
    yield "an object for a text", 422, post("/metrics/readability", {"texts": [{"a": marked()}]})
    yield "a text for a number", 422, post("/generate", {"text": marked(), "n": marked()})
    yield "a text for a choice", 422, post("/generate", {"text": marked(), "select": marked()})
    yield "an unknown field", 422, post("/generate", {"text": marked(), "more": marked()})
    yield "a length mismatch", 422, post("/loss", {**pair(), "texts_original": [marked()] * 2})
    yield "too long a text", 413, post("/metrics/readability", {"texts": [marked("word " * 15000)]})
    yield "too large a body", 413, post("/generate", {"text": marked("word " * 100_000)})
    yield "too many texts", 413, post("/metrics/readability", {"texts": [marked()] * 50})
    yield "no time", 503, post("/loss", pair(), **{"x-request-timeout": "0.001"})
    yield "a path", 404, lambda http: http.get(f"/{MARK}path")
    yield "a query", 405, lambda http: http.get("/loss", params={"text": marked()})
    yield "a header", 200, post("/loss", pair(), authorization=f"Bearer {MARK}key")
    for word in ("uncomputable", "buggy"):
        for path in ("/metrics/relevance", "/loss", "/evaluate"):
            yield f"{word} {path}", 500, post(f"/{FAULTY}{path}", pair(word))
        yield f"{word} summary", 500, post(f"/{FAULTY}/generate", {"text": marked(word)})
        mates = {"texts_original": [marked()] * 2, "texts_generated": [marked(), marked(word)]}
        yield f"{word} batch", 500, post(f"/{FAULTY}/metrics/factuality", mates)
        broken = {"text": marked(word), "stream": True}
        yield f"{word} stream", 200, post(f"/{FAULTY}/generate", broken)
    bug = pair("treacherous")
    yield "a bug of the gateway", 500, post(f"/{FAULTY}/metrics/relevance", bug)


CASES = list(requests())
assert len({what for what, _, _ in CASES}) == len(CASES)


@pytest.fixture(scope="module")
def answers(server: Server) -> dict[str, httpx.Response]:
    """Every request's answer; sent once, before what is looked through below."""
    with httpx.Client(base_url=server.url, timeout=120) as http:
        return {what: ask(http) for what, _, ask in CASES}


@pytest.mark.parametrize(("what", "status"), [case[:2] for case in CASES])
def test_each_request_ends_as_meant_and_no_error_repeats_a_text(
    answers: dict[str, httpx.Response], what: str, status: int
) -> None:
    answer = answers[what]
    assert answer.status_code == status, answer.text
    if what.endswith("stream"):
        text = answer.text.partition("event: error")[2]
        assert text
    else:
        text = "" if status == 200 else answer.text
    # What is no route is told to who asked for it: nothing else could be meant.
    assert MARK not in text or what == "a path"


def test_the_faults_are_those_that_were_meant(answers: dict[str, httpx.Response]) -> None:
    codes = {what: one.json()["error"]["code"] for what, one in answers.items() if _failed(one)}
    assert codes["a bug of the gateway"] == "internal_error"
    assert {code for what, code in codes.items() if "/" in what} == {"metric_failed"}
    assert len(FAULTS) == 3


def _failed(answer: httpx.Response) -> bool:
    return answer.status_code == 500


def test_no_file_of_ray_holds_a_text(server: Server, answers: dict[str, httpx.Response]) -> None:
    found = [path for path in server.session_folder().rglob("*") if path.is_file()]
    assert any(path.name.startswith("replica_faulty_Faulty") for path in found)
    logs = {path: path.read_bytes() for path in [*found, server.log]}
    assert not [name(path, logs[path]) for path in logs if MARK.encode() in logs[path]]
    everything = b"".join(logs.values())
    # What is told instead: the kinds of the errors, where they came from, and by which request.
    for kind in FAULTS.values():
        assert f"{kind.__name__} (its message".encode() in everything
    assert b"faulty.py" in everything
    assert answers["a bug of the gateway"].headers["x-request-id"].encode() in everything


def name(path: Path, content: bytes) -> str:
    """The file and the line that leaks, for who has to mend it."""
    at = content.index(MARK.encode())
    return f"{path}: {content[max(0, at - 300) : at + 100]!r}"


def test_no_exported_metric_holds_a_text(
    server: Server, answers: dict[str, httpx.Response]
) -> None:
    text = exported_text(server)
    assert "ray_plainmed_requests_total" in text
    assert MARK not in text


def test_no_span_holds_a_text(answers: dict[str, httpx.Response], collector: Collector) -> None:
    wanted = answers["a bug of the gateway"].headers["x-request-id"]
    collector.wait(
        lambda spans: any(span.attributes.get("plainmed.request_id") == wanted for span in spans)
    )
    assert MARK.encode() not in collector.raw


def test_no_status_holds_a_text(http: httpx.Client, answers: dict[str, httpx.Response]) -> None:
    for prefix in ("", f"/{WRITER}", f"/{FAULTY}"):
        for path in ("/healthz", "/readyz", "/status"):
            answer = http.get(prefix + path)
            assert answer.status_code == 200 or prefix == f"/{FAULTY}"
            assert MARK not in answer.text
