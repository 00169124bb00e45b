"""Results of the metrics for one pair, and their evaluation against targets: plain data.

Knows neither torch nor a model, so that a gateway or the loss need not load one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from serve_app.core.schemas import TermName
from serve_app.evidence import Check
from serve_app.metrics.loss import LossFunction, combine
from serve_app.metrics.readability import Readability


@dataclass(frozen=True, slots=True)
class BertScoreResult:
    """BERTScore of one pair.

    Attributes:
        precision: mean best cosine of the candidate's tokens (below 0 counts as 0), in [0, 1].
        recall: the same of the reference's tokens.
        f1: harmonic mean of both: the relevance metric.
        truncated_reference: True if the end of the reference was not read.
        truncated_candidate: True if the end of the candidate was not read.
    """

    precision: float
    recall: float
    f1: float
    truncated_reference: bool
    truncated_candidate: bool


@dataclass(frozen=True, slots=True)
class ClaimSentence:
    """One sentence of a claim; in the plain modes, the claim.

    Attributes:
        text: the sentence.
        score: its best score over the chunks; a probability, in the `reg` modes a raw output, and
            what `serve_app.metrics.checkers` say.
        chunk_index: the chunk that gave it, the first among equals.
        chunk: that chunk's text.
    """

    text: str
    score: float
    chunk_index: int
    chunk: str


@dataclass(frozen=True, slots=True)
class AlignScoreResult:
    """AlignScore, or another checker's score, of one (context, claim).

    Attributes:
        score: mean of the sentences' scores, except by SummaC-Conv.
        sentences: each sentence of the claim, in order.
        truncated: True if a (chunk, sentence) exceeded the encoder's limit and was cut, or a
            sentence was left out.
    """

    score: float
    sentences: tuple[ClaimSentence, ...]
    truncated: bool

    def support(self) -> tuple[list[str], list[int]]:
        """The supporting chunks, each once, and for each sentence the index of its own there."""
        places: dict[str, int] = {}
        indexes = [places.setdefault(one.chunk, len(places)) for one in self.sentences]
        return list(places), indexes


@dataclass(frozen=True, slots=True)
class Measured:
    """Everything measured of one (original, generated) pair.

    The languages are ISO 639 codes of the texts (`serve_app.text.language`); None: undetermined, or
    LANGUAGE_CHECK is off.
    """

    relevance: BertScoreResult
    factuality: AlignScoreResult
    readability: Readability
    language: str | None = None
    original_language: str | None = None

    @property
    def values(self) -> tuple[float, float, float, float, float]:
        """The five metrics in the order of `METRICS`."""
        read = self.readability
        return (self.relevance.f1, self.factuality.score, read.fkgl, read.smog, read.dale_chall)


@dataclass(frozen=True, slots=True)
class Term:
    """A term of a profile's loss beside the five metrics: its error in [0, 1], and its weight."""

    name: TermName
    error: float
    weight: float


@dataclass(frozen=True, slots=True)
class Evaluation:
    """One pair: its metrics, the targets they are compared with, errors and loss.

    `targets`, `errors` and `sigmas` (the targets' standard deviations): five numbers in the order
    of `METRICS`. `terms`: those of the profile; `check`: what they were made from, None without.
    """

    measured: Measured
    targets: tuple[float, ...]
    errors: tuple[float, ...]
    loss: float
    sigmas: tuple[float, ...]
    terms: tuple[Term, ...] = ()
    check: Check | None = None


def evaluate(
    measured: Sequence[Measured],
    loss: LossFunction,
    *,
    weights: Sequence[float] | None = None,
    human: Sequence[Measured] | None = None,
) -> list[Evaluation]:
    """Evaluates each measured pair; `human` (one a pair) replaces the corpus means as targets.

    Raises:
        InvalidInput: bad weights.
    """
    if not measured:
        return []
    values = np.array([item.values for item in measured])
    corpus = np.broadcast_to(np.asarray(loss.targets.mean), values.shape)
    means = corpus if human is None else np.array([item.values for item in human])
    errors = loss.errors(values, means)
    losses = combine(errors, weights)
    sigmas = tuple(loss.targets.sigma)
    return [
        Evaluation(item, tuple(mean.tolist()), tuple(error.tolist()), float(total), sigmas)
        for item, mean, error, total in zip(measured, means, errors, losses, strict=True)
    ]


def with_terms(loss: float, terms: Sequence[Term]) -> float:
    """The loss of the five metrics and the terms beside them, whose weights it makes room for.

    >>> with_terms(0.5, [Term("plainness", 1.0, 0.25)])
    0.625
    """
    left = 1.0 - sum(one.weight for one in terms)
    return min(1.0, left * loss + sum(one.weight * one.error for one in terms))
