"""Spans as a collector gets them: who asked for what, with numbers, and no text."""

from __future__ import annotations

import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from serve_app.api.app import create_app
from serve_app.api.middleware.request_guard import Traffic
from serve_app.app import build
from serve_app.core.context import RequestContext
from serve_app.core.errors import ConfigError
from serve_app.core.observability import otlp
from serve_app.core.observability.otlp import otlp_tracer
from serve_app.core.observability.tracing import handed_on, traceparent
from serve_app.core.settings import load_settings
from serve_app.serving import observability
from serve_app.serving.observability import load_tracer
from serve_app.serving.scheduling.fair_batcher import FairBatcher
from tests.support.otlp_receiver import Collector
from tests.support.servers import Answer, LightBackend, ScriptedServer
from tests.support.slow import slow

SECRET = "Jane Roe has lupus"
PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
TEXTS = {"texts": ["Aspirin makes a stroke less likely."]}


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[Collector]:
    monkeypatch.setattr(otlp, "CLOSE_S", 60.0)  # a busy machine sends late, too
    running = Collector()
    yield running
    running.close()


def test_work_is_a_child_of_what_asked_for_it_in_another_process_too(collector: Collector) -> None:
    gateway, loss = (otlp_tracer(collector.url, 1.0, part) for part in ("Gateway", "Loss"))
    with gateway.span("POST /loss", None, {"http.route": "/loss"}) as root:
        context = handed_on(RequestContext(request_id="r1"), root)
        with loss.span("loss", context.traceparent, {"plainmed.items": 3}):
            pass
    gateway.close()
    loss.close()
    first, second = sorted(collector.spans, key=lambda span: span.began)
    assert (first.name, second.name) == ("POST /loss", "loss")
    assert first.parent == ""
    assert (second.trace, second.parent) == (first.trace, first.id)
    assert second.attributes == {"plainmed.deployment": "Loss", "plainmed.items": 3}
    assert first.resource["service.name"] == "plainmed"
    assert collector.paths == {"/v1/traces"}


def test_of_an_error_the_kind_is_told_and_not_the_message(collector: Collector) -> None:
    tracer = otlp_tracer(collector.url, 1.0, "Loss")
    with pytest.raises(ValueError, match="Jane"), tracer.span("loss", None, {}):
        raise ValueError(SECRET)
    tracer.close()
    assert [span.error for span in collector.spans] == ["ValueError"]
    assert b"Jane" not in collector.raw


def test_a_ratio_of_nothing_sends_only_what_clients_trace(collector: Collector) -> None:
    tracer = otlp_tracer(collector.url, 0.0, "Loss")
    with tracer.span("mine", None, {}) as mine, tracer.span("below", traceparent(mine), {}):
        pass
    with tracer.span("theirs", PARENT, {}):
        pass
    tracer.close()
    assert [span.name for span in collector.spans] == ["theirs"]


def test_what_a_stranger_wants_sent_is_sent_as_often_as_the_ratio_says(
    collector: Collector,
) -> None:
    # Also one who chooses the id by which OpenTelemetry's own sampler of a ratio decides.
    chosen = "00-" + "1" + "0" * 31 + "-b7ad6b7169203331-"
    never = otlp_tracer(collector.url, 0.0, "Gateway")
    half = otlp_tracer(collector.url, 0.5, "Gateway")
    for parent in (PARENT, chosen + "01"):
        with never.span("never", parent, {}) as span:
            # Its trace goes on all the same, and its replicas are told not to send it.
            assert str(traceparent(span)).startswith(parent[:35])
            assert str(traceparent(span)).endswith("-00")
    for _ in range(200):
        with half.span("half", chosen + "01", {}):
            pass
    always = otlp_tracer(collector.url, 1.0, "Gateway")
    with always.span("unwanted", chosen + "00", {}), always.span("wanted", chosen + "01", {}):
        pass
    for tracer in (never, half, always):
        tracer.close()
    names = Counter(span.name for span in collector.spans)
    assert set(names) == {"half", "wanted"}
    assert 60 < names["half"] < 140


@pytest.mark.parametrize(
    ("text", "draining", "error"),
    [("A text.", False, None), ("", False, None), ("A text.", True, "shutting_down")],
)
async def test_a_span_answered_with_5xx_is_an_error_by_its_code(
    text: str, draining: bool, error: str | None, collector: Collector
) -> None:
    tracer = otlp_tracer(collector.url, 1.0, "Gateway")
    traffic = Traffic(draining=draining)
    app = create_app(LightBackend(), load_settings(), traffic, tracer=tracer)
    transport = httpx.ASGITransport(app=app)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as http:
        await http.post("/metrics/readability", json={"texts": [text]})
    tracer.close()
    assert [span.error for span in collector.spans] == [error]


def test_a_collector_that_does_not_answer_keeps_nobody_from_ending(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(otlp, "CLOSE_S", 0.2)
    with ScriptedServer([Answer(delay=60.0)]) as silent:
        tracer = otlp_tracer(silent.url, 1.0, "Loss")
        with tracer.span("last", None, {}):
            pass
        started = time.perf_counter()
        tracer.close()
        tracer.close()
        assert time.perf_counter() - started < 20  # OpenTelemetry itself would wait for 30 s


def test_a_malformed_parent_begins_a_trace(collector: Collector) -> None:
    tracer = otlp_tracer(collector.url, 1.0, "Loss")
    with tracer.span("one", f"00-{SECRET}", {}):
        pass
    tracer.close()
    assert [span.parent for span in collector.spans] == [""]
    assert b"Jane" not in collector.raw


async def test_a_request_has_a_span_with_its_id_and_sizes_and_goes_on_with_the_clients_trace(
    collector: Collector,
) -> None:
    tracer = otlp_tracer(collector.url, 1.0, "Gateway")
    app = create_app(LightBackend(), load_settings(), Traffic(), tracer=tracer)
    transport = httpx.ASGITransport(app=app)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as http:
        headers = {"traceparent": PARENT, "x-request-id": "mine"}
        answer = await http.post("/metrics/readability", json=TEXTS, headers=headers)
        await http.post("/metrics/readability", json={"texts": [""]})
        await http.post(f"/{SECRET}", json=TEXTS)
        await http.get("/healthz")
    tracer.close()
    good, refused, unknown = collector.spans  # none for the GET
    assert (good.trace, good.parent) == (PARENT[3:35], PARENT[36:52])
    assert good.name == "POST /metrics/readability"
    assert good.attributes == {
        "plainmed.deployment": "Gateway",
        "plainmed.request_id": "mine",
        "http.request.method": "POST",
        "http.route": "/metrics/readability",
        "http.response.status_code": 200,
        "http.request.body.size": len(answer.request.content),
        "http.response.body.size": len(answer.content),
    }
    assert refused.attributes["plainmed.error_code"] == "empty_text"
    assert unknown.attributes["http.route"] == "other"
    assert b"Jane" not in collector.raw


async def test_each_request_of_a_batch_gets_a_span_of_it(collector: Collector) -> None:
    tracer = otlp_tracer(collector.url, 1.0, "Relevance")
    fair: FairBatcher[int, int] = FairBatcher(
        list, lambda _: 1, most=2, wait_s=0.0, tracer=tracer, name="relevance"
    )
    await fair.submit([1, 2, 3], RequestContext(traceparent=PARENT))
    tracer.close()
    assert [span.attributes["plainmed.batch.items"] for span in collector.spans] == [2, 1]
    assert {(span.name, span.trace, span.parent) for span in collector.spans} == {
        ("relevance batch", PARENT[3:35], PARENT[36:52])
    }
    assert all(0 <= span.ended - span.began < 60 for span in collector.spans)


@slow(12)
def test_without_the_setting_nothing_is_traced_or_imported() -> None:
    with load_tracer(load_settings(), "Loss").span("work", None, {}) as span:
        assert not span.is_recording()
        assert handed_on(RequestContext(), span).traceparent is None
    code = (
        "import sys\n"
        "from serve_app.app import build\n"
        "build({})\n"
        "assert 'serve_app.core.observability.otlp' not in sys.modules\n"
        "assert not any(name.startswith('opentelemetry.exporter.otlp') for name in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_asked_for_without_the_extra_the_start_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(observability, "find_spec", lambda _: None)
    arguments: dict[str, Any] = {"settings": {"traces_endpoint": "http://127.0.0.1:4318"}}
    with pytest.raises(ConfigError, match=r"pip install 'plainmed\[traces\]'"):
        build(arguments)


def test_an_endpoint_that_is_no_url_is_refused() -> None:
    with pytest.raises(ConfigError, match="TRACES_ENDPOINT"):
        load_settings(traces_endpoint="collector:4318")
