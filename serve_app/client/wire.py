"""What the Python clients send and how they read the answers; no sockets, no waiting.

Knows the routes, the shapes of `serve_app.core.schemas`, and how an error answer becomes an
exception. `serve_app.client` sends what this module builds and decides what to repeat.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Generic, TypedDict, TypeVar

from pydantic import BaseModel, TypeAdapter, ValidationError
from pydantic_core import PydanticSerializationError

from serve_app.client.errors import PlainMedAPIError
from serve_app.core.errors import InvalidInput, MetricFailed, NotServed, Unavailable
from serve_app.core.schemas import (
    ErrorDetail,
    ErrorResponse,
    EvaluateRequest,
    EvaluateResponse,
    FactualityResponse,
    GenerateListResponse,
    GenerateRequest,
    GenerateResponse,
    HealthResponse,
    LossRequest,
    PairsRequest,
    ReadabilityResponse,
    RelevanceResponse,
    Select,
    StatusResponse,
    TextsRequest,
)

Texts = str | Sequence[str]
"""Several texts; a plain str stands for one."""

NO_CODE = "http_error"
"""Of an answer without an error of PlainMed's."""

T = TypeVar("T")
_ONE_OR_MANY: TypeAdapter[float | list[float]] = TypeAdapter(float | list[float])
_SURROGATE = re.compile("[\ud800-\udfff]")
_STATUS_OF_CODE = {
    kind.code: kind.status for kind in (InvalidInput, NotServed, Unavailable, MetricFailed)
} | {"timeout": Unavailable.status}


class SamplingOptions(TypedDict, total=False):
    """Optional settings of one generation, as in `serve_app.core.schemas.Sampling`."""

    max_new_tokens: int
    temperature: float
    top_p: float
    repeat_penalty: float
    seed: int


@dataclass(frozen=True)
class Call(Generic[T]):
    """One request and how its answer is read.

    Attributes:
        method: `GET` or `POST`.
        path: the route.
        parse: the answer's JSON to the value the caller gets; raises ValueError.
        body: JSON, or None.
        readable: statuses whose body `parse` reads.
        retried: whether it may be sent again.
        request_id: X-Request-ID, the same for every attempt.
    """

    method: str
    path: str
    parse: Callable[[bytes], T]
    body: str | None = None
    readable: frozenset[int] = frozenset({200})
    retried: bool = True
    request_id: str = field(default_factory=lambda: uuid.uuid4().hex)

    @property
    def headers(self) -> dict[str, str]:
        """Headers of the request."""
        kind = {} if self.body is None else {"Content-Type": "application/json"}
        return {"X-Request-ID": self.request_id, **kind}


def relevance(originals: Texts, generated: Texts) -> Call[list[float]]:
    """`POST /metrics/relevance`."""
    count, body = _pairs(originals, generated)

    def parse(content: bytes) -> list[float]:
        return _counted(RelevanceResponse.model_validate_json(content).relevance, count)

    return Call("POST", "/metrics/relevance", parse, body)


def factuality(originals: Texts, generated: Texts) -> Call[list[float]]:
    """`POST /metrics/factuality`."""
    count, body = _pairs(originals, generated)

    def parse(content: bytes) -> list[float]:
        return _counted(FactualityResponse.model_validate_json(content).factuality, count)

    return Call("POST", "/metrics/factuality", parse, body)


def readability(texts: Texts) -> Call[ReadabilityResponse]:
    """`POST /metrics/readability`."""
    body = _body(TextsRequest, texts=_texts(texts))
    return Call("POST", "/metrics/readability", ReadabilityResponse.model_validate_json, body)


def loss(
    originals: Texts, generated: Texts, humans: Texts | None, weights: Sequence[float] | None
) -> Call[list[float]]:
    """`POST /loss`; the bare number of one pair becomes a list of one."""
    left = _texts(originals)
    body = _body(
        LossRequest,
        texts_original=left,
        texts_generated=_texts(generated),
        texts_human=None if humans is None else _texts(humans),
        weights=_numbers(weights),
    )

    def parse(content: bytes) -> list[float]:
        value = _ONE_OR_MANY.validate_json(content)
        return _counted(value if isinstance(value, list) else [value], len(left))

    return Call("POST", "/loss", parse, body)


def generate(
    text: str,
    *,
    stream: bool,
    sampling: SamplingOptions,
    n: int | None = None,
    select: Select | None = None,
    weights: Sequence[float] | None = None,
) -> Call[GenerateResponse]:
    """`POST /generate` of one text."""
    if not isinstance(text, str):
        raise InvalidInput(f"text: give a str, not {type(text).__name__}", field="text")
    body = _body(
        GenerateRequest,
        text=text,
        stream=stream,
        n=n,
        select=select,
        weights=_numbers(weights),
        **sampling,
    )
    return Call("POST", "/generate", GenerateResponse.model_validate_json, body)


def generate_many(
    texts: Texts,
    *,
    sampling: SamplingOptions,
    n: int | None,
    select: Select | None,
    weights: Sequence[float] | None,
) -> Call[list[GenerateResponse]]:
    """`POST /generate` of several texts."""
    originals = _texts(texts)
    body = _body(
        GenerateRequest,
        texts=originals,
        n=n,
        select=select,
        weights=_numbers(weights),
        **sampling,
    )

    def parse(content: bytes) -> list[GenerateResponse]:
        results = GenerateListResponse.model_validate_json(content).results
        return _counted(results, len(originals))

    return Call("POST", "/generate", parse, body)


def evaluate(
    originals: Texts,
    generated: Texts | None,
    humans: Texts | None,
    weights: Sequence[float] | None,
    n: int | None = None,
    seed: int | None = None,
    explain: bool = False,
) -> Call[EvaluateResponse]:
    """`POST /evaluate`."""
    body = _body(
        EvaluateRequest,
        texts_original=_texts(originals),
        texts_generated=None if generated is None else _texts(generated),
        texts_human=None if humans is None else _texts(humans),
        weights=_numbers(weights),
        n=n,
        seed=seed,
        explain=explain,
    )
    return Call("POST", "/evaluate", EvaluateResponse.model_validate_json, body)


def health() -> Call[HealthResponse]:
    """`GET /healthz`; not ready (503) is an answer here, not an error."""
    parse = HealthResponse.model_validate_json
    return Call("GET", "/healthz", parse, readable=frozenset({200, 503}), retried=False)


def status() -> Call[StatusResponse]:
    """`GET /status`; not ready (503) is an answer here, not an error."""
    parse = StatusResponse.model_validate_json
    return Call("GET", "/status", parse, readable=frozenset({200, 503}), retried=False)


def _pairs(originals: Texts, generated: Texts) -> tuple[int, str]:
    left = _texts(originals)
    return len(left), _body(PairsRequest, texts_original=left, texts_generated=_texts(generated))


def _texts(texts: Texts) -> list[str]:
    return [texts] if isinstance(texts, str) else list(texts)


def _numbers(weights: Sequence[float] | None) -> list[float] | None:
    # numpy scalars are not the floats that JSON and the strict schema want.
    return None if weights is None else [float(weight) for weight in weights]


def _body(model: type[BaseModel], **values: Any) -> str:
    """The request as JSON, unset fields left out.

    Raises:
        InvalidInput: a value the contract refuses whatever the server's settings are.
    """
    try:
        request = model.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        name = "".join(f"[{part}]" if isinstance(part, int) else str(part) for part in first["loc"])
        raise InvalidInput(f"{name}: {first['msg']}", field=name) from None
    try:
        return request.model_dump_json(exclude_none=True)
    except PydanticSerializationError:
        name = _not_unicode(values)
        message = f"{name}: the text has a lone surrogate; send valid Unicode"
        raise InvalidInput(message, field=name, code="invalid_unicode") from None


def _not_unicode(values: Mapping[str, Any]) -> str:
    """The name of the first text that UTF-8 cannot hold, such as `texts[2]`."""
    places = (
        (f"{name}[{index}]" if isinstance(value, list) else name, text)
        for name, value in values.items()
        for index, text in enumerate(value if isinstance(value, list) else [value])
    )
    return next(place for place, text in places if _SURROGATE.search(str(text)))


def _counted(values: list[T], count: int) -> list[T]:
    if len(values) != count:
        raise ValueError(f"{len(values)} values for {count} texts")
    return values


def read_answer(call: Call[T], status: int, headers: Mapping[str, str], content: bytes) -> T:
    """The value of an answer.

    Raises:
        PlainMedAPIError: it is an error, or not what the route answers.
    """
    if status in call.readable:
        try:
            return call.parse(content)
        except ValueError as error:
            if status == 200:
                message = f"{call.path} did not answer as PlainMed does: {_one_line(str(error))}"
                identity = headers.get("X-Request-ID", call.request_id)
                raise PlainMedAPIError(200, "bad_response", message, None, identity) from error
    raise error_of(call, status, headers, content)


def error_of(
    call: Call[T], status: int, headers: Mapping[str, str], content: bytes
) -> PlainMedAPIError:
    """The exception of an error answer, whether or not it has the contract's shape."""
    try:
        detail = ErrorResponse.model_validate_json(content).error
    except ValidationError:
        text = _one_line(content.decode(errors="replace")) or "an empty answer"
        if "Location" in headers:
            text = f"redirected to {headers['Location']}; use that as the URL"
        detail = ErrorDetail(code=NO_CODE, message=text, field=None)
    return PlainMedAPIError(
        status,
        detail.code,
        detail.message,
        detail.field,
        headers.get("X-Request-ID", call.request_id),
        _retry_after(headers.get("Retry-After")),
    )


def read_event(call: Call[GenerateResponse], name: str, data: str) -> str | GenerateResponse:
    """What a server-sent event of `/generate` carries: a piece, or at the end the whole answer.

    Raises:
        PlainMedAPIError: the server reports an error, or the event is not of the contract.
    """
    try:
        if name == "done":
            return GenerateResponse.model_validate_json(data)
        if name == "error":
            detail = ErrorResponse.model_validate_json(data).error
            raise PlainMedAPIError(
                _STATUS_OF_CODE.get(detail.code, 500),
                detail.code,
                detail.message,
                detail.field,
                call.request_id,
            )
        return _Piece.model_validate_json(data).text
    except ValidationError as error:
        message = f"an event {name!r} is not one of PlainMed's: {_one_line(str(error))}"
        raise PlainMedAPIError(200, "bad_response", message, None, call.request_id) from error


class _Piece(BaseModel):
    text: str


def _retry_after(value: str | None) -> float | None:
    """Seconds of a Retry-After header, in either of its forms; None where it is neither."""
    if value is None:
        return None
    value = value.strip()
    if value.isascii() and value.isdigit():
        return float(value)
    try:
        moment = parsedate_to_datetime(value)
    except ValueError:
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return max(0.0, (moment - datetime.now(UTC)).total_seconds())


def _one_line(text: str, limit: int = 200) -> str:
    line = " ".join(text.split())
    return line if len(line) <= limit else line[: limit - 1] + "…"
