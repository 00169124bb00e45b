"""The `openai` generator engine: a model behind any OpenAI-compatible HTTP endpoint.

Knows the chat completions protocol through the official client, which also retries. Knows no
tokenizer and no server of ours; safe to use from several threads. Texts leave this process. All
requests run in one event loop in a thread of its own.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import queue
import re
import threading
import time
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Literal, TypeVar
from urllib.parse import urlsplit

from serve_app.core.errors import ConfigError, PlainMedError
from serve_app.generation.prompts import chat_messages
from serve_app.generation.protocol import (
    GenerationParams,
    PieceIterator,
    Summary,
    require_words,
)
from serve_app.generation.text_stream import (
    TextStream,
    begins_in_reasoning,
    final_text,
    reasoning_of,
)
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
"""Longest time to connect; waiting for tokens is bounded by `timeout_s`."""

POLL_S = 0.05
"""How often `cancelled` is polled."""

Result = TypeVar("Result")

logger = logging.getLogger(__name__)

_WAIT_PAUSE_S = 1.0
_SEEDS = 2**31  # llama.cpp keeps 32 bits of a seed
_VARIANT_STEP = 1_000_003
_NO_KEY = "none"  # the client requires one; servers without keys ignore it
_COMPLETE = {"stop", "length"}

# Names of models that reason, such as DeepSeek-R1, QwQ and Qwen3-Thinking. Their chat templates
# often open the reasoning, so that an answer begins in it without a tag.
_REASONING_NAME = re.compile(
    r"(?<![a-z])(r1|qwq|think\w*|reason\w*|magistral)(?![a-z])", re.IGNORECASE
)


class OpenAIGenerator:
    """Summaries by a remote model; an engine of the `Generator` protocol.

    Usage is what the server reports, 0 where it reports none.

    Args:
        base_url: root of the API, such as `http://127.0.0.1:8000/v1`.
        model: the model's name there.
        api_key: None for servers that want none.
        system_prompt: instruction; may be empty.
        user_prefix: put before every text; may be empty.
        timeout_s: longest time for one summary once its request is sent, retries included, > 0.
        max_retries: further tries after 408, 409, 429, 5xx or a broken connection, >= 0, with
            growing pauses or those of Retry-After. A stream is tried again until it has begun.
        concurrency: most concurrent requests, >= 1.
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
            http_client=_http_client(base_url),
        )
        self._reasons = False  # known once a model has closed reasoning that it had not opened
        self._may_reason = _REASONING_NAME.search(model) is not None  # until an answer says
        self._slots = asyncio.Semaphore(concurrency)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(
            target=self._loop.run_forever, name=f"openai-{self.device}", daemon=True
        )
        self._thread.start()

    def wait_until_up(self, timeout_s: float) -> None:
        """Waits until the server lists its models; one that starts beside this one needs minutes.

        Args:
            timeout_s: how long to wait; 0 asks once.

        Raises:
            PlainMedError: it did not come up, or wants another key.
        """
        deadline = time.monotonic() + timeout_s
        while True:
            try:
                self._submit(self._list_models(min(10.0, self.timeout_s))).result()
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

    async def _list_models(self, timeout_s: float) -> None:
        async with asyncio.timeout(timeout_s):
            await self._client.with_options(max_retries=0).models.list()

    def validate(self, text: str, params: GenerationParams) -> None:
        """As the protocol says; only the server knows whether a text fits the model's context."""
        require_text(text, "text")
        params.check()

    def generate(
        self,
        texts: Sequence[str],
        params: Sequence[GenerationParams],
        *,
        cancelled: Callable[[int], bool] | None = None,
        tenant: str | None = None,
    ) -> list[Summary]:
        """As the protocol says; at most `batch_size` requests at a time, over all calls.

        The first error ends the call and its other requests. The summary of a cancelled text is
        empty: nothing of it was received.

        Raises:
            InvalidInput: also `input_too_long`: a text does not fit the model's context.
            Unavailable: the server is overloaded, cannot be reached or takes too long.
            PlainMedError: `generation_failed`: it refuses the key, the model or the request.
        """
        for text, one in zip(texts, params, strict=True):
            self.validate(text, one)
        call = self._submit(self._complete_all(texts, params, cancelled))
        try:
            return call.result()
        finally:
            call.cancel()

    async def _complete_all(
        self,
        texts: Sequence[str],
        params: Sequence[GenerationParams],
        cancelled: Callable[[int], bool] | None,
    ) -> list[Summary]:
        tasks = [
            asyncio.create_task(self._complete(*pair)) for pair in zip(texts, params, strict=True)
        ]
        running = set(tasks)
        try:
            while running:
                ended, running = await asyncio.wait(
                    running, timeout=POLL_S if cancelled else None, return_when="FIRST_COMPLETED"
                )
                if any(not task.cancelled() and task.exception() for task in ended):
                    break
                for index, task in enumerate(tasks):
                    if cancelled is not None and task in running and cancelled(index):
                        task.cancel()
        finally:
            for task in running:
                task.cancel()
        # Of several errors the first in the order of the texts is raised.
        finished = [task for task in tasks if task.done()]
        return [
            self._summary(Written(), "cancelled") if t.cancelled() else t.result() for t in finished
        ]

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
            InvalidInput: the text or a parameter; raised here. Whether the text fits the model's
                context only the server knows: raised where the first piece is asked for.
            PlainMedError: as `generate`; raised where a piece is asked for.
        """
        self.validate(text, params)
        return self._stream(text, params, cancelled)

    def close(self) -> None:
        """Cancels all requests, closes the connections and ends the thread."""

        async def end() -> None:
            others = asyncio.all_tasks() - {asyncio.current_task()}
            for task in others:
                task.cancel()
            await asyncio.gather(*others, return_exceptions=True)
            await self._client.close()

        if self._thread.is_alive():
            self._submit(end()).result()
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()

    def _submit(self, work: Coroutine[Any, Any, Result]) -> Future[Result]:
        """Starts `work` in the loop; cancelling the future cancels it where it awaits."""
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    async def _complete(self, text: str, params: GenerationParams) -> Summary:
        request = self._request(text, params)
        try:
            async with self._slots, asyncio.timeout(self.timeout_s):
                answer = await self._client.chat.completions.create(**request)
        except (openai.OpenAIError, TimeoutError, ValueError) as error:
            raise self._translate(error) from None
        # Given a page in place of JSON, the client returns a string.
        if not isinstance(answer, ChatCompletion) or not answer.choices:
            raise not_understood(self.device)
        choice = answer.choices[0]
        written = Written()
        written.add(choice.message)
        if written.refused:
            raise withheld(self.device, "a refusal")
        if choice.finish_reason not in _COMPLETE:
            raise withheld(self.device, str(choice.finish_reason))
        self._learn(written, choice.finish_reason)
        return self._summary(written, choice.finish_reason, answer.usage)

    def _stream(
        self, text: str, params: GenerationParams, cancelled: Callable[[], bool] | None
    ) -> PieceIterator:
        items: queue.SimpleQueue[Any] = queue.SimpleQueue()
        job = self._submit(self._feed(text, params, items.put))
        job.add_done_callback(lambda _: items.put(None))
        written, stream = Written(), None
        finish_reason, usage = None, None
        try:
            while True:
                if cancelled is not None and cancelled():
                    finish_reason = "cancelled"
                    break
                try:
                    item = items.get(timeout=POLL_S)
                except queue.Empty:
                    continue
                if item is None:
                    job.result()  # raises what ended it
                    break
                if not isinstance(item, ChatCompletionChunk):
                    raise not_understood(self.device)
                usage = item.usage or usage
                for choice in (item.choices or [])[:1]:
                    finish_reason = choice.finish_reason or finish_reason
                    written.add(choice.delta)
                if written.refused:
                    raise withheld(self.device, "a refusal")
                if stream is None and written.text:
                    # What a server separates is not in the text too.
                    unknown = self._may_reason and not written.reasoning
                    stream = TextStream(reasoning=self._reasons or unknown)
                if stream is not None and (piece := stream.push(written.text)):
                    yield piece
        finally:
            job.cancel()
        if finish_reason is None:
            raise broken_off(self.device)
        if finish_reason not in {*_COMPLETE, "cancelled"}:
            raise withheld(self.device, finish_reason)
        self._learn(written, finish_reason)
        stream = stream or TextStream()
        if piece := stream.end(written.text, reasoning=self._in_reasoning(finish_reason)):
            yield piece
        summary = self._summary(written, finish_reason, usage)
        require_words(summary)
        yield summary

    async def _feed(
        self, text: str, params: GenerationParams, put: Callable[[object], None]
    ) -> None:
        """Puts every chunk as it arrives."""
        request = self._request(text, params)
        try:
            async with self._slots, asyncio.timeout(self.timeout_s):
                chunks = await self._client.chat.completions.create(
                    **request, stream=True, stream_options={"include_usage": True}
                )
                async with chunks:
                    async for chunk in chunks:
                        put(chunk)
        except (openai.OpenAIError, TimeoutError, ValueError) as error:
            raise self._translate(error) from None

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
        seed = params.seed_of(variant_step=_VARIANT_STEP, below=_SEEDS)
        if seed is not None:
            request["seed"] = seed
        if self._repeat_penalty_field != "none" and params.repeat_penalty != 1:
            request["extra_body"] = {self._repeat_penalty_field: params.repeat_penalty}
        return request

    def _summary(self, written: Written, finish_reason: str, usage: Any = None) -> Summary:
        answer = (written.text, self._in_reasoning(finish_reason))
        return Summary(
            text=final_text(*answer),
            model=self.name,
            reasoning_characters=written.reasoning + len(reasoning_of(*answer)),
            finish_reason=finish_reason,
            prompt_tokens=usage.prompt_tokens or 0 if usage else 0,
            completion_tokens=usage.completion_tokens or 0 if usage else 0,
        )

    def _learn(self, written: Written, finish_reason: str) -> None:
        """Takes from a finished answer whether the model begins in reasoning."""
        self._reasons |= begins_in_reasoning(written.text)
        self._may_reason &= finish_reason != "stop"

    def _in_reasoning(self, finish_reason: str) -> bool:
        """Whether an answer without a tag is reasoning: cut off before its closing tag."""
        return self._reasons and finish_reason in ("length", "cancelled")

    def _translate(self, error: Exception) -> PlainMedError:
        return translate(error, endpoint=self.device, model=self.name, timeout_s=self.timeout_s)


def _http_client(base_url: str) -> Any:
    """A client that asks no proxy for a server of this machine; else None, the library's own.

    HTTP_PROXY is meant for servers elsewhere: a proxy cannot reach this machine's 127.0.0.1.
    """
    host = urlsplit(base_url).hostname or ""
    try:
        local = ipaddress.ip_address(host).is_loopback
    except ValueError:
        local = host == "localhost" or host.endswith(".localhost")
    return openai.DefaultAsyncHttpxClient(trust_env=False) if local else None


@dataclass(slots=True)
class Written:
    """What the messages of an answer, or the deltas of a stream, amount to.

    Attributes:
        text: the content; it may hold tagged reasoning.
        reasoning: characters of reasoning in fields of its own.
        refused: whether the model refused.
    """

    text: str = ""
    reasoning: int = 0
    refused: bool = False

    def add(self, message: Any) -> None:
        """Adds a message or delta; content is a text or a list of parts, as of Mistral's models."""
        for name in ("reasoning_content", "reasoning"):  # vLLM and DeepSeek; OpenRouter and others
            thoughts = getattr(message, name, None)
            if isinstance(thoughts, str):
                self.reasoning += len(thoughts)
                break
        self.refused |= bool(getattr(message, "refusal", None))
        self._add_content(getattr(message, "content", None))

    def _add_content(self, content: Any) -> None:
        if isinstance(content, str):
            self.text += content
        for part in content if isinstance(content, list) else ():
            if isinstance(part, str):
                self.text += part
            elif isinstance(part, dict):
                self.refused |= bool(part.get("refusal"))
                thoughts = part.get("thinking") or part.get("reasoning")
                if thoughts:
                    inner = Written()
                    inner._add_content(thoughts)
                    self.reasoning += len(inner.text)
                else:
                    self._add_content(part.get("text"))
