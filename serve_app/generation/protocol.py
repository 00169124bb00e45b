"""What a generator engine is: texts in, summaries out. Knows no engine and no server."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from collections.abc import Generator as PyGenerator
from dataclasses import dataclass, field
from typing import Protocol, TypeAlias


@dataclass(frozen=True, slots=True)
class GenerationParams:
    """How to generate one summary.

    Attributes:
        max_new_tokens: longest summary in tokens (words, for engines without tokens), >= 1.
        temperature: 0 decodes greedily; at most 2.
        top_p: nucleus mass, in (0, 1].
        repeat_penalty: > 0; 1 is none.
        seed: makes the output repeatable whatever it is batched with; None draws afresh.
        variant: index of a best-of-n candidate, >= 0. 0 is the ordinary answer; every other
            variant is made to differ from it. The same seed and variant give the same output.
    """

    max_new_tokens: int = 512
    temperature: float = 0.2
    top_p: float = 0.9
    repeat_penalty: float = 1.015
    seed: int | None = None
    variant: int = 0


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
    """

    text: str
    model: str
    finish_reason: str = "stop"
    prompt_tokens: int = 0
    completion_tokens: int = 0
    sentences: tuple[SummarySentence, ...] = field(default=())
    truncated: bool = False


PieceIterator: TypeAlias = PyGenerator["str | Summary", None, None]


class Generator(Protocol):
    """A generator engine; its methods may be called from several threads at once.

    A call blocks its thread until it is done. Work of calls under way at the same time may be
    merged, which changes no result in float32.
    """

    name: str
    device: str
    batch_size: int
    """Most texts worth having under way at once, over all calls."""
    candidates_together: bool
    """Whether the candidates of one text, side by side in a call, cost less than in several."""

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
        """One summary for each text.

        Args:
            texts: originals.
            params: one for each text.
            cancelled: asked again and again, from any thread, with the position of a text; True
                ends that text soon, with what it has and finish_reason `cancelled`. It must be
                quick and must not raise.
            tenant: whose texts they are. Where an engine has a queue of its own, tenants take turns
                in it; None: a tenant of its own for this call.

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
        """
        ...
