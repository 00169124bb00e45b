"""The `transformers` generator engine: any causal language model, decoded by our own loop.

Brings together a loaded model, the prompt around a text, windows for long ones, and the
decoding loop. Knows no server; safe to use from several threads.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Literal

from serve_app.artifacts import resolve
from serve_app.errors import ConfigError, InvalidInput
from serve_app.generation.causal_model import CausalModel, load_causal_model
from serve_app.generation.decoding import Row, decode, supports_batches
from serve_app.generation.prompting import Prompter
from serve_app.generation.protocol import GenerationParams, PieceIterator, Summary
from serve_app.generation.text_stream import TextStream, final_text
from serve_app.generation.windows import split_windows
from serve_app.metrics.encoder import DTYPES, resolve_device
from serve_app.metrics.text import require_text

LongInput = Literal["error", "window"]

SENTENCE_END = "<|sentence_end|>"
"""The token the earlier system's fine-tunes close a summary with."""

MIN_WINDOW_TOKENS = 32
"""Fewest new tokens a window may be left with; below it, a summary is a stump."""

_BETWEEN_WINDOWS = "\n\n"
_SEED_STEP = 1_000_003


class TransformersGenerator:
    """Summaries by a causal language model; an engine of the `Generator` protocol.

    Args:
        loaded: the model, its tokenizer and its context.
        name: what results call the model.
        system_prompt: instruction; may be empty.
        user_prefix: put before every text; may be empty.
        long_input: `error` refuses a text over the context; `window` summarises it in parts.
        batch_size: most rows decoded at once, >= 1; a recurrent model takes one.
    """

    def __init__(
        self,
        loaded: CausalModel,
        *,
        name: str,
        system_prompt: str,
        user_prefix: str,
        long_input: LongInput = "error",
        batch_size: int = 8,
    ) -> None:
        if long_input not in ("error", "window"):
            raise ConfigError(f"long_input is {long_input!r}; choose error or window")
        if batch_size < 1:
            raise ConfigError(f"batch_size is {batch_size}; it must be at least 1")
        self.name = name
        self.batch_size = batch_size if supports_batches(loaded.model) else 1
        self.context = loaded.context
        self.long_input = long_input
        self._model = loaded.model
        self.device = str(loaded.model.device)
        self._prompter = Prompter(
            loaded.tokenizer, system_prompt=system_prompt, user_prefix=user_prefix
        )
        self._stop_ids = _stop_ids(loaded)
        pad = loaded.tokenizer.pad_token_id
        self._pad_id = pad if pad is not None else min(self._stop_ids, default=0)
        # One pass at a time: some models update rotary tables in forward, and two passes
        # at once are no faster on one device.
        self._lock = threading.Lock()

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
        batch_size: int = 8,
        base_reference: str | None = None,
        cache_dir: str | None = None,
        hf_token: str | None = None,
    ) -> TransformersGenerator:
        """Loads the model, or LoRA adapter and base, that `reference` stands for.

        Args:
            reference: as `serve_app.artifacts.resolve` takes it.
            system_prompt: instruction; may be empty.
            user_prefix: put before every text; may be empty.
            device: as `resolve_device`.
            dtype: float32, bfloat16 or float16. Only in float32 does a seeded summary not
                depend on what it is batched with.
            long_input: `error` or `window`.
            batch_size: most texts decoded at once.
            base_reference: an adapter's base, in place of what its configuration names.
            cache_dir: where downloads are kept.
            hf_token: for hf:// references.

        Raises:
            ConfigError: the reference or what it holds cannot be used; the message says why.
        """
        if dtype not in DTYPES:
            raise ConfigError(f"dtype is {dtype!r}; choose one of {', '.join(DTYPES)}")
        loaded = load_causal_model(
            resolve(reference, cache_dir=cache_dir, hf_token=hf_token),
            device=resolve_device(device),
            dtype=DTYPES[dtype],
            base_reference=base_reference,
            cache_dir=cache_dir,
            hf_token=hf_token,
        )
        return cls(
            loaded,
            name=model_label(reference),
            system_prompt=system_prompt,
            user_prefix=user_prefix,
            long_input=long_input,
            batch_size=batch_size,
        )

    def validate(self, text: str, params: GenerationParams) -> None:
        """Raises what `generate` would raise for this text, without running the model.

        A server that batches across requests calls it first, so that one bad text does not
        fail the others.

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
    ) -> list[Summary]:
        """One summary for each text, in order.

        Args:
            texts: originals.
            params: one for each text.
            cancelled: asked before every token for each text not yet finished, by its
                position; True ends it with what it has and finish_reason `cancelled`.

        Raises:
            InvalidInput: a text is empty, a parameter out of range, or the prompt and
                max_new_tokens together exceed the context (`input_too_long`).
            PlainMedError: `generation_failed`, if the model's output is not finite.
            ValueError: not one params for each text.
        """
        if len(texts) != len(params):
            raise ValueError(f"{len(texts)} texts but {len(params)} params")
        plans = [self._plan(text, p) for text, p in zip(texts, params, strict=True)]
        owners = [index for index, plan in enumerate(plans) for _ in plan]
        rows = [row for plan in plans for row in plan]
        written: list[list[int]] = [[] for _ in rows]
        reasons = ["stop"] * len(rows)
        # Longest first, so that rows of a batch are of like length and little is padding.
        order = sorted(range(len(rows)), key=lambda index: -len(rows[index].prompt))
        for start in range(0, len(order), self.batch_size):
            chosen = order[start : start + self.batch_size]
            for index, token, reason in self._steps(chosen, rows, owners, cancelled):
                if token is not None:
                    written[index].append(token)
                if reason is not None:
                    reasons[index] = reason
        summaries = []
        for text_index in range(len(texts)):
            mine = [index for index, owner in enumerate(owners) if owner == text_index]
            parts = [final_text(self._prompter.decode(written[index])) for index in mine]
            summaries.append(
                self._summary(
                    parts,
                    reasons=[reasons[index] for index in mine],
                    prompt_tokens=sum(len(rows[index].prompt) for index in mine),
                    completion_tokens=sum(len(written[index]) for index in mine),
                )
            )
        return summaries

    def stream(
        self,
        text: str,
        params: GenerationParams,
        *,
        cancelled: Callable[[], bool] | None = None,
    ) -> PieceIterator:
        """Yields pieces of the summary, never empty, as they are written, then the `Summary`.

        The pieces joined are the summary's text, and equal to what `generate` returns.
        Nothing is computed ahead: closing the iterator stops the work.

        Args:
            text: the original.
            params: how to generate.
            cancelled: asked before every token; True ends the stream with what it has.

        Raises:
            InvalidInput: as `generate`; raised here, before the first piece is asked for.
        """
        return self._stream(self._plan(text, params), cancelled)

    def _stream(self, rows: list[Row], cancelled: Callable[[], bool] | None) -> PieceIterator:
        parts: list[str] = []
        reasons: list[str] = []
        tokens = 0
        for row in rows:
            text_stream = TextStream(self._prompter.decode)
            check = None if cancelled is None else lambda _: cancelled()
            for _, token, reason in self._steps([0], [row], [0], check):
                if token is not None:
                    starts = not text_stream.text
                    piece = text_stream.push(token)
                    if piece:
                        yield _BETWEEN_WINDOWS + piece if starts and any(parts) else piece
                if reason is not None:
                    reasons.append(reason)
            parts.append(text_stream.text)
            tokens += len(text_stream.ids)
            if reasons[-1] == "cancelled":
                break
        yield self._summary(
            parts,
            reasons=reasons,
            prompt_tokens=sum(len(row.prompt) for row in rows[: len(parts)]),
            completion_tokens=tokens,
        )

    def _steps(
        self,
        chosen: list[int],
        rows: list[Row],
        owners: list[int],
        cancelled: Callable[[int], bool] | None,
    ) -> Iterator[tuple[int, int | None, str | None]]:
        """Decodes the chosen rows as one batch: (row, token or None, reason or None)."""
        check = None
        if cancelled is not None:
            asked = cancelled

            def check(position: int) -> bool:
                return asked(owners[chosen[position]])

        batch = decode(
            self._model,
            [rows[index] for index in chosen],
            stop_ids=self._stop_ids,
            pad_id=self._pad_id,
            lock=self._lock,
            cancelled=check,
        )
        for steps in batch:
            for step in steps:
                yield chosen[step.row], step.token, step.finish_reason

    def _summary(
        self,
        parts: list[str],
        *,
        reasons: list[str],
        prompt_tokens: int,
        completion_tokens: int,
    ) -> Summary:
        worst = next((r for r in ("cancelled", "length") if r in reasons), "stop")
        return Summary(
            text=_BETWEEN_WINDOWS.join(part for part in parts if part),
            model=self.name,
            finish_reason=worst,
            prompt_tokens=prompt_tokens,
            completion_tokens=completion_tokens,
        )

    def _plan(self, text: str, params: GenerationParams) -> list[Row]:
        """The rows that summarise `text`: one, or one for each of its windows."""
        require_text(text, "text")
        _require_params(params)
        prompt = self._prompter.encode(text)
        if self.context is None or len(prompt) + params.max_new_tokens <= self.context:
            return [Row(prompt, params, params.max_new_tokens)]
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
            Row(self._prompter.encode(window), _reseed(params, index), share)
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


def _reseed(params: GenerationParams, window: int) -> GenerationParams:
    """Its own seed for each window: with one for all, like windows would draw alike."""
    if params.seed is None or window == 0:
        return params
    seed = (params.seed + window * _SEED_STEP) % 2**63
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


def _require_params(params: GenerationParams) -> None:
    """Raises `InvalidInput` naming the parameter that is out of range."""
    checks = (
        ("max_new_tokens", params.max_new_tokens >= 1, "at least 1"),
        ("temperature", 0 <= params.temperature <= 2, "between 0 and 2"),
        ("top_p", 0 < params.top_p <= 1, "above 0 and at most 1"),
        (
            "repeat_penalty",
            params.repeat_penalty > 0 and math.isfinite(params.repeat_penalty),
            "a finite number above 0",
        ),
        ("seed", params.seed is None or 0 <= params.seed < 2**63, "between 0 and 2^63 - 1"),
    )
    for name, holds, rule in checks:
        if not holds:
            raise InvalidInput(
                f"{name} is {getattr(params, name)}; it must be {rule}",
                field=name,
                code="invalid_parameter",
            )
