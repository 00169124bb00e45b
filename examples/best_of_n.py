"""Writes four summaries of a text and takes the one of least loss.

python examples/best_of_n.py
"""

import csv
from pathlib import Path

from serve_app.core.settings import load_settings
from serve_app.generation import GenerationParams, best_of
from serve_app.generation.loading import load_generator
from serve_app.metrics.evaluation import evaluate
from serve_app.metrics.loss import LossFunction
from serve_app.metrics.suite import MetricSuite

PAIRS = Path(__file__).parent / "pairs.csv"
N = 4


def main() -> None:
    with PAIRS.open(newline="", encoding="utf-8") as file:
        text = next(csv.DictReader(file))["original"]
    settings = load_settings()
    params = GenerationParams(seed=1)
    written = load_generator(settings).generate(*best_of.jobs([text], params, N))
    groups = best_of.grouped(written, N)
    pairs = best_of.to_score(groups)
    suite = MetricSuite.from_settings(settings)
    measured = suite.measure([text] * len(pairs), [summary for _, summary in pairs])
    scores = evaluate(measured, LossFunction.of(settings))
    (ranked,) = best_of.best_first(groups, pairs, scores)
    for candidate in ranked:
        if candidate.evaluation is not None:
            print(f"variant {candidate.variant}: loss {candidate.evaluation.loss:.3f}")
    print(f"\n{ranked[0].summary.text}")


if __name__ == "__main__":
    main()
