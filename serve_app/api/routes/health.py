"""The routes that tell the server's state: `/livez`, `/readyz`, `/healthz`, and `/status` by key.

`/livez` asks nobody; `/readyz` and `/healthz` (its older name, with more in it) ask the backend
about every deployment; `/status` adds replicas and the rates of the last minutes.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI
from fastapi.responses import JSONResponse, Response

from serve_app import __version__
from serve_app.api.backend import Backend, Component, Health
from serve_app.api.middleware.gate import LIVE_PATH
from serve_app.api.request_stats import RequestStats, Tally, together
from serve_app.api.validation import ERRORS
from serve_app.core import schemas
from serve_app.core.errors import RETRY_AFTER_S
from serve_app.metrics.targets import MEAN_KEYS, METRICS

_FINGERPRINTED = ("TARGET_", "SIGMA_", "models")


def add_health(app: FastAPI, backend: Backend, recent: RequestStats) -> None:
    """Adds the four routes; `recent` are this gateway replica's statistics."""

    def answer(body: Any, health: Health) -> Response:
        headers = None if health.ready else {"Retry-After": str(RETRY_AFTER_S)}
        return JSONResponse(body.model_dump(), 200 if health.ready else 503, headers)

    @app.get(LIVE_PATH, responses=_responses())
    async def livez() -> schemas.LiveResponse:
        """200 while this process answers, whatever the models do: for a liveness probe."""
        return schemas.LiveResponse(status="alive", version=__version__)

    ready = _responses(schemas.ReadyResponse)

    @app.get("/readyz", response_model=schemas.ReadyResponse, responses=ready)
    async def readyz() -> Response:
        """200 when every built deployment is ready, else 503: for a readiness probe."""
        health = await backend.health()
        waiting = sorted(name for name, part in health.components.items() if not part.ready)
        failures = [one.failure for one in health.replicas.values() if one.failure]
        body = schemas.ReadyResponse(status=_status(health), waiting=waiting, failures=failures)
        return answer(body, health)

    healthy = _responses(schemas.HealthResponse)

    @app.get("/healthz", response_model=schemas.HealthResponse, responses=healthy)
    async def healthz() -> Response:
        """200 when every built deployment is ready, else 503 with the same body."""
        health = await backend.health()
        body = schemas.HealthResponse(
            status=_status(health),
            version=__version__,
            services=sorted(backend.services),
            components=health.components,
            targets=None if health.targets is None else _readable(health.targets),
            warnings=health.warnings,
            relevance=health.components.get("Relevance"),
            factuality=health.components.get("Factuality"),
            readability=health.components.get("Readability"),
        )
        return answer(body, health)

    known = {**_responses(schemas.StatusResponse), 401: ERRORS[401], 429: ERRORS[429]}

    @app.get("/status", response_model=schemas.StatusResponse, responses=known)
    async def status() -> Response:
        """Models, targets, replicas, and the rates of the last five minutes over all gateways.

        Rates count the routes that compute. The status code is that of `/readyz`.
        """
        # At once: each may wait for replicas that do not answer.
        health, windows = await asyncio.gather(backend.health(), backend.windows(recent.window()))
        window = together(windows)
        total = Tally()
        for tally in window.routes.values():
            total.add(tally)
        seconds = max(window.seconds, 1.0)
        body = schemas.StatusResponse(
            status=_status(health),
            version=__version__,
            services=sorted(backend.services),
            deployments=_deployments(health),
            targets=None if health.targets is None else _targets_in_use(health.targets),
            warnings=health.warnings,
            gateways_heard=len(windows),
            window_s=round(window.seconds, 1),
            total=_rates(total, seconds),
            routes={
                route: _rates(tally, seconds) for route, tally in sorted(window.routes.items())
            },
            tokens_per_s=round(window.tokens / seconds, 4),
        )
        return answer(body, health)


def _responses(body: Any = None) -> dict[int | str, dict[str, Any]]:
    """The documented answers beside 200; with a `body`, 503 may have that of a server not ready."""
    errors: dict[int | str, dict[str, Any]] = {}
    errors |= {status: ERRORS[status] for status in (400, 413, 500, 503)}
    if body is not None:
        errors[503] = {
            **ERRORS[503],
            "model": body | schemas.ErrorResponse,
            "description": "Not ready, or shutting down; retry after Retry-After seconds.",
        }
    return errors


def _status(health: Health) -> str:
    return "ready" if health.ready else "unavailable"


def _readable(targets: Mapping[str, Any]) -> dict[str, Any]:
    """The targets without the lists and tables that a calibration adds to its numbers, and the
    five means by the earlier system's names too, rounded as there."""
    kept = {
        key: value
        for key, value in targets.items()
        if key == "models" or not isinstance(value, dict | list)
    }
    for name, key in zip(METRICS, MEAN_KEYS, strict=True):
        if key in kept:
            kept.setdefault(name, round(kept[key], 3))
    return kept


def _targets_in_use(targets: Mapping[str, Any]) -> schemas.TargetsInUse:
    """The targets' names, and a fingerprint of their numbers and models."""

    def known(name: str, kind: type) -> Any:  # a targets file may hold anything there
        return targets[name] if isinstance(targets.get(name), kind) else None

    numbers = {key: targets[key] for key in targets if key.startswith(_FINGERPRINTED)}
    digest = hashlib.sha256(json.dumps(numbers, sort_keys=True).encode()).hexdigest()
    return schemas.TargetsInUse(
        name=known("file", str),
        corpus=known("corpus", str),
        n=known("n", int),
        fingerprint=f"sha256:{digest[:16]}",
    )


def _deployments(health: Health) -> dict[str, schemas.DeploymentStatus]:
    found = {}
    for name in sorted({*health.components, *health.replicas}):
        part = health.components.get(name, Component(ready=False))
        replicas = health.replicas.get(name)
        found[name] = schemas.DeploymentStatus(
            model=part.model,
            device=part.device,
            replicas_ready=int(part.ready) if replicas is None else replicas.ready,
            replicas_wanted=1 if replicas is None else replicas.wanted,
        )
    return found


def _rates(tally: Tally, seconds: float) -> schemas.Rates:
    def quantile(share: float) -> float | None:
        found = tally.quantile(share)
        return None if found is None else round(found, 4)

    return schemas.Rates(
        requests=tally.requests,
        requests_per_s=round(tally.requests / seconds, 4),
        refused_per_s=round(tally.refused / seconds, 4),
        failed_per_s=round(tally.failed / seconds, 4),
        p50_s=quantile(0.5),
        p99_s=quantile(0.99),
    )
