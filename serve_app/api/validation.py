"""What every route asks of a request before it computes, and how long it may take.

Knows the settings' limits and the errors that say so; no route, and no FastAPI.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Sequence
from typing import Any, TypeVar

from serve_app.core import schemas
from serve_app.core.context import current_context
from serve_app.core.errors import InvalidInput, Unavailable
from serve_app.core.settings import Settings
from serve_app.generation.protocol import GenerationParams
from serve_app.text.validation import require_text

Result = TypeVar("Result")

_RETRY_AFTER = {
    "Retry-After": {
        "description": "Seconds to wait.",
        "required": True,
        "schema": {"type": "integer", "minimum": 1},
    }
}
_HEADERS: dict[int, dict[str, Any]] = {
    401: {"WWW-Authenticate": {"required": True, "schema": {"type": "string"}}},
    429: _RETRY_AFTER,
    503: _RETRY_AFTER,
}

ERRORS: dict[int | str, dict[str, Any]] = {
    status: {
        "model": schemas.ErrorResponse,
        "description": text,
        **({"headers": _HEADERS[status]} if status in _HEADERS else {}),
    }
    for status, text in {
        400: "The body is not JSON or not UTF-8, there is one where none belongs (GET), or "
        "X-Request-Timeout is no number of seconds.",
        401: "The server wants an API key, and there is none that is good.",
        403: "The API key does not cover this service, or the server is for its own machine alone.",
        404: "The server was started without this service.",
        413: "The body, a text or the number of texts is over a limit.",
        422: "A field is missing, unknown or cannot be scored; `field` names it.",
        429: "The API key has asked too often, or for too much at once.",
        500: "A metric or summary could not be computed.",
        503: "Overloaded, out of time, starting or shutting down; retry after Retry-After seconds.",
    }.items()
}
"""What every route that computes may answer beside 200. Any path may also be answered 403, where it
is called by a name that is not this machine's, 404, where there is no such route, and 405, where it
does not take the method."""


class TooLarge(InvalidInput):
    """More than a limit allows: 413."""

    code = "too_large"
    status = 413


async def within(work: Awaitable[Result], settings: Settings) -> Result:
    """Awaits `work` until the request's deadline."""
    seconds = min(settings.request_timeout_s, current_context().left())
    try:
        async with asyncio.timeout(seconds):
            return await work
    except TimeoutError:
        raise Unavailable(
            f"no answer within {seconds:.3g} s; send fewer texts a request, or try again",
            code="timeout",
        ) from None


def check_limits(texts: Sequence[str], field: str, settings: Settings) -> None:
    """Raises `TooLarge` unless the number of texts and each text's length are within the limits."""
    if len(texts) > settings.max_texts:
        raise TooLarge(
            f"{len(texts)} texts are over the limit of {settings.max_texts} a request; "
            "send them in several",
            field=field,
            code="too_many_texts",
        )
    for index, text in enumerate(texts):
        if len(text) > settings.max_text_chars:
            raise TooLarge(
                f"the text has {len(text)} characters; the limit is {settings.max_text_chars}",
                field=field if field == "text" else f"{field}[{index}]",
                code="text_too_long",
            )


def check_texts(texts: Sequence[str], field: str, settings: Settings) -> None:
    """Raises `InvalidInput` unless there are texts, within the limits and each with a word."""
    check_limits(texts, field, settings)
    if not texts:
        raise InvalidInput("give at least one text", field=field, code="empty_list")
    for index, text in enumerate(texts):
        require_text(text, field if field == "text" else f"{field}[{index}]")


def check_count(n: int | None, texts: int, settings: Settings) -> int:
    """The candidates wanted of each of so many texts; 1 where the request does not say.

    Raises:
        InvalidInput: over MAX_CANDIDATES; `TooLarge` where all together are over MAX_TEXTS.
    """
    wanted = 1 if n is None else n
    if wanted > settings.max_candidates:
        raise InvalidInput(
            f"n is at most {settings.max_candidates} on this server (MAX_CANDIDATES)", field="n"
        )
    if wanted * texts > settings.max_texts:
        raise TooLarge(
            f"{wanted} candidates of {texts} texts are over the limit of {settings.max_texts} "
            "texts a request; send fewer texts, or a smaller n",
            field="n",
            code="too_many_texts",
        )
    return wanted


def params_of(body: schemas.Sampling, settings: Settings) -> GenerationParams:
    """The request's sampling settings over the server's defaults.

    Raises:
        InvalidInput: more tokens than the server allows.
    """

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
