"""The application's metrics: what is recorded, by whom, and that the dashboard shows all of it."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from typing import Any

import httpx
import pytest

from serve_app.core.context import RequestContext
from serve_app.core.errors import MetricFailed, Unavailable
from serve_app.core.observability.instruments import SPECS, Unrecorded, exported
from serve_app.serving.scheduling.fair_batcher import FairBatcher
from tests.support.backends import Failing, api_client
from tests.support.paths import ROOT
from tests.support.recording import Kept

TEXTS = {"texts": ["Aspirin makes a stroke less likely."]}
SECRET = "Jane Roe has lupus"


def broken() -> Failing:
    return Failing(MetricFailed(f"no number for {SECRET}"))


async def test_a_request_is_counted_with_its_route_status_time_and_size() -> None:
    kept = Kept()
    async with api_client(telemetry=kept) as http:
        await http.post("/metrics/readability", json=TEXTS)
    assert kept.of("plainmed_requests") == [(1, {"route": "/metrics/readability", "status": "200"})]
    [(seconds, _)] = kept.of("plainmed_request_seconds")
    assert 0 < seconds < 10
    [(size, _)] = kept.of("plainmed_request_bytes")
    assert size == len(httpx.Request("POST", "http://x", json=TEXTS).content)
    assert [value for value, _ in kept.of("plainmed_requests_under_way")] == [1, 0]
    assert not kept.of("plainmed_errors")


@pytest.mark.parametrize(
    ("path", "body", "settings", "code", "status"),
    [
        ("/metrics/readability", {"texts": [""]}, {}, "empty_text", "422"),
        ("/metrics/readability", {"texts": ["A text."], "more": 1}, {}, "unknown_field", "422"),
        ("/metrics/readability", TEXTS, {"max_body_bytes": 1024}, None, "200"),
        ("/nothing", TEXTS, {}, "not_found", "404"),
    ],
)
async def test_an_error_is_counted_by_its_code(
    path: str, body: Any, settings: dict[str, Any], code: str | None, status: str
) -> None:
    kept = Kept()
    async with api_client(telemetry=kept, **settings) as http:
        await http.post(path, json=body)
    assert kept.of("plainmed_errors") == ([] if code is None else [(1, {"code": code})])
    [(_, labels)] = kept.of("plainmed_requests")
    assert labels["status"] == status


async def test_what_the_guard_refuses_and_what_fails_is_counted_too() -> None:
    kept = Kept()
    async with api_client(broken(), telemetry=kept, max_body_bytes=1024) as http:
        await http.post("/metrics/readability", json={"texts": ["word " * 1000]})
        await http.post("/metrics/readability", json=TEXTS)
    assert [labels["code"] for _, labels in kept.of("plainmed_errors")] == [
        "body_too_large",
        "metric_failed",
    ]


async def test_times_are_of_answers_and_refusals_which_are_fast_do_not_hide_them() -> None:
    kept = Kept()
    async with api_client(broken(), telemetry=kept) as http:
        await http.post("/metrics/readability", json=TEXTS)
        await http.post("/metrics/readability", json={"texts": [""]})
    assert [labels["status"] for _, labels in kept.of("plainmed_requests")] == ["500", "422"]
    assert not kept.of("plainmed_request_seconds")


async def test_paths_that_clients_make_up_are_one_series_and_texts_are_in_none() -> None:
    kept = Kept()
    async with api_client(broken(), telemetry=kept) as http:
        for number in range(5):
            await http.get(f"/{SECRET}/{number}")
        await http.post("/metrics/readability", json={"texts": [SECRET]})
    assert {labels["route"] for _, labels in kept.of("plainmed_requests")} == {
        "other",
        "/metrics/readability",
    }
    assert "lupus" not in str(kept.seen)


async def test_batches_and_waits_are_recorded_and_nothing_is_left_waiting() -> None:
    kept = Kept()
    fair: FairBatcher[int, int] = FairBatcher(list, lambda _: 1, most=2, wait_s=0.0, telemetry=kept)
    await fair.submit([1, 2, 3], RequestContext())
    assert [value for value, _ in kept.of("plainmed_batch_items")] == [2, 1]
    assert len(kept.of("plainmed_queue_seconds")) == 1
    assert next(value for value, _ in kept.of("plainmed_queued_items")) == 3
    assert [value for value, _ in kept.of("plainmed_queued_items")][-1] == 0


async def test_the_wait_of_what_is_never_begun_is_recorded_too() -> None:
    kept, go = Kept(), threading.Event()

    def work(items: Sequence[int]) -> list[int]:
        go.wait(60)
        return list(items)

    fair = FairBatcher(work, lambda _: 1, most=1, wait_s=0.0, telemetry=kept)
    first = asyncio.create_task(fair.submit([1], RequestContext()))
    await asyncio.sleep(0.02)
    began = time.perf_counter()
    late = asyncio.create_task(fair.submit([2], RequestContext(deadline=time.time() + 0.1)))
    gone = asyncio.create_task(fair.submit([3], RequestContext()))
    await asyncio.sleep(0.05)
    gone.cancel()
    await asyncio.wait([gone])
    cancelled_after = time.perf_counter() - began
    await asyncio.sleep(0.1)
    go.set()
    await first
    with pytest.raises(Unavailable):
        await late
    waits = [value for value, _ in kept.of("plainmed_queue_seconds")]
    assert len(waits) == 3
    assert 0.05 <= waits[1] <= cancelled_after
    assert waits[2] >= 0.1


def test_a_metric_that_is_not_in_the_list_or_has_other_labels_is_refused() -> None:
    for name, labels in (
        ("plainmed_typo", {}),
        ("plainmed_loss", {"model": "x"}),
        ("plainmed_requests", {"route": "/"}),
    ):
        with pytest.raises(KeyError):
            Unrecorded().record(name, 1.0, **labels)


@pytest.mark.parametrize("script", ["dashboard.py", "alerts.py"])
def test_dashboard_and_alerts_are_those_their_scripts_write(script: str) -> None:
    done = subprocess.run(
        [sys.executable, f"scripts/{script}", "--check"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


def test_every_metric_of_the_list_is_on_the_dashboard() -> None:
    file = ROOT / "helm" / "plainmed" / "files" / "grafana-dashboard.json"
    expressions = " ".join(
        target["expr"]
        for panel in json.loads(file.read_text(encoding="utf-8"))["panels"]
        for target in panel["targets"]
    )
    shown = set(re.findall(r"ray_plainmed_\w+", expressions))
    for name in SPECS:
        assert any(one.startswith(exported(name)) for one in shown), name


def test_every_metric_of_the_list_is_documented() -> None:
    page = (ROOT / "docs" / "observability.md").read_text(encoding="utf-8")
    for name, spec in SPECS.items():
        labels = ", ".join(f"`{label}`" for label in spec.labels)
        assert f"| `{exported(name)}` | {labels} | {spec.help} ({spec.kind}) |" in page, name
