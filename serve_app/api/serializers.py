"""Turns what the library computes into the answers of the HTTP contract, bounded in size."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from serve_app.core import schemas
from serve_app.evidence import Check, check, verdict
from serve_app.generation.best_of import Candidate
from serve_app.metrics.evaluation import Evaluation
from serve_app.metrics.explanation import Span, explain
from serve_app.metrics.loss import METRICS
from serve_app.text.sentences import sentence_spans

MAX_SUPPORT_CHARS = 4_000_000
"""Most characters of an answer that `support` repeats of its `passages`."""

SENTENCE_CHARS = 80
"""JSON around the text of a sentence."""

MAX_FINDINGS = 100
"""Most findings of a summary in an answer."""

_EVIDENCE_CHARS, _WORD_CHARS, _FINDING_CHARS = 160, 60, 260


def checks_of(
    originals: Sequence[str],
    texts: Sequence[str],
    evaluations: Sequence[Evaluation],
    unwanted: Callable[[], bool],
) -> list[Check]:
    """Findings and omissions of each summary, found now unless its evaluation needed them.

    Raises:
        Unavailable: `unwanted`, asked again and again, said that nobody waits any more.
    """
    return [
        one.check or check(original, text, unwanted)
        for original, text, one in zip(originals, texts, evaluations, strict=True)
    ]


def check_chars(found: Check) -> int:
    """About how many characters findings and omissions have in an answer."""
    spans = sum(len(one.summary_spans) + len(one.source_spans) for one in found.findings)
    messages = [one.message for one in found.findings[:MAX_FINDINGS]]
    messages += [one.message for one in found.omissions]
    return sum(_FINDING_CHARS + len(message) for message in messages) + spans * _WORD_CHARS


def evaluation_chars(text: str, item: Evaluation, *, explain: bool) -> int:
    """About how many characters the evaluation of `text` has in an answer, without `support`."""
    sentences = item.measured.factuality.sentences
    passages, _ = item.measured.factuality.support()
    around = SENTENCE_CHARS + (_EVIDENCE_CHARS if explain else 0)
    words = len(item.measured.readability.difficult_words)
    chars = len(text) + sum(map(len, passages)) + sum(around + len(one.text) for one in sentences)
    return chars + words * _WORD_CHARS * (2 if explain else 1)


def scored_of(candidate: Candidate) -> Evaluation:
    """What a candidate scored.

    Raises:
        ValueError: it was not scored.
    """
    if candidate.evaluation is None:
        raise ValueError(f"candidate {candidate.variant} was not scored")
    return candidate.evaluation


def scores_out(item: Evaluation | None) -> schemas.Scores | None:
    """What a candidate scored; None where it was not scored."""
    if item is None:
        return None
    metrics, errors = _by_metric(item.measured.values), _by_metric(item.errors)
    return schemas.Scores(loss=item.loss, metrics=metrics, errors=errors, terms=_terms(item))


def _terms(item: Evaluation) -> dict[schemas.TermName, schemas.TermOut]:
    return {one.name: schemas.TermOut(error=one.error, weight=one.weight) for one in item.terms}


def evaluations_out(
    texts: Sequence[str], evaluations: Sequence[Evaluation]
) -> list[schemas.EvaluationOut]:
    """The results of `/evaluate`; `texts` are the summaries that were evaluated."""
    support_left = MAX_SUPPORT_CHARS
    results = []
    for text, item in zip(texts, evaluations, strict=True):
        results.append(_evaluation_out(text, item, support_left))
        support_left -= sum(len(sentence.support) for sentence in results[-1].sentences)
    return results


def _evaluation_out(text: str, item: Evaluation, support_left: int) -> schemas.EvaluationOut:
    measured = item.measured
    passages, indexes = measured.factuality.support()
    sentences = []
    for one, index in zip(measured.factuality.sentences, indexes, strict=True):
        support_left -= len(one.chunk)
        support = one.chunk if support_left >= 0 else ""
        sentences.append(
            schemas.FactualSentence(
                text=one.text, score=one.score, support=support, passage_index=index
            )
        )
    return schemas.EvaluationOut(
        generated=text,
        metrics=_by_metric(measured.values),
        targets=_by_metric(item.targets),
        errors=_by_metric(item.errors),
        terms=_terms(item),
        loss=item.loss,
        sentences=sentences,
        passages=passages,
        difficult_words=list(measured.readability.difficult_words),
        truncated=schemas.Truncation(
            relevance_original=measured.relevance.truncated_reference,
            relevance_generated=measured.relevance.truncated_candidate,
            factuality=measured.factuality.truncated,
        ),
        language=measured.language,
        original_language=measured.original_language,
    )


def explanations_out(
    originals: Sequence[str],
    results: Sequence[schemas.EvaluationOut],
    evaluations: Sequence[Evaluation],
    unwanted: Callable[[], bool] = lambda: False,
) -> list[schemas.ExplanationOut]:
    """What `explain` adds to each result of `/evaluate`, from the same evaluation.

    Raises:
        Unavailable: `unwanted`, asked again and again, said that nobody waits any more.
    """
    triples = zip(originals, results, evaluations, strict=True)
    return [_explanation_out(original, out, item, unwanted) for original, out, item in triples]


def _explanation_out(
    original: str, out: schemas.EvaluationOut, item: Evaluation, unwanted: Callable[[], bool]
) -> schemas.ExplanationOut:
    found = explain(original, out.generated, item.measured, unwanted)
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
        plain_words=list(found.plain_words),
    )


def add_findings(out: schemas.EvaluationOut, found: Check) -> None:
    """Puts findings and omissions into a result of `/evaluate`."""
    # Of too many the severe ones are kept; those shown stand in the order of the summary.
    first = sorted(found.findings, key=lambda one: one.severity != "severe")[:MAX_FINDINGS]
    out.findings = [
        schemas.FindingOut(
            kind=one.kind,
            severity=one.severity,
            message=one.message,
            sentence=_span(one.sentence_span),
            summary_spans=list(map(_span, one.summary_spans)),
            source_spans=list(map(_span, one.source_spans)),
        )
        for one in sorted(first, key=lambda one: one.sentence)
    ]
    spans = sentence_spans(out.generated)
    if len(spans) == len(out.sentences):  # a mode that scores the whole has one
        for (start, end), sentence in zip(spans, out.sentences, strict=True):
            own = [one for one in found.findings if start <= one.sentence_span[0] < end]
            sentence.verdict = verdict(own, sentence.score)
    out.findings_left_out = len(found.findings) - len(first)
    out.omissions = [
        schemas.OmissionOut(
            topic=one.topic, message=one.message, source_span=_span(one.source_span)
        )
        for one in found.omissions
    ]


def _span(span: Span) -> schemas.SpanOut:
    return schemas.SpanOut(start=span[0], end=span[1])


def _span_out(span: Span | None) -> schemas.SpanOut | None:
    return None if span is None else _span(span)


def _by_metric(values: Sequence[float]) -> schemas.MetricValues:
    return schemas.MetricValues(**dict(zip(METRICS, values, strict=True)))
