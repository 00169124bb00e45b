"""Matches the rows of two systems, and counts every row that has no match. Knows keys only."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from serve_app.core.errors import InvalidInput
from serve_app.offline.report.reader import ID_COLUMNS, SAME_ORIGINAL
from serve_app.offline.report.systems import System


@dataclass(frozen=True)
class Pairing:
    """The rows of two systems that are about the same thing.

    Attributes:
        column: what matches them.
        first: positions of the matched rows in the one system, all scored.
        second: positions of their partners in the other.
        unpaired: rows without a partner in the one and in the other system; every row of both
            systems is in a pair, or counted here, or in one of the next two.
        failed: matches in which a row has no numbers.
        repeated: rows of the one and the other whose key stands in its system more than once:
            which of them to match would be a guess.
    """

    column: str
    first: NDArray[np.int64]
    second: NDArray[np.int64]
    unpaired: tuple[int, int]
    failed: int
    repeated: tuple[int, int]

    @property
    def count(self) -> int:
        """Pairs compared."""
        return len(self.first)


def choose_column(systems: Sequence[System], wanted: str | None = None) -> str | None:
    """The column that every system has, known names first; None where there is none.

    Raises:
        InvalidInput: `wanted` is in no row of a system.
    """
    if wanted is not None:
        for system in systems:
            if not any(system.keys.get(wanted, ())):
                raise InvalidInput(
                    f"{system.file}: no row of {system.name} has a value in {wanted}; name "
                    "another column with --id"
                )
        return wanted
    for column in (*ID_COLUMNS, SAME_ORIGINAL, *systems[0].keys):
        if all(any(system.keys.get(column, ())) for system in systems):
            return column
    return None


def pair(one: System, other: System, column: str) -> Pairing:
    """Matches the rows of two systems by what they have in `column`."""
    left, right = _places(one, column), _places(other, column)
    first, second, failed = [], [], 0
    for key in [key for key in left.unique if key in right.unique]:
        a, b = left.unique[key], right.unique[key]
        if one.scored[a] and other.scored[b]:
            first.append(a)
            second.append(b)
        else:
            failed += 1
    matched = len(first) + failed
    return Pairing(
        column,
        np.array(first, dtype=np.int64),
        np.array(second, dtype=np.int64),
        (one.rows - left.repeated - matched, other.rows - right.repeated - matched),
        failed,
        (left.repeated, right.repeated),
    )


@dataclass(frozen=True)
class _Places:
    unique: dict[str, int]
    repeated: int


def _places(system: System, column: str) -> _Places:
    keys = system.keys[column]
    counts = Counter(key for key in keys if key)
    unique = {key: at for at, key in enumerate(keys) if key and counts[key] == 1}
    return _Places(unique, sum(count for count in counts.values() if count > 1))
