"""Turns every error, expected or not, into the one JSON shape of the API."""

from __future__ import annotations

from collections.abc import Sequence

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException

from serve_app.api.middleware.gate import ERROR_CODE
from serve_app.api.middleware.request_guard import logger
from serve_app.core.errors import PlainMedError, error_body
from serve_app.core.observability.log_redaction import frames
from serve_app.core.settings import Settings

_LONGEST_NAME = 200


_HTTP_CODES = {404: "not_found", 405: "method_not_allowed", 400: "invalid_body"}


def add_error_handlers(app: FastAPI, settings: Settings) -> None:
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
