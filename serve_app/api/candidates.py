"""Candidates of a request: written by the backend's generator, scored by its metrics.

What `generation.best_of` decides, carried out over a `Backend`: one call writes all candidates of
all texts, one call scores them. No HTTP.
"""

from __future__ import annotations

from collections.abc import Sequence

from serve_app.api.backend import Backend
from serve_app.core.errors import InvalidInput
from serve_app.generation import best_of
from serve_app.generation.best_of import Candidates
from serve_app.generation.protocol import GenerationParams


async def write(
    backend: Backend, texts: Sequence[str], params: GenerationParams, n: int, field: str
) -> list[Candidates]:
    """n candidates of each text, in the order of writing; `field` held the texts in the request.

    Raises:
        PlainMedError: one of them could not be written; then there are none.
    """
    try:
        summaries = await backend.generate(*best_of.jobs(texts, params, n))
    except InvalidInput as error:
        # An engine knows one text and calls it so; which of several it was, it cannot say.
        if error.field != "text" or field == "text":
            raise
        where = f"{field}[0]" if len(texts) == 1 else field
        raise InvalidInput(error.message, field=where, code=error.code) from None
    return best_of.grouped(summaries, n)


async def choose(
    backend: Backend,
    texts: Sequence[str],
    groups: Sequence[Candidates],
    humans: Sequence[str] | None,
    weights: Sequence[float] | None,
) -> list[Candidates]:
    """The candidates of each text with their scores, least loss first.

    Raises:
        PlainMedError: one of them could not be scored.
    """
    places = best_of.to_score(groups)
    evaluations = await backend.evaluate(
        [texts[index] for index, _ in places],
        [summary for _, summary in places],
        None if humans is None else [humans[index] for index, _ in places],
        weights,
    )
    return best_of.best_first(groups, places, evaluations)
