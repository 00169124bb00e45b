"""The `openai` generator engine: a model behind any OpenAI-compatible HTTP endpoint.

Knows the chat completions protocol through the official client, which also retries. Knows no
tokenizer and no server of ours; safe to use from several threads. Texts leave this process.
"""

from __future__ import annotations

import asyncio
import logging
import queue
import time
from collections.abc import Callable, Sequence
from http import HTTPStatus
from typing import Any, Literal
from urllib.parse import urlsplit

from serve_app.core.errors import ConfigError, PlainMedError
from serve_app.generation.detokenizer import final_text
from serve_app.generation.openai.event_loop import POLL_S, AsyncCalls
from serve_app.generation.openai.messages import chat_messages
from serve_app.generation.params import own_seed, require_params
from serve_app.generation.protocol import GenerationParams, PieceIterator, Summary
from serve_app.text.validation import require_text

try:
    import openai
    from openai.types.chat import ChatCompletion, ChatCompletionChunk
except ImportError as error:
    raise ConfigError(
        "GENERATOR is openai, but the openai package is missing: pip install 'plainmed[openai]'"
    ) from error

from serve_app.generation.openai.errors import broken_off, not_understood, translate, withheld

MaxTokensField = Literal["max_tokens", "max_completion_tokens"]
RepeatPenaltyField = Literal["none", "repetition_penalty", "repeat_penalty"]

CONNECT_TIMEOUT_S = 10.0
"""Longest time until a connection stands; a wait for tokens is bounded by `timeout_s`."""

logger = logging.getLogger(__name__)

_WAIT_PAUSE_S = 1.0
_SEEDS = 2**31  # llama.cpp keeps 32 bits of a seed
_VARIANT_STEP = 1_000_003
_NO_KEY = "none"  # the client insists on one; servers without keys ignore it
_WRITTEN = {"stop", "length"}


class OpenAIGenerator:
    """Summaries by a remote model; an engine of the `Generator` protocol.

    Usage is what the server reports, 0 where it reports none.

    Args:
        base_url: root of the API, such as `http://127.0.0.1:8000/v1`.
        model: the model's name there.
        api_key: unset for servers that want none.
        system_prompt: instruction; may be empty.
        user_prefix: put before every text; may be empty.
        timeout_s: longest time for one summary once its request is sent, retries included, > 0.
        max_retries: further tries after 408, 409, 429, 5xx or a broken connection, >= 0, with
            growing pauses or those of Retry-After. A stream is tried again until it has begun.
        concurrency: most requests under way at once, >= 1.
        max_tokens_field: the protocol's name of `max_new_tokens` that this server takes.
        repeat_penalty_field: the server's name of `repeat_penalty`; `none` sends none, since the
            protocol has no such field and strict servers refuse it.
    """

    candidates_together = False

    def __init__(
        self,
        base_url: str,
        model: str,
        *,
        system_prompt: str,
        user_prefix: str,
        api_key: str | None = None,
        timeout_s: float = 240.0,
        max_retries: int = 3,
        concurrency: int = 16,
        max_tokens_field: MaxTokensField = "max_tokens",
        repeat_penalty_field: RepeatPenaltyField = "none",
    ) -> None:
        self.name = model
        self.device = urlsplit(base_url).netloc.rpartition("@")[2]
        self.batch_size = concurrency
        self.timeout_s = timeout_s
        self._system_prompt = system_prompt
        self._user_prefix = user_prefix
        self._max_tokens_field = max_tokens_field
        self._repeat_penalty_field = repeat_penalty_field
        # At DEBUG the client would log what it sends, and so medical text.
        logging.getLogger("openai").setLevel(logging.INFO)
        self._client = openai.AsyncOpenAI(
            base_url=base_url,
            api_key=api_key or _NO_KEY,
            max_retries=max_retries,
            timeout=openai.Timeout(timeout_s, connect=min(CONNECT_TIMEOUT_S, timeout_s)),
        )
        self._slots = asyncio.Semaphore(concurrency)
        self._calls = AsyncCalls(f"openai-{self.device}")

    def wait_until_up(self, timeout_s: float) -> None:
        """Returns once the server answers a question for its models, or with an error that time
        will not mend.

        A server that starts beside this one, such as vLLM in the same cluster, needs minutes.

        Args:
            timeout_s: how long to wait; 0 asks once.

        Raises:
            PlainMedError: it did not come up, or wants another key.
        """
        deadline = time.monotonic() + timeout_s
        while True:
            try:
                self._calls.gather([self._ask_for_models(min(10.0, self.timeout_s))])
                return
            except openai.APIStatusError as error:
                starting = error.status_code >= HTTPStatus.INTERNAL_SERVER_ERROR
                missing = error.status_code == HTTPStatus.NOT_FOUND
                if time.monotonic() >= deadline or not (starting or missing):
                    if missing:  # some servers do not list models
                        return
                    raise self._translate(error) from None
            except (openai.OpenAIError, TimeoutError) as error:
                if time.monotonic() >= deadline:
                    raise self._translate(error) from None
            logger.info("waiting for %s", self.device)
            time.sleep(min(_WAIT_PAUSE_S, max(0.0, deadline - time.monotonic())))

    async def _ask_for_models(self, timeout_s: float) -> None:
        async with asyncio.timeout(timeout_s):
            await self._client.with_options(max_retries=0).models.list()

    def validate(self, text: str, params: GenerationParams) -> None:
        """As the protocol says; whether a text fits the model's context only the server knows."""
        require_text(text, "text")
        require_params(params)

    def generate(
        self,
        texts: Sequence[str],
        params: Sequence[GenerationParams],
        *,
        cancelled: Callable[[int], bool] | None = None,
        tenant: str | None = None,
    ) -> list[Summary]:
        """As the protocol says; at most `batch_size` requests at a time, over all calls.

        The first error ends the call and its other requests. A cancelled text has an empty
        summary: nothing of it was received.

        Raises:
            InvalidInput: also `input_too_long`: a text does not fit the model's context.
            Unavailable: the server is overloaded, cannot be reached or takes too long.
            PlainMedError: `generation_failed`: it refuses the key, the model or the request.
        """
        for text, one in zip(texts, params, strict=True):
            self.validate(text, one)
        works = [self._complete(*pair) for pair in zip(texts, params, strict=True)]
        found = self._calls.gather(works, cancelled)
        return [self._summary("", "cancelled") if item is None else item for item in found]

    def stream(
        self,
        text: str,
        params: GenerationParams,
        *,
        cancelled: Callable[[], bool] | None = None,
        tenant: str | None = None,
    ) -> PieceIterator:
        """As the protocol says; closing the iterator closes the HTTP response.

        Raises:
            InvalidInput: the text or a parameter; raised here. That a text does not fit the
                model's context only the server knows: raised where the first piece is asked for.
            PlainMedError: as `generate`, where a piece is asked for.
        """
        self.validate(text, params)
        return self._stream(text, params, cancelled)

    def close(self) -> None:
        """Ends what is under way and closes the connections."""
        self._calls.gather([self._client.close()])
        self._calls.close()

    async def _complete(self, text: str, params: GenerationParams) -> Summary:
        request = self._request(text, params)
        try:
            async with self._slots, asyncio.timeout(self.timeout_s):
                answer = await self._client.chat.completions.create(**request)
        except (openai.OpenAIError, TimeoutError, ValueError) as error:
            raise self._translate(error) from None
        # With a page in place of JSON the client gives a string.
        if not isinstance(answer, ChatCompletion) or not answer.choices:
            raise not_understood(self.device)
        choice = answer.choices[0]
        if choice.finish_reason not in _WRITTEN:
            raise withheld(self.device, str(choice.finish_reason))
        return self._summary(
            final_text(choice.message.content or ""), choice.finish_reason, answer.usage
        )

    def _stream(
        self, text: str, params: GenerationParams, cancelled: Callable[[], bool] | None
    ) -> PieceIterator:
        items: queue.SimpleQueue[Any] = queue.SimpleQueue()
        job = self._calls.submit(self._feed(text, params, items.put))
        received, given = "", ""
        finish_reason, usage = None, None
        try:
            while True:
                if cancelled is not None and cancelled():
                    finish_reason = "cancelled"
                    break
                try:
                    item = items.get(timeout=POLL_S)
                except queue.Empty:
                    if job.done() and items.empty():
                        job.result()  # raises what nobody foresaw, rather than wait for ever
                    continue
                if item is None:
                    break
                if isinstance(item, PlainMedError):
                    raise item
                if not isinstance(item, ChatCompletionChunk):
                    raise not_understood(self.device)
                usage = item.usage or usage
                for choice in (item.choices or [])[:1]:
                    finish_reason = choice.finish_reason or finish_reason
                    received += (choice.delta and choice.delta.content) or ""
                # White space and an unfinished character may yet turn out to be the end.
                certain = final_text(received)
                if len(certain) > len(given):
                    piece, given = certain[len(given) :], certain
                    yield piece
        finally:
            job.cancel()
        if finish_reason is None:
            raise broken_off(self.device)
        if finish_reason not in {*_WRITTEN, "cancelled"}:
            raise withheld(self.device, finish_reason)
        yield self._summary(given, finish_reason, usage)

    async def _feed(
        self, text: str, params: GenerationParams, put: Callable[[object], None]
    ) -> None:
        """Puts every chunk, then None; or the error that ended them."""
        request = self._request(text, params)
        try:
            async with self._slots, asyncio.timeout(self.timeout_s):
                chunks = await self._client.chat.completions.create(
                    **request, stream=True, stream_options={"include_usage": True}
                )
                async with chunks:
                    async for chunk in chunks:
                        put(chunk)
            put(None)
        except (openai.OpenAIError, TimeoutError, ValueError) as error:
            put(self._translate(error))

    def _request(self, text: str, params: GenerationParams) -> dict[str, Any]:
        request: dict[str, Any] = {
            "model": self.name,
            "messages": chat_messages(
                text, system_prompt=self._system_prompt, user_prefix=self._user_prefix
            ),
            "temperature": params.temperature,
            "top_p": params.top_p,
            self._max_tokens_field: params.max_new_tokens,
        }
        seed = own_seed(params, variant_step=_VARIANT_STEP, below=_SEEDS)
        if seed is not None:
            request["seed"] = seed
        if self._repeat_penalty_field != "none" and params.repeat_penalty != 1:
            request["extra_body"] = {self._repeat_penalty_field: params.repeat_penalty}
        return request

    def _summary(self, text: str, finish_reason: str, usage: Any = None) -> Summary:
        return Summary(
            text=text,
            model=self.name,
            finish_reason=finish_reason,
            prompt_tokens=usage.prompt_tokens or 0 if usage else 0,
            completion_tokens=usage.completion_tokens or 0 if usage else 0,
        )

    def _translate(self, error: Exception) -> PlainMedError:
        return translate(error, endpoint=self.device, model=self.name, timeout_s=self.timeout_s)
