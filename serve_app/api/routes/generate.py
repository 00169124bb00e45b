"""The route `/generate`: one text or several, one summary or the best of n, whole or streamed."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from typing import Any, Protocol

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from starlette.types import Scope

from serve_app.api.auth.api_key_gate import may_call
from serve_app.api.backend import Backend
from serve_app.api.middleware.gate import ERROR_CODE, ITEMS, error_answer
from serve_app.api.middleware.request_guard import logger
from serve_app.api.serializers import SENTENCE_CHARS, scores_out
from serve_app.api.validation import (
    ERRORS,
    check_answer,
    check_count,
    check_texts,
    params_of,
    profile_of,
    within,
)
from serve_app.core import schemas
from serve_app.core.context import current_context
from serve_app.core.errors import (
    InvalidInput,
    NotAllowed,
    NotServed,
    PlainMedError,
    Unavailable,
)
from serve_app.core.observability.log_redaction import frames
from serve_app.core.settings import Settings
from serve_app.generation import best_of
from serve_app.generation.best_of import Candidate, Candidates
from serve_app.generation.protocol import Summary
from serve_app.metrics.profiles import weights_of


def add_generate(app: FastAPI, backend: Backend, settings: Settings) -> None:
    """Adds the route; where the metrics are not served, `select` is refused."""

    @app.post(
        "/generate",
        response_model=schemas.GenerateResponse | schemas.GenerateListResponse,
        responses={**ERRORS, 200: {"content": {"text/event-stream": {}}}},
    )
    async def generate(body: schemas.GenerateRequest, request: Request) -> Response:
        """A plain-language summary of `text`, or of each of `texts`.

        `n` asks for so many candidates of each, listed in `candidates`; with `select: "loss"` they
        are scored, and the best comes first and is the answer's own summary.

        With `stream: true`, server-sent events: `data: {"text": piece}`, then one `event: done`
        whose data is the usual answer, or one `event: error` with the usual error body.
        """
        texts, field, n = _checked(body, settings)
        request.scope[ITEMS] = n * len(texts)
        weights = _selecting_weights(body, backend, request.scope)
        params = params_of(body, settings)
        if body.stream:
            return await streamed(
                backend.stream(texts[0], params), _OwnEvents(), request.scope, settings
            )

        async def work() -> list[Candidates]:
            groups = await best_of.write(backend.generate, texts, params, n, field)
            if weights is None:
                return groups
            return await best_of.choose(
                backend.evaluate, texts, groups, None, weights, profile_of(body)
            )

        groups = await within(work(), settings)
        check_answer(sum(summary_chars(one.summary) for group in groups for one in group))
        answers = [generate_out(group, body.select, weights, body.profile) for group in groups]
        if body.texts is None:
            return JSONResponse(answers[0].model_dump())
        return JSONResponse(schemas.GenerateListResponse(results=answers).model_dump())


def summary_out(summary: Summary) -> schemas.GenerateResponse:
    """The answer of `/generate` for one text, written once."""
    return schemas.GenerateResponse(**_summary_fields(summary))


def generate_out(
    candidates: Sequence[Candidate],
    select: schemas.Select | None,
    weights: list[float] | None,
    profile: schemas.ProfileName | None = None,
) -> schemas.GenerateResponse:
    """The answer of `/generate` for one text: its first candidate, and all where it has several.

    A selection shows its candidate's scores even where there is only one.
    """
    if len(candidates) == 1 and select is None:
        return summary_out(candidates[0].summary)
    return schemas.GenerateResponse(
        **_summary_fields(candidates[0].summary),
        candidates=candidates_out(candidates),
        select=select,
        weights=weights,
        profile=profile,
    )


def candidates_out(candidates: Sequence[Candidate]) -> list[schemas.CandidateOut]:
    """Every candidate of a text, in the order given."""
    return [
        schemas.CandidateOut(
            **_summary_fields(one.summary), variant=one.variant, scores=scores_out(one.evaluation)
        )
        for one in candidates
    ]


def summary_chars(summary: Summary) -> int:
    """About how many characters a summary has in an answer."""
    return len(summary.text) + sum(
        SENTENCE_CHARS + len(one.text) + len(one.source or "") for one in summary.sentences
    )


def _summary_fields(summary: Summary) -> dict[str, Any]:
    """The fields of a `SummaryOut`."""
    return {
        "summary": summary.text,
        "model": summary.model,
        "finish_reason": summary.finish_reason,
        "truncated": summary.truncated,
        "usage": schemas.Usage.model_validate(summary),
        "sentences": [
            schemas.SummarySentenceOut(
                text=sentence.text,
                source=sentence.source,
                source_index=sentence.source_index,
                replacements=[
                    schemas.Replaced(term=term, plain=plain)
                    for term, plain in sentence.replacements
                ],
            )
            for sentence in summary.sentences
        ],
    }


def _checked(body: schemas.GenerateRequest, settings: Settings) -> tuple[list[str], str, int]:
    """The texts, their field, and the number of candidates of each."""
    if body.text is not None and body.texts is not None:
        raise InvalidInput("give text or texts, not both", field="texts")
    if body.text is not None:
        texts, field = [body.text], "text"
    elif body.texts is not None:
        texts, field = body.texts, "texts"
    else:
        message = "text is required (or texts, for several)"
        raise InvalidInput(message, field="text", code="missing_field")
    check_texts(texts, field, settings)
    n = check_count(body.n, len(texts), settings)
    if body.stream and (body.texts is not None or n > 1 or body.select is not None):
        raise InvalidInput(
            "stream is for one text without candidates: leave out stream, or texts, n and select",
            field="stream",
        )
    return texts, field, n


def _selecting_weights(
    body: schemas.GenerateRequest, backend: Backend, scope: Scope
) -> list[float] | None:
    """The weights of the loss that selects; None where nothing is selected."""
    if body.select is None:
        for name in ("weights", "profile"):
            if getattr(body, name) is not None:
                said = f'{name}: only for the loss that selects; give select: "loss" too'
                raise InvalidInput(said, field=name)
        return None
    if "metrics" not in backend.services:
        raise NotServed(
            "select needs the metrics, and this server runs without them; start one with "
            "services: [metrics, generator]",
            field="select",
        )
    if not may_call(scope, "metrics"):
        raise NotAllowed("this key may not call the metrics; leave out select", field="select")
    return weights_of(profile_of(body), body.weights)


class EventForm(Protocol):
    """How the parts of a streamed summary are written as server-sent events."""

    def piece(self, text: str) -> str:
        """A piece of the summary."""

    def done(self, summary: Summary) -> str:
        """The end of a whole one."""

    def error(self, body: dict[str, Any]) -> str:
        """The end of one that failed, with the body of an error answer."""


class _OwnEvents:
    """The events of `/generate`."""

    def piece(self, text: str) -> str:
        return f"data: {json.dumps({'text': text})}\n\n"

    def done(self, summary: Summary) -> str:
        return f"event: done\ndata: {summary_out(summary).model_dump_json()}\n\n"

    def error(self, body: dict[str, Any]) -> str:
        return f"event: error\ndata: {json.dumps(body)}\n\n"


async def streamed(
    pieces: AsyncIterator[str | Summary], form: EventForm, scope: Scope, settings: Settings
) -> StreamingResponse:
    """The answer that streams `pieces`, the last of which is the summary.

    Raises:
        PlainMedError: the text is refused; the first piece is awaited, so that this is a 4xx.
    """
    seconds = min(settings.request_timeout_s, current_context().left())
    ends = asyncio.get_running_loop().time() + seconds
    first = await within(anext(pieces), settings)
    return StreamingResponse(
        _events(first, pieces, ends, scope, form),
        media_type="text/event-stream",
        headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"},
    )


async def _events(
    first: str | Summary,
    rest: AsyncIterator[str | Summary],
    ends: float,
    scope: Scope,
    form: EventForm,
) -> AsyncIterator[str]:
    """The stream as server-sent events, ended by exactly one `done` or `error`.

    Args:
        first: its first piece.
        rest: the others.
        ends: the request's deadline on the running loop's clock.
        scope: of the request; takes the code of an error, as the status is already sent.
        form: writes the events.
    """
    item = first
    try:
        while isinstance(item, str):
            yield form.piece(item)
            item = await _next(rest, ends)
        yield form.done(item)
    except PlainMedError as error:
        if error.status >= 500:
            logger.error("%s: %s", error.code, type(error).__name__)
        yield _error(form, scope, error.status, error.code, error.message, error.field)
    except Exception as error:  # the status is sent, so only this event can tell
        logger.error("a stream failed: %s", frames(error))
        message = "an internal error ended the stream"
        yield _error(form, scope, 500, "internal_error", message)


async def _next(rest: AsyncIterator[str | Summary], ends: float) -> str | Summary:
    try:
        async with asyncio.timeout_at(ends):
            return await anext(rest)
    except TimeoutError:
        raise Unavailable(
            "the summary was not finished within the request's time; lower max_new_tokens, or try "
            "again",
            code="timeout",
        ) from None


def _error(
    form: EventForm, scope: Scope, status: int, code: str, message: str, field: str | None = None
) -> str:
    scope[ERROR_CODE] = code
    return form.error(error_answer(scope, status, code, message, field))
