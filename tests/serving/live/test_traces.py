"""One request's spans across the processes of the running application."""

from __future__ import annotations

import httpx

from tests.serving.live.conftest import WRITER
from tests.support.otlp_receiver import Collector, Received
from tests.support.texts import GENERATED, ORIGINALS

TRACE = "4bf92f3577b34da6a3ce929d0e0e47{:02d}"
METRICS = ("relevance", "factuality", "readability")


def spans_of(collector: Collector, trace: str, count: int) -> dict[str, Received]:
    """The spans of a trace by name, once there are so many."""

    def of_it(spans: list[Received]) -> list[Received]:
        return [span for span in spans if span.trace == trace]

    found = of_it(collector.wait(lambda spans: len(of_it(spans)) >= count))
    assert len(found) == count, [span.name for span in found]
    return {span.name: span for span in found}


def test_a_loss_is_one_trace_from_the_clients_span_to_each_batch(
    http: httpx.Client, collector: Collector
) -> None:
    trace = TRACE.format(1)
    body = {"texts_original": ORIGINALS, "texts_generated": GENERATED}
    headers = {"traceparent": f"00-{trace}-00f067aa0ba902b7-01", "x-request-id": "traced-1"}
    assert http.post("/loss", json=body, headers=headers).status_code == 200
    spans = spans_of(collector, trace, 2 + 2 * len(METRICS))
    assert spans["POST /loss"].parent == "00f067aa0ba902b7"
    assert spans["loss"].parent == spans["POST /loss"].id
    for metric in METRICS:
        asked, batch = spans[metric], spans[f"{metric} batch"]
        assert asked.parent == spans["loss"].id
        assert batch.parent == asked.id
        assert asked.attributes["plainmed.request_id"] == "traced-1"
        assert asked.attributes["plainmed.items"] == len(ORIGINALS)
        assert batch.attributes["plainmed.items"] == len(ORIGINALS)
        assert asked.attributes["plainmed.deployment"] == metric.capitalize()
        # Clocks of one machine: what is asked for lies within what asks.
        assert spans["loss"].began <= asked.began <= batch.began <= batch.ended
        assert asked.ended <= spans["loss"].ended <= spans["POST /loss"].ended
    assert spans["factuality"].attributes["plainmed.model"] == "alignscore-mini"
    assert len({span.resource["service.instance.id"] for span in spans.values()}) == 5


def test_a_summary_and_a_stream_are_traced_with_their_model(
    http: httpx.Client, collector: Collector
) -> None:
    body = {"text": ORIGINALS[0], "max_new_tokens": 32}
    for number, name, more in ((2, "generate", {}), (3, "stream", {"stream": True})):
        trace = TRACE.format(number)
        headers = {"traceparent": f"00-{trace}-00f067aa0ba902b7-01"}
        answer = http.post(f"/{WRITER}/generate", json={**body, **more}, headers=headers)
        assert answer.status_code == 200
        spans = spans_of(collector, trace, 2)
        assert spans[name].parent == spans["POST /generate"].id
        assert spans[name].attributes["plainmed.deployment"] == "Generator"
        assert spans[name].attributes["plainmed.characters"] == len(ORIGINALS[0])
        assert spans[name].attributes["plainmed.model"]


def test_a_client_that_traces_nothing_is_not_traced(
    http: httpx.Client, collector: Collector
) -> None:
    body = {"texts": ["Aspirin makes a stroke less likely."]}
    for number, flag in ((4, "00"), (5, "01")):
        headers = {"traceparent": f"00-{TRACE.format(number)}-00f067aa0ba902b7-{flag}"}
        assert http.post("/metrics/readability", json=body, headers=headers).status_code == 200
    spans_of(collector, TRACE.format(5), 3)
    assert not [span for span in collector.spans if span.trace == TRACE.format(4)]
