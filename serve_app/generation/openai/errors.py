"""Errors of an OpenAI-compatible endpoint as errors of ours, each with what to do about it.

A server's message may quote the text it was sent, so it is never repeated: it is read only to tell
a text that is too long from other refusals.
"""

from __future__ import annotations

import re
from http import HTTPStatus

import openai

from serve_app.core.errors import InvalidInput, PlainMedError, Unavailable

FAILED = "generation_failed"

# The wording of vLLM, llama.cpp, Ray Serve LLM, the vendor and others.
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
    """An error of the client, or of reading its answer, as one of ours.

    Args:
        error: what was raised.
        endpoint: the server's name in messages.
        model: the model requested.
        timeout_s: the time limit of a summary.
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
    """The error of an answer outside the protocol."""
    return PlainMedError(
        f"{endpoint} did not answer as the chat completions protocol says{detail}; does "
        "OPENAI_BASE_URL name the root of the API (it usually ends in /v1)?",
        code=FAILED,
    )


def broken_off(endpoint: str) -> Unavailable:
    """The error of a stream that ended before its summary."""
    return Unavailable(f"{endpoint} broke off in the middle of the summary; try again")


def withheld(endpoint: str, reason: str) -> PlainMedError:
    """The error of an answer that ended for a reason other than being finished."""
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
    advice = {
        401: "set OPENAI_API_KEY to a key it accepts",
        403: f"the key of OPENAI_API_KEY may not use {model}; choose another OPENAI_MODEL, or ask "
        "for access",
        404: f"it has no model {model} (OPENAI_MODEL), or OPENAI_BASE_URL is not the root of its "
        "API (it usually ends in /v1)",
    }.get(
        status,
        "it takes no such request; check OPENAI_MODEL, OPENAI_MAX_TOKENS_FIELD and "
        "OPENAI_REPEAT_PENALTY_FIELD, and that the model has a chat template",
    )
    return PlainMedError(f"{said}: {advice}", code=FAILED)


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
    """The server's own name of the error, if it is a name and not a sentence."""
    names = (one for one in (error.code, error.type) if isinstance(one, str))
    return next((f" ({name})" for name in names if _PLAIN_CODE.fullmatch(name)), "")
