"""What a report says of texts: the worst examples, lengths, truncation."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from serve_app.metrics.loss import METRICS
from serve_app.offline.report.evidence import Reader
from serve_app.offline.report.highlights import Marked, mark
from serve_app.offline.report.statistics import MetricSummary, summaries
from serve_app.offline.report.systems import TRUNCATIONS, Floats, System
from serve_app.text.validation import has_word

SAMPLE = 500
"""Rows tokenised for the truncation of a file that does not say it."""

LENGTHS = ("original", "generated", "ratio")


@dataclass(frozen=True)
class Example:
    """One row with a high loss.

    Attributes:
        row: its number in the file, from 1.
        key: what identifies it in the pairing column, "" without one.
        loss: of the row.
        values: its metrics.
        parts: weight times error of each metric.
        summary: marked; None where the file has no summary of it.
        source: where the factuality of its sentences comes from: `file`, `models`, or `none`.
    """

    row: int
    key: str
    loss: float
    values: dict[str, float]
    parts: dict[str, float]
    summary: Marked | None
    source: str


@dataclass(frozen=True)
class Truncated:
    """How many of the rows looked at were not read to their end.

    Attributes:
        rows: looked at.
        counts: by `TRUNCATIONS`, how many of them.
        source: `file` or `models`.
    """

    rows: int
    counts: dict[str, int]
    source: str


def examples(
    system: System,
    losses: Floats,
    parts: Floats,
    count: int,
    column: str | None,
    reader: Reader | None,
) -> list[Example]:
    """The rows with the highest loss, highest first; among equals the first of the file.

    Args:
        system: whose rows.
        losses: (rows,), NaN without numbers.
        parts: (rows, 5) weight times error.
        count: how many.
        column: whose values name them.
        reader: computes sentence factuality the file does not carry; None: it stays unknown.
    """
    order = np.argsort(-np.where(system.scored, losses, -np.inf), kind="stable")[:count]
    chosen = [int(at) for at in order if system.scored[at]]
    keys = system.keys.get(column, ()) if column is not None else ()
    found = []
    for at, texts in zip(chosen, system.texts(chosen), strict=True):
        sentences, source = texts.sentences, "file"
        if sentences is None:
            source = "none"
            if reader is not None and texts.original is not None and texts.generated is not None:
                sentences = reader.sentences(texts.original, texts.generated)
                source = "none" if sentences is None else "models"
        found.append(
            Example(
                int(system.numbers[at]) + 1,
                keys[at] if keys else "",
                float(losses[at]),
                dict(zip(METRICS, system.values[at].tolist(), strict=True)),
                dict(zip(METRICS, parts[at].tolist(), strict=True)),
                None if texts.generated is None else mark(texts.generated, sentences),
                source,
            )
        )
    return found


def lengths(system: System) -> dict[str, MetricSummary]:
    """Words of originals and summaries and the summary's share; what has no text is left out."""
    original, generated = system.words.T
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = generated / original
    found = {}
    for name, column in zip(LENGTHS, (original, generated, ratio), strict=True):
        known = column[np.isfinite(column)]
        if len(known):
            found[name] = summaries(known[:, None])[0]
    return found


def truncation(system: System, reader: Reader | None, seed: int = 0) -> Truncated | None:
    """What was not read: as the file says it, else of a random sample; None where unknown."""
    said = np.column_stack([system.truncated[name] for name in TRUNCATIONS])
    known = np.isfinite(said).all(axis=1)
    if known.any():
        counts = said[known].sum(axis=0).astype(int).tolist()
        return Truncated(int(known.sum()), dict(zip(TRUNCATIONS, counts, strict=True)), "file")
    if reader is None:
        return None
    places = np.flatnonzero(np.isfinite(system.words).all(axis=1))
    if len(places) > SAMPLE:
        places = np.sort(np.random.default_rng(seed).choice(places, SAMPLE, replace=False))
    pairs = [
        (texts.original, texts.generated)
        for texts in system.texts(places.tolist())
        if texts.original and texts.generated and has_word(texts.original + texts.generated)
    ]
    if not pairs:
        return None
    found = reader.truncations([one for one, _ in pairs], [other for _, other in pairs])
    return Truncated(len(pairs), {name: sum(found[name]) for name in TRUNCATIONS}, "models")
