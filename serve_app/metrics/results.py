"""What the metrics say of one pair: plain numbers, for whoever passes them on without a model.

Knows no torch, so that a gateway or the loss need not load it.
"""

from __future__ import annotations

from dataclasses import dataclass

from serve_app.metrics.readability import Readability


@dataclass(frozen=True, slots=True)
class BertScoreResult:
    """BERTScore of one pair.

    Attributes:
        precision: mean best cosine of the candidate's tokens (below 0 counts as 0), in [0, 1].
        recall: mean best cosine of the reference's tokens (likewise), in [0, 1].
        f1: harmonic mean of both; the relevance metric.
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
        score: its best score over the chunks; a probability, in the `reg` modes a raw output.
        chunk_index: which chunk gave it, the first one among equals.
        chunk: that chunk.
    """

    text: str
    score: float
    chunk_index: int
    chunk: str


@dataclass(frozen=True, slots=True)
class AlignScoreResult:
    """AlignScore of one (context, claim).

    Attributes:
        score: mean of the sentences' scores.
        sentences: each sentence of the claim, in order.
        truncated: True if some (chunk, sentence) was over the encoder's limit, so that part of
            a text was not read.
    """

    score: float
    sentences: tuple[ClaimSentence, ...]
    truncated: bool


@dataclass(frozen=True, slots=True)
class Measured:
    """All that was measured of one (original, generated) pair."""

    relevance: BertScoreResult
    factuality: AlignScoreResult
    readability: Readability

    @property
    def values(self) -> tuple[float, float, float, float, float]:
        """The five metrics in the order of `serve_app.metrics.loss.METRICS`."""
        read = self.readability
        return (self.relevance.f1, self.factuality.score, read.fkgl, read.smog, read.dale_chall)
