"""The HTTP API: routes, limits and errors. No maths, no models, no Ray.

`create_app` wraps any `Backend`; the Serve deployment gives it one made of handles.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any, TypeVar

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response, StreamingResponse
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware

from serve_app import __version__, schemas
from serve_app.backend import Backend
from serve_app.errors import InvalidInput, NotServed, PlainMedError, Unavailable
from serve_app.evaluation import Evaluation
from serve_app.generation.protocol import GenerationParams, Summary
from serve_app.limits import RequestGuard, Traffic, error_body, logger
from serve_app.loss import check_weights
from serve_app.metrics.text import require_pairs, require_text
from serve_app.responses import evaluation_out, summary_out
from serve_app.settings import Settings

Result = TypeVar("Result")

_HTTP_CODES = {404: "not_found", 405: "method_not_allowed", 400: "invalid_body"}
_ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": schemas.ErrorResponse, "description": text}
    for status, text in {
        400: "The body is not JSON or not UTF-8.",
        404: "The server was started without this service.",
        413: "The body, a text or the number of texts is over a limit.",
        422: "A field is missing, unknown or cannot be scored; `field` names it.",
        500: "A metric or summary could not be computed.",
        503: "Overloaded, starting or shutting down; retry after Retry-After seconds.",
    }.items()
}


def create_app(backend: Backend, settings: Settings, traffic: Traffic) -> RequestGuard:
    """The whole ASGI application: the API inside the guard that ids, counts and limits requests."""
    return RequestGuard(
        create_api(backend, settings),
        max_body_bytes=settings.max_body_bytes,
        retry_after_s=settings.retry_after_s,
        traffic=traffic,
    )


def create_api(backend: Backend, settings: Settings) -> FastAPI:
    """The routes over `backend`; its OpenAPI document describes exactly what is served."""
    app = FastAPI(
        title="PlainMed",
        version=__version__,
        description="Scores and generates plain-language summaries of medical text.",
    )
    _add_errors(app, settings)
    _add_health(app, backend, settings)
    if "metrics" in backend.services:
        _add_metrics(app, backend, settings)
    if "generator" in backend.services:
        _add_generate(app, backend, settings)
    _add_missing(app, backend)
    origins = [part.strip() for part in settings.cors_origins.split(",") if part.strip()]
    if origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=origins,
            allow_methods=["GET", "POST"],
            allow_headers=["content-type", "x-request-id"],
            expose_headers=["x-request-id", "retry-after"],
        )
    return app


def _add_errors(app: FastAPI, settings: Settings) -> None:
    """Every error, expected or not, in the one JSON shape."""

    def answer(status: int, code: str, message: str, field: str | None = None) -> Response:
        headers = {"Retry-After": str(settings.retry_after_s)} if status == 503 else None
        return JSONResponse(error_body(code, message, field), status, headers)

    @app.exception_handler(PlainMedError)
    async def on_plainmed_error(request: Request, error: PlainMedError) -> Response:
        if error.status >= 500:
            logger.error("%s: %s", error.code, error.message)
        return answer(error.status, error.code, error.message, error.field)

    @app.exception_handler(RequestValidationError)
    async def on_validation_error(request: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        if first["type"] == "json_invalid":
            return answer(400, "invalid_json", f"the body is not JSON: {first['ctx']['error']}")
        field = _field_name(first["loc"])
        if first["type"] == "extra_forbidden":
            return answer(422, "unknown_field", f"there is no field {field}", field)
        if first["type"] == "missing":
            if field is None:
                return answer(422, "missing_body", "send a JSON body")
            return answer(422, "missing_field", f"{field} is required", field)
        if field is None:
            message = "the body must be a JSON object, sent as application/json"
            return answer(422, "invalid_input", message)
        return answer(422, "invalid_input", f"{field}: {first['msg']}", field)

    @app.exception_handler(HTTPException)
    async def on_http_error(request: Request, error: HTTPException) -> Response:
        code = _HTTP_CODES.get(error.status_code, "http_error")
        message = str(error.detail)
        if error.status_code == 404:
            message = f"there is no route {request.url.path}; see /docs"
        elif error.status_code == 405:
            message = f"{request.url.path} does not take {request.method}; see /docs"
        response = answer(error.status_code, code, message)
        response.headers.update(error.headers or {})
        return response

    @app.exception_handler(Exception)
    async def on_unexpected(request: Request, error: Exception) -> Response:
        # The message may hold the user's text, so it stays out of the answer.
        logger.exception("unexpected %s", type(error).__name__)
        return answer(500, "internal_error", "an internal error; see the server's log by its id")


def _field_name(location: Sequence[int | str]) -> str | None:
    """`("body", "texts", 0)` as `texts[0]`; None for the body itself."""
    name = ""
    for part in location[1:]:
        if isinstance(part, int):
            name += f"[{part}]"
        else:
            name += f".{part}" if name else part
    return name or None


def _add_health(app: FastAPI, backend: Backend, settings: Settings) -> None:
    @app.get("/healthz", response_model=schemas.HealthResponse)
    async def healthz() -> Response:
        """200 when every built deployment is ready, else 503 with the same body."""
        health = await backend.health()
        body = schemas.HealthResponse(
            status="ready" if health.ready else "unavailable",
            version=__version__,
            services=sorted(backend.services),
            components={
                name: schemas.ComponentHealth(
                    ready=part.ready, model=part.model, device=part.device
                )
                for name, part in health.components.items()
            },
            targets=health.targets,
            warnings=health.warnings,
        )
        headers = None if health.ready else {"Retry-After": str(settings.retry_after_s)}
        return JSONResponse(body.model_dump(), 200 if health.ready else 503, headers)


def _add_metrics(app: FastAPI, backend: Backend, settings: Settings) -> None:
    async def within(work: Awaitable[Result]) -> Result:
        return await _within(work, settings)

    def check_pairs(originals: list[str], generated: list[str]) -> None:
        _check_limits(originals, "texts_original", settings)
        _check_limits(generated, "texts_generated", settings)
        require_pairs(originals, generated, "texts_original", "texts_generated")

    def check_human(originals: list[str], human: list[str] | None) -> None:
        if human is not None:
            _check_limits(human, "texts_human", settings)
            require_pairs(originals, human, "texts_original", "texts_human")

    @app.post("/metrics/relevance", responses=_ERRORS)
    async def relevance(body: schemas.PairsRequest) -> schemas.RelevanceResponse:
        """BERTScore F1 of each generated text against its original."""
        check_pairs(body.texts_original, body.texts_generated)
        scores = await within(backend.relevance(body.texts_original, body.texts_generated))
        return schemas.RelevanceResponse(
            relevance=scores.values, model=scores.model, device=scores.device
        )

    @app.post("/metrics/factuality", responses=_ERRORS)
    async def factuality(body: schemas.PairsRequest) -> schemas.FactualityResponse:
        """AlignScore of each generated text against its original."""
        check_pairs(body.texts_original, body.texts_generated)
        scores = await within(backend.factuality(body.texts_original, body.texts_generated))
        return schemas.FactualityResponse(
            factuality=scores.values, model=scores.model, device=scores.device
        )

    @app.post("/metrics/readability", responses=_ERRORS)
    async def readability(body: schemas.TextsRequest) -> schemas.ReadabilityResponse:
        """FKGL, SMOG and Dale-Chall of each text."""
        _check_texts(body.texts, "texts", settings)
        results = await within(backend.readability(body.texts))
        return schemas.ReadabilityResponse(
            fkgl=[item.fkgl for item in results],
            smog=[item.smog for item in results],
            dale_chall=[item.dale_chall for item in results],
        )

    @app.post("/loss", responses=_ERRORS)
    async def loss(body: schemas.LossRequest) -> float | list[float]:
        """How far each text is from the targets, in [0, 1]: a number for one text, else a list."""
        check_weights(body.weights)
        check_pairs(body.texts_original, body.texts_generated)
        check_human(body.texts_original, body.texts_human)
        results = await within(
            backend.evaluate(
                body.texts_original, body.texts_generated, body.texts_human, body.weights
            )
        )
        losses = [item.loss for item in results]
        return losses[0] if len(losses) == 1 else losses

    @app.post("/evaluate", responses=_ERRORS)
    async def evaluate(body: schemas.EvaluateRequest) -> schemas.EvaluateResponse:
        """Metrics, errors, loss, sentence-level factuality and truncation of each text."""
        weights = check_weights(body.weights)
        _check_texts(body.texts_original, "texts_original", settings)
        check_human(body.texts_original, body.texts_human)
        generated = body.texts_generated
        if generated is not None:
            check_pairs(body.texts_original, generated)
        elif "generator" not in backend.services:
            raise InvalidInput(
                "give texts_generated: this server runs without the generator",
                field="texts_generated",
            )

        async def work() -> tuple[list[str], list[Evaluation]]:
            texts = generated
            if texts is None:
                params = [_params(schemas.Sampling(), settings)] * len(body.texts_original)
                summaries = await backend.generate(body.texts_original, params)
                texts = [summary.text for summary in summaries]
            results = await backend.evaluate(
                body.texts_original, texts, body.texts_human, body.weights
            )
            return texts, results

        texts, results = await within(work())
        return schemas.EvaluateResponse(
            results=[evaluation_out(text, item) for text, item in zip(texts, results, strict=True)],
            weights=weights.tolist(),
            models=await within(backend.models()),
        )


def _add_generate(app: FastAPI, backend: Backend, settings: Settings) -> None:
    @app.post(
        "/generate",
        response_model=schemas.GenerateResponse,
        responses={**_ERRORS, 200: {"content": {"text/event-stream": {}}}},
    )
    async def generate(body: schemas.GenerateRequest) -> Response:
        """A plain-language summary; with `stream: true`, server-sent events.

        A stream sends `data: {"text": piece}` events, then one `event: done` whose data is the
        usual answer, or one `event: error` with the usual error body.
        """
        _check_texts([body.text], "text", settings)
        params = _params(body, settings)
        if not body.stream:
            summaries = await _within(backend.generate([body.text], [params]), settings)
            return JSONResponse(summary_out(summaries[0]).model_dump())
        pieces = backend.stream(body.text, params)
        # The first piece is awaited here, so that a refused text is a 4xx and not a broken stream.
        first = await _within(anext(pieces), settings)
        return StreamingResponse(
            _events(first, pieces),
            media_type="text/event-stream",
            headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"},
        )


async def _events(first: str | Summary, rest: AsyncIterator[str | Summary]) -> AsyncIterator[str]:
    """The stream as server-sent events, ended by exactly one `done` or `error`."""
    item = first
    try:
        while isinstance(item, str):
            yield f"data: {json.dumps({'text': item})}\n\n"
            item = await anext(rest)
        yield f"event: done\ndata: {summary_out(item).model_dump_json()}\n\n"
    except PlainMedError as error:
        yield _error_event(error.code, error.message, error.field)
    except Exception as error:  # the status is sent, so this event is the only way left to say so
        logger.error("a stream failed: %s", type(error).__name__)
        yield _error_event("internal_error", "an internal error ended the stream")


def _error_event(code: str, message: str, field: str | None = None) -> str:
    return f"event: error\ndata: {json.dumps(error_body(code, message, field))}\n\n"


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


async def _within(work: Awaitable[Result], settings: Settings) -> Result:
    """Awaits `work` for at most the request's time."""
    try:
        async with asyncio.timeout(settings.request_timeout_s):
            return await work
    except TimeoutError:
        raise Unavailable(
            f"no answer within {settings.request_timeout_s:g} s; send fewer texts a request, "
            "or try again",
            code="timeout",
        ) from None


def _check_limits(texts: Sequence[str], field: str, settings: Settings) -> None:
    if len(texts) > settings.max_texts:
        raise _TooLarge(
            f"{len(texts)} texts are over the limit of {settings.max_texts} a request; "
            "send them in several",
            field=field,
            code="too_many_texts",
        )
    for index, text in enumerate(texts):
        if len(text) > settings.max_text_chars:
            raise _TooLarge(
                f"the text has {len(text)} characters; the limit is {settings.max_text_chars}",
                field=field if field == "text" else f"{field}[{index}]",
                code="text_too_long",
            )


class _TooLarge(InvalidInput):
    code = "too_large"
    status = 413


def _check_texts(texts: Sequence[str], field: str, settings: Settings) -> None:
    _check_limits(texts, field, settings)
    if not texts:
        raise InvalidInput("give at least one text", field=field, code="empty_list")
    for index, text in enumerate(texts):
        require_text(text, field if field == "text" else f"{field}[{index}]")


def _params(body: schemas.Sampling, settings: Settings) -> GenerationParams:
    """The request's sampling settings over the server's defaults."""

    def chosen(value: Any, default: Any) -> Any:
        return default if value is None else value

    wanted = chosen(body.max_new_tokens, settings.max_new_tokens)
    if wanted > settings.max_new_tokens:
        raise InvalidInput(
            f"max_new_tokens is at most {settings.max_new_tokens} on this server",
            field="max_new_tokens",
        )
    return GenerationParams(
        max_new_tokens=wanted,
        temperature=chosen(body.temperature, settings.temperature),
        top_p=chosen(body.top_p, settings.top_p),
        repeat_penalty=chosen(body.repeat_penalty, settings.repeat_penalty),
        seed=body.seed,
    )
