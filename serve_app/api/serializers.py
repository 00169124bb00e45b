"""Turns what the library computes into the answers of the HTTP contract. No behaviour."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from serve_app.core import schemas
from serve_app.generation.best_of import Candidate
from serve_app.generation.protocol import Summary
from serve_app.metrics.evaluation import Evaluation
from serve_app.metrics.explanation import Span, explain
from serve_app.metrics.loss import METRICS


def summary_out(summary: Summary) -> schemas.GenerateResponse:
    """The answer of `/generate` for one text, written once."""
    return schemas.GenerateResponse(**_summary_fields(summary))


def generate_out(
    candidates: Sequence[Candidate],
    select: schemas.Select | None,
    weights: list[float] | None,
) -> schemas.GenerateResponse:
    """The answer of `/generate` for one text: its first candidate, and all where it has several.

    A selection shows its candidate's scores even where there is only one.
    """
    if len(candidates) == 1 and select is None:
        return summary_out(candidates[0].summary)
    return schemas.GenerateResponse(
        **_summary_fields(candidates[0].summary),
        candidates=_candidates_out(candidates),
        select=select,
        weights=weights,
    )


def chosen_out(candidates: Sequence[Candidate]) -> schemas.EvaluationOut:
    """One result of `/evaluate`: its first candidate's, and all where there are several.

    Raises:
        ValueError: the first candidate was not scored.
    """
    best = candidates[0]
    result = evaluation_out(best.summary.text, scored_of(best))
    if len(candidates) > 1:
        result.candidates = _candidates_out(candidates)
    return result


def scored_of(candidate: Candidate) -> Evaluation:
    """What a candidate scored.

    Raises:
        ValueError: it was not scored.
    """
    if candidate.evaluation is None:
        raise ValueError(f"candidate {candidate.variant} was not scored")
    return candidate.evaluation


def _candidates_out(candidates: Sequence[Candidate]) -> list[schemas.CandidateOut]:
    return [
        schemas.CandidateOut(
            **_summary_fields(one.summary), variant=one.variant, scores=_scores_out(one.evaluation)
        )
        for one in candidates
    ]


def _scores_out(item: Evaluation | None) -> schemas.Scores | None:
    if item is None:
        return None
    metrics, errors = _by_metric(item.measured.values), _by_metric(item.errors)
    return schemas.Scores(loss=item.loss, metrics=metrics, errors=errors)


def _summary_fields(summary: Summary) -> dict[str, Any]:
    """The fields of a `SummaryOut`."""
    return {
        "summary": summary.text,
        "model": summary.model,
        "finish_reason": summary.finish_reason,
        "truncated": summary.truncated,
        "usage": schemas.Usage(
            prompt_tokens=summary.prompt_tokens, completion_tokens=summary.completion_tokens
        ),
        "sentences": [
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
    }


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


def explanations_out(
    originals: Sequence[str],
    results: Sequence[schemas.EvaluationOut],
    evaluations: Sequence[Evaluation],
    unwanted: Callable[[], bool] = lambda: False,
) -> list[schemas.ExplanationOut]:
    """What `explain` adds to each result of `/evaluate`, made of the same evaluation.

    `unwanted` is asked before each text; once it says so, the rest is left out.
    """
    found: list[schemas.ExplanationOut] = []
    for original, result, item in zip(originals, results, evaluations, strict=True):
        if unwanted():
            break
        found.append(_explanation_out(original, result.generated, item))
    return found


def _explanation_out(original: str, text: str, item: Evaluation) -> schemas.ExplanationOut:
    found = explain(original, text, item.measured)
    return schemas.ExplanationOut(
        sigmas=_by_metric(item.sigmas),
        sentences=[
            schemas.EvidenceOut(
                sentence=_span_out(one.sentence),
                passage=_span_out(one.passage),
                closest=_span_out(one.closest),
            )
            for one in found.sentences
        ],
        plain_words=[
            schemas.PlainWordOut(term=word.term, plain=word.plain, start=word.start, end=word.end)
            for word in found.plain_words
        ],
    )


def _span_out(span: Span | None) -> schemas.SpanOut | None:
    return None if span is None else schemas.SpanOut(start=span[0], end=span[1])


def _by_metric(values: Sequence[float]) -> schemas.MetricValues:
    return schemas.MetricValues(**dict(zip(METRICS, values, strict=True)))
