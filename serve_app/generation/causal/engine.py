"""The `transformers` generator engine: any causal language model, decoded by our own loop.

Brings together a loaded model, the prompt around a text, windows for long texts, and the scheduler
that batches all calls. Knows no server; safe to use from several threads.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from itertools import chain
from typing import Any, Literal

import torch

from serve_app.core.errors import ConfigError, InvalidInput, Unavailable
from serve_app.generation.causal.decoding import Row
from serve_app.generation.causal.scheduler import Scheduler, SequenceStream
from serve_app.generation.prompts import Prompter
from serve_app.generation.protocol import (
    GenerationParams,
    PieceIterator,
    Summary,
    require_words,
)
from serve_app.generation.text_stream import (
    TextStream,
    final_text,
    reasoning_of,
)
from serve_app.models.causal_lm import CausalModel, load_causal_model
from serve_app.models.pretrained import DTYPES, resolve_device
from serve_app.models.quantised import QUANTISED
from serve_app.storage.artifacts import Downloads, reference_name, resolve
from serve_app.text.sentences import sentence_spans
from serve_app.text.validation import require_text

LongInput = Literal["error", "window"]
Span = tuple[int, int]

SENTENCE_END = "<|sentence_end|>"
"""The token that ends a summary in the earlier system's fine-tunes."""

MIN_WINDOW_TOKENS = 32
"""Fewest new tokens a window may have; with fewer, a summary is a stump."""

_BETWEEN_WINDOWS = "\n\n"
_WORST_FIRST = ("cancelled", "time", "length", "stop")
_SEEDS = 2**63  # the range of torch's generators
# So far apart that no window of one variant draws like a window of another.
_VARIANT_STEP = 7_919_000_000_033


class TransformersGenerator:
    """Summaries by a causal language model; an engine of the `Generator` protocol.

    Args:
        loaded: the model, its tokenizer and its context.
        name: the model's name in results.
        system_prompt: instruction; may be empty.
        user_prefix: put before every text; may be empty.
        long_input: `error` refuses a text over the context; `window` summarises it in parts.
        batch_size: most rows decoded at once, over all calls, >= 1; a recurrent model takes one.
        timeout_s: seconds from the call after which a text ends with what it has, > 0; None: no
            limit.
        prefill_tokens: see `Scheduler`.
        lookup: see `decoding.Batch`.
    """

    candidates_together = True
    """Their prompt is read once for all of them."""

    def __init__(
        self,
        loaded: CausalModel,
        *,
        name: str,
        system_prompt: str,
        user_prefix: str,
        long_input: LongInput = "error",
        batch_size: int = 16,
        timeout_s: float | None = None,
        prefill_tokens: int | None = None,
        lookup: bool = True,
    ) -> None:
        if long_input not in ("error", "window"):
            raise ConfigError(f"long_input is {long_input!r}; choose error or window")
        if batch_size < 1:
            raise ConfigError(f"batch_size is {batch_size}; it must be at least 1")
        if timeout_s is not None and not timeout_s > 0:
            raise ConfigError(f"timeout_s is {timeout_s}; it must be above 0")
        self.name = name
        self.context = loaded.context
        self.long_input = long_input
        self.timeout_s = timeout_s
        self._model = loaded.model
        self.device = str(loaded.model.device)
        self._prompter = Prompter(
            loaded.tokenizer, system_prompt=system_prompt, user_prefix=user_prefix
        )
        self._scheduler = Scheduler(
            loaded.model,
            stop_ids=_stop_ids(loaded),
            max_rows=batch_size,
            prefill_tokens=prefill_tokens,
            lookup=lookup,
        )
        self.batch_size = self._scheduler.max_rows

    @property
    def passes(self) -> int:
        """Forward passes so far."""
        return self._scheduler.passes

    @classmethod
    def from_reference(
        cls,
        reference: str,
        *,
        device: str = "auto",
        dtype: str = "float32",
        base_reference: str | None = None,
        downloads: Downloads | None = None,
        **options: Any,
    ) -> TransformersGenerator:
        """Loads the model, or the LoRA adapter and its base, that `reference` names.

        Args:
            reference: as `serve_app.storage.artifacts.resolve` takes it.
            device: as `resolve_device`.
            dtype: float32, bfloat16 or float16; on a CPU also int8 or int4. Only in float32 and
                int8 does a seeded summary not depend on what it is batched with.
            base_reference: an adapter's base, in place of the one its configuration names.
            downloads: for references that have to be fetched; see `resolve`.
            options: of the class; `system_prompt` and `user_prefix` are required.

        Raises:
            ConfigError: the reference or what it holds cannot be used; the message says why.
        """
        choices = (*DTYPES, *QUANTISED)
        if dtype not in choices:
            raise ConfigError(f"dtype is {dtype!r}; choose one of {', '.join(choices)}")
        place = resolve_device(device)
        if dtype in QUANTISED and place.type != "cpu":
            raise ConfigError(
                f"GENERATOR_DTYPE={dtype} is for CPUs, and DEVICE is {device} ({place}): set "
                "DEVICE=cpu, or GENERATOR_DTYPE=bfloat16 for the GPU"
            )
        loaded = load_causal_model(
            resolve(reference, downloads),
            device=place,
            # What an adapter is merged in, or a module that cannot be packed runs in.
            dtype=DTYPES.get(dtype, torch.bfloat16),
            packed=dtype if place.type == "cpu" and dtype != "float16" else None,
            base_reference=base_reference,
            downloads=downloads,
        )
        return cls(loaded, name=reference_name(reference), **options)

    def validate(self, text: str, params: GenerationParams) -> None:
        """As the protocol says; the model does not run."""
        self._plan(text, params)

    def generate(
        self,
        texts: Sequence[str],
        params: Sequence[GenerationParams],
        *,
        cancelled: Callable[[int], bool] | None = None,
        tenant: str | None = None,
    ) -> list[Summary]:
        """As the protocol says; `cancelled` is polled before every token, in the decoding thread.

        Raises:
            InvalidInput: also `input_too_long`: the prompt and max_new_tokens together exceed the
                context.
            PlainMedError: `generation_failed`, if the model fails or its output is not finite.
            Unavailable: `timeout`, if not a token of a text was written in timeout_s seconds.
        """
        if len(texts) != len(params):
            raise ValueError(f"{len(texts)} texts but {len(params)} params")
        plans = [self._plan(*pair) for pair in zip(texts, params, strict=True)]
        texts_streams = [
            self._streams(rows, cancelled and partial(cancelled, index), tenant, live=False)
            for index, rows in enumerate(plans)
        ]
        streams = list(chain.from_iterable(texts_streams))
        self._scheduler.submit(streams)
        try:
            summaries = []
            for own in texts_streams:
                written = [self._prompter.decode(one.wait()) for one in own]
                texts = [final_text(part, self._prompter.reasons) for part in written]
                summaries.append(self._summary(texts, written, own))
            return summaries
        finally:
            for stream in streams:
                stream.cancel()

    def stream(
        self,
        text: str,
        params: GenerationParams,
        *,
        cancelled: Callable[[], bool] | None = None,
        tenant: str | None = None,
    ) -> PieceIterator:
        """As the protocol says; computing begins when the first piece is asked for.

        The model does not wait for the reader; closing the iterator stops it before its next pass.

        Raises:
            InvalidInput: as `generate`; raised here.
            PlainMedError: as `generate`; raised where a piece is asked for.
        """
        return self._stream(self._plan(text, params), cancelled, tenant)

    def _stream(
        self, rows: list[Row], cancelled: Callable[[], bool] | None, tenant: str | None
    ) -> PieceIterator:
        streams = self._streams(rows, cancelled, tenant, live=True)
        self._scheduler.submit(streams)
        try:
            texts, written = list[str](), list[str]()
            for stream in streams:
                text = TextStream(reasoning=self._prompter.reasons)
                between = _BETWEEN_WINDOWS if any(texts) else ""
                for count, _ in enumerate(stream, start=1):
                    if piece := text.push(self._prompter.decode(stream.tokens[:count])):
                        yield between + piece
                        between = ""
                written.append(self._prompter.decode(stream.tokens))
                if piece := text.end(written[-1]):
                    yield between + piece
                texts.append(text.text)
            summary = self._summary(texts, written, streams)
            require_words(summary)
            yield summary
        finally:
            for stream in streams:
                stream.cancel()

    def _streams(
        self,
        rows: Sequence[Row],
        cancelled: Callable[[], bool] | None,
        tenant: str | None,
        *,
        live: bool,
    ) -> list[SequenceStream]:
        deadline = None if self.timeout_s is None else time.monotonic() + self.timeout_s
        return [
            SequenceStream(row, cancelled=cancelled, deadline=deadline, tenant=tenant, live=live)
            for row in rows
        ]

    def _summary(
        self, texts: list[str], written: list[str], streams: Sequence[SequenceStream]
    ) -> Summary:
        """The summary made of ended streams: their texts, and all that they wrote."""
        reasons = {stream.finish_reason for stream in streams}
        tokens = sum(len(stream.tokens) for stream in streams)
        if "time" in reasons and tokens == 0:
            raise Unavailable(
                f"the generator is busy: not a word was written within {self.timeout_s:g} s; "
                "try again",
                code="timeout",
            )
        return Summary(
            text=_BETWEEN_WINDOWS.join(filter(None, texts)),
            model=self.name,
            finish_reason=next(r for r in _WORST_FIRST if r in reasons),
            prompt_tokens=sum(len(stream.row.prompt) for stream in streams),
            completion_tokens=tokens,
            reasoning_characters=sum(
                len(reasoning_of(part, self._prompter.reasons)) for part in written
            ),
        )

    def _plan(self, text: str, params: GenerationParams) -> list[Row]:
        """The rows that summarise `text`: one, or one for each of its windows."""
        require_text(text, "text")
        params.check()
        prompt = self._prompter.encode(text)
        if self.context is None or len(prompt) + params.max_new_tokens <= self.context:
            return [Row(tuple(prompt), _window_params(params, 0))]
        room = self.context - params.max_new_tokens - self._prompter.overhead
        if room < 1:
            raise InvalidInput(
                f"max_new_tokens is {params.max_new_tokens} and the prompt takes "
                f"{self._prompter.overhead} tokens: the model's context of {self.context} has "
                "no room for a text; lower max_new_tokens",
                field="max_new_tokens",
                code="input_too_long",
            )
        if self.long_input == "error":
            raise InvalidInput(
                f"the text has {self._prompter.count(text)} tokens; with max_new_tokens "
                f"{params.max_new_tokens} and {self._prompter.overhead} tokens of prompt, the "
                f"model's context of {self.context} leaves room for {room}",
                field="text",
                code="input_too_long",
            )
        # A lower bound: a text that is far too long is refused before it is split.
        needed = math.ceil((len(prompt) - self._prompter.overhead) / room)
        windows: list[str] = []
        if params.max_new_tokens // needed >= MIN_WINDOW_TOKENS:
            windows = split_windows(text, room, self._text_tokens)
            needed = len(windows)
        share = params.max_new_tokens // needed
        if share < MIN_WINDOW_TOKENS:
            raise InvalidInput(
                f"the text needs {needed} windows, and max_new_tokens {params.max_new_tokens} "
                f"leaves {share} tokens for the summary of each; at least {MIN_WINDOW_TOKENS} "
                "are needed: raise max_new_tokens or shorten the text",
                field="text",
                code="input_too_long",
            )
        return [
            Row(tuple(self._prompter.encode(window)), _window_params(params, index, share))
            for index, window in enumerate(windows)
        ]

    def _text_tokens(self, text: str) -> int:
        """Tokens `text` adds to the prompt."""
        return len(self._prompter.encode(text)) - self._prompter.overhead


def _window_params(
    params: GenerationParams, window: int, max_new_tokens: int | None = None
) -> GenerationParams:
    """The settings of one window: its own seed, and its share of the new tokens."""
    seed = params.seed_of(variant_step=_VARIANT_STEP, below=_SEEDS, window=window)
    return replace(params, seed=seed, max_new_tokens=max_new_tokens or params.max_new_tokens)


def _stop_ids(loaded: CausalModel) -> frozenset[int]:
    ids: set[int] = set()
    generation = getattr(loaded.model, "generation_config", None)
    for source in (generation, loaded.model.config.get_text_config(), loaded.tokenizer):
        found = getattr(source, "eos_token_id", None)
        ids.update([found] if isinstance(found, int) else found or [])
    sentence_end = loaded.tokenizer.get_vocab().get(SENTENCE_END)
    if sentence_end is not None:
        ids.add(sentence_end)
    return frozenset(ids)


def split_windows(text: str, budget: int, count: Callable[[str], int]) -> list[str]:
    """Cuts `text` into consecutive windows of at most `budget` tokens each.

    Windows hold whole sentences and are about equally long, so that the last one is not a
    remnant; only a sentence longer than the budget is cut, between words where it has any.

    Args:
        text: not empty.
        budget: tokens a window may have, >= 1.
        count: tokens of a piece of text. It need not be additive: every window is counted.

    Returns:
        At least one window; no character but white space between windows is lost.
    """
    spans = [
        part
        for start, end in sentence_spans(text)
        for part in _fit(text, start, end, budget, count)
    ]
    sizes = [count(text[start:end]) for start, end in spans]
    total = sum(sizes)
    even = total / max(1, math.ceil(total / budget))
    windows: list[str] = []
    first = 0
    while first < len(spans):
        stop, size = first + 1, sizes[first]
        while stop < len(spans) and size < even and size + sizes[stop] <= budget:
            size += sizes[stop]
            stop += 1
        while stop > first + 1 and count(text[spans[first][0] : spans[stop - 1][1]]) > budget:
            stop -= 1
        windows.append(text[spans[first][0] : spans[stop - 1][1]])
        first = stop
    return windows


def _fit(text: str, start: int, end: int, budget: int, count: Callable[[str], int]) -> list[Span]:
    """The span itself, or halves of it, halved again until they fit the budget."""
    if end - start <= 1 or count(text[start:end]) <= budget:
        return [(start, end)]
    middle = (start + end) // 2
    space = text.rfind(" ", start + 1, middle + 1)
    if space < 0:
        space = text.find(" ", middle, end)
    left_end, right_start = (middle, middle) if space < 0 else (space, space + 1)
    return [
        *_fit(text, start, left_end, budget, count),
        *_fit(text, right_start, end, budget, count),
    ]
