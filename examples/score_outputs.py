"""Scores what a model of yours writes: put it in the place of `my_model`.

python examples/score_outputs.py
"""

import csv
from pathlib import Path

from serve_app.core.settings import load_settings
from serve_app.metrics.evaluation import evaluate
from serve_app.metrics.loss import LossFunction
from serve_app.metrics.suite import MetricSuite
from serve_app.text.sentences import split_sentences

PAIRS = Path(__file__).parent / "pairs.csv"


def my_model(original: str) -> str:
    """Your model; this one takes the last two sentences."""
    return " ".join(split_sentences(original)[-2:])


def main() -> None:
    with PAIRS.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    originals = [row["original"] for row in rows]
    summaries = [my_model(original) for original in originals]
    settings = load_settings()
    measured = MetricSuite.from_settings(settings).measure(originals, summaries)
    print("id           loss  relevance  factuality   FKGL   SMOG  Dale-Chall")
    for row, one in zip(rows, evaluate(measured, LossFunction.of(settings)), strict=True):
        relevance, factuality, fkgl, smog, dale_chall = one.measured.values
        print(
            f"{row['id']:11} {one.loss:5.3f}  {relevance:9.3f}  {factuality:10.3f}  "
            f"{fkgl:5.1f}  {smog:5.1f}  {dale_chall:10.1f}"
        )


if __name__ == "__main__":
    main()
