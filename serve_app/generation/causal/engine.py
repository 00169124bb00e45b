"""The `transformers` generator engine: any causal language model, decoded by our own loop.

Brings together a loaded model, the prompt around a text, windows for long ones, and the
scheduler that merges the rows of all calls. Knows no server; safe to use from several threads.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Literal

from serve_app.core.errors import ConfigError, InvalidInput, Unavailable
from serve_app.generation.causal.decoding import Row
from serve_app.generation.causal.prompts import Prompter
from serve_app.generation.causal.scheduler import Scheduler, Track
from serve_app.generation.causal.windows import split_windows
from serve_app.generation.detokenizer import TextStream, final_text
from serve_app.generation.params import own_seed, require_params
from serve_app.generation.protocol import GenerationParams, PieceIterator, Summary
from serve_app.models.causal_lm import CausalModel, load_causal_model
from serve_app.models.device import resolve_device
from serve_app.models.formats import DTYPES
from serve_app.storage.artifacts import Downloads, resolve
from serve_app.text.validation import require_text

LongInput = Literal["error", "window"]

SENTENCE_END = "<|sentence_end|>"
"""The token the earlier system's fine-tunes close a summary with."""

MIN_WINDOW_TOKENS = 32
"""Fewest new tokens a window may be left with; below it, a summary is a stump."""

_BETWEEN_WINDOWS = "\n\n"
_WORST_FIRST = ("cancelled", "time", "length", "stop")
_SEEDS = 2**63  # what torch's generators take
# So far apart that no window of one variant draws like a window of another.
_VARIANT_STEP = 7_919_000_000_033


class TransformersGenerator:
    """Summaries by a causal language model; an engine of the `Generator` protocol.

    Args:
        loaded: the model, its tokenizer and its context.
        name: what results call the model.
        system_prompt: instruction; may be empty.
        user_prefix: put before every text; may be empty.
        long_input: `error` refuses a text over the context; `window` summarises it in parts.
        batch_size: most rows decoded at once, over all calls, >= 1; a recurrent model takes one.
        timeout_s: a text not finished so many seconds after its call ends with what it has; > 0,
            or None for no limit.
        prefill_tokens: see `Scheduler`.
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
        stop_ids = _stop_ids(loaded)
        pad = loaded.tokenizer.pad_token_id
        self._scheduler = Scheduler(
            loaded.model,
            stop_ids=stop_ids,
            pad_id=pad if pad is not None else min(stop_ids, default=0),
            max_rows=batch_size,
            prefill_tokens=prefill_tokens,
        )
        self.batch_size = self._scheduler.max_rows

    @property
    def passes(self) -> int:
        """Forward passes since it was made; stands still when nothing is wanted."""
        return self._scheduler.passes

    @classmethod
    def from_reference(
        cls,
        reference: str,
        *,
        system_prompt: str,
        user_prefix: str,
        device: str = "auto",
        dtype: str = "float32",
        long_input: LongInput = "error",
        batch_size: int = 16,
        timeout_s: float | None = None,
        base_reference: str | None = None,
        downloads: Downloads | None = None,
    ) -> TransformersGenerator:
        """Loads the model, or LoRA adapter and base, that `reference` stands for.

        Args:
            reference: as `serve_app.storage.artifacts.resolve` takes it.
            system_prompt: instruction; may be empty.
            user_prefix: put before every text; may be empty.
            device: as `resolve_device`.
            dtype: float32, bfloat16 or float16. Only in float32 does a seeded summary not
                depend on what it is batched with.
            long_input: `error` or `window`.
            batch_size: most texts decoded at once, over all calls.
            timeout_s: seconds after which a text ends with what it has; None: no limit.
            base_reference: an adapter's base, in place of what its configuration names.
            downloads: for references that have to be fetched; see `resolve`.

        Raises:
            ConfigError: the reference or what it holds cannot be used; the message says why.
        """
        if dtype not in DTYPES:
            raise ConfigError(f"dtype is {dtype!r}; choose one of {', '.join(DTYPES)}")
        loaded = load_causal_model(
            resolve(reference, downloads),
            device=resolve_device(device),
            dtype=DTYPES[dtype],
            base_reference=base_reference,
            downloads=downloads,
        )
        return cls(
            loaded,
            name=model_label(reference),
            system_prompt=system_prompt,
            user_prefix=user_prefix,
            long_input=long_input,
            batch_size=batch_size,
            timeout_s=timeout_s,
        )

    def validate(self, text: str, params: GenerationParams) -> None:
        """Raises what `generate` would raise for this text, without running the model.

        Raises:
            InvalidInput: as `generate`.
        """
        self._plan(text, params)

    def generate(
        self,
        texts: Sequence[str],
        params: Sequence[GenerationParams],
        *,
        cancelled: Callable[[int], bool] | None = None,
        tenant: str | None = None,
    ) -> list[Summary]:
        """As the protocol says; `cancelled` is asked before every token, where it is decoded.

        Raises:
            InvalidInput: also `input_too_long`: the prompt and max_new_tokens together exceed the
                context.
            PlainMedError: `generation_failed`, if the model fails or its output is not finite.
            Unavailable: `timeout`, if not a token of a text was written in timeout_s seconds.
        """
        if len(texts) != len(params):
            raise ValueError(f"{len(texts)} texts but {len(params)} params")
        plans = [self._plan(text, p) for text, p in zip(texts, params, strict=True)]
        tracks = [
            self._tracks(
                plan,
                None if cancelled is None else partial(cancelled, index),
                tenant=tenant,
                live=False,
            )
            for index, plan in enumerate(plans)
        ]
        every = [track for one in tracks for track in one]
        self._scheduler.submit(every)
        try:
            summaries = []
            for one in tracks:
                parts = [final_text(self._prompter.decode(track.wait())) for track in one]
                summaries.append(self._summary(parts, one))
            return summaries
        finally:
            for track in every:
                track.abandon()

    def stream(
        self,
        text: str,
        params: GenerationParams,
        *,
        cancelled: Callable[[], bool] | None = None,
        tenant: str | None = None,
    ) -> PieceIterator:
        """As the protocol says; nothing is computed before the first piece is asked for.

        From then on the model does not wait for the reader; closing the iterator stops it before
        its next pass.

        Raises:
            InvalidInput: as `generate`; raised here.
            PlainMedError: as `generate`, where a piece is asked for.
        """
        return self._stream(self._plan(text, params), cancelled, tenant)

    def _stream(
        self, rows: list[Row], cancelled: Callable[[], bool] | None, tenant: str | None
    ) -> PieceIterator:
        tracks = self._tracks(rows, cancelled, tenant=tenant, live=True)
        self._scheduler.submit(tracks)
        try:
            parts: list[str] = []
            for track in tracks:
                text_stream = TextStream(self._prompter.decode)
                for token in track:
                    starts = not text_stream.text
                    piece = text_stream.push(token)
                    if piece:
                        yield _BETWEEN_WINDOWS + piece if starts and any(parts) else piece
                parts.append(text_stream.text)
            yield self._summary(parts, tracks)
        finally:
            for track in tracks:
                track.abandon()

    def _tracks(
        self,
        rows: Sequence[Row],
        cancelled: Callable[[], bool] | None,
        *,
        tenant: str | None,
        live: bool,
    ) -> list[Track]:
        deadline = None if self.timeout_s is None else time.monotonic() + self.timeout_s
        return [
            Track(row, cancelled=cancelled, deadline=deadline, tenant=tenant, live=live)
            for row in rows
        ]

    def _summary(self, parts: list[str], tracks: Sequence[Track]) -> Summary:
        """What finished tracks come to; `parts` are their texts."""
        reasons = {track.finish_reason for track in tracks}
        tokens = sum(len(track.tokens) for track in tracks)
        if "time" in reasons and tokens == 0:
            raise Unavailable(
                f"the generator is busy: not a word was written within {self.timeout_s:g} s; "
                "try again",
                code="timeout",
            )
        return Summary(
            text=_BETWEEN_WINDOWS.join(part for part in parts if part),
            model=self.name,
            finish_reason=next(r for r in _WORST_FIRST if r in reasons),
            prompt_tokens=sum(len(track.row.prompt) for track in tracks),
            completion_tokens=tokens,
        )

    def _plan(self, text: str, params: GenerationParams) -> list[Row]:
        """The rows that summarise `text`: one, or one for each of its windows."""
        require_text(text, "text")
        require_params(params)
        prompt = self._prompter.encode(text)
        if self.context is None or len(prompt) + params.max_new_tokens <= self.context:
            return [Row(tuple(prompt), _seeded(params, 0), params.max_new_tokens)]
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
        # At least so many windows: a text hopelessly long is refused before it is cut up.
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
            Row(tuple(self._prompter.encode(window)), _seeded(params, index), share)
            for index, window in enumerate(windows)
        ]

    def _text_tokens(self, text: str) -> int:
        """Tokens `text` adds to the prompt."""
        return len(self._prompter.encode(text)) - self._prompter.overhead


def model_label(reference: str) -> str:
    """What results call the model behind `reference`.

    >>> model_label("s3://bucket/merged-models/org__model-run/")
    'org__model-run'
    >>> model_label("hf://org/name@main")
    'org/name@main'
    """
    if reference.startswith("hf://"):
        return reference.removeprefix("hf://")
    if reference.startswith("embedded:"):
        return reference.removeprefix("embedded:")
    return reference.rstrip("/").rpartition("/")[2] or reference


def _seeded(params: GenerationParams, window: int) -> GenerationParams:
    """The settings of one window, with its own seed."""
    seed = own_seed(params, variant_step=_VARIANT_STEP, below=_SEEDS, window=window)
    return replace(params, seed=seed)


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
