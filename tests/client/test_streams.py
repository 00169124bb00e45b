"""Summaries that arrive in pieces: read, retried until they begin, broken off."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.client.clients import PlainMedAPIError, PlainMedConnectionError
from serve_app.client.sse import EventParser
from serve_app.core.schemas import GenerateResponse
from tests.client.answers import SUMMARY, busy, error_body
from tests.support.servers import Answer, ScriptedServer


def events(*pieces: str, end: str = "\n") -> bytes:
    blocks = [f"data: {json.dumps({'text': piece}, ensure_ascii=False)}" for piece in pieces]
    blocks.append(f"event: done{end}data: {json.dumps(SUMMARY)}")
    return "".join(block + end * 2 for block in blocks).encode()


def test_a_stream_gives_the_pieces_then_the_answer(ask: Any) -> None:
    # U+2028 ends a line for str.splitlines, but not for server-sent events.
    pieces = ("Plain ", "wörds\u2028 \x85", "日本.")
    with ScriptedServer([Answer(chunks=(b": a comment\n\n", events(*pieces)))]) as server:
        items = ask(server.url, "generate_stream", "text", seed=3)
    assert items == [*pieces, GenerateResponse.model_validate(SUMMARY)]
    assert json.loads(server.received[0].body) == {"text": "text", "stream": True, "seed": 3}


def test_a_stream_is_retried_until_it_begins(ask: Any) -> None:
    answers = [busy(), Answer(hang_up=True), Answer(chunks=(events("a"),))]
    with ScriptedServer(answers) as server:
        assert ask(server.url, "generate_stream", "text")[0] == "a"
    assert len(server.received) == 3


def test_a_stream_that_breaks_off_raises_and_is_not_repeated(ask: Any) -> None:
    cut = events("a", "b")[:-20]
    with (
        ScriptedServer([Answer(chunks=(cut,))]) as server,
        pytest.raises(PlainMedConnectionError, match="before the summary was complete"),
    ):
        ask(server.url, "generate_stream", "text")
    assert len(server.received) == 1


def test_a_stream_that_ran_out_of_time_has_the_status_of_any_request_that_did(ask: Any) -> None:
    body = b'data: {"text": "a"}\n\nevent: error\ndata: ' + error_body("timeout") + b"\n\n"
    with (
        ScriptedServer([Answer(chunks=(body,))]) as server,
        pytest.raises(PlainMedAPIError) as caught,
    ):
        ask(server.url, "generate_stream", "text")
    assert (caught.value.code, caught.value.status) == ("timeout", 503)


def test_an_error_inside_a_stream_is_raised(ask: Any) -> None:
    body = b'data: {"text": "a"}\n\nevent: error\ndata: ' + error_body() + b"\n\n"
    with (
        ScriptedServer([Answer(chunks=(body,))]) as server,
        pytest.raises(PlainMedAPIError, match="busy") as caught,
    ):
        ask(server.url, "generate_stream", "text")
    assert (caught.value.status, caught.value.code) == (503, "unavailable")
    assert len(server.received) == 1


def test_a_refused_stream_is_the_usual_error(ask: Any) -> None:
    refused = Answer(422, error_body("no_words", "the text has no word", "text"))
    with (
        ScriptedServer([refused]) as server,
        pytest.raises(PlainMedAPIError) as caught,
    ):
        ask(server.url, "generate_stream", "...")
    assert (caught.value.code, caught.value.field) == ("no_words", "text")


def test_a_stream_of_something_else_is_an_error(ask: Any) -> None:
    with (
        ScriptedServer([Answer(chunks=(b"data: [DONE]\n\n",))]) as server,
        pytest.raises(PlainMedAPIError) as caught,
    ):
        ask(server.url, "generate_stream", "text")
    assert caught.value.code == "bad_response"


@given(
    pieces=st.lists(st.text(max_size=8).filter(lambda text: "\r" not in text), max_size=4),
    end=st.sampled_from(["\n", "\r\n", "\r"]),
    data=st.data(),
)
def test_events_do_not_depend_on_how_the_bytes_are_cut(
    pieces: list[str], end: str, data: st.DataObject
) -> None:
    pieces = [piece.encode(errors="ignore").decode() for piece in pieces]
    stream = events(*pieces, end=end) + b":"
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=6)))
    parser = EventParser()
    found = []
    for start, stop in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        found += parser.feed(stream[start:stop])
    assert [json.loads(text)["text"] for _, text in found[:-1]] == pieces
    assert found[-1] == ("done", json.dumps(SUMMARY))
