"""Balanced accuracy of the factuality checker of the settings on LLM-AggreFact's files.

    FACTUALITY_CHECKER=minicheck FACTUALITY_MODEL=... python -m benchmarks.aggrefact DIR

DIR is a folder with `dev` and `test` in its files' names (.csv, .jsonl or .parquet), or one file
with a column `split`. Columns: dataset, doc, claim, label (1: supported); or, as in the team's
data, source, context, claim, label. Where there is no `test`, `dev` is reported and `train` tunes.

A claim is supported where its score exceeds a threshold: 0.5 (MiniCheck's
benchmark_evaluation_demo.ipynb), and the one of 0.01 to 0.99 that is best on the dataset's tuning
rows (FactCG's benchmark.py). Claims are split only where the publisher's evaluation splits them.
"""

from __future__ import annotations

import os
import random
import re
import sys
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import typer

from serve_app.core.errors import InvalidInput, PlainMedError
from serve_app.core.settings import load_settings
from serve_app.metrics.alignscore import ClaimScorer
from serve_app.metrics.suite import load_factuality
from serve_app.offline.corpus.reader import scan

SUFFIXES = (".csv", ".jsonl", ".parquet")
_COLUMNS = (("dataset", "source"), ("doc", "context"), ("claim",), ("label",))
_SPLIT = re.compile(r"(?:^|[^a-z])(train|dev|validation|test)(?:[^a-z]|$)")
_LABELS = {"1": 1, "0": 0, "supported": 1, "not_supported": 0, "unsupported": 0, "contradicted": 0}
_AT_ONCE = 64  # claims


class Claim(NamedTuple):
    """One row; `label` is 1 where the document supports it."""

    doc: str
    claim: str
    label: int


Splits = dict[str, dict[str, list[Claim]]]
"""Claims by dataset and split."""


def read(place: Path) -> Splits:
    """The claims of a folder's files, or of one file.

    Raises:
        InvalidInput: a file cannot be read, a column is missing, or a cell is not what it must be.
    """
    files = sorted(place.rglob("*")) if place.is_dir() else [place]
    files = [path for path in files if path.name.endswith(SUFFIXES)]
    if not files:
        raise InvalidInput(f"{place} has no file that ends in {', '.join(SUFFIXES)}")
    found: Splits = defaultdict(lambda: defaultdict(list))
    for path in files:
        named = _SPLIT.search(path.name.lower())

        def add(at: int, row: Mapping[str, Any], path: Path = path, named: Any = named) -> None:
            where = f"{path.name}, row {at + 1}"
            values = []
            for names in _COLUMNS:
                name = next((one for one in names if row.get(one) is not None), None)
                if name is None:
                    raise InvalidInput(f"{where}: there is no {' or '.join(names)}")
                values.append(str(row[name]))
            split = row.get("split") or (named and named[1])
            if not split:
                raise InvalidInput(
                    f"{where}: neither a column split nor the file's name says dev or test"
                )
            label = _LABELS.get(values[3].removesuffix(".0").lower())
            if label is None:
                raise InvalidInput(f"{where}: label is {values[3]!r:.40}, not 1 or 0")
            split = "dev" if split == "validation" else str(split)
            found[values[0]][split].append(Claim(values[1], values[2], label))

        scan(path, add)
    return found


def balanced_accuracy(labels: Sequence[int], scores: Sequence[float], threshold: float) -> float:
    """Mean of the shares of supported and of other claims that are called so.

    >>> balanced_accuracy([1, 1, 0, 0], [0.9, 0.4, 0.2, 0.1], 0.5)
    0.75
    """
    hits = {
        wanted: [(score > threshold) == wanted for label, score in _zip(labels, scores, wanted)]
        for wanted in (1, 0)
    }
    return sum(sum(one) / len(one) for one in hits.values()) / 2


def _zip(
    labels: Sequence[int], scores: Sequence[float], wanted: int
) -> Iterable[tuple[int, float]]:
    return [(one, score) for one, score in zip(labels, scores, strict=True) if one == wanted]


def best_threshold(labels: Sequence[int], scores: Sequence[float]) -> float:
    """The first of 0.01 to 0.99 with the best balanced accuracy.

    >>> best_threshold([1, 0, 0], [0.3, 0.2, 0.1])
    0.2
    """
    steps = [step / 100 for step in range(1, 100)]
    return max(steps, key=lambda one: (balanced_accuracy(labels, scores, one), -one))


def evaluate(scorer: ClaimScorer, data: Splits, most: int | None, seed: int) -> list[str]:
    """The rows of the table, one a dataset and then their mean."""
    rows, fixed, tuned = [], [], []
    for dataset, splits in sorted(data.items()):
        report, tune = ("test", "dev") if "test" in splits else ("dev", "train")
        scored = {
            split: _scores(scorer, _some(splits[split], most, seed))
            for split in (tune, report)
            if len({claim.label for claim in splits.get(split, [])}) == 2
        }
        if report not in scored:
            rows.append(f"| {dataset} | {report} | {len(splits.get(report, []))} | – | – | – |")
            continue
        fixed.append(balanced_accuracy(*scored[report], 0.5))
        cells = ["–", "–"]
        if tune in scored:
            threshold = best_threshold(*scored[tune])
            tuned.append(balanced_accuracy(*scored[report], threshold))
            cells = [f"{threshold:.2f}", f"{100 * tuned[-1]:.1f}"]
        count = len(scored[report][0])
        rows.append(
            f"| {dataset} | {report} | {count} | {100 * fixed[-1]:.1f} | {' | '.join(cells)} |"
        )
    means = [f"{100 * sum(one) / len(one):.1f}" if one else "–" for one in (fixed, tuned)]
    return [*rows, f"| mean of {len(fixed)} | | | {means[0]} | | {means[1]} |"]


def _some(claims: list[Claim], most: int | None, seed: int) -> list[Claim]:
    """At most `most` claims at random, half of each label where there are as many."""
    if most is None or len(claims) <= most:
        return claims
    by_label = [[one for one in claims if one.label == label] for label in (0, 1)]
    few = min(most // 2, *map(len, by_label))
    rng = random.Random(seed)
    picked = [rng.sample(one, few) for one in by_label]
    return [*picked[0], *picked[1]]


def _scores(scorer: ClaimScorer, claims: list[Claim]) -> tuple[list[int], list[float]]:
    scores: list[float] = []
    for at in range(0, len(claims), _AT_ONCE):
        part = claims[at : at + _AT_ONCE]
        found = scorer.score_published([one.doc for one in part], [one.claim for one in part])
        scores += [one.score for one in found]
        print(f"\r{at + len(part)} of {len(claims)}", end="", file=sys.stderr)
    print(file=sys.stderr)
    return [one.label for one in claims], scores


def main(
    place: Annotated[Path, typer.Argument(help="folder of LLM-AggreFact's files, or one file")],
    most: Annotated[
        int | None, typer.Option(min=2, help="most claims of a dataset's split, at random")
    ] = None,
    seed: Annotated[int, typer.Option(help="of --most")] = 0,
) -> None:
    """Prints the table."""
    try:
        data = read(place)
        scorer = load_factuality(load_settings())
        started = time.perf_counter()
        rows = evaluate(scorer, data, most, seed)
    except PlainMedError as error:
        raise typer.BadParameter(error.message) from None
    print("| dataset | split | claims | BAcc at 0.5 | tuned threshold | BAcc at it |")
    print("| --- | --- | ---: | ---: | ---: | ---: |")
    print("\n".join(rows))
    elapsed = time.perf_counter() - started
    print(f"\n{scorer.name}: {scorer.tokens} tokens in {elapsed:.0f} s.")


if __name__ == "__main__":
    typer.run(main)
