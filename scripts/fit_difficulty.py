"""Makes a difficulty model, as `serve_app.metrics.difficulty` reads it.

    python scripts/fit_difficulty.py ../shared/data/cochrane_pls.csv --split train \
        --out serve_app/resources/readability/difficulty.json
    python scripts/fit_difficulty.py RATED.jsonl --split train --ratings easiness --out mine.json

Of pairs (originals and plain-language summaries): all features weigh alike, in standard deviations
of these texts; 0 is the mean of the summaries and 1 that of the originals. That is the packaged
one. Of texts with ratings (`--ratings COLUMN`, higher is easier; `--harder`, higher is harder):
least squares, with a little ridge. Use no ratings whose licence does not allow what you do with it.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from serve_app.metrics.difficulty import FEATURES, features
from serve_app.offline.validation.texts import read_rated, read_summaries

RIDGE = 1.0
Floats = NDArray[np.float64]


def table(texts: Sequence[str]) -> Floats:
    """(texts, features)."""
    return np.array([features(text) for text in texts])


def of_pairs(originals: Floats, summaries: Floats) -> tuple[float, Floats]:
    """Intercept and weights that put the mean summary at 0 and the mean original at 1."""
    weights = 1.0 / np.concatenate([originals, summaries]).std(axis=0)
    low, high = (float(part.mean(axis=0) @ weights) for part in (summaries, originals))
    if high <= low:
        raise SystemExit("the originals are not harder than the summaries: are the columns right?")
    return -low / (high - low), weights / (high - low)


def of_ratings(found: Floats, difficulty: Floats) -> tuple[float, Floats]:
    """Intercept and weights of ridge regression on standardised features."""
    mean, sd = found.mean(axis=0), found.std(axis=0)
    scaled = (found - mean) / np.where(sd > 0, sd, 1.0)
    normal = scaled.T @ scaled + RIDGE * np.eye(len(FEATURES))
    slopes = np.linalg.solve(normal, scaled.T @ (difficulty - difficulty.mean()))
    weights = slopes / np.where(sd > 0, sd, 1.0)
    return float(difficulty.mean() - mean @ weights), weights


def main(arguments: Sequence[str] | None = None) -> None:
    """Reads the table, writes the model."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("file")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--split")
    parser.add_argument("--ratings", help="column of ratings; none: a table of pairs")
    parser.add_argument("--harder", action="store_true", help="a higher rating is a harder text")
    given = parser.parse_args(arguments)
    if given.ratings is None:
        pairs = read_summaries(given.file, split=given.split)
        count, what = len(pairs.numbers), "pairs"
        intercept, weights = of_pairs(table(pairs.originals), table(pairs.summaries))
    else:
        rated = read_rated(given.file, rating=given.ratings, split=given.split)
        count, what = len(rated.numbers), "ratings"
        sign = 1.0 if given.harder else -1.0
        intercept, weights = of_ratings(table(rated.summaries), sign * np.array(rated.ratings))
    model = {"made": f"scripts/fit_difficulty.py, of {count} {what}", "intercept": intercept}
    model |= dict(zip(FEATURES, weights.tolist(), strict=True))
    given.out.write_text(json.dumps(model, indent=2) + "\n", encoding="utf-8")
    print(f"{given.out}: of {count} {what}")


if __name__ == "__main__":
    main()
