"""Parses JSON bodies with bounded work, so that no body keeps the event loop from other requests.

The standard decoder builds whatever is sent in one uninterruptible step, which hostile bodies make
last for seconds. Here its own Python parts count values and names as they meet them and stop at a
limit; large bodies are parsed in a thread. Names given twice are refused, since one of the two
would be lost silently.
"""

from __future__ import annotations

import asyncio
import email.message
import json
from collections.abc import Callable, Coroutine
from json import decoder, scanner
from typing import Any

from fastapi import Request, Response
from fastapi.routing import APIRoute

from serve_app.core.documents import unique
from serve_app.core.errors import InvalidInput, PlainMedError

MAX_NAMES = 64
"""Most names of one object; no request has as many."""

MAX_VALUES = 65_536
"""Most values of a body: texts, numbers, lists and objects."""

INLINE_BYTES = 16_384
"""Longest body that is parsed on the event loop, in a few milliseconds."""


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
    try:
        return unique(pairs)
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
