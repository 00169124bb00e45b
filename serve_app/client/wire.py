"""What the Python clients send and how they read the answers; no sockets, no waiting.

Knows the routes, the shapes of `serve_app.core.schemas`, and how an error answer becomes an
exception. `serve_app.client` sends what this module builds and decides what to repeat.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Generic, TypeVar, Unpack

from pydantic import BaseModel, TypeAdapter, ValidationError
from pydantic_core import PydanticSerializationError

from serve_app.client.errors import PlainMedAPIError
from serve_app.core.documents import has_surrogate
from serve_app.core.errors import InvalidInput, MetricFailed, NotServed, Unavailable
from serve_app.core.sampling import SamplingOptions
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
    ProfileName,
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
_STATUS_OF_CODE = {
    kind.code: kind.status for kind in (InvalidInput, NotServed, Unavailable, MetricFailed)
} | {"timeout": Unavailable.status}


@dataclass(frozen=True)
class Call(Generic[T]):
    """One request and how its answer is read.

    Attributes:
        method: `GET` or `POST`.
        path: the route.
        parse: turns the answer's JSON into the value the caller gets; raises ValueError.
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


def _post(path: str, parse: Callable[[bytes], T], body: str, request_id: str | None) -> Call[T]:
    return Call("POST", path, parse, body, request_id=request_id or uuid.uuid4().hex)


def _get(path: str, parse: Callable[[bytes], T], request_id: str | None) -> Call[T]:
    """Not ready (503) is an answer here, not an error; never retried."""
    read = frozenset({200, 503})
    identity = request_id or uuid.uuid4().hex
    return Call("GET", path, parse, readable=read, retried=False, request_id=identity)


def relevance(
    originals: Texts, generated: Texts, *, request_id: str | None = None
) -> Call[list[float]]:
    """BERTScore F1 of each pair."""
    return _of_pairs("relevance", RelevanceResponse, originals, generated, request_id)


def factuality(
    originals: Texts, generated: Texts, *, request_id: str | None = None
) -> Call[list[float]]:
    """AlignScore of each pair."""
    return _of_pairs("factuality", FactualityResponse, originals, generated, request_id)


def _of_pairs(
    metric: str,
    answer: type[BaseModel],
    originals: Texts,
    generated: Texts,
    request_id: str | None,
) -> Call[list[float]]:
    texts = _texts(originals)

    def parse(content: bytes) -> list[float]:
        return _counted(getattr(answer.model_validate_json(content), metric), texts)

    body = _body(PairsRequest, texts_original=texts, texts_generated=generated)
    return _post(f"/metrics/{metric}", parse, body, request_id)


def readability(texts: Texts, *, request_id: str | None = None) -> Call[ReadabilityResponse]:
    """FKGL, SMOG and Dale-Chall of each text."""
    body = _body(TextsRequest, texts=texts)
    return _post("/metrics/readability", ReadabilityResponse.model_validate_json, body, request_id)


def loss(
    originals: Texts,
    generated: Texts,
    humans: Texts | None = None,
    weights: Sequence[float] | None = None,
    *,
    profile: ProfileName | None = None,
    request_id: str | None = None,
) -> Call[list[float]]:
    """The loss of each pair, in [0, 1]; a list even for one pair.

    `weights` are relevance, factuality, fkgl, smog, dale_chall, with sum 1; `profile` says whom the
    texts are for (None: `cochrane`).
    """
    texts = _texts(originals)
    body = _body(
        LossRequest,
        texts_original=texts,
        texts_generated=generated,
        texts_human=humans,
        weights=weights,
        profile=profile,
    )

    def parse(content: bytes) -> list[float]:
        value = _ONE_OR_MANY.validate_json(content)
        return _counted(value if isinstance(value, list) else [value], texts)

    return _post("/loss", parse, body, request_id)


def evaluate(
    originals: Texts,
    generated: Texts | None = None,
    humans: Texts | None = None,
    weights: Sequence[float] | None = None,
    *,
    profile: ProfileName | None = None,
    n: int | None = None,
    seed: int | None = None,
    explain: bool = False,
    findings: bool = True,
    request_id: str | None = None,
) -> Call[EvaluateResponse]:
    """Metrics, errors and loss of each pair; without `generated` the server writes the summaries.

    It then writes `n` candidates of each (default 1) and evaluates the one of least loss. With
    `explain` each result has an `explanation`, unless `findings` is False, `findings` and
    `omissions` too.
    """
    body = _body(
        EvaluateRequest,
        texts_original=originals,
        texts_generated=generated,
        texts_human=humans,
        weights=weights,
        profile=profile,
        n=n,
        seed=seed,
        explain=explain,
        findings=findings,
    )
    return _post("/evaluate", EvaluateResponse.model_validate_json, body, request_id)


def generate(
    text: str,
    *,
    n: int | None = None,
    select: Select | None = None,
    weights: Sequence[float] | None = None,
    profile: ProfileName | None = None,
    request_id: str | None = None,
    **sampling: Unpack[SamplingOptions],
) -> Call[GenerateResponse]:
    """A summary of one text; with `n`, the answer's `candidates` has so many.

    With `select="loss"` they are scored, the best comes first, and the answer is that one's;
    `weights` and `profile` are of that loss.
    """
    body = _body(
        GenerateRequest,
        text=_text(text),
        stream=False,
        n=n,
        select=select,
        weights=weights,
        profile=profile,
        **sampling,
    )
    return _post("/generate", GenerateResponse.model_validate_json, body, request_id)


def generate_stream(
    text: str, *, request_id: str | None = None, **sampling: Unpack[SamplingOptions]
) -> Call[GenerateResponse]:
    """The summary's pieces as they are written, then the whole answer.

    Retried only until the stream begins; one that breaks off raises.
    """
    body = _body(GenerateRequest, text=_text(text), stream=True, **sampling)
    return _post("/generate", GenerateResponse.model_validate_json, body, request_id)


def generate_many(
    texts: Texts,
    *,
    n: int | None = None,
    select: Select | None = None,
    weights: Sequence[float] | None = None,
    profile: ProfileName | None = None,
    request_id: str | None = None,
    **sampling: Unpack[SamplingOptions],
) -> Call[list[GenerateResponse]]:
    """What `generate` gives, for each text, in one request."""
    originals = _texts(texts)
    body = _body(
        GenerateRequest,
        texts=originals,
        n=n,
        select=select,
        weights=weights,
        profile=profile,
        **sampling,
    )

    def parse(content: bytes) -> list[GenerateResponse]:
        return _counted(GenerateListResponse.model_validate_json(content).results, originals)

    return _post("/generate", parse, body, request_id)


def health(*, request_id: str | None = None) -> Call[HealthResponse]:
    """The state of the server, ready or not; never retried."""
    return _get("/healthz", HealthResponse.model_validate_json, request_id)


def status(*, request_id: str | None = None) -> Call[StatusResponse]:
    """Models, replicas and the rates of the last minutes, ready or not; never retried."""
    return _get("/status", StatusResponse.model_validate_json, request_id)


def _text(text: str) -> str:
    if not isinstance(text, str):
        raise InvalidInput(f"text: give a str, not {type(text).__name__}", field="text")
    return text


def _texts(texts: Texts) -> list[str]:
    return [texts] if isinstance(texts, str) else list(texts)


def _body(model: type[BaseModel], **values: Any) -> str:
    """The request as JSON without the values that are None; `texts...` and `weights` as lists.

    Raises:
        InvalidInput: a value that the contract refuses whatever the server's settings.
    """
    for name, value in values.items():
        if name.startswith("texts") and value is not None:
            values[name] = _texts(value)
        elif name == "weights" and value is not None:
            # numpy scalars are not the floats that JSON and the strict schema want.
            values[name] = [float(weight) for weight in value]
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
    return next(place for place, text in places if has_surrogate(str(text)))


def _counted(values: list[T], texts: list[str]) -> list[T]:
    if len(values) != len(texts):
        raise ValueError(f"{len(values)} values for {len(texts)} texts")
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
