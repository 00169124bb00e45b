"""The errors PlainMed raises on purpose, each with what HTTP says about it.

Knows nothing of HTTP frameworks or Ray: a plain exception carries a stable `code`, the
status the gateway answers with, and the request field it is about. A library user
catches `PlainMedError` (or `ValueError`, for bad input); the gateway renders the same
object as `{"error": {"code", "message", "field"}}`.
"""

from __future__ import annotations

import re

FAILURES = (ArithmeticError, RuntimeError, ValueError, TypeError, LookupError, MemoryError)
"""What our code or torch raises on a text it cannot take, memory exhausted included."""


class PlainMedError(Exception):
    """Base of every deliberate error.

    Attributes:
        code: a stable snake_case name a client can switch on.
        status: the HTTP status it becomes.
        field: the request field it is about, such as `texts_generated[2]`, or None.
    """

    code = "internal_error"
    status = 500

    def __init__(self, message: str, *, field: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.field = field
        if code is not None:
            self.code = code

    def __reduce__(self) -> tuple[object, ...]:
        # Exceptions cross process borders in Ray; the default protocol would lose the keywords.
        return (_rebuild, (type(self), self.message, self.field, self.code))


def _rebuild(cls: type[PlainMedError], message: str, field: str | None, code: str) -> PlainMedError:
    return cls(message, field=field, code=code)


def moved(error: PlainMedError, by: int) -> PlainMedError:
    """The same error about the text `by` places further on, as `texts[2]` for `texts[0]` and 2.

    For whoever computes texts apart from the request they came in. Other errors stay as they are.
    """
    parts = re.fullmatch(r"(.*)\[(\d+)\]", error.field or "")
    if parts is None or by == 0:
        return error
    return _rebuild(type(error), error.message, f"{parts[1]}[{int(parts[2]) + by}]", error.code)


class InvalidInput(PlainMedError, ValueError):
    """The caller's text or parameter cannot be scored: 422."""

    code = "invalid_input"
    status = 422


class NotServed(PlainMedError):
    """This deployment was started without the service the request needs: 404."""

    code = "not_served"
    status = 404


class NotAllowed(PlainMedError):
    """The caller's API key does not cover what the request asks for: 403."""

    code = "service_not_allowed"
    status = 403


class Unavailable(PlainMedError):
    """The service cannot answer now and a later try may succeed: 503 with Retry-After."""

    code = "unavailable"
    status = 503


def out_of_time() -> Unavailable:
    """What a request is told whose deadline has passed."""
    return Unavailable("the request's time is over; try again", code="timeout")


class MetricFailed(PlainMedError):
    """A metric could not be computed for a well-formed text: 500, never a default number."""

    code = "metric_failed"
    status = 500


class ConfigError(PlainMedError, ValueError):
    """A setting, targets file or weights reference is wrong; raised at start, not per request."""

    code = "config_error"


class CheckpointError(ConfigError):
    """A weights file is not what the setting says it is."""

    code = "checkpoint_error"


def error_body(
    code: str, message: str, field: str | None = None
) -> dict[str, dict[str, str | None]]:
    """The one JSON shape of every error."""
    return {"error": {"code": code, "message": message, "field": field}}
