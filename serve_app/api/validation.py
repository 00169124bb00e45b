"""Checks of a request before anything computes: its JSON, texts, time, and the size of its answer.

Knows the settings' limits and the errors for them; no route.

The standard JSON decoder builds whatever is sent in one uninterruptible step, which hostile bodies
make last for seconds. `parse_body` runs the decoder's own Python parts, counts values and names as
they are met and stops at a limit; large bodies are parsed in a thread. Names given twice are
refused, since one of the two would be lost silently.
"""

from __future__ import annotations

import asyncio
import email.message
import json
import re
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from json import decoder, scanner
from typing import Any, TypeVar

from fastapi import Request, Response
from fastapi.routing import APIRoute

from serve_app.core import schemas
from serve_app.core.context import current_context
from serve_app.core.documents import unique
from serve_app.core.errors import InvalidInput, PlainMedError, Unavailable
from serve_app.core.sampling import GenerationParams, SamplingOptions
from serve_app.core.settings import Settings
from serve_app.metrics.profiles import DEFAULT, check_profile
from serve_app.text.language import check_languages
from serve_app.text.validation import require_same_length, require_text

Result = TypeVar("Result")

_LIBRARY_FIELD = re.compile(r"(claims|contexts|texts_generated|texts_original)\[(\d+)\]")

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
        415: "The body is compressed.",
        422: "A field is missing, unknown or cannot be scored; `field` names it.",
        429: "The API key has asked too often, or for too much at once.",
        500: "A metric or summary could not be computed.",
        503: "Overloaded, out of time, starting or shutting down; retry after Retry-After seconds.",
    }.items()
}
"""Answers beside 200 of every route that computes. Any path may also be answered 403, if called by
a name that is not this machine's, 404, if there is no such route, and 405, for another method."""


MAX_ANSWER_CHARS = 32_000_000
"""Longest answer: several times what an ordinary request of the largest size gets."""

MAX_NAMES = 64
"""Most names of one object; no request has as many."""

MAX_VALUES = 65_536
"""Most values of a body: texts, numbers, lists and objects."""

INLINE_BYTES = 16_384
"""Longest body that is parsed on the event loop, in a few milliseconds."""


class TooLarge(InvalidInput):
    """Over a limit: 413."""

    code = "too_large"
    status = 413


class TooManyValues(InvalidInput):
    """A body has more values or names than any request needs: 413."""

    code = "too_many_values"
    status = 413


class InvalidJson(PlainMedError):
    """A body is not JSON: 400."""

    code = "invalid_json"
    status = 400


class _Duplicate(Exception):
    """A name is there twice. No ValueError, which would be taken for bad JSON."""


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


def of_request(error: PlainMedError, pairs: int) -> PlainMedError:
    """An error about a text of a library's list, with that text's field in the request.

    The human texts of a request of so many pairs are scored behind the generated ones.
    """
    found = _LIBRARY_FIELD.fullmatch(error.field or "")
    if found is None:
        return error
    index = int(found[2])
    name = "texts_original"
    if found[1] in ("claims", "texts_generated"):
        name = "texts_generated" if index < pairs else "texts_human"
    field = f"{name}[{index % max(1, pairs)}]"
    return type(error)(error.message, field=field, code=error.code)


async def languages_of(
    texts: Sequence[str], field: str, settings: Settings, *, shown: bool = True
) -> list[str | None]:
    """The language of each text, found beside the event loop; all None where it is not needed.

    Args:
        texts: of the request.
        field: their field there.
        settings: say what to do about other languages than English.
        shown: whether the answer names them; if not, they are needed only to refuse them.

    Raises:
        InvalidInput: `not_english`, a text is not, and LANGUAGE_CHECK is `refuse`.
    """
    check = settings.language_check
    if check == "off" or not (shown or check == "refuse"):
        return [None] * len(texts)
    return await asyncio.to_thread(check_languages, texts, field, check)


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


def check_pairs(
    body: schemas.LossRequest | schemas.PairsRequest | schemas.EvaluateRequest, settings: Settings
) -> None:
    """Checks that each original has the texts to compare it with, as `check_texts`.

    Raises:
        InvalidInput: a list of texts is empty or has another length, or a text cannot be scored.
    """
    names = ("texts_original", "texts_generated", "texts_human")
    lists = {name: getattr(body, name, None) for name in names}
    given = {name: texts for name, texts in lists.items() if texts is not None}
    for name, texts in given.items():
        check_limits(texts, name, settings)
        require_same_length(body.texts_original, texts, "texts_original", name)
    for name, texts in given.items():
        check_words(texts, name)


def profile_of(
    body: schemas.LossRequest | schemas.EvaluateRequest | schemas.GenerateRequest,
) -> schemas.ProfileName:
    """The profile of a request; the default where it names none.

    Raises:
        InvalidInput: it also has human texts, whose metrics would be no targets.
    """
    profile = check_profile(body.profile)
    if profile != DEFAULT and getattr(body, "texts_human", None) is not None:
        raise InvalidInput(
            f"profile {profile} has targets of its own: leave out texts_human, or profile",
            field="texts_human",
        )
    return profile


def check_texts(texts: Sequence[str], field: str, settings: Settings) -> None:
    """Raises `InvalidInput` unless there are texts, within the limits and each with a word."""
    check_limits(texts, field, settings)
    if not texts:
        raise InvalidInput("give at least one text", field=field, code="empty_list")
    check_words(texts, field)


def check_words(texts: Sequence[str], field: str) -> None:
    """Raises `InvalidInput` unless each text has a word."""
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

    given = body.model_dump(include=set(SamplingOptions.__annotations__))
    params = GenerationParams.over(settings, given)
    if params.max_new_tokens > settings.max_new_tokens:
        raise InvalidInput(
            f"max_new_tokens is at most {settings.max_new_tokens} on this server",
            field="max_new_tokens",
        )
    return params


def check_answer(chars: int) -> None:
    """Raises `TooLarge` if an answer would have more than MAX_ANSWER_CHARS, before it is built."""
    if chars > MAX_ANSWER_CHARS:
        raise TooLarge(
            f"the answer would have {chars // 1_000_000} million characters; the limit is "
            f"{MAX_ANSWER_CHARS // 1_000_000} million: send fewer or shorter texts in a request",
            code="answer_too_large",
        )


class BoundedRoute(APIRoute):
    """A route whose JSON body is parsed by `parse_body`."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """FastAPI's own handler, given a request whose body is parsed."""
        handler = super().get_route_handler()

        async def handle(request: Request) -> Response:
            body = await request.body()
            if body and _is_json(request.headers.get("content-type", "")):
                inline = len(body) <= INLINE_BYTES
                value = parse_body(body) if inline else await asyncio.to_thread(parse_body, body)
                request = _ParsedRequest(request, body, value)
            return await handler(request)

        return handle


class _ParsedRequest(Request):
    def __init__(self, request: Request, body: bytes, value: Any) -> None:
        super().__init__(request.scope, request.receive)
        self._given, self._value = body, value

    async def body(self) -> bytes:
        return self._given

    async def json(self) -> Any:
        return self._value


def _is_json(content_type: str) -> bool:
    message = email.message.Message()
    message["content-type"] = content_type
    kind, _, subtype = message.get_content_type().partition("/")
    return kind == "application" and (subtype == "json" or subtype.endswith("+json"))


def parse_body(body: bytes) -> Any:
    """The value of a JSON body, UTF-8.

    Raises:
        InvalidJson: it is not JSON, is nested too deeply, or has a number of thousands of digits.
        TooManyValues: it has more than MAX_VALUES values, or an object more than MAX_NAMES names.
        InvalidInput: `duplicate_field`, an object has a name twice.
    """
    try:
        return _Decoder().decode(body.decode())
    except RecursionError:
        raise InvalidJson("the body is nested too deeply") from None
    except json.JSONDecodeError as error:
        raise InvalidJson(f"the body is not JSON: {error.msg} (character {error.pos})") from None
    except _Duplicate as error:
        raise InvalidInput(f"in the body {error}", code="duplicate_field") from None
    except PlainMedError:
        raise
    except ValueError:  # of int(), whose message is about Python
        raise InvalidJson("the body has a number with too many digits") from None


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    try:
        return found if len(found) == len(pairs) else unique(pairs)
    except ValueError as error:
        raise _Duplicate(str(error)) from None


class _Decoder(json.JSONDecoder):
    """The standard decoder in its Python parts, with a count of values and names."""

    def __init__(self) -> None:
        super().__init__(object_pairs_hook=_object)
        parts: Any = (decoder, scanner)  # not in typeshed
        self._left = MAX_VALUES
        self.parse_array = lambda at, scan, *more: parts[0].JSONArray(at, self._count(scan), *more)
        self.parse_object = lambda at, strict, scan, *more: parts[0].JSONObject(
            at, strict, self._count(scan, MAX_NAMES), *more
        )
        self.scan_once = parts[1].py_make_scanner(self)

    def _count(self, scan: Callable[[str, int], Any], names: int = MAX_VALUES) -> Any:
        def counting(text: str, index: int) -> Any:
            nonlocal names
            names -= 1
            self._left -= 1
            if names < 0 or self._left < 0:
                most = "values" if self._left < 0 else "names in one object"
                number = MAX_VALUES if self._left < 0 else MAX_NAMES
                raise TooManyValues(f"the body has more than {number} {most}; send fewer")
            return scan(text, index)

        return counting
