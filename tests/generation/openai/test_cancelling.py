"""A client that goes away, and a call that fails: what is under way ends."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from serve_app.core.errors import InvalidInput, PlainMedError
from serve_app.generation.openai.engine import OpenAIGenerator
from tests.generation.openai.answers import GREEDY, OTHER, TEXT, drain, written_by
from tests.generation.openai.server import Fault, FaultyProxy
from tests.support.servers import wait_for


def test_a_closed_stream_closes_the_response(
    proxy: FaultyProxy, engine: Callable[..., OpenAIGenerator]
) -> None:
    proxy.faults = [Fault(pause_s=0.1)]
    pieces = engine(proxy.url).stream(TEXT, GREEDY)
    assert isinstance(next(pieces), str)
    pieces.close()
    wait_for(lambda: proxy.hung_up == 1)


def test_a_cancelled_stream_ends_with_what_it_has(
    proxy: FaultyProxy, engine: Callable[..., OpenAIGenerator]
) -> None:
    proxy.faults = [Fault(pause_s=0.1)]
    stop = threading.Event()
    pieces = engine(proxy.url).stream(TEXT, GREEDY, cancelled=stop.is_set)
    first = next(pieces)
    stop.set()
    texts, summary = drain(pieces)
    assert summary.finish_reason == "cancelled"
    assert summary.text == str(first) + "".join(texts)
    wait_for(lambda: proxy.hung_up == 1)


def test_a_cancelled_text_ends_soon_and_the_others_are_written(
    proxy: FaultyProxy, model: Path, engine: Callable[..., OpenAIGenerator]
) -> None:
    proxy.faults = [Fault(delay_s=20), Fault(delay_s=20)]
    subject = engine(proxy.url)
    started = time.monotonic()
    found = subject.generate(
        [TEXT, TEXT], [GREEDY, GREEDY], cancelled=lambda _: len(proxy.bodies) == 2
    )
    assert time.monotonic() - started < 5
    assert [item.finish_reason for item in found] == ["cancelled", "cancelled"]
    wait_for(lambda: proxy.hung_up == 2)
    found = subject.generate([TEXT, OTHER], [GREEDY, GREEDY], cancelled=lambda at: at == 0)
    assert found[0].finish_reason in {"cancelled", "length"}
    assert found[1].text == written_by(model, OTHER)[0]


def test_the_first_error_ends_the_other_requests_of_a_call(
    proxy: FaultyProxy, engine: Callable[..., OpenAIGenerator]
) -> None:
    proxy.faults = [Fault(401, {"error": {}}), *[Fault(delay_s=20)] * 2]
    with pytest.raises(PlainMedError, match="OPENAI_API_KEY"):
        engine(proxy.url).generate([TEXT] * 3, [GREEDY] * 3)
    wait_for(lambda: proxy.hung_up == len(proxy.bodies) - 1)


def test_an_empty_text_is_refused_before_anything_is_sent(
    proxy: FaultyProxy, engine: Callable[..., OpenAIGenerator]
) -> None:
    subject = engine(proxy.url)
    with pytest.raises(InvalidInput):
        subject.generate([TEXT, " "], [GREEDY, GREEDY])
    with pytest.raises(InvalidInput):
        subject.stream("", GREEDY)
    assert proxy.bodies == []


def test_a_parameter_out_of_range_is_refused_before_anything_is_sent(
    proxy: FaultyProxy, engine: Callable[..., OpenAIGenerator]
) -> None:
    subject = engine(proxy.url)
    with pytest.raises(InvalidInput) as caught:
        subject.generate([TEXT, TEXT], [GREEDY, replace(GREEDY, top_p=0.0)])
    assert caught.value.field == "top_p"
    with pytest.raises(InvalidInput, match="max_new_tokens is 0; it must be at least 1"):
        subject.stream(TEXT, replace(GREEDY, max_new_tokens=0))
    assert proxy.bodies == []
