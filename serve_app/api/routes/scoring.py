"""The routes that score: /metrics/*, /loss and /evaluate. No maths here."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

from fastapi import FastAPI, Request

from serve_app.api.auth.api_key_gate import may_call
from serve_app.api.backend import Backend, MetricScores
from serve_app.api.routes.generate import candidates_out, summary_chars
from serve_app.api.serializers import (
    add_findings,
    check_chars,
    checks_of,
    evaluation_chars,
    evaluations_out,
    explanations_out,
    scored_of,
)
from serve_app.api.validation import (
    ERRORS,
    check_answer,
    check_count,
    check_pairs,
    check_texts,
    languages_of,
    of_request,
    params_of,
    profile_of,
    within,
)
from serve_app.core import schemas
from serve_app.core.errors import InvalidInput, NotAllowed, PlainMedError
from serve_app.core.settings import Settings
from serve_app.evidence import Check
from serve_app.generation import best_of
from serve_app.generation.best_of import Candidates
from serve_app.metrics.loss import check_weights
from serve_app.metrics.profiles import weights_of

Result = TypeVar("Result")
PairMetric = Callable[[Sequence[str], Sequence[str]], Awaitable[MetricScores]]


def add_scoring(app: FastAPI, backend: Backend, settings: Settings) -> None:
    """Adds the routes to `app`; each validates, asks `backend` and shapes the answer."""

    async def best_written(body: schemas.EvaluateRequest, n: int) -> list[Candidates]:
        """n summaries of each text by the generator, the best one first."""
        if "generator" not in backend.services:
            raise InvalidInput(
                "give texts_generated: this server runs without the generator",
                field="texts_generated",
            )
        originals = body.texts_original
        params = params_of(schemas.Sampling(seed=body.seed), settings)
        groups = await best_of.write(backend.generate, originals, params, n, "texts_original")
        return await best_of.choose(
            backend.evaluate, originals, groups, body.texts_human, body.weights, profile_of(body)
        )

    async def computed(work: Awaitable[Result], pairs: int) -> Result:
        try:
            return await within(work, settings)
        except PlainMedError as error:
            raise of_request(error, pairs) from None

    async def beside(work: Callable[..., Result], *texts: Any) -> Result:
        """Runs plain Python over whole texts in a thread, so that other requests go on."""
        gone = threading.Event()
        try:
            return await within(asyncio.to_thread(work, *texts, gone.is_set), settings)
        finally:
            gone.set()  # a thread cannot be cancelled: out of time, or its client is gone

    async def check_english(body: schemas.PairsRequest) -> None:
        for name in ("texts_original", "texts_generated"):
            await languages_of(getattr(body, name), name, settings, shown=False)

    async def pair_scores(body: schemas.PairsRequest, score: PairMetric) -> MetricScores:
        check_pairs(body, settings)
        await check_english(body)
        scoring = score(body.texts_original, body.texts_generated)
        return await computed(scoring, len(body.texts_original))

    @app.post("/metrics/relevance", responses=ERRORS)
    async def relevance(body: schemas.PairsRequest) -> schemas.RelevanceResponse:
        """BERTScore F1 of each generated text against its original."""
        scores = await pair_scores(body, backend.relevance)
        return schemas.RelevanceResponse(
            relevance=scores.values, model=scores.model, device=scores.device
        )

    @app.post("/metrics/factuality", responses=ERRORS)
    async def factuality(body: schemas.PairsRequest) -> schemas.FactualityResponse:
        """Factuality of each generated text against its original (AlignScore, by default)."""
        scores = await pair_scores(body, backend.factuality)
        return schemas.FactualityResponse(
            factuality=scores.values, model=scores.model, device=scores.device
        )

    @app.post("/metrics/readability", responses=ERRORS)
    async def readability(body: schemas.TextsRequest) -> schemas.ReadabilityResponse:
        """FKGL, SMOG and Dale-Chall of each text."""
        check_texts(body.texts, "texts", settings)
        languages = await languages_of(body.texts, "texts", settings)
        results = await within(backend.readability(body.texts), settings)
        return schemas.ReadabilityResponse(
            fkgl=[item.fkgl for item in results],
            smog=[item.smog for item in results],
            dale_chall=[item.dale_chall for item in results],
            language=languages,
        )

    @app.post("/loss", responses=ERRORS)
    async def loss(body: schemas.LossRequest) -> float | list[float]:
        """How far each text is from the targets, in [0, 1]: a number for one text, else a list.

        The targets are those of `profile`.
        """
        check_weights(body.weights)
        profile = profile_of(body)
        check_pairs(body, settings)
        await check_english(body)
        evaluating = backend.evaluate(
            body.texts_original, body.texts_generated, body.texts_human, body.weights, profile
        )
        losses = [item.loss for item in await computed(evaluating, len(body.texts_original))]
        return losses[0] if len(losses) == 1 else losses

    @app.post("/evaluate", responses=ERRORS)
    async def evaluate(body: schemas.EvaluateRequest, request: Request) -> schemas.EvaluateResponse:
        """Metrics, errors, loss, sentence-level factuality, findings and truncation of each text.

        Without `texts_generated` the generator writes `n` candidates of each (default 1) and the
        one of least loss is evaluated.
        """
        profile = profile_of(body)
        weights = weights_of(profile, body.weights)
        check_pairs(body, settings)
        original_languages = await languages_of(body.texts_original, "texts_original", settings)
        if body.texts_generated is None:
            if not may_call(request.scope, "generator"):
                raise NotAllowed(
                    "this key may not call the generator; give texts_generated",
                    field="texts_generated",
                )
            n = check_count(body.n, len(body.texts_original), settings)
            ranked = await within(best_written(body, n), settings)
            evaluations = [scored_of(group[0]) for group in ranked]
            generated = [group[0].summary.text for group in ranked]
            languages = await languages_of(generated, "texts_generated", settings)
            listed = ranked if n > 1 else []
        else:
            for field, value in (("n", body.n), ("seed", body.seed)):
                if value is not None:
                    message = f"{field} is for the generator: leave out {field}, or texts_generated"
                    raise InvalidInput(message, field=field)
            languages = await languages_of(body.texts_generated, "texts_generated", settings)
            evaluating = backend.evaluate(
                body.texts_original, body.texts_generated, body.texts_human, body.weights, profile
            )
            evaluations = await computed(evaluating, len(body.texts_original))
            generated, listed = body.texts_generated, []
        checks: list[Check] = []
        if body.findings:
            checks = await beside(checks_of, body.texts_original, generated, evaluations)
        pairs = zip(generated, evaluations, strict=True)
        check_answer(
            sum(evaluation_chars(text, item, explain=body.explain) for text, item in pairs)
            + sum(map(check_chars, checks))
            + sum(summary_chars(one.summary) for group in listed for one in group)
        )
        results = evaluations_out(generated, evaluations)
        for result, *both in zip(results, languages, original_languages, strict=True):
            result.language, result.original_language = both
        for result, group in zip(results, listed, strict=False):
            result.candidates = candidates_out(group)
        for result, found in zip(results, checks, strict=False):
            add_findings(result, found)
        if body.explain:
            explanations = await beside(explanations_out, body.texts_original, results, evaluations)
            for result, explanation in zip(results, explanations, strict=True):
                result.explanation = explanation
        models = await within(backend.models(), settings)
        return schemas.EvaluateResponse(
            results=results, weights=weights, models=models, profile=body.profile
        )
