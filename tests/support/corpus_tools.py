"""A light scorer and small tables for the tests of whole corpora.

The scorer computes real readability and word overlap in microseconds, so a test can score
thousands of rows and can tell from its log which rows were scored, by whom and how often.
"""

from __future__ import annotations

import csv
import json
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from serve_app.core.errors import MetricFailed
from serve_app.metrics.readability import readability
from serve_app.offline.corpus import ModelNames, RowScores
from serve_app.text.validation import require_pairs


def words(text: str) -> set[str]:
    return set(text.lower().split())


def overlap(one: str, other: str) -> float:
    return len(words(one) & words(other)) / max(1, len(words(one) | words(other)))


@dataclass
class OverlapScorer:
    """Word overlap and readability; a text with `poison` in it breaks its whole batch.

    Each pair scored is a line `pid summary` of the file `log`, where there is one.
    """

    log: str | None = None
    seconds: float = 0.0
    version: float = 0.5

    @property
    def models(self) -> ModelNames:
        names = {"relevance": "overlap", "factuality": "overlap"}
        return ModelNames(names, (self.version,) * 5)

    def __call__(self, originals: Sequence[str], generated: Sequence[str]) -> list[RowScores]:
        require_pairs(originals, generated, "texts_original", "texts_generated")
        results = []
        for one, other in zip(originals, generated, strict=True):
            if "poison" in other:
                raise MetricFailed("relevance is not a number")
            if "broken" in other:
                raise RuntimeError(f"a library quotes the text: {other}")
            time.sleep(self.seconds)
            share, read = overlap(one, other), readability(other)
            values = (share, share / 2, read.fkgl, read.smog, read.dale_chall)
            results.append(RowScores(values, share / 3))
        if self.log is not None:
            lines = "".join(f"{os.getpid()} {text}\n" for text in generated)
            with Path(self.log).open("a", encoding="utf-8") as file:
                file.write(lines)
        return results


@dataclass(frozen=True)
class OverlapRecipe:
    """Makes the scorer in a worker."""

    log: str | None = None
    seconds: float = 0.0

    def __call__(self) -> OverlapScorer:
        return OverlapScorer(self.log, self.seconds)


def make_rows(count: int) -> list[dict[str, Any]]:
    return [
        {
            "id": f"r{number}",
            "original": f"Study {number} compared drug {number % 7} with placebo in adults.",
            "summary": f"People in study {number} took drug {number % 7} or a dummy pill.",
        }
        for number in range(count)
    ]


def write_rows(path: Path, rows: Sequence[dict[str, Any]]) -> Path:
    if path.suffix == ".csv":
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    else:
        import pyarrow as pa
        import pyarrow.parquet as pq

        pq.write_table(pa.Table.from_pylist(list(rows)), path, row_group_size=7)
    return path


def read_rows(path: Path) -> list[dict[str, Any]]:
    if path.suffix == ".csv":
        with path.open(newline="", encoding="utf-8") as file:
            return list(csv.DictReader(file))
    if path.suffix == ".jsonl":
        return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]
    import pyarrow.parquet as pq

    return pq.read_table(path).to_pylist()
