"""`/v1/chat/completions` and `/v1/models`: the generator as OpenAI's clients call it.

Knows how a chat becomes the request of `/generate` and a summary becomes a completion. What is
written, and under which limits, is `/generate`'s.
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response

from serve_app.api.auth.api_key_gate import may_call
from serve_app.api.backend import Backend
from serve_app.api.routes.generate import streamed
from serve_app.api.validation import ERRORS, check_texts, params_of, within
from serve_app.core import openai_schemas as chat
from serve_app.core.errors import InvalidInput, NotAllowed, PlainMedError
from serve_app.core.sampling import GenerationParams
from serve_app.core.schemas import Sampling
from serve_app.core.settings import Settings
from serve_app.generation import best_of
from serve_app.generation.protocol import Summary
from serve_app.generation.stop_sequences import StopCutter

MODELS_PATH = "/v1/models"
ANY_MODEL = "plainmed"
"""A name for whatever model the server runs, for configurations that outlive it."""

_LIMIT = "max_new_tokens"


class NoSuchModel(PlainMedError):
    """The model asked for is not the one that runs: 404."""

    code = "model_not_found"
    status = 404


@dataclass(frozen=True)
class _Ask:
    """What a chat asks of the generator, and what its completion says."""

    text: str
    params: GenerationParams
    stops: list[str]
    model: str
    names: dict[str, str]
    """The chat's fields, by those of `/generate`."""
    not_read: list[int]
    id: str = field(default_factory=lambda: f"chatcmpl-{uuid.uuid4().hex}")
    created: int = field(default_factory=lambda: int(time.time()))

    def notes(self, summary: Summary) -> chat.ChatNotes:
        """What OpenAI's fields cannot say of its summary."""
        return chat.ChatNotes(
            finish_reason=summary.finish_reason,
            truncated=summary.truncated,
            messages_not_read=self.not_read,
        )


def add_chat(app: FastAPI, backend: Backend, settings: Settings) -> None:
    """Adds both routes."""
    started = int(time.time())

    @app.get(MODELS_PATH, response_model=chat.ModelList, responses=_MODELS_ERRORS)
    async def models(request: Request) -> chat.ModelList:
        """The model that `/v1/chat/completions` takes, as OpenAI's clients list it."""
        if not may_call(request.scope, "generator"):
            raise NotAllowed("this key may not call the generator; ask the operator of this server")
        model = await within(backend.writer(), settings)
        return chat.ModelList(data=[chat.ModelCard(id=model, created=started)])

    @app.post(
        "/v1/chat/completions",
        response_model=chat.ChatCompletion,
        responses={**ERRORS, 200: {"content": {"text/event-stream": {}}}},
    )
    async def completions(body: chat.ChatRequest, request: Request) -> Response:
        """A plain-language summary of the last message of the user, for OpenAI's clients.

        Other messages are not read, and `plainmed.messages_not_read` counts them. With
        `stream: true`, chunks as OpenAI's, ended by `data: [DONE]` or by the body of an error. A
        field that PlainMed does not know is refused with 400 `unsupported_field`. Errors also have
        `param` (as `field`) and `type`, OpenAI's names.
        """
        ask = await _asked(body, backend, settings)
        if body.stream:
            options = body.stream_options or chat.StreamOptions()
            form = _Chunks(ask, options.include_usage)
            return await streamed(_pieces(ask, backend), form, request.scope, settings)

        async def work() -> Summary:
            groups = await best_of.write(backend.generate, [ask.text], ask.params, 1, "text")
            return groups[0][0].summary

        with _in_chat_words(ask.names):
            summary = _cut(await within(work(), settings), ask.stops)
        return JSONResponse(_completion(ask, summary).model_dump())


_MODELS_ERRORS: dict[int | str, dict[str, Any]] = {
    status: ERRORS[status] for status in (400, 401, 403, 429, 500, 503)
}


async def _asked(body: chat.ChatRequest, backend: Backend, settings: Settings) -> _Ask:
    """The request of `/generate` that a chat stands for.

    Raises:
        PlainMedError: there is none, or it is refused.
    """
    model = await within(backend.writer(), settings)
    if body.model not in (model, ANY_MODEL):
        raise NoSuchModel(
            f"this server runs {model}; ask for that, or for {ANY_MODEL}, which is any",
            field="model",
        )
    mine = [at for at, one in enumerate(body.messages) if one.role == "user"]
    if not mine:
        raise InvalidInput(
            "the last message of the user is the text to summarise, and there is none",
            field="messages",
        )
    limit, other = body.max_completion_tokens, body.max_tokens
    if None not in (limit, other) and limit != other:
        raise InvalidInput("give max_completion_tokens or max_tokens, not both", field="max_tokens")
    names = {
        "text": f"messages[{mine[-1]}].content",
        _LIMIT: "max_tokens" if limit is None else "max_completion_tokens",
    }
    text = body.messages[mine[-1]].text
    with _in_chat_words(names):
        check_texts([text], "text", settings)
        params = params_of(
            Sampling(
                max_new_tokens=other if limit is None else limit,
                temperature=body.temperature,
                top_p=body.top_p,
                seed=body.seed,
            ),
            settings,
        )
    not_read = [at for at in range(len(body.messages)) if at != mine[-1]]
    return _Ask(text, params, body.stop or [], model, names, not_read)


@contextmanager
def _in_chat_words(names: dict[str, str]) -> Iterator[None]:
    """Puts the chat's field in the place of `/generate`'s in an error."""
    try:
        yield
    except PlainMedError as error:
        message = error.message.replace(_LIMIT, names[_LIMIT])
        name = names.get(error.field or "", error.field)
        raise type(error)(message, field=name, code=error.code) from None


def _cut(summary: Summary, stops: list[str]) -> Summary:
    """The summary up to the first stop sequence; its tokens stay those that were written."""
    cutter = StopCutter(stops)
    text = cutter.push(summary.text)
    if cutter.found:
        return replace(summary, text=text, finish_reason="stop")
    return summary


async def _pieces(ask: _Ask, backend: Backend) -> AsyncIterator[str | Summary]:
    """The stream up to a stop sequence, which ends the engine's work too.

    Nobody has counted the tokens of a summary ended so.
    """
    cutter = StopCutter(ask.stops)
    with _in_chat_words(ask.names):
        async with aclosing(backend.stream(ask.text, ask.params)) as source:  # type: ignore[type-var]
            async for item in source:
                if isinstance(item, Summary):
                    if rest := cutter.rest():
                        yield rest
                    yield item
                    return
                if ready := cutter.push(item):
                    yield ready
                if cutter.found:
                    yield Summary("", ask.model, "stop")
                    return


def _reason(summary: Summary) -> chat.FinishReason:
    return "stop" if summary.finish_reason == "stop" else "length"


def _usage(summary: Summary) -> chat.ChatUsage | None:
    """None where the engine has no tokens."""
    read, written = summary.prompt_tokens, summary.completion_tokens
    if not read + written:
        return None
    return chat.ChatUsage(
        prompt_tokens=read, completion_tokens=written, total_tokens=read + written
    )


def _completion(ask: _Ask, summary: Summary) -> chat.ChatCompletion:
    answer = chat.ChatAnswer(content=summary.text)
    return chat.ChatCompletion(
        id=ask.id,
        created=ask.created,
        model=summary.model,
        choices=[chat.ChatChoice(message=answer, finish_reason=_reason(summary))],
        usage=_usage(summary),
        plainmed=ask.notes(summary),
    )


class _Chunks:
    """OpenAI's chunks: the role, the pieces, the end, the tokens where wanted, `[DONE]`."""

    def __init__(self, ask: _Ask, include_usage: bool) -> None:
        self._ask, self._include_usage = ask, include_usage
        self._begun = False

    def piece(self, text: str) -> str:
        """A chunk with a piece of the summary; the first has the role."""
        role = {} if self._begun else {"role": "assistant"}
        self._begun = True
        return self._chunk([_choice({**role, "content": text})])

    def done(self, summary: Summary) -> str:
        """The chunk that ends the summary, and all after it."""
        notes = self._ask.notes(summary).model_dump()
        usage = _usage(summary)
        chunks = self._chunk([_choice({}, _reason(summary))], plainmed=notes)
        if self._include_usage and usage is not None:
            chunks += self._chunk([], usage=usage.model_dump())
        return f"{chunks}data: [DONE]\n\n"

    def error(self, body: dict[str, Any]) -> str:
        """What OpenAI's clients raise as an `APIError`."""
        message = body["error"]["message"]
        body["error"]["message"] = message.replace(_LIMIT, self._ask.names[_LIMIT])
        return f"data: {json.dumps(body)}\n\n"

    def _chunk(self, choices: list[dict[str, Any]], **more: Any) -> str:
        body = {
            "id": self._ask.id,
            "object": "chat.completion.chunk",
            "created": self._ask.created,
            "model": self._ask.model,
            "choices": choices,
            **more,
        }
        return f"data: {json.dumps(body)}\n\n"


def _choice(delta: dict[str, str], reason: str | None = None) -> dict[str, Any]:
    return {"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}
