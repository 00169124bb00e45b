"""What the errors of an OpenAI-compatible endpoint mean for us, and what to do about each.

A server's message may quote the text it was sent, so none is repeated: it is read only to tell a
text that is too long from other refusals.
"""

from __future__ import annotations

import re
from http import HTTPStatus
from typing import Any

import openai

from serve_app.core.errors import InvalidInput, PlainMedError, Unavailable

FAILED = "generation_failed"

# As vLLM, llama.cpp, Ray Serve LLM, the vendor and others word it.
_TOO_LONG = re.compile(
    r"context[_ ](?:length|size|window)|maximum (?:model|input) length|longer than the maximum"
    r"|exceeds the (?:available|maximum)|prompt is too long",
    re.IGNORECASE,
)
_LIMIT = re.compile(
    r"(?:context (?:length|size|window)|model length)\D{0,24}?(\d{2,8})", re.IGNORECASE
)
_PLAIN_CODE = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{1,59}")
_BUSY = (HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.CONFLICT, HTTPStatus.TOO_MANY_REQUESTS)
_REFUSED = (HTTPStatus.BAD_REQUEST, HTTPStatus.UNPROCESSABLE_ENTITY)


def translate(error: Exception, *, endpoint: str, model: str, timeout_s: float) -> PlainMedError:
    """`error`, raised by the client or while its answer was read, as one of our kinds.

    Args:
        error: what was raised.
        endpoint: how messages call the server.
        model: the model that was asked for.
        timeout_s: how long a summary may take.
    """
    if isinstance(error, PlainMedError):
        return error
    if isinstance(error, TimeoutError | openai.APITimeoutError):
        return Unavailable(
            f"{endpoint} did not finish within {timeout_s:g} s; try again, or raise "
            "OPENAI_TIMEOUT_S (and REQUEST_TIMEOUT_S with it)"
        )
    if isinstance(error, openai.APIConnectionError):
        return Unavailable(f"{endpoint} cannot be reached, or broke off; try again")
    if isinstance(error, openai.APIStatusError):
        return _of_status(error, endpoint, model)
    if isinstance(error, openai.APIError):  # in the middle of a stream
        if _is_too_long(error):
            return _too_long(error, model)
        return PlainMedError(
            f"{endpoint} ended the summary with an error{_code(error)}; see its log", code=FAILED
        )
    return not_understood(endpoint, f" ({type(error).__name__})")


def not_understood(endpoint: str, detail: str = "") -> PlainMedError:
    """An answer that is not of the protocol."""
    return PlainMedError(
        f"{endpoint} did not answer as the chat completions protocol says{detail}; does "
        "OPENAI_BASE_URL name the root of the API (it usually ends in /v1)?",
        code=FAILED,
    )


def broken_off(endpoint: str) -> Unavailable:
    """A stream that ended before its summary did."""
    return Unavailable(f"{endpoint} broke off in the middle of the summary; try again")


def withheld(endpoint: str, reason: str) -> PlainMedError:
    """The server ended the summary for a reason that leaves none to give."""
    return PlainMedError(
        f"{endpoint} gave no summary: it ended with {reason}, not stop or length", code=FAILED
    )


def _of_status(error: openai.APIStatusError, endpoint: str, model: str) -> PlainMedError:
    status = error.status_code
    said = f"{endpoint} answered {status}{_code(error)}"
    if status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE or (
        status in _REFUSED and _is_too_long(error)
    ):
        return _too_long(error, model)
    if error.code == "insufficient_quota":
        return PlainMedError(f"{said}: the account of OPENAI_API_KEY is used up", code=FAILED)
    if status in _BUSY or status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        return Unavailable(f"{said}, and again when it was retried; try later")
    if status == HTTPStatus.UNAUTHORIZED:
        return PlainMedError(f"{said}: set OPENAI_API_KEY to a key it accepts", code=FAILED)
    if status == HTTPStatus.FORBIDDEN:
        return PlainMedError(
            f"{said}: the key of OPENAI_API_KEY may not use {model}; choose another OPENAI_MODEL, "
            "or ask for access",
            code=FAILED,
        )
    if status == HTTPStatus.NOT_FOUND:
        return PlainMedError(
            f"{said}: it has no model {model} (OPENAI_MODEL), or OPENAI_BASE_URL is not the root "
            "of its API (it usually ends in /v1)",
            code=FAILED,
        )
    return PlainMedError(
        f"{said}: it takes no such request; check OPENAI_MODEL, OPENAI_MAX_TOKENS_FIELD and "
        "OPENAI_REPEAT_PENALTY_FIELD, and that the model has a chat template",
        code=FAILED,
    )


def _is_too_long(error: openai.APIError) -> bool:
    return bool(_TOO_LONG.search(f"{error.code} {error.type} {error.message}".replace("_", " ")))


def _too_long(error: openai.APIError, model: str) -> InvalidInput:
    found = _LIMIT.search(error.message)
    of = f" of {found[1]} tokens" if found else ""
    return InvalidInput(
        f"the text, the prompt around it and max_new_tokens do not fit {model}'s context{of}; "
        "shorten the text or lower max_new_tokens",
        field="text",
        code="input_too_long",
    )


def _code(error: openai.APIError) -> str:
    """The server's own name of the error, where it is a name and no sentence."""
    for name in (error.code, error.type):
        value: Any = name
        if isinstance(value, str) and _PLAIN_CODE.fullmatch(value):
            return f" ({value})"
    return ""
