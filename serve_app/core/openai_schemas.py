"""The bodies of `/v1/chat/completions` and `/v1/models`, as OpenAI's clients send and read them.

Knows which of OpenAI's fields mean something here. Those that do not are refused unless their value
asks for nothing (`n: 1`, `tools: []`), since clients send such values on their own.

Source: https://platform.openai.com/docs/api-reference/chat
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeAlias

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StrictBool,
    StrictStr,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
    model_validator,
)
from pydantic_core import PydanticCustomError

from serve_app.core.sampling import MaxNewTokens, Seed, Temperature, TopP
from serve_app.core.schemas import ABSENT, Request

UNSUPPORTED = "unsupported_field"
"""Type of the validation error of a value that asks for what PlainMed does not do."""


def _refuse(value: Any, handler: ValidatorFunctionWrapHandler) -> Any:
    try:
        return handler(value)
    except ValidationError:
        raise PydanticCustomError(
            UNSUPPORTED, "this value is not supported; leave it out"
        ) from None


_ELSE_UNSUPPORTED = WrapValidator(_refuse)
_Zero: TypeAlias = Annotated[float, Field(strict=True, ge=0, le=0), _ELSE_UNSUPPORTED]
_Nothing: TypeAlias = Annotated[list[Any], Field(max_length=0), _ELSE_UNSUPPORTED]
_Empty: TypeAlias = Annotated[dict[str, Any], Field(max_length=0), _ELSE_UNSUPPORTED]


class _Lenient(Request):
    """Refuses unknown fields unless they are null, as some clients send all they know."""

    model_config = ConfigDict(json_schema_extra={"additionalProperties": {"type": "null"}})

    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        return {
            name: one for name, one in value.items() if one is not None or name in cls.model_fields
        }


class TextPart(Request):
    """A part of a message; images, sounds and files are refused."""

    type: Annotated[Literal["text"], _ELSE_UNSUPPORTED]
    text: StrictStr


def _parts(value: Any) -> Any:
    return [{"type": "text", "text": value}] if isinstance(value, str) else value


class ChatMessage(_Lenient):
    """A message; of a conversation only the last one of the user is read."""

    role: Annotated[Literal["system", "developer", "user", "assistant"], _ELSE_UNSUPPORTED]
    content: (
        Annotated[
            list[TextPart],
            BeforeValidator(_parts, json_schema_input_type=StrictStr | list[TextPart]),
        ]
        | None
    ) = Field(None, description="The text; parts are joined by blank lines.")
    name: StrictStr | None = Field(None, description="Not read.")
    refusal: StrictStr | None = Field(None, description="Not read, as all below.")
    annotations: list[Any] | None = None
    tool_calls: _Nothing | None = None

    @property
    def text(self) -> str:
        """The text of all parts."""
        return "\n\n".join(part.text for part in self.content or [])


class StreamOptions(Request):
    """What a stream brings beside the text."""

    include_usage: StrictBool = Field(
        False, description="A last chunk with the tokens, where the engine counts them."
    )


class TextFormat(Request):
    """The one format of answers."""

    type: Annotated[Literal["text"], _ELSE_UNSUPPORTED]


Stop = Annotated[StrictStr, Field(min_length=1)]


class ChatRequest(_Lenient):
    """A text to summarise, as a chat. Fields from `n` on only say that nothing more is wanted."""

    model: StrictStr = Field(description="An id of `/v1/models`, or `plainmed`: whatever runs.")
    messages: list[ChatMessage] = Field(
        description="The last one of the user is the original, all of it."
    )
    max_completion_tokens: MaxNewTokens | None = Field(
        None, strict=True, description="Longest summary, in tokens; at most MAX_NEW_TOKENS."
    )
    max_tokens: MaxNewTokens | None = Field(
        None, strict=True, description="Its older name; give one of the two."
    )
    temperature: Temperature | None = Field(None, strict=True, description="0 decodes greedily.")
    top_p: TopP | None = Field(None, strict=True, description="Top-p (nucleus) sampling threshold.")
    seed: Seed | None = Field(
        None, strict=True, description="Random seed, for reproducible output."
    )
    stop: (
        Annotated[
            list[Stop],
            Field(max_length=4),
            BeforeValidator(
                lambda value: [value] if isinstance(value, str) else value,
                json_schema_input_type=Stop | Annotated[list[Stop], Field(max_length=4)],
            ),
        ]
        | None
    ) = Field(None, description="The summary ends before the first of these.")
    stream: StrictBool | None = Field(False, description="Answer with server-sent events.")
    stream_options: StreamOptions | None = None
    user: StrictStr | None = Field(None, description="Not read.")
    n: Annotated[Literal[1], _ELSE_UNSUPPORTED] | None = None
    frequency_penalty: _Zero | None = None
    presence_penalty: _Zero | None = None
    logit_bias: _Empty | None = None
    logprobs: Annotated[Literal[False], _ELSE_UNSUPPORTED] | None = None
    response_format: TextFormat | None = None
    store: Annotated[Literal[False], _ELSE_UNSUPPORTED] | None = None
    tools: _Nothing | None = None
    tool_choice: Annotated[Literal["none", "auto"], _ELSE_UNSUPPORTED] | None = None


FinishReason = Literal["stop", "length"]


class ChatUsage(BaseModel):
    """Tokens read and written."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class ChatAnswer(BaseModel):
    """What the model says."""

    role: Literal["assistant"] = "assistant"
    content: str
    refusal: None = None


class ChatChoice(BaseModel):
    """The one answer."""

    index: Literal[0] = 0
    message: ChatAnswer
    logprobs: None = None
    finish_reason: FinishReason


class ChatNotes(BaseModel):
    """What OpenAI's fields cannot say."""

    finish_reason: str = Field(description="As of `/generate`: `time` is `length` in the choice.")
    truncated: bool = Field(description="Whether part of the original was not read.")
    messages_not_read: list[int] = Field(description="Positions of all other messages.")


class ChatCompletion(BaseModel):
    """A summary in the form of OpenAI's `chat.completion`."""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int = Field(description="Seconds since 1970.")
    model: str
    choices: list[ChatChoice]
    usage: ChatUsage | None = Field(
        None, exclude_if=ABSENT, description="Of engines that count tokens."
    )
    plainmed: ChatNotes


class ModelCard(BaseModel):
    """The model that writes."""

    id: str
    object: Literal["model"] = "model"
    created: int = Field(description="When this gateway started, in seconds since 1970.")
    owned_by: Literal["plainmed"] = "plainmed"


class ModelList(BaseModel):
    """The models that `/v1/chat/completions` takes."""

    object: Literal["list"] = "list"
    data: list[ModelCard]
