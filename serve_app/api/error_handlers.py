"""Turns every error, expected or not, into the one JSON shape of the API."""

from __future__ import annotations

from collections.abc import Sequence

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, RedirectResponse, Response
from starlette.exceptions import HTTPException

from serve_app.api.endpoints import OPENAI
from serve_app.api.middleware.gate import ERROR_CODE, error_answer, route_path
from serve_app.api.middleware.request_guard import logger
from serve_app.core.errors import RETRY_AFTER_S, PlainMedError
from serve_app.core.observability.log_redaction import frames
from serve_app.core.openai_schemas import UNSUPPORTED

_LONGEST_NAME = 200
_HTTP_CODES = {404: "not_found", 405: "method_not_allowed", 400: "invalid_body"}


def add_error_handlers(app: FastAPI) -> None:
    """Adds the handlers to `app`."""

    def answer(
        request: Request, status: int, code: str, message: str, field: str | None = None
    ) -> Response:
        request.scope[ERROR_CODE] = code
        headers = {"Retry-After": str(RETRY_AFTER_S)} if status == 503 else None
        body = error_answer(request.scope, status, code, message, field)
        return JSONResponse(body, status, headers)

    @app.exception_handler(PlainMedError)
    async def on_plainmed_error(request: Request, error: PlainMedError) -> Response:
        if error.status >= 500:
            logger.error("%s: %s", error.code, type(error).__name__)
        return answer(request, error.status, error.code, error.message, error.field)

    @app.exception_handler(RequestValidationError)
    async def on_validation_error(request: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        field = _field_name(first["loc"])
        openai = route_path(request.scope).startswith(OPENAI)
        match first["type"]:
            case "extra_forbidden" if openai:
                message = f"{field} is not supported; leave it out (see /docs)"
                return answer(request, 400, UNSUPPORTED, message, field)
            case str(kind) if kind == UNSUPPORTED:
                return answer(request, 400, UNSUPPORTED, f"{field}: {first['msg']}", field)
            case "extra_forbidden":
                return answer(request, 422, "unknown_field", f"there is no field {field}", field)
            case "missing" if field is None:
                return answer(request, 422, "missing_body", "send a JSON body")
            case "missing":
                return answer(request, 422, "missing_field", f"{field} is required", field)
        message = "the body must be a JSON object, sent as application/json"
        if field is not None:
            message = f"{field}: {first['msg']}"
        return answer(request, 422, "invalid_input", message, field)

    @app.exception_handler(HTTPException)
    async def on_http_error(request: Request, error: HTTPException) -> Response:
        if error.status_code == 404 and route_path(request.scope) == "":
            # The page's links are relative to its folder. Not absolute: a client names the Host.
            return RedirectResponse(f"{request.scope['root_path']}/")
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
        # Its message may quote the user's text, so it is neither answered nor logged.
        logger.error("unexpected %s", frames(error))
        message = "an internal error; see the server's log by its id"
        return answer(request, 500, "internal_error", message)


def _field_name(location: Sequence[int | str]) -> str | None:
    """`("body", "texts", 0)` as `texts[0]`; None for the body itself."""
    parts = (f"[{part}]" if isinstance(part, int) else f".{part}" for part in location[1:])
    name = "".join(parts).removeprefix(".")
    # A client's name may have any length, and lone surrogates.
    return name[:_LONGEST_NAME].encode("utf-8", "backslashreplace").decode() or None
