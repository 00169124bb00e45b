"""Alive, ready, and what it has done: four routes that answer different questions."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import httpx
import pytest

from serve_app.api.app import create_app
from serve_app.api.auth.api_keys import dump_keys, new_key
from serve_app.api.backend import Component, Health, Replicas
from serve_app.api.endpoints import ENDPOINTS
from serve_app.api.middleware.request_guard import Traffic
from serve_app.api.request_stats import RequestStats, StatsWindow
from serve_app.core.settings import load_settings
from serve_app.metrics.targets import MEAN_KEYS, METRICS
from tests.support.backends import client_of
from tests.support.servers import TARGETS, LightBackend

TEXTS = {"texts": ["Aspirin makes a stroke less likely."]}
TABLES = {"distributions": {"relevance": {"n": 308}}, "probe": [0.1, 0.2, 0.3, 0.4, 0.5]}
CALIBRATED = {**TARGETS.to_dict(), "file": "mine.json", "corpus": "pairs.csv", "n": 308, **TABLES}


class Half(LightBackend):
    """One deployment has lost one of two replicas, another all of them."""

    asked = 0

    async def health(self) -> Health:
        self.asked += 1
        return Health(
            {"Factuality": Component(True, "align", "cpu"), "Loss": Component(False)},
            CALIBRATED,
            ["targets for relevance were made with other models"],
            {"Factuality": Replicas(1, 2), "Loss": Replicas(0, 1), "Gateway": Replicas(2, 2)},
        )


class Waiting(LightBackend):
    """Neither question is answered before both were asked."""

    def __init__(self) -> None:
        super().__init__()
        self.both = asyncio.Barrier(2)

    async def health(self) -> Health:
        await self.both.wait()
        return Health({"Loss": Component(True)})

    async def windows(self, own: StatsWindow) -> list[StatsWindow]:
        await self.both.wait()
        return [own]


class Two(LightBackend):
    """With another gateway, which has answered as much as this one."""

    async def windows(self, own: StatsWindow) -> list[StatsWindow]:
        return [own, own]


def client(
    backend: LightBackend | None = None, traffic: Traffic | None = None, **settings: Any
) -> httpx.AsyncClient:
    clock = iter(range(100_000))
    app = create_app(
        backend or LightBackend(),
        load_settings(**settings),
        traffic or Traffic(),
        recent=RequestStats(lambda: next(clock) / 10),
    )
    return client_of(app)


async def test_a_process_is_alive_whatever_its_models_do_and_asks_nobody() -> None:
    backend = Half()
    async with client(backend, Traffic(draining=True)) as http:
        alive = await http.get("/livez")
        ready = await http.get("/readyz")
    assert (alive.status_code, alive.json()["status"]) == (200, "alive")
    assert ready.status_code == 503  # draining: load balancers send no more
    assert backend.asked == 0


async def test_not_ready_names_what_is_waited_for_and_when_to_ask_again() -> None:
    async with client(Half()) as http:
        answer = await http.get("/readyz")
        whole = await http.get("/healthz")
    assert answer.status_code == whole.status_code == 503
    assert answer.json() == {"status": "unavailable", "waiting": ["Loss"]}
    assert answer.headers["retry-after"] == "2"


async def test_health_keeps_the_numbers_of_the_targets_and_leaves_the_calibrations_tables() -> None:
    async with client(Half()) as http:
        targets = (await http.get("/healthz")).json()["targets"]
    kept = {key: value for key, value in CALIBRATED.items() if key not in TABLES}
    assert kept.items() <= targets.items()
    assert not TABLES.keys() & targets.keys()


async def test_health_has_the_earlier_systems_names_too() -> None:
    async with client(Half()) as http:
        found = (await http.get("/healthz")).json()
    for name, key in zip(METRICS, MEAN_KEYS, strict=True):
        assert found["targets"][name] == round(CALIBRATED[key], 3)
    for name in ("relevance", "factuality", "readability"):
        assert found.get(name) == found["components"].get(name.title())


async def test_status_tells_replicas_wanted_and_ready_the_gateways_too() -> None:
    async with client(Half()) as http:
        answer = await http.get("/status")
    assert answer.status_code == 503
    found = answer.json()
    assert found["deployments"]["Factuality"]["replicas_ready"] == 1
    assert found["deployments"]["Factuality"]["replicas_wanted"] == 2
    assert found["deployments"]["Gateway"]["replicas_ready"] == 2
    assert found["targets"]["name"] == "mine.json"
    assert found["targets"]["n"] == 308
    assert found["warnings"]


async def test_status_waits_for_health_and_for_the_other_gateways_at_once() -> None:
    async with client(Waiting()) as http:
        async with asyncio.timeout(30):
            assert (await http.get("/status")).status_code == 200


async def test_targets_of_other_numbers_have_another_fingerprint_and_other_notes_the_same() -> None:
    async def fingerprint(**changed: Any) -> str:
        class Changed(Half):
            async def health(self) -> Health:
                return Health({"Loss": Component(True)}, {**CALIBRATED, **changed})

        async with client(Changed()) as http:
            return str((await http.get("/status")).json()["targets"]["fingerprint"])

    first = await fingerprint()
    assert await fingerprint(corpus="renamed.csv") == first
    assert await fingerprint(TARGET_FKGL=9.0) != first
    assert await fingerprint(models={"relevance": "other"}) != first


@pytest.mark.parametrize(("backend", "gateways"), [(LightBackend(), 1), (Two(), 2)])
async def test_rates_are_of_all_gateways_by_route(backend: LightBackend, gateways: int) -> None:
    async with client(backend) as http:
        for body in (TEXTS, TEXTS, {"texts": [""]}):
            await http.post("/metrics/readability", json=body)
        await http.get("/healthz")
        found = (await http.get("/status")).json()
    assert found["gateways_heard"] == gateways
    assert set(found["routes"]) == {"/metrics/readability"}
    total = found["total"]
    assert total == found["routes"]["/metrics/readability"]
    assert total["requests"] == 3 * gateways
    # Of 1 s at least, so that a server a moment old shows no absurd rate.
    assert found["window_s"] < 1
    assert total["requests_per_s"] == 3 * gateways
    assert total["refused_per_s"] == gateways
    assert total["failed_per_s"] == 0
    assert 0 < total["p50_s"] <= total["p99_s"]


async def test_health_is_open_and_status_asks_for_the_key(tmp_path: Path) -> None:
    made = new_key("watcher")
    file = tmp_path / "keys.json"
    file.write_text(dump_keys([made.entry]), encoding="utf-8")
    async with client(api_keys_file=str(file)) as http:
        for path in ("/livez", "/readyz", "/healthz"):
            assert (await http.get(path)).status_code == 200
        assert (await http.get("/status")).status_code == 401
        answer = await http.get("/status", headers={"authorization": f"Bearer {made.key}"})
    assert answer.status_code == 200


async def test_the_calls_that_are_counted_are_the_routes_that_compute() -> None:
    async with client() as http:
        paths = (await http.get("/openapi.json")).json()["paths"]
    assert {path for path, operations in paths.items() if "post" in operations} == set(ENDPOINTS)


async def test_healthz_has_the_earlier_systems_shape_beside_its_own() -> None:
    async with client() as http:
        found = (await http.get("/healthz")).json()
    assert found["relevance"] == found["components"]["Relevance"]
    assert found["relevance"]["ready"] is True
    assert found["targets"]["TARGET_FKGL"] > 0
    assert "factuality" not in found  # the light backend has no such deployment
