"""Findings in a report: how often summaries say otherwise than their originals, and what they leave
out.

The counts are those of the scored file, else of the rules on its texts. Knows counts and texts;
knows no file format and no HTML.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TypeVar, get_args

import numpy as np
from numpy.typing import NDArray

from serve_app.core.errors import InvalidInput
from serve_app.core.schemas import TermName
from serve_app.evidence import Check, check
from serve_app.evidence.omissions import Topic
from serve_app.evidence.reader import reader_errors
from serve_app.offline.corpus.scoring import FINDINGS, count_findings
from serve_app.offline.report.statistics import (
    Difference,
    Floats,
    MetricSummary,
    Wins,
    differences,
    summaries,
    wins,
)
from serve_app.offline.report.systems import Pairing, System

Item = TypeVar("Item")

MISLEADING = "misleading"
"""1 where a summary has a severe finding, else 0."""
TOPICS = tuple(f"omissions_{topic}" for topic in get_args(Topic))
COUNTED = (MISLEADING, *FINDINGS, *TOPICS)
"""What is compared, in the order shown; `TOPICS` only where the rules read the texts."""

MOST_WORDS = 1_000_000
"""Words of a system's texts, originals and summaries, that the rules read for a report; of more,
none. Some 25 s."""


def checked(original: str | None, generated: str | None) -> Check | None:
    """Findings of a pair; None where a text is not there, or has no word."""
    if original is None or generated is None:
        return None
    try:
        return check(original, generated)
    except InvalidInput:
        return None


def with_findings(system: System) -> System:
    """The system with the counts of the rules, where its file has none and is not too large."""
    places = _readable(system)
    if system.found or not places or too_large(system):
        return system
    names = (*FINDINGS, *TOPICS)
    table = np.full((system.rows, len(names)), math.nan)
    for place, texts in zip(places, system.texts(places), strict=True):
        found = checked(texts.original, texts.generated)
        if found is not None:
            topics = [f"omissions_{one.topic}" for one in found.omissions]
            table[place] = [*count_findings(found), *map(topics.count, TOPICS)]
    return replace(system, found=known_columns(names, table), found_by_rules=True)


def term_errors(system: System, names: Sequence[TermName]) -> Floats:
    """(rows, names) errors of a profile's terms; NaN in rows without numbers.

    Raises:
        InvalidInput: a row has no texts to read, or they are too long together.
    """
    places = _readable(system)
    if len(places) < system.scored.sum() or system.words[places].sum() > MOST_WORDS:
        raise InvalidInput(
            f"a profile reads the original and the summary of each row, and {system.name} lacks "
            f"some or has more than {MOST_WORDS:,} words: leave out --profile"
        )
    found = np.full((system.rows, len(names)), math.nan)
    for place, texts in zip(places, system.texts(places), strict=True):
        text = texts.generated or ""
        errors = reader_errors(text, check(texts.original or "", text).findings)
        found[place] = [errors[name] for name in names]
    return found


def too_large(system: System) -> bool:
    """Whether the texts could be looked at for findings, but are too long together."""
    return not system.found and bool(system.words[_readable(system)].sum() > MOST_WORDS)


def _readable(system: System) -> list[int]:
    found: list[int] = np.flatnonzero(
        system.scored & np.isfinite(system.words).all(axis=1)
    ).tolist()
    return found


def known_columns(names: Sequence[str], table: Floats) -> dict[str, Floats]:
    """By name, the columns of a (rows, names) table of counts in which anything is known, and
    `MISLEADING`; nothing where severe ones are not known."""
    known = {name: table[:, at] for at, name in enumerate(names)}
    severe = known["findings_severe"]
    if not np.isfinite(severe).any():
        return {}
    known[MISLEADING] = np.where(np.isnan(severe), math.nan, severe > 0)
    return {name: column for name, column in known.items() if np.isfinite(column).any()}


def found_summaries(system: System, resamples: int) -> dict[str, MetricSummary]:
    """By `COUNTED`, what the scored rows of a system have of it; empty where nothing is known."""
    names = [name for name in COUNTED if name in system.found]
    table = _table(system, names)
    table = table[_known(table) & system.scored]
    return _by(names, summaries(table, resamples=resamples)) if len(table) and names else {}


def found_differences(
    one: System, other: System, pairing: Pairing, resamples: int
) -> tuple[dict[str, Difference], dict[str, Wins]]:
    """By `COUNTED`, the one's counts less the other's over the pairs, and in how many pairs the one
    has fewer; empty where nothing is known of both."""
    names = [name for name in COUNTED if name in one.found and name in other.found]
    first, second = _table(one, names)[pairing.first], _table(other, names)[pairing.second]
    both = _known(first) & _known(second)
    if not names or not both.any():
        return {}, {}
    first, second = first[both], second[both]
    found = differences(first, second, resamples=resamples)
    return _by(names, found), _by(names, wins(first, second))


def _by(names: Sequence[str], values: Iterable[Item]) -> dict[str, Item]:
    return dict(zip(names, values, strict=True))


def _table(system: System, names: Sequence[str]) -> Floats:
    return np.column_stack([np.empty((system.rows, 0)), *(system.found[name] for name in names)])


def _known(table: Floats) -> NDArray[np.bool_]:
    return np.asarray(np.isfinite(table).all(axis=1))
