"""Scored files for the tests of reports, as `plainmed score` and others write them."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from serve_app.core.resources import RESOURCES
from serve_app.metrics.loss import METRICS, LossFunction, Targets
from tests.support.texts import GENERATED, ORIGINALS

TARGETS = RESOURCES / "targets-earlier-system.json"
LOSS = LossFunction(Targets.load(TARGETS))

Rows = list[dict[str, Any]]


def scored(count: int, seed: int = 0, shift: float = 0.0, texts: bool = True) -> Rows:
    """Rows around the targets, `shift` standard deviations above them."""
    targets = LOSS.targets
    rng = np.random.default_rng(seed)
    centre = np.array(targets.mean) + shift * np.array(targets.sigma)
    values = rng.normal(centre, targets.sigma, (count, len(METRICS)))
    losses = LOSS(values)
    rows: Rows = []
    for at in range(count):
        row: dict[str, Any] = {"doc_id": f"d{at}"}
        if texts:
            row |= {
                "original": ORIGINALS[at % len(ORIGINALS)],
                "generated": GENERATED[at % len(GENERATED)],
            }
        row |= dict(zip(METRICS, values[at].tolist(), strict=True))
        rows.append(row | {"loss": float(losses[at]), "error": None, "error_code": None})
    return rows


def failed(doc_id: str) -> dict[str, Any]:
    """A row that could not be scored."""
    nothing = dict.fromkeys((*METRICS, "loss"))
    return {"doc_id": doc_id, "error": "the text is empty", "error_code": "empty_text", **nothing}


def write(path: Path, rows: Sequence[dict[str, Any]]) -> Path:
    """The rows in the format the file's name says."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    if path.suffix == ".csv":
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, columns)
            writer.writeheader()
            writer.writerows(rows)
    elif path.suffix == ".jsonl":
        path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    else:
        import pyarrow as pa
        import pyarrow.parquet as pq

        pq.write_table(pa.Table.from_pylist([*rows]), path)
    return path
