"""The clients against the application's own gateway over HTTP."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from serve_app.client.clients import AsyncPlainMedClient, PlainMedAPIError, PlainMedClient
from tests.support.servers import lead, overlap
from tests.support.texts import GENERATED, ORIGINALS


def test_every_method_agrees_with_the_gateway(ask: Any, url: str) -> None:
    pairs = list(zip(ORIGINALS, GENERATED, strict=True))
    scores = [overlap(*pair) for pair in pairs]
    assert ask(url, "relevance", ORIGINALS, GENERATED) == scores
    assert ask(url, "factuality", ORIGINALS[0], GENERATED[0]) == scores[:1]
    assert len(ask(url, "readability", GENERATED).smog) == len(GENERATED)
    weights = [0.25, 0.25, 0.2, 0.15, 0.15]
    evaluation = ask(url, "evaluate", ORIGINALS, GENERATED, weights=weights)
    assert evaluation.weights == weights
    losses = ask(url, "loss", ORIGINALS, GENERATED, weights=weights)
    assert losses == [result.loss for result in evaluation.results]
    assert ask(url, "loss", ORIGINALS[0], GENERATED[0], weights=weights) == losses[:1]
    assert ask(url, "evaluate", ORIGINALS[0]).results[0].generated == lead(ORIGINALS[0])
    assert ask(url, "generate", ORIGINALS[0]).summary == lead(ORIGINALS[0])
    *pieces, answer = ask(url, "generate_stream", ORIGINALS[0])
    assert "".join(pieces) == answer.summary == lead(ORIGINALS[0])
    assert ask(url, "health").status == "ready"


def test_the_gateways_refusals_arrive_as_they_are(ask: Any, url: str) -> None:
    with pytest.raises(PlainMedAPIError) as caught:
        ask(url, "loss", ["a b", "c"], ["a", " "], request_id="me-1")
    assert (caught.value.status, caught.value.code) == (422, "empty_text")
    assert (caught.value.field, caught.value.request_id) == ("texts_generated[1]", "me-1")


async def test_concurrent_calls_of_one_client_get_their_own_answers(url: str) -> None:
    texts = [f"word{index} and {'more ' * index}text" for index in range(40)]
    async with AsyncPlainMedClient(url) as client:
        found = await asyncio.gather(*(client.generate(text) for text in texts))
    assert [answer.summary for answer in found] == texts


def test_threads_may_share_a_client(url: str) -> None:
    found: dict[int, list[float]] = {}
    with PlainMedClient(url) as client:

        def work(index: int) -> None:
            found[index] = client.relevance("a b c", "a " + "z " * (index > 5) + "b")

        threads = [threading.Thread(target=work, args=(index,)) for index in range(12)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert found == {index: [2 / 3 if index > 5 else 1.0] for index in range(12)}


def test_a_stream_left_early_closes_its_connection(url: str) -> None:
    with PlainMedClient(url) as client:
        stream = client.generate_stream(ORIGINALS[0])
        next(stream)
        stream.close()  # type: ignore[attr-defined]
        assert client.health().status == "ready"
