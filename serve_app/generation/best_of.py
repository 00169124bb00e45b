"""Best of n: several summaries of one text, and which of them has the least loss.

Knows candidates and their scores; generates nothing, measures nothing, and no HTTP or Ray. Whoever
has an engine and the metrics asks `jobs` what to generate, `to_score` what to measure, and gives
the evaluations to `best_first`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from serve_app.core.errors import MetricFailed
from serve_app.generation.protocol import GenerationParams, Summary
from serve_app.metrics.evaluation import Evaluation
from serve_app.text.validation import has_word


@dataclass(frozen=True, slots=True)
class Candidate:
    """One of several summaries of a text.

    Attributes:
        variant: its number in the order of writing, from 0.
        summary: what the engine wrote.
        evaluation: what it scored; None where it was not scored, and for a summary without a
            word, which no metric takes.
    """

    variant: int
    summary: Summary
    evaluation: Evaluation | None = None


Candidates = list[Candidate]
"""All candidates of one text."""

Place = tuple[int, str]
"""A text's position in the request, and a summary of it."""


def jobs(
    texts: Sequence[str], params: GenerationParams, n: int
) -> tuple[list[str], list[GenerationParams]]:
    """What to generate for n candidates of each text: texts and settings, one of each a summary.

    A text's candidates stand side by side, so that an engine can share what they have in common.

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
    """The lists of `jobs` cut into what is written in one turn: a text, with all its candidates.

    >>> one, other = GenerationParams(), GenerationParams(variant=1)
    >>> parts(["a", "a", "b"], [one, other, one], together=True)
    [slice(0, 2, None), slice(2, 3, None)]

    Args:
        texts: as `jobs` gives them.
        params: one for each text.
        together: whether the candidates of a text belong together; else each is a turn.

    Raises:
        ValueError: not one params for each text.
    """
    wanted = list(zip(texts, params, strict=True))
    # The same text again with the same variant is another text of the request.
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
    """The summaries of `jobs`, in its order, as the candidates of each text.

    Raises:
        MetricFailed: `generation_failed`, where a text lacks a candidate.
    """
    if len(summaries) % n:
        raise MetricFailed(
            f"the generator gave {len(summaries)} summaries where each text has {n} candidates",
            code="generation_failed",
        )
    return [
        [Candidate(variant, summary) for variant, summary in enumerate(summaries[at : at + n])]
        for at in range(0, len(summaries), n)
    ]


def to_score(groups: Sequence[Candidates]) -> list[Place]:
    """Each summary that has something to score, once a text however many candidates are equal.

    Raises:
        MetricFailed: `generation_failed`, where no candidate of a text has a word.
    """
    for index, group in enumerate(groups):
        if not any(has_word(one.summary.text) for one in group):
            raise MetricFailed(
                f"no candidate for text {index} has a word, so there is none to choose; ask for "
                "more of them, or for a higher temperature",
                code="generation_failed",
            )
    places = [
        (index, one.summary.text)
        for index, group in enumerate(groups)
        for one in group
        if has_word(one.summary.text)
    ]
    return list(dict.fromkeys(places))


def best_first(
    groups: Sequence[Candidates], places: Sequence[Place], evaluations: Sequence[Evaluation]
) -> list[Candidates]:
    """Each text's candidates with their scores, least loss first.

    Of equal losses the lower variant comes first; a candidate without a word comes last.

    Args:
        groups: the candidates of each text.
        places: what `to_score` said of them.
        evaluations: one for each place.

    Raises:
        MetricFailed: a candidate has no evaluation, or a loss that is not a finite number.
    """
    if len(evaluations) != len(places):
        raise MetricFailed(f"{len(evaluations)} scores came back for {len(places)} candidates")
    known = dict(zip(places, evaluations, strict=True))
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
