"""Best of n: several summaries of one text, ranked by loss.

Knows candidates and their scores; generates and measures nothing. A caller with an engine and the
metrics takes from `jobs` what to generate, from `to_score` what to measure, and gives the
evaluations to `best_first`; `write` and `choose` do so over two functions that wait.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from serve_app.core.errors import InvalidInput, MetricFailed
from serve_app.core.schemas import ProfileName
from serve_app.generation.protocol import GenerationParams, Summary, require_words
from serve_app.metrics.evaluation import Evaluation
from serve_app.text.validation import has_word


@dataclass(frozen=True, slots=True)
class Candidate:
    """One of several summaries of a text.

    Attributes:
        variant: its index in the order of writing.
        summary: what the engine wrote.
        evaluation: its scores; None where it was not scored, and for a summary without a word.
    """

    variant: int
    summary: Summary
    evaluation: Evaluation | None = None


Candidates = list[Candidate]
"""All candidates of one text."""

ScoredPair = tuple[int, str]
"""The index of a text in the request, and a summary of it."""


def jobs(
    texts: Sequence[str], params: GenerationParams, n: int
) -> tuple[list[str], list[GenerationParams]]:
    """The texts and settings, one of each per summary, for n candidates of each text.

    The candidates of a text are adjacent, so that an engine can share work between them.

    Raises:
        ValueError: n is below 1.
    """
    if n < 1:
        raise ValueError(f"n must be at least 1, but is {n}")
    variants = [replace(params, variant=variant) for variant in range(n)]
    return [text for text in texts for _ in range(n)], variants * len(texts)


def parts(
    texts: Sequence[str], params: Sequence[GenerationParams], *, together: bool
) -> list[slice]:
    """Slices the lists of `jobs` into units of scheduling: a text, with all its candidates.

    >>> one, other = GenerationParams(), GenerationParams(variant=1)
    >>> parts(["a", "a", "b"], [one, other, one], together=True)
    [slice(0, 2, None), slice(2, 3, None)]

    Args:
        texts: as `jobs` gives them.
        params: one for each text.
        together: whether the candidates of a text form one unit; else each is a unit.

    Raises:
        ValueError: not one params for each text.
    """
    wanted = list(zip(texts, params, strict=True))
    # The same text with the same variant again is another text of the request.
    starts = [
        at
        for at, (text, one) in enumerate(wanted)
        if not (
            together
            and at
            and wanted[at - 1][0] == text
            and wanted[at - 1][1].variant < one.variant
        )
    ]
    return [slice(*border) for border in pairwise([*starts, len(wanted)])]


def grouped(summaries: Sequence[Summary], n: int) -> list[Candidates]:
    """The summaries written for `jobs`, in its order, as the candidates of each text.

    Raises:
        PlainMedError: `generation_failed`, where a text lacks a candidate, or none of its
            candidates has a word.
    """
    if len(summaries) % n:
        raise MetricFailed(
            f"the generator gave {len(summaries)} summaries where each text has {n} candidates",
            code="generation_failed",
        )
    groups = [summaries[at : at + n] for at in range(0, len(summaries), n)]
    for index, group in enumerate(groups):
        if not any(has_word(summary.text) for summary in group):
            require_words(group[0], f" of text {index}" if len(groups) > 1 else "")
    return [[Candidate(*pair) for pair in enumerate(group)] for group in groups]


def to_score(groups: Sequence[Candidates]) -> list[ScoredPair]:
    """The summaries to score, each with its text's index; equal candidates of a text once."""
    pairs = ((index, one.summary.text) for index, group in enumerate(groups) for one in group)
    return list(dict.fromkeys(pair for pair in pairs if has_word(pair[1])))


def best_first(
    groups: Sequence[Candidates], pairs: Sequence[ScoredPair], evaluations: Sequence[Evaluation]
) -> list[Candidates]:
    """Each text's candidates with their scores, least loss first.

    Of equal losses the lower variant comes first; a candidate without a word comes last.

    Args:
        groups: the candidates of each text.
        pairs: what `to_score` returned for them.
        evaluations: one for each pair.

    Raises:
        MetricFailed: a candidate has no evaluation, or a loss that is not a finite number.
    """
    if len(evaluations) != len(pairs):
        raise MetricFailed(f"{len(evaluations)} scores came back for {len(pairs)} candidates")
    known = dict(zip(pairs, evaluations, strict=True))
    ranked = []
    for index, group in enumerate(groups):
        scored = [replace(one, evaluation=known.get((index, one.summary.text))) for one in group]
        ranked.append(sorted(scored, key=_rank))
    return ranked


def _rank(candidate: Candidate) -> tuple[float, int]:
    evaluation = candidate.evaluation
    if evaluation is None:
        if has_word(candidate.summary.text):
            raise MetricFailed(f"candidate {candidate.variant} was not scored")
        return math.inf, candidate.variant
    if not math.isfinite(evaluation.loss):
        raise MetricFailed(f"the loss of candidate {candidate.variant} is not a finite number")
    return evaluation.loss, candidate.variant


async def write(
    generate: Callable[..., Awaitable[list[Summary]]],
    texts: Sequence[str],
    params: GenerationParams,
    n: int,
    field: str,
) -> list[Candidates]:
    """n candidates of each text, in the order of writing; `field` held the texts in the request.

    Raises:
        PlainMedError: one of them could not be written; then there are none.
    """
    try:
        summaries = await generate(*jobs(texts, params, n))
    except InvalidInput as error:
        # An engine knows one text and calls it so; which of several it was, it cannot say.
        if error.field != "text" or field == "text":
            raise
        where = f"{field}[0]" if len(texts) == 1 else field
        raise InvalidInput(error.message, field=where, code=error.code) from None
    return grouped(summaries, n)


async def choose(
    evaluate: Callable[..., Awaitable[list[Evaluation]]],
    texts: Sequence[str],
    groups: Sequence[Candidates],
    humans: Sequence[str] | None,
    weights: Sequence[float] | None,
    profile: ProfileName,
) -> list[Candidates]:
    """The candidates of each text with their scores, least loss (of the profile) first.

    Raises:
        PlainMedError: one of them could not be scored.
    """
    places = to_score(groups)
    try:
        evaluations = await evaluate(
            [texts[index] for index, _ in places],
            [summary for _, summary in places],
            None if humans is None else [humans[index] for index, _ in places],
            weights,
            profile,
        )
    except InvalidInput as error:  # about a candidate, which is no field of the request
        raise InvalidInput(error.message, code=error.code) from None
    return best_first(groups, places, evaluations)
