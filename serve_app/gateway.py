"""The HTTP API: routes, limits and errors. No maths, no models, no Ray.

`create_app` wraps any `Backend`; the Serve deployment gives it one made of handles.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.routing import Route

from serve_app import __version__, candidates, schemas
from serve_app.access.exposure import host_gates
from serve_app.access.gate import access_gates, may_call
from serve_app.admission import load_gate
from serve_app.backend import Backend
from serve_app.checks import ERRORS, check_count, check_limits, check_texts, params_of, within
from serve_app.errors import InvalidInput, NotAllowed, NotServed, PlainMedError
from serve_app.gates import BodyGate, error_body
from serve_app.generate_routes import add_generate
from serve_app.generation.best_of import Candidates
from serve_app.health_routes import add_health
from serve_app.limits import ERROR_CODE, RequestGuard, Traffic, logger
from serve_app.loss import check_weights
from serve_app.metrics.text import require_pairs
from serve_app.page_routes import add_page
from serve_app.recent import Recent
from serve_app.reference_routes import add_reference
from serve_app.responses import chosen_out, evaluation_out, explanations_out, scored_of
from serve_app.safe_log import frames, keep_texts_out
from serve_app.settings import Settings
from serve_app.telemetry import Telemetry
from serve_app.traces import Tracer

Result = TypeVar("Result")

_LONGEST_NAME = 200
_HTTP_CODES = {404: "not_found", 405: "method_not_allowed", 400: "invalid_body"}


def create_app(
    backend: Backend,
    settings: Settings,
    traffic: Traffic,
    telemetry: Telemetry | None = None,
    *,
    recent: Recent | None = None,
    tracer: Tracer | None = None,
    host: str | None = None,
) -> RequestGuard:
    """The whole ASGI application: the API inside the guard that ids, counts and limits requests.

    `host` is the address listened on. On loopback, without keys, only what calls this machine by
    its own name is answered; None, where the address is not known: everybody.
    """
    keep_texts_out()
    recent = recent or Recent()
    api = create_api(backend, settings, recent)
    return RequestGuard(
        api,
        max_body_bytes=settings.max_body_bytes,
        retry_after_s=settings.retry_after_s,
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


def create_api(backend: Backend, settings: Settings, recent: Recent | None = None) -> FastAPI:
    """The routes over `backend`; its OpenAPI document describes exactly what is served.

    `recent` is what `/status` tells the rates of.
    """
    app = FastAPI(
        title="PlainMed",
        version=__version__,
        description="Scores and generates plain-language summaries of medical text.",
        docs_url=None,  # the page of reference_routes instead
        redoc_url=None,
    )
    _add_errors(app, settings)
    add_health(app, backend, settings, recent or Recent())
    if "metrics" in backend.services:
        _add_metrics(app, backend, settings)
    if "generator" in backend.services:
        add_generate(app, backend, settings)
    _add_missing(app, backend)
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


def _add_errors(app: FastAPI, settings: Settings) -> None:
    """Every error, expected or not, in the one JSON shape."""

    def answer(
        request: Request, status: int, code: str, message: str, field: str | None = None
    ) -> Response:
        request.scope[ERROR_CODE] = code
        headers = {"Retry-After": str(settings.retry_after_s)} if status == 503 else None
        return JSONResponse(error_body(code, message, field), status, headers)

    @app.exception_handler(PlainMedError)
    async def on_plainmed_error(request: Request, error: PlainMedError) -> Response:
        if error.status >= 500:
            logger.error("%s: %s", error.code, type(error).__name__)
        return answer(request, error.status, error.code, error.message, error.field)

    @app.exception_handler(RequestValidationError)
    async def on_validation_error(request: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        if first["type"] == "json_invalid":
            return answer(
                request, 400, "invalid_json", f"the body is not JSON: {first['ctx']['error']}"
            )
        field = _field_name(first["loc"])
        if first["type"] == "extra_forbidden":
            return answer(request, 422, "unknown_field", f"there is no field {field}", field)
        if first["type"] == "missing":
            if field is None:
                return answer(request, 422, "missing_body", "send a JSON body")
            return answer(request, 422, "missing_field", f"{field} is required", field)
        if field is None:
            message = "the body must be a JSON object, sent as application/json"
            return answer(request, 422, "invalid_input", message)
        return answer(request, 422, "invalid_input", f"{field}: {first['msg']}", field)

    @app.exception_handler(HTTPException)
    async def on_http_error(request: Request, error: HTTPException) -> Response:
        code = _HTTP_CODES.get(error.status_code, "http_error")
        message = str(error.detail)
        if error.status_code == 404:
            message = f"there is no route {request.url.path}; see /docs"
        elif error.status_code == 405:
            message = f"{request.url.path} does not take {request.method}; see /docs"
        response = answer(request, error.status_code, code, message)
        response.headers.update(error.headers or {})
        return response

    @app.exception_handler(Exception)
    async def on_unexpected(request: Request, error: Exception) -> Response:
        # The message may hold the user's text, so it stays out of the answer and the log.
        logger.error("unexpected %s", frames(error))
        return answer(
            request, 500, "internal_error", "an internal error; see the server's log by its id"
        )


def _field_name(location: Sequence[int | str]) -> str | None:
    """`("body", "texts", 0)` as `texts[0]`; None for the body itself."""
    name = ""
    for part in location[1:]:
        if isinstance(part, int):
            name += f"[{part}]"
        else:
            name += f".{part}" if name else part
    # A name that nobody asked for may be of any length, and half a character.
    return name[:_LONGEST_NAME].encode("utf-8", "backslashreplace").decode() or None


def _add_metrics(app: FastAPI, backend: Backend, settings: Settings) -> None:
    async def in_time(work: Awaitable[Result]) -> Result:
        return await within(work, settings)

    def check_pairs(originals: list[str], generated: list[str]) -> None:
        check_limits(originals, "texts_original", settings)
        check_limits(generated, "texts_generated", settings)
        require_pairs(originals, generated, "texts_original", "texts_generated")

    def check_human(originals: list[str], human: list[str] | None) -> None:
        if human is not None:
            check_limits(human, "texts_human", settings)
            require_pairs(originals, human, "texts_original", "texts_human")

    async def best_written(body: schemas.EvaluateRequest, n: int) -> list[Candidates]:
        """n summaries of each text by the generator, the best one first."""
        if "generator" not in backend.services:
            raise InvalidInput(
                "give texts_generated: this server runs without the generator",
                field="texts_generated",
            )
        originals = body.texts_original
        params = params_of(schemas.Sampling(seed=body.seed), settings)
        groups = await candidates.write(backend, originals, params, n, "texts_original")
        return await candidates.choose(backend, originals, groups, body.texts_human, body.weights)

    @app.post("/metrics/relevance", responses=ERRORS)
    async def relevance(body: schemas.PairsRequest) -> schemas.RelevanceResponse:
        """BERTScore F1 of each generated text against its original."""
        check_pairs(body.texts_original, body.texts_generated)
        scores = await in_time(backend.relevance(body.texts_original, body.texts_generated))
        return schemas.RelevanceResponse(
            relevance=scores.values, model=scores.model, device=scores.device
        )

    @app.post("/metrics/factuality", responses=ERRORS)
    async def factuality(body: schemas.PairsRequest) -> schemas.FactualityResponse:
        """AlignScore of each generated text against its original."""
        check_pairs(body.texts_original, body.texts_generated)
        scores = await in_time(backend.factuality(body.texts_original, body.texts_generated))
        return schemas.FactualityResponse(
            factuality=scores.values, model=scores.model, device=scores.device
        )

    @app.post("/metrics/readability", responses=ERRORS)
    async def readability(body: schemas.TextsRequest) -> schemas.ReadabilityResponse:
        """FKGL, SMOG and Dale-Chall of each text."""
        check_texts(body.texts, "texts", settings)
        results = await in_time(backend.readability(body.texts))
        return schemas.ReadabilityResponse(
            fkgl=[item.fkgl for item in results],
            smog=[item.smog for item in results],
            dale_chall=[item.dale_chall for item in results],
        )

    @app.post("/loss", responses=ERRORS)
    async def loss(body: schemas.LossRequest) -> float | list[float]:
        """How far each text is from the targets, in [0, 1]: a number for one text, else a list."""
        check_weights(body.weights)
        check_pairs(body.texts_original, body.texts_generated)
        check_human(body.texts_original, body.texts_human)
        results = await in_time(
            backend.evaluate(
                body.texts_original, body.texts_generated, body.texts_human, body.weights
            )
        )
        losses = [item.loss for item in results]
        return losses[0] if len(losses) == 1 else losses

    @app.post("/evaluate", responses=ERRORS)
    async def evaluate(body: schemas.EvaluateRequest, request: Request) -> schemas.EvaluateResponse:
        """Metrics, errors, loss, sentence-level factuality and truncation of each text.

        Without `texts_generated` the generator writes `n` candidates of each (default 1) and the
        one of least loss is evaluated.
        """
        weights = check_weights(body.weights)
        check_texts(body.texts_original, "texts_original", settings)
        check_human(body.texts_original, body.texts_human)
        if body.texts_generated is None:
            if not may_call(request.scope, "generator"):
                raise NotAllowed(
                    "this key may not call the generator; give texts_generated",
                    field="texts_generated",
                )
            n = check_count(body.n, len(body.texts_original), settings)
            ranked = await in_time(best_written(body, n))
            results = [chosen_out(group) for group in ranked]
            evaluations = [scored_of(group[0]) for group in ranked]
        else:
            for field, value in (("n", body.n), ("seed", body.seed)):
                if value is not None:
                    message = f"{field} is for the generator: leave out {field}, or texts_generated"
                    raise InvalidInput(message, field=field)
            check_pairs(body.texts_original, body.texts_generated)
            evaluations = await in_time(
                backend.evaluate(
                    body.texts_original, body.texts_generated, body.texts_human, body.weights
                )
            )
            pairs = zip(body.texts_generated, evaluations, strict=True)
            results = [evaluation_out(text, item) for text, item in pairs]
        if body.explain:
            gone = threading.Event()
            # Plain Python over whole texts: in a thread, so that other requests go on.
            explaining = asyncio.to_thread(
                explanations_out, body.texts_original, results, evaluations, gone.is_set
            )
            try:
                explanations = await in_time(explaining)
            finally:
                gone.set()  # a thread cannot be cancelled: out of time, or its client is gone
            for result, explanation in zip(results, explanations, strict=True):
                result.explanation = explanation
        return schemas.EvaluateResponse(
            results=results, weights=weights.tolist(), models=await in_time(backend.models())
        )


def _add_missing(app: FastAPI, backend: Backend) -> None:
    """Routes of a service this server was started without say so, and what to start."""
    absent = {
        "metrics": [
            "/metrics/relevance",
            "/metrics/factuality",
            "/metrics/readability",
            "/loss",
            "/evaluate",
        ],
        "generator": ["/generate"],
    }
    for service, paths in absent.items():
        if service in backend.services:
            continue

        for path in paths:
            app.add_api_route(path, _refuse(service), methods=["POST"], include_in_schema=False)


def _refuse(service: str) -> Callable[[], Awaitable[None]]:
    async def refuse() -> None:
        raise NotServed(
            f"this server runs without the {service}; start one with services: [{service}]"
        )

    return refuse
