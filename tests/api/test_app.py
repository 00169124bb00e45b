"""The gateway's answers when something else fails: time, overload, a crash, a drain, a half.

What a healthy server answers is tested over a real Ray Serve instance in tests/serve.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Sequence
from typing import Any

import httpx
import pytest
from ray.exceptions import ActorDiedError, OwnerDiedError, RayTaskError
from ray.serve.exceptions import BackPressureError
from starlette.types import Message

from serve_app.api import serializers
from serve_app.api.app import create_app
from serve_app.api.auth.api_keys import dump_keys, new_key
from serve_app.api.middleware.request_guard import Traffic
from serve_app.app import build
from serve_app.core.context import AGE_HEADER
from serve_app.core.errors import (
    ConfigError,
    InvalidInput,
    MetricFailed,
    PlainMedError,
    Unavailable,
)
from serve_app.core.settings import load_settings
from serve_app.metrics.readability import Readability
from serve_app.serving import remote_calls
from serve_app.serving.deployments.metrics import BatchConfig
from serve_app.serving.remote_calls import ATTEMPTS, call
from serve_app.serving.scheduling.fair_batcher import run_batch
from serve_app.serving.server import load_document
from tests.support.backends import Failing, Held, api_client
from tests.support.servers import LightBackend

SECRET = "Jane Roe has lupus"


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (MetricFailed("no finite number"), 500, "metric_failed"),
        (Unavailable("busy", code="overloaded"), 503, "overloaded"),
        (InvalidInput("bad", field="texts[0]"), 422, "invalid_input"),
        (RuntimeError(SECRET), 500, "internal_error"),
    ],
)
async def test_a_failure_is_an_error_in_the_one_shape(
    error: Exception, status: int, code: str
) -> None:
    async with api_client(Failing(error)) as http:
        response = await http.post("/metrics/readability", json={"texts": ["A cat."]})
    assert response.status_code == status
    assert response.json()["error"]["code"] == code
    assert ("retry-after" in response.headers) is (status == 503)
    assert SECRET not in response.text


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (Unavailable("died", code="unavailable"), "unavailable"),
        (RuntimeError(SECRET), "internal_error"),
    ],
)
async def test_a_stream_that_fails_midway_ends_with_an_error_event(
    error: Exception, code: str
) -> None:
    async with api_client(Failing(error)) as http:
        response = await http.post("/generate", json={"text": "A cat sat.", "stream": True})
    events = response.text.strip().split("\n\n")
    assert json.loads(events[0].removeprefix("data: ")) == {"text": "The first piece"}
    name, data = events[-1].split("\n")
    assert name == "event: error"
    assert json.loads(data.removeprefix("data: "))["error"]["code"] == code
    assert SECRET not in response.text


async def test_a_request_over_its_time_is_503_with_retry_after() -> None:
    async with api_client(Held(), request_timeout_s=0.05) as http:
        response = await http.post("/metrics/readability", json={"texts": ["A cat."]})
    assert response.status_code == 503
    assert response.json()["error"]["code"] == "timeout"
    assert response.headers["retry-after"] == "2"


@pytest.mark.parametrize(
    ("age", "status"),
    [("29.95", 503), ("30", 503), ("0", 200), ("-5", 200), ("nan", 200), ("?", 200)],
)
async def test_a_repeated_request_has_what_is_left_of_its_time(age: str, status: int) -> None:
    class Brief(LightBackend):
        async def readability(self, texts: Sequence[str]) -> list[Readability]:
            await asyncio.sleep(0.1)
            return await super().readability(texts)

    async with api_client(Brief(), request_timeout_s=30) as http:
        response = await http.post(
            "/metrics/readability", json={"texts": ["A cat."]}, headers={AGE_HEADER: age}
        )
    assert response.status_code == status
    if status == 503:
        assert response.json()["error"]["code"] == "timeout"
        assert int(response.headers["retry-after"]) >= 1


async def test_draining_refuses_new_requests_and_counts_the_old() -> None:
    traffic, backend = Traffic(), Held()
    async with api_client(backend, traffic) as http:
        body = {"texts": ["A cat."]}
        old = asyncio.ensure_future(http.post("/metrics/readability", json=body))
        await backend.arrived.wait()
        assert traffic.in_flight == 1
        traffic.draining = True
        refused = await http.post("/metrics/readability", json=body)
        assert refused.status_code == 503
        assert refused.json()["error"]["code"] == "shutting_down"
        assert int(refused.headers["retry-after"]) >= 1
        backend.go.set()
        assert (await old).status_code == 200
        assert traffic.in_flight == 0


async def ask(app: Any, method: str, path: str, body: Any, **headers: str) -> list[Message]:
    """What the bare application sends; `body` is its `receive`."""
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    raw = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    scope = {"type": "http", "method": method, "path": path, "headers": raw, "query_string": b""}
    await app(scope, body, send)
    return sent


async def unread() -> Message:
    raise AssertionError("the body was asked for")


def code_of(sent: list[Message]) -> str:
    return str(json.loads(sent[1]["body"])["error"]["code"])


async def test_a_body_that_does_not_arrive_in_time_is_503_with_retry_after() -> None:
    parts = iter([{"type": "http.request", "body": b'{"te', "more_body": True}])

    async def stuck() -> Message:
        for part in parts:
            return part
        await asyncio.Event().wait()
        raise AssertionError

    traffic = Traffic()
    app = create_app(LightBackend(), load_settings(), traffic)
    sent = await asyncio.wait_for(
        ask(app, "POST", "/loss", stuck, content_length="900", x_request_timeout="0.05"), 10
    )
    assert sent[0]["status"] == 503
    assert dict(sent[0]["headers"])[b"retry-after"] == b"2"
    assert code_of(sent) == "timeout"
    assert traffic.in_flight == 0


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS"])
@pytest.mark.parametrize("path", ["/healthz", "/loss", "/none"])
async def test_what_only_asks_has_no_body_and_none_is_read(method: str, path: str) -> None:
    app = create_app(LightBackend(), load_settings(), Traffic())
    for headers in ({"content_length": "8388608"}, {"transfer_encoding": "chunked"}):
        sent = await ask(app, method, path, unread, **headers)
        assert sent[0]["status"] == 400
        assert method == "HEAD" or code_of(sent) == "unexpected_body"
    fine = await ask(app, method, path, unread, content_length="0")
    assert fine[0]["status"] in (200, 404, 405)


async def test_a_body_that_says_it_is_too_large_is_413_also_while_the_server_is_full() -> None:
    backend = Held()
    app = create_app(
        backend,
        load_settings(max_pending_requests=1, max_body_bytes=1024),
        Traffic(),
    )
    transport = httpx.ASGITransport(app=app)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as http:
        body = {"texts": ["A cat."]}
        held = asyncio.ensure_future(http.post("/metrics/readability", json=body))
        while app.traffic.in_flight == 0:
            await asyncio.sleep(0.001)
        sent = await ask(app, "POST", "/metrics/readability", unread, content_length="1025")
        assert sent[0]["status"] == 413
        assert code_of(sent) == "body_too_large"
        # Nor does it shorten anybody's queue, as a refusal for want of room does.
        (route,) = app.gates[-1]._loads.values()  # type: ignore[attr-defined]
        assert route.crowded_until < 0
        assert (await http.post("/metrics/readability", json=body)).status_code == 503
        assert route.crowded_until > 0
        held.cancel()


@pytest.mark.parametrize("given", ["1 caller=0123", "a" * 50_000, "a\tb", "", None])
async def test_an_id_that_would_forge_the_log_is_not_in_it(
    given: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="ray.serve")
    async with api_client(LightBackend()) as http:
        headers = {} if given is None else {"X-Request-ID": given}
        answer = await http.get("/livez", headers=headers)
    assert answer.status_code == 200
    (line,) = (one.getMessage() for one in caplog.records if "/livez" in one.getMessage())
    assert line.endswith(" id=- caller=-")
    assert line.count("caller=") == 1


async def test_a_good_id_is_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", logger="ray.serve")
    async with api_client(LightBackend()) as http:
        await http.get("/livez", headers={"X-Request-ID": "run-7.a_b:c/d+e=f@g"})
    assert "id=run-7.a_b:c/d+e=f@g caller=-" in caplog.text


@pytest.mark.parametrize("leaves", [False, True], ids=["out of time", "client gone"])
async def test_explaining_ends_between_two_texts_once_nobody_waits(
    leaves: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    explain, explained = serializers.explain, 0

    def slow(*given: Any) -> Any:
        nonlocal explained
        explained += 1
        time.sleep(0.02)
        return explain(*given)

    monkeypatch.setattr(serializers, "explain", slow)
    texts = ["Aspirin lowers the risk of stroke."] * 100
    body = {"texts_original": texts, "texts_generated": texts, "explain": True}
    async with api_client(LightBackend(), request_timeout_s=30 if leaves else 0.3) as http:
        asked = asyncio.ensure_future(http.post("/evaluate", json=body))
        if leaves:
            while not explained:
                await asyncio.sleep(0.01)
            asked.cancel()
            await asyncio.wait([asked])
        else:
            assert (await asked).json()["error"]["code"] == "timeout"
    before = explained
    await asyncio.sleep(0.2)
    assert explained <= before + 1 < len(texts)


@pytest.mark.parametrize(
    ("service", "path", "body"),
    [
        ("generator", "/metrics/relevance", {"texts_original": ["a"], "texts_generated": ["a"]}),
        ("generator", "/loss", {"texts_original": ["a"], "texts_generated": ["a"]}),
        ("generator", "/evaluate", {"texts_original": ["a"]}),
        ("metrics", "/generate", {"text": "a"}),
    ],
)
async def test_half_a_server_says_which_half_is_missing(
    service: str, path: str, body: dict[str, Any]
) -> None:
    backend = LightBackend()
    backend.services = frozenset({service})
    async with api_client(backend) as http:
        response = await http.post(path, json=body)
        routes = (await http.get("/openapi.json")).json()["paths"]
    assert response.status_code == 404
    assert response.json()["error"]["code"] == "not_served"
    assert path not in routes


async def test_cors_opens_for_the_origins_of_the_setting_only() -> None:
    async with api_client(
        LightBackend(), cors_origins="https://a.example, https://b.example"
    ) as http:
        ours = await http.get("/healthz", headers={"Origin": "https://b.example"})
        other = await http.get("/healthz", headers={"Origin": "https://evil.example"})
    assert ours.headers["access-control-allow-origin"] == "https://b.example"
    assert "access-control-allow-origin" not in other.headers


async def test_cors_is_closed_by_default() -> None:
    origin = {"Origin": "https://a.example"}
    preflight = {**origin, "Access-Control-Request-Method": "POST"}
    async with api_client(LightBackend()) as http:
        answers = [
            await http.get("/healthz", headers=origin),
            await http.post("/metrics/readability", json={"texts": ["A cat."]}, headers=origin),
            await http.options("/metrics/readability", headers=preflight),
        ]
    assert [answer.status_code for answer in answers] == [200, 200, 405]
    for answer in answers:
        assert not [name for name in answer.headers if name.startswith("access-control")]


async def test_human_texts_are_targets_where_the_server_is_set_so() -> None:
    body = {"texts_original": ["A cat sat."], "texts_generated": ["A cat sat. It was big."]}
    async with api_client(LightBackend(per_sample=True)) as http:
        against_itself = await http.post(
            "/loss", json={**body, "texts_human": body["texts_generated"]}
        )
        against_corpus = await http.post("/loss", json=body)
    assert against_itself.json() == 0
    assert against_corpus.json() > 0


class Replica:
    """Raises each error in turn, then answers."""

    def __init__(self, *errors: Exception) -> None:
        self.errors = list(errors)
        self.calls = 0

    async def send(self) -> str:
        self.calls += 1
        if self.errors:
            raise self.errors.pop(0)
        return "answer"


async def test_a_dead_replicas_call_goes_to_another() -> None:
    replica = Replica(ActorDiedError(), ActorDiedError())
    assert await call(replica.send) == "answer"
    assert replica.calls == 3


async def test_an_answer_whose_node_died_before_it_was_fetched_is_computed_again() -> None:
    replica = Replica(OwnerDiedError("00", "", ""))
    assert await call(replica.send) == "answer"
    assert replica.calls == 2


async def test_replicas_that_keep_dying_are_503(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote_calls, "PAUSE_S", 0.01)
    replica = Replica(*[ActorDiedError()] * ATTEMPTS)
    with pytest.raises(Unavailable):
        await call(replica.send)
    assert replica.calls == ATTEMPTS


async def test_a_full_queue_is_503_at_once() -> None:
    replica = Replica(BackPressureError(num_queued_requests=9, max_queued_requests=9))
    with pytest.raises(Unavailable) as caught:
        await call(replica.send)
    assert caught.value.code == "overloaded"
    assert replica.calls == 1


async def test_a_users_error_crosses_processes_whole_and_is_not_retried() -> None:
    error = InvalidInput("too long", field="text", code="input_too_long")
    replica = Replica(RayTaskError("f", "traceback", error).as_instanceof_cause())
    with pytest.raises(InvalidInput) as caught:
        await call(replica.send)
    assert (caught.value.code, caught.value.field) == ("input_too_long", "text")
    assert replica.calls == 1


async def test_one_poisonous_request_does_not_fail_its_batch_mates() -> None:
    def work(items: Sequence[int]) -> list[float]:
        return [1 / item for item in items]

    results = await run_batch(work, [1, 0, 2])
    assert results[0] == 1
    assert results[2] == 0.5
    assert isinstance(results[1], MetricFailed)


async def test_a_batch_keeps_the_users_own_error() -> None:
    def work(items: Sequence[str]) -> list[str]:
        if "bad" in items:
            raise InvalidInput("bad", field="text", code="input_too_long")
        return list(items)

    good, bad = await run_batch(work, ["good", "bad"])
    assert good == "good"
    assert isinstance(bad, PlainMedError)
    assert bad.code == "input_too_long"


def test_batch_settings_are_checked() -> None:
    assert BatchConfig.model_validate({}).batch_chars > 0
    with pytest.raises(ValueError, match="batch_charz"):
        BatchConfig.model_validate({"batch_charz": 1})


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"services": []}, "services: .*at least 1"),
        ({"services": ["gpu"]}, "services"),
        ({"setings": {}}, "setings"),
        ({"settings": {"port": "x"}}, "PORT"),
        ({"settings": {"alignscore_eval_mode": "best"}}, "ALIGNSCORE_EVAL_MODE"),
        ({"settings": {"no_such": 1}}, "NO_SUCH"),
    ],
)
def test_a_wrong_config_stops_the_start_by_name(arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        build(arguments)


def test_the_environment_wins_over_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    assert load_settings(top_p=0.5).top_p == 0.5
    monkeypatch.setenv("TOP_P", "0.7")
    assert load_settings(top_p=0.5).top_p == 0.7
    monkeypatch.setenv("TOP_P", "2")
    with pytest.raises(ConfigError, match="TOP_P"):
        load_settings()


def test_the_port_comes_from_the_flag_then_the_environment_then_the_file(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(
        "http_options: {port: 9001}\napplications: [{import_path: 'serve_app.app:build'}]\n"
    )
    monkeypatch.delenv("PORT", raising=False)
    assert load_document(config)["http_options"]["port"] == 9001
    monkeypatch.setenv("PORT", "9002")
    assert load_document(config)["http_options"]["port"] == 9002
    assert load_document(config, port=9003)["http_options"]["port"] == 9003


def test_a_config_that_is_no_serve_config_is_refused(tmp_path: Any) -> None:
    for text in ("[]", "applications: []", "a: [", "applications: {}"):
        config = tmp_path / "config.yaml"
        config.write_text(text)
        with pytest.raises(ConfigError, match=r"config\.yaml"):
            load_document(config)


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/livez", "/", "/page/app.js", "/docs"])
async def test_head_is_answered_as_get_without_the_body(path: str) -> None:
    async with api_client() as http:
        got, head = await http.get(path), await http.head(path)
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers == got.headers


async def test_a_path_with_a_slash_at_its_end_is_served_and_never_sent_to_another_host() -> None:
    pair = {"texts_original": ["A cat sat."], "texts_generated": ["A cat."]}
    async with api_client() as http:
        for method, path, body in (("POST", "/loss/", pair), ("GET", "/healthz/", None)):
            answer = await http.request(method, path, json=body, headers={"host": "evil.example"})
            assert answer.status_code == 200
        missing = await http.post("/nothing/", json=pair, headers={"host": "evil.example"})
    assert missing.status_code == 404


@pytest.mark.parametrize("service", ["metrics", "generator"])
async def test_a_slash_at_the_end_of_a_path_opens_no_service_to_a_key(service: str) -> None:
    other = {"metrics": "/generate", "generator": "/loss"}[service]
    made = new_key(services=[service])
    async with api_client(api_keys=dump_keys([made.entry])) as http:
        for path in (other, f"{other}/"):
            answer = await http.post(path, json={}, headers={"x-api-key": made.key})
            assert answer.status_code == 403


@pytest.mark.parametrize(
    ("library", "field"),
    [
        ("claims[1]", "texts_generated[1]"),
        ("claims[2]", "texts_human[0]"),
        ("contexts[3]", "texts_original[1]"),
        ("texts_generated[3]", "texts_human[1]"),
        ("weights", "weights"),
    ],
)
async def test_an_error_names_a_field_of_the_request_and_none_of_the_library(
    library: str, field: str
) -> None:
    class Picky(LightBackend):
        async def evaluate(self, *_: Any) -> Any:
            raise InvalidInput("no", field=library)

    body = {name: ["A cat.", "A dog."] for name in ("texts_original", "texts_generated")}
    async with api_client(Picky()) as http:
        answer = await http.post("/loss", json={**body, "texts_human": ["A cow.", "A pig."]})
    assert answer.json()["error"]["field"] == field
