"""The HTTP API: routes, limits and errors. No maths, no models, no Ray.

`create_app` wraps any `Backend`; the Serve deployment gives it one made of handles.
"""

from __future__ import annotations

from functools import partial

from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware
from starlette.routing import Route

from serve_app import __version__
from serve_app.api.auth.api_key_gate import access_gates
from serve_app.api.auth.exposure import host_gates
from serve_app.api.backend import Backend
from serve_app.api.endpoints import ENDPOINTS
from serve_app.api.error_handlers import add_error_handlers
from serve_app.api.middleware.admission import load_gate
from serve_app.api.middleware.gate import BodyGate
from serve_app.api.middleware.request_guard import RequestGuard, Traffic
from serve_app.api.request_stats import RequestStats
from serve_app.api.routes.chat import MODELS_PATH, add_chat
from serve_app.api.routes.generate import add_generate
from serve_app.api.routes.health import add_health
from serve_app.api.routes.page import add_page
from serve_app.api.routes.reference import add_reference
from serve_app.api.routes.scoring import add_scoring
from serve_app.api.validation import BoundedRoute
from serve_app.core.errors import NotServed
from serve_app.core.observability.instruments import Telemetry
from serve_app.core.observability.log_redaction import keep_texts_out
from serve_app.core.observability.tracing import RequestTracer
from serve_app.core.schemas import Service
from serve_app.core.settings import Settings


def create_app(
    backend: Backend,
    settings: Settings,
    traffic: Traffic,
    telemetry: Telemetry | None = None,
    *,
    recent: RequestStats | None = None,
    tracer: RequestTracer | None = None,
    host: str | None = None,
) -> RequestGuard:
    """The whole ASGI application: the API inside the guard that counts and limits requests.

    `host` is the address listened on, None if unknown. On loopback, without keys, only calls that
    name this machine are answered.
    """
    keep_texts_out()
    recent = recent or RequestStats()
    api = create_api(backend, settings, recent)
    return RequestGuard(
        api,
        max_body_bytes=settings.max_body_bytes,
        timeout_s=settings.request_timeout_s,
        traffic=traffic,
        gates=[
            *host_gates(settings, host),
            *access_gates(settings),
            BodyGate(settings.max_body_bytes),
            load_gate(settings),
        ],
        telemetry=telemetry,
        recent=recent,
        tracer=tracer,
        routes=frozenset(route.path for route in api.routes if isinstance(route, Route)),
    )


def create_api(backend: Backend, settings: Settings, recent: RequestStats | None = None) -> FastAPI:
    """The routes over `backend`; its OpenAPI document describes exactly what is served.

    `recent` are the statistics shown by `/status`.
    """
    app = FastAPI(
        title="PlainMed",
        version=__version__,
        description="Scores and generates plain-language summaries of medical text.",
        docs_url=None,  # routes/reference.py instead
        redoc_url=None,
    )
    app.router.route_class = BoundedRoute
    app.router.redirect_slashes = False  # to the Host that the client names; the guard does it
    add_error_handlers(app)
    add_health(app, backend, recent or RequestStats())
    if "metrics" in backend.services:
        add_scoring(app, backend, settings)
    if "generator" in backend.services:
        add_generate(app, backend, settings)
        add_chat(app, backend, settings)
    _add_not_served(app, backend)
    add_page(app)
    add_reference(app)
    origins = [part.strip() for part in settings.cors_origins.split(",") if part.strip()]
    if origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=origins,
            allow_methods=["GET", "POST"],
            allow_headers=["content-type", "x-request-id", "authorization", "x-api-key"],
            expose_headers=["x-request-id", "retry-after"],
        )
    return app


def _add_not_served(app: FastAPI, backend: Backend) -> None:
    """Adds routes for the services that are not served, whose answer says what to start."""
    routes: list[tuple[str, str, Service]] = [
        *((path, "POST", service) for path, service in ENDPOINTS.items()),
        (MODELS_PATH, "GET", "generator"),
    ]
    for path, method, service in routes:
        if service not in backend.services:
            app.add_api_route(
                path, partial(_not_served, service), methods=[method], include_in_schema=False
            )


async def _not_served(service: str) -> None:
    raise NotServed(f"this server runs without the {service}; start one with services: [{service}]")
