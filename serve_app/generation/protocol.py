"""What a generator engine is: texts in, summaries out. Knows no engine and no server."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from collections.abc import Generator as PyGenerator
from dataclasses import dataclass, field
from typing import Protocol, TypeAlias

from serve_app.core.errors import PlainMedError
from serve_app.core.sampling import GenerationParams
from serve_app.text.validation import has_word

__all__ = [
    "GenerationParams",
    "Generator",
    "PieceIterator",
    "Summary",
    "SummarySentence",
    "require_words",
]


@dataclass(frozen=True, slots=True)
class SummarySentence:
    """One sentence of a summary and where it came from.

    Attributes:
        text: as it stands in the summary.
        source: the sentence of the original it was made from, or None (a free generation).
        source_index: position of that sentence in the original, or None.
        replacements: (term, plain words) pairs put in its place.
    """

    text: str
    source: str | None = None
    source_index: int | None = None
    replacements: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Summary:
    """A generated summary.

    Attributes:
        text: the summary.
        model: the engine's model name.
        finish_reason: `stop` (ended by itself), `length` (cut at max_new_tokens), `time` (cut at
            the engine's time limit) or `cancelled` (the caller no longer wanted it).
        prompt_tokens: tokens read; 0 for engines without tokens.
        completion_tokens: tokens written; 0 for engines without tokens.
        sentences: per-sentence provenance where the engine knows it, else empty.
        truncated: True if part of the input was not read.
        reasoning_characters: length of the model's reasoning, which is no part of the text; its
            tokens are among the completion tokens.
    """

    text: str
    model: str
    finish_reason: str = "stop"
    prompt_tokens: int = 0
    completion_tokens: int = 0
    sentences: tuple[SummarySentence, ...] = field(default=())
    truncated: bool = False
    reasoning_characters: int = 0


def require_words(summary: Summary, text: str = "") -> None:
    """Raises `PlainMedError` (`generation_failed`) where a finished summary has no word.

    Args:
        summary: what an engine returned.
        text: names the text among several, such as ` of text 2`.
    """
    if summary.finish_reason not in ("stop", "length") or has_word(summary.text):
        return
    length = summary.reasoning_characters
    reasoning = f"its reasoning (length {length}) and " if length else ""
    raise PlainMedError(
        f"{summary.model} wrote {reasoning}no summary{text} (finish reason "
        f"{summary.finish_reason}); raise max_new_tokens, or try again",
        code="generation_failed",
    )


PieceIterator: TypeAlias = PyGenerator["str | Summary", None, None]


class Generator(Protocol):
    """A generator engine; its methods may be called from several threads at once.

    A call blocks its thread until it is done. Work of calls under way at the same time may be
    merged, which changes no result in float32.
    """

    name: str
    device: str
    batch_size: int
    """Most texts worth running at once, over all calls."""
    candidates_together: bool
    """Whether the candidates of one text cost less side by side in one call."""

    def validate(self, text: str, params: GenerationParams) -> None:
        """Raises what `generate` would raise for this text before it computes.

        Raises:
            InvalidInput: as `generate`, as far as the engine itself can tell.
        """
        ...

    def generate(
        self,
        texts: Sequence[str],
        params: Sequence[GenerationParams],
        *,
        cancelled: Callable[[int], bool] | None = None,
        tenant: str | None = None,
    ) -> list[Summary]:
        """One summary for each text; without a word, where the model wrote none.

        Args:
            texts: originals.
            params: one for each text.
            cancelled: polled from any thread with the position of a text; True ends that text
                soon, with what it has and finish_reason `cancelled`. Must be quick and not raise.
            tenant: owner of the texts. Tenants take turns in an engine's own queue; None: this
                call is a tenant of its own.

        Raises:
            InvalidInput: a text cannot be summarised (empty, or over the model's context), or a
                parameter is out of range.
            ValueError: not one params for each text.
        """
        ...

    def stream(
        self,
        text: str,
        params: GenerationParams,
        *,
        cancelled: Callable[[], bool] | None = None,
        tenant: str | None = None,
    ) -> PieceIterator:
        """Yields pieces of the summary as they are written, then the `Summary` itself.

        No piece is empty; joined they are the summary's text, for a seed that of `generate`.
        Closing the iterator stops the work, and so does `cancelled` (as in `generate`, like
        `tenant`), which ends the stream with a `Summary` of what it has.

        Raises:
            InvalidInput: as `generate`; raised by the call, before the first piece is asked for.
            PlainMedError: `generation_failed`, in the place of a summary without a word.
        """
        ...
