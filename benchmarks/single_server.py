"""One FastAPI process that answers one request at a time: the earlier system's shape.

    python -m benchmarks.single_server PORT reference
    python -m benchmarks.single_server PORT plainmed

`reference` computes with bert-score, AlignScore's published inference and textstat; `plainmed`
is the same process shape over our library. Same weights, same loss. It exists to be measured
against, not to be used.
"""

from __future__ import annotations

import sys
from threading import Lock
from typing import Any

import torch
import uvicorn
from fastapi import FastAPI

from benchmarks import peers
from serve_app.core.settings import Settings
from serve_app.metrics.bertscore import BertScorer
from serve_app.metrics.evaluation import evaluate
from serve_app.metrics.loss import LossFunction, combine
from serve_app.metrics.suite import MetricSuite
from serve_app.metrics.targets import load_targets


def reference_losses() -> Any:
    """Losses from the packages the earlier system called."""
    settings = Settings()
    loss = LossFunction(load_targets(settings), settings.loss_steepness, settings.loss_direction)
    relevance = peers.BertScorePeer(BertScorer.from_reference(peers.ENCODER).layer)
    factuality = peers.AlignScoreReference()
    config = factuality.config

    def run(originals: list[str], generated: list[str]) -> list[float]:
        columns = [
            relevance.score(originals, generated),
            factuality.score(
                originals, generated, chunk_words=config.chunk_words, mode=config.eval_mode
            ),
            *zip(*peers.textstat_scores(generated), strict=True),
        ]
        values = torch.tensor([list(column) for column in columns], dtype=torch.float64).T.numpy()
        means = torch.tensor(loss.targets.mean, dtype=torch.float64).numpy()
        return [float(v) for v in combine(loss.errors(values, means[None].repeat(len(values), 0)))]

    return run


def own_losses() -> Any:
    """Losses from our library in this process."""
    settings = Settings()
    suite = MetricSuite.from_settings(settings)
    loss = LossFunction(load_targets(settings), settings.loss_steepness, settings.loss_direction)

    def run(originals: list[str], generated: list[str]) -> list[float]:
        return [item.loss for item in evaluate(suite.measure(originals, generated), loss)]

    return run


def main() -> None:
    port, library = int(sys.argv[1]), sys.argv[2]
    torch.set_num_threads(2)
    losses = {"reference": reference_losses, "plainmed": own_losses}[library]()
    app, lock = FastAPI(), Lock()

    @app.get("/healthz")
    def healthz() -> dict[str, str]:
        return {"status": "ok"}

    @app.post("/loss")
    def loss(body: dict[str, list[str]]) -> list[float]:
        with lock:
            return losses(body["texts_original"], body["texts_generated"])

    uvicorn.run(app, host="127.0.0.1", port=port, log_level="warning")


if __name__ == "__main__":
    main()
