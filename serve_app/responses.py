"""Turns what the library computes into the answers of the HTTP contract. No behaviour."""

from __future__ import annotations

from collections.abc import Sequence

from serve_app import schemas
from serve_app.evaluation import Evaluation
from serve_app.generation.protocol import Summary
from serve_app.loss import METRICS


def summary_out(summary: Summary) -> schemas.GenerateResponse:
    """The answer of `/generate`."""
    return schemas.GenerateResponse(
        summary=summary.text,
        model=summary.model,
        finish_reason=summary.finish_reason,
        truncated=summary.truncated,
        usage=schemas.Usage(
            prompt_tokens=summary.prompt_tokens, completion_tokens=summary.completion_tokens
        ),
        sentences=[
            schemas.SummarySentenceOut(
                text=sentence.text,
                source=sentence.source,
                source_index=sentence.source_index,
                replacements=[
                    schemas.Replaced(term=term, plain=plain)
                    for term, plain in sentence.replacements
                ],
            )
            for sentence in summary.sentences
        ],
    )


def evaluation_out(text: str, item: Evaluation) -> schemas.EvaluationOut:
    """One result of `/evaluate`; `text` is the summary that was evaluated."""
    measured = item.measured
    return schemas.EvaluationOut(
        generated=text,
        metrics=_by_metric(measured.values),
        targets=_by_metric(item.targets),
        errors=_by_metric(item.errors),
        loss=item.loss,
        sentences=[
            schemas.FactualSentence(
                text=sentence.text, score=sentence.score, support=sentence.chunk
            )
            for sentence in measured.factuality.sentences
        ],
        difficult_words=[
            schemas.DifficultWordOut(word=word.word, start=word.start, end=word.end)
            for word in measured.readability.difficult_words
        ],
        truncated=schemas.Truncation(
            relevance_original=measured.relevance.truncated_reference,
            relevance_generated=measured.relevance.truncated_candidate,
            factuality=measured.factuality.truncated,
        ),
    )


def _by_metric(values: Sequence[float]) -> schemas.MetricValues:
    return schemas.MetricValues(**dict(zip(METRICS, values, strict=True)))
