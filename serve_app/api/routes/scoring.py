"""The routes that score: /metrics/*, /loss and /evaluate. No maths here."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable
from typing import TypeVar

from fastapi import FastAPI, Request

from serve_app.api import candidates
from serve_app.api.auth.api_key_gate import may_call
from serve_app.api.backend import Backend
from serve_app.api.serializers import chosen_out, evaluation_out, explanations_out, scored_of
from serve_app.api.validation import (
    ERRORS,
    check_count,
    check_limits,
    check_texts,
    params_of,
    within,
)
from serve_app.core import schemas
from serve_app.core.errors import InvalidInput, NotAllowed
from serve_app.core.settings import Settings
from serve_app.generation.best_of import Candidates
from serve_app.metrics.loss import check_weights
from serve_app.text.validation import require_pairs

Result = TypeVar("Result")


def add_scoring(app: FastAPI, backend: Backend, settings: Settings) -> None:
    """Adds the routes to `app`; each validates, asks `backend` and shapes the answer."""

    async def in_time(work: Awaitable[Result]) -> Result:
        return await within(work, settings)

    def check_pairs(originals: list[str], generated: list[str]) -> None:
        check_limits(originals, "texts_original", settings)
        check_limits(generated, "texts_generated", settings)
        require_pairs(originals, generated, "texts_original", "texts_generated")

    def check_human(originals: list[str], human: list[str] | None) -> None:
        if human is not None:
            check_limits(human, "texts_human", settings)
            require_pairs(originals, human, "texts_original", "texts_human")

    async def best_written(body: schemas.EvaluateRequest, n: int) -> list[Candidates]:
        """n summaries of each text by the generator, the best one first."""
        if "generator" not in backend.services:
            raise InvalidInput(
                "give texts_generated: this server runs without the generator",
                field="texts_generated",
            )
        originals = body.texts_original
        params = params_of(schemas.Sampling(seed=body.seed), settings)
        groups = await candidates.write(backend, originals, params, n, "texts_original")
        return await candidates.choose(backend, originals, groups, body.texts_human, body.weights)

    @app.post("/metrics/relevance", responses=ERRORS)
    async def relevance(body: schemas.PairsRequest) -> schemas.RelevanceResponse:
        """BERTScore F1 of each generated text against its original."""
        check_pairs(body.texts_original, body.texts_generated)
        scores = await in_time(backend.relevance(body.texts_original, body.texts_generated))
        return schemas.RelevanceResponse(
            relevance=scores.values, model=scores.model, device=scores.device
        )

    @app.post("/metrics/factuality", responses=ERRORS)
    async def factuality(body: schemas.PairsRequest) -> schemas.FactualityResponse:
        """AlignScore of each generated text against its original."""
        check_pairs(body.texts_original, body.texts_generated)
        scores = await in_time(backend.factuality(body.texts_original, body.texts_generated))
        return schemas.FactualityResponse(
            factuality=scores.values, model=scores.model, device=scores.device
        )

    @app.post("/metrics/readability", responses=ERRORS)
    async def readability(body: schemas.TextsRequest) -> schemas.ReadabilityResponse:
        """FKGL, SMOG and Dale-Chall of each text."""
        check_texts(body.texts, "texts", settings)
        results = await in_time(backend.readability(body.texts))
        return schemas.ReadabilityResponse(
            fkgl=[item.fkgl for item in results],
            smog=[item.smog for item in results],
            dale_chall=[item.dale_chall for item in results],
        )

    @app.post("/loss", responses=ERRORS)
    async def loss(body: schemas.LossRequest) -> float | list[float]:
        """How far each text is from the targets, in [0, 1]: a number for one text, else a list."""
        check_weights(body.weights)
        check_pairs(body.texts_original, body.texts_generated)
        check_human(body.texts_original, body.texts_human)
        results = await in_time(
            backend.evaluate(
                body.texts_original, body.texts_generated, body.texts_human, body.weights
            )
        )
        losses = [item.loss for item in results]
        return losses[0] if len(losses) == 1 else losses

    @app.post("/evaluate", responses=ERRORS)
    async def evaluate(body: schemas.EvaluateRequest, request: Request) -> schemas.EvaluateResponse:
        """Metrics, errors, loss, sentence-level factuality and truncation of each text.

        Without `texts_generated` the generator writes `n` candidates of each (default 1) and the
        one of least loss is evaluated.
        """
        weights = check_weights(body.weights)
        check_texts(body.texts_original, "texts_original", settings)
        check_human(body.texts_original, body.texts_human)
        if body.texts_generated is None:
            if not may_call(request.scope, "generator"):
                raise NotAllowed(
                    "this key may not call the generator; give texts_generated",
                    field="texts_generated",
                )
            n = check_count(body.n, len(body.texts_original), settings)
            ranked = await in_time(best_written(body, n))
            results = [chosen_out(group) for group in ranked]
            evaluations = [scored_of(group[0]) for group in ranked]
        else:
            for field, value in (("n", body.n), ("seed", body.seed)):
                if value is not None:
                    message = f"{field} is for the generator: leave out {field}, or texts_generated"
                    raise InvalidInput(message, field=field)
            check_pairs(body.texts_original, body.texts_generated)
            evaluations = await in_time(
                backend.evaluate(
                    body.texts_original, body.texts_generated, body.texts_human, body.weights
                )
            )
            pairs = zip(body.texts_generated, evaluations, strict=True)
            results = [evaluation_out(text, item) for text, item in pairs]
        if body.explain:
            gone = threading.Event()
            # Plain Python over whole texts: in a thread, so that other requests go on.
            explaining = asyncio.to_thread(
                explanations_out, body.texts_original, results, evaluations, gone.is_set
            )
            try:
                explanations = await in_time(explaining)
            finally:
                gone.set()  # a thread cannot be cancelled: out of time, or its client is gone
            for result, explanation in zip(results, explanations, strict=True):
                result.explanation = explanation
        return schemas.EvaluateResponse(
            results=results, weights=weights.tolist(), models=await in_time(backend.models())
        )
